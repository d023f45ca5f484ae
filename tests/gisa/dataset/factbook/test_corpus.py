import json
import os

import pytest

from src.gisa.dataset.factbook.corpus import Corpus, Document
from src.launch.errors import InputError

PERU = Document(
    "https://atlas.example/peru",
    "<title>Peru</title><h1>Peru</h1><p>Capital: Lima<p>Highest point: Huascaran",
    "2026-01-31",
)
MALI = Document("https://atlas.example/mali", "<title>Mali</title><p>Capital: Bamako")
INDEX = Document("https://atlas.example/", '<title>Atlas</title><a href="peru">Peru</a> <a href="mali">Mali</a>')


@pytest.fixture(scope="module")
def corpus():
    return Corpus([PERU, MALI, INDEX])


def test_the_page_that_is_about_the_words_comes_first_with_the_line_that_holds_them(corpus):
    first, *_ = corpus.search("highest point of Peru?", 10)
    assert (first.title, first.url, first.date) == ("Peru", PERU.url, "2026-01-31")
    assert first.snippet == "Highest point: Huascaran"


def test_a_snippet_neither_repeats_the_title_nor_shows_a_line_without_any_of_the_words(corpus):
    assert [hit.snippet for hit in corpus.search("peru", 2)] == [
        "",
        "[Peru](https://atlas.example/peru) [Mali](https://atlas.example/mali)",
    ]


def test_pages_without_any_of_the_words_are_left_out(corpus):
    assert [hit.url for hit in corpus.search("bamako", 10)] == [MALI.url]
    assert corpus.search("zzz", 10) == []


@pytest.mark.parametrize("query", ["", "   ", "the of", "?!", "\ud800", "\0"])
def test_a_query_without_words_finds_nothing(corpus, query):
    assert corpus.search(query, 10) == []


def test_no_more_results_come_back_than_asked_for(corpus):
    assert len(corpus.search("capital peru mali", 2)) == 2


@pytest.mark.parametrize("html", ["", "a"])
def test_pages_without_words_are_never_found(html):
    assert Corpus([Document("https://a.example/", html)]).search("a word", 10) == []


def test_pages_that_are_equally_good_come_in_the_order_of_the_collection():
    pages = [Document(f"https://a.example/{number}", "<p>the same words") for number in range(50)]
    assert [hit.url for hit in Corpus(pages).search("same words", 20)] == [page.url for page in pages[:20]]


def test_a_page_is_read_by_its_address_with_or_without_a_fragment(corpus):
    assert corpus.read(MALI.url).text == "Capital: Bamako"
    assert corpus.read(MALI.url + "#capital") == corpus.read(MALI.url)
    assert "[Peru](https://atlas.example/peru)" in corpus.read(INDEX.url).text
    assert corpus.read("https://atlas.example/chad") is None


def test_a_file_of_one_json_object_a_line_is_read(tmp_path):
    path = tmp_path / "pages.jsonl"
    path.write_text(json.dumps({"url": "https://a.example/", "html": "<p>Zoë"}) + "\n")
    corpus = Corpus.from_jsonl(str(path))
    assert len(corpus) == 1
    assert corpus.read("https://a.example/").text == "Zoë"


@pytest.mark.parametrize("line", ["[]", "{", '{"url": "x"}', '{"url": "x", "html": "y", "more": 1}'])
def test_a_file_of_something_else_is_named_with_its_line(tmp_path, line):
    path = tmp_path / "pages.jsonl"
    path.write_text('{"url": "https://a.example/", "html": ""}\n' + line)
    with pytest.raises(InputError, match=r"pages.jsonl is not a corpus I can read: .*\nI need one JSON object a line"):
        Corpus.from_jsonl(str(path))


def test_no_file_and_an_empty_one_are_named(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        Corpus.from_jsonl(str(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match="holds no page"):
        Corpus([])


def test_jax_is_kept_off_the_gpu_unless_somebody_says_otherwise(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.delenv("JAX_PLATFORMS")
    assert Corpus([PERU, MALI]).search("Peru", 1)
    assert os.environ["JAX_PLATFORMS"] == "cpu"
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert Corpus([PERU, MALI]).search("Peru", 1)
    assert os.environ["JAX_PLATFORMS"] == "cuda"
