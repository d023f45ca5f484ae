import re

from src.gisa.dataset.factbook.corpus import read_html
from src.gisa.dataset.factbook.pages import Page, factbook_web, page_listing, page_with, render
from src.gisa.dataset.factbook.records import FIRST, Entity


def test_every_link_leads_to_a_page():
    corpus = factbook_web(FIRST)
    links = {link for document in corpus._documents.values() for link in re.findall(r'href="([^"]+)"', document.html)}
    assert len(links) > 1500
    assert [link for link in links if corpus.read(link) is None and corpus.read(link + "/") is None] == []


def test_older_editions_and_idle_pages_are_part_of_the_web():
    corpus = factbook_web(FIRST)
    economy = corpus.read(Page("country", "Peru", "Economy").address).text
    older = corpus.read(Page("country", "Peru in the 2022 edition", "Economy").address).text
    assert "(2023 est.)" in economy
    assert "(2022 est.)" in older
    assert "edition of 2022" in older
    assert "More next time!" in corpus.read(Page("country", "Notes on Peru").address).text


def test_a_page_shows_its_facts_in_one_of_four_layouts():
    shown = {"capital": "A & B", "government": "republic"}
    entities = [Entity(f"Land {number}", "country", "Africa", shown, "<Old> land.") for number in range(30)]
    pages = [
        page for page in render(entities, [], date="2024-07-01", older_year=2022) if page.url.endswith("/government")
    ]
    shapes = {re.sub(r"Land \d+", "Land", read_html(page.html, page.url).text) for page in pages}
    assert shapes == {
        "# Land: Government\nCapital | A & B\nGovernment type | republic",
        "# Land: Government\nCapital\nA & B\nGovernment type\nrepublic",
        "# Land: Government\n- Capital: A & B\n- Government type: republic",
        "# Land: Government\nFor Land, the Capital is given as A & B."
        "\nFor Land, the Government type is given as republic.",
    }


def test_a_page_is_searched_for_with_what_it_is_of_at_the_end():
    page = page_with("Côte d'Ivoire", "capital")
    assert (page.title, page.query) == ("Côte d'Ivoire: Government", "Government of Côte d'Ivoire")
    assert page.address == "https://atlas.example/c%C3%B4te-d%27ivoire/government"
    listing = page_listing("element", "period 4")
    assert listing.title == listing.query == "Chemical elements of period 4"
    assert listing.address == "https://elements.example/chemical-elements-of-period-4"
