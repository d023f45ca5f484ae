"""The look of the figures, how they are saved, and those of runs on a suite of questions."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.gisa.report.scaling import Point
from src.launch.storage import write_atomic
from src.metrics.stats import Interval
from src.report.comparison import ANSWERS, Section, Summary
from src.report.layout import Estimate

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


def metric_bars(section: Section) -> Figure:
    """Draw one panel a metric and one bar a cell.

    Args:
        section: Its cells by protocol; a gap separates the protocols.

    Returns:
        The figure. Whiskers are the 95% bootstrap intervals over users (or questions) and seeds, where there are any.
        Of the many metrics of runs on a suite, the exact matches are drawn.
    """
    flat = [(y, summary) for y, summary in _positions(section.summaries)]
    metrics = list(dict.fromkeys(metric for _, summary in flat for metric in summary.over_seeds))
    if section.kind is ANSWERS:
        metrics = [metric for metric in metrics if metric.partition("/")[2].partition("/")[0].endswith("_em")]
    columns = -(-len(metrics) // 2)
    labels = [textwrap.fill(summary.cell.label, 36, break_on_hyphens=False) for _, summary in flat]
    bar_inches = 0.12 + 0.16 * max(label.count("\n") + 1 for label in labels)
    height = 0.3 + 2 * (0.6 + bar_inches * (flat[-1][0] + 1))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.5 + 2.4 * columns, height), layout="constrained")
        grid = figure.subplots(min(2, len(metrics)), columns, sharey=True, squeeze=False)
        for axes, metric in zip(grid.flat, metrics, strict=False):
            for index, (y, summary) in enumerate(flat):
                if metric in summary.over_seeds:
                    _bar(axes, y, summary, metric, COLOURS[index % len(COLOURS)])
            axes.set_title(metric)
            axes.margins(x=0.22)
            axes.set_xlim(left=0)
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
            axes.set_yticks([y for y, _ in flat], labels)
            axes.set_ylim(flat[-1][0] + 0.6, -0.6)  # downwards
        for axes in grid.flat[len(metrics) :]:
            axes.remove()
        whisker = f"Whisker: 95% bootstrap interval over {section.kind.unit} and seeds."
        figure.supxlabel(f"Mean over seeds. {whisker}", fontsize=9)
    return figure


def attempts_curve(curves: Sequence[tuple[str, Sequence[Point]]]) -> Figure:
    """Draw exact match over the number of attempts: the best of them as a line, their vote as a broken one.

    Args:
        curves: Label and points of each cell; at least one, with points.
    """
    sizes = sorted({point.k for _, points in curves for point in points})
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.6 + 0.2 * 2 * len(curves)), layout="constrained")
        axes = figure.subplots()
        for index, (label, points) in enumerate(curves):
            # Moved apart, so that whiskers of curves that meet stay readable.
            for name, style, shift in (("best", "-", 0.97), ("vote", "--", 1.03)):
                drawn = [(point.k * shift, getattr(point, name)) for point in points if getattr(point, name)]
                axes.errorbar(
                    [k for k, _ in drawn], [one.mean for _, one in drawn],
                    yerr=np.transpose([whisker(one) for _, one in drawn]), elinewidth=0.8, capsize=2.5,
                    linestyle=style, marker="o", markersize=3, linewidth=1.8, color=COLOURS[index % len(COLOURS)],
                    label=f"{'Best' if name == 'best' else 'Majority'}@k, {label}",
                )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xlabel("attempts k")
        axes.set_ylabel("exact match (%)")
        axes.grid()
        figure.legend(loc="outside lower center", ncols=1)
    return figure


def by_kind(cells: Sequence[tuple[str, Mapping[str, Estimate]]]) -> Figure:
    """Draw the exact match of each cell by kind of question, with its interval.

    Args:
        cells: Label, and estimates in percent by kind; at least one.
    """
    kinds = list(dict.fromkeys(kind for _, estimates in cells for kind in estimates))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2 + 0.8 * len(kinds), 3.4 + 0.2 * len(cells)), layout="constrained")
        axes = figure.subplots()
        for index, (label, estimates) in enumerate(cells):
            shift = (index - (len(cells) - 1) / 2) * 0.7 / len(cells)
            axes.errorbar(
                [kinds.index(kind) + shift for kind in estimates], [one.mean for one in estimates.values()],
                yerr=np.transpose([whisker(one) for one in estimates.values()]), linestyle="", marker="o",
                markersize=4, elinewidth=1, capsize=2.5, color=COLOURS[index % len(COLOURS)], label=label,
            )  # fmt: skip
        axes.set_xticks(range(len(kinds)), kinds)
        axes.set_ylabel("exact match (%)")
        axes.set_ylim(-4, 104)
        axes.grid(axis="y")
        figure.legend(loc="outside lower center", ncols=1)
    return figure


def save(figure: Figure, stem: Path) -> None:
    """Write a figure as ``stem.png`` and ``stem.svg``, without dates, so that equal figures are equal files."""
    with mpl.rc_context(STYLE):
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            content = io.BytesIO()
            figure.savefig(content, format=suffix[1:], dpi=160, metadata=metadata)
            write_atomic(stem.with_suffix(suffix), content.getvalue())


def _positions(summaries: Sequence[Sequence[Summary]]) -> Iterator[tuple[float, Summary]]:
    """Number the bars downwards, with a gap between protocols."""
    y = 0.0
    for group in summaries:
        for summary in group:
            yield y, summary
            y += 1
        y += 0.6


def _bar(axes: Axes, y: float, summary: Summary, metric: str, colour: str) -> None:
    mean = summary.over_seeds[metric].mean
    interval = summary.over_units.get(metric)
    end = interval.high if interval else mean
    axes.barh(y, mean, height=0.72, color=colour)
    if interval:
        axes.errorbar([mean], [y], xerr=np.transpose([whisker(interval)]), color="black", capsize=2.5, linewidth=1)
    axes.annotate(f"{mean:.3f}", (end, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)


def whisker(interval: Interval | Estimate) -> tuple[float, float]:
    """Return the distances from the mean to the ends; an interval need not hold its mean, but a whisker has to."""
    return max(0.0, interval.mean - interval.low), max(0.0, interval.high - interval.mean)
