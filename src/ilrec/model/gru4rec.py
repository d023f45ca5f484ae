"""GRU4Rec: a recurrent network over the item sequence."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from src.ilrec.model.sequence_model import SequenceModel


class GRU4Rec(SequenceModel):
    """One GRU over the items and a linear layer back to the embeddings' width.

    Source: GRU4Rec (arXiv 1511.06939), as RecBole configures it (dropout on the input, full softmax).

    Args:
        item_vocabulary: One token for each item.
        hidden_size: Width D of the embeddings.
        recurrent_size: Width of the GRU's state.
        num_layers: GRUs on top of each other.
        dropout: Probability of dropping an input activation, 0 to 1.
        max_history: Longest sequence it is trained on, in items.
        seed: Seed of the weights.
    """

    def __init__(
        self,
        item_vocabulary: Sequence[str],
        *,
        hidden_size: int,
        recurrent_size: int,
        num_layers: int,
        dropout: float,
        max_history: int,
        seed: int,
    ) -> None:
        super().__init__(
            item_vocabulary,
            hidden_size=hidden_size,
            max_history=max_history,
            recurrent_size=recurrent_size,
            num_layers=num_layers,
            dropout=dropout,
        )
        self.dropout = nn.Dropout(dropout)
        self.recurrence = nn.GRU(hidden_size, recurrent_size, num_layers, bias=False, batch_first=True)
        self.output = nn.Linear(recurrent_size, hidden_size)
        self.draw_weights(seed)

    def forward(self, items: Tensor) -> Tensor:
        """Return the state after each item, shape ``(B, T, D)``, of items ``(B, T)`` padded on the right."""
        states, _ = self.recurrence(self.dropout(self.item_embedding(items)))
        output: Tensor = self.output(states)
        return output
