"""Fine-tuning a language model as a recommender: supervised (SFT) and ILRec stage 1 (CPO)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's usual name
from transformers import get_cosine_schedule_with_warmup

from src.errors import InputError
from src.evaluator.ranking import RankingEvaluator
from src.losses.cross_layer import Form, Space, negative_weights, preference_loss, self_hard_negatives
from src.metrics.ranking import ranking_metrics
from src.model.causal_lm import CausalLM, last_blocks


class FineTuning(lightning.LightningModule):
    """Next-item prediction with a language model, with or without self-hard negatives.

    ``strength=0`` is supervised fine-tuning: intermediate layers are then not even read.

    Args:
        model: The language model.
        evaluator: Ranks the target of every validation and test user.
        seed: Seed of dropout; with the step number it fixes every random number of a step.
        learning_rate: Peak learning rate of AdamW, dimensionless.
        weight_decay: Of weight matrices; vectors and embeddings of one row are not decayed.
        warmup_ratio: Share of the steps in which the learning rate rises, 0 to 1; then it falls along a cosine.
        strength: Size of the penalty on negatives, see ``preference_loss``.
        form: How the penalty enters, see ``preference_loss``.
        ratio: Threshold of the negatives, see ``self_hard_negatives``.
        space: Where the threshold is compared, see ``self_hard_negatives``.
        max_negatives: Most negatives of a position, see ``self_hard_negatives``.
        layers: How many blocks before the final one vote.
        ensemble: ``logits`` averages the layers' logits, ``probabilities`` their probabilities.
        init_from: Checkpoint of this module to take the weights from.
    """

    def __init__(
        self,
        *,
        model: CausalLM,
        evaluator: RankingEvaluator,
        seed: int,
        learning_rate: float,
        weight_decay: float,
        warmup_ratio: float,
        strength: float,
        form: Form,
        ratio: float,
        space: Space,
        max_negatives: int | None,
        layers: int,
        ensemble: str,
        init_from: str | None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["model", "evaluator"])
        if ensemble not in ("logits", "probabilities"):
            raise InputError(f"stage.ensemble={ensemble!r}: type stage.ensemble=logits or stage.ensemble=probabilities")
        self.model = model
        self.evaluator = evaluator
        self.blocks = last_blocks(model, layers) if strength > 0 else []
        self.strict_loading = False  # frozen weights are not in the checkpoint; `on_load_checkpoint` checks the rest
        self.test_ranks: dict[str, Any] | None = None
        self._found: list[tuple[np.ndarray, np.ndarray]] = []
        if init_from is not None:
            self._initialise(Path(init_from))

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch; see ``losses/cross_layer.py``."""
        settings = self.hparams
        states = self.model.row_states(batch["input_ids"], batch["attention_mask"], batch["rows"], self.blocks)
        logits, target = self.model.head(states.final), batch["target"]
        if not self.blocks:
            loss = F.cross_entropy(logits, target)
            self._log_training({"loss": loss})
            return loss * self._share_of_positions(len(target))
        ensemble = self._ensemble_logits(states.intermediate)
        negatives = self_hard_negatives(
            ensemble,
            logits,
            target,
            ratio=settings["ratio"],
            space=settings["space"],
            max_negatives=settings["max_negatives"],
        )
        weights = negative_weights(ensemble, negatives)
        loss = preference_loss(logits, target, negatives, weights, strength=settings["strength"], form=settings["form"])
        if self._is_log_step():
            with torch.no_grad():
                probability = logits.softmax(1)
                count = negatives.sum(1).float()
                parts = {
                    "loss": loss,
                    "loss_cross_entropy": F.cross_entropy(logits, target),
                    "negatives_per_position": count.mean(),
                    "positions_without_negatives": (count == 0).float().mean(),
                    "negative_mass": (probability * negatives).sum(1).mean(),
                    "negative_mass_intermediate": (ensemble.softmax(1) * negatives).sum(1).mean(),
                }
            self._log_training(parts)
        return loss * self._share_of_positions(len(target))

    @torch.no_grad()
    def _ensemble_logits(self, states: Tensor) -> Tensor:
        if self.hparams["ensemble"] == "probabilities":
            return self.model.head(states).softmax(-1).mean(0).log()
        # The head is linear: one product with the mean state equals the mean of the layers' logits.
        return self.model.head(states.mean(0))

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

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Rank the validation targets of one batch of users."""
        self._found.append((batch["user"].cpu().numpy(), self.evaluator.rank(self.model, batch)))

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Rank the test targets of one batch of users."""
        self.validation_step(batch, batch_idx)

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
            "rank": ranks,
        }

    def _log_ranking(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        users = np.concatenate([users for users, _ in self._found] or [np.empty(0, dtype=np.int64)])
        ranks = np.concatenate([ranks for _, ranks in self._found] or [np.empty(0)])
        self._found = []
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, (users, ranks))
            users, ranks = (np.concatenate(parts) for parts in zip(*gathered, strict=True))
        order = np.argsort(users)
        users, ranks = users[order], ranks[order]
        if not self.trainer.sanity_checking:
            metrics = ranking_metrics(ranks, self.evaluator.cutoffs)
            self.log_dict({f"{split}/{name}": value for name, value in metrics.items()})
            self.log(f"{split}/users", float(len(users)))
            self.log("ndcg@10", metrics.get("ndcg@10", 0.0), prog_bar=split == "val", logger=False)
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
        checkpoint["stage"] = type(self).__name__
        checkpoint["model"] = self.model.spec

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another stage or model.

        Raises:
            InputError: the checkpoint belongs to another stage or model, or misses weights that are trained here.
        """
        self._check(checkpoint, "the checkpoint")

    def _check(self, checkpoint: Mapping[str, Any], source: str) -> None:
        stage, model = checkpoint.get("stage"), checkpoint.get("model")
        if stage != type(self).__name__:
            raise InputError(f"{source} holds the stage {stage!r}, but this is {type(self).__name__!r}.")
        if model != self.model.spec:
            raise InputError(
                f"{source} holds another model:\n  there {model}\n  here  {self.model.spec}\n"
                "Compose the same model and tokenizer as that run's config.yaml, or train anew."
            )
        missing = [name for name in self._trained_names() if name not in checkpoint["state_dict"]]
        if missing:
            raise InputError(f"{source} misses {len(missing)} trained weights, the first is {missing[0]}.")

    def _initialise(self, path: Path) -> None:
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise InputError(f"stage.init_from={str(path)!r} is not a checkpoint that can be read: {error}") from error
        if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
            raise InputError(f"stage.init_from={str(path)!r} is not a checkpoint of this project.")
        self._check(checkpoint, f"stage.init_from={str(path)!r}")
        self.load_state_dict(checkpoint["state_dict"], strict=False)
