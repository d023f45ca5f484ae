"""Batches for sequential recommendation: reproducible from (seed, epoch), resumable at any batch, exact under DDP."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import lightning
import numpy as np
import torch

from src.ilrec.dataset.interactions import Interactions, Split
from src.ilrec.prompt.examples import Examples
from src.launch.errors import InputError
from src.launch.values import Count, Seed, Share
from src.model.packing import Batch, Example, lay_out


class RecommendationData(lightning.LightningDataModule):
    """Training and evaluation batches of one data set under one prompt.

    Args:
        interactions: The prepared interactions.
        prompt: How histories and responses are written, see ``src.ilrec.prompt``.
        seed: Seed of the order of examples.
        batch_size: Examples of one optimiser step, over all devices together.
        evaluation_batch_size: Users decoded at once on one device.
        max_users: Evaluate only the first users; ``None`` evaluates all.
        crop: Share of the training examples that begin later, at an item drawn among all but the last: the same labels
            with shorter histories. The labels that come before it are left out of that epoch.
    """

    def __init__(
        self,
        *,
        interactions: Interactions,
        prompt: Any,
        seed: Seed,
        batch_size: Count,
        evaluation_batch_size: Count,
        max_users: Count | None,
        crop: Share = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("evaluation_batch_size", evaluation_batch_size)):
            if value < 1:
                raise InputError(f"batches.{name}={value}: I need a whole number of at least 1.")
        self.interactions = interactions
        self.prompt = prompt
        self.seed = seed
        self.batch_size = batch_size
        self.crop = crop
        self.evaluation_batch_size = evaluation_batch_size
        self.evaluated = np.arange(interactions.num_users)[:max_users]

    def train_dataloader(self) -> TrainingBatches:
        """Return the training batches; iterating once is one epoch."""
        return TrainingBatches(self, *self._shard())

    def val_dataloader(self) -> EvaluationBatches:
        """Return the users with their second last item as target."""
        return EvaluationBatches(self, "val", *self._shard())

    def test_dataloader(self) -> EvaluationBatches:
        """Return the users with their last item as target."""
        return EvaluationBatches(self, "test", *self._shard())

    def of_users(self, count: int | None) -> RecommendationData:
        """Return the same data with at most so many evaluated users, spread evenly; None for all that there are.

        The first ones of a data set may be of another kind than the rest.
        """
        few, most = copy.copy(self), len(self.evaluated)
        if count is not None and count < most:
            few.evaluated = self.evaluated[(2 * np.arange(count) + 1) * most // (2 * count)]
        return few

    def _shard(self) -> tuple[int, int]:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if self.batch_size < world_size:
            raise InputError(
                f"batches.batch_size={self.batch_size} leaves some of {world_size} processes without an example.\n"
                f"Type:  batches.batch_size={world_size}"
            )
        return rank, world_size


class TrainingBatches:
    """All training batches of one process; knows where it stands, so that a resumed run sees each batch once.

    A batch is what ``lay_out`` gives, with response tokens as labels and ``interaction`` ``(N,)`` in the place of
    ``owner``: the index into ``Interactions.items`` of the item that a label belongs to, or ``UNOWNED``.

    The number of batches is the same in every epoch, though the number of examples may vary a little.

    Args:
        data: The data module.
        rank: This process, from 0.
        world_size: Number of processes; each takes every ``world_size``-th example of a batch.
    """

    def __init__(self, data: RecommendationData, rank: int, world_size: int) -> None:
        self.data, self.rank, self.world_size = data, rank, world_size
        sequences = data.interactions
        self.lengths = np.diff(sequences.offsets) - 2
        most = data.prompt.most_examples(self.lengths)
        # Small batches need an example for each process in the epoch with the fewest, too.
        fewest = data.prompt.fewest_examples(self.lengths) if hasattr(data.prompt, "fewest_examples") else most
        self.num_batches: int = max(min(most // data.batch_size, fewest // world_size), 1)
        self.epoch, self.batch = 0, 0

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self.num_batches

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its batches already given."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batches that were already given."""
        self.epoch, self.batch = state["epoch"], state["batch"]

    def __iter__(self) -> Iterator[Batch]:
        """Give what is left of the epoch; after its last batch, the next epoch."""
        if self.batch == self.num_batches:
            self.epoch, self.batch = self.epoch + 1, 0
        rng = np.random.default_rng([self.data.seed, self.epoch])
        examples = self._examples(rng)
        order = np.array_split(rng.permutation(len(examples)), self.num_batches)
        while self.batch < self.num_batches:
            chosen = order[self.batch][self.rank :: self.world_size]
            self.batch += 1
            yield self._collate(examples, chosen)

    def _examples(self, rng: np.random.Generator) -> Examples:
        examples: Examples = self.data.prompt.examples(self.lengths, rng)
        return examples.cropped(self.data.crop, self.data.prompt.unlabelled, rng) if self.data.crop else examples

    def _collate(self, examples: Examples, chosen: np.ndarray) -> Batch:
        encoded = [self._encode(examples, row) for row in chosen]
        batch = lay_out(encoded, pad_token_id=self.data.prompt.pad_token_id, packed=self.data.prompt.packed)
        batch["interaction"] = batch.pop("owner")
        return batch

    def _encode(self, examples: Examples, row: int) -> Example:
        user, start, stop = int(examples.user[row]), examples.start[row], examples.stop[row]
        of_user = self.data.interactions.training_sequence(user) if user >= 0 else None
        items = np.arange(start, stop) if of_user is None else of_user[start:stop]
        task = {} if examples.task is None else {"task": int(examples.task[row])}
        tokens, owner = self.data.prompt.encode(items, int(examples.first_label[row] - start), **task)
        first = self.data.interactions.offsets[user] + start
        return tokens, np.where(owner >= 0, first + owner, owner)


