"""Figure 5 of the GISA paper (arXiv 2602.08543): what the best of k attempts, and a vote of k, would score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from src.gisa.metrics.answer_text import official_table
from src.gisa.metrics.answers import official_score
from src.gisa.metrics.sampling import SIZES, Vote, ballot, best_at_k, cell_vote, majority, mean_vote
from src.gisa.report.answered import AnsweredCell, estimate
from src.report.tables import Column, Estimate, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


class _Attempts:
    """The attempts at a question, those that are missing included."""

    def __init__(self, texts: Sequence[str], gold: bytes, answer_type: str) -> None:
        self.answer_type, self._gold = answer_type, gold
        self._scores: dict[str, float] = {}  # by text; attempts and votes repeat themselves
        tables = {text: official_table(text) for text in set(texts)}
        self._tables = [tables[text] for text in texts]
        self._ballots = [ballot(table, answer_type) for table in self._tables]
        self.exact = [self._exact(text) for text in texts]

    def _exact(self, text: str) -> float:
        if text not in self._scores:
            self._scores[text] = float(official_score(text, self._gold, self.answer_type)["global_em"])
        return self._scores[text]

    def vote(self, chosen: tuple[int, ...]) -> Vote:
        """Let some attempts vote over whole answers."""
        return majority([self._ballots[at] for at in chosen], [self.exact[at] for at in chosen])

    def vote_by_cell(self, chosen: tuple[int, ...]) -> Vote:
        """Let some attempts vote a table together, cell by cell."""
        return Vote(self._exact(cell_vote([self._tables[at] for at in chosen])), 0.0)


def curve(cell: AnsweredCell) -> list[Point]:
    """Return the curves of a cell up to the number of its attempts; nothing where there is one, or no suite.

    The attempts of all its runs are taken together, as runs of a cell differ in nothing but the seed.
    """
    questions = _questions(cell)
    most = max((len(attempts.exact) for attempts in questions.values()), default=0)
    return [_point(questions, k, most) for k in SIZES if k <= most] if most > 1 else []


def _questions(cell: AnsweredCell) -> dict[str, _Attempts]:
    texts: dict[str, list[str]] = {}
    for run in cell.runs:
        most = max(map(len, run.attempts.values()), default=0)
        for question in run.suite.questions if run.suite else []:
            given = run.attempts.get(question.id, [])
            texts.setdefault(question.id, []).extend([*given, *[""] * (most - len(given))])
    suite = next((run.suite for run in cell.runs if run.suite), None)
    if suite is None:
        return {}
    return {
        question.id: _Attempts(texts[question.id], suite.gold(question), question.answer_type)
        for question in suite.questions
    }


def _point(questions: dict[str, _Attempts], k: int, most: int) -> Point:
    best, votes, cells = {}, {}, {}
    for seed, (key, attempts) in enumerate(questions.items()):
        best[key] = best_at_k(attempts.exact, k)
        votes[key] = mean_vote(most, k, attempts.vote, seed=seed)
        if attempts.answer_type == "table":
            cells[key] = mean_vote(most, k, attempts.vote_by_cell, seed=seed).score
    return Point(
        k=k,
        best=estimate(best),
        vote=estimate({key: vote.score for key, vote in votes.items()}),
        confidence=estimate({key: vote.confidence for key, vote in votes.items()}),
        table_vote=estimate({key: votes[key].score for key in cells}),
        cell_vote=estimate(cells),
    )


def curve_table(curves: Sequence[tuple[str, Sequence[Point]]]) -> Table:
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
    return Table("figure_5", "Several attempts (Figure 5 of the paper)", note, columns, rows)


def attempts_figure(curves: Sequence[tuple[str, Sequence[Point]]]) -> Figure:
    """Draw exact match over the number of attempts: the best of them as a line, their vote as a broken one.

    Args:
        curves: Label and points of each cell; at least one, with points.
    """
    from src.report.plots import interval_lines  # Matplotlib takes a second to import

    lines = [
        # Moved apart, so that whiskers of curves that meet stay readable.
        (f"{name}@k, {label}", [(math.log2(point.k) + shift, y) for point in points if (y := getattr(point, key))])
        for label, points in curves
        for name, key, shift in (("Best", "best", -0.04), ("Majority", "vote", 0.04))
    ]
    ticks = {math.log2(point.k): str(point.k) for _, points in curves for point in points}
    figure = interval_lines(lines, ("-", "--"), ticks)
    figure.axes[0].set_xlabel("attempts k")
    return figure
