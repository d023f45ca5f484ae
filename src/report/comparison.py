"""Recommendation runs side by side: means, intervals and paired differences from the ranks saved for each user."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from src.errors import InputError
from src.metrics.ranking import per_user_metric
from src.metrics.stats import Interval, PairedDifference, bootstrap_interval, paired_bootstrap, seed_interval
from src.report.runs import Cell, Collection, Run, by_protocol, collect, find_runs


@dataclass(frozen=True)
class Summary:
    """The figures of one cell.

    Attributes:
        over_seeds: By metric, mean and t-interval over the seeds.
        over_users: By metric, mean and bootstrap interval over users and seeds; empty where the ranks do not allow it.
        warnings: Reasons to distrust the figures, in sentences.
    """

    cell: Cell
    over_seeds: dict[str, Interval]
    over_users: dict[str, Interval]
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
class Report:
    """What is known about the runs below some folders.

    Attributes:
        metric: The metric of the comparisons, such as ``test/ndcg@10``.
        summaries: The cells' figures, grouped by protocol.
        comparisons: Every cell beside the baseline of its protocol.
    """

    metric: str
    collection: Collection
    summaries: list[list[Summary]]
    comparisons: list[Comparison]

    @property
    def all_summaries(self) -> list[Summary]:
        """The summaries of all protocols, one after the other."""
        return [summary for group in self.summaries for summary in group]


def build_report(folders: Sequence[Path], metric: str = "test/ndcg@10", baseline: str | None = None) -> Report:
    """Read all runs below some folders, average them by cell and compare the cells.

    Args:
        folders: Run folders, or folders that hold some at any depth.
        metric: The metric of the paired differences and of the validation curve.
        baseline: Label or name of the cell that the others are compared with; None for ``sft``, or else the first.

    Returns:
        The report, without tables where no run has finished.

    Raises:
        InputError: there are no runs, a result cannot be read, or the metric or the baseline does not exist.
    """
    collection = collect(find_runs(folders))
    if not collection.cells:
        return Report(metric, collection, [], [])
    metrics = _ranking_metrics(collection.having("finished"))
    if metric not in metrics:
        raise InputError(f"--metric {metric} is not in these runs; they have: {', '.join(metrics) or 'none'}")
    reference = _choose_baseline(collection.cells, baseline)
    groups = by_protocol(collection.cells)
    summaries = [[_summarise(cell, metrics) for cell in group] for group in groups]
    comparisons = [one for group in groups for one in _compare_group(group, reference, metric)]
    return Report(metric, collection, summaries, comparisons)


def _ranking_metrics(runs: Sequence[Run]) -> list[str]:
    """Return the test metrics that follow from ranks, Hit before NDCG, by rising cutoff."""
    names = {name for run in runs for name in run.metrics if re.fullmatch(r"test/(hit|ndcg)@\d+", name)}
    return sorted(names, key=lambda name: (name.partition("@")[0], int(name.partition("@")[2])))


def _summarise(cell: Cell, metrics: Sequence[str]) -> Summary:
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
        ranks = _aligned_ranks(cell.runs)
    except InputError as error:
        return Summary(cell, over_seeds, {}, [f"{cell.label}: no interval over users: {error}"])
    over_users = {metric: bootstrap_interval(_scores(ranks, metric)) for metric in metrics}
    disagreeing = [metric for metric in metrics if abs(over_users[metric].mean - over_seeds[metric].mean) > 1e-6]
    warnings = [f"{cell.label}: result.json and ranks.parquet disagree on {name}." for name in disagreeing]
    return Summary(cell, over_seeds, over_users, warnings)


def _choose_baseline(cells: Sequence[Cell], wanted: str | None) -> Cell:
    """Find the cell of a label or name; without one take ``sft``, or else the first.

    Raises:
        InputError: no cell has the label or name.
    """
    if wanted is None:
        return _find(cells, "sft", "sft") or cells[0]
    if found := _find(cells, wanted, wanted):
        return found
    raise InputError(f"--baseline {wanted!r} is not among these cells: {', '.join(repr(cell.label) for cell in cells)}")


def _find(cells: Sequence[Cell], label: str, name: str) -> Cell | None:
    """Return the cell of that label, or else the first of that name."""
    matches = [cell for cell in cells if cell.label == label] + [cell for cell in cells if cell.name == name]
    return matches[0] if matches else None


def _compare_group(group: Sequence[Cell], baseline: Cell, metric: str) -> list[Comparison]:
    """Compare the cells of one protocol with the baseline's counterpart among them."""
    counterpart = _find(group, baseline.label, baseline.name)
    if counterpart is None:
        return [Comparison(cell, None, [], None, f"no {baseline.name} under this protocol") for cell in group]
    return [_compare(cell, counterpart, metric) for cell in group if cell is not counterpart]


def _compare(cell: Cell, baseline: Cell, metric: str) -> Comparison:
    seeds = sorted({run.seed for run in cell.runs} & {run.seed for run in baseline.runs})
    if not seeds:
        return Comparison(cell, baseline, seeds, None, "no seed in common")
    both = [run for side in (cell, baseline) for run in side.runs if run.seed in seeds]
    try:
        scores = _scores(_aligned_ranks(both), metric)
    except InputError as error:
        return Comparison(cell, baseline, seeds, None, str(error))
    return Comparison(cell, baseline, seeds, paired_bootstrap(scores[: len(seeds)], scores[len(seeds) :]), "")


def _scores(ranks: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    """Score each user in each run; ``metric`` is a key such as ``test/ndcg@10``."""
    return np.stack([per_user_metric(row, metric.removeprefix("test/")) for row in ranks])


def _aligned_ranks(runs: Sequence[Run]) -> NDArray[np.float64]:
    """Read ``ranks.parquet`` of each run and join them on the user.

    Returns:
        Ranks of shape ``(runs, users)``, NaN where the target was not decoded; users in rising order of their ids.

    Raises:
        InputError: a file is absent or unreadable, or the runs were tested on different users or targets.
    """
    tables = [_read_ranks(run) for run in runs]
    first = tables[0]
    for run, table in zip(runs, tables, strict=True):
        if table.keys() == first.keys():
            continue
        users, other_users = ({user for user, _ in part} for part in (first, table))
        if users == other_users:
            what = f"{len(first.keys() - table.keys())} of {len(first)} users have different targets"
        else:
            what = f"different users: {len(first)} and {len(table)}, {len(users & other_users)} of them the same"
        raise InputError(f"{runs[0].folder} and {run.folder} cannot be joined by user: {what}")
    order = sorted(first)
    return np.array([[table[key] for key in order] for table in tables])


def _read_ranks(run: Run) -> dict[tuple[str, str], float]:
    """Return the rank by user and target; NaN where the target was not decoded."""
    path = run.folder / "ranks.parquet"
    try:
        table = pq.read_table(path)
        users, targets = (table[name].cast(pa.string()).to_pylist() for name in ("user", "target"))
        ranks = table["rank"].cast(pa.float64()).fill_null(np.nan).to_pylist()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as columns user, target and rank: {error}") from error
    if repeated := [user for user, group in groupby(sorted(users)) if len(list(group)) > 1]:
        raise InputError(f"{path} ranks {len(repeated)} users more than once, such as {repeated[0]!r}")
    return dict(zip(zip(users, targets, strict=True), ranks, strict=True))
