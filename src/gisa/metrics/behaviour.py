"""How an agent searches and browses, beside a human who answered the same question."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from urllib.parse import SplitResult, parse_qs, urlsplit

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Parameters that tell where a reader came from, and nothing about the page.
_TRACKING = re.compile(
    r"(?:utm_\w+|gclid|dclid|gbraid|wbraid|fbclid|msclkid|mc_cid|mc_eid|igshid|yclid|srsltid|ref_src)"
)

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
    index that one of the model's reaches, on lower-cased terms. A term being a run of letters, digits and underscores,
    and the two limits below, are our choices.

    Args:
        human: Queries of the human.
        model: Queries of the agent.

    Returns:
        In [0, 1]; 0 where the agent never searched, None where the human didn't.
    """
    if not human:
        return None
    theirs = [_terms(query) for query in model]
    best = [max((jaccard(_terms(query), one) for one in theirs), default=0.0) for query in human]
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

    Source: GISA (arXiv 2602.08543), browsing similarity of Table 5: Jaccard index of the sets of addresses. How they
    are made comparable, see :func:`canonical_url`, is our choice.

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

    Redirects are resolved as far as they show where they lead. Scheme and host lose their case; fragment, tracking
    parameters and slashes at the end of the path are dropped. What cannot be read as an address only loses the white
    space around it.
    """
    url = redirected(url)
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    query = "&".join(one for one in parts.query.split("&") if not _TRACKING.fullmatch(one.partition("=")[0].lower()))
    path = re.sub(r"[/\s]+\Z", "", parts.path)
    return SplitResult(parts.scheme, parts.netloc.lower(), path, query.strip(), "").geturl().strip()


def redirected(url: str) -> str:
    """Return where an address leads if it is a redirect that names its goal, or else the address itself."""
    url = url.strip()
    while goals := [
        goal
        for place, names in _REDIRECTS
        for name in names
        for goal in _parameters(url, place).get(name, [])
        if goal.startswith(("http://", "https://"))
    ]:
        url = goals[0].strip()  # shorter each time, so it ends
    return url


def query_of(url: str) -> str | None:
    """Return the query of a page of Google's results, None for any other address."""
    return next(iter(_parameters(url.strip(), _RESULTS).get("q", [])), None)


def _parameters(url: str, place: re.Pattern[str]) -> dict[str, list[str]]:
    """Return the parameters of an address whose host and path match; none of any other."""
    try:
        parts = urlsplit(url)
        return parse_qs(parts.query) if place.fullmatch(f"{parts.netloc.lower()}{parts.path}") else {}
    except ValueError:
        return {}


def high_and_low(values: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Halve questions by how similar an agent's behaviour was to a human's.

    Source: GISA (arXiv 2602.08543) compares the scores of two such groups. That equal values are never parted is our
    choice: those at the median go to the side that makes the two more alike in size.

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
