"""Attention within each of several examples that stand one after another, so that no mask tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "sdpa_by_example"


def attend_by_example(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    example_lengths: Sequence[int] | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attend causally within each example, or as transformers' ``sdpa`` does where there are none.

    A mask makes the kernels compute all T x T scores; without it they leave out those between examples, and those of
    tokens that come later.

    Args:
        module: The attention layer, as transformers passes it.
        query: Shape ``(B, heads, T, D)``.
        key: Shape ``(B, key heads, T, D)``.
        value: As ``key``.
        attention_mask: Used without ``example_lengths`` only.
        example_lengths: Tokens of each example, together T; they share the one row, B is 1.
        settings: What else transformers passes.

    Returns:
        Shape ``(B, T, heads, D)``; no attention weights.
    """
    if example_lengths is None:
        attended: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return attended
    lengths = list(example_lengths)
    parts = zip(*(torch.split(one, lengths, 2) for one in (query, key, value)), strict=True)
    return torch.cat([sdpa_attention_forward(module, *part, None, **settings)[0] for part in parts], 1), None


AttentionInterface.register(_NAME, attend_by_example)
AttentionMaskInterface.register(_NAME, sdpa_mask)


def let_attend_by_example(network: Any) -> bool:
    """Let a transformers model take ``example_lengths`` where it would attend by ``sdpa``, and tell whether it does."""
    if network.config._attn_implementation == "sdpa" and network._supports_attention_backend:
        network.set_attn_implementation(_NAME)
    return bool(network.config._attn_implementation == _NAME)
