"""Paying for a chat model's reply: money is set aside before every attempt, and what it took is booked after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, NamedTuple

from src.gisa.agent.cost import Charge, Part, PriceList, Step, Usage
from src.gisa.agent.fetch import RequestError
from src.gisa.agent.metering import Meter, Size

Conversation = tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]


class Terms(NamedTuple):
    """What is paid for.

    Attributes:
        prices: What tokens cost.
        model: Name of the model at its server, and in the price list.
        server: Address of the server.
        most: Tokens that a reply may have.
        field: Name of the field of a request that says so; None for a server that takes none.
        least: Tokens that a reply must be allowed, as the request sets so many aside for thought.
        stands_in: Its name, where it answers in another model's place, for the charges to say; else empty.
    """

    prices: PriceList
    model: str
    server: str
    most: int
    field: str | None
    least: int = 0
    stands_in: str = ""


class Payment:
    """The payment for one reply, which may take several attempts.

    Args:
        terms: What is paid for.
        meter: Counts tokens.
        step: Whose account it is.
        part: Whom to charge.
        conversation: What the model is to read: messages, and tools.
    """

    def __init__(self, terms: Terms, meter: Meter, step: Step, part: Part, conversation: Conversation) -> None:
        self._terms, self._meter, self._step, self._part = terms, meter, step, part
        self._conversation = conversation
        self._is_booked = False
        self.charges: list[Charge] = []
        self.tokens = terms.most  # that the last attempt allowed the reply

    @cached_property
    def _size(self) -> Size:
        return self._meter.size(*self._conversation)

    @property
    def was_short(self) -> bool:
        """Whether the last attempt allowed the reply less than it may have."""
        return self.tokens < self._terms.most

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[Mapping[str, Any]]:
        """Set aside what an attempt may cost, and yield the fields of the request by which it costs no more.

        An attempt that is broken off with the server at work on it, or whose reply cannot be read, is booked by
        estimate: servers charge for it.

        Raises:
            CeilingReachedError: the attempt does not fit into what is left.
            InputError: there is a ceiling, and the model's price is unknown.
        """
        account, meter, most = self._step.account, self._meter, self._terms.most
        self.tokens, self._is_booked = most, False
        if not account.is_limited:
            async with self._broken_off_is_booked():
                yield {}
            return
        full_usd = self._most_usd(most)

        def least() -> float:
            # Before any reply has been seen, it is better to wait than to cut one short, if waiting helps.
            may_cut = self._terms.field and (
                meter.longest_reply is not None or full_usd > account.left_usd(reserved=True)
            )
            return self._most_usd(min(most, max(meter.reply_bound(most), self._terms.least)) if may_cut else most)

        async with account.hold(full_usd, least) as granted_usd, self._broken_off_is_booked():
            if granted_usd < full_usd:
                none_usd = self._most_usd(0)
                self.tokens = max(1, int(most * (granted_usd - none_usd) / (self._most_usd(most) - none_usd)))
            yield {self._terms.field: self.tokens} if self._terms.field and self.was_short else {}

    def book(self, told: Usage | None, message: Mapping[str, Any] | None) -> None:
        """Charge an attempt.

        Args:
            told: What the server said of its tokens.
            message: The reply; None if none could be read.
        """
        self._is_booked = True
        usage, estimated = told, False
        if usage is None or not (usage.prompt and usage.completion) or self._step.account.is_limited:
            usage, estimated = self._meter.usage(told, self._size, message)
        charge = Charge(
            self._part,
            usage.prompt,
            usage.completion,
            usd=self._usd(usage),
            cached_tokens=usage.cached,
            reasoning_tokens=usage.reasoning,
            model=self._terms.stands_in,
            estimated=estimated,
        )
        self.charges.append(charge)
        self._step.charge(charge)

    @asynccontextmanager
    async def _broken_off_is_booked(self) -> AsyncIterator[None]:
        try:
            yield
        except (asyncio.CancelledError, RequestError) as error:
            at_work = isinstance(error, asyncio.CancelledError) or error.kind in ("timeout", "unreadable")
            if at_work and not self._is_booked:
                self.book(None, None)
            raise

    def _usd(self, usage: Usage) -> float | None:
        return self._terms.prices.usd_of(self._terms.model, usage, self._terms.server)

    def _most_usd(self, written: int) -> float:
        """Bound the price of an attempt whose reply has at most so many tokens."""
        most_usd = self._usd(Usage(self._meter.prompt_bound(self._size), written))
        if most_usd is None:
            raise self._terms.prices.require(self._terms.model)
        return most_usd
