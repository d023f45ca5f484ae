"""Search engines behind the ``search`` tool: the embedded corpus and Serper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from src.gisa.agent.cost import Charge, PriceList, Step
from src.gisa.agent.failures import RequestError
from src.gisa.agent.web import Key, Web
from src.gisa.dataset.factbook.corpus import Corpus, Hit
from src.gisa.dataset.factbook.pages import factbook_web


class SearchEngine(Protocol):
    """What the ``search`` tool needs.

    Attributes:
        name: Engine and locale; part of every cache key. Empty for an engine that needs no cache.
    """

    name: str

    async def search(self, query: str, count: int, step: Step, web: Web) -> list[Hit]:
        """Return up to ``count`` organic results, best first.

        Raises:
            RequestError: the engine failed; that is a failure of the infrastructure.
        """


class EmbeddedSearch:
    """BM25 over a corpus."""

    name = ""

    def __init__(self, corpus: Corpus) -> None:
        """Take the corpus."""
        self._corpus = corpus

    async def search(self, query: str, count: int, step: Step, web: Web) -> list[Hit]:
        """See ``SearchEngine``."""
        return self._corpus.search(query, count)


def embedded_search(day: str) -> EmbeddedSearch:
    """Search the embedded web as of a day; see ``factbook_web``."""
    return EmbeddedSearch(factbook_web(day))


def own_corpus(path: str) -> Corpus:
    """Read pages of the user's own; see ``Corpus.from_jsonl``."""
    return Corpus.from_jsonl(path)


class RecordedSearch:
    """Gives what a search gave somebody before, and nothing for any other query."""

    name = ""

    def __init__(self, results: Mapping[str, Sequence[Hit]]) -> None:
        """Take the results by query; case and white space do not matter."""
        self._results = {_folded(query): hits for query, hits in results.items()}

    async def search(self, query: str, count: int, step: Step, web: Web) -> list[Hit]:
        """See ``SearchEngine``."""
        return list(self._results.get(_folded(query), ()))[:count]


def _folded(query: str) -> str:
    return " ".join(query.split()).casefold()


def recorded_search(root: str) -> RecordedSearch:
    """Give the results that are kept in the human traces of a suite; see ``src.gisa.dataset.gisa``.

    Args:
        root: The suite's folder. Questions without a trace are passed over.

    Raises:
        InputError: there is no suite, or one of its traces is faulty.
    """
    from src.gisa.dataset.gisa import Gisa  # which is built on this package

    suite = Gisa(root)
    traces = [suite.trace(one) for one in suite.questions if (suite.root / "trace" / f"{one.id}.json").is_file()]
    return RecordedSearch(
        {
            query: [Hit(hit.title, hit.url, hit.snippet) for page in pages for hit in page.results]
            for trace in traces
            for query, pages in trace.results.items()
        }
    )


class SerperSearch:
    """Google results through serper.dev, or any service of the same form."""

    def __init__(
        self,
        *,
        prices: PriceList,
        key_env: str | None = "SERPER_API_KEY",
        url: str = "https://google.serper.dev/search",
        country: str = "us",
        language: str = "en",
        timeout_s: float = 30.0,
    ) -> None:
        """Set the service up.

        Args:
            prices: What a request costs.
            key_env: Environment variable with the key.
            url: Address of the service.
            country: Where the search is made from, two letters.
            language: Of the results, two letters.
            timeout_s: Seconds for one attempt.

        Raises:
            InputError: the key is missing.
        """
        self.name = f"serper {url} {country} {language}"
        self._prices = prices
        self._key = Key(key_env, header="X-API-KEY", prefix="")
        self._url = url
        self._locale = {"gl": country, "hl": language}
        self._timeout_s = timeout_s

    async def search(self, query: str, count: int, step: Step, web: Web) -> list[Hit]:
        """See ``SearchEngine``."""
        body = {"q": query, "num": count, **self._locale}
        with step.account.reserve(self._prices.search_usd):
            hits = await web.call(self._url, _organic, step, body=body, key=self._key, timeout_s=self._timeout_s)
            step.charge(Charge("search", usd=self._prices.search_usd))
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
