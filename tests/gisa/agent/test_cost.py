import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.gisa.agent.cost import Account, CeilingReachedError, Charge, PriceList, Step
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


@settings(deadline=None)
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
