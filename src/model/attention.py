"""Attention as transformers' ``sdpa`` computes it, without the work that it does in vain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's usual name
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "lean_sdpa"
_FEW = 32  # queries a head; measured on a CPU with 1, 10 and 20, more were not


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    example_lengths: Sequence[int] | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attend causally within each of several examples that share a row, or else to what the mask lets be seen.

    Examples are attended to one by one, as a mask makes the kernels compute all T x T scores; without it they leave out
    those between examples, and those of tokens that come later.

    A few queries, as in generation and beam search, attend with the heads that share a key head side by side, as if
    they were more queries of one head: so keys and values are read once and never copied. Source: our choice.

    Args:
        module: The attention layer, as transformers passes it.
        query: Shape ``(B, heads, Q, D)``.
        key: Shape ``(B, key heads, T, D)``.
        value: As ``key``.
        attention_mask: What is added to the scores, ``(B, 1, Q, T)``; used without ``example_lengths`` only.
        example_lengths: Tokens of each example, together T; they share the one row, B is 1.
        settings: What else transformers passes.

    Returns:
        Shape ``(B, Q, heads, D)``; no attention weights.
    """
    if example_lengths is not None:
        lengths = list(example_lengths)
        parts = zip(*(torch.split(one, lengths, 2) for one in (query, key, value)), strict=True)
        return torch.cat([sdpa_attention_forward(module, *part, None, **settings)[0] for part in parts], 1), None
    batch, heads, queries, width = query.shape
    sharing = heads // key.shape[1]
    masked = attention_mask is not None and attention_mask.shape[1] == 1
    if sharing == 1 or queries > _FEW or not (masked or queries == 1) or settings.get("dropout"):
        attended: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return attended
    together = query.reshape(batch, key.shape[1], sharing * queries, width)
    mask = attention_mask.repeat(1, 1, sharing, 1) if attention_mask is not None else None
    output = F.scaled_dot_product_attention(together, key, value, attn_mask=mask, scale=settings.get("scaling"))
    return output.reshape(query.shape).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)


def attend_leanly(network: Any) -> bool:
    """Let a transformers model attend by ``attend`` where it would by ``sdpa``; tell whether it does.

    It then takes ``example_lengths``.
    """
    if network.config._attn_implementation == "sdpa" and network._supports_attention_backend:
        network.set_attn_implementation(_NAME)
    return bool(network.config._attn_implementation == _NAME)
