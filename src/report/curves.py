"""What a run logged while it trained, from its ``metrics.csv``."""

from __future__ import annotations

import csv
from collections import defaultdict

import numpy as np

from src.launch.errors import InputError
from src.report.runs import Run

Curve = dict[int, float]
"""Value by optimiser step."""


def read_curves(run: Run) -> dict[str, Curve]:
    """Return the curve of every metric of a run; none where there is no ``metrics.csv``.

    ``train/layer_agreement`` is added, the mean over the layers read.

    Raises:
        InputError: the file cannot be read.
    """
    path = run.folder / "metrics.csv"
    if not path.exists():
        return {}
    curves: dict[str, Curve] = defaultdict(dict)
    layers: dict[int, list[float]] = defaultdict(list)
    with path.open(newline="") as stream:
        reader = csv.DictReader(stream)
        try:
            for row in reader:
                step, name, value = int(row["step"]), row["metric"], float(row["value"])
                curves[name][step] = value
                if name.startswith("train/layer_agreement_"):
                    layers[step].append(value)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}, line {reader.line_num}: needed are the columns step, epoch, metric and value with numbers; "
                f"got {error}.\nDelete the file to report without its training curve."
            ) from error
    if layers:
        curves["train/layer_agreement"] = {step: float(np.mean(values)) for step, values in layers.items()}
    return dict(curves)


def negatives_per_second(run: Run) -> float | None:
    """Return how many negatives the run learned from in a second of fitting, validation and preparations included.

    Rejected items of a preference method, answers without the true item of GRPO, self-hard negatives (tokens) of ILRec:
    the mean over the logged steps, times all steps. None where none were logged.
    """
    seconds = run.timings_s.get("fit")
    logged = read_curves(run).get("train/negatives") if seconds and run.steps else None
    return float(np.mean(list(logged.values()))) * run.steps / seconds if logged and run.steps and seconds else None
