"""Page sources behind the ``visit`` tool: the embedded corpus, the web itself, and Jina's reader."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from src.gisa.agent.cost import Charge, PriceList, Step
from src.gisa.agent.failures import RequestError
from src.gisa.agent.web import Key, Web
from src.gisa.dataset.factbook.corpus import Corpus, ReadablePage, read_html
from src.gisa.dataset.factbook.pages import factbook_web


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


class EmbeddedPages:
    """Pages of a corpus."""

    name = ""

    def __init__(self, corpus: Corpus) -> None:
        """Take the corpus."""
        self._corpus = corpus

    async def read(self, url: str, step: Step, web: Web) -> tuple[str, ReadablePage]:
        """See ``PageSource``."""
        page = self._corpus.read(url)
        if page is None:
            raise PageError("HTTP 404")
        return url, page


def embedded_pages(day: str) -> EmbeddedPages:
    """Read the embedded web as of a day; see ``factbook_web``."""
    return EmbeddedPages(factbook_web(day))


class DirectPages:
    """Pages fetched from where they are, by the safe fetcher."""

    name = "direct"

    async def read(self, url: str, step: Step, web: Web) -> tuple[str, ReadablePage]:
        """See ``PageSource``."""
        try:
            page = await web.page(url, step)
        except RequestError as error:
            raise PageError(str(error)) from error
        if "html" not in page.content_type and page.content_type:
            return page.url, ReadablePage("", page.text)
        # A large page takes seconds to parse, in which all other episodes would stand still.
        return page.url, await asyncio.to_thread(read_html, page.text, page.url)


class JinaPages:
    """Pages as Jina's reader sees them, scripts included."""

    def __init__(
        self,
        *,
        prices: PriceList,
        key_env: str | None = "JINA_API_KEY",
        url: str = "https://r.jina.ai/",
        timeout_s: float = 60.0,
    ) -> None:
        """Set the service up.

        Args:
            prices: What a request costs.
            key_env: Environment variable with the key.
            url: Address of the service; the page's address is sent in the body.
            timeout_s: Seconds for one attempt.

        Raises:
            InputError: the key is missing.
        """
        self.name = f"jina {url}"
        self._prices = prices
        self._key = Key(key_env)
        self._url = url
        self._timeout_s = timeout_s

    async def read(self, url: str, step: Step, web: Web) -> tuple[str, ReadablePage]:
        """See ``PageSource``."""
        try:
            checked = str(web.fetcher.checked(url))
        except RequestError as error:
            raise PageError(str(error)) from error
        with step.account.reserve(self._prices.page_usd):
            try:
                page = await web.call(
                    self._url,
                    _jina_page,
                    step,
                    body={"url": checked},
                    key=self._key,
                    headers={"Accept": "application/json"},
                    timeout_s=self._timeout_s,
                )
            except RequestError as error:
                if error.status in (400, 404, 422, 451):  # what it says of the page; all else is about the service
                    raise PageError(str(error)) from error
                raise
            step.charge(Charge("page", usd=self._prices.page_usd))
        return page


def _jina_page(reply: Any) -> tuple[str, ReadablePage]:
    data = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("content"), str):
        raise RequestError("unreadable", "a reader's reply without content", retryable=True)
    return str(data.get("url") or ""), ReadablePage(str(data.get("title") or ""), data["content"])
