import asyncio

import pytest

from src.gisa.agent.cost import Account, CeilingReachedError, PriceList, Step, Usage
from src.gisa.agent.fetch import RequestError
from src.gisa.agent.metering import Meter
from src.gisa.agent.payment import Payment, Terms
from src.launch.errors import InputError

PRICES = PriceList(date="2026-01-31", models={"m": {"prompt": 1, "completion": 2}})
ASKED = ([{"role": "user", "content": "Where is Lima?"}], ())  # 4 tokens of o200k_base, and 8 around them
PROMPT = 12


def payment(account, meter=None, **terms):
    step = Step(account)
    settings = {"prices": PRICES, "model": "m", "server": "", "most": 1000, "field": "max_tokens", **terms}
    return Payment(Terms(**settings), meter or Meter(), step, "chain", ASKED), step


def attempt(paying, *, raises=None, told=None):
    """Go through one attempt; return the fields it adds to the request."""

    async def main():
        async with paying.hold() as fields:
            if raises:
                raise raises
            paying.book(told, {"content": "Peru"})
        return fields

    return asyncio.run(main())


def test_what_the_server_tells_is_booked():
    paying, step = payment(Account("question", 1.0))
    assert attempt(paying, told=Usage(20, 10, cached=5, reasoning=3)) == {}
    (charge,) = step.charges
    assert (charge.prompt_tokens, charge.completion_tokens, charge.cached_tokens) == (20, 10, 5)
    assert (charge.reasoning_tokens, charge.estimated) == (3, False)
    assert step.account.spent_usd == pytest.approx((20 + 2 * 10) / 1e6)


@pytest.mark.parametrize(
    "error",
    [asyncio.CancelledError(), RequestError("timeout", "late"), RequestError("unreadable", "half", retryable=True)],
)
@pytest.mark.parametrize("ceiling", [None, 1.0])
def test_an_attempt_that_is_broken_off_is_booked_by_estimate_as_the_server_charges_for_it(error, ceiling):
    meter = Meter()
    meter.usage(Usage(PROMPT, 40), meter.size(*ASKED), {"content": "x"})
    paying, step = payment(Account("question", ceiling), meter)
    with pytest.raises(type(error)):
        attempt(paying, raises=error)
    (charge,) = step.charges
    # The prompt as counted here, and a reply as long as the one before: 12 + 2 * 40.
    assert (charge.prompt_tokens, charge.completion_tokens, charge.estimated) == (PROMPT, 40, True)
    assert step.account.spent_usd == pytest.approx(92e-6)
    assert step.account._reserved_usd == 0


@pytest.mark.parametrize(
    "error", [RequestError("connection", "none"), RequestError("status", "HTTP 429", status=429), ValueError()]
)
def test_an_attempt_that_no_server_worked_on_costs_nothing(error):
    paying, step = payment(Account("question", 1.0))
    with pytest.raises(type(error)):
        attempt(paying, raises=error)
    assert step.charges == []


def test_a_cancelled_wait_for_money_costs_nothing():
    async def main():
        account = Account("question", 0.01)
        paying, step = payment(account)
        async with account.hold(0.0099):
            waiting = asyncio.ensure_future(paying.hold().__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        return step.charges, account._reserved_usd

    assert asyncio.run(main()) == ([], 0)


def test_where_money_is_short_the_request_says_how_long_its_reply_may_be():
    # The JSON of the prompt has 45 bytes; 0.0015 USD are 1500 millionths: (1500 - 45) / 2 tokens.
    paying, _ = payment(Account("question", 0.0015), Meter())
    paying._meter.longest_reply = 100
    fields = attempt(paying, told=Usage(PROMPT, 5))
    assert fields["max_tokens"] == pytest.approx(727, abs=3)
    assert paying.was_short
    thinking, _ = payment(Account("question", 0.0015), least=800)
    thinking._meter.longest_reply = 100
    with pytest.raises(CeilingReachedError):
        attempt(thinking)


def test_a_ceiling_without_a_price_is_refused():
    paying, _ = payment(Account("question", 1.0), model="new")
    with pytest.raises(InputError, match="does not know 'new', so no ceiling holds"):
        attempt(paying)
