"""Checkpoints that are whole or absent, and a run that stops and resumes by them."""

from __future__ import annotations

import errno
import math
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from src.launch.errors import InputError, PrunedError, resume_command
from src.launch.search import RunningTrial
from src.launch.storage import write_atomic
from src.launch.values import Count, did_you_mean


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint files that a kill at any moment leaves whole, and that hold nothing but tensors and plain values."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            InputError: the folder is full or cannot be written.
        """
        path = Path(path)
        try:
            write_atomic(path, lambda stream: torch.save(checkpoint, stream))
        except (OSError, RuntimeError) as error:
            # torch.save ends in an error of its own when a write fails.
            reason = error if isinstance(error, OSError) else error.__context__
            if not isinstance(reason, OSError):
                raise
            raise cannot_write(path, reason) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint; always with ``weights_only``.

        Raises:
            InputError: it is missing or damaged.
        """
        try:
            return dict(torch.load(path, map_location=map_location, weights_only=True))
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such checkpoint.") from error
        except Exception as error:  # torch.load answers damage with errors of a dozen types
            raise InputError(
                f"{path} is damaged or not a checkpoint: {type(error).__name__}: {str(error).partition(chr(10))[0]}\n"
                "Delete it; a run resumed without last.ckpt starts over."
            ) from error


def cannot_write(path: Path, reason: OSError) -> InputError:
    """Return the error for a checkpoint that finds no room or no folder."""
    mend = "Free some room there" if reason.errno in (errno.ENOSPC, errno.EDQUOT) else "Mend that"
    return InputError(
        f"Cannot write {path.name} into {path.parent}: {reason.strerror or reason}.\n"
        f"{mend}, then go on:  {resume_command(path.parent.parent)}"
    )


class Checkpoints(Checkpoint):
    """Keep the best weights and the last state, and stop when the best is long past.

    One callback does all three so that ``last.ckpt``, written last, always knows the best score and the patience left
    as of its own validation: a run killed at any moment goes on exactly as it would have. It also keeps the place in
    the training data, which Lightning restores within an epoch only; the training batches must have ``state_dict`` and
    ``load_state_dict`` for that.
    """

    def __init__(
        self, folder: Path, *, monitor: str, patience: Count | None = None, every_steps: Count | None = None
    ) -> None:
        """Store the settings.

        Args:
            folder: Where ``best.ckpt`` and ``last.ckpt`` are written.
            monitor: Logged metric; the higher the better.
            patience: Validations without a new best before training stops; None never stops.
            every_steps: Optimiser steps between writes of ``last.ckpt`` within an epoch; None only at its end.
        """
        self.folder = folder
        self.monitor = monitor
        self.patience = math.inf if patience is None else patience
        self.every_steps = every_steps
        self.best_score: float | None = None
        self.waited = 0
        self.fit_seconds = 0.0
        self._resumed_at = 0.0
        self._batches: Any = None
        self._position: dict[str, Any] | None = None

    @property
    def last(self) -> Path:
        """The state to go on from."""
        return self.folder / "last.ckpt"

    @property
    def selected(self) -> Path | None:
        """The weights to test: the best, the last where nothing was validated, or None where nothing was trained."""
        if self.best_score is not None:
            return self.folder / "best.ckpt"
        return self.last if self.last.is_file() else None

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Agree on the folder of the first process."""
        self.folder = trainer.strategy.broadcast(self.folder)

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stay stopped when the state just loaded had run out of patience."""
        self._resumed_at = time.monotonic()
        trainer.should_stop = self.waited >= self.patience

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Find the place in the training data."""
        self._batches = trainer.train_dataloader
        if self._position is not None:
            self._batches.load_state_dict(self._position)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep the weights if they are the best so far.

        Raises:
            InputError: what decides is not measured.
        """
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if self.monitor not in trainer.callback_metrics:
            raise InputError(
                f"checkpointing.monitor={self.monitor}: nothing of that name is measured in validation"
                f"{did_you_mean(self.monitor, [name for name in trainer.callback_metrics if name.startswith('val')])}"
            )
        score = float(trainer.strategy.broadcast(trainer.callback_metrics[self.monitor].item()))
        if self.best_score is None or score > self.best_score:
            self.best_score, self.waited = score, 0
            trainer.save_checkpoint(self.folder / "best.ckpt")
        else:
            self.waited += 1
            trainer.should_stop = trainer.should_stop or self.waited >= self.patience

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write the state between two optimiser steps of a long epoch."""
        whole_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.every_steps and whole_step and trainer.global_step % self.every_steps == 0:
            trainer.save_checkpoint(self.last)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the state after the epoch's validation."""
        trainer.save_checkpoint(self.last)

    def state_dict(self) -> dict[str, Any]:
        """Return what ``last.ckpt`` knows of the run, and the seconds of training behind it."""
        seconds = self.fit_seconds + time.monotonic() - self._resumed_at
        return {
            "best_score": self.best_score,
            "waited": self.waited,
            "fit_seconds": seconds,
            "position": self._batches.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state."""
        self.best_score, self.waited = state_dict["best_score"], state_dict["waited"]
        self.fit_seconds, self._position = state_dict["fit_seconds"], state_dict["position"]

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop the clock."""
        self.fit_seconds += time.monotonic() - self._resumed_at


class Pruning(lightning.Callback):
    """Tell a search how its trial does; stands behind ``Checkpoints``, which has kept the weights by then."""

    def __init__(self, trial: RunningTrial, metric: str) -> None:
        """Store the trial, and the metric that the search goes by; one of the test alone ends no trial early."""
        self.trial, self.metric = trial, metric

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Report the metric.

        Raises:
            PrunedError: the trial is to end.
        """
        if trainer.sanity_checking or self.metric not in trainer.callback_metrics:
            return
        reason = None
        if trainer.is_global_zero:
            try:
                self.trial.report(trainer.callback_metrics[self.metric].item(), trainer.current_epoch)
            except PrunedError as error:
                reason = str(error)
        if reason := trainer.strategy.broadcast(reason):
            raise PrunedError(reason)
