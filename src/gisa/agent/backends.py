"""What stands behind the agent's tools: search engines (embedded, recorded, Serper), pages (embedded, direct, Jina)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from src.gisa.agent.cost import Charge, PriceList, Step
from src.gisa.agent.fetch import Page, RequestError
from src.gisa.agent.web import Key, Web
from src.gisa.dataset.factbook.corpus import Corpus, Hit
from src.gisa.dataset.factbook.page_body import Extractor, check_extractor
from src.gisa.dataset.factbook.page_text import ReadablePage, read_html
from src.gisa.dataset.factbook.pages import factbook_web
from src.gisa.dataset.gisa import Gisa, folded
from src.launch.values import Positive

_SMALL_CHARS = 100_000  # of a page of a corpus that is read at once: in a fifth of a second, whatever is in it
_QUERY = re.compile(r"\bquery\b|\bq\b", re.IGNORECASE)  # in what a service says of one; all else is about the request


class SearchEngine(Protocol):
    """What the ``search`` tool needs.

    Attributes:
        name: Engine and locale; part of every cache key. Empty for an engine that needs no cache.
    """

    name: str

    async def search(self, query: str, count: int, step: Step, web: Web) -> list[Hit]:
        """Return up to ``count`` organic results, best first.

        Raises:
            QueryError: the engine does not take this query.
            RequestError: the engine failed; that is a failure of the infrastructure.
        """


class EmbeddedWeb:
    """BM25 over a corpus, and its pages."""

    name = ""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    async def search(self, query: str, count: int, step: Step, web: Web) -> list[Hit]:
        """See ``SearchEngine``."""
        return self._corpus.search(query, count)

    async def read(self, url: str, step: Step, web: Web) -> tuple[str, ReadablePage]:
        """See ``PageSource``."""
        document = self._corpus.document(url)
        if document is None:
            raise PageError("HTTP 404")
        if len(document.html) <= _SMALL_CHARS:
            return url, read_html(document.html, document.url)
        return url, await _parsed(
            Page(document.url, "text/html", document.html.encode("utf-8", "replace"), "utf-8"), web
        )


def embedded_web(day: str) -> EmbeddedWeb:
    """Search and read the embedded web as of a day; see ``factbook_web``."""
    return EmbeddedWeb(factbook_web(day))


def own_corpus(path: str) -> Corpus:
    """Read pages of the user's own; see ``Corpus.from_jsonl``."""
    return Corpus.from_jsonl(path)


class RecordedSearch:
    """Gives what a search gave somebody before, whatever case and white space, and nothing for any other query."""

    name = ""

    def __init__(self, results: Mapping[str, Sequence[Hit]]) -> None:
        self._results = {folded(query): hits for query, hits in results.items()}

    async def search(self, query: str, count: int, step: Step, web: Web) -> list[Hit]:
        """See ``SearchEngine``."""
        return list(self._results.get(folded(query), ()))[:count]


def recorded_search(root: str) -> RecordedSearch:
    """Give the results that are kept in the human traces of a suite; see ``src.gisa.dataset.gisa``.

    Args:
        root: The suite's folder. Questions without a trace are passed over.

    Raises:
        InputError: there is no suite, or one of its traces is faulty.
    """
    suite = Gisa(root)
    traces = [suite.trace(question) for question in suite.questions if suite.has_trace(question)]
    return RecordedSearch(
        {
            query: [Hit(hit.title, hit.url, hit.snippet) for page in pages for hit in page.results]
            for trace in traces
            for query, pages in trace.results.items()
        }
    )


@dataclass
class SerperSearch:
    """Google results through serper.dev, or any service of the same form.

    Attributes:
        prices: What a request costs.
        key_env: Environment variable with the key.
        url: Address of the service.
        country: Where the search is made from, two letters.
        language: Of the results, two letters.
        timeout_s: Seconds for one attempt.

    Raises:
        InputError: the key is missing.
    """

    prices: PriceList
    key_env: str | None = "SERPER_API_KEY"
    url: str = "https://google.serper.dev/search"
    country: str = "us"
    language: str = "en"
    timeout_s: Positive = 30.0

    def __post_init__(self) -> None:
        """Look for the key."""
        self.name = f"serper {self.url} {self.country} {self.language}"
        self._key = Key(self.key_env, header="X-API-KEY", prefix="")

    async def search(self, query: str, count: int, step: Step, web: Web) -> list[Hit]:
        """See ``SearchEngine``."""
        body = {"q": query, "num": count, "gl": self.country, "hl": self.language}
        async with step.account.hold(self.prices.search):
            how: dict[str, Any] = {"key": self._key, "timeout_s": self.timeout_s, "part": "search"}
            try:
                hits = await web.call(self.url, _organic, step, body=body, **how)
            except RequestError as error:
                if error.status in (400, 422) and _QUERY.search(str(error)):
                    raise QueryError(str(error)) from error
                raise
            step.charge(Charge("search", usd=self.prices.search))
        return hits[:count]


