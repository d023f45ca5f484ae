"""What every stage that learns to predict the next item shares: ranking, logging, optimiser and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup

from src.errors import InputError
from src.metrics.ranking import ranking_metrics
from src.shards import load_weights

_WHAT_TO_TYPE = "Type:  stage.init_from=outputs/<recipe>/<run>/checkpoints/best.ckpt"


class NextItemStage(lightning.LightningModule):
    """A stage whose subclass brings ``training_step`` and the hyperparameters.

    These must hold ``seed``, ``learning_rate``, ``weight_decay`` and ``warmup_ratio``.

    Args:
        model: The network; its ``spec`` says in plain values what it is.
        evaluator: Ranks the target of every validation and test user: ``start(interactions)``, ``rank(model, batch)``,
            ``exclude_history`` and ``cutoffs``.
    """

    def __init__(self, model: Any, evaluator: Any) -> None:
        super().__init__()
        self.model = model
        self.evaluator = evaluator
        self.kind = type(self).__name__  # splitting it over processes makes a subclass of another name
        self.strict_loading = False  # frozen weights are not in the checkpoint; `on_load_checkpoint` checks the rest
        self.test_ranks: dict[str, Any] | None = None
        self._found: list[tuple[np.ndarray, np.ndarray]] = []

    def configure_model(self) -> None:
        """Refuse to be split over processes.

        Raises:
            InputError: the trainer asks for it.
        """
        if self.device_mesh is not None:
            raise InputError(
                f"trainer.strategy=sharded: {self.kind} cannot be split over processes.\nType:  trainer.strategy=ddp"
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Fix dropout by (seed, step), so that a resumed run draws what the uninterrupted one draws."""
        torch.manual_seed(self.hparams["seed"] * 1_000_003 + self.global_step * 1_009 + self.global_rank)

    def _share_of_positions(self, count: int) -> Tensor | float:
        """Weigh a process by its label positions, so that the averaged gradient is that of the whole batch."""
        if self.trainer.world_size == 1:
            return 1.0
        mine = torch.tensor(float(count), device=self.device)
        everyones: Tensor = self.all_gather(mine)  # type: ignore[assignment]
        return mine / everyones.mean()

    def _is_log_step(self) -> bool:
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return (self.global_step + 1) % every == 0

    def _log_training(self, values: Mapping[str, Tensor]) -> None:
        if self._is_log_step():
            shown = {f"train/{name}": value.detach() for name, value in values.items()}
            self.log_dict(shown, prog_bar=True, batch_size=1)

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

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine decay over all steps of the run."""
        settings = self.hparams
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trainable if p.ndim > 1], "weight_decay": settings["weight_decay"]},
            {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=settings["learning_rate"])
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = get_cosine_schedule_with_warmup(optimizer, int(settings["warmup_ratio"] * steps), steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _trained_names(self) -> Iterator[str]:
        return (name for name, parameter in self.named_parameters() if parameter.requires_grad)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained weights only, and say what they belong to."""
        trained = set(self._trained_names())
        checkpoint["state_dict"] = {n: w for n, w in checkpoint["state_dict"].items() if n in trained}
        checkpoint["stage"] = self.kind
        checkpoint["model"] = self.model.spec
        checkpoint["dataset"] = self.trainer.datamodule.interactions.fingerprint  # type: ignore[attr-defined]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another stage or model.

        Raises:
            InputError: the checkpoint belongs to another stage or model, or misses weights that are trained here.
        """
        self._check(checkpoint, "the checkpoint")

    def _check(self, checkpoint: Mapping[str, Any], source: str, needed: str | None = None) -> None:
        stage, model = checkpoint.get("stage"), checkpoint.get("model")
        if stage != (needed or self.kind):
            wanted = f"I need {needed!r}" if needed else f"this is {self.kind!r}"
            raise InputError(f"{source} holds the stage {stage!r}, but {wanted}.\n{_WHAT_TO_TYPE}")
        if model != self.model.spec:
            raise InputError(
                f"{source} holds another model:\n  there {model}\n  here  {self.model.spec}\n"
                "Compose the same model and tokenizer as that run's config.yaml, or train anew."
            )
        missing = [name for name in self._trained_names() if name not in checkpoint["state_dict"]]
        if missing:
            raise InputError(
                f"{source} misses {len(missing)} trained weights, the first is {missing[0]}.\n{_WHAT_TO_TYPE}"
            )

    def _initialise(self, path: Path, needed: str | None = None) -> None:
        """Take the weights of a checkpoint of this stage, or of the one that is needed instead."""
        try:
            checkpoint = load_weights(path)
        except Exception as error:
            reason = str(error).partition("\n")[0]  # torch goes on with advice to trust the file
            raise InputError(
                f"stage.init_from={str(path)!r} is not a checkpoint that can be read: {reason}\n{_WHAT_TO_TYPE}"
            ) from error
        if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
            raise InputError(f"stage.init_from={str(path)!r} is not a checkpoint of this project.\n{_WHAT_TO_TYPE}")
        self._check(checkpoint, f"stage.init_from={str(path)!r}", needed)
        self.load_state_dict(checkpoint["state_dict"], strict=False)
