"""Attention as transformers' ``sdpa`` computes it, without the work that it does in vain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 - the field's usual name
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "lean_sdpa"
_FEW = 32  # queries a head; measured on a CPU with 1, 10 and 20, more were not
_BLOCK = 128  # queries of a head whose scores are computed at a time; 64 and 192 are no faster
_SCORES = 60_000  # computed at a time where a row has few; a quarter and four times as many are slower
_SCORES_OF_FEW = 1_000_000  # likewise of a few queries, whose keys are not copied; a quarter as many are slower


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
    those between examples, and those of tokens that come later. On a CPU ``attend_causally`` takes the kernels' place.

    Without gradients, bfloat16 on a CPU is attended to by ``attend_to_what_is_seen``. Elsewhere, a few queries, as in
    generation and beam search, attend with the heads that share a key head side by side, as if they were more queries
    of one head: so keys and values are read once and never copied.

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
        examples = zip(*(torch.split(one, lengths, 2) for one in (query, key, value)), strict=True)
        if query.device.type == "cpu" and not settings.get("dropout"):
            scale = settings.get("scaling") or query.shape[3] ** -0.5
            return torch.cat([attend_causally(q, k, v, scale) for q, k, v in examples], 1), None
        return torch.cat([sdpa_attention_forward(module, *one, None, **settings)[0] for one in examples], 1), None
    batch, heads, queries, width = query.shape
    sharing = heads // key.shape[1]
    masked = attention_mask is not None and attention_mask.shape[1] == 1
    kind = query.device.type, query.dtype, query.requires_grad
    if kind == ("cpu", torch.bfloat16, False) and (masked or queries == 1) and not settings.get("dropout"):
        return attend_to_what_is_seen(query, key, value, attention_mask, settings.get("scaling") or width**-0.5), None
    if sharing == 1 or queries > _FEW or not (masked or queries == 1) or settings.get("dropout"):
        attended: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return attended
    together = query.reshape(batch, key.shape[1], sharing * queries, width)
    mask = attention_mask.repeat(1, 1, sharing, 1) if attention_mask is not None else None
    output = F.scaled_dot_product_attention(together, key, value, attn_mask=mask, scale=settings.get("scaling"))
    return output.reshape(query.shape).transpose(1, 2).contiguous(), None


def attend_to_what_is_seen(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attend to what a mask lets be seen, by matrix products of blocks of queries, as ``attend_causally`` does.

    One query, as in generation, takes 0.5 to 0.6 of the time of the fused kernel with its heads side by side, 10 and 20
    queries half, 100 and 300 four tenths (bfloat16, one thread of an AMD EPYC, 9 heads and 3 key heads of 64, 8 to 160
    rows, 250 to 800 keys). Where there is room for more keys behind them, products need a copy, unless they take the
    room along: so do those of a few queries, which takes two thirds of the time.

    Args:
        query: Shape ``(B, heads, Q, D)``.
        key: Shape ``(B, key heads, T, D)``; room behind it, as in ``GrowingLayer``, has to hold numbers.
        value: As ``key``.
        mask: What is seen, bool, or what is added to the scores, ``(B, 1, Q, T)``; None where all is seen.
        scale: What scores are multiplied by.

    Returns:
        Shape ``(B, Q, heads, D)``. A query that sees nothing sees all.
    """
    batch, heads, queries, width = query.shape
    key_heads, tokens = key.shape[1:3]
    output = query.new_empty(batch, queries, heads, value.shape[3])
    scaled = (query * scale).reshape(batch * key_heads, -1, queries, width)
    few = queries <= _FEW
    if few:
        key, value = _with_room(key), _with_room(value)
    rows = max(1, (_SCORES_OF_FEW if few else _SCORES) // (heads * min(queries, _BLOCK) * tokens))
    for first in range(0, batch, rows):
        last = min(batch, first + rows)
        known = key[first:last].flatten(0, 1).contiguous().mT
        values = value[first:last].flatten(0, 1).contiguous()
        for start, stop in _blocks(queries):
            block = scaled[first * key_heads : last * key_heads, :, start:stop].flatten(1, 2)
            scores = torch.bmm(block, known).view(last - first, heads, stop - start, -1)[..., :tokens]
            if mask is not None:
                seen = mask[first:last, :, start:stop]
                scores += additive_mask(seen[:, 0], query.dtype) if seen.dtype == torch.bool else seen
            weights = F.pad(scores.softmax(3), (0, value.shape[2] - tokens)).view(len(block), -1, value.shape[2])
            attended = torch.bmm(weights, values).view(last - first, heads, stop - start, -1)
            output[first:last, start:stop] = attended.transpose(1, 2)
    return output


def _with_room(one: Tensor) -> Tensor:
    """Return the tensor that keys or values ``(B, heads, T, D)`` are the first columns of, or else they themselves."""
    batch, heads, tokens, width = one.shape
    columns = one.stride(1) // width
    if one.stride() != (heads * columns * width, columns * width, width, 1) or one.storage_offset() % one.stride(1):
        return one
    return one.as_strided((batch, heads, max(columns, tokens), width), one.stride())


def additive_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn ``(B, Q, T)`` into the mask ``(B, 1, Q, T)`` that attention adds to its scores."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


def attend_causally(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attend to the same and earlier tokens of one example, by matrix products of blocks of queries.

    A CPU's matrix products are several times as fast as its fused attention kernel, whose blocks are small and which
    copies the keys of heads that share them: forward and backward take 0.3 to 0.4 of the time (bfloat16, one thread of
    an AMD EPYC, 9 heads and 3 key heads of 64, 300 to 1,600 tokens), float32 0.7 to 0.9. Attention weights are kept for
    the backward pass, half of ``heads x T x T``.

    Args:
        query: Shape ``(1, heads, T, D)``.
        key: Shape ``(1, key heads, T, D)``.
        value: As ``key``.
        scale: What scores are multiplied by.

    Returns:
        Shape ``(1, T, heads, D)``.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    with torch.autocast("cpu", enabled=False):
        parts = (one.to(dtype) for one in (query, key, value))
        output: Tensor = _CausalAttention.apply(*parts, scale)  # type: ignore[no-untyped-call]
    return output


class _CausalAttention(torch.autograd.Function):
    """See ``attend_causally``; below, K key heads have G heads each, and B queries make a block."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        key, value = key[0], value[0]
        key_heads, tokens, width = key.shape
        scaled = (query * scale).view(key_heads, -1, tokens, width)
        output = query.new_empty(tokens, key_heads, scaled.shape[1], value.shape[2])
        later = query.new_full((_BLOCK, _BLOCK), -torch.inf).triu_(1)
        weights = []
        for start, stop in _blocks(tokens):
            scores = torch.bmm(_together(scaled, start, stop), key[:, :stop].mT)
            scores.view(key_heads, -1, stop - start, stop)[..., start:] += later[: stop - start, : stop - start]
            weights.append(scores.softmax(2))
            output[start:stop] = _apart(torch.bmm(weights[-1], value[:, :stop]), stop - start).permute(2, 0, 1, 3)
        ctx.scale = scale
        ctx.save_for_backward(scaled, key, value, output, *weights)
        return output.view(1, tokens, -1, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        scaled, key, value, output, *weights = ctx.saved_tensors
        gradient = gradient.view_as(output)
        # The softmax's backward pass takes from each weight's gradient the mean of all, which is this product.
        mean = (gradient * output).sum(3, keepdim=True).permute(1, 2, 0, 3)
        gradient = gradient.permute(1, 2, 0, 3)
        of_query = torch.empty_like(scaled)
        sums = torch.promote_types(key.dtype, torch.float32)
        of_key, of_value = (torch.zeros_like(one, dtype=sums) for one in (key, value))
        for weight, (start, stop) in zip(weights, _blocks(key.shape[1]), strict=True):
            block = _together(gradient, start, stop)
            of_value[:, :stop] += torch.bmm(weight.mT, block)
            of_scores = torch.baddbmm(_together(mean, start, stop), block, value[:, :stop].mT, beta=-1).mul_(weight)
            of_query[:, :, start:stop] = _apart(torch.bmm(of_scores, key[:, :stop]), stop - start)
            of_key[:, :stop] += torch.bmm(of_scores.mT, _together(scaled, start, stop))
        of_query = of_query.mul_(ctx.scale).view(1, -1, *scaled.shape[2:])
        return of_query, of_key.to(key.dtype)[None], of_value.to(value.dtype)[None], None


def _blocks(tokens: int) -> list[tuple[int, int]]:
    return [(start, min(tokens, start + _BLOCK)) for start in range(0, tokens, _BLOCK)]


def _together(states: Tensor, start: int, stop: int) -> Tensor:
    """Return a block of ``(K, G, T, D)`` with all heads of a key head as more queries, ``(K, G * B, D)``."""
    return states[:, :, start:stop].flatten(1, 2)


def _apart(states: Tensor, queries: int) -> Tensor:
    """Return ``(K, G * B, D)`` as ``(K, G, B, D)``."""
    return states.view(len(states), -1, queries, states.shape[2])


AttentionInterface.register(_NAME, attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)


def use_packed_attention(network: Any) -> bool:
    """Let a transformers model attend by ``attend`` where it would by ``sdpa``; tell whether it does.

    It then takes ``example_lengths``.
    """
    if network.config._attn_implementation == "sdpa" and network._supports_attention_backend:
        network.set_attn_implementation(_NAME)
    return bool(network.config._attn_implementation == _NAME)
