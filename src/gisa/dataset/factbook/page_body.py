"""From the bytes of a page to what it says: characters, where it leads on to, HTML, PDF and plain text."""

from __future__ import annotations

import codecs
import importlib.util
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from html import unescape
from itertools import islice
from typing import TYPE_CHECKING, Literal

from src.gisa.dataset.factbook.page_text import ReadablePage, read_html
from src.launch.errors import InputError

if TYPE_CHECKING:
    import pypdfium2

Extractor = Literal["built_in", "trafilatura", "resiliparse"]
_PACKAGES = ("lxml", "webencodings", "pypdfium2")
# trafilatura's justext asks for lxml[html_clean]; pip before 23.3 knows no such extra, spelled html-clean.
_EXTRACTORS = {"trafilatura": ("trafilatura", "lxml_html_clean"), "resiliparse": ("resiliparse",)}
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_DECLARATION = re.compile(rb"""\s*<\?xml[^>]{0,200}?\sencoding\s*=\s*["']([\w.:-]+)""")
_NOT_MARKUP = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style|textarea|title|xmp)\b.*?(?:</\1|\Z)", re.DOTALL | re.I)
_ATTRIBUTE = re.compile(r"""([^\s"'>/=]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>][^\s>]*)))?""")
_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_REFRESH = re.compile(r"\s*(?=[\d.])(\d*)[\d.]*(?:\s*[;,]\s*|\s+)(?:url\s*=\s*)?", re.IGNORECASE)
_SNIFFED_BYTES = 4096  # of a page, for the charset that it declares; the HTML standard reads 1,024
_HEAD_BYTES = 65_536  # of a page, for where it leads on to
_MOST_METAS = 100
_LONGEST_REFRESH_S = 30  # a page that leads on later is meant to be read
_PDF_MARK = b"%PDF-"


def decode(body: bytes, declared: str | None = None) -> str:
    """Decode a page: by byte-order mark, declared charset, the page's own declaration, UTF-8, else Windows-1252.

    Without a declaration it is UTF-8 unless that reads fewer characters beyond ASCII than it fails at: a stray byte, or
    a character that is cut, spoils none but itself.

    Source: the encoding sniffing of the HTML standard, and the labels of the Encoding standard, of which no other is
    known: Python's codecs hold some that are slow on purpose-made input.

    Args:
        body: The decompressed body.
        declared: Charset of the Content-Type header, if any.

    Returns:
        The text, with replacement characters where bytes fit no character.
    """
    for mark, name in _MARKS.items():
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace")
    for codec in (_codec(declared), _declared_codec(body[:_SNIFFED_BYTES])):
        if codec:
            return body.decode(codec, "replace")
    text = body.decode("utf-8", "replace")
    strays = text.count("\ufffd")
    read = len(text) - len(text.encode("ascii", "ignore")) - strays
    return text if read >= strays else body.decode("cp1252", "replace")


def _codec(label: str | None) -> str | None:
    """Return Python's codec for a label of the Encoding standard."""
    import webencodings

    encoding = webencodings.lookup(label) if label and label.isascii() else None
    if encoding is None or encoding.name == "replacement":
        return None
    # The standard decodes GBK by the larger set, too; and there are no private characters without a script.
    codec: str = {"gbk": "gb18030", "x-user-defined": "cp1252"}.get(encoding.name, encoding.codec_info.name)
    return codec


def _declared_codec(head: bytes) -> str | None:
    """Return the codec that a page declares in its first bytes."""
    labels: list[str] = []
    if declaration := _DECLARATION.match(head):
        labels.append(declaration[1].decode("ascii", "replace"))
    for meta in _metas(head.decode("latin-1")):
        inner = _CHARSET.search(meta.get("content", ""))
        if "charset" in meta:
            labels.append(meta["charset"])
        elif inner and "http-equiv" in meta:
            labels.append(inner[1])
    codec = next(filter(None, map(_codec, labels)), None)
    return "utf-8" if codec in ("utf-16-le", "utf-16-be") else codec  # what declares it in ASCII is not in UTF-16


