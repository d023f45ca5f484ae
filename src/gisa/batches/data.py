"""Batches for agents that learn, of demonstrations or of questions: drawn by (seed, epoch), resumable anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from src.gisa.batches.demonstrations import Demonstration, Demonstrations, NotLearnableError, cells_of, exact_answer
from src.gisa.dataset.contamination import manifest_of, refuse_benchmark
from src.gisa.dataset.gisa import Gisa, Question, human_trajectory
from src.launch.errors import InputError
from src.launch.values import Count, Seed, Share
from src.model.packing import Batch, lay_out

T = TypeVar("T")

_BATCHES_SORTED_TOGETHER = 16  # examples of similar length meet, and which ones still changes from epoch to epoch


@dataclass(frozen=True, kw_only=True)
class LearningSettings:
    """What every data module of an agent that learns is told.

    Attributes:
        batch_size: Examples of one optimiser step, over all devices together.
        training_questions: How many questions are learnt from, spread evenly over all; None for all.
        validation_questions: How many are not learnt from but validated on, spread evenly over all.
    """

    batch_size: Count
    training_questions: Count | None
    validation_questions: Count


class LearningData(lightning.LightningDataModule):
    """Examples to learn from in batches, and some questions held out to validate on.

    Args:
        seed: Seed of the order.
        settings: Plain values.

    Attributes:
        training: What is learnt from; drills come first.
        drills: How many of them are drills, which have batches of their own.
        lengths: Of each, in tokens: what is about equally long meets in a batch.
        manifest: See ``manifest_of``. Questions that are validated on are in it: they choose the weights.
    """

    settings: LearningSettings
    training: Sequence[Any]
    drills = 0
    lengths: NDArray[Any]
    manifest: dict[str, Any]
    example = "question"  # in messages

    def __init__(self, seed: Seed, settings: LearningSettings) -> None:
        super().__init__()
        self.seed, self.settings = seed, settings
        for name in ("batch_size", "evaluation_batch_size", "training_questions"):
            if (value := getattr(settings, name, None)) is not None and value < 1:
                raise InputError(f"batches.{name}={value}: I need a whole number of at least 1.")

    def _split(self, questions: Sequence[str], what: str) -> tuple[list[str], list[str]]:
        """Choose the questions to learn from and those to validate on."""
        count = self.settings.validation_questions
        if not 1 <= count < len(questions):
            raise InputError(
                f"batches.validation_questions={count}, and {len(questions)} question(s) have {what}: I need at least "
                "one to validate on, and one to learn from.\n"
                "Type:  batches.validation_questions=<number>, or give a larger data set"
            )
        held_out = spread(questions, count)
        rest = [name for name in questions if name not in held_out]
        return spread(rest, min(self.settings.training_questions or len(rest), len(rest))), held_out

    def batch(self, examples: Sequence[Any]) -> Any:
        """Put examples together."""
        raise NotImplementedError

    def train_dataloader(self) -> TrainingBatches:
        """Return the training batches; iterating once is one epoch."""
        rank, world_size = self._share()
        if min(self.settings.batch_size, len(self.training)) < world_size:
            raise InputError(
                f"batches.batch_size={self.settings.batch_size} leaves some of {world_size} processes without a "
                f"{self.example}.\nType:  batches.batch_size={world_size}"
            )
        return TrainingBatches(self, rank, world_size)

    def _share(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


@dataclass(frozen=True, kw_only=True)
class DemonstrationSettings(LearningSettings):
    """What the data module of demonstrations is told.

    Attributes:
        evaluation_batch_size: Demonstrations read at once in validation, on one device.
        packed: Whether short demonstrations share a row; see ``lay_out``.
        drills: Share of the drills of the suite, where it has any, that is learnt from as well, spread evenly over all
            of them: half of that at the beginning of an epoch, the other half spread over the epoch, as they are
            forgotten otherwise.
    """

    evaluation_batch_size: Count
    packed: bool
    drills: Share


class DemonstrationData(LearningData):
    """Training and validation batches of demonstrations.

    Demonstrations of a policy's own episodes are learnt from as well, but for questions that are validated on and for
    those that repeat a trace word for word.

    Args:
        demonstrations: What is learnt.
        pad_token_id: The model's.
        seed: Seed of the order.
        settings: Those of ``DemonstrationSettings``.

    Raises:
        InputError: there are too few demonstrations, or a size is below 1.
    """

    settings: DemonstrationSettings
    example = "demonstration"

    def __init__(self, *, demonstrations: Demonstrations, pad_token_id: int, seed: Seed, **settings: Any) -> None:
        super().__init__(seed, DemonstrationSettings(**settings))
        if not 0 <= self.settings.drills <= 1:
            raise InputError(
                f"batches.drills={self.settings.drills}: I need a share, from 0 for none to 1 for all of it."
            )
        self.pad_token_id = pad_token_id
        traces, drills = demonstrations.demonstrations, demonstrations.drills
        questions = list(dict.fromkeys(demonstration.question_id for demonstration in traces))
        learnt, held_out = self._split(questions, "a demonstration")
        self.validation = [demonstration for demonstration in traces if demonstration.question_id in held_out]
        from_traces = [demonstration for demonstration in traces if demonstration.question_id in learnt]
        known = [demonstration.marked.tokens for demonstration in from_traces]
        own = [
            demonstration
            for demonstration in demonstrations.own
            if demonstration.question_id not in held_out and demonstration.marked.tokens not in known
        ]
        chosen = spread(drills, round(self.settings.drills * len(drills)))
        self.training, self.drills = [*chosen, *from_traces, *own], len(chosen)
        self.lengths = np.array([len(demonstration.marked.tokens) for demonstration in self.training])
        used = {demonstration.question_id for demonstration in [*self.training, *self.validation]}
        self.manifest = manifest_of(demonstrations.suite, used)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return this process's share of the demonstrations that are not learnt from, the shortest first."""
        rank, world_size = self._share()
        mine = sorted(self.validation, key=lambda demonstration: len(demonstration.marked.tokens))[rank::world_size]
        size = self.settings.evaluation_batch_size
        return DataLoader(mine, size, collate_fn=self.batch)  # type: ignore[arg-type]

    def batch(self, examples: Sequence[Demonstration]) -> Batch:
        """Lay demonstrations out in rows; ``owner`` is the demonstration's place among them."""
        labelled = [
            (np.array(demonstration.marked.tokens), np.where(demonstration.marked.trained, owner, -1))
            for owner, demonstration in enumerate(examples)
        ]
        return lay_out(labelled, pad_token_id=self.pad_token_id, packed=self.settings.packed)


