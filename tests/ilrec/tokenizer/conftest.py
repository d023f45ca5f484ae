"""A small real data set, built from the users' sequences."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from src.ilrec.dataset.interactions import Interactions


@pytest.fixture(scope="session")
def make_interactions() -> Callable[..., Interactions]:
    def make(
        sequences: Sequence[Sequence[int]], *, items: int | None = None, titles: Sequence[str] | None = None
    ) -> Interactions:
        count = items or max(map(max, sequences)) + 1
        return Interactions(
            name="shop",
            offsets=np.cumsum([0, *map(len, sequences)], dtype=np.int64),
            items=np.concatenate([np.array(sequence, dtype=np.int64) for sequence in sequences]),
            user_ids=[f"u{user}" for user in range(len(sequences))],
            item_ids=[str(item) for item in range(count)],
            titles=list(titles) if titles else [f"thing {item}" for item in range(count)],
            texts=[""] * count,
            fingerprint="0" * 64,
            statistics={},
        )

    return make
