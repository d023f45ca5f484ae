"""Losses whose gradient is computed together with their value, so that nothing else as large as the logits is held."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Entries of a block: on a CPU what its cache holds, elsewhere enough for a kernel to be worth its launch.
_ENTRIES = {"cpu": 1 << 18}
_ENTRIES_ELSEWHERE = 1 << 24

FEW = 1 / 32  # share of marked entries up to which it is faster to list them


def row_blocks(matrix: Tensor) -> Iterator[slice]:
    """Cut a matrix ``(N, V)`` into blocks of whole rows small enough to be worked on densely; at least one row each."""
    size = max(_ENTRIES.get(matrix.device.type, _ENTRIES_ELSEWHERE) // max(matrix.shape[1], 1), 1)
    return (slice(start, start + size) for start in range(0, len(matrix), size))


def at_least_single(logits: Tensor) -> Tensor:
    """Return logits in float32, or in their own type where that is wider: sums in half precision lose their digits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outer * gradient, None, None


def with_gradient(logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """Return ``value`` as a function of ``logits`` whose gradient is ``gradient``.

    Args:
        logits: What the value was computed from, any shape.
        value: The value, shape ``()``.
        gradient: Its derivative by each logit, the shape of ``logits``.

    Returns:
        The value, shape ``()``; it can be differentiated once.
    """
    result: Tensor = _WithGradient.apply(logits, value, gradient)  # type: ignore[no-untyped-call]
    return result
