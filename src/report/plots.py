"""The figures: how they look, how they are saved, and what is drawn of metrics, differences and logged curves."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from src.launch.storage import write_atomic
from src.metrics.stats import Interval
from src.report.comparison import Comparison, Section, Summary
from src.report.runs import Cell, Curve, as_typed
from src.report.tables import interval_kind, shown_interval

# Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow (too faint on white).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
LINE_STYLES = ("-", "--", ":", "-.")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    # Element names in an SVG come from this salt: the same runs give the same bytes.
    "svg.hashsalt": "report",
}
_WHISKER = "Whisker: 95% bootstrap interval over questions, and over runs if there are several"
_BAND = "Line: mean over seeds. Band: from the lowest seed to the highest"
MOST_POINTS = 60  # of a curve; the values between two of them are averaged


def save(figure: Figure, stem: Path) -> None:
    """Write a figure as ``stem.png`` and ``stem.svg``, without dates, so that equal figures are equal files."""
    with mpl.rc_context(STYLE):
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            content = io.BytesIO()
            figure.savefig(content, format=suffix[1:], dpi=160, metadata=metadata)
            write_atomic(stem.with_suffix(suffix), content.getvalue())


def metric_intervals(section: Section) -> Figure:
    """Draw the section's metric of every cell, and its difference from the baseline, with their intervals.

    Returns:
        The figure. A row of panels is a protocol; on the left a small mark is a seed's value and the line the baseline.
    """
    compared = {comparison.cell.label: comparison for comparison in section.comparisons}
    baselines = [comparison.baseline.method for comparison in section.comparisons if comparison.baseline]
    labels = [[_wrapped(summary.cell.method, 40) for summary in group] for group in section.groups]
    sizes = [sum(label.count("\n") + 1 for label in group) + 1.5 for group in labels]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 0.6 + sum(0.35 + 0.2 * size for size in sizes)), layout="constrained")
        grid = figure.subplots(len(sizes), 2, sharey="row", squeeze=False, height_ratios=sizes)
        for (left, right), group, texts in zip(grid, section.groups, labels, strict=True):
            for y, summary in enumerate(group):
                seeds = [run.metrics[section.metric] for run in summary.cell.runs]
                left.plot(seeds, [y] * len(seeds), "|", color="#999999", markersize=9)
                _interval(left, y, shown_interval(summary, section.metric), COLOURS[0])
                if comparison := compared.get(summary.cell.label):
                    _difference(right, y, comparison, left, section)
            left.set_yticks(range(len(group)), texts)
            left.set_ylim(len(group) - 0.4, -0.6)  # downwards
            left.set_title(f"{section.metric}\n{_telling_protocol(section, group[0].cell)}")
            right.set_title(f"paired difference from {(baselines or ['the baseline'])[0]}\n")
            for axes in (left, right):
                axes.locator_params(axis="x", nbins=5)  # four decimals are wide, and a sign wider
                axes.grid(axis="x")
                axes.tick_params(axis="y", length=0)
        figure.supxlabel(
            f"Left, as in the table: mean over seeds, tick: a seed, bar: {interval_kind(section)}.\n"
            f"Right: 95% bootstrap over {section.wing.unit} and seeds of the difference.",
            fontsize=9,
        )
    return figure


def _difference(axes: Axes, y: int, comparison: Comparison, metric_axes: Axes, section: Section) -> None:
    """Draw a difference, the line of no difference, and the baseline's value among the metrics of its protocol."""
    if comparison.result is None or comparison.baseline is None:
        return
    difference = comparison.result.difference
    _interval(axes, y, difference, COLOURS[0 if difference.low <= 0 else 2])
    baseline = next(summary for summary in section.summaries if summary.cell is comparison.baseline)
    lines = [(axes, 0.0)]
    if comparison.baseline.protocol == comparison.cell.protocol:  # its mean over all says nothing beside that of a part
        lines.append((metric_axes, baseline.over_seeds[section.metric].mean))
    for line, value in lines:
        line.axvline(value, color="#555555", linewidth=0.8, linestyle="--", zorder=0)


def _interval(axes: Axes, y: int, interval: Interval, colour: str) -> None:
    ends = _whiskers([interval]) if np.isfinite([interval.low, interval.high]).all() else None
    axes.errorbar([interval.mean], [y], xerr=ends, fmt="o", color=colour, markersize=4.5, capsize=2.5, linewidth=1.2)


def _telling_protocol(section: Section, cell: Cell) -> str:
    """Write the settings in which this cell's protocol differs from others of the section."""
    others = [group[0].cell.protocol for group in section.groups]
    keys = [key for key in cell.protocol if any(other.get(key) != cell.protocol[key] for other in others)]
    return as_typed({key: cell.protocol[key] for key in keys})


