"""What a model of the value of episodes is good for, as tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from src.evaluator.episode_values import MOMENTS, Chosen, Foretold
from src.metrics.stats import Interval
from src.report.layout import markdown_table

_CHOICES = {"best": "best of k", "by_value": "by value", "majority": "majority", "random": "random"}


def markdown(compared: Sequence[Foretold], choices: Sequence[Chosen], questions: int) -> str:
    """Write both comparisons as tables."""
    foretold = [
        [
            f"{one.moment}: {one.by}",
            _shown(one.error, 3),
            "" if one.explained is None else f"{one.explained:.3f}",
            _shown(one.gain, 3),
            _shown(one.order, 3),
            str(one.ordered),
        ]
        for one in compared
    ]
    chosen = [
        [
            f"k={one.k}",
            *(_shown(getattr(one, by), 1, 100) for by in _CHOICES),
            _shown(one.over_majority, 1, 100),
            _shown(one.over_random, 1, 100),
        ]
        for one in choices
    ]
    return "\n\n".join(
        [
            "# Values of episodes",
            f"{questions} questions, {choices[-1].k} attempts at each; 95% intervals by bootstrap over questions. Each "
            "value is by a network, or a line through one number, that has not learnt from the question.",
            "## What they foretell",
            "Before any call (start), with half of them made, with all made (read), and with the answer: squared error "
            "as a forecast of F1; R2, the share of the constant's error that is gone; the constant's error less the "
            "own one, paired; Kendall's tau of value and F1 among the attempts at a question, over the questions whose "
            "attempts differ in F1. The constant is the other folds' mean F1.",
            markdown_table(["", "error", "R2", "gain over the constant", "tau", "questions with a tau"], foretold),
            "## Which of k answers to take",
            "Exact match in percent, officially scored. The first of equal values counts, tied votes share a score.",
            markdown_table(["", *_CHOICES.values(), "value - majority", "value - random"], chosen),
        ]
    ) + "\n"  # fmt: skip


def _shown(interval: Interval | None, digits: int, scale: float = 1.0) -> str:
    if interval is None:
        return ""
    mean, low, high = (scale * number for number in (interval.mean, interval.low, interval.high))
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def draw(compared: Sequence[Foretold], choices: Sequence[Chosen], stem: Path) -> None:
    """Draw R2 over the moments and exact match over k, into ``stem.png`` and ``stem.svg``."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from src.report.plots import COLOURS, STYLE, save, whisker

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for colour, by in zip(COLOURS, dict.fromkeys(one.by for one in compared), strict=False):
            explained = [one.explained for one in compared if one.by == by]
            left.plot([float("nan") if one is None else one for one in explained], "o-", color=colour, label=by)
        left.set_xticks(range(len(MOMENTS)), list(MOMENTS))
        left.set_ylabel("R2 as a forecast of F1, held-out questions")
        ks = [one.k for one in choices]
        for place, (by, label) in enumerate(_CHOICES.items()):
            shown = [getattr(one, by) for one in choices]
            right.errorbar(
                [k * 1.03 ** (place - 1.5) for k in ks], [100 * one.mean for one in shown],
                yerr=[[100 * whisker(one)[end] for one in shown] for end in (0, 1)],
                marker="o", markersize=3, elinewidth=0.8, capsize=2.5, color=COLOURS[place], label=label,
            )  # fmt: skip
        right.set_xscale("log", base=2)
        right.set_xticks(ks, list(map(str, ks)))
        right.set_xlabel("attempts k")
        right.set_ylabel("exact match (%)")
        for axes in (left, right):
            axes.grid()
            axes.legend()
    save(figure, stem)
