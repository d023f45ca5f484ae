"""What every stage that learns to predict the next item shares: ranking and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.launch.errors import InputError
from src.metrics.ranking import ranking_metrics
from src.training.stage import BRING_BACK, Optimisation, TrainingStage


class NextItemStage(TrainingStage):
    """A training stage that ranks.

    Args:
        model: The network; its ``spec`` says in plain values what it is.
        evaluator: Ranks the target of every validation and test user: ``start(interactions)``, ``rank(model, batch)``,
            ``exclude_history`` and ``cutoffs``.
        settings: Of the stage.
    """

    def __init__(self, model: Any, evaluator: Any, settings: Optimisation) -> None:
        super().__init__(model, settings)
        self.evaluator = evaluator
        self.test_ranks: dict[str, Any] = {}
        self._found: list[tuple[np.ndarray, np.ndarray]] = []

    def on_validation_epoch_start(self) -> None:
        """Begin an evaluation."""
        self.evaluator.start(self.trainer.datamodule.interactions)  # type: ignore[attr-defined]

    def on_test_epoch_start(self) -> None:
        """Begin an evaluation."""
        self.on_validation_epoch_start()

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Rank the validation targets of one batch of users."""
        self._rank(batch, [self.evaluator.exclude_history is True])

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Rank the test targets of one batch of users."""
        exclude = self.evaluator.exclude_history
        self._rank(batch, [False, True] if exclude == "both" else [exclude])

    def _rank(self, batch: Mapping[str, Tensor], settings: list[bool]) -> None:
        ranks = [self.evaluator.rank(self.model, batch, exclude_history=exclude) for exclude in settings]
        self._found.append((batch["user"].cpu().numpy(), np.stack(ranks)))

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics over all users of all processes."""
        self._log_ranking("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics and keep every user's rank."""
        users, ranks = self._log_ranking("test")
        interactions = self.trainer.datamodule.interactions  # type: ignore[attr-defined]
        self.test_ranks = {
            "user": [interactions.user_ids[user] for user in users],
            "target": [interactions.item_ids[interactions.target(int(user), "test")] for user in users],
            **dict(zip(("rank", "rank_excluded"), ranks, strict=False)),
        }

    def _log_ranking(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        users = np.concatenate([users for users, _ in self._found] or [np.empty(0, dtype=np.int64)])
        ranks = np.concatenate([ranks for _, ranks in self._found] or [np.empty((1, 0))], axis=1)
        self._found = []
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, (users, ranks))
            users, ranks = (np.concatenate(parts, axis=-1) for parts in zip(*gathered, strict=True))
        order = np.argsort(users)
        users, ranks = users[order], ranks[:, order]
        if not self.trainer.sanity_checking:
            for title, row in zip((split, f"{split}_excluded"), ranks, strict=False):
                metrics = ranking_metrics(row, self.evaluator.cutoffs)
                self.log_dict({f"{title}/{name}": value for name, value in metrics.items()})
            self.log(f"{split}/users", float(len(users)))
            shown = ranking_metrics(ranks[0], self.evaluator.cutoffs).get("ndcg@10", 0.0)
            self.log("ndcg@10", shown, prog_bar=split == "val", logger=False)
        return users, ranks

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with other data than those that the run has begun with.

        Raises:
            InputError: they have changed, or the checkpoint is of another stage or model.
        """
        super().on_load_checkpoint(checkpoint)
        if self._trainer is None:
            return
        interactions = self.trainer.datamodule.interactions  # type: ignore[attr-defined]
        begun_with = checkpoint["dataset"]
        if begun_with != interactions.fingerprint:
            raise InputError(
                f"The data of {interactions.name} have changed: this run has begun with {begun_with[:12]}, and now "
                f"they are {interactions.fingerprint[:12]}.\n{BRING_BACK}"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the weights were trained on, too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["dataset"] = self.trainer.datamodule.interactions.fingerprint  # type: ignore[attr-defined]
