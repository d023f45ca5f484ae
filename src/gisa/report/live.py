"""A run on a suite on the dashboard: how far it is while it goes on, then every question with answer and trajectory.

The questions of the benchmark that change with time stay out of it, and the text of all, unless the data set says
``show_questions``: published, they would spoil the test.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.gisa.dataset.gisa import Gisa
from src.gisa.metrics.answers import score_answer
from src.gisa.report.page import page_data, page_of
from src.launch.progress import Line

if TYPE_CHECKING:
    from src.training.dashboard import Dashboard

COLUMNS = ("id", "question", "type", "changes", "prediction", "gold", "exact match", "scores", "outcome", "trajectory")
_EVERY_S, _MOST_CHARS = 2.0, 2_000


class Progress:
    """Questions done, exact match so far, outcomes and cost, as the episodes end; called by several threads.

    Args:
        line: Where it is shown as text.
        dashboards: Where it is shown, too.
        suite: The questions.
        attempts: How many episodes there will be.
        before: Records of those that ended before a resume.
        sample: The attempt at each question that is scored.
    """

    def __init__(
        self,
        line: Line,
        dashboards: Sequence[Dashboard],
        suite: Gisa,
        attempts: int,
        before: Iterable[Mapping[str, Any]],
        sample: int = 0,
    ) -> None:
        self._line, self._dashboards = line, dashboards
        self._suite, self._attempts, self._sample = suite, attempts, sample
        self._questions = {question.id: question for question in suite.questions}
        self._outcomes: Counter[str] = Counter()
        self._scores: list[float] = []
        self._usd, self._shown, self._lock = 0.0, 0.0, threading.Lock()
        for record in before:
            self._count(record)
        line.start_at(self._outcomes.total())
        line.notes = self._notes()

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Take in an ended episode; show where the run is, every two seconds and at its end."""
        with self._lock:
            self._count(record)
            done, now = self._outcomes.total(), time.monotonic()
            self._line.notes = self._notes()
            self._line.at(done)
            if done < self._attempts and now - self._shown < _EVERY_S:
                return
            self._shown = now
            figures = {
                "questions": done,
                "usd": self._usd,
                **{f"outcome/{name}": n for name, n in self._outcomes.items()},
            }
            if self._scores:
                figures["global_em"] = sum(self._scores) / len(self._scores)
            for dashboard in self._dashboards:
                dashboard.show(**{f"progress/{name}": value for name, value in figures.items()})

    def take_in_others(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Count the episodes of all processes, once they have ended; until then each knows its own."""
        with self._lock:
            self._outcomes.clear()
            self._scores.clear()
            self._usd = 0.0
            for record in records:
                self._count(record)
            self._line.notes = self._notes()
            self._line.at(self._outcomes.total())

    def _notes(self) -> list[str]:
        """Return what stands behind the line: exact match so far, outcomes that are no answers, cost."""
        exact = [f"EM {sum(self._scores) / len(self._scores):.0%}"] if self._scores else []
        others = [f"{name} {many}" for name, many in self._outcomes.most_common() if name != "answered"]
        return [*exact, *others, *([f"{self._usd:.2f} USD"] if self._usd else [])]

    def _count(self, record: Mapping[str, Any]) -> None:
        self._outcomes[record["outcome"]] += 1
        self._usd += sum(part["usd"] or 0.0 for part in record["spent"].values())
        question = self._questions.get(record["question_id"])
        if question is not None and record["sample"] == self._sample:
            gold = self._suite.gold(question)
            score = score_answer(record["prediction"], gold, question.answer_type).official
            self._scores.append(float(score["global_em"]))


def show_questions(dashboard: Dashboard, folder: Path, result: Mapping[str, Any], suite: Gisa) -> None:
    """Log the suite, a table of the questions, and the run's page.

    Args:
        dashboard: Where.
        folder: Of the scored run.
        result: Content of its ``result.json``.
        suite: The questions.
    """
    about = {"fingerprint": suite.fingerprint, "questions": len(suite.questions), **suite.protocol}
    dashboard.summarise(data_fingerprint=suite.fingerprint)
    dashboard.artifact("suite-gisa", "dataset", {"suite.json": about}, used=True, **about)
    data = page_data(folder, result, suite)
    data["questions"] = [
        entry for entry in data["questions"] if suite.show_questions or entry["question_type"] != "live"
    ]
    answers = {question.id: question for question in suite.questions}
    rows = [_row(entry, suite.gold(answers[entry["id"]])) for entry in data["questions"]]
    dashboard.show(
        **{
            "test/questions": dashboard.table(COLUMNS, rows),
            "test/page": dashboard.page(page_of(data).decode()),
        }
    )


def _row(entry: Mapping[str, Any], gold: bytes) -> list[Any]:
    official = entry["official"]
    scores = ", ".join(f"{name} {value:.3g}" for name, value in official.items() if isinstance(value, int | float))
    return [
        entry["id"], entry["question"], entry["answer_type"], entry["question_type"] == "live",
        _cut(entry["prediction"]), gold.decode(errors="replace")[:_MOST_CHARS], float(official["global_em"]),
        scores, entry["outcome"], _cut("\n".join(filter(None, map(_step, entry.get("steps", ()))))),
    ]  # fmt: skip


def _step(step: Mapping[str, Any]) -> str:
    """Return a step of an episode as a line: a call, what was said or a failure; nothing for a reply of calls alone."""
    if step.get("failed"):
        return f"failed: {step['failed']}"
    if step["kind"] == "compaction":
        return f"left out: {_cut(step.get('content'), 200)}"
    if step["kind"] == "call":
        return f"{step.get('tool')}: {step.get('query') or ' '.join(map(str, step.get('urls', ())))}"
    return f"said: {_cut(step['content'], 200)}" if step.get("content") else ""


def _cut(text: Any, most: int = _MOST_CHARS) -> str | None:
    """Return the beginning of a text, or of what is left of one."""
    text = text[0] if isinstance(text, tuple | list) and text else text
    return None if text is None else str(text)[:most]
