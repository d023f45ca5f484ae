import sys

import pytest
import webencodings
from hypothesis import given, settings
from hypothesis import strategies as st

from src.gisa.dataset.factbook.page_body import (
    check_extractor,
    decode,
    is_html,
    is_pdf,
    read_body,
    refresh_address,
    refresh_target,
)
from src.launch.errors import InputError
from tests.gisa.dataset.factbook.pdf_file import pdf

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
        ("Zoë Zoë ".encode() + b"\xff", None, "Zoë Zoë \ufffd"),  # one stray byte
        ("Zoë 東".encode()[:-1], None, "Zoë \ufffd"),  # cut within a character
        ("Zoë, Noël: à".encode("cp1252") + "ë".encode(), None, "Zoë, Noël: àÃ«"),  # read by chance
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


@settings(max_examples=60)
@given(st.binary(max_size=60), st.none() | st.text(max_size=12))
def test_no_bytes_make_decoding_raise(body, declared):
    assert isinstance(decode(body, declared), str)


@pytest.mark.parametrize(
    ("label", "body", "text"),
    [
        ("x-sjis", "東京①".encode("cp932"), "東京①"),
        ("Shift_JIS", "東京①".encode("cp932"), "東京①"),
        ("x-euc-jp", "東京".encode("euc_jp"), "東京"),
        ("ks_c_5601-1987", "똠방각하".encode("cp949"), "똠방각하"),
        ("gb2312", "镕".encode("gbk"), "镕"),
        ("gb2312", "㐀𠀀".encode("gb18030"), "㐀𠀀"),
        ("x-gbk", "北京".encode("gbk"), "北京"),
        ("big5", "台北".encode("big5"), "台北"),
        ("x-cp1251", "Мали".encode("cp1251"), "Мали"),
        ("dos-874", "ไทย".encode("cp874"), "ไทย"),
        ("latin5", "ışık".encode("cp1254"), "ışık"),
        ("x-mac-roman", "é".encode("mac-roman"), "é"),
        ("logical", "שלום".encode("iso8859-8"), "שלום"),
        (" UTF8\n", "Zoë".encode(), "Zoë"),
        ("unicode-1-1-utf-8", "Zoë".encode(), "Zoë"),
        ("ascii", b"\x93a\x94", "“a”"),
        ("x-user-defined", b"\x93a\x94", "“a”"),
    ],
)
def test_labels_are_those_of_the_encoding_standard(label, body, text):
    assert decode(body, label) == text
    assert decode(f'<meta charset="{label.strip()}">'.encode() + body).endswith(text)


@pytest.mark.parametrize(
    ("head", "is_cyrillic"),
    [
        ("<meta charset=windows-1251>", True),
        ("<META name=x CHARSET = 'windows-1251'/>", True),
        ('<meta content="text/html; charset=windows-1251" http-equiv="Content-Type">', True),
        ("<!-- <meta charset=utf-8> --><meta charset=windows-1251>", True),
        ("<script>'<meta charset=utf-8>'</script><meta charset=windows-1251>", True),
        ("<meta charset=nonsense><meta charset=windows-1251>", True),
        ('<meta name="description" content="charset=windows-1251">', False),
        ("<!-- <meta charset=windows-1251> -->", False),
        ("<metal charset=windows-1251>", False),
    ],
)
def test_the_charset_of_a_page_is_looked_for_in_its_meta_elements_only(head, is_cyrillic):
    text = decode(head.encode() + "Мали".encode("cp1251"))
    assert text.endswith("Мали" if is_cyrillic else "Ìàëè")


def test_a_page_in_ascii_that_declares_utf_16_is_in_utf_8():
    assert decode("<meta charset=utf-16>Zoë".encode()).endswith("Zoë")


@pytest.mark.parametrize(
    ("content", "address"),
    [
        ("0; url=/there", "/there"),
        ("0;URL='/there'", "/there"),
        ('5 ; url = "/there" rest', "/there"),
        ("0,/there", "/there"),
        ("0 /there", "/there"),
        (".5; url=/there", "/there"),
        ("; url=/there", None),
        ("30;url=there?a=1;b=2", "there?a=1;b=2"),
        ("31; url=/there", None),
        ("300", None),
        ("0;", None),
        ("0; url=", None),
        ("", None),
        ("now", None),
    ],
)
def test_a_refresh_is_read_as_browsers_do(content, address):
    assert refresh_address(content) == address


