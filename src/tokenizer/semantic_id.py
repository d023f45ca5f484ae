"""Semantic IDs: residual k-means over item embeddings, or a ready-made LC-Rec index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from src.errors import InputError
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
        if last_level not in ("greedy", "sinkhorn", "none"):
            raise InputError(f"tokenizer.last_level={last_level} is unknown: give greedy, sinkhorn or none.")
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
                f"{max(1, round(interactions.num_items ** (1 / self.levels)) + 1)}"
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


def _groups(prefixes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the row numbers of each set of equal rows, ascending; all rows where there are no columns."""
    if prefixes.shape[1] == 0:
        yield np.arange(len(prefixes))
        return
    _, group, sizes = np.unique(prefixes, axis=0, return_inverse=True, return_counts=True)
    yield from np.split(group.ravel().argsort(kind="stable"), sizes.cumsum()[:-1])


TOKEN = re.compile(r"<([a-z])_(0|[1-9][0-9]*)>")


class IndexFile:
    """Ready-made semantic IDs in LC-Rec's format: ``{"item id": ["<a_128>", "<b_241>", "<c_146>"], ...}``."""

    def __init__(self, *, path: str) -> None:
        """Keep the path of the ``.index.json``."""
        self.path = Path(path)

    def fit(self, interactions: Interactions) -> ItemTokens:
        """Read the IDs of the data set's items.

        Returns:
            The IDs; the vocabulary holds the tokens that these items use. The report also has ``items_ignored``:
            items of the file that the data set does not have.

        Raises:
            InputError: the file is absent or broken, misses an item, or its IDs are not one token per level.
        """
        index = self._read()
        missing = [item for item in interactions.item_ids if item not in index]
        if missing:
            raise InputError(
                f"{self.path} misses {len(missing)} of the {interactions.num_items} items of '{interactions.name}' "
                f"(first: {', '.join(missing[:3])}). It must hold every item that is left after the k-core filter.\n"
                "Point to the data set's own file:  tokenizer.path=<X.index.json>\n"
                "or make IDs from the data:         tokenizer=residual_kmeans"
            )
        levels = len(index[interactions.item_ids[0]])
        numbers = np.array([self._numbers(item, index[item], levels=levels) for item in interactions.item_ids])
        codebooks, codes = zip(*(np.unique(column, return_inverse=True) for column in numbers.T), strict=True)
        extra: dict[str, ReportValue] = {"items_ignored": len(index) - interactions.num_items}
        return ItemTokens.from_codes(np.column_stack(codes), [book.tolist() for book in codebooks], extra)

    def _read(self) -> dict[str, list[str]]:
        try:
            index = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{self.path} does not exist. Point to an index:  tokenizer.path=<X.index.json>") from None
        except ValueError as fault:
            raise InputError(f"{self.path} is not valid JSON: {fault}. Fetch or write the file again.") from None
        if not isinstance(index, dict):
            raise InputError(f'{self.path} holds no object: it must read {{"item id": ["<a_1>", "<b_2>"], ...}}.')
        return index

    def _numbers(self, item: str, tokens: object, *, levels: int) -> list[int]:
        """Return the code numbers of one item's ID, which must read ``<a_N>``, ``<b_N>``, ... level by level."""
        matches = [TOKEN.fullmatch(str(token)) for token in tokens] if isinstance(tokens, list) else []
        letters = [match[1] for match in matches if match]
        if not letters or len(letters) != len(matches) or letters != [chr(ord("a") + level) for level in range(levels)]:
            pattern = ", ".join(f"<{chr(ord('a') + level)}_N>" for level in range(levels))
            raise InputError(
                f"{self.path}: item {item} has the ID {json.dumps(tokens)}, but every item needs {levels} tokens "
                f"{pattern}, as the first item has. Mend that line, or make IDs:  tokenizer=residual_kmeans"
            )
        return [int(match[2]) for match in matches if match]
