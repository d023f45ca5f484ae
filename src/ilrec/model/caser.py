"""Caser: convolutions over the latest items."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's usual name

from src.ilrec.model.sequence_model import SequenceModel


class Caser(SequenceModel):
    """Horizontal and vertical convolutions over a window of the latest items.

    A horizontal filter of height h looks at h neighbouring items and keeps its strongest answer in the window; a
    vertical filter is a weighted sum over the window. As convolutions they slide along the sequence: one pass gives
    the state after every item. What precedes the first item is a zero vector.

    Source: Caser (arXiv 1809.07426); the tied output embedding as in RecBole. Left out is the user embedding: like the
    other models it ranks by the history alone (our choice).

    Args:
        item_vocabulary: One token for each item.
        hidden_size: Width D.
        window: Latest items that are looked at.
        horizontal_filters: Filters of each height from 1 to ``window``.
        vertical_filters: Weighted sums.
        dropout: Probability of dropping an activation between the convolutions and the linear layers, 0 to 1.
        max_history: Longest sequence it is trained on, in items.
        seed: Seed of the weights.
    """

    def __init__(
        self,
        item_vocabulary: Sequence[str],
        *,
        hidden_size: int,
        window: int,
        horizontal_filters: int,
        vertical_filters: int,
        dropout: float,
        max_history: int,
        seed: int,
    ) -> None:
        super().__init__(
            item_vocabulary,
            hidden_size=hidden_size,
            max_history=max_history,
            window=window,
            horizontal_filters=horizontal_filters,
            vertical_filters=vertical_filters,
            dropout=dropout,
        )
        self.window = window
        self.horizontal = nn.ModuleList(
            nn.Conv1d(hidden_size, horizontal_filters, height) for height in range(1, window + 1)
        )
        self.vertical = nn.Conv1d(1, vertical_filters, window)
        features = horizontal_filters * window + vertical_filters * hidden_size
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Sequential(
            nn.Linear(features, hidden_size), nn.ReLU(), nn.Linear(hidden_size, hidden_size), nn.ReLU()
        )
        self.draw_weights(seed)

    def forward(self, items: Tensor) -> Tensor:
        """Return the state after each item, shape ``(B, T, D)``, of items ``(B, T)`` padded on the right."""
        batch, length = items.shape
        image = F.pad(self.item_embedding(items), (0, 0, self.window - 1, 0)).transpose(1, 2)  # (B, D, window - 1 + T)
        strongest = [
            convolution(image).relu().unfold(2, self.window - height, 1).amax(3)
            for height, convolution in enumerate(self.horizontal)
        ]
        sums = self.vertical(image.reshape(-1, 1, image.shape[2])).view(batch, -1, length)  # every column by itself
        states: Tensor = self.output(self.dropout(torch.cat([*strongest, sums], dim=1).transpose(1, 2)))
        return states