def _organic(reply: Any) -> list[Hit]:
    """Read the organic results of a reply; one without an address is no result."""
    results = reply.get("organic", []) if isinstance(reply, dict) else None
    if not isinstance(results, list):
        raise RequestError("unreadable", "a search reply without a list of results", retryable=True)
    return [
        Hit(*(str(result.get(field) or "") for field in ("title", "link", "snippet", "date")))
        for result in results
        if isinstance(result, dict) and isinstance(result.get("link"), str)
    ]


class QueryError(Exception):
    """A query that a search engine does not take, whoever asks again: the model is told, so that it can ask another."""


class PageError(Exception):
    """A page that cannot be read: a fact about the web, which the model is told."""


class PageSource(Protocol):
    """What the ``visit`` tool needs.

    Attributes:
        name: Part of every cache key. Empty for a source that needs no cache.
    """

    name: str

    async def read(self, url: str, step: Step, web: Web) -> tuple[str, ReadablePage]:
        """Return the address a page was found at, after redirects, and what it says.

        Raises:
            PageError: the page cannot be read.
            RequestError: the source itself failed; that is a failure of the infrastructure.
        """


@dataclass
class DirectPages:
    """Pages fetched from where they are, by the safe fetcher.

    Attributes:
        text_by: What reads HTML; see ``page_body.read_body``.

    Raises:
        InputError: the package of that is not installed.
    """

    text_by: Extractor = "built_in"

    def __post_init__(self) -> None:
        """Look for what reads HTML."""
        check_extractor(self.text_by)
        self.name = "direct" if self.text_by == "built_in" else f"direct {self.text_by}"

    async def read(self, url: str, step: Step, web: Web) -> tuple[str, ReadablePage]:
        """See ``PageSource``."""
        try:
            page = await web.page(url, step)
        except RequestError as error:
            raise PageError(str(error)) from error
        return page.url, await _parsed(page, web, self.text_by)


async def _parsed(page: Page, web: Web, text_by: Extractor = "built_in") -> ReadablePage:
    """Parse a page beside the other episodes, which would stand still for the time it takes."""
    try:
        return await web.reader.read(page, text_by)
    except RequestError as error:
        raise PageError(str(error)) from error


@dataclass
class JinaPages:
    """Pages as Jina's reader sees them, scripts included.

    Attributes:
        prices: What a request costs.
        key_env: Environment variable with the key.
        url: Address of the service; the page's address is sent in the body.
        timeout_s: Seconds for one attempt.

    Raises:
        InputError: the key is missing.
    """

    prices: PriceList
    key_env: str | None = "JINA_API_KEY"
    url: str = "https://r.jina.ai/"
    timeout_s: Positive = 60.0

    def __post_init__(self) -> None:
        """Look for the key."""
        self.name = f"jina {self.url}"
        self._key = Key(self.key_env)

    async def read(self, url: str, step: Step, web: Web) -> tuple[str, ReadablePage]:
        """See ``PageSource``."""
        try:
            checked = str(web.fetcher.checked(url))
        except RequestError as error:
            raise PageError(str(error)) from error
        how: dict[str, Any] = {"headers": {"Accept": "application/json"}, "timeout_s": self.timeout_s, "part": "page"}
        async with step.account.hold(self.prices.page):
            try:
                page = await web.call(self.url, _jina_page, step, body={"url": checked}, key=self._key, **how)
            except RequestError as error:
                if error.status in (400, 404, 422, 451):  # what it says of the page; all else is about the service
                    raise PageError(str(error)) from error
                raise
            step.charge(Charge("page", usd=self.prices.page))
        return page


def _jina_page(reply: Any) -> tuple[str, ReadablePage]:
    data = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("content"), str):
        raise RequestError("unreadable", "a reader's reply without content", retryable=True)
    return str(data.get("url") or ""), ReadablePage(str(data.get("title") or ""), data["content"])
