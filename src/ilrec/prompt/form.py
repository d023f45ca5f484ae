"""How a history is written, as plain tokens: all that a program without this code needs to write one itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
