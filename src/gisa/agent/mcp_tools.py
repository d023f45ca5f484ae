"""Tools of a server of the Model Context Protocol (MCP) behind ``search`` and ``visit``: a command, or an address."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from src.gisa.agent.backends import PageError
from src.gisa.agent.cost import Charge, PriceList, Step
from src.gisa.agent.fetch import RequestError
from src.gisa.agent.web import Key, Web
from src.gisa.dataset.factbook.corpus import Hit
from src.gisa.dataset.factbook.page_text import ReadablePage
from src.launch.errors import InputError
from src.launch.values import Positive

# Names that servers give to the parts of a result, the first that is there counts.
_LISTS = ("results", "organic", "organic_results", "web", "items", "hits", "data", "result", "documents")
_FIELDS = {
    "url": ("url", "link", "href", "uri"),
    "title": ("title", "name"),
    "snippet": ("snippet", "description", "summary", "content", "text", "body"),
    "date": ("date", "published_date", "publishedDate", "page_age", "age"),
}
_PAGE_FIELDS = ("markdown", "content", "text", "body", "result")
_LABELLED = re.compile(r"^\W{0,4}(?P<name>[A-Za-z]{3,12})\W{0,3}:\s*(?P<value>.*\S)\s*$")
_ADDRESS = re.compile(r"https?://[^\s<>\"')\]]+")
_MOST_STDERR = 500


@dataclass(kw_only=True)
class McpServer:
    """A tool of a server, and the connection to it, which is made at the first call and made again if it breaks.

    Attributes:
        tool: Its name there.
        argument: Of its arguments, the one that takes the query or the address.
        arguments: Further ones, with their values.
        command: Program and arguments of a server that speaks over its standard streams; None for one at ``url``.
        url: Address of a server that speaks HTTP.
        env: Environment variables to hand to the command, beside PATH, HOME and the like; their values stay out of all
            that is written.
        key_env: Environment variable with the key for ``url``, sent as a bearer token; None for none.
        timeout_s: Seconds for one call, and for the start.
        prices: What a call costs, as ``search`` and ``page``; None for nothing.

    Raises:
        InputError: there is neither or both of command and address, a variable is not set, or ``mcp`` is missing.
    """

    tool: str
    argument: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    command: Sequence[str] | None = None
    url: str | None = None
    env: Sequence[str] = ()
    key_env: str | None = None
    timeout_s: Positive = 60.0
    prices: PriceList | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without a connection."""
        try:
            import mcp  # noqa: F401
        except ImportError as error:
            raise InputError('Tools of an MCP server need the package mcp.\nType:  pip install -e ".[mcp]"') from error
        if bool(self.command) == bool(self.url):
            raise InputError(
                f"An MCP server is a command or an address; I got command={self.command} and url={self.url}.\nType:  "
                "'agent.search.command=[npx,-y,<server>]'  or  agent.search.url=http://<host>/mcp  (likewise pages)"
            )
        self._keys = [Key(name) for name in (*self.env, *([self.key_env] if self.key_env else []))]
        self.name = f"mcp {self.url or shlex.join(self.command or ())} {self.tool} {json.dumps(dict(self.arguments))}"
        self._link: _Link | None = None

    async def call(self, value: str, step: Step, web: Web) -> Any:
        """Call the tool; return what came as ``CallToolResult``.

        Raises:
            RequestError: no attempt brought a result.
            InputError: the server cannot be started, or has no such tool.
        """

        async def attempt() -> Any:
            link = self._link
            if link is None or link.loop is not asyncio.get_running_loop() or link.task.done():
                link = self._link = _Link(self)
            try:
                async with asyncio.timeout(self.timeout_s):
                    client = await asyncio.shield(link.client)
                    return await client.call_tool(self.tool, {**self.arguments, self.argument: value})
            except TimeoutError as error:
                raise RequestError("timeout", f"{self.tool}: no result within {self.timeout_s:g} s") from error
            except (InputError, RequestError):
                raise
            except Exception as error:
                link.close()
                if self._link is link:
                    self._link = None  # the next attempt connects anew
                said = self.redacted(f"{type(error).__name__}: {error}")[:300]
                raise RequestError("connection", f"{self.tool}: {said}") from error

        return await web.retried(self.url or f"mcp://{os.path.basename((self.command or [''])[0])}/", attempt, step)

    def redacted(self, text: str) -> str:
        """Take the keys out of what a server says."""
        for key in self._keys:
            text = key.redact(text)
        return text

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Connect, and check that the tool takes what it will be given."""
        from mcp import Client, StdioServerParameters
        from mcp.client.stdio import stdio_client

        with tempfile.TemporaryFile("w+", errors="replace") as stderr:
            try:
                if self.command:
                    env = {name: os.environ[name] for name in self.env}
                    parameters = StdioServerParameters(command=self.command[0], args=list(self.command[1:]), env=env)
                    transport: Any = stdio_client(parameters, errlog=stderr)
                else:
                    transport = self._over_http()
                async with Client(transport) as client:
                    self._check((await client.list_tools()).tools)
                    yield client
            except Exception as error:
                cause: BaseException = error
                while isinstance(cause, BaseExceptionGroup):  # as the library's tasks hand it on
                    cause = cause.exceptions[0]
                if isinstance(cause, InputError):
                    raise cause from None
                if isinstance(cause, FileNotFoundError | PermissionError):
                    raise InputError(f"The MCP server {self.command} cannot be started: {cause}.") from error
                stderr.seek(0)
                said = self.redacted(stderr.read()[-_MOST_STDERR:].strip())
                raise ConnectionError(f"{cause}. {said}".strip()) from error

    @asynccontextmanager
    async def _over_http(self) -> AsyncIterator[Any]:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        headers = Key(self.key_env).headers()
        async with (
            httpx2.AsyncClient(headers=headers, timeout=self.timeout_s) as client,
            streamable_http_client(str(self.url), http_client=client) as streams,
        ):
            yield streams

    def _check(self, tools: Sequence[Any]) -> None:
        """Raise an ``InputError`` where the server lacks the tool, or the tool an argument."""
        tool = next((tool for tool in tools if tool.name == self.tool), None)
        if tool is None:
            names = ", ".join(sorted(tool.name for tool in tools))
            raise InputError(
                f"The MCP server {self.url or self.command} has no tool {self.tool!r}; it has {names}.\n"
                "Name one:  agent.search.tool=...  (or agent.pages.tool)"
            )
        schema = tool.input_schema or {}
        takes, given = set(schema.get("properties") or {}), {self.argument, *self.arguments}
        if odd := (given - takes if takes else set()) | (set(schema.get("required") or ()) - given):
            raise InputError(
                f"The tool {self.tool!r} takes {', '.join(sorted(takes))} (it needs "
                f"{', '.join(schema.get('required') or ()) or 'none'}); wrong or missing: {', '.join(sorted(odd))}.\n"
                "Set argument=<for the query or address> and arguments={<further ones>} beside the tool's name."
            )


class _Link:
    """A connection: a task of its own enters and leaves it, as the library wants, and ends with the event loop."""

    def __init__(self, server: McpServer) -> None:
        self.loop = asyncio.get_running_loop()
        self.client: asyncio.Future[Any] = self.loop.create_future()
        self.client.add_done_callback(lambda future: future.cancelled() or future.exception())  # is looked at or not
        self._over = asyncio.Event()
        self.task = self.loop.create_task(self._hold(server))

    async def _hold(self, server: McpServer) -> None:
        try:
            async with server.connection() as client:
                self.client.set_result(client)
                await self._over.wait()
        except Exception as error:
            if not self.client.done():
                self.client.set_exception(error)

    def close(self) -> None:
        self._over.set()


@dataclass(kw_only=True)
class McpSearch(McpServer):
    """A search tool of an MCP server; its results are read from structured content, JSON, or labelled text."""

    async def search(self, query: str, count: int, step: Step, web: Web) -> list[Hit]:
        """See ``SearchEngine``."""
        usd = self.prices.search if self.prices else 0.0
        with step.account.reserve(usd):
            result = await self.call(query, step, web)
            step.charge(Charge("search", usd=usd))
        texts = [self.redacted(text) for text in _texts(result)]
        if result.is_error:
            raise RequestError("unreadable", f"{self.tool}: {' '.join(texts)[:300]}")
        return hits_of(result.structured_content, texts)[:count]


@dataclass(kw_only=True)
class McpPages(McpServer):
    """A tool of an MCP server that reads a page."""

    async def read(self, url: str, step: Step, web: Web) -> tuple[str, ReadablePage]:
        """See ``PageSource``."""
        try:
            checked = str(web.fetcher.checked(url))
        except RequestError as error:
            raise PageError(str(error)) from error
        usd = self.prices.page if self.prices else 0.0
        with step.account.reserve(usd):
            result = await self.call(checked, step, web)
            step.charge(Charge("page", usd=usd))
        text = self.redacted("\n".join(_texts(result)))
        if result.is_error:
            raise PageError(text[:300] or "the tool failed")
        return checked, _page_of(result.structured_content, text)


def _texts(result: Any) -> list[str]:
    """Return what a result says, block by block; links are written as results are."""
    found = []
    for block in result.content:
        if block.type == "text":
            found.append(block.text)
        elif block.type == "resource_link":
            found.append(json.dumps({"url": str(block.uri), "title": block.name, "snippet": block.description or ""}))
        elif block.type == "resource":
            found.append(str(getattr(block.resource, "text", "")))
    return found


def hits_of(structured: Any, texts: Sequence[str]) -> list[Hit]:
    """Read search results from what a tool returned, in the forms that servers use; none where there are no addresses.

    Args:
        structured: Its structured content; None for none.
        texts: Its blocks of text: JSON, or paragraphs with labels (``Title: ...``, ``URL: ...``) or addresses.
    """
    decoded = [_decoded(text) for text in texts]
    for source in (structured, *decoded, [part for part in decoded if isinstance(part, dict)]):
        if hits := [hit for record in _records(source) if (hit := _hit(record))]:
            return hits
    hits = [hit for text in texts for paragraph in _paragraphs(text) if (hit := _labelled_hit(paragraph))]
    return list({hit.url: hit for hit in reversed(hits)}.values())[::-1]


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _records(node: Any, depth: int = 0) -> list[Any]:
    """Return the list of records in what a tool returned, wherever servers put it."""
    if isinstance(node, list):
        return node
    if isinstance(node, str) and depth:  # a tool of plain text, as some libraries wrap it
        return _records(_decoded(node), depth)
    if not isinstance(node, dict) or depth > 2:
        return []
    return next((found for name in _LISTS if (found := _records(node.get(name), depth + 1))), [])


def _hit(record: Any) -> Hit | None:
    if not isinstance(record, dict):
        return None
    values = {
        part: next(
            (str(record[name]) for name in names if record.get(name) and isinstance(record[name], str | int)), ""
        )
        for part, names in _FIELDS.items()
    }
    return Hit(**values) if values["url"].startswith(("http://", "https://")) else None


def _paragraphs(text: str) -> Iterator[list[str]]:
    """Part a text at blank lines, and where the next title, number or address begins another result."""
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        begins = re.match(r"\s*(?:\d{1,2}[.)]\s|\W{0,4}title\W{0,3}:)", line, re.IGNORECASE)
        if lines and (not line.strip() or begins):
            yield lines
            lines = []
        if line.strip():
            lines.append(line.strip())


def _labelled_hit(lines: Sequence[str]) -> Hit | None:
    """Read one result from its lines."""
    named = {match["name"].lower(): match["value"] for line in lines if (match := _LABELLED.match(line))}
    record = {name: value.strip("* ") for name, value in named.items() if name not in ("http", "https")}
    address = _ADDRESS.search(record.get("url") or record.get("link") or "\n".join(lines))
    if not address:
        return None
    plain = [re.sub(r"^\d{1,2}[.)]\s*|[*#]+", "", line).strip() for line in lines if not _LABELLED.match(line)]
    title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", plain[0]) if plain else ""
    found = _hit({"title": title, "snippet": " ".join(plain[1:]), **record, "url": address[0].rstrip(".,;")})
    return found


def _page_of(structured: Any, text: str) -> ReadablePage:
    """Read a page from what a tool returned: a record with its text, or the text itself."""
    for record in (structured, _decoded(text)):
        if isinstance(record, dict):
            content = next((record[name] for name in _PAGE_FIELDS if isinstance(record.get(name), str)), None)
            if content is not None:
                return ReadablePage(" ".join(str(record.get("title") or "").split()), content)
    return ReadablePage("", text)
