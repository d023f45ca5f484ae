"""A collection of pages that is searched without a network, and from a page's bytes to the text that a model reads."""

from __future__ import annotations

import codecs
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin

from src.launch.errors import InputError

_SNIPPET_CHARS = 160
_WORD = re.compile(r"\w+")
_COMMON = frozenset(
    _WORD.findall("an and are as at be by for from has in is it of on or that the this to was what which with")
)
_CODECS = re.compile(
    r"ascii|utf-(8|16|16-le|16-be|8-sig)|iso8859-\d+|iso2022_jp|cp\d+|koi8-[rut]|gb2312|gbk|gb18030|big5(hkscs)?"
    r"|euc_(jp|kr)|shift_jis|mac-(roman|cyrillic)|tis-620"
)
_META_CHARSET = re.compile(rb"""<(?:meta[^>]*charset|\?xml[^>]*encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}

_SKIPPED = frozenset(
    _WORD.findall(
        "head script style noscript template svg math canvas iframe object video audio nav footer aside button select "
        "textarea dialog"
    )
)
_BLOCKS = frozenset(
    _WORD.findall(
        "address article blockquote body br caption dd details div dl dt fieldset form figcaption figure h1 h2 h3 h4 "
        "h5 h6 header hr li main ol p pre section summary table tbody tfoot thead tr ul"
    )
)
_PREFIXES = {**{f"h{level}": "#" * level + " " for level in range(1, 7)}, "li": "- "}
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)


@dataclass(frozen=True)
class Document:
    """A page of the collection; its date is shown in search results, and empty for none."""

    url: str
    html: str
    date: str = ""


@dataclass(frozen=True)
class Hit:
    """One search result, as every search engine gives it."""

    title: str
    url: str
    snippet: str = ""
    date: str = ""


class Corpus:
    """Pages by address, and a BM25 index over their titles and texts that is built at the first search."""

    def __init__(self, documents: Iterable[Document]) -> None:
        """Take the pages.

        Raises:
            InputError: there are none.
        """
        self._documents = {document.url: document for document in documents}
        if not self._documents:
            raise InputError("The corpus holds no page, and I need at least one to search in.")

    @classmethod
    def from_jsonl(cls, path: str) -> Corpus:
        """Read a corpus with one JSON object a line: ``url``, ``html`` and perhaps ``date``.

        Raises:
            InputError: the file is missing, or a line is something else.
        """
        return cls(_documents_in(Path(path)))

    def __len__(self) -> int:
        return len(self._documents)

    def read(self, url: str) -> ReadablePage | None:
        """Return what a page says, None if the collection has no such address."""
        document = self._documents.get(url) or self._documents.get(url.partition("#")[0])
        return read_html(document.html, document.url) if document else None

    def search(self, query: str, count: int) -> list[Hit]:
        """Return at most so many pages by BM25, best first; pages without any of the words are left out."""
        index, hits = self._index
        words = [word for word in words_of(query) if word in index.vocab_dict]
        if not words:
            return []
        scores = index.get_scores(words)
        best = (-scores).argsort(kind="stable")[:count].tolist()  # stable: equal pages come in the collection's order
        return [
            replace(hits[number], snippet=_snippet(hits[number], set(words))) for number in best if scores[number] > 0
        ]

    @cached_property
    def _index(self) -> tuple[Any, list[Hit]]:
        """The BM25 index, and one hit a page with its whole text as the snippet."""
        hits = []
        for document in self._documents.values():
            page = read_html(document.html, document.url)
            hits.append(Hit(page.title, document.url, page.text, document.date))
        return word_index(f"{hit.title} {hit.title} {hit.snippet}" for hit in hits), hits  # a title counts twice


def _snippet(page: Hit, words: set[str]) -> str:
    """Return the line with most of the query's words, cut to size; none that only says the title again."""
    lines = [line for line in page.snippet.split("\n") if line.lstrip("# ") != page.title]
    best = max(lines, key=lambda line: len(words.intersection(words_of(line))), default="")
    return best[:_SNIPPET_CHARS] if words.intersection(words_of(best)) else ""


def word_index(texts: Iterable[str]) -> Any:
    """Build a BM25 index over the words of texts."""
    # bm25s calls JAX where there is one, and JAX takes three quarters of a GPU's memory at its first call.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import bm25s  # half a second that --help must not wait for

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets DEBUG for itself
    index = bm25s.BM25()
    # A word that no query has stands in every text: an index without words fails.
    index.index([["\0", *words_of(text)] for text in texts], show_progress=False)
    return index


def words_of(text: str) -> list[str]:
    """Split a text as the index does: words of two letters or more, in lower case, without the most common ones."""
    return [word for word in re.findall(r"\w\w+", text.lower()) if word not in _COMMON]


def _documents_in(path: Path) -> Iterator[Document]:
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                fields = json.loads(line)
                if not isinstance(fields, dict) or not {"url", "html"} <= fields.keys() <= {"url", "html", "date"}:
                    raise ValueError(f"line {number}")
                yield Document(**fields)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not a corpus I can read: {error}.\n"
            "I need one JSON object a line, with or without a date:\n"
            '  {"url": "https://...", "html": "<p>...", "date": "2026-01-31"}'
        ) from error


@dataclass(frozen=True)
class ReadablePage:
    """What a page says: its title, on one line and perhaps empty, and its visible text."""

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
    meta = _META_CHARSET.search(body[:1024])
    for candidate in (declared, meta and meta[1].decode("ascii", "replace")):
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
