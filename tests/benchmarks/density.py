"""The losses on negatives and the look-up of rewards, from few negatives to half of the vocabulary.

Each beside a dense and a sparse version of the same: work on whole matrices, or on lists of the marked entries. The
better of the two is A. Seconds are CPU seconds of one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's usual name

from src.losses.collaborative import marked_entries, reward_loss
from src.losses.cross_layer import negative_weights, preference_loss
from tests.benchmarks import rewards
from tests.benchmarks.comparison import Row, show_seconds
from tests.benchmarks.training import resident, resident_from_here

STRENGTH = 0.1
Found = tuple[Tensor, ...]
Versions = dict[str, Callable[[], Found]]


@dataclass(frozen=True)
class Sizes:
    """How much is measured: SmolLM2's and Llama 3's vocabularies, 40 labelled items of three tokens."""

    vocabularies: tuple[int, ...] = (49_152, 128_256)
    shares: tuple[float, ...] = (0.001, 0.05, 0.5)
    batch: rewards.Sizes = rewards.Sizes(codes=256, users=4, labels=10)
    items: int = 10_000
    rounds: int = 3


FULL = Sizes()
QUICK = Sizes((64,), (0.05, 0.5), rewards.Sizes(codes=8, users=2, labels=3), items=50, rounds=1)


def rows(*, quick: bool) -> Iterator[Row]:
    sizes = QUICK if quick else FULL
    torch.manual_seed(0)
    judged = rewards.Batch(sizes.batch, sizes.items)
    for vocabulary in sizes.vocabularies:
        for share in sizes.shares:
            target = vocabulary - judged.vocabulary + judged.target  # item tokens are the last ones
            negatives = torch.rand(len(target), vocabulary) < share
            negatives.scatter_(1, target[:, None], False)
            what = f"N = {len(target)}, V = {vocabulary:,}, {share:.1%} negatives"
            for name, versions in (
                ("CPO", penalties(target, negatives)),
                ("CRR, rewards of all tokens", soft_labels(target, negatives, listed=False)),
                ("CRR, rewards listed", soft_labels(target, negatives, listed=True)),
                ("Reward look-up", look_ups(judged, target, negatives)),
            ):
                yield from compared(f"{name}, {what}", versions, sizes.rounds)


def compared(what: str, versions: Versions, rounds: int) -> Iterator[Row]:
    """Compare ours with the better of the others, in time and in memory."""
    ours, *others = (call() for call in versions.values())
    off = max(float((a - b).abs().max() / b.abs().max()) for other in others for a, b in zip(ours, other, strict=True))
    same = f"{'equal' if off < 1e-5 else 'NOT EQUAL'}: largest difference {off:.0e} of the largest value or gradient"
    del ours, others
    times = [{side: cpu_seconds(call) for side, call in versions.items()} for _ in range(rounds)]
    peaks = [{side: peak(call) for side, call in versions.items()} for _ in range(rounds)]
    for measure, found, show in (("time", times, show_seconds), ("peak memory added", peaks, "{:,.0f} MB".format)):
        middle = {side: median(one[side] for one in found) for side in versions}
        best = min(list(versions)[1:], key=middle.__getitem__)
        shown = ", ".join(f"{side} {show(value)}" for side, value in middle.items())
        pairs = [(one[best], one["ours"]) for one in found]
        yield Row(f"{what}: {measure}", (best, "ours"), pairs, show, "<= 1.2", f"{shown}; {same}")


def cpu_seconds(call: Callable[[], Found]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def peak(call: Callable[[], Found]) -> float:
    """Return what a call adds to the resident memory at its peak, in MB; 1 if it is less."""
    before = resident_from_here()
    call()
    return max(resident("VmHWM") - before, 1.0)


def with_gradient(loss: Callable[..., Tensor], logits: Tensor, *arguments: Tensor) -> Found:
    value = loss(logits, *arguments)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def penalties(target: Tensor, negatives: Tensor) -> Versions:
    logits = 3 * torch.randn(negatives.shape)
    weights = negative_weights(logits + torch.randn(negatives.shape), negatives)
    logits.requires_grad_()
    versions = {"ours": partial(preference_loss, strength=STRENGTH), "dense": dense_penalty, "sparse": sparse_penalty}
    arguments = logits, target, negatives, weights
    return {side: partial(with_gradient, loss, *arguments) for side, loss in versions.items()}


def dense_penalty(logits: Tensor, target: Tensor, negatives: Tensor, weights: Tensor) -> Tensor:
    penalty = STRENGTH * weights * negatives
    slope = 1 + penalty * (logits.detach() > 0)
    raised = logits + penalty * (logits.relu() + (-logits.detach()).relu())
    with torch.no_grad():
        floor = (logits.softmax(1) - raised.softmax(1) * slope).relu() * negatives
    return F.cross_entropy(raised, target) + (floor * (logits - logits.detach())).sum() / len(target)


def sparse_penalty(logits: Tensor, target: Tensor, negatives: Tensor, weights: Tensor) -> Tensor:
    at = negatives.nonzero(as_tuple=True)
    penalty, marked = STRENGTH * weights[at], logits[at]
    slope = 1 + penalty * (marked.detach() > 0)
    shift = penalty * (marked.relu() + (-marked.detach()).relu())
    raised = logits.index_put(at, shift, accumulate=True)
    with torch.no_grad():
        plain = (marked - logits.logsumexp(1)[at[0]]).exp()
        pushed = (marked + shift - raised.logsumexp(1)[at[0]]).exp() * slope
    floor = ((plain - pushed).relu() * (marked - marked.detach())).sum()
    return F.cross_entropy(raised, target) + floor / len(target)


def soft_labels(target: Tensor, negatives: Tensor, *, listed: bool) -> Versions:
    logits, given = torch.randn(negatives.shape), torch.rand(negatives.shape)
    given[::5] = 0  # positions without a reward
    if listed:
        given = given[marked_entries(target, negatives)].double()  # as the look-up gives them
    logits.requires_grad_()
    versions = {"ours": reward_loss, "dense": dense_labels, "sparse": sparse_labels}
    return {side: partial(with_gradient, loss, logits, target, negatives, given) for side, loss in versions.items()}


def dense_labels(logits: Tensor, target: Tensor, negatives: Tensor, given: Tensor) -> Tensor:
    marked = negatives.scatter(1, target[:, None], True)
    if given.ndim == 2:
        label = given * marked
    else:
        label = torch.zeros_like(logits).masked_scatter_(marked, given.to(logits.dtype))
    total = label.sum(1, keepdim=True)
    label = label / total.where(total > 0, 1.0)
    return -(label * logits.log_softmax(1)).sum() / (total > 0).sum()


def sparse_labels(logits: Tensor, target: Tensor, negatives: Tensor, given: Tensor) -> Tensor:
    row, token = marked_entries(target, negatives)
    reward = (given[row, token] if given.ndim == 2 else given).double()
    total = reward.new_zeros(len(target)).index_add_(0, row, reward)
    label = torch.where(total[row] > 0, reward / total[row], 0.0).to(logits.dtype)
    return -(label * (logits[row, token] - logits.logsumexp(1)[row])).sum() / (total > 0).sum()


def look_ups(judged: rewards.Batch, target: Tensor, negatives: Tensor) -> Versions:
    """Return ways to get the rewards of all marked item tokens, shape ``(N, item tokens)``."""
    first = negatives.shape[1] - judged.vocabulary
    shape = len(target), judged.vocabulary

    def ask(row: Tensor, token: Tensor, child: Tensor | None = None) -> Tensor:
        return judged.model(judged.interaction, judged.target, row, token, child)

    def ours() -> Found:
        row, token, child = judged.model.continuations(judged.interaction, judged.target)
        marked = negatives[row, first + token] | (token == judged.target[row])
        row, token, child = row[marked], token[marked], child[marked]
        return (torch.zeros(shape, dtype=torch.float64).index_put_((row, token), ask(row, token, child)),)

    def dense() -> Found:
        row, token = torch.ones(shape).nonzero(as_tuple=True)
        marked = negatives[:, first:].scatter(1, judged.target[:, None], True)
        return (ask(row, token).view(shape) * marked,)

    def sparse() -> Found:
        at = marked_entries(judged.target, negatives[:, first:])
        return (torch.zeros(shape, dtype=torch.float64).index_put_(at, ask(*at)),)

    return {"ours": ours, "dense": dense, "sparse": sparse}
