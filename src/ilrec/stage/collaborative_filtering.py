"""Training a collaborative model of the next item: SASRec, GRU4Rec or Caser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's usual name

from src.ilrec.evaluator.full_ranking import FullRankingEvaluator
from src.ilrec.model.sequence_models import SequenceModel
from src.ilrec.stage.next_item import NextItemStage
from src.launch.values import Share
from src.training.stage import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class CollaborativeFilteringSettings(TrainingSettings):
    """What the stage is told.

    Attributes:
        label_smoothing: Share of each label that is spread evenly over all items.
    """

    label_smoothing: Share = 0.0


class CollaborativeFilteringStage(NextItemStage):
    """Next-item prediction with full softmax cross-entropy at every labelled position.

    Args:
        model: The collaborative model.
        evaluator: Ranks the target of every validation and test user.
        settings: Those of ``CollaborativeFilteringSettings``.
    """

    model: SequenceModel
    settings: CollaborativeFilteringSettings

    def __init__(self, *, model: SequenceModel, evaluator: FullRankingEvaluator, **settings: Any) -> None:
        super().__init__(model, evaluator, CollaborativeFilteringSettings(**settings))

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        states, targets = zip(*self._passes(batch), strict=True)
        smoothing = self.settings.label_smoothing
        loss = F.cross_entropy(self.model.scores(torch.cat(states)), torch.cat(targets), label_smoothing=smoothing)
        self._log_training({"loss": loss})
        return loss * self._share_of_positions(len(batch["target"]))

    def _passes(self, batch: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Give states and the items that follow them; rows of similar length are passed together: less padding."""
        lengths = batch["attention_mask"].sum(1)
        for rows in lengths.argsort(stable=True).chunk(4):
            longest = int(lengths[rows[-1]])
            items, labelled = batch["input_ids"][rows, :longest], batch["rows"][rows, : longest - 1]
            # Nothing is predicted from the last column: it would only make the pass longer than any history.
            yield self.model(items[:, :-1])[labelled], items[:, 1:][labelled]
