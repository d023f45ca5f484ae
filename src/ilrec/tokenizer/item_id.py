"""One token for each item: what collaborative models read."""

from __future__ import annotations

import numpy as np

from src.ilrec.dataset.interactions import Interactions
from src.ilrec.tokenizer.item_tokens import ItemTokens


class OneTokenPerItem:
    """The item's number is its only token, so that positions in the vocabulary are item indices."""

    def fit(self, interactions: Interactions) -> ItemTokens:
        """Name the tokens ``<a_0>, <a_1>, ...`` in the order of the items."""
        items = interactions.num_items
        return ItemTokens.from_codes(np.arange(items)[:, None], [range(items)], {})
