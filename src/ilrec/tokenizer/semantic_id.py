"""Semantic IDs cut from item embeddings by residual k-means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from src.ilrec.tokenizer.embeddings import Embedding
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.ilrec.tokenizer.residual_codes import ResidualCodes, require_positive
from src.launch.values import Count, Seed

if TYPE_CHECKING:
    from src.ilrec.dataset.interactions import Interactions


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
