"""A collection of pages that is searched without a network."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from src.gisa.dataset.factbook.page_body import decode as decode
from src.gisa.dataset.factbook.page_text import ReadablePage, read_html
from src.launch.errors import InputError

_SNIPPET_CHARS = 160
_WORD = re.compile(r"\w+")
_COMMON = frozenset(
    _WORD.findall("an and are as at be by for from has in is it of on or that the this to was what which with")
)


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

    def document(self, url: str) -> Document | None:
        """Return a page, None if the collection has no such address."""
        return self._documents.get(url) or self._documents.get(url.partition("#")[0])

    def read(self, url: str) -> ReadablePage | None:
        """Return what a page says, None if the collection has no such address."""
        document = self.document(url)
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