def _metas(head: str) -> Iterator[dict[str, str]]:
    """Yield the attributes of the ``meta`` elements at the beginning of a page, ``noscript`` included."""
    markup = _NOT_MARKUP.sub(" ", head)
    for tag in islice(re.split(r"<meta(?=[\s/])", markup, flags=re.IGNORECASE), 1, _MOST_METAS):
        end = re.match(r"""(?:[^>"']|"[^"]*"|'[^']*')*""", tag[:8192])
        found = _ATTRIBUTE.findall(end[0] if end else "")
        yield {name.lower(): unescape(double or single or bare) for name, double, single, bare in reversed(found)}


def refresh_target(body: bytes, charset: str | None) -> str | None:
    """Return the address that a page leads on to by itself within 30 seconds, as it is written there; None for none.

    Source: the declarative refresh of the HTML standard. Scripts do not run here, so what is in ``noscript`` counts.
    """
    for meta in _metas(decode(body[:_HEAD_BYTES], charset)):
        if meta.get("http-equiv", "").lower() == "refresh":
            return refresh_address(meta.get("content", ""))
    return None


def refresh_address(content: str) -> str | None:
    """Read what a refresh says, as in ``0; url=/there``."""
    refresh = _REFRESH.match(content)
    if refresh is None or int(refresh[1][:9] or 0) > _LONGEST_REFRESH_S:
        return None
    address = content[refresh.end() :]
    if address[:1] in ("'", '"'):
        address = address[1:].partition(address[0])[0]
    return address.strip() or None


def is_html(content_type: str) -> bool:
    """Tell whether a page of a media type is to be read as HTML; one without is."""
    return "html" in content_type or not content_type


def is_pdf(body: bytes) -> bool:
    """Tell whether a body is a PDF, whatever the server calls it."""
    return _PDF_MARK in body[:1024]


def check_extractor(name: Extractor) -> None:
    """Look for the packages that read pages.

    Raises:
        InputError: one is not installed.
    """
    if missing := [package for package in _PACKAGES if importlib.util.find_spec(package) is None]:
        raise InputError(
            f'Pages of the web need {", ".join(missing)}, not installed here. Type:\n  pip install -e ".[agent]"'
        )
    needed = _EXTRACTORS.get(name, ())
    if not all(map(importlib.util.find_spec, needed)):
        raise InputError(
            f"agent.pages.text_by={name} needs a package that is not installed. Install it, or read pages without it:\n"
            f"  pip install {' '.join(needed)}\n  agent.pages.text_by=built_in"
        )


def read_body(body: bytes, content_type: str, charset: str | None, url: str, text_by: Extractor) -> ReadablePage:
    """Return what a page says.

    Args:
        body: The decompressed body.
        content_type: Its media type, empty if none was named.
        charset: Of the Content-Type header, if any.
        url: Its address.
        text_by: What reads HTML. ``built_in`` keeps the whole page, see ``read_html``; the others, Markdown and plain
            text, what they take for its main content.

    Raises:
        ValueError: a PDF that cannot be read.
    """
    if is_pdf(body):
        return _read_pdf(body)
    text = decode(body, charset)
    if not is_html(content_type):
        return ReadablePage("", text)
    if text_by == "built_in":
        return read_html(text, url)
    if text_by == "trafilatura":
        import trafilatura

        main = trafilatura.extract(text, url=url, include_links=True, output_format="markdown", favor_recall=True)
    else:
        from resiliparse.extract.html2text import extract_plain_text

        main = extract_plain_text(text, main_content=True, links=True)
    return ReadablePage(read_html(text, url, max_chars=1_000).title, main or "")


def _read_pdf(body: bytes) -> ReadablePage:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(body)
    except pypdfium2.PdfiumError as error:
        raise ValueError(f"no PDF that can be read: {error}") from error
    pages = map(partial(_text_of_page, document), range(len(document)))
    lines = (" ".join(line.split()) for page in pages for line in page.replace("\ufffe\r\n", "").splitlines())
    title = " ".join(document.get_metadata_dict().get("Title", "").split())
    return ReadablePage(title, "\n".join(filter(None, lines)))


def _text_of_page(document: pypdfium2.PdfDocument, number: int) -> str:
    """Return the text of a page; none of one that is damaged, which costs no other page."""
    import pypdfium2

    with suppress(pypdfium2.PdfiumError):
        text: str = document[number].get_textpage().get_text_bounded()
        return text
    return ""
