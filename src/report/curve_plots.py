"""What runs logged over their steps: training curves, and what ILRec claims about the layers."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from src.report.curves import Curve, read_curves
from src.report.plots import COLOURS, LINE_STYLES, STYLE
from src.report.runs import Cell

MOST_POINTS = 60  # of a curve; the values between two of them are averaged
LAYER_CURVES = {
    "train/layer_agreement": "share of positions whose first choice\nis the final layer's (mean of the layers)",
    "train/layer_divergence": "divergence from the final layer, nats",
    "train/negatives_per_position": "negatives a position",
    "train/negative_margin": "logit of the true token minus that of\nthe hardest negative (lower is harder)",
}
"""What ILRec claims, by metric, and what it is."""


AGENT_CURVES = {
    "train/loss": "training loss",
    "val/token_accuracy": "share of tokens right, validation",
    "train/reward": "reward of an episode",
    "train/em": "exact match in training",
    "val/em": "exact match, validation",
    "train/valid_calls": "share of tool calls that are valid",
    "train/calls": "valid calls of an episode",
}
"""What an agent's model logs while it learns, by metric, and what it is."""


def training_curves(cells: Sequence[Cell], metric: str) -> Figure | None:
    """Draw training loss and the validation metric over the optimiser steps, see ``curves``."""
    name = metric.replace("test/", "val/")
    return curves(cells, {"train/loss": "loss, nats", name: name})


def curves(cells: Sequence[Cell], names: dict[str, str]) -> Figure | None:
    """Draw what was logged over the optimiser steps, one panel a metric.

    Args:
        cells: Each in a colour of its own: the mean over its seeds as a line, their range as a band.
        names: What is drawn, and what it is called at its axis.

    Returns:
        The figure, or None where no run logged any of it.

    Raises:
        InputError: a ``metrics.csv`` cannot be read.
    """
    distinct = {cell.runs[0].folder: cell for cell in reversed(cells)}  # a run may count under two protocols
    read = [(cell, [read_curves(run) for run in cell.runs]) for cell in reversed(distinct.values())]
    found = [(cell, runs) for cell, runs in read if any(name in run for run in runs for name in names)]
    if not found:
        return None
    drawn = [name for name in names if any(name in run for _, runs in found for run in runs)]
    columns = min(2, len(drawn))
    rows = -(-len(drawn) // columns)
    legend_columns = 2 if max(len(cell.method) for cell, _ in found) <= 45 else 1
    with mpl.rc_context(STYLE):
        size = (4.6 * columns, 3.1 * rows + 0.2 * -(-len(found) // legend_columns))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flat
        lines = {}
        for axes, name in zip(panels, drawn, strict=False):
            for index, (_, runs) in enumerate(found):
                style = LINE_STYLES[index // len(COLOURS) % len(LINE_STYLES)]
                seeds = [run[name] for run in runs if name in run]
                if seeds:
                    lines[index] = _draw_seeds(axes, seeds, COLOURS[index % len(COLOURS)], style)
            axes.set_xlabel("optimiser step")
            axes.set_ylabel(names[name])
            axes.grid()
        for axes in list(figure.axes)[len(drawn) :]:
            axes.remove()
        labels = [found[index][0].method for index in lines]
        figure.legend(lines.values(), labels, loc="outside lower center", ncols=legend_columns)
    return figure


def _draw_seeds(axes: Axes, seeds: Sequence[Curve], colour: str, style: str) -> Line2D:
    """Draw mean and range at the steps that all seeds have, and return the line of the mean."""
    shared = sorted(set.intersection(*(set(curve) for curve in seeds)))
    values = np.array([[curve[step] for step in shared] for curve in seeds])
    parts = np.array_split(np.arange(len(shared)), min(len(shared), MOST_POINTS)) if shared else []
    steps = [np.mean(np.array(shared)[part]) for part in parts]
    binned = np.array([values[:, part].mean(1) for part in parts]).reshape(-1, len(seeds))
    if len(seeds) > 1:
        axes.fill_between(steps, binned.min(1), binned.max(1), color=colour, alpha=0.15, linewidth=0)
    marker = "o" if len(shared) <= 30 else None
    (line,) = axes.plot(steps, binned.mean(1), style, color=colour, linewidth=1.6, marker=marker, markersize=3)
    return line
