"""Several attempts at a question (Figure 5 of the GISA paper, arXiv 2602.08543): what the best, or a vote, would score.

A vote is over whole answers, or over a table's cells.
"""

from __future__ import annotations

import csv
import io
import itertools
import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from math import comb, log2
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from src.gisa.metrics.answer_table import Table
from src.gisa.metrics.answer_text import official_table
from src.gisa.metrics.answers import official_score
from src.gisa.report.answered import AnsweredCell, estimate
from src.report.tables import Column, Estimate
from src.report.tables import Table as ReportTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = (1, 2, 4, 8, 16)
"""The k of the figure."""
_Label = tuple[str, int]


def best_at_k(scores: Sequence[float], k: int) -> float:
    """Estimate without bias the score of the best of k attempts; on scores of 0 and 1 this is pass@k.

    The i-th lowest of n scores is the best of ``C(i - 1, k - 1)`` of the ``C(n, k)`` choices.

    Source: for pass@k, Chen et al. (arXiv 2107.03374), equation 1.

    Args:
        scores: One an attempt.
        k: From 1 to the number of scores.

    Raises:
        ValueError: there are not that many attempts.
    """
    _check(len(scores), k)
    return sum(score * comb(rank, k - 1) for rank, score in enumerate(sorted(scores))) / comb(len(scores), k)


class Vote(NamedTuple):
    """What a vote came to.

    Attributes:
        score: Of the winning answer; of several with as many votes, their mean, as a lot would decide between them.
        confidence: Share of all attempts that gave it, in [0, 1]; those without a readable answer have no vote, but
            count here. The paper does not define its own.
    """

    score: float
    confidence: float


def majority(answers: Sequence[Hashable | None], scores: Sequence[float]) -> Vote:
    """Let attempts vote over whole answers.

    Args:
        answers: One an attempt, equal where they are the same answer, see :func:`ballot`; None has no vote.
        scores: Of these attempts; equal answers have equal scores.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return Vote(0.0, 0.0)
    most = max(votes.values())
    # Each of the tied answers occurs `most` times, so the mean over their attempts is the mean over them.
    tied = [
        score for answer, score in zip(answers, scores, strict=True) if answer is not None and votes[answer] == most
    ]
    return Vote(sum(tied) / len(tied), most / len(answers))


def ballot(table: Table | None, answer_type: str) -> Hashable | None:
    """Return what an attempt votes for: its normalised cells, in any order for a set; None if it has none.

    Args:
        table: As :func:`official_table` reads it, so that equal votes have equal official scores; None for an answer
            that cannot be read.
        answer_type: ``item``, ``set``, ``list`` or ``table``.
    """
    if table is None or not table.rows:
        return None
    if answer_type == "set":
        return frozenset(table.rows)
    return (tuple(table.columns) if answer_type == "table" else None, tuple(table.rows))


def cell_vote(tables: Sequence[Table | None]) -> str:
    """Let attempts at a table vote column by column, row by row and cell by cell; an extra, not in the paper.

    Only readable attempts vote. A column stays if more than half of them have one of its name. Rows are told apart by
    their cell in the first of these columns, and stay if more than half have one with it; the second of equal names or
    cells is another one than the first. A cell is the most frequent one among those with that row and column; of
    several, the first. The order of columns, and of rows, is that of the first attempt with most of those that stay.

    Args:
        tables: One an attempt, as :func:`official_table` reads it.

    Returns:
        The table as tab-separated text with a header; empty where no column stays.
    """
    readable = [table for table in tables if table and table.rows]
    columns = _kept([_numbered(table.columns) for table in readable])
    if not columns:
        return ""
    grids = [_grid(table, columns[0]) for table in readable]
    lines = [[name for name, _ in columns]]
    for key in _kept([list(grid) for grid in grids]):
        holders = [grid[key] for grid in grids if key in grid]
        cells = [[row[column] for row in holders if column in row] for column in columns]
        lines.append([Counter(given).most_common(1)[0][0] if given else "" for given in cells])
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows(lines)
    return text.getvalue()


def subsets(attempts: int, k: int, *, most: int = 20, seed: int = 0) -> Iterator[tuple[int, ...]]:
    """Choose k of n attempts: in all ways where these are few, or else at random and independently of each other.

    The mean of a vote over them has no bias as an estimate of the vote of k fresh attempts.

    Args:
        attempts: n.
        k: From 1 to n.
        most: Number of choices from which on they are drawn.
        seed: Of the draws.

    Raises:
        ValueError: there are not that many attempts.
    """
    _check(attempts, k)
    if comb(attempts, k) <= most:
        yield from itertools.combinations(range(attempts), k)
    else:
        draw = random.Random(seed)
        yield from (tuple(sorted(draw.sample(range(attempts), k))) for _ in range(most))


def mean_vote(attempts: int, k: int, vote: Callable[[tuple[int, ...]], Vote], *, seed: int = 0) -> Vote:
    """Average a vote of k over the :func:`subsets` of the attempts."""
    score, confidence = np.mean([vote(chosen) for chosen in subsets(attempts, k, seed=seed)], axis=0)
    return Vote(float(score), float(confidence))


def _check(attempts: int, k: int) -> None:
    if not 1 <= k <= attempts:
        raise ValueError(f"k={k} of {attempts} attempts; it must be from 1 to the number of attempts")


def _numbered(texts: Sequence[str]) -> list[_Label]:
    """Tell equal texts apart by the number of those before."""
    met: Counter[str] = Counter()
    labels = []
    for text in texts:
        labels.append((text, met[text]))
        met[text] += 1
    return labels


def _grid(table: Table, key: _Label) -> dict[_Label, dict[_Label, str]]:
    """Return the cells by row and column, rows being called by their cell in the column ``key``."""
    names = _numbered(table.columns)
    if key not in names:
        return {}
    rows = _numbered(table.column(names.index(key)))
    return {label: dict(zip(names, row, strict=True)) for label, row in zip(rows, table.rows, strict=True)}


def _kept(orders: Sequence[list[_Label]]) -> list[_Label]:
    """Return the labels that more than half have, in the order of the first that has most of them."""
    votes = Counter(label for labels in orders for label in labels)
    kept = {label for label, count in votes.items() if 2 * count > len(orders)}
    order = max(orders, key=lambda labels: len(kept & set(labels)), default=[])
    return [label for label in dict.fromkeys([*order, *votes]) if label in kept]


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


def attempts_figure(curves: Sequence[tuple[str, Sequence[Point]]]) -> Figure:
    """Draw exact match over the number of attempts: the best of them as a line, their vote as a broken one.

    Args:
        curves: Label and points of each cell; at least one, with points.
    """
    from src.report.plots import interval_lines  # Matplotlib takes a second to import

    lines = [
        # Moved apart, so that whiskers of curves that meet stay readable.
        (f"{name}@k, {label}", [(log2(point.k) + shift, y) for point in points if (y := getattr(point, key))])
        for label, points in curves
        for name, key, shift in (("Best", "best", -0.04), ("Majority", "vote", 0.04))
    ]
    ticks = {log2(point.k): str(point.k) for _, points in curves for point in points}
    figure = interval_lines(lines, ("-", "--"), ticks)
    figure.axes[0].set_xlabel("attempts k")
    return figure
