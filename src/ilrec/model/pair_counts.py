"""Which item follows which: pairs counted, and targets ranked by them without the scores of all items."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from src.ilrec.dataset.interactions import Interactions

TIE_BREAK = 1e-6  # score of the most popular item, so that popularity orders what nothing else does
_BLOCK = 1 << 24  # products of sparse matrices at once: about 400 MiB


def latest_items(interactions: Interactions, count: int) -> NDArray[np.int64]:
    """Return each user's latest training items, latest first, shape ``(users, count)``, padded with -1."""
    place = interactions.offsets[1:, None] - 3 - np.arange(count)
    inside = place >= interactions.offsets[:-1, None]
    return np.where(inside, interactions.items[np.where(inside, place, 0)], -1)


def ranks_of(
    histories: NDArray[np.int64],
    targets: NDArray[np.int64],
    pairs: csr_matrix,
    popularity: NDArray[np.float64],
    *,
    decay: float,
    norm: float,
) -> NDArray[np.float64]:
    """Rank targets by the scores of ``Counting``, without ever holding the scores of all items.

    Args:
        histories: Items, latest first, shape ``(n, K)``, padded with -1.
        targets: Shape ``(n,)``.
        pairs: See :func:`count_pairs`.
        popularity: What is added to the score of each item, shape ``(I,)``, at most 1e-6.
        decay: See ``CountingSettings``.
        norm: Likewise.

    Returns:
        Expected ranks under a random order of equal scores, shape ``(n,)``; NaN where it can be seen at once that more
        than ten items are ahead.
    """
    row_sums, number = np.asarray(pairs.sum(axis=1)).ravel(), np.arange(len(targets))
    factor = np.divide(1.0, row_sums**norm, out=np.zeros_like(row_sums), where=row_sums > 0)
    user, slot = np.nonzero(histories >= 0)
    items = histories[user, slot]
    weights, lengths = decay**slot * factor[items], np.diff(pairs.indptr)
    own = np.bincount(user, weights * np.asarray(pairs[items, targets[user]]).ravel(), minlength=len(targets))
    follows = pairs.data * np.repeat(factor, lengths) > TIE_BREAK
    surely_ahead = np.bincount(np.repeat(np.arange(len(lengths)), lengths), follows, minlength=len(lengths))
    open_ones = number[(own > 0) | (surely_ahead[histories[:, 0]] < 10)]
    first = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(targets)))])
    matrix = csr_matrix((weights, items, first), shape=(len(targets), len(row_sums)))[open_ones]
    work = np.cumsum(np.bincount(user, lengths[items], minlength=len(targets))[open_ones])
    ranks, order = np.full(len(targets), np.nan), np.sort(popularity)
    for block in np.split(np.arange(len(open_ones)), np.searchsorted(work, np.arange(_BLOCK, work[-1:].sum(), _BLOCK))):
        ranks[open_ones[block]] = _ranks_among(matrix[block] @ pairs, targets[open_ones[block]], popularity, order)
    return ranks


def _ranks_among(
    scores: csr_matrix, targets: NDArray[np.int64], popularity: NDArray[np.float64], order: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return expected ranks, shape ``(n,)``, by scores ``(n, I)`` to which popularity (sorted: ``order``) is added."""
    row = np.repeat(np.arange(len(targets)), np.diff(scores.indptr))
    bare = np.bincount(row, scores.data * (scores.indices == targets[row]), minlength=len(targets))
    own = bare + popularity[targets]
    near = scores.data >= (bare - TIE_BREAK)[row]  # all others are behind, whatever their popularity
    row, item, score = row[near], scores.indices[near], scores.data[near]
    first, last = (np.searchsorted(order, own, side) for side in ("left", "right"))
    ahead, level = len(order) - last, last - first  # as if popularity were all; then for the items with scores
    for sign, value in ((-1, popularity[item]), (1, score + popularity[item])):
        ahead = ahead + sign * np.bincount(row, value > own[row], minlength=len(targets))
        level = level + sign * np.bincount(row, value == own[row], minlength=len(targets))
    ranks: NDArray[np.float64] = ahead + (level + 1) / 2
    return ranks
