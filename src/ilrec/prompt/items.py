"""The prompt of collaborative models: item indices and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.ilrec.prompt.examples import Windows
from src.ilrec.tokenizer.item_tokens import ItemTokens


class ItemsPrompt(Windows):
    """``i1 i2 i3 ...``: every item but a user's first is a response to the items before it.

    Source: our choice; one causal pass over a window does what RecBole does with one sample for each prefix.

    Args:
        tokenizer: Not used: there is no text.
        items: One token for each item.
        max_history: Most recent items shown to the model.
        stride: Items labelled in each training window, see ``Windows``; at most ``max_history``.
    """

    packed = False  # recurrent and convolutional models read a row as one history
    pad_token_id = 0  # an item like any other: only the attention mask tells padding

    def __init__(self, tokenizer: Any, items: ItemTokens, *, max_history: int, stride: int) -> None:
        super().__init__(max_history=max_history, stride=stride, unlabelled=1)

    def encode(self, items: NDArray[np.int64], first_label: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Write a window of items.

        Args:
            items: Item indices, oldest first, shape ``(n,)``.
            first_label: Position of the first item that is a response, >= 1.

        Returns:
            The items, and of the same shape each response's own position, -1 for all others.
        """
        position = np.arange(len(items))
        return items, np.where(position >= first_label, position, -1)

    def prompt(self, history: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the latest ``max_history`` items."""
        return history[-self.max_history :]