def metric_bars(section: Section, metrics: Sequence[str]) -> Figure:
    """Draw one panel a metric and one bar a cell, with a gap between protocols.

    Returns:
        The figure. Whiskers are the 95% bootstrap intervals over users (or questions) and seeds, where there are any.
    """
    summaries, columns = section.summaries, -(-len(metrics) // 2)
    gaps = [gap for gap, group in enumerate(section.groups) for _ in group]
    places = [at + 0.6 * gap for at, gap in enumerate(gaps)]
    labels = [_wrapped(summary.cell.label, 36) for summary in summaries]
    bar_inches = 0.12 + 0.16 * max(label.count("\n") + 1 for label in labels)
    with mpl.rc_context(STYLE):
        size = (2.5 + 2.4 * columns, 0.3 + 2 * (0.6 + bar_inches * (places[-1] + 1)))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(min(2, len(metrics)), columns, sharey=True, squeeze=False)
        for axes, metric in zip(grid.flat, metrics, strict=False):
            for index, (y, summary) in enumerate(zip(places, summaries, strict=True)):
                if metric in summary.over_seeds:
                    _bar(axes, y, summary, metric, COLOURS[index % len(COLOURS)])
            axes.set_title(metric)
            axes.margins(x=0.22)
            axes.set_xlim(left=0)
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
            axes.set_yticks(places, labels)
            axes.set_ylim(places[-1] + 0.6, -0.6)  # downwards
        for axes in grid.flat[len(metrics) :]:
            axes.remove()
        whisker = f"Whisker: 95% bootstrap interval over {section.wing.unit} and seeds."
        figure.supxlabel(f"Mean over seeds. {whisker}", fontsize=9)
    return figure


def _bar(axes: Axes, y: float, summary: Summary, metric: str, colour: str) -> None:
    mean, interval = summary.over_seeds[metric].mean, summary.over_units.get(metric)
    axes.barh(y, mean, height=0.72, color=colour)
    if interval:
        axes.errorbar([mean], [y], xerr=_whiskers([interval]), color="black", capsize=2.5, linewidth=1)
    end = (interval.high if interval else mean, y)
    axes.annotate(f"{mean:.3f}", end, xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_on_hyphens=False)


def interval_lines(
    lines: Sequence[tuple[str, Sequence[tuple[float, Interval]]]], styles: Sequence[str], ticks: Mapping[float, str]
) -> Figure:
    """Draw exact match, in percent, over places of the x-axis, with whiskers and a legend below.

    Args:
        lines: Label, and place and interval of each point; at least one.
        styles: Of lines that follow each other in one colour, as Matplotlib names them; empty for marks alone.
        ticks: Text of each place.
    """
    with mpl.rc_context(STYLE):
        size = (max(5.6, 2 + 0.8 * len(ticks)), 3.5 + 0.2 * len(lines))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        for index, (label, points) in enumerate(lines):
            axes.errorbar(
                [x for x, _ in points], [interval.mean for _, interval in points],
                yerr=_whiskers([interval for _, interval in points]), elinewidth=0.9, capsize=2.5, linewidth=1.8,
                linestyle=styles[index % len(styles)], color=COLOURS[index // len(styles) % len(COLOURS)],
                marker="o", markersize=3.5, label=label,
            )  # fmt: skip
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_ylabel("exact match (%)")
        axes.grid()
        figure.legend(loc="outside lower center", ncols=1, title=_WHISKER)
    return figure


def _whiskers(intervals: Sequence[Interval]) -> Any:
    """Return the distances from means to ends; an interval need not hold its mean, but a whisker has to."""
    below = [interval.mean - interval.low for interval in intervals]
    return np.maximum(0.0, [below, [interval.high - interval.mean for interval in intervals]])


def curves(cells: Sequence[Cell], names: Mapping[str, str]) -> Figure | None:
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
    read = [(cell, [run.curves() for run in cell.runs]) for cell in reversed(distinct.values())]
    logged = [(cell, runs) for cell, runs in read if any(name in run for run in runs for name in names)]
    if not logged:
        return None
    drawn = [name for name in names if any(name in run for _, runs in logged for run in runs)]
    columns = min(2, len(drawn))
    rows = -(-len(drawn) // columns)
    legend_columns = 2 if max(len(cell.method) for cell, _ in logged) <= 45 else 1
    with mpl.rc_context(STYLE):
        size = (4.6 * columns, 3.1 * rows + 0.2 * -(-len(logged) // legend_columns))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flat
        lines = {}
        for axes, name in zip(panels, drawn, strict=False):
            for index, (_, runs) in enumerate(logged):
                style = LINE_STYLES[index // len(COLOURS) % len(LINE_STYLES)]
                seeds = [run[name] for run in runs if name in run]
                if seeds:
                    lines[index] = _draw_seeds(axes, seeds, COLOURS[index % len(COLOURS)], style)
            axes.set_xlabel("optimiser step")
            axes.set_ylabel(names[name])
            axes.grid()
        for axes in list(figure.axes)[len(drawn) :]:
            axes.remove()
        labels = [logged[index][0].method for index in lines]
        band = _BAND if any(len(runs) > 1 for _, runs in logged) else None
        figure.legend(lines.values(), labels, loc="outside lower center", ncols=legend_columns, title=band)
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
