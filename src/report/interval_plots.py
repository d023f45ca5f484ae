"""Every method's metric and its difference from the baseline, with their intervals."""

from __future__ import annotations

import textwrap

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.metrics.stats import Interval
from src.report.comparison import Comparison, Section, Summary
from src.report.plots import COLOURS, STYLE
from src.report.runs import Cell, as_typed


def metric_intervals(section: Section) -> Figure:
    """Draw the section's metric of every cell, and its difference from the baseline, with their intervals.

    Returns:
        The figure. A row of panels is a protocol; on the left a small mark is a seed's value and the line the baseline.
    """
    compared = {one.cell.label: one for one in section.comparisons}
    baseline = next((one.baseline.method for one in section.comparisons if one.baseline), "the baseline")
    sizes = [sum(_lines(summary) for summary in group) + 1.5 for group in section.summaries]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 0.6 + sum(0.35 + 0.2 * size for size in sizes)), layout="constrained")
        grid = figure.subplots(len(sizes), 2, sharey="row", squeeze=False, height_ratios=sizes)
        for (left, right), group in zip(grid, section.summaries, strict=True):
            for y, summary in enumerate(group):
                _metric(left, y, summary, section.metric)
                if one := compared.get(summary.cell.label):
                    _difference(right, y, one, left, section)
            left.set_yticks(range(len(group)), [_wrapped(summary.cell.method) for summary in group])
            left.set_ylim(len(group) - 0.4, -0.6)  # downwards
            left.set_title(f"{section.metric}\n{_telling_protocol(section, group[0].cell)}")
            right.set_title(f"paired difference from {baseline}\n")
            for axes in (left, right):
                axes.locator_params(axis="x", nbins=5)  # four decimals are wide, and a sign wider
                axes.grid(axis="x")
                axes.tick_params(axis="y", length=0)
        figure.supxlabel("Dot: mean over seeds, tick: a seed. Bar: 95% bootstrap over users and seeds.", fontsize=9)
    return figure


def _metric(axes: Axes, y: int, summary: Summary, metric: str) -> None:
    seeds = [run.metrics[metric] for run in summary.cell.runs]
    axes.plot(seeds, [y] * len(seeds), "|", color="#999999", markersize=9)
    _interval(axes, y, summary.over_units.get(metric) or summary.over_seeds[metric], COLOURS[0])


def _difference(axes: Axes, y: int, one: Comparison, metric_axes: Axes, section: Section) -> None:
    """Draw a difference, the line of no difference, and the baseline's value among the metrics of its protocol."""
    if one.result is None or one.baseline is None:
        return
    _interval(axes, y, one.result.difference, COLOURS[0 if one.result.difference.low <= 0 else 2])
    baseline = next(summary for summary in section.flat if summary.cell is one.baseline)
    lines = [(axes, 0.0)]
    if one.baseline.protocol == one.cell.protocol:  # its mean over all users says nothing beside that of a part
        lines.append((metric_axes, baseline.over_seeds[section.metric].mean))
    for line, value in lines:
        line.axvline(value, color="#555555", linewidth=0.8, linestyle="--", zorder=0)


def _interval(axes: Axes, y: int, interval: Interval, colour: str) -> None:
    mean, low, high = interval.mean, interval.low, interval.high
    ends = [[mean - low], [high - mean]] if np.isfinite([low, high]).all() else None
    axes.errorbar([mean], [y], xerr=ends, fmt="o", color=colour, markersize=4.5, capsize=2.5, linewidth=1.2)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 40, break_on_hyphens=False)


def _lines(summary: Summary) -> int:
    return max(1, _wrapped(summary.cell.method).count("\n") + 1)


def _telling_protocol(section: Section, cell: Cell) -> str:
    """Write the settings in which this cell's protocol differs from others of the section."""
    others = [group[0].cell.protocol for group in section.summaries]
    keys = [key for key in cell.protocol if any(other.get(key) != cell.protocol[key] for other in others)]
    return as_typed({key: cell.protocol[key] for key in keys})
