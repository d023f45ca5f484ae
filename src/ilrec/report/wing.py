"""What the report says of recommenders: users scored by the ranks that a run saved, and what ILRec's layers did."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from src.launch.errors import InputError
from src.metrics.ranking import per_user_metric
from src.report.comparison import Findings, Scores, Section, Wing
from src.report.runs import Run
from src.report.tables import metric_tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What ILRec claims of the layers, by metric, and what it is.
LAYER_CURVES = {
    "train/layer_agreement": "share of positions whose first choice\nis the final layer's (mean of the layers)",
    "train/layer_divergence": "divergence from the final layer, nats",
    "train/negatives_per_position": "negatives a position",
    "train/negative_margin": "logit of the true token minus that of\nthe hardest negative (lower is harder)",
}


def metrics(runs: Sequence[Run]) -> list[str]:
    """Return the test metrics that follow from ranks, Hit before NDCG, by rising cutoff."""
    names = {name for run in runs for name in run.metrics if re.fullmatch(r"test/(hit|ndcg)@\d+", name)}
    return sorted(names, key=lambda name: (name.partition("@")[0], int(name.partition("@")[2])))


def scores(runs: Sequence[Run]) -> Scores:
    """Return what scores each user in each run by a metric such as ``test/ndcg@10``; users in the order of their ids.

    Where ``max_users`` differs, runs that were tested on more users count with those of the fewest.

    Raises:
        InputError: a file is absent or unreadable, or the runs were tested on different users or targets.
    """
    tables = [_read_ranks(run) for run in runs]
    if len({run.protocol.get("max_users") for run in runs}) > 1:
        fewest = min(tables, key=len)
        tables = [{key: rank for key, rank in table.items() if key in fewest} for table in tables]
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
    ranks = np.array([[table[key] for key in sorted(first)] for table in tables])
    return lambda metric: np.stack([per_user_metric(row, metric.removeprefix("test/")) for row in ranks])


def _read_ranks(run: Run) -> dict[tuple[str, str], float]:
    """Return the rank by user and target; NaN where the target was not decoded."""
    path, column = run.folder / "ranks.parquet", run.rank_column
    try:
        table = pq.read_table(path)
        users, targets = (table[name].cast(pa.string()).to_pylist() for name in ("user", "target"))
        ranks = table[column].cast(pa.float64()).fill_null(np.nan).to_pylist()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as columns user, target and {column}: {error}") from error
    if None in users or None in targets or min((rank for rank in ranks if rank == rank), default=1) < 1:
        raise InputError(f"{path} lacks a user or a target, or has a rank below 1")
    if repeated := [user for user, group in groupby(sorted(users)) if len(list(group)) > 1]:
        raise InputError(f"{path} ranks {len(repeated)} users more than once, such as {repeated[0]!r}")
    return dict(zip(zip(users, targets, strict=True), ranks, strict=True))


def findings(section: Section) -> Findings:
    """Return the tables of metrics; draw them, the training and what the layers did."""

    def draw() -> Mapping[str, Figure | None]:
        from src.report.plots import curves, metric_intervals

        cells, validated = [summary.cell for summary in section.summaries], section.metric.replace("test/", "val/")
        return {
            "metrics": metric_intervals(section),
            "training_curves": curves(cells, {"train/loss": "loss, nats", validated: validated}),
            "layers": curves(cells, LAYER_CURVES),
        }

    return Findings(metric_tables(section), draw)


WING = Wing(
    unit="users",
    file="ranks.parquet",
    default_metric="test/ndcg@10",
    default_baseline="sft",
    metrics=metrics,
    scores=scores,
    findings=findings,
)
