"""How an agent searches and browses, beside a human who answered the same question."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from urllib.parse import SplitResult, urlsplit

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Parameters that tell where a reader came from, and nothing about the page.
_TRACKING = re.compile(
    r"(?:utm_\w+|gclid|dclid|gbraid|wbraid|fbclid|msclkid|mc_cid|mc_eid|igshid|yclid|srsltid|ref_src)"
)


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

    Scheme and host lose their case; fragment, tracking parameters and slashes at the end of the path are dropped. What
    cannot be read as an address only loses the white space around it.
    """
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return url.strip()
    query = "&".join(one for one in parts.query.split("&") if not _TRACKING.fullmatch(one.partition("=")[0].lower()))
    return SplitResult(parts.scheme, parts.netloc.lower(), parts.path.rstrip("/"), query, "").geturl()


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
