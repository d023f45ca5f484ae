"""Collaborative models of the next item: SASRec, GRU4Rec and Caser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's usual name

from src.launch.errors import InputError
from src.launch.values import Count, Dropout, Seed
from src.model.vocabulary import start_rows


@dataclass(frozen=True, kw_only=True)
class SequenceModelSettings:
    """What every one of these models is made with.

    Attributes:
        hidden_size: Width D of the item embeddings.
        dropout: Probability of dropping an activation, 0 to 1; each model says where.
        max_history: Longest sequence it is trained on, in items.
        seed: Seed of the weights.
    """

    hidden_size: Count
    dropout: Dropout
    max_history: Count
    seed: Seed


class SequenceModel(nn.Module, ABC):
    """A collaborative model of the next item; one causal pass gives its state after every item of a sequence.

    A state's score of an item is its product with the item's embedding: input and output embeddings are tied.

    Symbols: B sequences, T items in the longest, D width of an embedding, I items.

    Args:
        item_vocabulary: One token for each item, see ``tokenizer=item_ids``.
        settings: Plain values.

    Raises:
        InputError: there are no item tokens.
    """

    tokenizer = None  # of text: there is none

    def __init__(self, item_vocabulary: Sequence[str], settings: SequenceModelSettings) -> None:
        super().__init__()
        if not item_vocabulary:
            raise InputError(f"{type(self).__name__} reads whole items, not titles.\nType:  tokenizer=item_ids")
        told = asdict(settings)
        del told["seed"]  # which weights say
        self.spec = {"kind": type(self).__name__, "items": len(item_vocabulary), **told}
        self.max_history = settings.max_history
        self.item_embedding = nn.Embedding(len(item_vocabulary), settings.hidden_size)

    def draw_weights(self, seed: Seed, std: float | None = None) -> None:
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

    def start_item_tokens(self, vectors: np.ndarray, seed: int) -> None:
        """Start the item embeddings from vectors, see ``start_rows``."""
        start_rows(self.item_embedding.weight, torch.arange(len(vectors)), vectors, seed)

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


@dataclass(frozen=True, kw_only=True)
class SASRecSettings(SequenceModelSettings):
    """What SASRec is made with.

    Attributes:
        inner_size: Width of the feed-forward layers.
        num_layers: Number of attention blocks.
        num_heads: Attention heads; divides ``hidden_size``.
    """

    inner_size: Count
    num_layers: Count
    num_heads: Count


class SASRec(SequenceModel):
    """Causal self-attention over the latest items; dropout of embeddings, outputs of layers and attention weights.

    Source: SASRec (arXiv 1808.09781), as RecBole configures it (gelu, norm after each sublayer, full softmax).

    Args:
        item_vocabulary: One token for each item.
        settings: Those of ``SASRecSettings``.
    """

    settings: SASRecSettings

    def __init__(self, item_vocabulary: Sequence[str], **settings: Any) -> None:
        told = SASRecSettings(**settings)
        super().__init__(item_vocabulary, told)
        self.position_embedding = nn.Embedding(told.max_history, told.hidden_size)
        self.norm = nn.LayerNorm(told.hidden_size)
        self.dropout = nn.Dropout(told.dropout)
        self.blocks = nn.Sequential(*(_Block(told) for _ in range(told.num_layers)))
        self.draw_weights(told.seed, std=0.02)  # RecBole's; with rows of length 1 it ends a seventh worse on ML-100K

    def forward(self, items: Tensor) -> Tensor:
        """See the base class."""
        embedded = self.item_embedding(items) + self.position_embedding.weight[: items.shape[1]]
        states: Tensor = self.blocks(self.dropout(self.norm(embedded)))
        return states


class _Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each with dropout and a norm after it is added."""

    def __init__(self, told: SASRecSettings) -> None:
        super().__init__()
        hidden_size = told.hidden_size
        self.num_heads = told.num_heads
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden_size, told.inner_size), nn.GELU(), nn.Linear(told.inner_size, hidden_size)
        )
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.feed_forward_norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(told.dropout)

    def forward(self, states: Tensor) -> Tensor:
        """Return states of shape ``(B, T, D)``, each informed by those before it."""
        query, key, value = self.query_key_value(states).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        share = self.dropout.p if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=share, is_causal=True)
        states = self.attention_norm(states + self.dropout(self.output(attended.transpose(1, 2).flatten(2))))
        normed: Tensor = self.feed_forward_norm(states + self.dropout(self.feed_forward(states)))
        return normed


