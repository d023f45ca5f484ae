"""Scores of each question of runs on a suite, from the ``questions.jsonl`` they wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from src.gisa.evaluator.answers import ScoredQuestion
from src.launch.errors import InputError
from src.report.runs import Run

# What Table 3 of the paper shows, by its name in gisa_published.csv, and the two halves of a suite.
TABLE_3 = {
    "overall": "test/global_em",
    "item_em": "test/item_em",
    "set_em": "test/global_em/set",
    "set_f1": "test/set_f1",
    "list_em": "test/global_em/list",
    "list_f1": "test/list_content_f1",
    "list_order": "test/list_order_score",
    "table_em": "test/global_em/table",
    "table_row_f1": "test/table_row_f1",
    "table_item_f1": "test/table_item_f1",
}
_METRICS = (*TABLE_3.values(), "test/global_em/stable", "test/global_em/live")


def metrics(runs: Sequence[Run]) -> list[str]:
    """Return the official metrics that are shown and that a run has, in the order of the paper."""
    return [name for name in _METRICS if any(name in run.metrics for run in runs)]


def scores(runs: Sequence[Run]) -> Callable[[str], NDArray[np.float64]]:
    """Return what scores each question in each run by a metric, such as ``test/global_em/live`` or ``test/set_f1``.

    Raises:
        InputError: a file is absent or unreadable, the runs answered different questions, or none has the metric.
    """
    tables = [{question.id: question for question in read_questions(run)} for run in runs]
    first = tables[0]
    for run, table in zip(runs, tables, strict=True):
        if table.keys() != first.keys():
            raise InputError(
                f"{runs[0].folder} and {run.folder} cannot be joined by question: {len(first)} and {len(table)} "
                f"questions, {len(first.keys() & table.keys())} of them the same"
            )

    def by_metric(metric: str) -> NDArray[np.float64]:
        name, _, part = metric.removeprefix("test/").partition("/")
        chosen = [one.id for one in first.values() if name in one.official and part in ("", *_parts(one))]
        if not chosen:
            raise InputError(f"{runs[0].folder / 'questions.jsonl'} has no question with {metric}")
        return np.array([[table[key].official[name] for key in chosen] for table in tables], dtype=np.float64)

    return by_metric


def read_questions(run: Run) -> list[ScoredQuestion]:
    """Return the questions of a run with their scores, by their ids.

    Raises:
        InputError: the file is absent, or holds something else.
    """
    path = run.folder / "questions.jsonl"
    try:
        with path.open("rb") as stream:
            questions = [ScoredQuestion(**json.loads(line)) for line in stream]
    except (OSError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as the scores of questions: {error}.\n"
            f"Score the answers again:  python -m src.run +experiment=gisa_score predictions={run.folder} dataset=..."
        ) from error
    return sorted(questions, key=lambda question: question.id)


def _parts(question: ScoredQuestion) -> tuple[str, str]:
    return question.answer_type, question.question_type
