"""Semantic IDs cut from item embeddings: the codes of any residual quantiser, and residual k-means."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from src.ilrec.tokenizer.embeddings import Embedding
from src.ilrec.tokenizer.item_tokens import ItemTokens, ReportValue
from src.launch.errors import InputError
from src.launch.values import Count, Positive, Seed

if TYPE_CHECKING:
    from src.ilrec.dataset.interactions import Interactions


LastLevel = Literal["greedy", "sinkhorn", "none"]


@dataclass(frozen=True)
class ResidualCodes:
    """The shape of the IDs, and which code an item takes at each level.

    Source: the balanced last level is LC-Rec's; the capacity rule is our choice: a code takes no more items than the
    levels below it can tell apart. So IDs are unique whenever ``codebook_size ** levels >= items``, and otherwise as
    few items as possible share one.

    Attributes:
        levels: Tokens per item, 1 to 26.
        codebook_size: Codes per level, at most the number of items.
        last_level: ``greedy`` gives the closest pair of item and free code first; ``sinkhorn`` also evens out the use
            of the last codebook over all items; ``none`` is the nearest code, collisions included.
        sinkhorn_epsilon: Entropic regularisation in units of the mean squared distance, > 0.
        sinkhorn_iterations: Rounds of row and column scaling.
    """

    levels: Count
    codebook_size: Count
    last_level: LastLevel
    sinkhorn_epsilon: Positive
    sinkhorn_iterations: Count

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= 26:
            raise InputError(f"tokenizer.levels={self.levels}, but levels are named <a_..> to <z_..>: give 1 to 26.")
        if self.last_level not in get_args(LastLevel):
            raise InputError(
                f"tokenizer.last_level={self.last_level} is unknown: give {', '.join(get_args(LastLevel))}."
            )
        require_positive(
            codebook_size=self.codebook_size,
            sinkhorn_epsilon=self.sinkhorn_epsilon,
            sinkhorn_iterations=self.sinkhorn_iterations,
        )

    def require_items(self, interactions: Interactions) -> None:
        """Refuse a data set with fewer items than codes.

        Raises:
            InputError: it has.
        """
        if self.codebook_size > interactions.num_items:
            raise InputError(
                f"tokenizer.codebook_size={self.codebook_size} is more than the {interactions.num_items} items of "
                f"'{interactions.name}'. Type a smaller one:  tokenizer.codebook_size="
                f"{math.ceil(interactions.num_items ** (1 / self.levels))}"
            )

    def balanced(self, distances: np.ndarray) -> np.ndarray:
        """Return the costs under which every code is about equally attractive, shape ``(items, codes)``."""
        return -balanced_log_plan(distances, self.sinkhorn_epsilon, self.sinkhorn_iterations)

    def assign(self, distances: np.ndarray, prefixes: np.ndarray) -> np.ndarray:
        """Choose one code per item.

        Args:
            distances: Squared distance of each item's residual to each code, shape ``(items, codes)``.
            prefixes: Codes chosen so far, shape ``(items, levels so far)``, int64.

        Returns:
            Codes of shape ``(items,)``, int64.
        """
        chosen: np.ndarray = distances.argmin(axis=1)
        if self.last_level == "none":
            return chosen
        levels_below = self.levels - 1 - prefixes.shape[1]
        items_per_id = -(-len(distances) // self.codebook_size**self.levels)
        capacity = items_per_id * self.codebook_size**levels_below
        balanced = self.last_level == "sinkhorn" and levels_below == 0
        if balanced:
            distances = self.balanced(distances)
        assign = exact_assignment if balanced else greedy_assignment
        for rows in _groups(prefixes):
            chosen[rows] = assign(distances[rows], capacity)
        return chosen

    def named(self, codes: np.ndarray, unexplained: list[float], interactions: Interactions) -> ItemTokens:
        """Return the items' tokens with their report.

        Args:
            codes: Each item's code per level, shape ``(items, levels)``, int64.
            unexplained: Share of the embeddings' variance left after each level.
            interactions: The data set; its items without training interactions are counted.
        """
        cold = int((interactions.training_matrix().getnnz(axis=0) == 0).sum())
        extra: dict[str, ReportValue] = {"unexplained": unexplained, "items_without_training": cold}
        return ItemTokens.from_codes(codes, [range(self.codebook_size)] * self.levels, extra)


def greedy_assignment(cost: np.ndarray, capacity: int) -> np.ndarray:
    """Give each row a column, cheapest pair first, no column more than ``capacity`` times.

    Args:
        cost: Shape ``(rows, columns)``, with ``rows <= columns * capacity``.
        capacity: Rows that one column may take.

    Returns:
        The column of each row, shape ``(rows,)``, int64. Equal costs go to the lower row, then the lower column.
    """
    nearest: np.ndarray = cost.argmin(axis=1)
    if np.bincount(nearest).max() <= capacity:
        return nearest
    chosen = np.full(len(cost), -1, dtype=np.int64)
    free = np.full(cost.shape[1], capacity)
    unplaced = len(cost)
    for pair in cost.argsort(axis=None, kind="stable"):
        row, column = divmod(int(pair), cost.shape[1])
        if chosen[row] < 0 and free[column] > 0:
            chosen[row] = column
            free[column] -= 1
            unplaced -= 1
            if unplaced == 0:
                break
    return chosen


def exact_assignment(cost: np.ndarray, capacity: int) -> np.ndarray:
    """Give each row a column at the least total cost, no column more than ``capacity`` times.

    Args and Returns as in ``greedy_assignment``.
    """
    _, seats = linear_sum_assignment(np.repeat(cost, min(capacity, len(cost)), axis=1))
    return np.asarray(seats // min(capacity, len(cost)), dtype=np.int64)


def balanced_log_plan(distances: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """Spread rows evenly over columns by entropic optimal transport (Sinkhorn), in the log domain.

    Source: the last level of LC-Rec's tokenizer; the regularisation relative to the mean distance is our choice.

    Args:
        distances: Shape ``(rows, columns)``, >= 0.
        epsilon: Regularisation in units of the mean distance, > 0.
        iterations: Rounds of row and column scaling.

    Returns:
        Log of a plan whose rows each sum to 1 and whose columns tend to equal sums, shape ``(rows, columns)``.
    """
    log_plan = -distances / (epsilon * (distances.mean() or 1.0))
    for _ in range(iterations):
        log_plan -= logsumexp(log_plan, axis=0, keepdims=True)
        log_plan -= logsumexp(log_plan, axis=1, keepdims=True)
    return log_plan


def require_positive(**settings: float) -> None:
    """Refuse settings of the tokenizer that are not above 0.

    Raises:
        InputError: it names the first one.
    """
    for setting, value in settings.items():
        if value <= 0:
            raise InputError(f"tokenizer.{setting}={value}: give a number above 0.")


def _groups(prefixes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the row numbers of each set of equal rows, ascending; all rows where there are no columns."""
    if prefixes.shape[1] == 0:
        yield np.arange(len(prefixes))
        return
    _, group, sizes = np.unique(prefixes, axis=0, return_inverse=True, return_counts=True)
    yield from np.split(group.ravel().argsort(kind="stable"), sizes.cumsum()[:-1])


