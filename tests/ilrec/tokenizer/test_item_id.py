"""One token for each item."""

import numpy as np

from src.ilrec.dataset.interactions import Interactions
from src.ilrec.tokenizer.item_id import OneTokenPerItem


def test_an_items_token_is_its_index():
    interactions = Interactions(
        "three", np.array([0, 3]), np.array([2, 0, 1]), ["u"], ["x", "y", "z"], [""] * 3, [""] * 3, "f" * 64, {}
    )
    items = OneTokenPerItem().fit(interactions)
    assert items.tokens.tolist() == [[0], [1], [2]]
    assert items.vocabulary == ["<a_0>", "<a_1>", "<a_2>"]
    assert items.report["collision_rate"] == 0
