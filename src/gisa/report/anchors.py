"""What else the GISA paper (arXiv 2602.08543, v2) measures: causes of errors, evidence, humans, the suite's parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

from src.gisa.dataset.gisa import AnswerType, Trace, human_trajectory
from src.gisa.metrics.behaviour import adjacent_query_jaccard
from src.gisa.metrics.errors import CAUSES, MEANINGS, PUBLISHED_SHARES
from src.gisa.report.answered import Answer, AnsweredCell, estimate
from src.report.tables import Column, Table

PUBLISHED_PARTS = {"item": (12, 10), "set": (33, 17), "list": (30, 18), "table": (148, 105)}
"""Questions of GISA, stable and live, by type of answer: Table 2."""
PUBLISHED_BY_CHANGE = {"Kimi K2.5 (thinking)": (18.39, 11.33)}
"""Exact match in percent on stable and live questions, as far as Figure 4 tells it in figures."""
HUMANS = {"queries": 3.53, "pages": 19.03, "adjacent": 31.0, "solved": 31.0, "other": 15.0}
_INTERVAL = "95% intervals by bootstrap over questions"


def anchor_tables(cells: Sequence[AnsweredCell]) -> list[Table]:
    """Return all tables of this module that the runs allow."""
    return [table for make in (causes_table, evidence_table, humans_table, splits_table) if (table := make(cells))]


def causes_table(cells: Sequence[AnsweredCell]) -> Table | None:
    """Return Figure 6 as a table: the share of each cause among the wrong answers; None for runs without labels."""
    names = (*CAUSES, "untold")
    rows: list[tuple[str, dict[str, object]]] = []
    for cell in cells:
        found = {name: cell.by_question(_is_cause(name)) for name in names}
        if asked := len(found["untold"]):
            shares = {name: estimate(values) for name, values in found.items()}
            judged = sum(bool(one.question.error and one.question.error.get("by") == "judge") for one in cell.answers)
            rows.append((cell.label, {"questions": asked, "judged": judged, **shares}))
    if not rows:
        return None
    columns = [Column("questions", "wrong answers"), *(Column(name, name.replace("_", " ")) for name in names)]
    shares_of_63: dict[str, object] = {
        "questions": 63,
        **{str(cause): share for cause, share in PUBLISHED_SHARES.items()},
    }
    published = ("published: GISA, 63 errors", shares_of_63)
    meanings = "; ".join(f"{name.replace('_', ' ')}: {MEANINGS[name]}" for name in CAUSES)
    note = (
        f"Percent of the wrong answers (official exact match 0), one cause each, {_INTERVAL}. Meanings: {meanings}. "
        "Ours are by rules over answer, results and pages read, or by a judge where one was asked (judged); untold: "
        "neither can tell. Published: Figure 6, causes that people assigned to errors on GISA's own questions."
    )
    columns = [*columns, Column("judged", "judged")]
    return Table("figure_6", "Causes of errors (Figure 6 of the paper)", note, columns, [*rows, published])


def _is_cause(name: str) -> Callable[[Answer], float | None]:
    def of(answer: Answer) -> float | None:
        error = answer.question.error
        return None if error is None else float((error["cause"] or "untold") == name)

    return of


def evidence_table(cells: Sequence[AnsweredCell]) -> Table | None:
    """Return what the answers rest on, beside their exact match; None for runs in which that was not measured."""
    columns = [
        Column("exact", "EM"),
        Column("citations", "addresses cited"),
        Column("opened_cells", "gold cells on pages opened"),
        Column("cited_cells", "gold cells on pages cited"),
        Column("opened_human", "human's pages opened"),
        Column("cited_human", "human's pages cited"),
    ]
    rows = []
    for cell in cells:
        values = {
            column.key: estimate(cell.by_question(_evidence(column.key)), 1.0 if column.key == "citations" else 100.0)
            for column in columns[1:]
        }
        if values["citations"]:
            rows.append((cell.label, {**cell.counts(), "exact": estimate(cell.exact("official")), **values}))
    if not rows:
        return None
    note = (
        f"Percent, but for the number of addresses; {_INTERVAL}. Recall of evidence: the share of the right answer's "
        "cells that stand in what was read on the pages opened, or on the pages cited as far as their text is known "
        "(read by the agent, or shown by the human's search engine); and the share of the pages a human visited."
    )
    columns = [Column("questions", "questions"), Column("errors", "errors"), *columns]
    return Table("evidence", "Citations and evidence", note, columns, rows)


def _evidence(name: str) -> Callable[[Answer], float | None]:
    return lambda answer: (answer.question.evidence or {}).get(name)


def humans_table(cells: Sequence[AnsweredCell]) -> Table:
    """Return how much agents and humans search and read."""
    columns = [
        Column("queries", "queries"),
        Column("pages", "pages"),
        Column("adjacent", "overlap of adjacent queries"),
        Column("solved", "pages shared with the human, solved"),
        Column("other", "pages shared, other"),
    ]
    rows: list[tuple[str, dict[str, object]]] = []
    for cell in cells:
        exact = {key: min(of_runs) for key, of_runs in cell.exact("official").items()}  # solved: by every run
        shared = cell.similarities["browsing"]
        values = {
            "queries": cell.over_episodes(lambda episode: len(episode.queries)),
            "pages": cell.over_episodes(lambda episode: len(episode.visited)),
            "adjacent": cell.over_episodes(lambda episode: adjacent_query_jaccard(episode.queries), 100),
            "solved": estimate({key: value for key, value in shared.items() if exact[key] == 1}),
            "other": estimate({key: value for key, value in shared.items() if exact[key] < 1}),
        }
        rows.append((cell.label, {**cell.counts(), **values}))
    traced = {answer.question.id: answer.trace for cell in cells for answer in cell.answers if answer.trace}
    if traced:
        rows.append(("traces of the suite", {"questions": len(traced), **_human(traced)}))
    rows.append(("published: humans", {"questions": 373, **HUMANS}))
    note = (
        "Queries and pages a question; overlaps in percent (Jaccard index of neighbouring queries' terms, and of the "
        f"sets of pages); {_INTERVAL}. Published: GISA, on its own questions; its page overlaps are those of its "
        "agents with humans, on solved questions and others."
    )
    return Table("humans", "Agents and humans at work", note, [Column("questions", "questions"), *columns], rows)


def _human(traces: dict[str, Trace]) -> dict[str, object]:
    ways = {key: human_trajectory(trace) for key, trace in traces.items()}
    pages = {
        key: float(sum(step.kind == "visit" for step in way.steps) + len(way.orphans)) for key, way in ways.items()
    }
    overlaps = {key: adjacent_query_jaccard(trace.searches) for key, trace in traces.items()}
    return {
        "queries": estimate({key: float(len(trace.searches)) for key, trace in traces.items()}, 1.0),
        "pages": estimate(pages, 1.0),
        "adjacent": estimate({key: value for key, value in overlaps.items() if value is not None}),
    }


def splits_table(cells: Sequence[AnsweredCell]) -> Table:
    """Return Table 2 and Figure 4: questions by type and change over time, and the exact match on both halves."""
    kinds = get_args(AnswerType)
    columns = [Column(kind, f"{kind}: stable/live") for kind in kinds]
    columns += [Column("stable", "EM, stable"), Column("live", "EM, live")]
    rows: list[tuple[str, dict[str, object]]] = []
    for cell in cells:
        asked = {answer.question.id: answer.question for answer in cell.answers}.values()
        counts: dict[str, object] = {}
        for kind in kinds:
            same = [question.question_type for question in asked if question.answer_type == kind]
            counts[kind] = f"{same.count('stable')}/{same.count('live')}"
        halves = {change: estimate(cell.exact("official", change)) for change in ("stable", "live")}
        rows.append((cell.label, {"questions": len(asked), **counts, **halves}))
    rows.append(
        (
            "published: GISA",
            {"questions": 373, **{kind: f"{stable}/{live}" for kind, (stable, live) in PUBLISHED_PARTS.items()}},
        )
    )
    rows += [
        (f"published: {model}", {"questions": 373, "stable": stable, "live": live})
        for model, (stable, live) in PUBLISHED_BY_CHANGE.items()
    ]
    note = (
        f"Numbers of questions, and the official exact match in percent; {_INTERVAL}. Published: GISA's own questions."
    )
    title = "Stable and live questions (Table 2 and Figure 4 of the paper)"
    return Table("table_2", title, note, [Column("questions", "questions"), *columns], rows)
