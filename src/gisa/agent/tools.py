"""The tools of the agent, ``search`` and ``visit``: what they take, what they do, what the model gets to read."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from src.gisa.agent.backends import PageError, PageSource, QueryError, SearchEngine
from src.gisa.agent.cache import Cache
from src.gisa.agent.cost import Step
from src.gisa.agent.policy import ContextOverflowError, Policy, Request, text_of
from src.gisa.agent.prompts import Instructions, extraction, neutral, untrusted
from src.gisa.agent.web import Web
from src.gisa.dataset.factbook.corpus import Hit

# The benchmark's own pages hold questions and answers. Compared without scheme, `www.` and case.
BENCHMARK_PAGES = (
    "github.com/ruc-nlpir/gisa",
    "raw.githubusercontent.com/ruc-nlpir/gisa",
    "huggingface.co/datasets/ruc-nlpir/gisa",
    "hf-mirror.com/datasets/ruc-nlpir/gisa",
    "huggingface.co/papers/2602.08543",
    "arxiv.org/abs/2602.08543",
    "arxiv.org/html/2602.08543",
    "arxiv.org/pdf/2602.08543",
    "alphaxiv.org/abs/2602.08543",
)

_AROUND_NAME = re.compile(r"\A\s*(?:(?:functions|default_api)[.:])?|<\|.*|:\d+\s*\Z|\s+\Z")  # of gpt-oss, Gemini, Kimi
_HALVINGS = 5  # of a page that its reader cannot read whole


def _tool(name: str, description: str, **arguments: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": arguments, "required": [*arguments], "additionalProperties": False}
    return {"name": name, "description": description, "parameters": schema}


_TEXT = {"type": "string"}
_TOOLS = (
    _tool(
        "search",
        "Search the web. Returns titles, addresses, dates and snippets of the best results.",
        query=_TEXT | {"description": "What to search for."},
    ),
    _tool(
        "visit",
        "Read web pages and bring back what serves a goal.",
        url={"type": "array", "items": _TEXT, "description": "Addresses of the pages."},
        goal=_TEXT | {"description": "What to look for on them."},
    ),
)


def specs(instructions: Instructions = "full") -> tuple[Mapping[str, Any], ...]:
    """Return the tools in the form of the chat completions API; ``brief`` ones say nothing but how to call them."""
    return tuple(
        {"type": "function", "function": _undescribed(tool) if instructions == "brief" else tool} for tool in _TOOLS
    )


def _undescribed(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {key: _undescribed(part) for key, part in node.items() if key != "description"}


class CallError(Exception):
    """A tool call that cannot be carried out; the message tells the model what to mend."""


@dataclass(frozen=True)
class Search:
    """A call of ``search``."""

    query: str


@dataclass(frozen=True)
class Visit:
    """A call of ``visit``."""

    urls: tuple[str, ...]
    goal: str


@dataclass(frozen=True)
class ToolResult:
    """What a call brought.

    Attributes:
        content: What the model reads.
        urls: Addresses found by a search, or visited.
        failed: How many of them could not be read.
        cached: How many results came from the cache.
        contaminated: Addresses of the benchmark's own pages that turned up, and were kept from the model.
    """

    content: str
    urls: list[str]
    failed: int = 0
    cached: int = 0
    contaminated: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Toolbox:
    """The tools with their backends.

    Attributes:
        search: Behind ``search``.
        pages: Behind ``visit``.
        extractor: Model that reads a page for the goal; None gives the agent the page's text.
        cache: Keeps results of engines and sources that have a name; None keeps none.
        results: Most results of a search.
        max_urls: Most pages of one visit.
        page_chars: Most characters of a page that the extractor, or else the agent, gets to read.
        denied: Beginnings of addresses that are kept from the model, in lower case.
    """

    search: SearchEngine
    pages: PageSource
    extractor: Policy | None = None
    cache: Cache | None = None
    results: int = 10
    max_urls: int = 5
    page_chars: int = 40_000
    denied: tuple[str, ...] = BENCHMARK_PAGES

    def parse(self, call: Mapping[str, Any]) -> Search | Visit:
        """Read a tool call in the form of the chat completions API.

        Raises:
            CallError: it is malformed, or names another tool.
        """
        function = call.get("function")
        name, arguments = (
            (function.get("name"), function.get("arguments")) if isinstance(function, dict) else (None, None)
        )
        known = bare_name(name) if isinstance(name, str) else name
        if known not in ("search", "visit"):
            raise CallError(f"There is no tool {name!r}. Use search or visit.")
        name = str(known)
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError) as error:
                raise CallError(f"The arguments of {name} are not valid JSON: {error}.") from error
            if isinstance(arguments, str):
                with suppress(ValueError, RecursionError):  # some servers encode them twice
                    arguments = json.loads(arguments)
        if not isinstance(arguments, dict):
            raise CallError(f"The arguments of {name} must be a JSON object.")
        if name == "search":
            return Search(_text(arguments, "query", name))
        urls = arguments.get("url")
        if isinstance(urls, str) and urls.lstrip().startswith("["):
            with suppress(ValueError, RecursionError):  # a list as text, as some models write it
                urls = json.loads(urls)
        urls = [urls] if isinstance(urls, str) else urls
        if not isinstance(urls, list) or not urls or not all(isinstance(url, str) and url.strip() for url in urls):
            raise CallError("visit needs `url`: a list of at least one address, each as text.")
        if len(urls) > self.max_urls:
            raise CallError(f"visit takes at most {self.max_urls} addresses at once; you gave {len(urls)}.")
        return Visit(tuple(dict.fromkeys(url.strip() for url in urls)), _text(arguments, "goal", name))

    async def run(self, call: Search | Visit, step: Step, web: Web) -> ToolResult:
        """Carry out a call.

        Raises:
            RequestError: a service behind the tool failed; that is a failure of the infrastructure.
        """
        if isinstance(call, Search):
            return await self._search(call, step, web)
        # All are awaited before one's failure is raised, so that no page is fetched behind the episode's back.
        visits = await asyncio.gather(
            *(self._visit(url, call.goal, step, web) for url in call.urls), return_exceptions=True
        )
        for visit in visits:
            if isinstance(visit, BaseException):
                raise visit
        results = [visit for visit in visits if isinstance(visit, ToolResult)]
        return ToolResult(
            content="\n\n".join(result.content for result in results),
            urls=[url for result in results for url in result.urls],
            failed=sum(result.failed for result in results),
            cached=sum(result.cached for result in results),
            contaminated=[url for result in results for url in result.contaminated],
        )

    async def _search(self, call: Search, step: Step, web: Web) -> ToolResult:
        engine = self.search

        async def search() -> list[dict[str, str]]:
            return [dict(vars(hit)) for hit in await engine.search(call.query, self.results, step, web)]

        try:
            results, cached = await self._cached(search, "search", engine.name, str(self.results), call.query)
        except QueryError as error:
            return ToolResult(f"The search does not take this query: {neutral(str(error))}.", [])
        hits = [Hit(**result) for result in results]
        denied = [hit.url for hit in hits if self._is_denied(hit.url)]
        open_hits = [hit for hit in hits if hit.url not in denied]
        blocks = [
            "\n".join([f"{rank}. {hit.title}", hit.url, *filter(None, (hit.date, hit.snippet))])
            for rank, hit in enumerate(open_hits, 1)
        ]
        return ToolResult(
            content=untrusted("\n\n".join(blocks)) if blocks else "The search found nothing.",
            urls=[hit.url for hit in open_hits],
            cached=int(cached),
            contaminated=denied,
        )

    async def _visit(self, url: str, goal: str, step: Step, web: Web) -> ToolResult:
        heading = f"Page {neutral(url)}"

        async def read() -> list[Any]:
            address, page = await self.pages.read(url, step, web)
            return [address or url, page.title, page.text[: self.page_chars], max(0, len(page.text) - self.page_chars)]

        if self._is_denied(url):
            return ToolResult(f"{heading} may not be visited.", [url], failed=1, contaminated=[url])
        try:
            (address, title, text, left_out), cached = await self._cached(read, "visit", self.pages.name, url)
            if self._is_denied(address):
                return ToolResult(f"{heading} may not be visited.", [url], failed=1, contaminated=[address])
            if self.extractor and text.strip():
                request = Request((), (), step, web, part="extractor")
                text, left_out = await _extract(self.extractor, text, goal, request)
        except (PageError, ContextOverflowError) as error:
            return ToolResult(f"{heading} could not be read: {neutral(str(error))}.", [url], failed=1)
        if not text.strip():
            return ToolResult(f"{heading} holds no text.", [url], cached=int(cached))
        note = f"\nThe page goes on; {left_out:,} characters are left out." if left_out else ""
        says_its_title = text.partition("\n")[0].lstrip("# ") == title
        content = text if says_its_title else "\n\n".join(filter(None, (title, text)))
        return ToolResult(f"{heading}\n{untrusted(content)}{note}", [url], cached=int(cached))

    async def _cached(self, make: Callable[[], Awaitable[Any]], tool: str, backend: str, *key: str) -> tuple[Any, bool]:
        """Return a result and whether it was kept from before; failures, being exceptions, are never kept."""
        if self.cache is None or not backend:
            return await make(), False
        kept = self.cache.get(tool, backend, *key)
        if kept is not None:
            return kept, True
        made = await make()
        self.cache.put(made, tool, backend, *key)
        return made, False

    def _is_denied(self, url: str) -> bool:
        try:
            parts = urlsplit(url.strip().lower())
        except ValueError:
            return False
        return f"{(parts.hostname or '').removeprefix('www.')}{parts.path}".startswith(self.denied)


async def _extract(reader: Policy, text: str, goal: str, request: Request) -> tuple[str, int]:
    """Have a model read a page, or as much of its beginning as it can; return what it says and what it did not see."""
    for shown in (len(text) >> halvings for halvings in range(_HALVINGS)):
        try:
            reply = await reader.reply(replace(request, messages=extraction(text[:shown], goal)))
        except ContextOverflowError as error:
            overflow = error
            continue
        said = text_of(reply.message)
        if not said.strip():
            raise PageError(f"its reader said nothing ({reply.message.get('refusal') or reply.finish_reason})")
        return said, len(text) - shown
    raise overflow


def bare_name(name: str) -> str:
    """Return the name of a tool without what models and servers write around it."""
    return _AROUND_NAME.sub("", name)


def _text(arguments: Mapping[str, Any], field: str, tool: str) -> str:
    value = arguments.get(field)
    if not isinstance(value, str) or not value.strip():
        raise CallError(f"{tool} needs `{field}`: a text that is not empty.")
    return value.strip()
