"""What is logged and shown while a run goes on: metrics.csv, the progress bar, further logs."""

from __future__ import annotations

import csv
import io
import re
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

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


class ProgressBar(RichProgressBar):
    """Lightning's bar on one line of 120 columns: losses, negatives and the metric that decides, by short names."""

    def __init__(self) -> None:
        """Redraw five times a second; Lightning's hundred take time from training where there are few cores."""
        super().__init__(refresh_rate=5, theme=RichProgressBarTheme(metrics_format=".4g"))

    def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        """Return what stands beside the bar; everything else is in metrics.csv."""
        metrics = super().get_metrics(trainer, pl_module)
        shown = (name for name in metrics if re.match("train/(loss|negatives_per)|(?!train/)", name))
        return {re.sub("^train/(loss_)?|_per_position$", "", name): metrics[name] for name in shown}

    def configure_columns(self, trainer: Any) -> list[Any]:
        """Narrow the bar and leave the speed out, which follows from batches and time, to make room."""
        description, bar, batches, time, _ = super().configure_columns(trainer)
        bar.bar_width = 10
        return [description, bar, batches, time]


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
        if open_dashboard and (dashboard := open_dashboard(folder, **context)):
            logs.append(dashboard)
        yield logs
        exit_code = 0
    finally:
        for log in logs:
            if hasattr(log, "close"):
                log.close(exit_code)
