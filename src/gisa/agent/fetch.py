"""The safe fetcher: reads a web page whose URL was chosen by a model, and so perhaps by an attacker.

What is checked is what is connected to: a name is resolved once a hop, all of its addresses are checked, and the socket
refuses any other. Everything that a server can inflate has a cap: redirects, bytes on the wire, bytes decoded, seconds.
"""

from __future__ import annotations

import asyncio
import codecs
import ipaddress
import re
import socket
import time
import zlib
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Literal

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from src.gisa.agent.addresses import is_disguised, is_public
from src.gisa.dataset.factbook.page_body import decode, is_html, is_pdf, refresh_address, refresh_target
from src.launch.values import Count, Positive, Whole

Lookup = Callable[[str, int], Awaitable[list[str]]]
Kind = Literal["refused", "status", "timeout", "connection", "too_large", "unreadable", "redirects"]
RETRYABLE_STATUS = frozenset({408, 409, 424, 425, 429, 499}) | frozenset(
    range(500, 600)
)  # 424: Bedrock's, 499: Vertex'

_PORTS = (80, 443)
_MAX_URL_CHARS = 4096
_USER = re.compile(r"\s*([a-z][a-z0-9+.-]*:)?//[^/?#\\]*@", re.IGNORECASE)
_TEXT_TYPES = re.compile(r"text/.*|application/((.*\+)?(xml|json)|(x-)?(ndjson|jsonl|jsonlines|csv|yaml))")
_MEDIA_TYPE = re.compile(r"\s*[\w.+-]+/[\w.+-]+")
_PERHAPS_PDF = re.compile(r"application/(x-)?pdf|(application|binary)/(octet-stream|x-download|force-download)")
_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_HEADERS = {
    "Accept": "text/html,application/xhtml+xml,application/pdf;q=0.9,text/plain;q=0.9,*/*;q=0.5",
    "Accept-Encoding": "gzip, deflate",
    "User-Agent": "ilrec-gisa (research agent)",
}


class RequestError(Exception):
    """A request that brought nothing usable.

    Attributes:
        kind: ``refused`` (an unsafe URL; nothing was sent), ``status`` (the server said no), ``timeout``,
            ``connection``, ``too_large``, ``unreadable`` (a reply that is not what was asked for) or ``redirects``.
        status: HTTP status, where the kind is ``status``.
        retryable: Whether the same request may succeed later.
        retry_after_s: Seconds the server asked to wait, if it did.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        status: int | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Describe the failure; without ``retryable``, its kind and status decide."""
        super().__init__(message)
        self.kind = kind
        self.status = status
        passing = kind in ("timeout", "connection") or status in RETRYABLE_STATUS
        self.retryable = passing if retryable is None else retryable
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Page:
    """A page as it came.

    Attributes:
        url: Where it was after redirects.
        content_type: Its media type, empty if none was named.
        body: Decompressed.
        charset: The one that the server named, if any.
    """

    url: str
    content_type: str
    body: bytes
    charset: str | None = None

    @property
    def text(self) -> str:
        """Its characters; see ``decode``."""
        return decode(self.body, self.charset)

    def leads_to(self, header: str | None) -> str | None:
        """Return where it leads on to by itself, by a ``Refresh`` header or a ``meta`` element; None for nowhere."""
        if header:
            return refresh_address(header)
        return refresh_target(self.body, self.charset) if is_html(self.content_type) and not is_pdf(self.body) else None


@dataclass(frozen=True)
class FetchLimits:
    """Caps of one fetch.

    Attributes:
        redirects: Hops after the first, those by ``meta`` elements included.
        wire_bytes: Body bytes received, in one hop.
        decoded_bytes: Body bytes after decompression.
        total_s: Seconds for everything: names, hops, body.
    """

    redirects: Whole = 5
    wire_bytes: Count = 5_000_000
    decoded_bytes: Count = 10_000_000
    total_s: Positive = 30.0


