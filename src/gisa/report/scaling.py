"""Figure 5 of the GISA paper (arXiv 2602.08543): what the best of k attempts, and a vote of k, would score."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from src.gisa.metrics.answer_table import Table
from src.gisa.metrics.answer_text import official_table
from src.gisa.metrics.answers import official_score
from src.gisa.metrics.sampling import SIZES, Vote, ballot, best_at_k, cell_vote, majority, mean_vote
from src.gisa.report.benchmark import AnsweredCell, estimate
from src.report.layout import Column, Estimate
from src.report.layout import Table as ReportTable


@dataclass(frozen=True)
class Point:
    """The curves at one k, in percent; the last two on tables only, None where the suite has none.

    Attributes:
        best: Exact match of the best of k attempts; on this measure, pass@k.
        vote: Exact match of the most frequent answer of k.
        confidence: Share of the k attempts that gave it.
        table_vote: ``vote`` on tables.
        cell_vote: Exact match of a table that is voted together cell by cell.
    """

    k: int
    best: Estimate | None
    vote: Estimate | None
    confidence: Estimate | None
    table_vote: Estimate | None
    cell_vote: Estimate | None


@dataclass(frozen=True)
class _Question:
    """The attempts at a question, those that are missing included: exact matches, votes and tables."""

    answer_type: str
    gold: bytes
    tables: list[Table | None]
    exact: list[float]
    ballots: list[Hashable | None]


def curve(cell: AnsweredCell) -> list[Point]:
    """Return the curves of a cell up to the number of its attempts; nothing where there is one, or no suite.

    The attempts of all its runs are taken together, as runs of a cell differ in nothing but the seed.
    """
    questions = _questions(cell)
    attempts = max((len(question.tables) for question in questions.values()), default=0)
    if attempts < 2:
        return []
    return [_point(questions, k, attempts) for k in SIZES if k <= attempts]


def curve_table(curves: Sequence[tuple[str, Sequence[Point]]]) -> ReportTable:
    """Return the curves as a table, a row for each cell and k."""
    columns = [
        Column("best", "Best@k"),
        Column("vote", "Majority@k"),
        Column("confidence", "confidence"),
        Column("table_vote", "Majority@k, tables"),
        Column("cell_vote", "cell by cell, tables"),
    ]
    note = (
        "Exact match in percent by the official scorer; 95% intervals by bootstrap over questions. Best@k is the "
        "unbiased estimate, which for exact matches is pass@k. Majority@k is the mean over all choices of k attempts, "
        "or over 20 random ones: the most frequent normalised answer counts, tied ones share the score, and attempts "
        "without a readable answer have no vote. Confidence is the share of the k attempts that gave this answer. "
        "A missing attempt counts as a wrong one. The paper shows this figure without a table, and defines neither "
        "ties nor confidence; the vote cell by cell is not in it."
    )
    rows = [
        (f"{label}, k={point.k}", {**vars(point), "questions": point.best and point.best.questions})
        for label, points in curves
        for point in points
    ]
    return ReportTable("figure_5", "Several attempts (Figure 5 of the paper)", note, columns, rows)


def _questions(cell: AnsweredCell) -> dict[str, _Question]:
    texts: dict[str, list[str]] = {}
    for run in cell.runs:
        most = max(map(len, run.attempts.values()), default=0)
        for question in run.suite.questions if run.suite else []:
            given = [attempt.prediction for attempt in run.attempts.get(question.id, [])]
            texts.setdefault(question.id, []).extend([*given, *[""] * (most - len(given))])
    suite = next((run.suite for run in cell.runs if run.suite), None)
    found = {}
    for question in suite.questions if suite else []:
        gold, kind = suite.gold(question), question.answer_type  # type: ignore[union-attr]
        given = texts[question.id]
        exact = {text: float(official_score(text, gold, kind)["global_em"]) for text in set(given)}
        tables = {text: official_table(text) for text in exact}
        ballots = {text: ballot(table, kind) for text, table in tables.items()}
        found[question.id] = _Question(
            kind, gold, [tables[text] for text in given], [exact[text] for text in given],
            [ballots[text] for text in given],
        )  # fmt: skip
    return found


def _point(questions: dict[str, _Question], k: int, attempts: int) -> Point:
    best, votes, cells = {}, {}, {}
    for place, (key, question) in enumerate(questions.items()):
        best[key] = best_at_k(question.exact, k)
        votes[key] = mean_vote(attempts, k, _whole(question), seed=place)
        if question.answer_type == "table":
            cells[key] = mean_vote(attempts, k, _by_cell(question), seed=place).score
    return Point(
        k=k,
        best=estimate(best, 100),
        vote=estimate({key: vote.score for key, vote in votes.items()}, 100),
        confidence=estimate({key: vote.confidence for key, vote in votes.items()}, 100),
        table_vote=estimate({key: votes[key].score for key in cells}, 100),
        cell_vote=estimate(cells, 100),
    )


def _whole(question: _Question) -> Callable[[tuple[int, ...]], Vote]:
    return lambda chosen: majority([question.ballots[at] for at in chosen], [question.exact[at] for at in chosen])


def _by_cell(question: _Question) -> Callable[[tuple[int, ...]], Vote]:
    known: dict[str, float] = {}

    def vote(chosen: tuple[int, ...]) -> Vote:
        text = cell_vote([question.tables[at] for at in chosen])
        if text not in known:
            known[text] = float(official_score(text, question.gold, "table")["global_em"])
        return Vote(known[text], 0.0)

    return vote
