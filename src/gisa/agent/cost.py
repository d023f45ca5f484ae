"""What calls cost: a dated price list, charges, and accounts that refuse a call before it breaks their ceiling."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal, TypedDict

from src.launch.errors import InputError
from src.launch.values import Weight

Part = Literal["chain", "extractor", "compaction", "search", "page", "judge"]
_MILLION = 1_000_000
_ROUNDING = 1e-9  # USD, of sums of fractions


class CeilingReachedError(Exception):
    """A call that could have cost more than is left to the ``account``, and was not made."""

    def __init__(self, account: str, ceiling_usd: float, most_usd: float | None = None) -> None:
        call = "the next call" if most_usd is None else f"the next call, of up to {most_usd:.4f} USD"
        super().__init__(f"the ceiling of {ceiling_usd:g} USD per {account} does not cover {call}")
        self.account = account


@dataclass
class Account:
    """Money spent by a question or a run; what a question spends, its run spends too.

    Attributes:
        name: ``question`` or ``run``.
        ceiling_usd: Never exceeded by calls that were reserved; None for no ceiling.
        parent: The account that is charged as well.
        spent_usd: So far; what was spent before it was opened is already booked with the parent.
    """

    name: str
    ceiling_usd: float | None
    parent: Account | None = None
    spent_usd: float = field(default=0.0, kw_only=True)
    _reserved_usd: float = field(default=0.0, init=False)
    _calls: int = field(default=0, init=False)
    _waiting: list[tuple[Account, asyncio.Future[None]]] = field(default_factory=list, init=False)

    @property
    def is_limited(self) -> bool:
        """Whether there is a ceiling to keep."""
        return any(account.ceiling_usd is not None for account in self._chain)

    def left_usd(self, *, reserved: bool = False) -> float:
        """Return what this account and its parents have left, with or without what calls under way may take."""
        return min(account._left_usd(reserved=reserved) for account in self._chain)

    @contextmanager
    def reserve(self, most_usd: float) -> Iterator[None]:
        """Hold back the most that a call can cost while it is under way.

        Raises:
            CeilingReachedError: this account or a parent has less than that left now.
        """
        for account in self._chain:
            if most_usd > account._left_usd(reserved=False) + _ROUNDING:
                raise CeilingReachedError(account.name, account.ceiling_usd or 0.0, most_usd)
        self._hold(most_usd, +1)
        try:
            yield
        finally:
            self._hold(-most_usd, -1)
            # Who has spent most comes first: money is better in answers than in many beginnings.
            for _, waiting in sorted(self._chain[-1]._waiting, key=lambda one: -one[0].spent_usd):
                if not waiting.done():
                    waiting.set_result(None)

    @asynccontextmanager
    async def hold(self, most_usd: float, least: Callable[[], float] | None = None) -> AsyncIterator[float]:
        """Reserve for a call as ``reserve`` does, but wait while others' reservations stand in its way.

        Args:
            most_usd: What it can cost.
            least: Tells what it can be made to cost at most, in USD, where there is no more; it is asked again after
                each wait, as something may have been learnt in it. None for ``most_usd``.

        Yields:
            What was reserved: between the two.

        Raises:
            CeilingReachedError: the call does not fit, even if all others that are under way cost nothing.
        """
        while True:
            least_usd = min(most_usd, least()) if least else most_usd
            for account in self._chain:
                if least_usd > account._left_usd(reserved=True) + _ROUNDING:
                    raise CeilingReachedError(account.name, account.ceiling_usd or 0.0, least_usd)
            free_usd = self.left_usd()
            if least_usd <= free_usd + _ROUNDING:
                break
            waiting = self, asyncio.get_running_loop().create_future()
            self._chain[-1]._waiting.append(waiting)
            try:
                await waiting[1]
            finally:
                self._chain[-1]._waiting.remove(waiting)
        # Where it is short, the others get their part of it.
        alone = not any(account._calls for account in self._chain)
        granted_usd = most_usd if most_usd <= free_usd else max(least_usd, free_usd) if alone else least_usd
        with self.reserve(granted_usd):
            yield granted_usd

    def spend(self, usd: float) -> None:
        """Book what a call did cost."""
        for account in self._chain:
            account.spent_usd += usd

    @property
    def _chain(self) -> list[Account]:
        return [self, *(self.parent._chain if self.parent else ())]

    def _left_usd(self, *, reserved: bool) -> float:
        left_usd = math.inf if self.ceiling_usd is None else self.ceiling_usd - self.spent_usd
        return left_usd if reserved else left_usd - self._reserved_usd

    def _hold(self, usd: float, calls: int) -> None:
        for account in self._chain:
            account._calls += calls
            account._reserved_usd = account._reserved_usd + usd if account._calls else 0.0


@dataclass(frozen=True)
class Charge:
    """What one call used.

    Attributes:
        part: ``chain`` for the agent's own model, ``extractor`` for the model that reads pages,
            ``compaction`` for notes on what is left out, ``search``, ``page``; ``judge`` for one that labels errors.
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written.
        usd: Price; None if the price list does not know it.
        cached_tokens: Tokens read that the server had in its cache, of ``prompt_tokens``.
        reasoning_tokens: Tokens of thought, of ``completion_tokens``.
        model: The one that stood in for the policy's own; else empty.
        estimated: The server told no tokens, or the reply never came: they are counted here.
        reused: The reply was kept from before, and nothing was paid; the tokens are those it took then.
    """

    part: Part
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = 0.0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    model: str = ""
    estimated: bool = False
    reused: bool = False


@dataclass
class Step:
    """The books of one step of an episode: what it used and which attempts failed on the way.

    Attributes:
        account: Where its charges are booked.
        charges: In the order of the calls.
        failures: One line a failed attempt.
        name: Tells it from every other step of the run, the same after a restart; seeds what is drawn.
    """

    account: Account
    charges: list[Charge] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    name: str = ""

    def charge(self, charge: Charge) -> None:
        """Note and book a charge."""
        self.charges.append(charge)
        self.account.spend(charge.usd or 0.0)


class SpecialPrices(TypedDict, total=False):
    """What some of a model's tokens cost, USD per million tokens, where it is not what the others do.

    Attributes:
        cached: Tokens read from the server's cache; without it, as ``prompt``.
        cache_write: Tokens that the server puts into its cache; without it, as ``prompt``.
        reasoning: Tokens of thought; without it, as ``completion``.
    """

    cached: Weight
    cache_write: Weight
    reasoning: Weight


class Price(SpecialPrices):
    """What a model costs, USD per million tokens.

    Attributes:
        prompt: Tokens read.
        completion: Tokens written.
    """

    prompt: Weight
    completion: Weight


@dataclass(frozen=True)
class Usage:
    """Tokens of a call.

    Attributes:
        prompt: Read, those of the cache included.
        completion: Written, those of thought included.
        cached: Read from the server's cache.
        cache_write: Put into the server's cache.
        reasoning: Of thought.
    """

    prompt: int
    completion: int
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0


@dataclass
class PriceList:
    """Prices of models and services on a day.

    Attributes:
        date: Day the prices were valid on, ``YYYY-MM-DD``; shown beside every cost.
        models: By the name of the model.
        search: USD per search request.
        page: USD per page request.
        library: Whether the package ``genai-prices`` is asked for a model that is not in ``models``, for that day.

    Raises:
        InputError: an entry of ``models`` is not of that form, the package is not installed, or the date is none.
    """

    date: str
    models: Mapping[str, Price] | None = None
    search: Weight = 0.0
    page: Weight = 0.0
    library: bool = False

    def __post_init__(self) -> None:
        """Read the models' prices."""
        self._models: dict[str, dict[str, float]] = {}
        for name, price in (self.models or {}).items():
            try:
                read, written = float(price["prompt"]), float(price["completion"])
                defaults = {"cached": read, "cache_write": read, "reasoning": written}
                more = {key: float(price[key]) for key in defaults if key in price}  # type: ignore[literal-required]
                self._models[name] = {"prompt": read, "completion": written, **defaults, **more}
            except (TypeError, KeyError, ValueError) as error:
                raise InputError(
                    f"agent.prices.models[{name!r}] is {price!r}. I need USD per million tokens:\n"
                    f"  {name}: {{prompt: 3.0, completion: 15.0}}"
                ) from error
        if self.library:
            _require_library(self.date)

    @property
    def source(self) -> str:
        """Where the prices are from, for the record."""
        library = f", else genai-prices {version('genai-prices')}" if self.library else ""
        return f"config{library}, as of {self.date}"

    def usd(self, model: str, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return the price of a call, None if the list does not know the model."""
        return self.usd_of(model, Usage(prompt_tokens, completion_tokens))

    def usd_of(self, model: str, usage: Usage, server: str = "") -> float | None:
        """Return the price of a call, None if the list does not know the model.

        Args:
            model: Its name at the server.
            usage: Its tokens.
            server: Address of the server, by which the library tells who sells it.
        """
        if model in self._models:
            price = self._models[model]
            fresh = usage.prompt - usage.cached - usage.cache_write
            read = price["prompt"] * fresh + price["cached"] * usage.cached + price["cache_write"] * usage.cache_write
            spoken = usage.completion - usage.reasoning
            return (read + price["completion"] * spoken + price["reasoning"] * usage.reasoning) / _MILLION
        return _library_usd(model, usage, server, self.date) if self.library else None

    def require(self, model: str) -> InputError:
        """Return what is to be said where a ceiling needs the price of a model that the list does not know."""
        return InputError(
            f"The price list of {self.date} does not know {model!r}, so no ceiling holds.\n"
            f"Add it:  agent.prices.models:  {model}: {{prompt: <USD per million tokens>, completion: ...}}\n"
            "or take the prices that the package genai-prices knows:  agent/prices=genai\n"
            "or run without ceilings:  agent.question_usd=null agent.run_usd=null"
        )


def _require_library(date: str) -> None:
    """Refuse to go on without the package, or a date it can be asked for."""
    if find_spec("genai_prices") is None:
        raise InputError("agent/prices=genai needs genai-prices.\nInstall it:  pip install 'ilrec-gisa[agent]'")
    try:
        datetime.fromisoformat(date)
    except ValueError as error:
        raise InputError(f"agent.prices.date={date!r}: I need a day, such as 2026-11-29.") from error


def _library_usd(model: str, usage: Usage, server: str, date: str) -> float | None:
    """Look a price up in ``genai-prices``: by who sells it at that address, else by the name of the model."""
    from genai_prices import Usage as Used
    from genai_prices import calc_price

    day = datetime.fromisoformat(date).replace(tzinfo=UTC)
    used = Used(input_tokens=usage.prompt, output_tokens=usage.completion)
    used.cache_read_tokens, used.cache_write_tokens = usage.cached or None, usage.cache_write or None
    used.output_reasoning_tokens = usage.reasoning or None
    model = model.removeprefix("models/")  # as Gemini lists them
    sellers: list[dict[str, Any]] = [{"provider_api_url": server}, {}]
    sellers += [{"provider_id": name} for name in ("litellm", "aws")]  # a proxy's names, seller/model; Bedrock's
    for seller in sellers:
        with suppress(LookupError):
            return float(calc_price(used, model, genai_request_timestamp=day, **seller).total_price)
    return None
