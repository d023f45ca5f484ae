import pytest

from src.gisa.dataset.gisa import Gisa
from src.gisa.evaluator.answers import AnswerEvaluator
from src.gisa.evaluator.predictions import Predictions
from tests.gisa.gisa_files import question, write_csv, write_suite

QUESTIONS = [
    question(1, "item", topic="rivers", answer=[["amber"]]),
    question(2, "item", topic="comets", answer=[["birch"]], stable=False),
    question(3, "set", topic="comets", answer=[["a"], ["b"]]),
    question(4, "table", topic="comets", answer=[["A"], ["1"]], stable=False),
]
RIGHT = {"1": "```tsv\nx\namber\n```", "3": "```tsv\nx\na\n```", "4": "```tsv\nA\n1\n```"}


@pytest.fixture
def suite(tmp_path):
    return Gisa(str(write_suite(tmp_path, QUESTIONS)))


def scored(suite, values, outcomes=(), contaminated=()):
    predictions = Predictions(values, dict(outcomes), [], set(contaminated))
    return AnswerEvaluator(resamples=200, seed=1).score(suite, predictions)


def means(scores, scorer="official"):
    return {(mean.part, mean.metric): mean for mean in scores.means if mean.scorer == scorer}


def test_every_part_has_its_means_and_a_missing_answer_counts_as_zero(suite):
    # Exact: 1 and 4; 2 has no answer; 3 finds one of two: precision 1, recall 1/2, F1 2/3.
    found = means(scored(suite, RIGHT))
    assert {part: round(mean.mean, 4) for part, mean in found.items()} == {
        ("all", "global_em"): 0.5, ("item", "global_em"): 0.5, ("item", "item_em"): 0.5, ("set", "global_em"): 0.0,
        ("set", "set_precision"): 1.0, ("set", "set_recall"): 0.5, ("set", "set_f1"): 0.6667,
        ("table", "global_em"): 1.0, ("table", "table_row_f1"): 1.0, ("table", "table_row_precision"): 1.0,
        ("table", "table_row_recall"): 1.0, ("table", "table_item_f1"): 1.0, ("table", "table_item_precision"): 1.0,
        ("table", "table_item_recall"): 1.0, ("stable", "global_em"): 0.5, ("live", "global_em"): 0.5,
        ("topic: comets", "global_em"): 0.3333, ("topic: rivers", "global_em"): 1.0,
    }  # fmt: skip
    whole = found["all", "global_em"]
    assert (whole.questions, whole.errors) == (4, 1)
    assert (found["live", "global_em"].questions, found["live", "global_em"].errors) == (2, 1)
    assert (found["set", "set_f1"].questions, found["set", "set_f1"].errors) == (1, 0)


def test_questions_that_came_upon_the_benchmarks_own_pages_are_also_left_out(suite):
    # Exact are 1 and 4 of four; without 1, one of three.
    scores = scored(suite, RIGHT, contaminated={"1"})
    clean = means(scores)["uncontaminated", "global_em"]
    assert (clean.questions, clean.mean) == (3, pytest.approx(1 / 3))
    assert means(scores)["all", "global_em"].mean == 0.5
    assert [question.contaminated for question in scores.questions] == [True, False, False, False]


@pytest.mark.parametrize("contaminated", [(), ("1", "2", "3", "4")])
def test_where_none_or_all_are_contaminated_there_is_no_such_part(suite, contaminated):
    assert ("uncontaminated", "global_em") not in means(scored(suite, RIGHT, contaminated=contaminated))


def test_the_interval_of_a_half_of_four_reaches_from_none_to_all(suite):
    # Four draws of a fair coin: none with probability 1/16 = 6%, more than the 2.5% below the interval.
    whole = means(scored(suite, RIGHT))["all", "global_em"]
    assert (whole.low, whole.high) == (0.0, 1.0)


def test_errors_are_counted_by_reason_and_a_wrong_answer_is_none(suite):
    values = {"1": None, "2": "wrong", "3": "x.csv", "4": ""}
    scores = scored(suite, values, {"4": "infra_error", "2": "answered"})
    assert scores.errors() == {"not_text": 1, "csv_path": 1, "infra_error": 1}
    assert [question.outcome for question in scores.questions] == [None, "answered", None, "infra_error"]


def test_a_gold_file_that_cannot_be_read_costs_its_question_only(suite):
    (suite.root / "answer" / "1.csv").write_bytes(b"\x81\xff")
    (suite.root / "answer" / "3.csv").unlink()
    scores = scored(suite, RIGHT)
    assert [question.fault for question in scores.questions] == ["gold_unreadable", None, "gold_unreadable", None]
    assert scores.summary("official")["overall_global_em"] == 0.25


def test_summaries_are_those_of_the_official_script_for_either_scorer(suite):
    scores = scored(suite, RIGHT | {"2": "Birch"})  # without a header line: right for the robust scorer only
    assert scores.summary("official")["item"] == {"num_samples": 2, "overall_item_em": 0.5, "overall_global_em": 0.5}
    assert scores.summary("robust")["item"] == {"num_samples": 2, "overall_item_em": 1.0, "overall_global_em": 1.0}
    assert scores.parity_flags() == {"no_header": 1}
    assert means(scores, "robust")["live", "global_em"].mean == 1.0


def test_the_gold_file_that_counted_is_named(suite):
    write_csv(suite.root / "snapshot" / "2026-01-01" / "4.csv", [["A"], ["2"]])
    scores = scored(Gisa(str(suite.root), "2026-01-01"), RIGHT)
    assert [question.gold for question in scores.questions][2:] == ["answer/3.csv", "snapshot/2026-01-01/4.csv"]
    assert scores.questions[3].official["global_em"] == 0
