import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.agent.cost import Account, CeilingReachedError, Charge, PriceList, Step, Usage
from src.launch.errors import InputError

PRICES = PriceList(date="2026-01-31", models={"big": {"prompt": 3, "completion": 15}})


def test_the_price_of_a_call_is_tokens_times_price_per_million():
    # 2000 * 3 / 1e6 + 400 * 15 / 1e6 = 0.006 + 0.006
    assert PRICES.usd("big", 2000, 400) == pytest.approx(0.012)
    assert PRICES.usd("big", 0, 0) == 0
    assert PRICES.usd("unknown", 2000, 400) is None


@pytest.mark.parametrize("price", [None, 3.0, {"prompt": 3}, {"prompt": "much", "completion": 1}])
def test_a_price_of_another_form_is_named(price):
    with pytest.raises(InputError, match=r"models\['big'\] is .*\n  big: \{prompt: 3.0, completion: 15.0\}"):
        PriceList(date="2026-01-31", models={"big": price})


def test_a_step_books_its_charges_with_the_question_and_the_run():
    run = Account("run", None)
    question = Account("question", None, run)
    step = Step(question)
    step.charge(Charge("chain", 10, 5, 0.25))
    step.charge(Charge("extractor", 10, 5, None))
    assert [charge.usd for charge in step.charges] == [0.25, None]
    assert (question.spent_usd, run.spent_usd) == (0.25, 0.25)


def test_a_call_that_could_exceed_the_ceiling_of_the_question_or_the_run_is_not_made():
    run = Account("run", 1.5)
    first, second = (Account("question", 1.0, run) for _ in range(2))
    first.spend(0.75)
    with pytest.raises(CeilingReachedError, match=r"the ceiling of 1 USD per question does not cover") as caught:
        first.reserve(0.5).__enter__()
    assert caught.value.account == "question"
    # 0.75 spent and 0.25 under way in the first question leave 0.5 of the run's 1.5 for the second.
    with first.reserve(0.25):
        with second.reserve(0.5):
            pass
        with pytest.raises(CeilingReachedError, match=r"1\.5 USD per run"):
            second.reserve(0.625).__enter__()
    with second.reserve(0.625):
        pass


def test_a_call_waits_while_others_are_under_way_and_is_refused_only_if_it_does_not_fit_alone():
    async def main():
        run, done = Account("run", 1.0), []

        async def call(name, most, cost):
            question = Account("question", None, run)
            async with question.hold(most):
                await asyncio.sleep(0)
                question.spend(cost)
                done.append(name)

        # 0.6 + 0.6 > 1, but the first of them costs only 0.1 in the end; 0.95 does not fit once that is spent.
        calls = call("first", 0.6, 0.1), call("second", 0.6, 0.2), call("large", 0.95, 0.9), call("third", 0.7, 0.7)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert done == ["first", "second", "third"]
        assert [type(result) for result in results] == [type(None), type(None), CeilingReachedError, type(None)]
        assert (run.spent_usd, run._reserved_usd, run._waiting) == (pytest.approx(1.0), 0, [])

    asyncio.run(main())


def test_where_money_is_short_a_call_gets_what_is_left_or_the_least_it_needs_if_others_are_under_way():
    async def main():
        run = Account("run", 1.0)
        async with (
            run.hold(0.5, lambda: 0.1) as full,
            run.hold(0.7, lambda: 0.1) as least,
            run.hold(0.7, lambda: 0.4) as second_least,
        ):
            assert (full, least, second_least) == (0.5, 0.1, 0.4)
        async with run.hold(3.0, lambda: 0.1) as alone:
            assert alone == 1.0
        with pytest.raises(CeilingReachedError, match=r"up to 1\.1000 USD"):
            async with run.hold(3.0, lambda: 1.1):
                pass
        waiting = asyncio.ensure_future(run.hold(0.6).__aenter__())
        async with run.hold(0.9):
            await asyncio.sleep(0)
            waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (run._calls, run._reserved_usd, run._waiting) == (0, 0, [])

    asyncio.run(main())


