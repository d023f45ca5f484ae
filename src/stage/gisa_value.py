"""The value of an episode at any of its moments: what F1 its answer will come to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's usual name

from src.errors import InputError
from src.model.value_model import ValueModel
from src.stage.training import TrainingStage


class GisaValue(TrainingStage):
    """Cross-entropy between value and final F1, whose least is at the mean F1 of such moments.

    All networks are trained in one step, and the loss is the sum of theirs: the gradient of none depends on what only
    others may learn from. That holds with AdamW and without clipping, whose norm would be one of all.

    Args:
        model: The networks.
        seed: Of random numbers, of which there are none.
        learning_rate: Peak learning rate of AdamW, dimensionless.
        weight_decay: Of all weights.
        warmup_ratio: Share of the steps in which the learning rate rises, 0 to 1; then it falls along a cosine.
    """

    model: ValueModel

    def __init__(
        self,
        *,
        model: ValueModel,
        seed: int,
        learning_rate: float,
        weight_decay: float,
        warmup_ratio: float,
    ) -> None:
        super().__init__(model)
        self.save_hyperparameters(ignore=["model"])

    def on_fit_start(self) -> None:
        """Refuse to clip: see above.

        Raises:
            InputError: the trainer clips gradients.
        """
        if self.trainer.gradient_clip_val is not None:
            raise InputError(
                f"trainer.gradient_clip_val={self.trainer.gradient_clip_val}: the norm is one of all networks, and "
                "each would learn something of the questions held out from it.\n"
                "Type:  trainer.gradient_clip_val=null"
            )

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the sum of the networks' losses; log its mean, and that over the questions held out from each."""
        losses = self._losses(batch)
        held_out = losses.detach()[batch["weight"] == 0].mean()
        loss: Tensor = (losses * batch["weight"]).sum()
        self._log_training({"loss": loss / len(losses), "held_out_loss": held_out})
        return loss

    def _losses(self, batch: Mapping[str, Tensor]) -> Tensor:
        logits = self.model(batch["states"])
        return F.binary_cross_entropy_with_logits(logits, batch["target"].expand_as(logits), reduction="none")

    @torch.no_grad()
    def held_out_values(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the value of each moment by the network that has not learnt from its question, shape ``(N,)``."""
        values: Tensor = self.model(batch["states"].to(self.device)).sigmoid().cpu()
        return torch.where(batch["weight"] == 0, values, 0).sum(0)
