"""What every stage that learns to predict the next item shares: ranking and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor

from src.launch.errors import InputError
from src.metrics.ranking import ranking_metrics
from src.training.stage import BRING_BACK, Optimisation, TrainingStage

Search = dict[str, Any]
"""How targets are ranked: arguments of the evaluator's ``rank``."""

CHOSEN = {"guidance": ("_guided", "weight"), "history_penalty": ("_penalised", "penalty")}
"""Settings of an evaluator with values to try, each with the ending of what it measures, and what a value is called."""


class NextItemStage(TrainingStage):
    """A training stage that ranks.

    Args:
        model: The network; its ``spec`` says in plain values what it is.
        evaluator: Ranks the target of every validation and test user: ``start(interactions)``, ``rank(model, batch)``,
            ``exclude_history`` and ``cutoffs``; where it can, ``guidance`` and ``history_penalty``, values to rank
            with, too.
        settings: Of the stage.
    """

    def __init__(self, model: Any, evaluator: Any, settings: Optimisation) -> None:
        super().__init__(model, settings)
        self.evaluator = evaluator
        self.test_ranks: dict[str, Any] = {}
        self._also_tested: dict[str, Search] = {}
        self._compared: dict[str, Search] = {}
        self._searches: dict[str, Search] = {}
        self._found: list[tuple[np.ndarray, np.ndarray]] = []

    @property
    def _histories(self) -> dict[str, bool]:
        """Whether the test leaves out the history, by the ending of what it then measures."""
        exclude = self.evaluator.exclude_history
        return {"": False, "_excluded": True} if exclude == "both" else {"": exclude}

    @property
    def decisions(self) -> dict[str, Any]:
        """What the settings leave to the data and the stage has decided by now, for the run's record."""
        return {}

    def on_validation_epoch_start(self) -> None:
        """Begin an evaluation."""
        self._searches = self._to_test() if self.trainer.testing else self._to_validate()
        self.evaluator.start(self.trainer.datamodule.interactions)  # type: ignore[attr-defined]

    def on_test_epoch_start(self) -> None:
        """Begin an evaluation."""
        self.on_validation_epoch_start()

    def _to_validate(self) -> dict[str, Search]:
        return self._compared or {"": {"exclude_history": self._histories[""]}}

    def _to_test(self) -> dict[str, Search]:
        searches: dict[str, Search] = {ending: {"exclude_history": out} for ending, out in self._histories.items()}
        return searches | self._also_tested

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Rank the validation targets of one batch of users."""
        ranks = [self.evaluator.rank(self.model, batch, **search) for search in self._searches.values()]
        self._found.append((batch["user"].cpu().numpy(), np.stack(ranks)))

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Rank the test targets of one batch of users."""
        self.validation_step(batch, batch_idx)

    def choose(
        self, trainer: lightning.Trainer, data: Any, metric: str, checkpoint: Path | None
    ) -> dict[str, dict[str, Any]]:
        """Choose what the test ranks with, too, for each treatment of the history the value that validates best.

        Args:
            trainer: What validates.
            data: The data module.
            metric: What decides, such as ``ndcg@10``; of equals the smallest value is taken.
            checkpoint: With the weights of the model; None for those that the stage has.

        Returns:
            By setting, see ``CHOSEN``, what the test measures with it, each with the value, and where there were
            several, the number of ``users`` and what each measured.
        """
        tried = {name: values for name in CHOSEN if (values := getattr(self.evaluator, name, None))}
        offered = {
            (name, ending): {
                f"{CHOSEN[name][0]}{ending}_{value:g}": {"exclude_history": out, name: value} for value in values
            }
            for name, values in tried.items()
            for ending, out in self._histories.items()
            if not (out and name == "history_penalty")
        }
        self._compared = {key: search for each in offered.values() if len(each) > 1 for key, search in each.items()}
        measured: dict[str, float] = {}
        if self._compared:
            few = data.of_users(getattr(self.evaluator, "guidance_users", None))
            trainer.validate(self, datamodule=few, ckpt_path=checkpoint, verbose=False)
            measured = {name: value.item() for name, value in trainer.callback_metrics.items()}
            self._compared = {}
        report: dict[str, dict[str, Any]] = {name: {} for name in tried}
        for (name, ending), searches in offered.items():
            mark, called = CHOSEN[name]
            values = [measured.get(f"val{key}/{metric}", 0.0) for key in searches]
            search = list(searches.values())[int(np.argmax(values))]
            self._also_tested[f"{mark}{ending}"] = search
            report[name][f"test{mark}{ending}"] = said = {called: search[name]}
            if len(searches) > 1:
                each = {f"{one[name]:g}": value for one, value in zip(searches.values(), values, strict=True)}
                said |= {"users": int(measured["val/users"]), f"val/{metric}": each}
        return report

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
            **{f"rank{ending}": row for ending, row in zip(self._searches, ranks, strict=True)},
        }

    def _log_ranking(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        users = np.concatenate([users for users, _ in self._found] or [np.empty(0, dtype=np.int64)])
        ranks = np.concatenate([ranks for _, ranks in self._found] or [np.empty((len(self._searches), 0))], axis=1)
        self._found = []
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, (users, ranks))
            users, ranks = (np.concatenate(parts, axis=-1) for parts in zip(*gathered, strict=True))
        order = np.argsort(users)
        users, ranks = users[order], ranks[:, order]
        if not self.trainer.sanity_checking:
            for ending, row in zip(self._searches, ranks, strict=True):
                metrics = ranking_metrics(row, self.evaluator.cutoffs)
                self.log_dict({f"{split}{ending}/{name}": value for name, value in metrics.items()})
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
