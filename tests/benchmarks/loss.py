"""The loss with its gradient against loops over label positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's usual name

from src.losses.cross_layer import negative_weights, preference_loss, self_hard_negatives
from tests.benchmarks.comparison import Row, config, interleaved, show_seconds


def rows(*, quick: bool) -> Iterator[Row]:
    positions, vocabulary = (20, 50) if quick else (2_000, 20_000)
    generator = torch.Generator().manual_seed(0)
    final = 3 * torch.randn(positions, vocabulary, generator=generator)
    ensemble = final + torch.randn(positions, vocabulary, generator=generator)
    target = torch.multinomial(final.softmax(1), 1, generator=generator).flatten()  # likely tokens, as after training
    final.requires_grad_()
    stage = config("stage=ilrec_stage1")["stage"]
    share = self_hard_negatives(ensemble, final, target, ratio=stage["ratio"]).float().mean()
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def run(name: str, function: Callable[..., Tensor]) -> None:
        value = function(ensemble, final, target, stage)
        found[name] = value.detach(), torch.autograd.grad(value, final)[0]

    # The gradient of each `tensor[n]` is as large as the tensor, so that loop's cost grows with the square of N.
    # A loop over `tensor.unbind()` has no such cost, and its rows fit the cache of a CPU: shown, but without a goal.
    loops = (("tensor[n]", by_index, 1, ">= 20"), ("tensor.unbind()", torch.unbind, 2 if quick else 5, "none"))
    for name, split, pairs, goal in loops:
        times = interleaved(partial(run, "ours", whole_loss), partial(run, "loop", partial(looped_loss, split)), pairs)
        value, gradient = (float((a - b).abs().max() / b.abs().max()) for a, b in zip(*found.values(), strict=True))
        verdict = "equal" if max(value, gradient) < 1e-3 else "NOT EQUAL"
        yield Row(
            f"Loss and gradient, N = {positions:,}, V = {vocabulary:,}, {share:.1%} negatives",
            ("src.losses.cross_layer", f"loop over {name}"),
            times,
            show_seconds,
            goal,
            f"{verdict}: largest difference {value:.0e} of the loss, {gradient:.0e} of the largest gradient",
        )


def whole_loss(ensemble: Tensor, final: Tensor, target: Tensor, stage: dict[str, Any]) -> Tensor:
    negatives = self_hard_negatives(ensemble, final, target, ratio=stage["ratio"])
    weights = negative_weights(ensemble, negatives)
    return preference_loss(final, target, negatives, weights, strength=stage["strength"])


def by_index(tensor: Tensor) -> Iterator[Tensor]:
    return (tensor[position] for position in range(len(tensor)))


def looped_loss(
    split: Callable[[Tensor], Iterable[Tensor]], ensemble: Tensor, final: Tensor, target: Tensor, stage: dict[str, Any]
) -> Tensor:
    """The definition, one position after the other."""
    total = torch.zeros(())
    for voted, z, y in zip(split(ensemble), split(final), split(target), strict=True):
        with torch.no_grad():
            plain = z.softmax(0)
            negative = voted.softmax(0) >= stage["ratio"] * plain[y]
            negative[y] = False
            penalty = stage["strength"] * voted.where(negative, -torch.inf).softmax(0).where(negative, 0.0)
        raised = z + penalty * (z.relu() + (-z.detach()).relu())
        with torch.no_grad():  # a negative's gradient is at least that of plain cross-entropy
            relief = (plain - raised.softmax(0) * (1 + penalty * (z > 0))).relu() * negative
        total = total + F.cross_entropy(raised, y) + (relief * (z - z.detach())).sum()
    return total / len(target)
