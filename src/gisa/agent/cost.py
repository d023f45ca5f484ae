"""What calls cost: a dated price list, charges, and accounts that refuse a call before it breaks their ceiling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from src.launch.errors import InputError
from src.launch.values import Weight

Part = Literal["chain", "extractor", "compaction", "search", "page"]
_MILLION = 1_000_000


class CeilingReachedError(Exception):
    """A call that could have cost more than is left to the ``account``, and was not made."""

    def __init__(self, account: str, ceiling_usd: float) -> None:
        super().__init__(f"the ceiling of {ceiling_usd:g} USD per {account} does not cover the next call")
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

    @property
    def is_limited(self) -> bool:
        """Whether there is a ceiling to keep."""
        return self.ceiling_usd is not None or (self.parent is not None and self.parent.is_limited)

    @contextmanager
    def reserve(self, most_usd: float) -> Iterator[None]:
        """Hold back the most that a call can cost while it is under way.

        Raises:
            CeilingReachedError: this account or its parent has less than that left.
        """
        if self.ceiling_usd is not None and self.spent_usd + self._reserved_usd + most_usd > self.ceiling_usd:
            raise CeilingReachedError(self.name, self.ceiling_usd)
        self._reserved_usd += most_usd
        try:
            if self.parent:
                with self.parent.reserve(most_usd):
                    yield
            else:
                yield
        finally:
            self._reserved_usd -= most_usd

    def spend(self, usd: float) -> None:
        """Book what a call did cost."""
        self.spent_usd += usd
        if self.parent:
            self.parent.spend(usd)


@dataclass(frozen=True)
class Charge:
    """What one call used.

    Attributes:
        part: ``chain`` for the agent's own model, ``extractor`` for the model that reads pages,
            ``compaction`` for notes on what is left out, ``search``, ``page``.
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written.
        usd: Price; None if the price list does not know it.
    """

    part: Part
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = 0.0


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


class Price(TypedDict):
    """What a model costs, USD per million tokens."""

    prompt: Weight
    completion: Weight


@dataclass
class PriceList:
    """Prices of models and services on a day.

    Attributes:
        date: Day the prices were valid on, ``YYYY-MM-DD``; shown beside every cost.
        models: By the name of the model.
        search: USD per search request.
        page: USD per page request.

    Raises:
        InputError: an entry of ``models`` is not of that form.
    """

    date: str
    models: Mapping[str, Price] | None = None
    search: Weight = 0.0
    page: Weight = 0.0

    def __post_init__(self) -> None:
        """Read the models' prices."""
        self._models: dict[str, tuple[float, float]] = {}
        for name, price in (self.models or {}).items():
            try:
                self._models[name] = float(price["prompt"]), float(price["completion"])
            except (TypeError, KeyError, ValueError) as error:
                raise InputError(
                    f"agent.prices.models[{name!r}] is {price!r}. I need USD per million tokens:\n"
                    f"  {name}: {{prompt: 3.0, completion: 15.0}}"
                ) from error

    def usd(self, model: str, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return the price of a call, None if the list does not know the model."""
        if model not in self._models:
            return None
        prompt, completion = self._models[model]
        return (prompt * prompt_tokens + completion * completion_tokens) / _MILLION
