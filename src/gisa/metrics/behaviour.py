"""How an agent searches and browses: beside a human who answered the same question, and what each step brings."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_letters, digits
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

import numpy as np
from numpy.typing import ArrayLike, NDArray

from src.gisa.metrics.answer_text import folded

# Parameters that tell where a reader came from, and nothing about the page.
_TRACKING = re.compile(
    r"(?:utm_\w+|gclid|dclid|gbraid|wbraid|fbclid|msclkid|mc_cid|mc_eid|igshid|yclid|srsltid|ref_src)"
)
# Characters of an address that mean the same with and without percent-encoding, and those that part it.
_UNRESERVED = frozenset(ascii_letters + digits + "-._~")
_PARTING = "%!$&'()*+,;=:@/[]|"

_DOTS = ".\u3002\uff0e\uff61"  # as names in other letters have them, too

# Pages that only lead on to another one: host, path and the parameters that hold its address.
_GOOGLE = r"(?:www\.)?google\.(?:\w{2,3}\.)?\w{2,3}"
_REDIRECTS = (
    (re.compile(rf"{_GOOGLE}/url/*"), ("q", "url")),
    (re.compile(rf"{_GOOGLE}/imgres/*"), ("imgrefurl",)),
    (re.compile(r"(?:www\.)?duckduckgo\.com/l/*"), ("uddg",)),
    (re.compile(r"lm?\.facebook\.com/l\.php/*"), ("u",)),
)
_RESULTS = re.compile(rf"{_GOOGLE}/search")


def search_similarity(human: Sequence[str], model: Sequence[str]) -> float | None:
    """Tell how close an agent's queries come to each of a human's.

    Source: GISA (arXiv 2602.08543), search similarity of Table 5: mean over the human's queries of the highest Jaccard
    index that one of the model's reaches, on lower-cased terms: runs of letters, digits and underscores.

    Args:
        human: Queries of the human.
        model: Queries of the agent.

    Returns:
        In [0, 1]; 0 where the agent never searched, None where the human didn't.
    """
    if not human:
        return None
    theirs = [_terms(query) for query in model]
    best = [max((jaccard(_terms(query), terms) for terms in theirs), default=0.0) for query in human]
    return sum(best) / len(best)


def adjacent_query_jaccard(queries: Sequence[str]) -> float | None:
    """Tell how much of a query an agent repeats in its next one.

    Source: GISA (arXiv 2602.08543), "search diversity" of Table 5. It is a similarity: HIGHER means LESS diverse.

    Args:
        queries: In the order in which they were made.

    Returns:
        Mean Jaccard index of neighbours, in [0, 1]; None where there are fewer than two queries.
    """
    terms = [_terms(query) for query in queries]
    values = [jaccard(first, second) for first, second in pairwise(terms)]
    return sum(values) / len(values) if values else None


def browsing_similarity(human: Iterable[str], model: Iterable[str]) -> float | None:
    """Compare the pages that an agent and a human visited.

    Source: GISA (arXiv 2602.08543), browsing similarity of Table 5: Jaccard index of the sets of addresses,
    each in its :func:`canonical_url`.

    Returns:
        In [0, 1]; None where neither visited a page.
    """
    pages = [frozenset(map(canonical_url, urls)) for urls in (human, model)]
    return jaccard(*pages) if any(pages) else None


def jaccard(first: frozenset[Hashable], second: frozenset[Hashable]) -> float:
    """Return the share of common elements among all, in [0, 1]; 0 where there are none at all."""
    union = len(first | second)
    return len(first & second) / union if union else 0.0


def canonical_url(url: str) -> str:
    """Return the form in which addresses of one page are equal.

    Redirects are resolved as far as they show where they lead. Scheme and host lose their case, the host also dots at
    its end, a name of other letters becomes punycode, and the usual port is dropped; http counts as https. Characters
    that need no percent-encoding lose it, all others get it, in capitals; steps such as ``/../`` are taken. Fragment,
    tracking parameters and slashes at the end of the path are dropped. What cannot be read as an address only loses
    the white space around it.

    Source: the normalisation of RFC 3986, section 6.2; that http counts as https, and trackers nothing, is our choice.
    """
    url = redirected(url)
    try:
        parts = urlsplit(url)
        authority = _authority(parts) if parts.scheme in ("http", "https") else parts.netloc.lower()
    except ValueError:
        return url
    query = "&".join(part for part in parts.query.split("&") if not _TRACKING.fullmatch(part.partition("=")[0].lower()))
    path, query, scheme = parts.path, query.strip(), parts.scheme
    if authority and scheme in ("http", "https"):
        scheme, path, query = "https", _without_steps(_encoded(path)), _encoded(query, "?")
    path = re.sub(r"[/\s]+\Z", "", path)
    canonical = SplitResult(scheme, authority, path, query, "").geturl().strip()
    return canonical if redirected(canonical) == canonical else canonical_url(canonical)


def _authority(parts: SplitResult) -> str:
    """Return the host, and port if it is another one than usual, in one spelling.

    Raises:
        ValueError: there is no such port.
    """
    user, at, _ = parts.netloc.rpartition("@")
    host, port = re.sub(rf"[\s{_DOTS}]+\Z", "", parts.hostname or ""), parts.port
    if not host.isascii():
        import idna  # only for names in other letters

        with suppress(idna.IDNAError):
            host = idna.encode(host, uts46=True).decode().rstrip(_DOTS)
    host = f"[{host}]" if ":" in host else host
    return f"{user}{at}{host}" + (f":{port}" if port not in (None, 80, 443) else "")


def _encoded(text: str, parting: str = "") -> str:
    """Write a path or query with percent-encoding where it is needed only."""
    plain = re.sub(
        "%([0-9A-Fa-f]{2})",
        lambda code: sign if (sign := chr(int(code[1], 16))) in _UNRESERVED else code[0].upper(),
        text,
    )
    return quote(plain, safe=_PARTING + parting, errors="replace")


def _without_steps(path: str) -> str:
    """Take the steps ``.`` and ``..`` of a path."""
    taken: list[str] = []
    for step in path.split("/"):
        if step == "..":
            del taken[max(1, len(taken) - 1) :]
        elif step != ".":
            taken.append(step)
    return "/".join(taken)


def redirected(url: str) -> str:
    """Return where an address leads if it is a redirect that names its goal, or else the address itself."""
    url = url.strip()
    while goals := [
        goal
        for page, names in _REDIRECTS
        for name in names
        for goal in _parameters(url, page).get(name, [])
        if goal.startswith(("http://", "https://"))
    ]:
        url = goals[0].strip()  # shorter each time, so it ends
    return url


def query_of(url: str) -> str | None:
    """Return the query of a page of Google's results, None for any other address."""
    return next(iter(_parameters(url.strip(), _RESULTS).get("q", [])), None)


