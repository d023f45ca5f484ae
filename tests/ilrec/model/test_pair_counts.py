"""Ranks by pairs against ranks by the scores of all items, and the memory they take."""

import tracemalloc

import numpy as np
import pytest
import torch

from src.ilrec.dataset.pairs import count_pairs
from src.ilrec.model.pair_counts import latest_items, ranks_of
from tests.ilrec.model.test_counting import counting, drawn, interactions


@pytest.mark.parametrize(("num_items", "block"), [(12, 40), (60, 40), (60, 1 << 24)])
def test_sparse_ranks_are_those_of_all_scores(monkeypatch, num_items, block):
    data = drawn(num_items=num_items)
    model = counting(num_items, decay=[0.5], skip=[3], back=[0.3], norm=[0.5])
    model.count(data)
    monkeypatch.setattr("src.ilrec.model.pair_counts._BLOCK", block)
    histories, targets = latest_items(data, 4), np.random.default_rng(1).integers(0, num_items, 40)
    pairs = count_pairs(data, skip=3, back=0.3)
    fast = ranks_of(histories, targets, pairs, model._popularity().numpy(), decay=0.5, norm=0.5)
    scores = model.scores(torch.from_numpy(histories))
    own = scores[torch.arange(40), torch.from_numpy(targets)][:, None]
    dense = ((scores > own).sum(1) + ((scores == own).sum(1) + 1) / 2).numpy()
    assert (dense[np.isnan(fast)] > 10).all()
    np.testing.assert_array_equal(fast[~np.isnan(fast)], dense[~np.isnan(fast)])
    assert num_items == 12 or len(np.unique(dense % 1)) == 2  # of many items some share their rank


def test_a_million_items_are_counted_and_chosen_without_a_row_of_all_scores_a_user():
    rng = np.random.default_rng(0)
    data = interactions(list(rng.zipf(1.3, (1000, 6)).clip(max=1_000_000) - 1), 1_000_000)
    tracemalloc.start()
    model = counting(1_000_000, skip=[3], back=[0.0], norm=[0.0])
    model.count(data)
    assert tracemalloc.get_traced_memory()[1] < 500e6  # scores of all would be 8 GB
    tracemalloc.stop()
