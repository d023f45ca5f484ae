"""What SASRec, GRU4Rec and Caser share: item sequences in, a state at every position, scores of all items out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.launch.errors import InputError


class SequenceModel(nn.Module, ABC):
    """A collaborative model of the next item; one causal pass gives its state after every item of a sequence.

    A state's score of an item is its product with the item's embedding: input and output embeddings are tied.

    Symbols: B sequences, T items in the longest, D width of an embedding, I items.

    Args:
        item_vocabulary: One token for each item, see ``tokenizer=item_ids``.
        hidden_size: Width D.
        max_history: Longest sequence it is trained on, in items.
        settings: Further arguments that the subclass was made with, plain values.

    Raises:
        InputError: there are no item tokens.
    """

    tokenizer = None  # of text: there is none

    def __init__(self, item_vocabulary: Sequence[str], *, hidden_size: int, max_history: int, **settings: Any) -> None:
        super().__init__()
        if not item_vocabulary:
            raise InputError(f"{type(self).__name__} reads whole items, not titles.\nType:  tokenizer=item_ids")
        self.spec = {
            "kind": type(self).__name__,
            "items": len(item_vocabulary),
            "hidden_size": hidden_size,
            "max_history": max_history,
            **settings,
        }
        self.max_history = max_history
        self.item_embedding = nn.Embedding(len(item_vocabulary), hidden_size)

    def draw_weights(self, seed: int, std: float | None = None) -> None:
        """Draw all matrices from a normal distribution, and set all vectors but those of norms to 0.

        Args:
            seed: Seed of the weights.
            std: Of every matrix; ``None`` gives each row an expected length of 1.
        """
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if not isinstance(module, nn.LayerNorm):
                for parameter in module.parameters(recurse=False):
                    if parameter.ndim > 1:
                        scale = parameter[0].numel() ** -0.5 if std is None else std
                        nn.init.normal_(parameter, std=scale, generator=generator)
                    else:
                        nn.init.zeros_(parameter)

    @abstractmethod
    def forward(self, items: Tensor) -> Tensor:
        """Return the state after each item, shape ``(B, T, D)``, of items ``(B, T)`` padded on the right."""

    def last_states(self, items: Tensor, mask: Tensor) -> Tensor:
        """Return the state after the last item of each sequence.

        Args:
            items: Item indices, shape ``(B, T)``, int64, padded on the left or on the right.
            mask: 1 for items, 0 for padding, shape ``(B, T)``; at least one item each.

        Returns:
            States, shape ``(B, D)``.
        """
        first, length = mask.argmax(1, keepdim=True), mask.sum(1)
        place = (torch.arange(items.shape[1], device=items.device) + first) % items.shape[1]
        states: Tensor = self(items.gather(1, place))
        return states[torch.arange(len(items), device=items.device), length - 1]

    def scores(self, states: Tensor) -> Tensor:
        """Return the logits of all items, shape ``(..., I)``, of states ``(..., D)``."""
        return states @ self.item_embedding.weight.T
