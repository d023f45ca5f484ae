"""Batches of demonstrations for the agent's model: of similar lengths, drawn by (seed, epoch), resumable anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import lightning
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from src.gisa.batches.demonstrations import Demonstration, Demonstrations
from src.launch.errors import InputError
from src.model.packing import Batch, lay_out

T = TypeVar("T")

_BATCHES_SORTED_TOGETHER = 16  # demonstrations of similar length meet, and which ones still changes from epoch to epoch


class DemonstrationData(lightning.LightningDataModule):
    """Training and validation batches of demonstrations.

    Demonstrations of a policy's own episodes are learnt from as well, but for questions that are validated on and for
    those that repeat a trace word for word.

    Args:
        demonstrations: What is learnt.
        pad_token_id: The model's.
        seed: Seed of the order.
        batch_size: Demonstrations of one optimiser step, over all devices together.
        evaluation_batch_size: Demonstrations read at once in validation, on one device.
        training_questions: How many questions' traces are learnt from, spread evenly over all; None for all.
        validation_questions: How many questions are not learnt from but validated on, spread evenly over all.
        packed: Whether short demonstrations share a row; see ``lay_out``.
        drills: Share of the drills of the suite, where it has any, that is learnt from as well, spread evenly over all
            of them: half of that at the beginning of an epoch, the other half spread over the epoch, as they are
            forgotten otherwise.

    Attributes:
        manifest: See ``Demonstrations.manifest``. Questions that are validated on are in it: they choose the weights.

    Raises:
        InputError: there are too few demonstrations, or a size is below 1.
    """

    def __init__(
        self,
        *,
        demonstrations: Demonstrations,
        pad_token_id: int,
        seed: int,
        batch_size: int,
        evaluation_batch_size: int,
        training_questions: int | None,
        validation_questions: int,
        packed: bool,
        drills: float,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "evaluation_batch_size": evaluation_batch_size}
        for name, value in {**sizes, "training_questions": training_questions}.items():
            if value is not None and value < 1:
                raise InputError(f"batches.{name}={value}: I need a whole number of at least 1.")
        if not 0 <= drills <= 1:
            raise InputError(f"batches.drills={drills}: I need a share, from 0 for none to 1 for all of it.")
        questions = list(dict.fromkeys(demonstration.question_id for demonstration in demonstrations.demonstrations))
        if not 1 <= validation_questions < len(questions):
            raise InputError(
                f"batches.validation_questions={validation_questions}, and {len(questions)} question(s) have a "
                "demonstration: I need at least one to validate on, and one to learn from.\n"
                "Type:  batches.validation_questions=<number>, or give a larger data set"
            )
        held_out = spread(questions, validation_questions)
        rest = [name for name in questions if name not in held_out]
        learnt = spread(rest, min(training_questions or len(rest), len(rest)))
        self.validation = [
            demonstration for demonstration in demonstrations.demonstrations if demonstration.question_id in held_out
        ]
        self.training = [
            demonstration for demonstration in demonstrations.demonstrations if demonstration.question_id in learnt
        ]
        known = [demonstration.marked.tokens for demonstration in self.training]
        self.training += [
            demonstration
            for demonstration in demonstrations.own
            if demonstration.question_id not in held_out and demonstration.marked.tokens not in known
        ]
        chosen = spread(demonstrations.drills, round(drills * len(demonstrations.drills)))
        all_used = replace(demonstrations, demonstrations=[*self.training, *self.validation], own=[])
        self.manifest: dict[str, Any] = all_used.manifest()
        self.drills = len(chosen)
        self.training = [*chosen, *self.training]
        self.lengths = np.array([len(demonstration.marked.tokens) for demonstration in self.training])
        self.pad_token_id = pad_token_id
        self.seed = seed
        self.batch_size = batch_size
        self.evaluation_batch_size = evaluation_batch_size
        self.packed = packed

    def train_dataloader(self) -> TrainingDemonstrations:
        """Return the training batches; iterating once is one epoch."""
        rank, world_size = self._share()
        if min(self.batch_size, len(self.training)) < world_size:
            raise InputError(
                f"batches.batch_size={self.batch_size} leaves some of {world_size} processes without a demonstration.\n"
                f"Type:  batches.batch_size={world_size}"
            )
        return TrainingDemonstrations(self, rank, world_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return this process's share of the demonstrations that are not learnt from, the shortest first."""
        rank, world_size = self._share()
        mine = sorted(self.validation, key=lambda demonstration: len(demonstration.marked.tokens))[rank::world_size]
        size = self.evaluation_batch_size
        return DataLoader(mine, size, collate_fn=self.batch)  # type: ignore[arg-type]

    def batch(self, demonstrations: Sequence[Demonstration]) -> Batch:
        """Lay demonstrations out in rows; ``owner`` is the demonstration's place among them."""
        examples = [
            (np.array(demonstration.marked.tokens), np.where(demonstration.marked.trained, place, -1))
            for place, demonstration in enumerate(demonstrations)
        ]
        return lay_out(examples, pad_token_id=self.pad_token_id, packed=self.packed)

    def _share(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def spread(things: Sequence[T], count: int) -> list[T]:
    """Choose so many things at even distances."""
    return [things[(2 * at + 1) * len(things) // (2 * count)] for at in range(count)]


class TrainingDemonstrations:
    """All training batches of one process; knows where it stands, so that a resumed run sees each batch once.

    Serves any data module with ``training`` examples, their ``lengths``, ``batch_size``, ``seed`` and ``batch``. The
    first ``drills`` ones of its examples are in batches of their own; see ``DemonstrationData``.

    Args:
        data: The data module.
        rank: This process, from 0.
        world_size: Number of processes; each takes every ``world_size``-th demonstration of a batch.
    """

    def __init__(self, data: Any, rank: int, world_size: int) -> None:
        self.data, self.rank, self.world_size = data, rank, world_size
        self.lengths = data.lengths
        everything = np.arange(len(self.lengths))
        self.parts = everything[: data.drills], everything[data.drills :]
        self.num_batches: int = sum(map(self._batches_of, self.parts))
        self.epoch, self.step = 0, 0

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self.num_batches

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its batches already given."""
        return {"epoch": self.epoch, "batch": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batches that were already given."""
        self.epoch, self.step = state["epoch"], state["batch"]

    def __iter__(self) -> Iterator[Any]:
        """Give what is left of the epoch; after its last batch, the next epoch."""
        if self.step == self.num_batches:
            self.epoch, self.step = self.epoch + 1, 0
        order = self._order()
        while self.step < self.num_batches:
            chosen = order[self.step][self.rank :: self.world_size]
            self.step += 1
            yield self.data.batch([self.data.training[demonstration] for demonstration in chosen])

    def _batches_of(self, part: NDArray[np.int64]) -> int:
        size: int = self.data.batch_size
        return max(len(part) // size, min(len(part), 1))

    def _order(self) -> list[NDArray[np.int64]]:
        """Return the demonstrations of each batch of this epoch."""
        rng = np.random.default_rng([self.data.seed, self.epoch])
        drills, demonstrations = (self._shuffled(part, rng) for part in self.parts)
        half = len(drills) // 2
        places = np.concatenate(
            [np.linspace(0, 1, len(part), endpoint=False) for part in (drills[half:], demonstrations)]
        )
        mixed = [*drills[half:], *demonstrations]
        return [*drills[:half], *(mixed[place] for place in np.argsort(places, kind="stable"))]

    def _shuffled(self, part: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Shuffle demonstrations, sort them by length within spans, cut them into batches and shuffle these."""
        if not len(part):
            return []
        shuffled = rng.permutation(part)
        span = _BATCHES_SORTED_TOGETHER * self.data.batch_size
        spans = (shuffled[start : start + span] for start in range(0, len(shuffled), span))
        by_length = np.concatenate([one[np.argsort(self.lengths[one], kind="stable")] for one in spans])
        batches = np.array_split(by_length, self._batches_of(part))
        return [batches[place] for place in rng.permutation(len(batches))]
