"""Intervals over training seeds (t), over users and seeds (bootstrap), and of the paired difference of two methods."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with the two ends of its 95% interval, in the unit of the values."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the distance between the ends."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class PairedDifference:
    """How much better method a is than method b on the same users.

    Attributes:
        difference: Mean of a - b with its interval.
        share_above_zero: Share of the resamples whose mean difference is above 0, in [0, 1].
        relative: Mean difference divided by the mean of b; NaN where that is 0.
    """

    difference: Interval
    share_above_zero: float
    relative: float


def seed_interval(values: Iterable[float]) -> Interval:
    """Average one figure a seed, with Student's t-interval over the seeds.

    It says how far the mean of other seeds may lie, on the same test users; it says nothing about other users.

    Args:
        values: One value a training seed.

    Returns:
        The mean and its 95% interval, whose ends are NaN for a single seed.

    Raises:
        ValueError: there are no values.
    """
    sample = np.asarray(list(values), dtype=np.float64)
    if len(sample) == 0:
        raise ValueError("an interval needs at least one value")
    mean = float(sample.mean())
    if len(sample) == 1:
        return Interval(mean, np.nan, np.nan)
    from scipy.special import stdtrit  # 0.1 s that a run without several seeds need not wait for

    quantile = stdtrit(len(sample) - 1, (1 + LEVEL) / 2)
    half_width = float(quantile * sample.std(ddof=1) / np.sqrt(len(sample)))
    return Interval(mean, mean - half_width, mean + half_width)


def bootstrap_interval(values: ArrayLike, *, seed: int = 0, samples: int = 10_000) -> Interval:
    """Average the users' scores, with a percentile bootstrap interval over users and seeds.

    Args:
        values: Scores of shape ``(users,)`` or ``(seeds, users)``.
        seed: Seed of the resampling.
        samples: Number of resamples.

    Returns:
        The mean and its 95% interval. With one row, or one dimension, it covers the choice of users only.

    Raises:
        ValueError: the values are empty, hold NaN or have another number of dimensions.
    """
    scores = _seeds_by_users(values)
    return _percentile_interval(scores.mean(), _resampled_means(scores, seed, samples))


def paired_bootstrap(a: ArrayLike, b: ArrayLike, *, seed: int = 0, samples: int = 10_000) -> PairedDifference:
    """Compare two methods on the same users (and seeds) by a paired bootstrap of their differences.

    Args:
        a: Scores of the first method, shape ``(users,)`` or ``(seeds, users)``.
        b: Scores of the second method; same shape, same users and seeds in the same order.
        seed: Seed of the resampling.
        samples: Number of resamples.

    Returns:
        The difference a - b. With one row, or one dimension, its interval covers the choice of users only.

    Raises:
        ValueError: the shapes differ, or as in :func:`bootstrap_interval`.
    """
    first, second = _seeds_by_users(a), _seeds_by_users(b)
    if first.shape != second.shape:
        raise ValueError(f"a paired comparison needs equal shapes; got {first.shape} and {second.shape}")
    means = _resampled_means(first - second, seed, samples)
    mean = first.mean() - second.mean()
    return PairedDifference(
        difference=_percentile_interval(mean, means),
        share_above_zero=float((means > 0).mean()),
        relative=float(mean / second.mean()) if second.mean() else np.nan,
    )


def _seeds_by_users(values: ArrayLike) -> NDArray[np.float64]:
    scores = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if scores.ndim != 2 or scores.size == 0 or np.isnan(scores).any():
        raise ValueError(f"scores must have shape (users,) or (seeds, users) and no NaN; got {scores}")
    return scores


def _resampled_means(scores: NDArray[np.float64], seed: int, samples: int) -> NDArray[np.float64]:
    """Return the mean of each resample, shape ``(samples,)``; seeds and users are drawn independently of each other.

    Users are crossed with seeds (every seed is tested on the same users), so resampled seeds share one set of users.
    Source: the pigeonhole bootstrap, A. B. Owen, Annals of Applied Statistics 1(2), 2007. It errs on the wide side:
    with 3 seeds and 943 simulated users its interval held the true difference in 96 to 100 of 100 trials, that of the
    users alone (scores averaged over seeds first) in 94 without and 75 with strong differences between seeds.
    """
    random = np.random.default_rng(seed)
    seeds, users = scores.shape
    # Users with equal scores in every seed are interchangeable: drawing how often each distinct column occurs has the
    # same distribution as drawing users, and most columns are all zero.
    columns, counts = np.unique(scores, axis=1, return_counts=True)
    share = counts / users
    seed_weights = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=samples) / seeds
    blocks = np.array_split(seed_weights, 1 + samples * len(share) // 10**6)  # 8 MB of counts at a time
    draws = ((weights, random.multinomial(users, share, size=len(weights))) for weights in blocks)
    return np.concatenate([np.sum(weights @ columns * times, axis=1) / users for weights, times in draws])


def _percentile_interval(mean: float, resampled: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(mean), float(low), float(high))