@pytest.mark.parametrize(
    ("html", "address"),
    [
        ('<meta http-equiv="refresh" content="0; url=/a">', "/a"),
        ("<META CONTENT='0; url=/a?b=1&amp;c=2' HTTP-EQUIV=Refresh>", "/a?b=1&c=2"),
        ("<noscript><meta http-equiv=refresh content=0;url=/a></noscript>", "/a"),
        ("<!-- <meta http-equiv=refresh content=0;url=/a> -->", None),
        ("<script>'<meta http-equiv=refresh content=0;url=/a>'</script>", None),
        ("<meta name=refresh content='0; url=/a'>", None),
        ("<meta " * 50_000, None),
        ("<meta a='" * 10_000, None),
        ("<!-- " * 10_000, None),
    ],
)
def test_where_a_page_leads_on_to_is_found(html, address):
    assert refresh_target(html.encode(), None) == address


def test_a_pdf_is_read_whatever_the_server_calls_it():
    page = read_body(pdf(["Huascaran   6,768 m", "Yerupaja"], ["Coropuna"]), "application/pdf", None, URL, "built_in")
    assert (page.title, page.text) == ("Peaks", "Huascaran 6,768 m\nYerupaja\nCoropuna")
    assert read_body(pdf(["a"]), "text/html", None, URL, "built_in").text == "a"
    assert is_pdf(b"\n" + pdf(["a"]))
    assert not is_pdf(b"<p>%PD")


@pytest.mark.parametrize("body", [b"%PDF-1.4\nnonsense", pdf(["a"])[:60]])
def test_a_damaged_pdf_is_refused(body):
    with pytest.raises(ValueError, match="no PDF that can be read"):
        read_body(body, "application/pdf", None, URL, "built_in")


@settings(max_examples=30)
@given(st.sampled_from(sorted(webencodings.LABELS)), st.binary(max_size=20))
def test_every_label_of_the_standard_decodes_any_bytes(label, body):
    assert isinstance(decode(body, label), str)


def test_a_damaged_page_of_a_pdf_costs_no_other_page():
    damaged = pdf(["first"], ["second"], ["third"]).replace(b"/Type /Page ", b"/Type /Pagx ", 1)
    text = read_body(damaged, "application/pdf", None, URL, "built_in").text
    assert text.removeprefix("first\n") == "second\nthird"  # older versions of PDFium read such a page


def test_plain_text_stays_as_it_is():
    assert read_body(b"<p>a\n b", "text/plain", None, URL, "built_in").text == "<p>a\n b"
    assert is_html("")
    assert is_html("application/xhtml+xml")
    assert not is_html("application/json")


@pytest.mark.parametrize("extractor", ["built_in", "trafilatura", "resiliparse"])
def test_every_extractor_keeps_the_text_and_the_table_of_a_page(extractor):
    pytest.importorskip(extractor) if extractor != "built_in" else None
    sentence = "Peru is a country in the west of South America, and its highest mountain is Huascaran. "
    html = f"<title>Peru</title><body><nav>Home</nav><main><h1>Peru</h1><p>{sentence * 5}</p><table><tr><th>Name"
    html += "<th>Height<tr><td>Yerupaja<td>6,635 m</table></main></body>"
    page = read_body(html.encode(), "text/html", "utf-8", URL, extractor)
    assert page.title == "Peru"
    assert all(word in page.text for word in ("Huascaran", "Yerupaja", "6,635 m"))
    assert "Home" not in page.text


def test_an_extractor_that_is_not_installed_is_named_with_what_to_type(monkeypatch):
    check_extractor("built_in")
    for missing in ("trafilatura", "lxml_html_clean"):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, missing=missing: None if name == missing else name)
        check_extractor("resiliparse")
        with pytest.raises(InputError, match=r"pip install trafilatura lxml_html_clean\n  agent.pages"):
            check_extractor("trafilatura")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"need lxml, webencodings, pypdfium2, not installed.*\n  pip install"):
        check_extractor("built_in")


def test_parsing_needs_neither_torch_nor_the_network():
    assert not {"torch", "aiohttp"} & {
        name.split(".")[0] for name in vars(sys.modules["src.gisa.dataset.factbook.page_body"])
    }
