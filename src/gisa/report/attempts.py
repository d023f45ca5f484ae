"""What agents did at each attempt at a question, read from the records of a run, and the suite they were asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from src.gisa.dataset.gisa import Gisa, Trace
from src.gisa.evaluator.answers import ScoredQuestion
from src.gisa.report.questions import read_questions
from src.launch.config import build
from src.launch.errors import InputError
from src.report.runs import Cell, Run


@dataclass(frozen=True)
class AttemptRecord:
    """One episode without the texts it read.

    Attributes:
        question_id: Of the question.
        sample: Which attempt of its run.
        prediction: The text that is scored; empty where there is none.
        queries: Of the searches that were carried out, in their order.
        visited: Addresses of the pages that it visited, or tried to, in their order.
        counts: Searches, visits and the like, by name.
        spent: Tokens and price of each part, see ``src.gisa.agent.cost``.
    """

    question_id: str
    sample: int
    prediction: str
    queries: list[str]
    visited: list[str]
    counts: Mapping[str, int]
    spent: Mapping[str, Mapping[str, float | None]]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> AttemptRecord:
        """Take what is needed out of a record; see ``src.gisa.agent.trajectory.record_of``."""
        prediction = record["prediction"]
        calls = [step["value"] for step in record["steps"] if "tool" in (step.get("value") or {})]
        return cls(
            question_id=record["question_id"],
            sample=record["sample"],
            prediction=prediction if isinstance(prediction, str) else "",
            queries=[call["query"] for call in calls if call["tool"] == "search"],
            visited=[url for call in calls if call["tool"] == "visit" for url in call["urls"]],
            counts=record["counts"],
            spent=record["spent"],
        )


@dataclass(frozen=True)
class AnsweredRun:
    """A finished run on a suite.

    Attributes:
        questions: With their scores, by id.
        attempts: All, by question and rising sample; empty without records.
        suite: With the run's questions and answers; None where it is not here.
        remarks: What is missing, in sentences.
    """

    run: Run
    questions: dict[str, ScoredQuestion]
    attempts: dict[str, list[AttemptRecord]]
    suite: Gisa | None
    remarks: list[str]

    @cached_property
    def scored(self) -> dict[str, AttemptRecord]:
        """By question, the attempt that is scored."""
        sample = self.run.protocol.get("sample", 0)
        found = (one for attempts in self.attempts.values() for one in attempts if one.sample == sample)
        return {one.question_id: one for one in found if one.question_id in self.questions}

    @cached_property
    def traces(self) -> dict[str, Trace]:
        """By question, what a human did; a missing or damaged trace costs its question only."""
        traces = {}
        for question in self.suite.questions if self.suite else []:
            with suppress(InputError):
                traces[question.id] = self.suite.trace(question)  # type: ignore[union-attr]
        return traces

    @cached_property
    def pages(self) -> dict[str, str]:
        """By question, how many pages it needs, in words; for embedded suites only."""
        known = self.suite.metadata if self.suite else {}
        counts = {key: known[key]["hops"] for key in self.questions if "hops" in known.get(key, {})}
        return {key: f"{count} page{'s' if count > 1 else ''}" for key, count in counts.items()}


def read_cell(cell: Cell) -> list[AnsweredRun]:
    """Read the runs of a cell.

    Raises:
        InputError: a file is damaged.
    """
    return [_read_run(run, cell.label) for run in cell.runs]


def _read_run(run: Run, label: str) -> AnsweredRun:
    questions = {question.id: question for question in read_questions(run)}
    remarks = []
    attempts: dict[str, list[AttemptRecord]] = {}
    folder = episodes_of(run)
    if not folder.is_dir():
        remarks.append(f"{label}: no records of episodes in {folder}, so nothing about calls, tokens and behaviour.")
    for path in sorted(folder.glob("*.json")):
        try:
            attempt = AttemptRecord.of(json.loads(path.read_bytes()))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f"{path} is not the record of an episode: {type(error).__name__}: {error}.\n"
                f"Report without this episode:  rm '{path}'"
            ) from error
        attempts.setdefault(attempt.question_id, []).append(attempt)
    for same in attempts.values():
        same.sort(key=lambda attempt: attempt.sample)
    try:
        suite = read_suite(run, questions)
    except InputError as error:
        suite = None
        remarks.append(f"{label}: nothing beside humans, and no votes: {str(error).partition(chr(10))[0]}")
    return AnsweredRun(run, questions, attempts, suite, remarks)


def episodes_of(run: Run) -> Path:
    """Return where the records lie: in the run's folder, or in that of the run whose answers it scored."""
    own = run.folder / "episodes"
    scored = run.config.get("predictions")
    return own if own.is_dir() or not scored else Path(scored) / "episodes"


def read_suite(run: Run, questions: Mapping[str, ScoredQuestion]) -> Gisa:
    """Return the suite of a run, without the questions that it was not asked.

    Raises:
        InputError: it is not where the run found it, or its answers have changed.
    """
    node = run.config.get("dataset") or {}
    if not str(node.get("_target_")).startswith("src.gisa.dataset."):
        raise InputError(f"{run.folder / 'result.json'} names no data set of this project")
    suite = build(node)
    if not isinstance(suite, Gisa):
        raise InputError(f"dataset is {node['_target_']}, and not a suite of questions")
    suite.questions = [question for question in suite.questions if question.id in questions]
    if suite.fingerprint[:12] not in str(run.protocol.get("dataset")):
        raise InputError(f"the answers below {suite.root} are not those that {run.folder} was scored by")
    return suite
