"""What one epoch trains on, before any token is written, and the tokens around a history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from src.launch.errors import InputError


@dataclass(frozen=True)
class PromptForm:
    """A history as ``before item separator item ... after``, the latest items that there is room for, oldest first.

    Attributes:
        before: Tokens before the first item.
        separator: Tokens between two items.
        after: Tokens behind the last item.
        shown: Tokens of each item where it is part of a history, by item index.
        max_history: Most items.
        max_tokens: Most tokens of items and separators together; None sets no limit.
    """

    before: Sequence[int]
    separator: Sequence[int]
    after: Sequence[int]
    shown: Sequence[Sequence[int]]
    max_history: int
    max_tokens: int | None = None


def plain(tokens: Sequence[int] | NDArray[np.int64]) -> list[int]:
    """Return tokens as numbers that JSON can write."""
    return [int(token) for token in tokens]


UNOWNED = -2
"""What a label belongs to that is learned beside the responses, such as a title's token: no item is scored by it."""


@dataclass(frozen=True)
class Examples:
    """One row per example: items ``start .. stop - 1`` of a user's training items; responses from ``first_label`` on.

    Attributes:
        user: User index, shape ``(E,)``, int64; -1 where the items are not a user's but those of these numbers.
        start: First item shown, shape ``(E,)``, int64.
        stop: One past the last item, shape ``(E,)``, int64.
        first_label: First item that is a response, shape ``(E,)``, int64; ``start <= first_label < stop``.
        task: What is asked about them, shape ``(E,)``, int64; 0 is the next item, as everywhere where it is ``None``.
    """

    user: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    first_label: NDArray[np.int64]
    task: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.user)

    def cropped(self, share: float, unlabelled: int, rng: np.random.Generator) -> Examples:
        """Let a share of the examples begin at an item drawn among all but their last.

        Args:
            share: Probability of an example to be cropped.
            unlabelled: Items at the start of a sequence that are never a response.
            rng: Source of the choice.
        """
        room = np.maximum(self.stop - self.start - 1, 1)
        start = self.start + rng.integers(0, room) * (rng.random(len(self)) < share)
        first_label = np.maximum(self.first_label, start + unlabelled)
        return replace(self, start=start, first_label=np.minimum(first_label, self.stop - 1))  # tasks about one item


class Windows:
    """Training windows of which one causal pass trains many items.

    Shifting the borders every epoch shows each label with histories of different length.

    Args:
        max_history: Most recent items shown to the model.
        stride: Items labelled in each training window; a window shows up to ``max_history`` items before each label
            and at least ``max_history + 1 - stride`` wherever the user has so many. Smaller strides cost more passes.
        unlabelled: Items at the start of a sequence that are never a response.

    Raises:
        InputError: the stride does not fit the window.
    """

    def __init__(self, *, max_history: int, stride: int, unlabelled: int = 0) -> None:
        most = max_history + 1 - unlabelled
        if not 1 <= stride <= most:
            raise InputError(f"prompt.stride={stride} must lie between 1 and {most} (prompt.max_history={max_history})")
        self.max_history = max_history
        self.stride = stride
        self.unlabelled = unlabelled

    def most_examples(self, lengths: NDArray[np.int64]) -> int:
        """Return an upper bound of the number of examples of one epoch."""
        labels = (lengths - self.unlabelled).clip(min=0)
        return int(((-(-labels // self.stride) + 1) * (labels > 0)).sum())

    def fewest_examples(self, lengths: NDArray[np.int64]) -> int:
        """Return a lower bound of the number of examples of one epoch."""
        return int((-(-(lengths - self.unlabelled).clip(min=0) // self.stride)).sum())

    def examples(self, lengths: NDArray[np.int64], rng: np.random.Generator) -> Examples:
        """Cut every user's training items into windows whose borders are drawn anew each epoch.

        Args:
            lengths: Number of training items of each user, shape ``(users,)``.
            rng: Source of the borders.

        Returns:
            Windows that label every item of every user exactly once, the unlabelled ones left out.
        """
        labels = (lengths - self.unlabelled).clip(min=0)
        shift = rng.integers(0, self.stride, len(lengths))
        windows = -(-(labels + shift) // self.stride) * (labels > 0)
        user = np.repeat(np.arange(len(lengths)), windows)
        number = np.arange(len(user)) - np.repeat(np.cumsum(windows) - windows, windows)
        label = number * self.stride - shift[user]
        stop = np.minimum(label + self.stride, labels[user]) + self.unlabelled
        start = np.maximum(stop - self.max_history - 1, 0)
        return Examples(user, start, stop, np.maximum(np.maximum(label, 0) + self.unlabelled, start))


def labels_with_history(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """List user and position of every training item but each user's first."""
    count = (lengths - 1).clip(min=0)
    user = np.repeat(np.arange(len(lengths)), count)
    return user, np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count) + 1
