"""Batches of questions for an agent that learns from its own episodes: reproducible, resumable anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from src.gisa.batches.demonstrations import answer_text, cells_of, manifest_of, refuse_benchmark
from src.gisa.batches.imitation import TrainingDemonstrations, spread
from src.gisa.dataset.gisa import Gisa, Question, human_trajectory
from src.gisa.metrics.answer_table import TableError
from src.gisa.metrics.answers import official_score
from src.launch.errors import InputError


@dataclass(frozen=True)
class GradedQuestion:
    """A question with all that an episode about it is judged by.

    Attributes:
        question: What is asked.
        gold: Content of the answer's file.
        cells: Of the answer.
        human_urls: What a human visited.
    """

    question: Question
    gold: bytes
    cells: tuple[str, ...]
    human_urls: tuple[str, ...]


class QuestionData(lightning.LightningDataModule):
    """Questions to learn from and others to validate on; a batch is a tensor of places in ``questions``.

    Args:
        suite: The questions. Those without an answer that can be scored are left out.
        seed: Seed of the order.
        batch_size: Questions of one optimiser step, over all devices together.
        training_questions: How many questions are learnt from, spread evenly over all; None for all.
        validation_questions: How many are not learnt from but validated on, spread evenly over all.
        allow_train_on_benchmark: Whether questions that are there to test with may be learnt from.

    Attributes:
        questions: All that are used.
        training: Places of those that are learnt from.
        validation: Places of those that are validated on.
        manifest: See ``manifest_of``. Questions that are validated on are in it: they choose the weights.

    Raises:
        InputError: it is not allowed to learn from these questions, there are too few, or a size is below 1.
    """

    def __init__(
        self,
        *,
        suite: Gisa,
        seed: int,
        batch_size: int,
        training_questions: int | None,
        validation_questions: int,
        allow_train_on_benchmark: bool,
    ) -> None:
        super().__init__()
        refuse_benchmark(suite, allow_train_on_benchmark)
        for name, value in {"batch_size": batch_size, "training_questions": training_questions}.items():
            if value is not None and value < 1:
                raise InputError(f"data.{name}={value}: I need a whole number of at least 1.")
        judged = {one.question.id: one for question in suite.questions if (one := _asked(suite, question))}
        if not 1 <= validation_questions < len(judged):
            raise InputError(
                f"batches.validation_questions={validation_questions}, and {len(judged)} question(s) have an answer: I "
                "need at least one to validate on, and one to learn from.\n"
                "Type:  batches.validation_questions=<number>, or give a larger data set"
            )
        held_out = spread(list(judged), validation_questions)
        rest = [name for name in judged if name not in held_out]
        learnt = spread(rest, min(training_questions or len(rest), len(rest)))
        self.questions = [one for name, one in judged.items() if name in {*held_out, *learnt}]
        places = {one.question.id: place for place, one in enumerate(self.questions)}
        self.training = [place for name, place in places.items() if name in learnt]
        self.validation = [place for name, place in places.items() if name in held_out]
        entities = {name: suite.metadata.get(name, {}).get("entities", ()) for name in places}
        self.manifest: dict[str, Any] = manifest_of(suite, entities)
        self.drills = 0
        self.lengths = np.zeros(len(self.training))  # all alike: which ones meet in a batch is chance
        self.seed = seed
        self.batch_size = batch_size

    def train_dataloader(self) -> TrainingDemonstrations:
        """Return the training batches; iterating once is one epoch."""
        rank, world_size = self._share()
        if min(self.batch_size, len(self.training)) < world_size:
            raise InputError(
                f"batches.batch_size={self.batch_size} leaves some of {world_size} processes without a question.\n"
                f"Type:  batches.batch_size={world_size}"
            )
        return TrainingDemonstrations(self, rank, world_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return this process's share of the questions that are not learnt from, all at once."""
        rank, world_size = self._share()
        mine = self.validation[rank::world_size]
        return DataLoader(mine, max(len(mine), 1), collate_fn=self.batch)  # type: ignore[arg-type]

    def batch(self, places: Sequence[int]) -> Tensor:
        """Return the places as they are."""
        return torch.tensor(places)

    def _share(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def _asked(suite: Gisa, question: Question) -> GradedQuestion | None:
    """Collect what a question's episodes are judged by; None where the official scorer rejects the gold answer."""
    gold = suite.gold(question)
    if not gold:
        return None
    try:
        answer = answer_text(gold, question.answer_type)
    except TableError:
        return None
    if official_score(answer, gold, question.answer_type)["global_em"] != 1:
        return None
    has_trace = (suite.root / "trace" / f"{question.id}.json").is_file()
    steps = human_trajectory(suite.trace(question)).steps if has_trace else []
    urls = tuple(step.what for step in steps if step.kind == "visit")
    return GradedQuestion(question, gold, tuple(cells_of(answer)), urls)
