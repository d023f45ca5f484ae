"""Imitation: the agent's model learns the actions of human traces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's usual name
from torch.utils.checkpoint import checkpoint

from src.gisa.dataset.contamination import joined_manifest
from src.launch.errors import InputError
from src.launch.values import Whole
from src.model.causal_lm import CausalLM
from src.training.stage import BRING_BACK, TrainingSettings, TrainingStage

_LOGITS = 2**22  # most at once, as blocks of 32 MB and more go back to the system each time; see ``keep_memory``


class LearningStage(TrainingStage):
    """A stage whose checkpoints say what the weights have learnt from."""

    model: CausalLM
    _manifest_before: dict[str, Any] | None = None  # of the weights that it begins with

    @property
    def manifest(self) -> dict[str, Any]:
        """Return the manifest of all that is behind the weights, the data of now included; within training only."""
        manifest: dict[str, Any] = self.trainer.datamodule.manifest  # type: ignore[attr-defined]
        return manifest if self._manifest_before is None else joined_manifest(self._manifest_before, manifest)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the manifest, too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["manifest"] = self.manifest

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with other questions than those that the run has begun with.

        Raises:
            InputError: they have changed, or the checkpoint is of another stage or model.
        """
        super().on_load_checkpoint(checkpoint)
        if self._trainer is not None and checkpoint["manifest"] != self.manifest:
            raise InputError(
                "The questions to learn from are others than those that this run has begun with: the data set, or "
                f"what is below task.episodes_from, has changed.\n{BRING_BACK}"
            )


@dataclass(frozen=True, kw_only=True)
class ImitationSettings(TrainingSettings):
    """What the stage is told.

    Attributes:
        frozen_blocks: Lowest transformer blocks that stay as they are, too, and take no backward pass.
    """

    frozen_blocks: Whole


class ImitationStage(LearningStage):
    """Next-token cross-entropy on the assistant's own tokens, tool calls and answers; all others are only read.

    The head is applied to the states before these tokens and nowhere else, to few at a time: their logits are computed
    again in the backward pass, as keeping them takes longer (our choice). Token embeddings, and a head that shares
    them, stay as they are: a chat model knows all tokens, and they are a fifth of a small one's weights (our choice).

    Args:
        model: The language model.
        settings: Those of ``ImitationSettings``.

    Raises:
        InputError: no block would learn.
    """

    settings: ImitationSettings

    def __init__(self, *, model: CausalLM, **settings: Any) -> None:
        super().__init__(model, ImitationSettings(**settings))
        frozen_blocks = self.settings.frozen_blocks
        if not 0 <= frozen_blocks < model.num_blocks:
            raise InputError(
                f"stage.frozen_blocks={frozen_blocks}: the model has {model.num_blocks} blocks; I need a number from 0 "
                f"to {model.num_blocks - 1}."
            )
        for part in (model.causal_network.get_input_embeddings(), *model.blocks[:frozen_blocks]):
            part.requires_grad_(False)

    def initialise(self) -> dict[str, Any] | None:
        """Take the weights to start from, if any, and what they have learnt from."""
        checkpoint = super().initialise()
        self._manifest_before = checkpoint and checkpoint["manifest"]
        return checkpoint

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss over the trained tokens of one batch."""
        states, target = self._states(batch), batch["target"]
        rows = max(1, _LOGITS // self.model.causal_network.config.vocab_size)
        parts = [
            checkpoint(self._loss_and_hits, *part, use_reentrant=False, preserve_rng_state=False)
            for part in zip(torch.split(states, rows), torch.split(target, rows), strict=True)
        ]
        loss, hits = (torch.stack(sums).sum() / len(target) for sums in zip(*parts, strict=True))
        self._log_training({"loss": loss, "token_accuracy": hits})
        return loss * self._share_of_positions(len(target))

    def _loss_and_hits(self, states: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the loss over some tokens, and how many of them are the likeliest."""
        logits = self.model.head(states)
        return F.cross_entropy(logits, target, reduction="sum"), (logits.detach().argmax(1) == target).float().sum()

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy over trained tokens, and the share of demonstrations without a wrong one.

        All of it with what should come before given, so that one wrong token leads to no other.
        """
        logits, target, owner = self.model.head(self._states(batch)), batch["target"], batch["owner"]
        right = logits.argmax(1) == target
        demonstrations = int(owner.max()) + 1
        wrong = torch.zeros(demonstrations, device=right.device).index_add_(0, owner, (~right).float())
        by_token = {"val/loss": F.cross_entropy(logits, target), "val/token_accuracy": right.float().mean()}
        settings: dict[str, Any] = {"on_epoch": True, "sync_dist": True, "prog_bar": True}
        self.log_dict(by_token, batch_size=len(target), **settings)
        self.log("val/demonstration_accuracy", (wrong == 0).float().mean(), batch_size=demonstrations, **settings)

    def _states(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the states before the trained tokens, shape ``(N, D)``."""
        return self.model.row_states(batch["input_ids"], batch["attention_mask"], batch["rows"], []).final