def test_cached_and_thought_tokens_have_prices_of_their_own():
    prices = PriceList(
        date="2026-01-31",
        models={
            "m": {"prompt": 2, "completion": 8, "cached": 0.5, "cache_write": 3, "reasoning": 4},
            "plain": {"prompt": 2, "completion": 8},
        },
    )
    usage = Usage(prompt=1000, completion=100, cached=600, cache_write=100, reasoning=40)
    # 300 * 2 + 600 * 0.5 + 100 * 3 + 60 * 8 + 40 * 4 = 600 + 300 + 300 + 480 + 160 = 1840 millionths
    assert prices.usd_of("m", usage) == pytest.approx(0.00184)
    assert prices.usd_of("plain", usage) == pytest.approx((2 * 1000 + 8 * 100) / 1e6)


def test_the_library_of_prices_is_asked_for_models_that_the_config_does_not_know():
    prices = PriceList(date="2026-11-01", models={"gpt-5.2": {"prompt": 1, "completion": 1}}, library=True)
    usage = Usage(prompt=1000, completion=100, cached=600)
    assert prices.usd_of("gpt-5.2", usage) == pytest.approx(1100 / 1e6)
    # gpt-4o: 2.5 USD per million tokens read, half of it for cached ones, 10 for written ones.
    expected = (2.5 * 400 + 1.25 * 600 + 10 * 100) / 1e6
    assert prices.usd_of("gpt-4o", usage, "https://api.openai.com/v1") == pytest.approx(expected)
    assert prices.usd_of("gpt-4o", usage, "http://127.0.0.1:8000/v1") == pytest.approx(expected)
    assert prices.usd_of("openai/gpt-4o", usage, "http://127.0.0.1:8000/v1") == pytest.approx(expected)
    gemini = "https://generativelanguage.googleapis.com/v1beta/openai"
    assert prices.usd_of("models/gemini-2.5-pro", usage, gemini) == prices.usd_of("gemini-2.5-pro", usage, gemini) > 0
    assert prices.usd_of("us.anthropic.claude-sonnet-4-5-20250929-v1:0", usage, "http://127.0.0.1:8000/v1") > 0
    assert prices.usd_of("of-our-own", usage, "http://127.0.0.1:8000/v1") is None
    assert prices.source.startswith("config, else genai-prices ")
    assert prices.source.endswith(", as of 2026-11-01")
    with pytest.raises(InputError, match=r"agent\.prices\.date='soon': I need a day"):
        PriceList(date="soon", library=True)


def test_of_those_who_wait_the_question_that_has_spent_most_comes_first():
    async def main():
        run, came = Account("run", 1.0), []

        async def call(spent):
            question = Account("question", None, run, spent_usd=spent)
            async with question.hold(0.9):
                came.append(spent)

        async with run.hold(0.5):
            waiting = [asyncio.ensure_future(call(spent)) for spent in (0.1, 0.3, 0.2)]
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)
        assert came == [0.3, 0.2, 0.1]

    asyncio.run(main())


def test_what_a_waiting_call_needs_at_least_is_asked_again_after_the_wait():
    async def main():
        run, needs = Account("run", 1.0), [0.9]

        async def second():
            async with run.hold(0.9, lambda: needs[0]) as granted:
                return granted

        async with run.hold(0.5):
            waiting = asyncio.ensure_future(second())
            await asyncio.sleep(0)
            run.spend(0.5)  # 0.9 does not fit any more
            needs[0] = 0.2
        assert await waiting == 0.5

    asyncio.run(main())


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 40), st.integers(0, 40)), max_size=40))
def test_no_sequence_of_reserved_calls_spends_more_than_a_ceiling(calls):
    run = Account("run", 100)
    questions = [Account("question", 60, run) for _ in range(2)]
    for index, most, cost in calls:
        try:
            with questions[index].reserve(most):
                questions[index].spend(min(cost, most))
        except CeilingReachedError:
            continue
    assert run.spent_usd <= 100
    assert all(question.spent_usd <= 60 for question in questions)
    assert run.spent_usd == sum(question.spent_usd for question in questions)
    assert run._reserved_usd == 0
