"""Rewards for the steps of an agent, without a model that judges, and their shaping by a potential."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from src.gisa.metrics.answer_text import folded
from src.gisa.metrics.behaviour import canonical_url, search_similarity


@dataclass(frozen=True)
class ToolCall:
    """What an agent did in one step, and what it got to read.

    Attributes:
        text: The result.
        query: What was searched for; None for a visit.
        urls: Addresses that were visited; none for a search.
    """

    text: str
    query: str | None = None
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepValue:
    """What one step brought.

    Attributes:
        new_cells: Share of the answer's distinct cells that its result shows and no earlier one did, in [0, 1].
        human_urls: Share of the pages that a human visited which it visits first, in [0, 1].
        novelty: Of a query, 1 less the highest Jaccard index that an earlier one has with it, in [0, 1]; 0 for a visit.
    """

    new_cells: float
    human_urls: float
    novelty: float


@dataclass(frozen=True)
class Weights:
    """How much counts what, in units of a right answer.

    Attributes:
        cells: All of the answer's cells seen.
        human_urls: All of the human's pages visited.
        novelty: A query that shares no term with an earlier one.
        cost: Of one step; taken off.
    """

    cells: float = 0.5
    human_urls: float = 0.2
    novelty: float = 0.02
    cost: float = 0.02


def step_values(calls: Sequence[ToolCall], gold: Iterable[str], human_urls: Iterable[str]) -> list[StepValue]:
    """Tell what each step of an episode brought.

    Source: the project's specification (newly seen gold cells, human-URL gain, query novelty). That a cell is seen
    where a result holds it as words of its own, whatever case, dashes, quotation marks and thousands separators, and
    that a query without terms is not new, are our choices. A short cell such as ``7`` may be seen by chance.

    Args:
        calls: In their order.
        gold: Cells of the answer; equal ones count once and empty ones never.
        human_urls: Pages that a human visited.

    Returns:
        One value a call; the first two sum to at most 1 over an episode.
    """
    unseen = {form for cell in gold if (form := searchable(cell))}
    unvisited = {canonical_url(url) for url in human_urls}
    cells, pages = len(unseen), len(unvisited)
    values, queries = [], [""]
    for call in calls:
        text = searchable(call.text)
        seen = {cell for cell in unseen if holds(text, cell)}
        visited = unvisited & {canonical_url(url) for url in call.urls}
        unseen, unvisited = unseen - seen, unvisited - visited
        novelty = 0.0
        if call.query is not None and re.search(r"\w", call.query):
            novelty = 1.0 - (search_similarity([call.query], queries) or 0.0)
            queries.append(call.query)
        values.append(StepValue(len(seen) / max(cells, 1), len(visited) / max(pages, 1), novelty))
    return values


def rewards(values: Sequence[StepValue], weights: Weights) -> list[float]:
    """Return the reward of each step: what it brought, weighted, less its cost."""
    return [
        weights.cells * value.new_cells
        + weights.human_urls * value.human_urls
        + weights.novelty * value.novelty
        - weights.cost
        for value in values
    ]


def potentials(values: Sequence[StepValue], weights: Weights) -> list[float]:
    """Return the potential of each state of an episode, the first one before any step.

    It is what of the answer has been seen and of the human's pages been visited so far, weighted. Novelty and cost are
    left out: they belong to a step and not to where it leads.

    Returns:
        One more than there are steps, beginning with 0, never falling.
    """
    states = [0.0]
    for value in values:
        states.append(states[-1] + weights.cells * value.new_cells + weights.human_urls * value.human_urls)
    return states


def shaping(states: Sequence[float], discount: float = 1.0) -> list[float]:
    """Return what is added to the reward of each action, ``F = discount * potential(after) - potential(before)``.

    Source: potential-based shaping (Ng, Harada and Russell 1999). The state after the last action, the answer, is
    terminal and has potential 0, so the discounted sum over an episode is ``-potential(first state)`` whatever the
    actions: which policy is best does not change, only when it gets to know.

    Args:
        states: Potentials of the states in which an action was taken, the answer included; at least one.
        discount: Of a reward one action later, in (0, 1].

    Returns:
        One value an action, the answer's last.
    """
    return [discount * after - before for before, after in zip(states, [*states[1:], 0.0], strict=True)]


def searchable(text: str) -> str:
    """Return a text in one case and spelling, with single spaces and without separators of thousands."""
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", folded(text))
    return " ".join(plain.casefold().split())


def holds(text: str, cell: str) -> bool:
    """Tell whether a text holds a cell that neither a longer word nor a longer number surrounds."""
    return re.search(rf"(?<!\w)(?<!\d[.,]){re.escape(cell)}(?!\w)(?![.,]\d)", text) is not None
