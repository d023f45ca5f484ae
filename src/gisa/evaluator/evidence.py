"""What stands behind each answer of a run: the way to it, its citations, and why it is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.gisa.dataset.gisa import Gisa, Question, Trace, human_trajectory
from src.gisa.metrics.answers import AnswerScore
from src.gisa.metrics.behaviour import searchable
from src.gisa.metrics.citations import citations_of, evidence_of, gold_cells
from src.gisa.metrics.errors import ErrorLabel, Way, WrongAnswer, label_error
from src.launch.errors import InputError


def way_of(steps: Iterable[Mapping[str, Any]]) -> Way:
    """Return what an agent did, from the steps of a record; failed and refused calls brought nothing."""
    values = _values(steps, "call/")
    searches = [value for value in values if "query" in value and "error" not in value]
    visits = [value for value in values if "urls" in value and "query" not in value and "error" not in value]
    read = [visit for visit in visits if visit.get("failed", 0) < len(visit["urls"])]
    return Way(
        queries=[search["query"] for search in searches],
        listed=[url for search in searches for url in search.get("urls", ())],
        snippets=[searchable(search["content"]) for search in searches],
        opened=[visit["urls"] for visit in read],
        pages=[searchable(visit["content"]) for visit in read],
    )


def way_of_record(record: Path | None) -> Way | None:
    """Return what an agent did, from the file of a record; None without one, or without steps in it."""
    steps = _steps(record)
    return None if steps is None else way_of(steps)


def cited_by(steps: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the addresses that a service names beside its replies, in the order of the steps of a record."""
    return [url for value in _values(steps, "reply/") for url in value.get("cited", ())]


def _values(steps: Iterable[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    found = [step.get("value") for step in steps if str(step.get("key")).startswith(kind)]
    return [value for value in found if isinstance(value, dict)]


def behind(
    suite: Gisa, question: Question, prediction: object, score: AnswerScore, outcome: str | None, record: Path | None
) -> dict[str, Any]:
    """Return ``evidence`` (see ``Evidence``) of an answer and, where it is wrong, ``error`` (see ``ErrorLabel``).

    Args:
        suite: Of the question.
        question: That was answered.
        prediction: The answer.
        score: Its scores.
        outcome: How its episode ended, where that is known.
        record: Of the episode; None where there is none.
    """
    gold, trace = suite.gold(question), None
    with suppress(InputError):
        trace = suite.trace(question)
    human = _visited(trace) if trace else []
    steps = _steps(record)
    way = way_of(steps) if steps is not None else None
    text = prediction if isinstance(prediction, str) else ""
    opened = None
    if way is not None:
        opened = {url: page for urls, page in zip(way.opened, way.pages, strict=True) for url in urls}
    cited = [*citations_of(text), *cited_by(steps or ())]
    cells = gold_cells(gold, question.answer_type)
    evidence = asdict(evidence_of(cited, cells, opened, _shown(trace) if cited else {}, human))
    if score.official["global_em"]:
        return {"evidence": evidence, "error": None}
    robust = bool(score.robust["global_em"])
    wrong = WrongAnswer(prediction, gold, question.answer_type, robust, outcome, way, human)
    label = ErrorLabel(None, "no answer") if outcome is None and not text.strip() else label_error(wrong)
    return {"evidence": evidence, "error": {**label._asdict(), "by": "rules"}}


def _steps(record: Path | None) -> list[dict[str, Any]] | None:
    if record is None:
        return None
    steps = json.loads(record.read_bytes()).get("steps")
    return steps if isinstance(steps, list) else None


def _visited(trace: Trace) -> list[str]:
    trajectory = human_trajectory(trace)
    return [*(step.what for step in trajectory.steps if step.kind == "visit"), *trajectory.orphans]


def _shown(trace: Trace | None) -> dict[str, str]:
    """Return what the human's search engine showed of pages, by their address."""
    shown: dict[str, str] = {}
    for pages in trace.results.values() if trace else ():
        for result in (result for page in pages for result in page.results):
            shown[result.url] = f"{shown.get(result.url, '')} {searchable(f'{result.title} {result.snippet}')}"
    return shown