class ResidualKMeans:
    """Residual quantisation of item embeddings by k-means, with a last level that keeps items apart.

    Source: RQ k-means as in LC-Rec's and GRID's small-scale tokenizers; see ``ResidualCodes`` for how codes are chosen.
    """

    codes: ResidualCodes

    def __init__(
        self,
        *,
        embedding: Embedding,
        restarts: Count,
        seed: Seed,
        start: Embedding | None = None,
        **codes: Any,
    ) -> None:
        """Keep the settings.

        Args:
            embedding: Where the item vectors come from.
            restarts: k-means runs per level; the best is kept.
            seed: Seed of the k-means starts.
            start: Embedding that tokens start from; ``None`` leaves that to the model.
            codes: Those of ``ResidualCodes``.
        """
        self.codes = ResidualCodes(**codes)
        require_positive(restarts=restarts)
        self.embedding = embedding
        self.start = start
        self.restarts = restarts
        self.seed = seed

    def fit(self, interactions: Interactions) -> ItemTokens:
        """Embed the items and cut the vectors into codes.

        Returns:
            The IDs. The report also has ``items_without_training`` and, per level, ``unexplained``: the share of the
            embeddings' variance left in the residual after that level.

        Raises:
            InputError: fewer items than codes, or the embedding misses something it needs.
        """
        self.codes.require_items(interactions)
        # One thread: with more, the order of additions varies, and so the last bits, and so now and then a code.
        with threadpool_limits(limits=1):
            codes, unexplained = self._quantise(self.embedding.embed(interactions).astype(np.float64))
        return self.codes.named(codes, unexplained, interactions).started(self.start, interactions)

    def _quantise(self, vectors: np.ndarray) -> tuple[np.ndarray, list[float]]:
        """Return codes of shape ``(items, levels)`` and the share of variance each level leaves."""
        residual = vectors - vectors.mean(axis=0)
        total = (residual**2).sum() or 1.0
        codes = np.zeros((len(vectors), 0), dtype=np.int64)
        unexplained: list[float] = []
        for level in range(self.codes.levels):
            model = KMeans(self.codes.codebook_size, n_init=self.restarts, random_state=self.seed + level).fit(residual)
            distances = model.transform(residual) ** 2
            codes = np.column_stack([codes, self.codes.assign(distances, codes)])
            residual -= model.cluster_centers_[codes[:, -1]]
            unexplained.append(float((residual**2).sum() / total))
        return codes, unexplained
