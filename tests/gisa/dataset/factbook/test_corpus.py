import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.gisa.dataset.factbook.corpus import Corpus, Document, decode, read_html
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


URL = "https://example.org/africa/index.html"


@pytest.mark.parametrize(
    ("body", "declared", "text"),
    [
        ("Zoë".encode(), None, "Zoë"),
        ("Zoë".encode("cp1252"), None, "Zoë"),
        (
            b"\x93Zo\xeb\x94",
            "iso-8859-1",
            "“Zoë”",
        ),  # Latin-1 has no quotes there; Windows-1252, as browsers read it, has
        (b"\xef\xbb\xbfZo\xc3\xab", "koi8-r", "Zoë"),  # the byte-order mark beats the header
        ("Zoë".encode("utf-16"), None, "Zoë"),
        ("Привет".encode("koi8-r"), "KOI8-R", "Привет"),
        (b'<meta charset="shift_jis">' + "東京".encode("shift_jis"), None, '<meta charset="shift_jis">東京'),
        (b"<meta http-equiv=x content='text/html; charset=gbk'>\xb1\xb1", None, None),
        (b"<?xml version='1.0' encoding='windows-1251'?>\xcf", None, "<?xml version='1.0' encoding='windows-1251'?>П"),
        (b"Zo\xc3\xab", "no-such-charset", "Zoë"),
        (b"Zo\xc3\xab \xff", "utf-8", "Zoë \ufffd"),
    ],
)
def test_bytes_become_text_by_mark_header_declaration_and_guess(body, declared, text):
    assert decode(body, declared) == (text or body[:-2].decode() + "北")


@pytest.mark.parametrize(
    "codec", ["rot13", "zlib", "hex", "punycode", "idna", "unicode_escape", "utf-7", "\ud800", "a\0"]
)
def test_codecs_that_no_page_uses_are_ignored(codec):
    assert decode(b"a-b+AD4-", codec) == "a-b+AD4-"


def test_tables_lists_headings_and_links_keep_their_shape():
    page = read_html(
        """<html><head><title>Index of
        Africa</title><style>p {}</style></head><body><nav><a href="/">Home</a></nav>
        <h1>Africa</h1><p>Two <b>bold</b>
        words<br>and<!-- comment --> more</p><p style="display: none">poison</p><p hidden>poison</p>
        <table><tr><th>Name</th><th>Area</th></tr>
        <tr><td><a href="../mali.html#top">Mali</a></td><td>1,240,192</td></tr></table>
        <ul><li>first</li><li></li><li>second</li></ul><script>poison()</script><footer>about</footer></body></html>""",
        URL,
    )
    assert page.title == "Index of Africa"
    assert page.text.split("\n") == [
        "# Africa",
        "Two bold words",
        "and more",
        "Name | Area",
        "[Mali](https://example.org/mali.html) | 1,240,192",
        "- first",
        "- second",
    ]


@pytest.mark.parametrize("link", ["#top", "javascript:alert(1)", "mailto:a@b.c", "http://[::1", "", "index.html"])
def test_links_that_lead_to_no_other_page_are_plain_text(link):
    assert read_html(f'<p>See <a href="{link}">this</a>.', URL).text == "See this."


@pytest.mark.parametrize("html", ["", "   ", "<!-- only -->", "<html>", "<title></title>", "\0", "<"])
def test_empty_pages_have_no_text(html):
    assert read_html(html, URL).text in ("", "<")


def test_reading_stops_where_told():
    assert 100 <= len(read_html("<p>word</p>" * 1000, URL, max_chars=100).text) < 140


@settings(max_examples=60, deadline=None)
@given(
    st.text(alphabet=st.characters(codec=None), max_size=80) | st.text(alphabet="<>/apbtrd='\"! -&;x#1", max_size=80)
)
def test_no_input_makes_it_raise(html):
    assert isinstance(read_html(html, URL).text, str)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.none() | st.text(max_size=12))
def test_no_bytes_make_decoding_raise(body, declared):
    assert isinstance(decode(body, declared), str)