@dataclass(frozen=True, kw_only=True)
class GRU4RecSettings(SequenceModelSettings):
    """What GRU4Rec is made with.

    Attributes:
        recurrent_size: Width of the GRU's state.
        num_layers: GRUs on top of each other.
    """

    recurrent_size: Count
    num_layers: Count


class GRU4Rec(SequenceModel):
    """One GRU over the items and a linear layer back to the embeddings' width; dropout of the input.

    Source: GRU4Rec (arXiv 1511.06939), as RecBole configures it (dropout on the input, full softmax).

    Args:
        item_vocabulary: One token for each item.
        settings: Those of ``GRU4RecSettings``.
    """

    settings: GRU4RecSettings

    def __init__(self, item_vocabulary: Sequence[str], **settings: Any) -> None:
        told = GRU4RecSettings(**settings)
        super().__init__(item_vocabulary, told)
        self.dropout = nn.Dropout(told.dropout)
        self.recurrence = nn.GRU(told.hidden_size, told.recurrent_size, told.num_layers, bias=False, batch_first=True)
        self.output = nn.Linear(told.recurrent_size, told.hidden_size)
        self.draw_weights(told.seed)

    def forward(self, items: Tensor) -> Tensor:
        """See the base class."""
        states, _ = self.recurrence(self.dropout(self.item_embedding(items)))
        output: Tensor = self.output(states)
        return output


@dataclass(frozen=True, kw_only=True)
class CaserSettings(SequenceModelSettings):
    """What Caser is made with.

    Attributes:
        window: Latest items that are looked at.
        horizontal_filters: Filters of each height from 1 to ``window``.
        vertical_filters: Weighted sums.
    """

    window: Count
    horizontal_filters: Count
    vertical_filters: Count


class Caser(SequenceModel):
    """Horizontal and vertical convolutions over a window of the latest items; dropout behind the convolutions.

    A horizontal filter of height h looks at h neighbouring items and keeps its strongest answer in the window; a
    vertical filter is a weighted sum over the window. As convolutions they slide along the sequence: one pass gives
    the state after every item. What precedes the first item is a zero vector.

    Source: Caser (arXiv 1809.07426); the tied output embedding as in RecBole. Left out is the user embedding: like the
    other models it ranks by the history alone.

    Args:
        item_vocabulary: One token for each item.
        settings: Those of ``CaserSettings``.
    """

    settings: CaserSettings

    def __init__(self, item_vocabulary: Sequence[str], **settings: Any) -> None:
        told = CaserSettings(**settings)
        super().__init__(item_vocabulary, told)
        self.window, hidden_size = told.window, told.hidden_size
        self.horizontal = nn.ModuleList(
            nn.Conv1d(hidden_size, told.horizontal_filters, height) for height in range(1, told.window + 1)
        )
        self.vertical = nn.Conv1d(1, told.vertical_filters, told.window)
        features = told.horizontal_filters * told.window + told.vertical_filters * hidden_size
        self.dropout = nn.Dropout(told.dropout)
        self.output = nn.Sequential(
            nn.Linear(features, hidden_size), nn.ReLU(), nn.Linear(hidden_size, hidden_size), nn.ReLU()
        )
        self.draw_weights(told.seed)

    def forward(self, items: Tensor) -> Tensor:
        """See the base class."""
        batch, length = items.shape
        image = F.pad(self.item_embedding(items), (0, 0, self.window - 1, 0)).transpose(1, 2)  # (B, D, window - 1 + T)
        strongest = [
            convolution(image).relu().unfold(2, self.window - height, 1).amax(3)
            for height, convolution in enumerate(self.horizontal)
        ]
        sums = self.vertical(image.reshape(-1, 1, image.shape[2])).view(batch, -1, length)  # every column by itself
        states: Tensor = self.output(self.dropout(torch.cat([*strongest, sums], dim=1).transpose(1, 2)))
        return states
