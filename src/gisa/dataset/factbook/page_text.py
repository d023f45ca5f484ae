"""From the bytes of a page to the text that a model reads: headings, lists, tables and links as in Markdown."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from urllib.parse import urldefrag, urljoin

_CODECS = re.compile(
    r"ascii|utf-(8|16|16-le|16-be|8-sig)|iso8859-\d+|iso2022_jp|cp\d+|koi8-[rut]|gb2312|gbk|gb18030|big5(hkscs)?"
    r"|euc_(jp|kr)|shift_jis|mac-(roman|cyrillic)|tis-620"
)
_META_CHARSET = re.compile(rb"""<(?:meta[^>]*charset|\?xml[^>]*encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}

_SKIPPED = frozenset(
    ("head", "script", "style", "noscript", "template", "svg", "math", "canvas", "iframe", "object", "video", "audio")
    + ("nav", "footer", "aside", "button", "select", "textarea", "dialog")
)
_BLOCKS = frozenset(
    (
        "address",
        "article",
        "blockquote",
        "body",
        "br",
        "caption",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "fieldset",
        "form",
    )
    + ("figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "ol", "p", "pre")
    + ("section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul")
)
_PREFIXES = {**{f"h{level}": "#" * level + " " for level in range(1, 7)}, "li": "- "}
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)


@dataclass(frozen=True)
class ReadablePage:
    """What a page says.

    Attributes:
        title: Its title, on one line; empty if it has none.
        text: Its visible text.
    """

    title: str
    text: str


def decode(body: bytes, declared: str | None = None) -> str:
    """Decode a page: by byte-order mark, declared charset, the page's own declaration, UTF-8, else Windows-1252.

    Source: the order of the HTML standard's encoding sniffing; Latin-1 is read as Windows-1252, as browsers do.

    Args:
        body: The decompressed body.
        declared: Charset of the Content-Type header, if any.

    Returns:
        The text, with replacement characters where bytes fit no character.
    """
    for mark, name in _MARKS.items():
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace")
    found = _META_CHARSET.search(body[:1024])
    for candidate in (declared, found and found[1].decode("ascii", "replace")):
        if codec := _codec(candidate):
            return body.decode(codec, "replace")
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.decode("cp1252", "replace")


def _codec(charset: str | None) -> str | None:
    """Return the codec of a charset that pages use; Python knows others, some of them slow on purpose-made input."""
    try:
        name = codecs.lookup(charset or "").name
    except (LookupError, ValueError):
        return None
    if name in ("iso8859-1", "ascii"):
        return "cp1252"
    return name if _CODECS.fullmatch(name) else None


def read_html(html: str, url: str, *, max_chars: int = 1_000_000) -> ReadablePage:
    """Turn HTML into text, without what is hidden or only leads around the site.

    Tables become one line a row with `` | `` between the cells; links ``[text](absolute address)``.

    Args:
        html: The page, of any quality.
        url: Its address, which its relative links start from.
        max_chars: Where to stop reading, roughly; bounds the time that a hostile page takes.
    """
    from lxml import etree  # 60 ms that --help must not wait for

    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    root = etree.fromstring(html.replace("\0", "").encode("utf-8", "replace"), parser)
    if root is None:
        return ReadablePage("", "")
    pieces: list[str] = []
    links: list[int] = []  # where in `pieces` the open links begin
    read = 0
    walker = etree.iterwalk(root, events=("start", "end"))
    for event, node in walker:
        tag, text = node.tag, node.tail
        if event == "start":
            if tag in _BLOCKS:
                pieces.append("\n" + _PREFIXES.get(tag, ""))
            if tag in _SKIPPED or node.get("hidden") is not None or _HIDDEN.search(node.get("style") or ""):
                walker.skip_subtree()
                continue
            if tag == "a":
                links.append(len(pieces))
            text = node.text
        elif tag == "a" and links:
            _close_link(pieces, links.pop(), url, node.get("href"))
        elif tag in ("td", "th"):
            pieces.append(" | ")
        elif tag in _BLOCKS:
            pieces.append("\n")
        if text:
            pieces.append(text.replace("\n", " "))
            read += len(text)
            if read > max_chars:
                break
    title = root.findtext(".//title") or ""
    return ReadablePage(" ".join(title.split()), _tidy("".join(pieces)))


def _close_link(pieces: list[str], start: int, page_url: str, link: str | None) -> None:
    """Write what a link to another page enclosed as a Markdown link."""
    text = " ".join("".join(pieces[start:]).split())
    if not text or not link:
        return
    try:
        target = urldefrag(urljoin(page_url, link.strip()))[0]
    except ValueError:
        return
    if target.startswith(("http://", "https://")) and target != urldefrag(page_url)[0]:
        pieces[start:] = [f"[{text}]({target})"]


def _tidy(text: str) -> str:
    """Drop empty lines, empty list items and the separator after a row's last cell."""
    lines = (" ".join(line.split()).removesuffix(" |") for line in text.split("\n"))
    return "\n".join(line for line in lines if line.strip("-# |"))
