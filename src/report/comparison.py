"""Runs side by side: means, intervals and paired differences from the scores of each user or question.

What is scored, and how, a wing says; the report itself knows neither users nor questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from src.launch.errors import InputError
from src.metrics.stats import Interval, PairedDifference, bootstrap_interval, paired_bootstrap, seed_interval
from src.report.runs import Cell, Collection, Run, by_protocol, collect, find_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from src.report.tables import Table

Scores = Callable[[str], NDArray[np.float64]]
"""By metric, the scores of shape ``(runs, units)``."""


@dataclass(frozen=True)
class Findings:
    """What a wing says about its runs above their comparisons.

    Attributes:
        text: Markdown, in paragraphs and tables.
        draw: Draws the figures that the runs allow, by the stem of their files.
        tables: Those of the text that are written as CSV files as well.
        warnings: What is missing and why, in sentences.
    """

    text: Sequence[str]
    draw: Callable[[], Mapping[str, Figure | None]]
    tables: Sequence[Table] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Wing:
    """How the runs of a wing are scored and shown.

    Attributes:
        unit: What is scored and resampled, in the plural, such as users.
        file: In the run folder, with the scores of each unit.
        default_metric: Of the comparisons.
        default_baseline: Name of the cell that the others are compared with, if there is one.
        metrics: Returns the test metrics of runs that follow from the file; none means that they are of another wing.
        scores: Reads the file of runs; raises an ``InputError`` where they have not all units in common.
        findings: Says what is known about the runs; raises an ``InputError`` where a file of theirs is damaged.
        learning: What trainings log whose models other runs test: by metric, its name at the axis.
        flags: Further flags of the command, without their dashes, and their help.
        write_files: Writes further files about finished runs of any wing, below the report's folder or the runs', by
            the flags that were given, and tells where they are.
        watch: Yields what is to be shown of a run folder while it is at work, and whether it still is; None where the
            runs of the wing cannot be watched.
    """

    unit: str
    file: str
    default_metric: str
    default_baseline: str
    metrics: Callable[[Sequence[Run]], list[str]]
    scores: Callable[[Sequence[Run]], Scores]
    findings: Callable[[Section], Findings]
    learning: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    write_files: Callable[[Sequence[Run], Path, Mapping[str, Any]], Iterable[str]] = lambda runs, out, options: ()
    watch: Callable[[Path], Iterator[tuple[str, bool]]] | None = None


def wings() -> list[Wing]:
    """Return the ``WING`` of every module ``src.<wing>.report.wing``."""
    names = sorted(path.parts[-3] for path in Path(__file__).parents[1].glob("*/report/wing.py"))
    return [import_module(f"src.{name}.report.wing").WING for name in names]


@dataclass(frozen=True)
class Summary:
    """The figures of one cell.

    Attributes:
        over_seeds: By metric, mean and t-interval over the seeds.
        over_units: By metric, mean and bootstrap interval over users (or questions) and seeds; empty where their scores
            cannot be read.
        warnings: Reasons to distrust the figures, in sentences.
    """

    cell: Cell
    over_seeds: dict[str, Interval]
    over_units: dict[str, Interval]
    warnings: list[str]


@dataclass(frozen=True)
class Comparison:
    """A cell beside the baseline of its protocol.

    Attributes:
        seeds: The seeds that both have; only these enter the difference.
        result: The paired difference, cell minus baseline; None where they cannot be compared.
        reason: Why there is no result, in words; empty where there is one.
    """

    cell: Cell
    baseline: Cell | None
    seeds: list[int]
    result: PairedDifference | None
    reason: str


@dataclass(frozen=True)
class Section:
    """What is known about the runs of one wing.

    Attributes:
        metric: The metric of the comparisons, such as ``test/ndcg@10``.
        groups: The cells' figures, grouped by protocol.
        comparisons: Every cell beside the baseline of its protocol.
    """

    wing: Wing
    metric: str
    groups: list[list[Summary]]
    comparisons: list[Comparison]

    @property
    def summaries(self) -> list[Summary]:
        """The figures of all protocols, one after the other."""
        return [summary for group in self.groups for summary in group]


@dataclass(frozen=True)
class Report:
    """What is known about the runs below some folders: a section for each wing that has finished runs.

    Attributes:
        untested: Cells without a test of their own, such as trainings whose models other runs test.
    """

    collection: Collection
    sections: list[Section]
    untested: list[Cell]

    @property
    def comparisons(self) -> list[Comparison]:
        """The comparisons of all sections, one after the other."""
        return [comparison for section in self.sections for comparison in section.comparisons]


def build_report(folders: Sequence[Path], metric: str | None = None, baseline: str | None = None) -> Report:
    """Read all runs below some folders, average them by cell and compare the cells.

    Args:
        folders: Run folders, or folders that hold some at any depth.
        metric: The metric of the paired differences and of the validation curve; None, and a wing whose runs lack it,
            takes that of the wing.
        baseline: Label, method or name of the cell that the others are compared with; None for that of the wing, or
            else the first.

    Returns:
        The report, without sections where no run has finished.

    Raises:
        InputError: there are no runs, a result cannot be read, or the metric or the baseline does not exist.
    """
    collection = collect(find_runs(folders))
    parts: dict[Wing | None, list[Cell]] = {}
    for cell in collection.cells:
        parts.setdefault(next((wing for wing in wings() if wing.metrics(cell.runs)), None), []).append(cell)
    untested = parts.pop(None, [])
    known = dict.fromkeys(name for wing, cells in parts.items() if wing for name in _metrics(wing, cells))
    if known and metric is not None and metric not in known:
        raise InputError(f"--metric {metric} is not in these runs; they have: {', '.join(known)}")
    if baseline is not None and not _find(collection.cells, baseline):
        labels = ", ".join(repr(cell.label) for cell in collection.cells)
        raise InputError(f"--baseline {baseline!r} is not among these cells: {labels}")
    sections = [_section(wing, cells, metric, baseline) for wing, cells in parts.items() if wing]
    return Report(collection, sections, untested)


def _metrics(wing: Wing, cells: Sequence[Cell]) -> list[str]:
    return wing.metrics([run for cell in cells for run in cell.runs])


def _section(wing: Wing, cells: Sequence[Cell], metric: str | None, baseline: str | None) -> Section:
    metrics = _metrics(wing, cells)
    compared = metric if metric in metrics else wing.default_metric
    if compared not in metrics:
        raise InputError(f"--metric {compared} is not in these runs; they have: {', '.join(metrics) or 'none'}")
    reference = (baseline and _find(cells, baseline)) or _find(cells, wing.default_baseline) or cells[0]
    groups = by_protocol(cells)
    summaries = [[_summarise(wing, cell, _metrics(wing, group)) for cell in group] for group in groups]
    pairs = [pair for group in groups for pair in _pairs(group, cells, reference)]
    return Section(wing, compared, summaries, [_compare(wing, *pair, compared, reference.name) for pair in pairs])


def _summarise(wing: Wing, cell: Cell, metrics: Sequence[str]) -> Summary:
    """Average a cell over its seeds, and put intervals around the means.

    Raises:
        InputError: a run lacks one of the metrics.
    """
    for run in cell.runs:
        if absent := [metric for metric in metrics if metric not in run.metrics]:
            raise InputError(
                f"{run.folder / 'result.json'} lacks {', '.join(absent)}, which other runs have.\n"
                "Report on runs with the same metrics, or evaluate this one again."
            )
    over_seeds = {metric: seed_interval(run.metrics[metric] for run in cell.runs) for metric in metrics}
    try:
        scores = wing.scores(cell.runs)
        over_units = {metric: bootstrap_interval(scores(metric)) for metric in metrics}
    except InputError as error:
        return Summary(cell, over_seeds, {}, [f"{cell.label}: no interval over {wing.unit}: {error}"])
    disagreeing = [metric for metric in metrics if abs(over_units[metric].mean - over_seeds[metric].mean) > 1e-6]
    warnings = [f"{cell.label}: result.json and {wing.file} disagree on {name}." for name in disagreeing]
    return Summary(cell, over_seeds, over_units, warnings)


def _find(cells: Sequence[Cell], wanted: str, name: str | None = None) -> Cell | None:
    """Return the cell of that label, or else the first of that method, or else of that name."""
    tiers = ([cell.label == wanted, cell.method == wanted, cell.name == (name or wanted)] for cell in cells)
    ranked = [(tier.index(True), cell) for tier, cell in zip(tiers, cells, strict=True) if any(tier)]
    return min(ranked, key=lambda pair: pair[0])[1] if ranked else None


def _pairs(group: Sequence[Cell], cells: Sequence[Cell], baseline: Cell) -> list[tuple[Cell, Cell | None]]:
    """Put the baseline's counterpart of the same protocol beside every other cell of a protocol.

    Cells that were tested on a part of the users are compared on these with a counterpart that was tested on all, if
    they have none of their own.
    """
    everyone = {**group[0].protocol, "max_users": None}
    counterpart = _find(group, baseline.method, baseline.name) or _find(
        [cell for cell in cells if cell.protocol == everyone], baseline.method, baseline.name
    )
    return [(cell, counterpart) for cell in group if cell is not counterpart]


def _compare(wing: Wing, cell: Cell, baseline: Cell | None, metric: str, name: str) -> Comparison:
    """Pair the scores of each user or question in the seeds that both cells have."""
    if baseline is None:
        return Comparison(cell, None, [], None, f"no {name} under this protocol")
    seeds = sorted({run.seed for run in cell.runs} & {run.seed for run in baseline.runs})
    both = [run for side in (cell, baseline) for run in side.runs if run.seed in seeds]
    try:
        if not seeds:
            raise InputError("no seed in common")
        if metric not in _metrics(wing, [cell, baseline]):
            raise InputError(f"neither has {metric}")
        scores = wing.scores(both)(metric)
    except InputError as error:
        return Comparison(cell, baseline, seeds, None, str(error))
    return Comparison(cell, baseline, seeds, paired_bootstrap(scores[: len(seeds)], scores[len(seeds) :]), "")
