"""What is known of an episode at each of its moments, without the gold answer, in numbers for a model of its value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from math import log1p
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from src.agent.corpus import words_of
from src.metrics.answer_text import official_table, robust_answer
from src.metrics.behaviour import canonical_url
from src.metrics.process import ToolCall, holds, searchable, step_values

TYPES = ("item", "set", "list", "table")
ASKED = (*TYPES, "question_words")
DONE = (
    *("calls", "share_of_visits", "pages", "share_of_new_pages", "characters", "novelty"),
    *("question_in_queries", "queries_in_question", "question_in_results", "names_in_pages"),
    *("addresses_in_question", "worst_address_in_question"),
)
ANSWERED = (
    *("answered", "readable", "fits_type", "rows", "columns", "answer_characters", "distinct_rows", "filled_cells"),
    *("cells_with_digits", "cells_shown", "cells_in_question", "question_beside_cells"),
)
NAMES = (*ASKED, *DONE, *ANSWERED)
"""What the numbers of a state are, in their order."""


def states(question: str, answer_type: str, calls: Sequence[ToolCall], answer: str) -> NDArray[np.float32]:
    """Describe an episode before its first call, after each call, and with its answer.

    Source: our choice. Counts are logarithms, all else shares in [0, 1]; each state sums up all that came before, so
    that nothing with a memory is needed to read it. Of the gold answer, or of a human, nothing goes in.

    Args:
        question: As the agent was asked.
        answer_type: ``item``, ``set``, ``list`` or ``table``; part of what the agent was told.
        calls: What it did and got to read.
        answer: What it said in the end; empty for none.

    Returns:
        Shape ``(T + 2, F)``: T calls, F = ``len(NAMES)``.
    """
    asked = frozenset(words_of(question))
    first = [*(float(answer_type == one) for one in TYPES), log1p(len(asked))]
    capitals = " ".join(word for word in question.split()[1:] if any(map(str.isupper, word)))
    names = frozenset(words_of(capitals))
    steps = [_Step(call, value.novelty) for call, value in zip(calls, step_values(calls, (), ()), strict=True)]
    rows = [[*first, *_done(asked, names, steps[:done]), *[0.0] * len(ANSWERED)] for done in range(len(steps) + 1)]
    rows.append([*rows[-1][: -len(ANSWERED)], *_answered(question, asked, answer_type, calls, answer)])
    return np.array(rows, dtype=np.float32)


class _Step:
    """A call in words."""

    def __init__(self, call: ToolCall, novelty: float) -> None:
        self.is_visit, self.novelty, self.characters = call.query is None, novelty, len(call.text)
        self.read = frozenset(words_of(call.text))
        self.query = frozenset(words_of(call.query or ""))
        self.pages = [canonical_url(url) for url in call.urls]
        places = (url.partition("://")[2].partition("/")[2] for url in self.pages)
        self.places = [frozenset(words_of(unquote(place).replace("_", " "))) for place in places]


def _done(asked: AbstractSet[str], names: AbstractSet[str], steps: Sequence[_Step]) -> list[float]:
    """Return the numbers named in ``DONE``."""
    searches = [step for step in steps if not step.is_visit]
    visits = [step for step in steps if step.is_visit]
    pages = [page for step in visits for page in step.pages]
    places = [_share(place, asked) for step in visits for place in step.places]
    queried = frozenset[str]().union(*(step.query for step in searches))
    read = frozenset[str]().union(*(step.read for step in steps))
    visited = frozenset[str]().union(*(step.read for step in visits))
    return [
        log1p(len(steps)),
        len(visits) / max(len(steps), 1),
        log1p(len(set(pages))),
        len(set(pages)) / max(len(pages), 1),
        log1p(sum(step.characters for step in steps)),
        _mean(step.novelty for step in searches),
        _share(asked, queried),
        _mean(_share(step.query, asked) for step in searches),
        _share(asked, read),
        _share(names, visited),
        _mean(places),
        min(places, default=0.0),
    ]


def _answered(
    question: str, asked: AbstractSet[str], answer_type: str, calls: Sequence[ToolCall], answer: str
) -> list[float]:
    """Return the numbers named in ``ANSWERED``."""
    table = official_table(answer)
    rows = table.rows if table else []
    width = len(rows[0]) if rows else 0
    fits = (width > 1) == (answer_type == "table") and bool(rows) and (answer_type != "item" or len(rows) == 1)
    body = robust_answer(answer)[0][1:]  # as it was written; the official table has its cells in another spelling
    cells = [cell.strip() for row in body for cell in row]
    distinct = sorted({form for cell in cells if (form := searchable(cell))})
    shown = sum(value.new_cells for value in step_values(calls, distinct, ()))
    return [
        1.0,
        float(bool(rows)),
        float(fits),
        log1p(len(rows)),
        log1p(width),
        log1p(len(answer)),
        len(set(rows)) / max(len(rows), 1),
        _mean(float(bool(cell)) for cell in cells),
        _mean(float(any(map(str.isdigit, cell))) for cell in cells),
        shown,
        _mean(float(holds(searchable(question), cell)) for cell in distinct),
        _beside(distinct, asked, calls),
    ]


def _beside(cells: Sequence[str], asked: AbstractSet[str], calls: Sequence[ToolCall]) -> float:
    """Return the share of the question's words that stand in a cell's line of a result or the one above it.

    It is that of the best line for each cell, in the mean over the cells.
    """
    best = dict.fromkeys(cells, 0.0)
    for text in {call.text for call in calls}:
        lines = text.splitlines()
        for above, line in zip(["", *lines], lines, strict=False):
            plain = searchable(line)
            if held := [cell for cell in cells if cell in plain and holds(plain, cell)]:
                share = _share(asked, frozenset(words_of(f"{above} {line}")))
                best |= {cell: max(best[cell], share) for cell in held}
    return _mean(best.values())


def _share(part: AbstractSet[str], whole: AbstractSet[str]) -> float:
    """Return how much of the first is in the second; 0 of nothing."""
    return len(part & whole) / max(len(part), 1)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / max(len(found), 1)
