"""Token rewards of one training batch with ten times as many items: time and memory may grow ten times, no more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from src.ilrec.dataset.interactions import Interactions
from src.ilrec.model.reward_model import RewardModel
from src.ilrec.model.sequence_models import SASRec
from src.ilrec.model.trie import TokenTrie
from tests.benchmarks.comparison import Row, config, interleaved, show_seconds
from tests.benchmarks.models import LEVELS, semantic_ids
from tests.benchmarks.training import in_fresh_process, resident, resident_from_here

CANDIDATES = 20  # negatives and true token of a label position


@dataclass(frozen=True)
class Sizes:
    """How much is judged: a batch of conf/config.yaml, 16 windows of 21 labelled items."""

    items: tuple[tuple[int, int], ...] = ((10_000, 7), (100_000, 5), (1_000_000, 3))  # each with its number of pairs
    codes: int = 128  # of a level
    users: int = 16
    labels: int = 21


FULL, QUICK = Sizes(), Sizes(items=((20, 2), (200, 2)), codes=8, users=2, labels=3)


class Batch:
    """A batch of random histories, and the reward model that judges it."""

    def __init__(self, sizes: Sizes, items: int) -> None:
        tokens = semantic_ids(items, sizes.codes)
        length = sizes.labels + 1
        interactions = Interactions(
            name="random",
            offsets=np.arange(sizes.users + 1) * length,
            items=np.random.default_rng(0).integers(0, items, sizes.users * length),
            user_ids=[""] * sizes.users,
            item_ids=[""] * items,
            titles=[],
            texts=[],
            fingerprint="",
            statistics={},
        )
        trie = TokenTrie.build(torch.from_numpy(tokens.tokens), vocabulary_size=len(tokens.vocabulary))
        settings = config("model=sasrec", "prompt=items")["model"]
        network = SASRec([""] * items, **settings).eval().requires_grad_(False)
        self.model = RewardModel(network, interactions, trie, stride=settings["max_history"] // 2)
        labelled = np.delete(np.arange(sizes.users * length), interactions.offsets[:-1])
        self.interaction = torch.from_numpy(labelled.repeat(LEVELS))
        self.target = torch.from_numpy(tokens.tokens[interactions.items[labelled]].ravel())
        self.row = torch.arange(len(self.target)).repeat_interleave(CANDIDATES)
        self.token = torch.randint(len(tokens.vocabulary), (len(self.target), CANDIDATES))
        self.token[:, 0] = self.target
        self.vocabulary = len(tokens.vocabulary)

    def judge(self) -> Tensor:
        return self.model(self.interaction, self.target, self.row, self.token.flatten())

    def furthest_from_one(self) -> float:
        """Return the largest distance from 1 of the sum over all tokens, at the first 3 label positions."""
        row, token = torch.ones(LEVELS, self.vocabulary).nonzero(as_tuple=True)
        sums = self.model(self.interaction[:LEVELS], self.target[:LEVELS], row, token).view(LEVELS, -1).sum(1)
        return float((sums - 1).abs().max())


def memory(quick: bool, items: int, threads: int) -> float:
    """Return what judging a batch adds to the resident memory at its peak, in MB; 1 if it is less."""
    torch.set_num_threads(threads)
    batch = Batch(QUICK if quick else FULL, items)
    before = resident_from_here()
    batch.judge()
    return max(resident("VmHWM") - before, 1.0)


def rows(*, quick: bool) -> Iterator[Row]:
    sizes = QUICK if quick else FULL
    what = f"Token rewards, {sizes.users * sizes.labels} histories x {LEVELS} positions x {CANDIDATES} tokens"
    for (few, _), (many, pairs) in zip(sizes.items[:-1], sizes.items[1:], strict=True):
        small, large = Batch(sizes, few), Batch(sizes, many)
        sides = (f"{few:,} items", f"{many:,} items")
        off = max(small.furthest_from_one(), large.furthest_from_one())
        check = f"rewards of all tokens {'sum to 1' if off < 1e-9 else 'do NOT sum to 1'}: off by {off:.0e}"
        times = interleaved(small.judge, large.judge, pairs)
        yield Row(f"{what}: time", sides, times, show_seconds, "<= 10", check)
        del small, large
        peaks = tuple(in_fresh_process(memory, quick, items, torch.get_num_threads()) for items in (few, many))
        show = "{:,.0f} MB".format
        yield Row(f"{what}: peak memory added", sides, [peaks], show, "<= 10", "each in a fresh process")
