"""Which item follows which, counted over the training part."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from src.ilrec.dataset.interactions import Interactions


def count_pairs(interactions: Interactions, *, skip: int, back: float) -> csr_matrix:
    """Count pairs of items at distance d = 1..``skip`` in a training sequence, each ``0.5 ** (d - 1)`` times.

    Args:
        interactions: The data set.
        skip: Largest distance.
        back: What the reversed pair counts, relative to the pair.

    Returns:
        How often the column's item follows the row's, shape ``(I, I)``, float64, sparse.
    """
    lengths = np.diff(interactions.offsets)
    end = np.repeat(interactions.offsets[1:] - 2, lengths)
    forward = csr_matrix((interactions.num_items,) * 2)
    for distance in range(1, skip + 1):
        earlier = np.flatnonzero(np.arange(len(end)) + distance < end)
        pair = interactions.items[earlier], interactions.items[earlier + distance]
        forward += csr_matrix((np.full(len(earlier), 0.5 ** (distance - 1)), pair), shape=forward.shape)
    pairs = csr_matrix(forward + back * forward.T) if back else forward
    pairs.sort_indices()
    return pairs