def _parameters(url: str, page: re.Pattern[str]) -> dict[str, list[str]]:
    """Return the parameters of an address whose host and path match; none of any other."""
    try:
        parts = urlsplit(url)
        return parse_qs(parts.query) if page.fullmatch(f"{parts.netloc.lower()}{parts.path}") else {}
    except ValueError:
        return {}


def high_and_low(values: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Halve questions by how similar an agent's behaviour was to a human's.

    Source: GISA (arXiv 2602.08543) compares the scores of two such groups. Equal values are never parted: those at
    the median go to the side that makes the two more alike in size.

    Args:
        values: Similarities, shape ``(N,)``; N questions.

    Returns:
        Masks of the high and of the low ones, shape ``(N,)``; one is empty where all values are equal.
    """
    similarity = np.asarray(values, dtype=np.float64)
    median = np.median(similarity) if len(similarity) else 0.0
    high = min(similarity > median, similarity >= median, key=lambda mask: abs(len(mask) - 2 * mask.sum()))
    return high, ~high


def _terms(query: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", query.lower()))


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

    A cell is seen where a result holds it as words of its own, whatever case, dashes, quotation marks and thousands
    separators; a short one such as ``7`` may be seen by chance. A query without terms is not new.

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


def searchable(text: str) -> str:
    """Return a text in one case and spelling, with single spaces and without separators of thousands."""
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", folded(text))
    return " ".join(plain.casefold().split())


def holds(text: str, cell: str) -> bool:
    """Tell whether a text holds a cell that neither a longer word nor a longer number surrounds."""
    return cell in text and re.search(rf"(?<!\w)(?<!\d[.,]){re.escape(cell)}(?!\w)(?![.,]\d)", text) is not None
