"""Items to reject beside each chosen one: random, popular, or similar to it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from src.ilrec.dataset.interactions import Interactions
from src.ilrec.tokenizer.embeddings import Embedding
from src.launch.errors import InputError

Kind = Literal["random", "popular", "similar"]


class Negatives:
    """Draws rejected items that their user has not chosen in training.

    Source: ``random`` as in S-DPO (arXiv 2406.09215); ``popular`` and ``similar`` as RosePO (arXiv 2410.12519) names
    them. Popular items are drawn by their training counts plus one, similar ones evenly among the nearest by cosine.

    Args:
        interactions: The prepared interactions; only their training part is used.
        kind: ``random``, ``popular`` or ``similar``.
        count: Rejected items of each chosen one, all different.
        embedding: Vectors that say what is similar; needed for ``similar`` only.
        neighbours: Nearest items among which ``similar`` draws, at least ``count``.

    Raises:
        InputError: a user has chosen so many items that too few are left, or fewer neighbours than ``count``.
    """

    def __init__(
        self, interactions: Interactions, kind: Kind, *, count: int, embedding: Embedding, neighbours: int
    ) -> None:
        self.count = count
        self._items = interactions.num_items
        matrix = interactions.training_matrix()
        users = np.repeat(np.arange(interactions.num_users), np.diff(matrix.indptr))
        self._chosen = np.sort(users * self._items + matrix.indices)
        self._nearest: NDArray[np.int64] | None = None
        if kind == "similar":
            if not count <= neighbours < self._items:
                raise InputError(
                    f"batches.neighbours={neighbours} must lie between batches.num_negatives={count} and the "
                    f"{self._items - 1} other items."
                )
            self._nearest = _nearest(embedding.embed(interactions), neighbours)
            return
        left = self._items - int(np.diff(matrix.indptr).max())
        if left < count:
            raise InputError(
                f"batches.num_negatives={count}: one user has chosen all items but {left}.\n"
                f"Type:  batches.num_negatives={max(left, 1)}"
            )
        weight = np.ones(self._items) if kind == "random" else np.asarray(matrix.sum(axis=0)).ravel() + 1.0
        self._cumulated = np.cumsum(weight / weight.sum())

    def draw(self, users: NDArray[np.int64], chosen: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw rejected items.

        Args:
            users: User of each pair, shape ``(n,)``.
            chosen: The chosen item, shape ``(n,)``, one of the user's training items.
            rng: Source of the draws.

        Returns:
            Items, shape ``(n, count)``, int64. None is in the user's training items, except where ``similar`` finds too
            few others nearby.
        """
        if self._nearest is not None:
            near = self._nearest[chosen]
            # Unseen ones first, either part in random order.
            order = (rng.random(near.shape) + self._is_chosen(users[:, None], near)).argsort(axis=1)
            return np.take_along_axis(near, order[:, : self.count], axis=1)
        drawn = np.full((len(users), self.count), -1)
        settled = np.zeros(drawn.shape, dtype=bool)
        while not settled.all():
            row, column = (~settled).nonzero()
            item = np.searchsorted(self._cumulated[:-1], rng.random(len(row)), side="right")
            drawn[row, column] = item
            goes_first = settled[row] | (np.arange(self.count) < column[:, None])
            repeated = ((drawn[row] == item[:, None]) & goes_first).any(axis=1)
            settled[row, column] = ~repeated & ~self._is_chosen(users[row], item)
        return drawn

    def _is_chosen(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
        key = users * self._items + items
        place = np.searchsorted(self._chosen, key).clip(max=len(self._chosen) - 1)
        found: NDArray[np.bool_] = self._chosen[place] == key
        return found


def _nearest(vectors: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the ``count`` nearest other items of each by cosine, in blocks so that memory stays linear in items."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found = np.empty((len(unit), count), dtype=np.int64)
    for start in range(0, len(unit), 1024):
        similarity = unit[start : start + 1024] @ unit.T
        similarity[np.arange(len(similarity)), start + np.arange(len(similarity))] = -np.inf
        found[start : start + 1024] = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    return found
