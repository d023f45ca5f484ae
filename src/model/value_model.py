"""A small model of what an episode will come to, one network for each fold of the questions."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ValueModel(nn.Module):
    """Perceptrons with one hidden layer, all with the same first weights, computed at once.

    Source: our choice, the simplest thing that can weigh the numbers of a state against each other.

    Args:
        networks: K, how many; none knows of the others.
        features: F, numbers of a state.
        hidden_size: H, width of the hidden layer.
        seed: Of the first weights.
    """

    def __init__(self, networks: int, features: int, *, hidden_size: int, seed: int) -> None:
        super().__init__()
        self.spec = {"kind": "ValueModel", "networks": networks, "features": features, "hidden_size": hidden_size}
        draw = torch.Generator().manual_seed(seed)
        first = torch.randn(1, features, hidden_size, generator=draw) / features**0.5
        second = torch.randn(1, hidden_size, 1, generator=draw) / hidden_size**0.5
        self.first = nn.Parameter(first.repeat(networks, 1, 1))
        self.first_bias = nn.Parameter(torch.zeros(networks, 1, hidden_size))
        self.second = nn.Parameter(second.repeat(networks, 1, 1))
        self.second_bias = nn.Parameter(torch.zeros(networks, 1, 1))

    def forward(self, states: Tensor) -> Tensor:
        """Return the log-odds of the value, shape ``(K, N)``, of N states as each network sees them, ``(K, N, F)``."""
        hidden = torch.tanh(states @ self.first + self.first_bias)
        return (hidden @ self.second + self.second_bias).squeeze(2)