class EvaluationBatches:
    """Every evaluated user once, split over the processes without padding or repetition.

    Args:
        data: The data module.
        split: ``val`` or ``test``.
        rank: This process, from 0.
        world_size: Number of processes.
    """

    def __init__(self, data: RecommendationData, split: Split, rank: int, world_size: int) -> None:
        self.data, self.split = data, split
        lengths = np.diff(data.interactions.offsets)[data.evaluated]
        by_length = np.argsort(lengths, kind="stable")  # prompts of similar length need little padding
        self.users = data.evaluated[by_length[rank::world_size]]

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.users) // self.data.evaluation_batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Give the users in order of their history's length."""
        for start in range(0, len(self.users), self.data.evaluation_batch_size):
            yield self._collate(self.users[start : start + self.data.evaluation_batch_size])

    def _collate(self, users: np.ndarray) -> Batch:
        histories = [self.data.interactions.history(int(user), self.split) for user in users]
        target = torch.tensor([self.data.interactions.target(int(user), self.split) for user in users])
        return {**prompt_batch(self.data.prompt, histories), "target": target, "user": torch.from_numpy(users)}


def prompt_batch(prompt: Any, histories: list[np.ndarray]) -> Batch:
    """Write histories as prompts for the next item.

    Args:
        prompt: How histories are written, see ``src.ilrec.prompt``.
        histories: Item indices of each of B users, oldest first.

    Returns:
        ``input_ids`` and ``attention_mask`` ``(B, P)`` padded on the left, ``history`` ``(B, H)`` padded with -1.
    """
    prompts = [prompt.prompt(history) for history in histories]
    length, longest = max(map(len, prompts)), max(map(len, histories))
    input_ids = torch.full((len(prompts), length), prompt.pad_token_id)
    attention_mask = torch.zeros(len(prompts), length, dtype=torch.int64)
    history = torch.full((len(prompts), longest), -1)
    for row, (tokens, items) in enumerate(zip(prompts, histories, strict=True)):
        input_ids[row, length - len(tokens) :] = torch.from_numpy(tokens)
        attention_mask[row, length - len(tokens) :] = 1
        history[row, : len(items)] = torch.from_numpy(items)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "history": history}
