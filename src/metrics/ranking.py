"""Hit rate and NDCG of a full ranking with one relevant item a user."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def per_user_metric(ranks: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    """Score every user's target by its rank.

    With one relevant item the ideal DCG is 1, so NDCG@k = 1 / log2(rank + 1) within the cutoff and Hit@k = Recall@k.

    Users without a decoded target score 0; a fractional rank enters the formulas as it is.

    Source: leave-one-out full-ranking protocol of the sequential recommendation literature.

    Args:
        ranks: Rank of each user's target, shape ``(users,)``; 1 is best, NaN where the target was not decoded. It is
            fractional where items share a semantic ID: the expected rank inside their group.
        metric: ``hit@k`` or ``ndcg@k`` with k a whole number from 1.

    Returns:
        Scores in [0, 1], shape ``(users,)``.

    Raises:
        ValueError: the metric's name cannot be read, ``ranks`` is not one-dimensional, or a rank is below 1.
    """
    ranks = np.asarray(ranks, dtype=np.float64)
    name, _, cutoff = metric.partition("@")
    if name not in ("hit", "ndcg") or not cutoff.isdecimal() or int(cutoff) < 1:
        raise ValueError(f"the metric is {metric!r}; it must be 'hit@k' or 'ndcg@k' with k from 1, such as 'ndcg@10'")
    if ranks.ndim != 1 or (ranks < 1).any():
        raise ValueError(f"ranks must have shape (users,) and start at 1; got {ranks}")
    gain = np.ones_like(ranks) if name == "hit" else 1 / np.log2(ranks + 1)
    # A comparison with NaN is false, so a target that was not decoded scores 0.
    return np.where(ranks <= int(cutoff), gain, 0.0)


def ranking_metrics(ranks: NDArray[np.float64], cutoffs: Sequence[int] = (5, 10, 20)) -> dict[str, float]:
    """Average Hit@k and NDCG@k over all users, those without a decoded target included as zeros.

    Args:
        ranks: As in :func:`per_user_metric`, shape ``(users,)``.
        cutoffs: The values of k.

    Returns:
        ``{"hit@5": ..., "ndcg@5": ..., "hit@10": ..., ...}`` in the order of ``cutoffs``.

    Raises:
        ValueError: there are no users, or as in :func:`per_user_metric`.
    """
    if len(ranks) == 0:
        raise ValueError("ranks is empty; a mean needs at least one user")
    return {
        metric: float(per_user_metric(ranks, metric).mean())
        for cutoff in cutoffs
        for metric in (f"hit@{cutoff}", f"ndcg@{cutoff}")
    }
