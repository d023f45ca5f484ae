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
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

import aiohttp
from yarl import URL

from src.gisa.agent.cost import Step
from src.gisa.agent.fetch import FetchLimits, Page, RequestError, SafeFetcher, named_failures, read_body, refusal_of
from src.launch.errors import InputError
from src.launch.values import Count, Weight

T = TypeVar("T")
_MAX_REPLY_BYTES = 50_000_000
_SHORTEST_FORM = 8  # of a key in base64; shorter ones are words


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
        self._variable, self._header, self._prefix = variable, header, prefix
        if variable is not None and not (self._value().isascii() and self._value().isprintable() and self._value()):
            raise InputError(
                f"The environment variable {variable} holds no API key.\nSet it:  export {variable}=<your key>\n"
                "or name another one with key_env=...; key_env=null is for servers that need none."
            )

    def headers(self) -> dict[str, str]:
        """Return the header that carries it."""
        return {self._header: self._prefix + self._value()} if self._variable else {}

    def redact(self, text: str) -> str:
        """Take the key out of a text that a service sent back: plain, in a URL, in JSON, or in base64."""
        lower = text.lower()
        for form in _forms_of(self._value()) if self._variable and self._value() else ():
            if form.lower() in lower:
                text = re.sub(re.escape(form), "[key]", text, flags=re.IGNORECASE)
        return text

    def _value(self) -> str:
        return os.environ.get(self._variable or "", "").strip()


