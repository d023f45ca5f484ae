"""All traffic of a run: pages and services, with retries in this one place and a limit for every host."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

import aiohttp
from yarl import URL

from src.gisa.agent.cost import Part, Step
from src.gisa.agent.fetch import FetchLimits, Page, RequestError, SafeFetcher, named_failures, read_body, refusal_of
from src.gisa.agent.reading import PageReader, ReadingLimits
from src.gisa.agent.stops import Stop, stop_of, stopped
from src.gisa.agent.streams import decoded
from src.gisa.agent.waits import asked_wait_s
from src.launch.errors import InputError
from src.launch.values import Count, Weight

T = TypeVar("T")
_MAX_REPLY_BYTES = 50_000_000
_SHORTEST_FORM = 8  # of a key in base64; shorter ones are words
_SPREAD = 0.1  # of the wait that a server asks for
_SHORTEST_WINDOW = 8  # replies
_TOLERATED = 1 / 8  # share of refusals in a window; with fewer, more requests are tried
_BUSY = (429, 503, 529)  # too many requests, unavailable, Anthropic's overloaded


class Key:
    """An API key that stays in the environment: it is read for every request and kept nowhere.

    Args:
        variable: Environment variable that holds it; None for a service without keys.
        header: Where the service expects it.
        prefix: What stands before it there.

    Raises:
        InputError: the variable is not set, or holds what no header can carry.
    """

    def __init__(self, variable: str | None, *, header: str = "Authorization", prefix: str = "Bearer ") -> None:
        self.variable, self._header, self._prefix = variable, header, prefix
        if variable is not None and not (self._value().isascii() and self._value().isprintable() and self._value()):
            raise InputError(
                f"The environment variable {variable} holds no API key.\nSet it:  export {variable}=<your key>\n"
                "or name another one with key_env=...; key_env=null is for servers that need none."
            )

    def headers(self) -> dict[str, str]:
        """Return the header that carries it."""
        return {self._header: self._prefix + self._value()} if self.variable else {}

    def redact(self, text: str) -> str:
        """Take the key out of a text that a service sent back: plain, in a URL, in JSON, or in base64."""
        lower = text.lower()
        for form in _forms_of(self._value()) if self.variable and self._value() else ():
            if form.lower() in lower:
                text = re.sub(re.escape(form), "[key]", text, flags=re.IGNORECASE)
        return text

    def _value(self) -> str:
        return os.environ.get(self.variable or "", "").strip()


def _forms_of(value: str) -> set[str]:
    """Return what gives a key away wherever it stands in a longer text, however that is encoded."""
    forms = {value, quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1]}
    for shift in range(3):  # base64 turns three bytes into four characters, so that it depends on what stands before
        encoded = b64encode(bytes(shift) + value.encode()).decode().rstrip("=")
        inner = encoded[-(-4 * shift // 3) : len(encoded) - bool((shift + len(value)) % 3)]
        forms |= {inner, inner.translate(str.maketrans("+/", "-_"))} if len(inner) >= _SHORTEST_FORM else set()
    return forms


def _unescaped(text: str) -> str:
    """Undo what JSON may do to the characters of a key or a wording, in a text that need not be JSON."""
    code = r"\\u(00[2-7][0-9a-f]|(?!00|d[89a-f])[0-9a-f]{4})"  # no control characters, no halves of a pair
    return re.sub(code, lambda code: chr(int(code[1], 16)), text, flags=re.IGNORECASE).replace("\\/", "/")


@dataclass(eq=False)
class Web:
    """The connections of one process; to be used as an async context manager.

    Attributes:
        attempts: Tries of one request, the first included.
        base_delay_s: Longest wait before the second try; it doubles with every further one.
        max_delay_s: Longest wait of all. A server that asks for more ends the request.
        concurrency_per_host: Most requests under way to one host for one purpose; see ``Gate``.
        limits: Caps of a page.
        reading: Caps of parsing it.
        test_only_loopback_ports: See ``SafeFetcher``.
    """

    attempts: Count = 5
    base_delay_s: Weight = 1.0
    max_delay_s: Weight = 60.0
    concurrency_per_host: Count = 64
    limits: FetchLimits | None = None
    reading: ReadingLimits | None = None
    test_only_loopback_ports: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Set up what reads pages."""
        self._gates: dict[str, Gate] = {}
        self._answered: set[str] = set()  # services that have taken a request
        self.fetcher = SafeFetcher(self.limits, test_only_loopback_ports=self.test_only_loopback_ports)
        self.reader = PageReader(self.reading)

    async def __aenter__(self) -> Web:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Accept-Encoding": "gzip, deflate"},
            timeout=aiohttp.ClientTimeout(total=None),
        )
        await self.fetcher.__aenter__()
        await self.reader.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()
        await self.fetcher.__aexit__()
        await self.reader.__aexit__()

    async def page(self, url: str, step: Step) -> Page:
        """Fetch a page at a URL that may be hostile.

        Raises:
            RequestError: see ``SafeFetcher.fetch``; what may pass was tried again.
        """
        return await self._try(_Target(self.fetcher.checked(url), None), lambda: self.fetcher.fetch(url), step)

    async def call(
        self,
        url: str,
        parse: Callable[[Any], T],
        step: Step,
        *,
        body: Mapping[str, Any] | None = None,
        key: Key,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
        refused: Callable[[int, str], Exception | None] = lambda status, text: None,
        part: Part | None = None,
        hold: Callable[[], AbstractAsyncContextManager[Mapping[str, Any]]] = lambda: nullcontext({}),
    ) -> T:
        """Send a request to a service whose address is in the config, and parse its JSON reply, streamed or not.

        Args:
            url: Where to.
            parse: Turns the decoded reply into the result; a ``RequestError`` of it counts as one of the service.
            step: Where failed attempts are noted.
            body: Sent as JSON with POST; None sends a GET.
            key: The service's key.
            headers: Further headers.
            timeout_s: Seconds for one attempt.
            refused: Given the status and text of a refusal, returns what is raised at once where another attempt would
                bring the same; None leaves it to the status.
            part: For whom it is; requests of other parts to the same host have a limit of their own, and what every
                request of the part would meet ends the run. None for neither.
            hold: Is entered around every attempt, money being set aside for it; yields fields to add to the body.

        Raises:
            RequestError: no attempt brought a reply that ``parse`` takes.
            InputError: the service takes no request at all: the key, the credit or the address is wrong.
        """
        target = URL(url)

        async def attempt() -> T:
            async with hold() as fields:  # until the reply is parsed, which books what it cost
                sent = None if body is None else {**body, **fields}
                text = await self._asked(target, sent, key, headers or {}, timeout_s, refused)
                try:
                    return parse(json.loads(key.redact(json.dumps(decoded(text)))))
                except (ValueError, RecursionError) as error:
                    raise RequestError("unreadable", f"not the expected JSON: {error}", retryable=True) from error

        model = body.get("model") if body else None
        return await self._try(_Target(target, part, key.variable, model), attempt, step)

    async def _asked(
        self,
        target: URL,
        sent: Mapping[str, Any] | None,
        key: Key,
        headers: Mapping[str, str],
        timeout_s: float,
        refused: Callable[[int, str], Exception | None],
    ) -> str:
        """Send one request, and return the text of its reply."""
        with named_failures():
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(
                    "GET" if sent is None else "POST",
                    target,
                    json=sent,
                    headers={**headers, **key.headers()},
                    allow_redirects=False,  # a key is for one host
                ) as response,
            ):
                raw = await read_body(response, _MAX_REPLY_BYTES, _MAX_REPLY_BYTES)
                text = raw.decode("utf-8-sig", "replace")
                if not 200 <= response.status < 300:
                    said = key.redact(_unescaped(text))
                    refusal = refusal_of(response, " ".join(said.split())[:300])
                    refusal.retry_after_s = asked_wait_s(response.headers, said)
                    raise refused(response.status, said) or refusal
        return text

    async def retried(self, url: str, attempt: Callable[[], Awaitable[T]], step: Step) -> T:
        """Make tries of anything else that has an address, such as the call of a tool; see ``call``."""
        return await self._try(_Target(URL(url), None), attempt, step)

    async def _try(self, target: _Target, attempt: Callable[[], Awaitable[T]], step: Step) -> T:
        """Make up to ``attempts`` tries with jitter between them, and note the failed ones."""
        doubted = False
        for number in range(self.attempts):
            async with self._gate(target.name) as gate:
                try:
                    result = await attempt()
                    gate.count()
                    if target.part is not None:
                        self._answered.add(target.name)
                    return result
                except RequestError as error:
                    failure = error
                    gate.count(refused=error.status in _BUSY, wait_s=min(error.retry_after_s or 0.0, self.max_delay_s))
            step.failures.append(f"{target.url.raw_host}: {failure}")
            if stop := stop_of(failure, target.part):
                # One that has taken requests before is asked once more, in case it is only confused.
                if stop == "credit" or doubted or target.name not in self._answered or self.attempts == 1:
                    raise target.stopped(stop, failure) from failure
                if number + 1 < self.attempts:
                    doubted = True
                    continue
            asked_s = failure.retry_after_s or 0.0
            if not failure.retryable or number + 1 == self.attempts or asked_s > self.max_delay_s:
                raise failure
            await asyncio.sleep(self._pause_s(asked_s, number))
        raise AssertionError("attempts is at least 1")

    def _pause_s(self, asked_s: float, number: int) -> float:
        """Return how long to wait: what the server asked, and a little not to come back all at once; else jitter."""
        longest_s = min(self.max_delay_s, self.base_delay_s * 2**number)
        return asked_s + random.uniform(0, min(longest_s, _SPREAD * asked_s) if asked_s else longest_s)

    @asynccontextmanager
    async def _gate(self, name: str) -> AsyncIterator[Gate]:
        """Wait for a place among a target's requests; gates without memory of any trouble are dropped when idle."""
        gate = self._gates.setdefault(name, Gate(self.concurrency_per_host))
        async with gate:
            yield gate
        if gate.is_idle and self._gates.get(name) is gate:
            del self._gates[name]