@dataclass(frozen=True)
class GradedQuestion:
    """A question with what an episode about it is judged by: the answer's file, its cells, what a human visited."""

    question: Question
    gold: bytes
    cells: tuple[str, ...]
    human_urls: tuple[str, ...]


class QuestionData(LearningData):
    """Questions to learn from and others to validate on; a batch is a tensor of indices into ``questions``.

    Args:
        suite: The questions. Those without an answer that can be scored are left out.
        seed: Seed of the order.
        allow_train_on_benchmark: Whether questions that are there to test with may be learnt from.
        settings: Those of ``LearningSettings``.

    Attributes:
        questions: All that are used.
        training: Indices of those that are learnt from.
        validation: Indices of those that are validated on.

    Raises:
        InputError: it is not allowed to learn from these questions, there are too few, or a size is below 1.
    """

    settings: LearningSettings

    def __init__(self, *, suite: Gisa, seed: Seed, allow_train_on_benchmark: bool, **settings: Any) -> None:
        super().__init__(seed, LearningSettings(**settings))
        refuse_benchmark(suite, allow_train_on_benchmark)
        graded = {question.id: made for question in suite.questions if (made := _graded(suite, question))}
        learnt, held_out = self._split(list(graded), "an answer")
        self.questions = [made for name, made in graded.items() if name in {*learnt, *held_out}]
        names = [graded.question.id for graded in self.questions]
        self.training = [index for index, name in enumerate(names) if name in learnt]
        self.validation = [index for index, name in enumerate(names) if name in held_out]
        self.manifest = manifest_of(suite, names)
        self.lengths = np.zeros(len(self.training))  # all alike: which ones meet in a batch is chance

    def val_dataloader(self) -> DataLoader[Any]:
        """Return this process's share of the questions that are not learnt from, all at once."""
        rank, world_size = self._share()
        mine = self.validation[rank::world_size]
        return DataLoader(mine, max(len(mine), 1), collate_fn=self.batch)  # type: ignore[arg-type]

    def batch(self, examples: Sequence[int]) -> Tensor:
        """Return the indices as they are."""
        return torch.tensor(examples)


def _graded(suite: Gisa, question: Question) -> GradedQuestion | None:
    """Collect what a question's episodes are judged by; None where the official scorer rejects the gold answer."""
    try:
        answer = exact_answer(suite, question)
    except NotLearnableError:
        return None
    steps = human_trajectory(suite.trace(question)).steps if suite.has_trace(question) else []
    urls = tuple(step.what for step in steps if step.kind == "visit")
    return GradedQuestion(question, suite.gold(question), tuple(cells_of(answer)), urls)


def spread(things: Sequence[T], count: int) -> list[T]:
    """Choose so many things at even distances."""
    return [things[(2 * at + 1) * len(things) // (2 * count)] for at in range(count)]


class TrainingBatches:
    """All training batches of one process, which takes every ``world_size``-th example of each.

    They know where they stand, so that a resumed run sees each batch once.
    """

    def __init__(self, data: LearningData, rank: int, world_size: int) -> None:
        self.data, self.rank, self.world_size = data, rank, world_size
        everything = np.arange(len(data.lengths))
        self.parts = everything[: data.drills], everything[data.drills :]
        self.num_batches: int = sum(map(self._batches_of, self.parts))
        self.epoch, self.step = 0, 0

    def __len__(self) -> int:
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
            yield self.data.batch([self.data.training[example] for example in chosen])

    def _batches_of(self, part: NDArray[np.int64]) -> int:
        return max(len(part) // self.data.settings.batch_size, min(len(part), 1))

    def _order(self) -> list[NDArray[np.int64]]:
        """Return the examples of each batch of this epoch."""
        rng = np.random.default_rng([self.data.seed, self.epoch])
        drills, others = (self._shuffled(part, rng) for part in self.parts)
        half = len(drills) // 2
        moments = np.concatenate([np.linspace(0, 1, len(part), endpoint=False) for part in (drills[half:], others)])
        mixed = [*drills[half:], *others]
        return [*drills[:half], *(mixed[index] for index in np.argsort(moments, kind="stable"))]

    def _shuffled(self, part: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Shuffle examples, sort them by length within spans, cut them into batches and shuffle these."""
        if not len(part):
            return []
        shuffled = rng.permutation(part)
        size = _BATCHES_SORTED_TOGETHER * self.data.settings.batch_size
        spans = (shuffled[start : start + size] for start in range(0, len(shuffled), size))
        by_length = np.concatenate([span[np.argsort(self.data.lengths[span], kind="stable")] for span in spans])
        batches = np.array_split(by_length, self._batches_of(part))
        return [batches[index] for index in rng.permutation(len(batches))]
