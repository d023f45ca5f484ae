"""Runs side by side: means, intervals and paired differences from the scores of each user or question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.gisa.report import questions
from src.launch.errors import InputError
from src.metrics.stats import Interval, PairedDifference, bootstrap_interval, paired_bootstrap, seed_interval
from src.report import ranks
from src.report.runs import Cell, Collection, Run, by_protocol, collect, find_runs

Scores = Callable[[str], NDArray[np.float64]]
"""By metric, the scores of shape ``(runs, units)``."""


@dataclass(frozen=True)
class Kind:
    """What sets recommendation runs and runs on questions apart in a comparison.

    Attributes:
        unit: What is scored and resampled: users or questions.
        file: In the run folder, with the scores of each unit.
        default_metric: Of the comparisons.
        default_baseline: Name of the cell that the others are compared with, if there is one.
        metrics: The metrics that follow from the file.
        scores: Reads it for runs that have all units in common; raises an ``InputError`` where they don't.
    """

    unit: str
    file: str
    default_metric: str
    default_baseline: str
    metrics: Callable[[Sequence[Run]], list[str]]
    scores: Callable[[Sequence[Run]], Scores]


RANKING = Kind("users", "ranks.parquet", "test/ndcg@10", "sft", ranks.metrics, ranks.scores)
ANSWERS = Kind("questions", "questions.jsonl", "test/global_em", "gisa_rollout", questions.metrics, questions.scores)


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
    """What is known about the runs of one kind.

    Attributes:
        metric: The metric of the comparisons, such as ``test/ndcg@10``.
        summaries: The cells' figures, grouped by protocol.
        comparisons: Every cell beside the baseline of its protocol.
    """

    kind: Kind
    metric: str
    summaries: list[list[Summary]]
    comparisons: list[Comparison]

    @property
    def flat(self) -> list[Summary]:
        """The summaries of all protocols, one after the other."""
        return [summary for group in self.summaries for summary in group]


@dataclass(frozen=True)
class Report:
    """What is known about the runs below some folders: a section for each kind that has finished runs.

    Attributes:
        untested: Cells without a test of their own, such as trainings whose models other runs test.
    """

    collection: Collection
    sections: list[Section]
    untested: list[Cell] = field(default_factory=list)

    @property
    def comparisons(self) -> list[Comparison]:
        """The comparisons of all sections, one after the other."""
        return [one for section in self.sections for one in section.comparisons]

    @property
    def all_summaries(self) -> list[Summary]:
        """The summaries of all sections and protocols, one after the other."""
        return [summary for section in self.sections for summary in section.flat]


def build_report(folders: Sequence[Path], metric: str | None = None, baseline: str | None = None) -> Report:
    """Read all runs below some folders, average them by cell and compare the cells.

    Args:
        folders: Run folders, or folders that hold some at any depth.
        metric: The metric of the paired differences and of the validation curve; None, and a kind of runs that lacks
            it, takes that of the kind.
        baseline: Label, method or name of the cell that the others are compared with; None for that of the kind, or
            else the first.

    Returns:
        The report, without sections where no run has finished.

    Raises:
        InputError: there are no runs, a result cannot be read, or the metric or the baseline does not exist.
    """
    collection = collect(find_runs(folders))
    kinds: dict[Kind, list[Cell]] = {}
    untested = [cell for cell in collection.cells if not any(name.startswith("test/") for name in cell.runs[0].metrics)]
    for cell in (cell for cell in collection.cells if cell not in untested):
        kinds.setdefault(ANSWERS if "test/global_em" in cell.runs[0].metrics else RANKING, []).append(cell)
    known = dict.fromkeys(name for kind, cells in kinds.items() for name in _metrics(kind, cells))
    if known and metric is not None and metric not in known:
        raise InputError(f"--metric {metric} is not in these runs; they have: {', '.join(known)}")
    if baseline is not None and not _find(collection.cells, baseline):
        labels = ", ".join(repr(cell.label) for cell in collection.cells)
        raise InputError(f"--baseline {baseline!r} is not among these cells: {labels}")
    sections = [_section(kind, cells, metric, baseline) for kind, cells in kinds.items()]
    return Report(collection, sections, untested)


def _metrics(kind: Kind, cells: Sequence[Cell]) -> list[str]:
    return kind.metrics([run for cell in cells for run in cell.runs])


def _section(kind: Kind, cells: Sequence[Cell], metric: str | None, baseline: str | None) -> Section:
    metrics = _metrics(kind, cells)
    compared = metric if metric in metrics else kind.default_metric
    if compared not in metrics:
        raise InputError(f"--metric {compared} is not in these runs; they have: {', '.join(metrics) or 'none'}")
    given = _find(cells, baseline) if baseline else None
    reference = given or _find(cells, kind.default_baseline) or cells[0]
    groups = by_protocol(cells)
    summaries = [[_summarise(kind, cell, _metrics(kind, group)) for cell in group] for group in groups]
    comparisons = [one for group in groups for one in _compare_group(kind, group, cells, reference, compared)]
    return Section(kind, compared, summaries, comparisons)


def _summarise(kind: Kind, cell: Cell, metrics: Sequence[str]) -> Summary:
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
        scores = kind.scores(cell.runs)
        over_units = {metric: bootstrap_interval(scores(metric)) for metric in metrics}
    except InputError as error:
        return Summary(cell, over_seeds, {}, [f"{cell.label}: no interval over {kind.unit}: {error}"])
    disagreeing = [metric for metric in metrics if abs(over_units[metric].mean - over_seeds[metric].mean) > 1e-6]
    warnings = [f"{cell.label}: result.json and {kind.file} disagree on {name}." for name in disagreeing]
    return Summary(cell, over_seeds, over_units, warnings)


def _find(cells: Sequence[Cell], wanted: str, name: str | None = None) -> Cell | None:
    """Return the cell of that label, or else the first of that method, or else of that name."""
    tiers = ([cell.label == wanted, cell.method == wanted, cell.name == (name or wanted)] for cell in cells)
    ranked = [(tier.index(True), cell) for tier, cell in zip(tiers, cells, strict=True) if any(tier)]
    return min(ranked, key=lambda pair: pair[0])[1] if ranked else None


def _compare_group(
    kind: Kind, group: Sequence[Cell], cells: Sequence[Cell], baseline: Cell, metric: str
) -> list[Comparison]:
    """Compare the cells of one protocol with the baseline's counterpart among them.

    Cells that were tested on a part of the users are compared on these with a counterpart that was tested on all, if
    they have none of their own.
    """
    everyone = {**group[0].protocol, "max_users": None}
    counterpart = _find(group, baseline.method, baseline.name) or _find(
        [cell for cell in cells if cell.protocol == everyone], baseline.method, baseline.name
    )
    if counterpart is None:
        return [Comparison(cell, None, [], None, f"no {baseline.name} under this protocol") for cell in group]
    return [_compare(kind, cell, counterpart, metric) for cell in group if cell is not counterpart]


def _compare(kind: Kind, cell: Cell, baseline: Cell, metric: str) -> Comparison:
    seeds = sorted({run.seed for run in cell.runs} & {run.seed for run in baseline.runs})
    if not seeds:
        return Comparison(cell, baseline, seeds, None, "no seed in common")
    both = [run for side in (cell, baseline) for run in side.runs if run.seed in seeds]
    try:
        if metric not in _metrics(kind, [cell, baseline]):
            raise InputError(f"neither has {metric}")
        scores = kind.scores(both)(metric)
    except InputError as error:
        return Comparison(cell, baseline, seeds, None, str(error))
    return Comparison(cell, baseline, seeds, paired_bootstrap(scores[: len(seeds)], scores[len(seeds) :]), "")
