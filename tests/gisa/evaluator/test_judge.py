"""A judge behind a real local server: its labels, its cost, and what it does not say."""

import json

import pytest

from src.gisa.agent.cost import PriceList
from src.gisa.agent.web import Web
from src.gisa.dataset.gisa import Gisa
from src.gisa.evaluator.answers import AnswerEvaluator, Predictions
from src.gisa.evaluator.judge import ErrorJudge, read_verdict
from tests.gisa.agent.servers import completion, model_server
from tests.gisa.gisa_files import question, write_suite

QUESTIONS = [question(number, "item", text=f"Which hill, {number}?", answer=[["Amber"]]) for number in range(1, 5)]
VALUES = {"1": "```tsv\nx\nAmber\n```", "2": "```tsv\nx\nBirch\n```", "3": "```tsv\nx\nCopper\n```", "4": "| x |"}
REPLIES = {
    "2": '{"cause": "link use", "why": "It did not open the page."}',
    "3": "I cannot say.",
    "4": "misunderstanding",
}
PRICES = PriceList("2026-01-01", {"m": {"prompt": 1000.0, "completion": 1000.0}})


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    suite = Gisa(str(write_suite(tmp_path_factory.mktemp("suite"), QUESTIONS)))
    predictions = Predictions(VALUES, {}, [])
    return AnswerEvaluator(resamples=20, seed=1).score(suite, predictions).questions, suite, predictions


@pytest.fixture
def label(scored, tmp_path):
    """Have the errors labelled; return the labels, the cost and the prompts."""

    def call(**changes):
        prompts = []

        async def judge(request, writer):
            prompts.append(json.loads(request.body)["messages"][0]["content"])
            return completion(next(said for key, said in REPLIES.items() if f"hill, {key}?" in prompts[-1]))

        with model_server(judge) as url:
            endpoint = ErrorJudge(url, "m", PRICES, key_env=None, web=Web(attempts=1), **changes)
            labelled, cost = endpoint.label(*scored, tmp_path)
        return {one.id: one.error and (one.error["cause"], one.error["by"]) for one in labelled}, cost, prompts

    return call


def test_errors_are_labelled_and_the_cost_is_booked_and_paid_once(label):
    labels, cost, prompts = label()
    # The right answer is not asked about; a reply that names no cause leaves the label to the rules.
    assert labels == {
        "1": None, "2": ("link_use", "judge"), "3": (None, "rules"), "4": ("misunderstanding", "judge")
    }  # fmt: skip
    assert (cost["asked"], cost["labelled"], cost["unreadable"]) == (3, 2, 1)
    # Three replies of 10 tokens read and 5 written at a tenth of a cent each.
    assert (cost["prompt_tokens"], cost["completion_tokens"]) == (30, 15)
    assert cost["usd"] == pytest.approx(0.045)
    assert all("Amber" in prompt and "<untrusted>" in prompt for prompt in prompts)
    again, cost, prompts = label()
    assert (again, prompts) == (labels, [])
    assert cost["usd"] == pytest.approx(0.045)


def test_a_judge_of_what_rules_leave_open_asks_only_that(label, scored):
    told = {one.id for one in scored[0] if one.error and one.error["cause"]}
    _, cost, _ = label(over="untold")
    assert cost["asked"] == 3 - len(told)


def test_its_ceiling_leaves_the_rest_to_the_rules(label):
    labels, cost, prompts = label(most_usd=0.0)
    assert (cost["beyond_ceiling"], prompts) == (3, [])
    assert {one and one[1] for one in labels.values()} == {None, "rules"}


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ('```json\n{"cause": "Query_Formulation", "why": "x"}\n```', "query_formulation"),
        ("The cause is link use.", "link_use"),
        ("Either extraction or link use.", None),
        ('{"cause": "bad luck"}', None),
        ("[]", None),
        ("", None),
    ],
)  # fmt: skip
def test_a_reply_is_read_or_not(said, cause):
    found = read_verdict(said)
    assert (found and found["cause"]) == cause
