"""What several attempts at a question are worth: the best of k, and a vote of k, over whole answers or cell by cell."""

from __future__ import annotations

import csv
import io
import itertools
import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from math import comb
from typing import NamedTuple

import numpy as np

from src.gisa.metrics.answer_table import Table

SIZES = (1, 2, 4, 8, 16)
"""The k of GISA's Figure 5."""
_Label = tuple[str, int]


def pass_at_k(attempts: int, right: int, k: int) -> float:
    """Estimate without bias the chance that at least one of k attempts is right.

    Source: Chen et al. (arXiv 2107.03374), equation 1: ``1 - C(n - c, k) / C(n, k)``.

    Args:
        attempts: n, all attempts that were made.
        right: c, how many of them were right.
        k: From 1 to ``attempts``.

    Raises:
        ValueError: there are not that many attempts.
    """
    _check(attempts, k)
    return 1.0 - comb(attempts - right, k) / comb(attempts, k)


def best_at_k(scores: Sequence[float], k: int) -> float:
    """Estimate without bias the score of the best of k attempts; on scores of 0 and 1 this is :func:`pass_at_k`.

    The i-th lowest of n scores is the best of ``C(i - 1, k - 1)`` of the ``C(n, k)`` choices.

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
        table: As :func:`~src.gisa.metrics.answer_text.official_table` reads it, so that equal votes have equal official
            scores; None for an answer that cannot be read.
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
        tables: One an attempt, as :func:`~src.gisa.metrics.answer_text.official_table` reads it.

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