class SafeFetcher:
    """Fetches pages over http and https; to be used as an async context manager.

    Args:
        limits: Caps of one fetch; None for the defaults.
        lookup: Gives the numeric addresses of a host and port; None asks the system.
        test_only_loopback_ports: Ports on which addresses of this machine are let through; for tests only.
    """

    def __init__(
        self,
        limits: FetchLimits | None = None,
        *,
        lookup: Lookup | None = None,
        test_only_loopback_ports: Collection[int] = (),
    ) -> None:
        self._limits = limits or FetchLimits()
        self._lookup = lookup or _system_lookup
        self._loopback_ports = frozenset(test_only_loopback_ports)

    async def __aenter__(self) -> SafeFetcher:
        connector = aiohttp.TCPConnector(
            limit=0,
            force_close=True,
            use_dns_cache=False,
            resolver=_CheckedResolver(self._lookup, self._check_address),
            socket_factory=self._open_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=_HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,  # a proxy would connect to whatever it resolves
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()

    async def fetch(self, url: str) -> Page:
        """Fetch a page, following redirects by hand with the same checks on every hop.

        Raises:
            RequestError: the URL or a redirect is unsafe, a cap is reached, the server fails or says no, or the body
                is not text.
        """
        with named_failures():
            async with asyncio.timeout(self._limits.total_s):
                return await self._follow(self.checked(url))

    async def _follow(self, url: URL) -> Page:
        for _ in range(self._limits.redirects + 1):
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status in (301, 302, 303, 307, 308):
                    target = response.headers.get("Location")
                    if not target:
                        raise RequestError("unreadable", f"HTTP {response.status} without a Location")
                else:
                    page = await self._read(url, response)
                    target = page.leads_to(response.headers.get("Refresh"))
                    if not target or self.checked(target, base=url) == url:  # it only renews itself
                        return page
            url = self.checked(target, base=url)
        raise RequestError("redirects", f"more than {self._limits.redirects} redirects")

    def checked(self, text: str, base: URL | None = None) -> URL:
        """Parse a URL, once for checking and connecting, and refuse what is unsafe in its spelling.

        Raises:
            RequestError: it is unsafe; ``kind`` is ``refused``.
        """
        if len(text) > _MAX_URL_CHARS:
            raise RequestError("refused", f"a URL of {len(text)} characters; at most {_MAX_URL_CHARS}")
        try:
            url = URL(text.strip())
            url = (base.join(url) if base else url).with_fragment(None)
            host, port = url.raw_host, 0 if url.explicit_port == 0 else url.port  # which yarl 1.17 takes for 80
        except ValueError as error:  # UnicodeError is one
            raise RequestError("refused", f"not a valid URL: {error}") from error
        if url.scheme not in ("http", "https"):
            raise RequestError("refused", f"scheme {url.scheme or 'missing'!r}; only http and https are allowed")
        if not host:
            raise RequestError("refused", "the URL names no host")
        if "@" in url.raw_authority or _USER.match(text):  # yarl drops an empty name
            raise RequestError("refused", "the URL holds a user name or password")
        if port not in _PORTS and port not in self._loopback_ports:
            raise RequestError("refused", f"port {port}; only 80 and 443 are allowed")
        if is_disguised(host) or "%" in host:
            raise RequestError("refused", f"{host!r} is a disguised address")
        if _is_numeric(host):  # does not pass through the resolver
            self._check_address(host, port)
        return url

    def _check_address(self, address: str, port: int | None) -> None:
        """Refuse an address outside the public internet."""
        if is_public(address):
            return
        if port not in self._loopback_ports or not ipaddress.ip_address(address).is_loopback:
            raise RequestError("refused", f"{address} is not on the public internet")

    def _open_socket(self, address: tuple[int, int, int, str, tuple[str, int]]) -> socket.socket:
        """Open the socket of a connection, unless its address was never checked: the last gate."""
        family, kind, protocol, _, (host, port, *_) = address
        self._check_address(host, port)
        return socket.socket(family, kind, protocol)

    async def _read(self, url: URL, response: aiohttp.ClientResponse) -> Page:
        """Read the body of a final reply within the caps."""
        if not 200 <= response.status < 300:
            raise refusal_of(response)
        header = Message()
        header["Content-Type"] = response.headers.get("Content-Type", "").partition(",")[0]  # some name it twice
        content_type = header.get_content_type() if _MEDIA_TYPE.match(header["Content-Type"]) else ""
        is_text = not content_type or _TEXT_TYPES.fullmatch(content_type)
        if not is_text and not _PERHAPS_PDF.fullmatch(content_type):
            raise RequestError("unreadable", f"{content_type}, and only text can be read")
        body = await read_body(response, self._limits.wire_bytes, self._limits.decoded_bytes)
        if not is_text and not is_pdf(body):
            raise RequestError("unreadable", f"{content_type}, and only text can be read")
        if not content_type and b"\0" in body[:1024] and not is_pdf(body) and not body.startswith(_WIDE_MARKS):
            raise RequestError("unreadable", "binary data, and only text can be read")
        return Page(str(url), content_type, body, header.get_content_charset())


@contextmanager
def named_failures() -> Iterator[None]:
    """Turn what goes wrong between two machines into a ``RequestError``."""
    try:
        yield
    except TimeoutError as error:
        raise RequestError("timeout", "no complete reply in time") from error
    except aiohttp.ClientPayloadError as error:
        raise RequestError("connection", "the connection broke off within the reply") from error
    except aiohttp.ClientResponseError as error:
        raise RequestError("unreadable", "no valid HTTP reply", retryable=True) from error
    except (aiohttp.ClientError, OSError) as error:
        raise RequestError("connection", f"no connection: {error}") from error


class _CheckedResolver(AbstractResolver):
    """Resolves a name and refuses it if any of its addresses is closed; aiohttp connects to what it returns."""

    def __init__(self, lookup: Lookup, check: Callable[[str, int | None], None]) -> None:
        self._lookup = lookup
        self._check = check

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await self._lookup(host, port)
        if not addresses:
            raise RequestError("connection", f"{host} has no address", retryable=False)
        for address in addresses:
            self._check(address, port)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held open."""


class _Decompressor:
    """Undoes the content encoding of a body in steps that never exceed the cap, however small the input."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self._encoding = encoding.strip().lower()
        if self._encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise RequestError("unreadable", f"content encoding {encoding!r} was not asked for")
        self._stream = None if self._encoding in ("", "identity") else zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._max_bytes = max_bytes
        self._left = max_bytes
        self._begun = False
        self._members = 0

    def parts(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what a chunk of the body decodes to."""
        while chunk:
            part, chunk = (chunk, b"") if self._stream is None else self._inflate(self._stream, chunk)
            self._left -= len(part)
            if self._left < 0:
                raise RequestError("too_large", f"more than {self._max_bytes:,} bytes once decompressed")
            yield part

    def _inflate(self, stream: zlib._Decompress, chunk: bytes) -> tuple[bytes, bytes]:
        """Decompress at most one byte more than is left, and return it with the input still to be read."""
        try:
            part = stream.decompress(chunk, self._left + 1)
        except zlib.error as error:
            if self._members:
                return b"", b""  # junk behind a whole body, as browsers ignore it
            if self._begun or self._encoding != "deflate":
                raise RequestError("unreadable", f"damaged {self._encoding} data", retryable=True) from error
            # "deflate" is sent with and without the zlib frame.
            self._stream, self._begun = zlib.decompressobj(-zlib.MAX_WBITS), True
            return b"", chunk
        self._begun = True
        if stream.eof:  # a gzip body may have several members
            self._stream, self._members = zlib.decompressobj(zlib.MAX_WBITS | 32), self._members + 1
            return part, stream.unused_data
        return part, stream.unconsumed_tail


async def _system_lookup(host: str, port: int) -> list[str]:
    """Ask the system's resolver for the addresses of a host."""
    try:
        answers = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        passing = getattr(error, "errno", None) == socket.EAI_AGAIN
        raise RequestError("connection", f"{host} cannot be resolved", retryable=passing) from error
    return [str(address[0]) for *_, address in answers]


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def refusal_of(response: aiohttp.ClientResponse, detail: str = "") -> RequestError:
    """Describe a reply whose status says no."""
    return RequestError(
        "status",
        f"HTTP {response.status}{detail and ': '}{detail}",
        status=response.status,
        retry_after_s=retry_after_s(response.headers.get("Retry-After")),
    )


def retry_after_s(header: str | None) -> float | None:
    """Read a Retry-After header, in either of its forms, as seconds from now; None if it is absent or neither."""
    if header is None:
        return None
    if re.fullmatch(r"\s*\d{1,6}(\.\d+)?\s*", header):
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


async def read_body(response: aiohttp.ClientResponse, wire_bytes: int, decoded_bytes: int) -> bytes:
    """Read and decompress a body within two caps.

    Raises:
        RequestError: a cap is reached, or the data is damaged or in an encoding that was not asked for.
    """
    decoder = _Decompressor(response.headers.get("Content-Encoding", ""), decoded_bytes)
    body, received = bytearray(), 0
    async for chunk in response.content.iter_any():
        received += len(chunk)
        if received > wire_bytes:
            raise RequestError("too_large", f"more than {wire_bytes:,} bytes")
        for part in decoder.parts(chunk):
            body += part
    return bytes(body)