@dataclass(frozen=True)
class _Target:
    """Whom a request goes to, what for, and by which key and model."""

    url: URL
    part: Part | None
    variable: str | None = None
    model: str | None = None

    @property
    def name(self) -> str:
        """What shares a limit: one server, one purpose."""
        return f"{self.url.origin()} {self.part}"

    def stopped(self, stop: Stop, failure: RequestError) -> InputError:
        assert self.part is not None
        return stopped(stop, failure, self.part, str(self.url), self.variable, self.model)


class Gate:
    """Lets a limited number of requests through to one target, and learns how many it takes.

    Additive increase, and one multiplicative decrease a window, by the share of refusals in it, as DCTCP has it
    (RFC 8257): halving at every refusal, as for a line that never refuses by chance, would leave a server that turns
    one request in twenty away a tenth of its speed. A window is as many replies as requests may be under way. A refused
    request itself waits as long as it was told; all wait only when most are refused. The figures are our choice.
    """

    def __init__(self, most: int) -> None:
        self.limit = self._most = float(most)
        self._active = self._waiting = 0
        self._replies = self._refused = 0
        self._asked_s = self._closed_until = 0.0
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Gate:
        self._waiting += 1
        try:
            async with self._changed:
                while (pause_s := self._closed_until - time.monotonic()) > 0 or self._active >= int(self.limit):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(pause_s if pause_s > 0 else 1.0):  # one that is woken may be gone
                            await self._changed.wait()
                self._active += 1
        finally:
            self._waiting -= 1
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._active -= 1
        if self._waiting:
            async with self._changed:
                self._changed.notify(max(1, int(self.limit) - self._active))

    def count(self, *, refused: bool = False, wait_s: float = 0.0) -> None:
        """Note a reply; at the end of a window, let more or fewer through.

        Args:
            refused: Whether the server had too much to do.
            wait_s: Seconds it asked to wait.
        """
        self._replies += 1
        self._refused += refused
        self._asked_s = max(self._asked_s, wait_s if refused else 0.0)
        if self._replies < max(_SHORTEST_WINDOW, int(self.limit)):
            return
        share = self._refused / self._replies
        if share > _TOLERATED:
            self.limit = max(1.0, self.limit * (1 - share / 2))
        else:
            self.limit = min(self._most, self.limit + max(1.0, self._most / 16))
        if share > 0.5:
            self._closed_until = time.monotonic() + self._asked_s
        self._replies = self._refused = 0
        self._asked_s = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost by forgetting it."""
        busy = self._active or self._waiting or self.limit < self._most
        return not busy and self._closed_until < time.monotonic()
