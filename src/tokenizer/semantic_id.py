"""Semantic IDs cut from item embeddings by residual k-means."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from src.errors import InputError
from src.tokenizer.assignment import balanced_log_plan, exact_assignment, greedy_assignment
from src.tokenizer.embeddings import Embedding
from src.tokenizer.item_tokens import ItemTokens, ReportValue

if TYPE_CHECKING:
    from src.dataset.interactions import Interactions

LastLevel = Literal["greedy", "sinkhorn", "none"]


class ResidualKMeans:
    """Residual quantisation of item embeddings by k-means, with a last level that keeps items apart.

    Source: RQ k-means as in LC-Rec's and GRID's small-scale tokenizers; the capacity rule is our choice: a code takes
    no more items than the levels below it can tell apart. So IDs are unique whenever
    ``codebook_size ** levels >= items``, and otherwise as few items as possible share one.
    """

    def __init__(
        self,
        *,
        embedding: Embedding,
        levels: int,
        codebook_size: int,
        last_level: LastLevel,
        restarts: int,
        sinkhorn_epsilon: float,
        sinkhorn_iterations: int,
        seed: int,
    ) -> None:
        """Keep the settings.

        Args:
            embedding: Where the item vectors come from.
            levels: Tokens per item, 1 to 26.
            codebook_size: Codes per level, at most the number of items.
            last_level: ``greedy`` gives the closest pair of item and free code first; ``sinkhorn`` also evens out the
                use of the last codebook over all items; ``none`` is plain residual k-means, collisions included.
            restarts: k-means runs per level; the best is kept.
            sinkhorn_epsilon: Entropic regularisation in units of the mean squared distance, > 0.
            sinkhorn_iterations: Rounds of row and column scaling.
            seed: Seed of the k-means starts.
        """
        if not 1 <= levels <= 26:
            raise InputError(f"tokenizer.levels={levels}, but levels are named <a_..> to <z_..>: give 1 to 26.")
        if last_level not in get_args(LastLevel):
            raise InputError(f"tokenizer.last_level={last_level} is unknown: give {', '.join(get_args(LastLevel))}.")
        for setting, value in (
            ("codebook_size", codebook_size),
            ("restarts", restarts),
            ("sinkhorn_epsilon", sinkhorn_epsilon),
            ("sinkhorn_iterations", sinkhorn_iterations),
        ):
            if value <= 0:
                raise InputError(f"tokenizer.{setting}={value}: give a number above 0.")
        self.embedding = embedding
        self.levels = levels
        self.codebook_size = codebook_size
        self.last_level = last_level
        self.restarts = restarts
        self.sinkhorn_epsilon = sinkhorn_epsilon
        self.sinkhorn_iterations = sinkhorn_iterations
        self.seed = seed

    def fit(self, interactions: Interactions) -> ItemTokens:
        """Embed the items and cut the vectors into codes.

        Returns:
            The IDs. The report also has ``items_without_training`` and, per level, ``unexplained``: the share of the
            embeddings' variance left in the residual after that level.

        Raises:
            InputError: fewer items than codes, or the embedding misses something it needs.
        """
        if self.codebook_size > interactions.num_items:
            raise InputError(
                f"tokenizer.codebook_size={self.codebook_size} is more than the {interactions.num_items} items of "
                f"'{interactions.name}'. Type a smaller one:  tokenizer.codebook_size="
                f"{math.ceil(interactions.num_items ** (1 / self.levels))}"
            )
        # One thread: with more, the order of additions varies, and so the last bits, and so now and then a code.
        with threadpool_limits(limits=1):
            codes, unexplained = self._quantise(self.embedding.embed(interactions).astype(np.float64))
        cold = int((interactions.training_matrix().getnnz(axis=0) == 0).sum())
        extra: dict[str, ReportValue] = {"unexplained": unexplained, "items_without_training": cold}
        return ItemTokens.from_codes(codes, [range(self.codebook_size)] * self.levels, extra)

    def _quantise(self, vectors: np.ndarray) -> tuple[np.ndarray, list[float]]:
        """Return codes of shape ``(items, levels)`` and the share of variance each level leaves."""
        residual = vectors - vectors.mean(axis=0)
        total = (residual**2).sum() or 1.0
        codes = np.zeros((len(vectors), 0), dtype=np.int64)
        unexplained: list[float] = []
        for level in range(self.levels):
            model = KMeans(self.codebook_size, n_init=self.restarts, random_state=self.seed + level).fit(residual)
            distances = model.transform(residual) ** 2
            codes = np.column_stack([codes, self._assign(distances, codes)])
            residual -= model.cluster_centers_[codes[:, -1]]
            unexplained.append(float((residual**2).sum() / total))
        return codes, unexplained

    def _assign(self, distances: np.ndarray, prefixes: np.ndarray) -> np.ndarray:
        """Choose one code per item; ``distances`` is ``(items, codes)``, ``prefixes`` the codes chosen so far."""
        chosen: np.ndarray = distances.argmin(axis=1)
        if self.last_level == "none":
            return chosen
        levels_below = self.levels - 1 - prefixes.shape[1]
        items_per_id = -(-len(distances) // self.codebook_size**self.levels)
        capacity = items_per_id * self.codebook_size**levels_below
        balanced = self.last_level == "sinkhorn" and levels_below == 0
        if balanced:
            distances = -balanced_log_plan(distances, self.sinkhorn_epsilon, self.sinkhorn_iterations)
        assign = exact_assignment if balanced else greedy_assignment
        for rows in _groups(prefixes):
            chosen[rows] = assign(distances[rows], capacity)
        return chosen


def _groups(prefixes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the row numbers of each set of equal rows, ascending; all rows where there are no columns."""
    if prefixes.shape[1] == 0:
        yield np.arange(len(prefixes))
        return
    _, group, sizes = np.unique(prefixes, axis=0, return_inverse=True, return_counts=True)
    yield from np.split(group.ravel().argsort(kind="stable"), sizes.cumsum()[:-1])
