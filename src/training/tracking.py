"""What is logged and shown while a run goes on: metrics.csv, the progress bar, further logs."""

from __future__ import annotations

import csv
import io
import re
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import callbacks
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from src.launch.progress import Line
from src.launch.storage import write_atomic

COLUMNS = ("step", "epoch", "metric", "value")


class CsvLog(Logger):
    """``metrics.csv``, one row ``step,epoch,metric,value`` a figure, on disk as soon as logged."""

    def __init__(self, path: Path, done_steps: int = 0) -> None:
        """Begin the file, or go on with it.

        Args:
            path: The file.
            done_steps: Optimiser steps behind the checkpoint the run goes on from; later rows are dropped, as they will
                be logged again.
        """
        super().__init__()
        self._path = path
        kept = []
        if path.is_file():
            with path.open(newline="") as stream:
                # A kill may have cut the last row short.
                rows = [row for row in csv.reader(stream) if len(row) == len(COLUMNS) and row[0].isdigit()]
            kept = [row for row in rows if int(row[0]) < done_steps]
        write_atomic(path, _as_csv([COLUMNS, *kept]))

    @property
    def name(self) -> str:
        """The kind of log."""
        return "csv"

    @property
    def version(self) -> str:
        """Empty: there is one file a run."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row for each metric; ``epoch`` is a column of all of them."""
        epoch = int(metrics.get("epoch", 0))
        rows = [(step or 0, epoch, metric, value) for metric, value in metrics.items() if metric != "epoch"]
        with self._path.open("a", newline="") as stream:
            stream.write(_as_csv(rows))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the settings are in config.yaml."""


def _as_csv(rows: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def rows_since(path: Path, first: int | None) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield step and metrics of each row that was logged in ``metrics.csv`` from a step on; of all for None."""
    at: tuple[int, str] | None = None  # step and split, such as train, that were logged together
    metrics: dict[str, float] = {}
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream):
            step, split = int(row["step"]), row["metric"].partition("/")[0]
            if first is not None and step < first:
                continue
            if at and at != (step, split):
                yield at[0], metrics
                metrics = {}
            at = (step, split)
            metrics |= {row["metric"]: float(row["value"]), "epoch": int(row["epoch"])}
    if at:
        yield at[0], metrics


class ProgressBar(callbacks.ProgressBar):
    """One line a training: the epoch, counted from 1, how far all epochs are, the time they will still take, losses.

    The metric that decides stands behind the losses, by its short name; everything else is in metrics.csv. The time
    left is that of all epochs, validations included; patience may end them before.
    """

    _PER_S = 0.25  # seconds between two looks at the metrics, which a GPU is asked for

    def __init__(self, what: str = "Epoch") -> None:
        """Keep what an epoch is called."""
        super().__init__()
        self._what = what
        self._line: Line | None = None
        self._looked = 0.0
        self._enabled = True

    @property
    def is_enabled(self) -> bool:
        """Whether there is a line, as other parts of a training may ask."""
        return self._enabled

    def disable(self) -> None:
        """Show nothing, as on other processes than the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show the line."""
        self._enabled = True

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Say that it is about to begin."""
        self._begin("Starting the training", None)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin the line, where a resumed training goes on."""
        self._begin("Training", 1.0)
        if self._line:
            self._line.start_at(self._share(trainer, 0))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Count the epoch."""
        self._name(trainer, "")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Say how far the training is."""
        if self._line and time.monotonic() - self._looked >= self._PER_S:
            self._looked = time.monotonic()
            self._line.at(self._share(trainer, batch_idx + 1))
            self._line.notes = self._notes(trainer)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Say so, in training; alone, begin a line."""
        if not self._in_training(trainer):
            self._begin("Validation", 1.0)
        elif self._line:  # on_train_batch_end has passed some over
            self._line.at(self._share(trainer, trainer.fit_loop.batch_idx + 1))
        self._name(trainer, ", validation")

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Say how far the validation is."""
        self.has_dataloader_changed(dataloader_idx)
        done = (batch_idx + 1) / self.total_val_batches_current_dataloader
        if self._in_training(trainer):
            self._name(trainer, f", validation {done:.0%}")
        elif self._line:
            self._line.at(done)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Go on with the training's line; end one of its own."""
        self.reset_dataloader_idx_tracker()
        if self._in_training(trainer):
            self._name(trainer, "")
            if self._line:
                self._line.notes = self._notes(trainer)
        else:
            self._end()

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin the line of a test."""
        self._begin("Test", 1.0)

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Say how far the test is."""
        self.has_dataloader_changed(dataloader_idx)
        if self._line:
            self._line.at((batch_idx + 1) / self.total_test_batches_current_dataloader)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End the line."""
        self._end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """End the line where it is."""
        if self._line:
            self._line.__exit__(type(exception), exception)
            self._line = None

    def _begin(self, what: str, total: float | None) -> None:
        self._end()
        if self._enabled:
            self._line = Line(what, total)
            self._line.__enter__()

    def _end(self) -> None:
        if self._line:
            self._line.__exit__(None)
            self._line = None

    @staticmethod
    def _in_training(trainer: Any) -> bool:
        return bool(trainer.state.fn == TrainerFn.FITTING)

    def _name(self, trainer: Any, more: str) -> None:
        if self._line and self._in_training(trainer):
            many = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
            self._line.what = f"{self._what} {trainer.current_epoch + 1}{many}{more}"

    @staticmethod
    def _share(trainer: Any, batches: int) -> float:
        """Return the share of all epochs, or steps where they end before, that is done."""
        epochs, steps, of_epoch = trainer.max_epochs or -1, trainer.max_steps, trainer.num_training_batches
        done = (trainer.current_epoch + batches / of_epoch) / epochs if epochs > 0 and of_epoch else 0.0
        return max(done, trainer.global_step / steps if steps > 0 else 0.0)

    @staticmethod
    def _notes(trainer: Any) -> list[str]:
        """Return what stands behind the line: the loss, what is validated, the loss's parts."""
        metrics = trainer.progress_bar_metrics
        names = sorted(metrics, key=lambda name: (name != "train/loss", name.startswith("train/")))
        kept = (name for name in names if re.match("train/(loss|negatives_per)|(?!train/)", name))
        return [f"{re.sub('^(train|val)/(loss_)?|_per_position$', '', n)} {float(metrics[n]):.4g}" for n in kept]


@contextmanager
def open_logs(
    folder: Path, open_dashboard: Callable[..., Logger] | None, *, done_steps: int, **context: Any
) -> Iterator[list[Logger]]:
    """Open metrics.csv and the dashboard, if any, and close it with the exit code of the block.

    Closing matters: jobs of one sweep share a process, and Weights & Biases would log them all into the first's run.

    Args:
        folder: The run folder.
        open_dashboard: ``wandb_logger`` with its settings, or None.
        done_steps: Optimiser steps behind the checkpoint the run goes on from.
        context: Further arguments of ``wandb_logger``.
    """
    logs: list[Logger] = [CsvLog(folder / "metrics.csv", done_steps)]
    exit_code = 1
    try:
        with Line("Opening the logs"):
            dashboard = open_dashboard(folder, **context) if open_dashboard else None
        logs += [dashboard] if dashboard else []
        yield logs
        exit_code = 0
    finally:
        with Line("Closing the logs"):
            for log in logs:
                if hasattr(log, "close"):
                    log.close(exit_code)
