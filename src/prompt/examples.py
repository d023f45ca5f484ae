"""What one epoch trains on, before any token is written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Examples:
    """One row per example: items ``start .. stop - 1`` of a user's training items; responses from ``first_label`` on.

    Attributes:
        user: User index, shape ``(E,)``, int64.
        start: First item shown, shape ``(E,)``, int64.
        stop: One past the last item, shape ``(E,)``, int64.
        first_label: First item that is a response, shape ``(E,)``, int64; ``start <= first_label < stop``.
    """

    user: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    first_label: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.user)