def _forms_of(value: str) -> set[str]:
    """Return what gives a key away wherever it stands in a longer text, however that is encoded."""
    forms = {value, quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1]}
    for shift in range(3):  # base64 turns three bytes into four characters, so that it depends on what stands before
        encoded = b64encode(bytes(shift) + value.encode()).decode().rstrip("=")
        inner = encoded[-(-4 * shift // 3) : len(encoded) - bool((shift + len(value)) % 3)]
        forms |= {inner, inner.translate(str.maketrans("+/", "-_"))} if len(inner) >= _SHORTEST_FORM else set()
    return forms


def _unescaped(text: str) -> str:
    """Undo what JSON may do to the characters of a key, in a text that need not be JSON."""
    return re.sub(r"\\u00([2-7][0-9a-f])", lambda code: chr(int(code[1], 16)), text, flags=re.I).replace("\\/", "/")


@dataclass(eq=False)
class Web:
    """The connections of one process; to be used as an async context manager.

    Attributes:
        attempts: Tries of one request, the first included.
        base_delay_s: Longest wait before the second try; it doubles with every further one.
        max_delay_s: Longest wait of all. A server that asks for more ends the request.
        concurrency_per_host: Most requests under way to one host; halved when it answers 429.
        limits: Caps of a page.
        test_only_loopback_ports: See ``SafeFetcher``.
    """

    attempts: Count = 5
    base_delay_s: Weight = 1.0
    max_delay_s: Weight = 60.0
    concurrency_per_host: Count = 64
    limits: FetchLimits | None = None
    test_only_loopback_ports: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Set up what reads pages."""
        self._gates: dict[str, Gate] = {}
        self.fetcher = SafeFetcher(self.limits, test_only_loopback_ports=self.test_only_loopback_ports)

    async def __aenter__(self) -> Web:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Accept-Encoding": "gzip, deflate"},
            timeout=aiohttp.ClientTimeout(total=None),
        )
        await self.fetcher.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()
        await self.fetcher.__aexit__()

    async def page(self, url: str, step: Step) -> Page:
        """Fetch a page at a URL that may be hostile.

        Raises:
            RequestError: see ``SafeFetcher.fetch``; what may pass was tried again.
        """
        host = self.fetcher.checked(url).raw_host or ""
        return await self._try(host, lambda: self.fetcher.fetch(url), step)

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
    ) -> T:
        """Send a request to a service whose address is in the config, and parse its JSON reply.

        Args:
            url: Where to.
            parse: Turns the decoded reply into the result; a ``RequestError`` of it counts as one of the service.
            step: Where failed attempts are noted.
            body: Sent as JSON with POST; None sends a GET.
            key: The service's key.
            headers: Further headers.
            timeout_s: Seconds for one attempt.

        Raises:
            RequestError: no attempt brought a reply that ``parse`` takes.
        """
        target = URL(url)

        async def attempt() -> T:
            with named_failures():
                async with (
                    asyncio.timeout(timeout_s),
                    self._session.request(
                        "GET" if body is None else "POST",
                        target,
                        json=body,
                        headers={**(headers or {}), **key.headers()},
                        allow_redirects=False,  # a key is for one host
                    ) as response,
                ):
                    text = (await read_body(response, _MAX_REPLY_BYTES, _MAX_REPLY_BYTES)).decode("utf-8", "replace")
                    if response.status != 200:
                        raise refusal_of(response, " ".join(key.redact(_unescaped(text)).split())[:300])
            try:
                return parse(json.loads(key.redact(json.dumps(json.loads(text)))))
            except (ValueError, RecursionError) as error:
                raise RequestError("unreadable", f"not the expected JSON: {error}", retryable=True) from error

        return await self._try(target.raw_host or "", attempt, step)

    async def retried(self, url: str, attempt: Callable[[], Awaitable[T]], step: Step) -> T:
        """Make tries of anything else that has an address, such as the call of a tool; see ``call``."""
        return await self._try(URL(url).raw_host or url, attempt, step)

    async def _try(self, host: str, attempt: Callable[[], Awaitable[T]], step: Step) -> T:
        """Make up to ``attempts`` tries with full jitter between them, and note the failed ones."""
        for number in range(self.attempts):
            async with self._gate(host) as gate:
                began = time.monotonic()
                try:
                    result = await attempt()
                    gate.succeeded()
                    return result
                except RequestError as error:
                    failure = error
                    if error.status == 429:
                        gate.slow_down(began, min(error.retry_after_s or 0.0, self.max_delay_s))
            step.failures.append(f"{host}: {failure}")
            asked_s = failure.retry_after_s or 0.0
            if not failure.retryable or number + 1 == self.attempts or asked_s > self.max_delay_s:
                raise failure
            longest_s = min(self.max_delay_s, self.base_delay_s * 2**number)
            await asyncio.sleep(asked_s + random.uniform(0, longest_s))
        raise AssertionError("attempts is at least 1")

    @asynccontextmanager
    async def _gate(self, host: str) -> AsyncIterator[Gate]:
        """Wait for a place among a host's requests; gates without memory of any trouble are dropped when idle."""
        gate = self._gates.setdefault(host, Gate(self.concurrency_per_host))
        async with gate:
            yield gate
        if gate.is_idle and self._gates.get(host) is gate:
            del self._gates[host]


class Gate:
    """Lets a limited number of requests through to one host: halved at each refusal, growing again with successes.

    Additive increase, multiplicative decrease, as TCP does; our choice.
    """

    def __init__(self, most: int) -> None:
        self.limit = self._most = float(most)
        self._active = self._waiting = 0
        self._closed_until = self._slowed_at = 0.0
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Gate:
        self._waiting += 1
        try:
            async with self._changed:
                while (pause_s := self._closed_until - time.monotonic()) > 0 or self._active >= int(self.limit):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(pause_s if pause_s > 0 else None):
                            await self._changed.wait()
                self._active += 1
        finally:
            self._waiting -= 1
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._active -= 1
        if self._waiting:
            async with self._changed:
                self._changed.notify_all()

    def succeeded(self) -> None:
        """Let slowly more through; a full round of successes adds one."""
        self.limit = min(self._most, self.limit + 1 / self.limit)

    def slow_down(self, began: float, wait_s: float) -> None:
        """Halve the limit, once for all requests that were under way together, and let none through for a while.

        ``began`` is when the refused request was let through, on the monotonic clock.
        """
        now = time.monotonic()
        self._closed_until = max(self._closed_until, now + wait_s)
        if began > self._slowed_at:
            self.limit = max(1.0, self.limit / 2)
            self._slowed_at = now

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost by forgetting it."""
        busy = self._active or self._waiting or self.limit < self._most
        return not busy and self._closed_until < time.monotonic()
