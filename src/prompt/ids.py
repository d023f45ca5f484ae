"""The compact prompt: nothing but semantic IDs, so that one causal pass trains every item of a window."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.errors import InputError
from src.prompt.examples import Examples
from src.tokenizer.item_tokens import ItemTokens


class IdsPrompt:
    """``<begin> a1 b1 c1 a2 b2 c2 ...``: the history's semantic IDs; every item is a response to the items before it.

    Source: our choice, for models trained from scratch.

    Args:
        tokenizer: The language model's tokenizer, item tokens added.
        items: Semantic IDs of all items.
        max_history: Most recent items shown to the model.
        stride: Items labelled in each training window; a window shows up to ``max_history`` items before each label
            and at least ``max_history + 1 - stride`` wherever the user has so many. Smaller strides cost more passes.

    Raises:
        InputError: the stride does not fit the window.
    """

    def __init__(self, tokenizer: Any, items: ItemTokens, *, max_history: int, stride: int) -> None:
        if not 1 <= stride <= max_history + 1:
            raise InputError(f"prompt.stride={stride} must lie between 1 and max_history + 1 = {max_history + 1}")
        self.max_history = max_history
        self.stride = stride
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self.pad_token_id = tokenizer.pad_token_id
        self._begin = np.array([begin])
        self._item_ids = np.array(tokenizer.convert_tokens_to_ids(items.vocabulary))[items.tokens]

    def most_examples(self, lengths: NDArray[np.int64]) -> int:
        """Return an upper bound of the number of examples of one epoch."""
        return int((-(-lengths // self.stride) + 1).sum())

    def examples(self, lengths: NDArray[np.int64], rng: np.random.Generator) -> Examples:
        """Cut every user's training items into windows whose borders are drawn anew each epoch.

        Args:
            lengths: Number of training items of each user, shape ``(users,)``.
            rng: Source of the borders.

        Returns:
            Windows that label every item of every user exactly once.
        """
        shift = rng.integers(0, self.stride, len(lengths))
        windows = -(-(lengths + shift) // self.stride)
        user = np.repeat(np.arange(len(lengths)), windows)
        number = np.arange(len(user)) - np.repeat(np.cumsum(windows) - windows, windows)
        label = number * self.stride - shift[user]
        stop = np.minimum(label + self.stride, lengths[user])
        start = np.maximum(stop - self.max_history - 1, 0)
        return Examples(user, start, stop, np.maximum(label, start))

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
