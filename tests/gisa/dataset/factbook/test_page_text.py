import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.gisa.dataset.factbook.page_text import decode, read_html

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
