"""Human traces to steps: what was searched for, which pages each search led to, and how surely that is known."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from src.gisa.dataset.gisa import Click, Trace
from src.gisa.metrics.behaviour import canonical_url, query_of, redirected

Evidence = Literal["typed", "results_page", "chain", "listed"]


@dataclass(frozen=True)
class Step:
    """One step of a human.

    Attributes:
        kind: What was done.
        what: The query, or the address of the page, behind any redirect.
        evidence: What tells the search that a visit belongs to, from sure to less sure: it was clicked on a
            ``results_page``; on a page that the search had led to, by a ``chain`` of clicks; or it is just ``listed``
            in the results of the search. A search was ``typed``.
    """

    kind: Literal["search", "visit"]
    what: str
    evidence: Evidence


@dataclass(frozen=True)
class HumanTrajectory:
    """A human's way to an answer.

    Attributes:
        steps: Each search, followed by the visits that belong to it in the order of the clicks.
        orphans: Addresses of the visits that belong to no search.
        left_out: How many clicks are no step: to ``results_pages``, or ``repeats`` of a visit within one search.
    """

    steps: list[Step]
    orphans: list[str]
    left_out: Counter[str]


def human_trajectory(trace: Trace) -> HumanTrajectory:
    """Put the searches and clicks of a trace in order.

    A click belongs to the query whose results page it came from; else to the one of the page it came from; else to one
    whose results list it. Of several searches with that query, or that list it, the next one is meant, counted from the
    search of the click before; after the last, the last.
    """
    way = ClickResolver(trace)
    visits: list[list[Step]] = [[] for _ in trace.searches]
    course = HumanTrajectory([], [], Counter())
    for click in trace.clicks:
        if query_of(click.target) is not None:
            course.left_out["results_pages"] += 1
            continue
        address = redirected(click.target)
        found = way.search_of(click)
        if found is None:
            course.orphans.append(address)
            continue
        search, evidence = found
        if canonical_url(address) in {canonical_url(step.what) for step in visits[search]}:
            course.left_out["repeats"] += 1
            continue
        visits[search].append(Step("visit", address, evidence))
    for query, followed in zip(trace.searches, visits, strict=True):
        course.steps.extend([Step("search", query, "typed"), *followed])
    return course


class ClickResolver:
    """Where a human stands after some clicks."""

    def __init__(self, trace: Trace) -> None:
        self._queries = [_folded(query) for query in trace.searches]
        listed: dict[str, set[str]] = {}
        for query, pages in trace.results.items():
            urls = {canonical_url(result.url) for page in pages for result in page.results}
            listed.setdefault(_folded(query), set()).update(urls)
        self._listed = [listed.get(query, set()) for query in self._queries]
        self._reached: dict[str, int] = {}  # canonical address to the search that led there last
        self._last = 0

    def search_of(self, click: Click) -> tuple[int, Evidence] | None:
        """Return the number of the search that a click belongs to and what tells so; None for an orphan."""
        source, target = canonical_url(click.source), canonical_url(click.target)
        asked = query_of(click.source)
        found: tuple[int, Evidence] | None = None
        same = [at for at, query in enumerate(self._queries) if asked is not None and query == _folded(asked)]
        listing = [at for at, urls in enumerate(self._listed) if target in urls]
        if same:
            found = self._next(same), "results_page"
        elif source in self._reached:
            found = self._reached[source], "chain"
        elif listing:
            found = self._next(listing), "listed"
        if found:
            self._last = self._reached[target] = found[0]
        else:  # what it leads to is an orphan again, wherever the same page had come from before
            self._reached.pop(target, None)
        return found

    def _next(self, searches: list[int]) -> int:
        return next((at for at in searches if at >= self._last), searches[-1])


def _folded(query: str) -> str:
    return " ".join(query.split()).casefold()
