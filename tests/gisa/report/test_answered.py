import json

import pytest

from src.gisa.dataset.gisa import Gisa
from src.gisa.report.answered import compare_rollouts, comparison_table, valid_calls
from tests.gisa.gisa_files import question
from tests.gisa.report.answered_runs import EPISODES, QUESTIONS, episode, write_answered_run

LARGE = question(5, "table", answer=[["A", "B", "C"], *([str(row), "x", "y"] for row in range(3))])
FAMILIES = {"1": (2, "oldest"), "2": (10, "above"), "5": (1, "above")}
METADATA = {key: {"hops": hops, "family": family} for key, (hops, family) in FAMILIES.items()}


@pytest.fixture
def runs(tmp_path):
    """Before, questions 1 and 3 of five, both wrong; after, 1 is right and the set lacks one of two."""
    questions = [*QUESTIONS, LARGE]
    write_answered_run(tmp_path / "after", EPISODES, questions)
    write_answered_run(tmp_path / "before", [episode(1, "x\nbirch"), EPISODES[2]], questions)
    path = tmp_path / "before/questions.jsonl"
    asked = [line for line in path.read_text().splitlines() if json.loads(line)["id"] in "13"]
    path.write_text("\n".join(asked))
    (tmp_path / "suite/suite.json").write_text(json.dumps(METADATA))
    return tmp_path


def compared(runs, before="before"):
    suite = Gisa(str(runs / "suite"))
    return compare_rollouts(suite, before and runs / before, runs / "after", seed=1, resamples=100)


def test_policies_are_compared_on_the_questions_that_both_were_asked(runs):
    parts = {(one.part, one.metric): one for one in compared(runs)}
    whole = parts["all", "global_em"]
    assert (whole.questions, whole.after.mean, whole.common, whole.before.mean, whole.gain.mean) == (5, 0.2, 2, 0, 0.5)
    assert whole.gain.low == 0  # question 3 stays wrong, and a resample may draw it alone
    item = parts["item", "global_em"]
    assert (item.gain.mean, item.gain.low, item.gain.high) == (1, 1, 1)
    assert parts["set", "global_em"].gain is None


def test_parts_are_types_large_tables_numbers_of_pages_and_families_in_this_order(runs):
    parts = [(one.part, one.metric, one.questions) for one in compared(runs)]
    assert parts == [
        ("all", "global_em", 5), ("item", "global_em", 1), ("set", "global_em", 1), ("list", "global_em", 1),
        ("table", "global_em", 2), ("table", "table_item_f1", 2),
        ("table, 3 x 3 and larger", "global_em", 1), ("table, 3 x 3 and larger", "table_item_f1", 1),
        ("1 page", "global_em", 1), ("2 pages", "global_em", 1), ("10 pages", "global_em", 1),
        ("family: above", "global_em", 2), ("family: oldest", "global_em", 1),
    ]  # fmt: skip


def test_without_a_policy_before_the_one_after_stands_alone(runs):
    alone = compared(runs, before=None)
    assert all((one.common, one.before, one.gain) == (0, None, None) for one in alone)
    assert "| item | global_em | 1 | 100.0 [100.0, 100.0] | 0 |  |  |" in comparison_table(alone)


def test_calls_that_are_well_formed_are_valid_whether_carried_out_or_not():
    counts = [
        {"calls": 3, "skipped_calls": 1, "invalid_calls": 2},
        {"calls": 0, "skipped_calls": 0, "invalid_calls": 1},
    ]
    assert valid_calls({"counts": one} for one in counts) == (4, 7)
