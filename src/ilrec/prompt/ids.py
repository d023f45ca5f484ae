"""Compact prompts: nothing but semantic IDs, or item indices, so that one causal pass trains every item of a window."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.ilrec.prompt.examples import Windows
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.launch.errors import InputError
from src.launch.values import Count


class IdsPrompt(Windows):
    """``<begin> a1 b1 c1 a2 b2 c2 ...``: the history's semantic IDs; every item is a response to the items before it.

    For models trained from scratch.

    Args:
        tokenizer: The language model's tokenizer, item tokens added.
        items: Semantic IDs of all items.
        max_history: Most recent items shown to the model.
        stride: Items labelled in each training window, see ``Windows``.

    Raises:
        InputError: the items are titles.
    """

    packed = True  # short examples share a row of a training batch
    advice = "prompt.max_history=<fewer items>, which have to fit into {} tokens"

    def __init__(self, tokenizer: Any, items: ItemTokens, *, max_history: Count, stride: Count) -> None:
        if items.as_text:
            raise InputError(
                "prompt=ids writes semantic IDs one after the other, but tokenizer=title writes items as titles.\n"
                "Type:  prompt=instruction"
            )
        super().__init__(max_history=max_history, stride=stride)
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self.pad_token_id = tokenizer.pad_token_id
        self._begin = np.array([begin])
        self._item_ids = np.array(tokenizer.convert_tokens_to_ids(items.vocabulary))[items.tokens]
        self.longest = 1 + (max_history + 1) * items.tokens.shape[1]  # tokens of history and response

    def encode(self, items: NDArray[np.int64], first_label: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Write a window of items.

        Args:
            items: Item indices, oldest first, shape ``(n,)``.
            first_label: Position of the first item that is a response.

        Returns:
            Tokens, shape ``(1 + n * levels,)``, and of the same shape the position of the item that each response
            token belongs to, -1 for all other tokens.
        """
        tokens = np.concatenate([self._begin, self._item_ids[items].ravel()])
        owner = (np.arange(len(tokens)) - 1) // self._item_ids.shape[1]
        return tokens, np.where(owner >= first_label, owner, -1)

    def prompt(self, history: NDArray[np.int64]) -> NDArray[np.int64]:
        """Write the latest ``max_history`` items as the prompt whose continuation is the next item."""
        latest = history[-self.max_history :]
        return self.encode(latest, len(latest))[0]


class ItemsPrompt(Windows):
    """``i1 i2 i3 ...``: every item but a user's first is a response to the items before it.

    One causal pass over a window does what RecBole does with one sample for each prefix.

    Args:
        tokenizer: Not used: there is no text.
        items: One token for each item.
        max_history: Most recent items shown to the model.
        stride: Items labelled in each training window, see ``Windows``; at most ``max_history``.
    """

    packed = False  # recurrent and convolutional models read a row as one history
    pad_token_id = 0  # an item like any other: only the attention mask tells padding

    def __init__(self, tokenizer: Any, items: ItemTokens, *, max_history: Count, stride: Count) -> None:
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
