"""Counting a collaborative model where others are trained: one step takes all there is from the training part."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from src.ilrec.evaluator.full_ranking import FullRankingEvaluator
from src.ilrec.model.counting import CountedModel
from src.ilrec.stage.next_item import NextItemStage
from src.launch.errors import InputError
from src.training.stage import Optimisation


class CountingStage(NextItemStage):
    """A single step that counts; no gradients. Checkpoints hold the counts.

    Args:
        model: The counted model.
        evaluator: Ranks the target of every validation and test user.
    """

    model: CountedModel

    def __init__(self, *, model: CountedModel, evaluator: FullRankingEvaluator) -> None:
        nothing = Optimisation(seed=0, learning_rate=0.0, weight_decay=0.0, warmup_ratio=0.0)
        super().__init__(model, evaluator, nothing)

    @property
    def decisions(self) -> dict[str, Any]:
        """See the base class."""
        return {"chosen": chosen} if (chosen := self.model.chosen_settings()) else {}

    def setup(self, stage: str) -> None:
        """Refuse to be shared out.

        Raises:
            InputError: there are several processes.
        """
        if self.trainer.world_size > 1:
            raise InputError(
                f"{self.kind} counts in one process, and this run has {self.trainer.world_size}.\n"
                "Type:  trainer.devices=1"
            )
        self.trainer.check_val_every_n_epoch = 1  # there is one; a sweep may validate what is trained less often
        warnings.filterwarnings("ignore", message=".*(fit will run with no optimizer|`training_step` returned `None`)")
        super().setup(stage)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Count, and end the training: there is nothing more to learn."""
        self.model.count(self.trainer.datamodule.interactions)  # type: ignore[attr-defined]
        self.trainer.should_stop = True

    def configure_optimizers(self) -> None:
        """There is nothing to optimise."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Take the step and nothing else: there are no gradients to clip or to log."""
        optimizer_closure()

    def _trained_names(self) -> Iterator[str]:
        return (name for name, _ in self.named_buffers())
