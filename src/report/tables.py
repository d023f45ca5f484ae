"""The report as Markdown and as rows for CSV files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from src.metrics.stats import Interval
from src.report.comparison import Comparison, Report, Summary
from src.report.runs import Collection, Run, as_typed

Row = dict[str, object]


def markdown(report: Report, title: str, images: Sequence[str] = ()) -> str:
    """Write the report as Markdown, with the images at its end."""
    parts = [f"# {title}", _counts(report.collection)]
    warnings = report.collection.warnings + [text for summary in report.all_summaries for text in summary.warnings]
    if warnings:
        parts += ["## Warnings", "\n".join(f"- {text}" for text in warnings)]
    if report.summaries:
        parts += ["## Test metrics", "Mean over the seeds ± half the width of Student's 95% interval over the seeds."]
    for group in report.summaries:
        parts += [f"Protocol: {as_typed(group[0].cell.protocol) or 'not recorded'}", _results_table(group)]
    if report.comparisons:
        parts += [
            f"## Paired differences in {report.metric}",
            "Same users, same seeds; 95% interval by bootstrap over users and seeds (over users only for one seed).",
            _comparison_table(report.comparisons),
        ]
    reasons = [f"- {one.cell.label}, not compared: {one.reason}." for one in report.comparisons if one.reason]
    if reasons:
        parts.append("\n".join(reasons))
    parts += [f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in images]
    return "\n\n".join(parts) + "\n"


def _counts(collection: Collection) -> str:
    finished, failed, unfinished = (collection.having(status) for status in ("finished", "failed", "running"))
    lines = [f"- failed: {run.label} seed={run.seed} ({run.folder}): {run.error}" for run in failed]
    lines += [f"- unfinished: {run.label} seed={run.seed} ({run.folder})" for run in unfinished]
    lines += [f"- missing: {text}" for text in collection.missing]
    count = (
        f"Runs: {len(finished)} finished, {len(failed)} failed, {len(unfinished)} unfinished, "
        f"{len(collection.missing)} missing."
    )
    if collection.shared:
        count += f"\n\nAll runs: `{' '.join(collection.shared)}`"
    return "\n\n".join([count, "\n".join(line.partition("\n")[0] for line in lines)]).rstrip()


def _results_table(group: Sequence[Summary]) -> str:
    metrics = list(group[0].over_seeds)
    header = ["cell", "seeds", *(name.removeprefix("test/") for name in metrics), "time (s)", "memory (MiB)", "users"]
    rows = []
    for summary in group:
        runs = summary.cell.runs
        figures = [_plus_minus(interval) for interval in summary.over_seeds.values()]
        cost = [f"{value:.0f}" if isinstance(value, float) else str(value or "-") for value in _cost(runs).values()]
        rows.append([summary.cell.label, str(len(runs)), *figures, *cost])
    return markdown_table(header, rows)


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    header = ["cell", "minus", "seeds", "difference", "95% interval", "relative", "resamples > 0"]
    rows = []
    for one in comparisons:
        figures = ["-"] * 4
        if one.result:
            ends, relative = one.result.difference, one.result.relative
            figures = [
                f"{ends.mean:+.4f}",
                f"{ends.low:+.4f} to {ends.high:+.4f}",
                "-" if math.isnan(relative) else f"{relative:+.1%}",
                f"{one.result.share_above_zero:.1%}",
            ]
        rows.append([one.cell.label, one.baseline.label if one.baseline else "-", str(len(one.seeds)), *figures])
    return markdown_table(header, rows)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table whose columns line up in a terminal: the first to the left, the others to the right."""
    cells = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in [header, *rows]]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    lines = [
        [
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in cells
    ]
    rule = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def _plus_minus(interval: Interval) -> str:
    return f"{interval.mean:.4f}" + ("" if math.isnan(interval.half_width) else f" ± {interval.half_width:.4f}")


def cell_rows(report: Report) -> list[Row]:
    """Return one row a cell: means, both kinds of interval, cost, and the difference from the baseline."""
    compared = {one.cell.label: one for one in report.comparisons}
    rows = []
    for summary in report.all_summaries:
        row: Row = {"cell": summary.cell.label, "seeds": len(summary.cell.runs)}
        for metric, interval in summary.over_seeds.items():
            users = summary.over_users.get(metric)
            row |= {
                metric: interval.mean,
                f"{metric} seed half width": interval.half_width,
                f"{metric} user low": users and users.low,
                f"{metric} user high": users and users.high,
            }
        one = compared.get(summary.cell.label)
        result = one.result if one else None
        row |= {
            **_cost(summary.cell.runs),
            "baseline": one.baseline.label if one and one.baseline else None,
            "difference": result and result.difference.mean,
            "difference low": result and result.difference.low,
            "difference high": result and result.difference.high,
            "difference relative": result and result.relative,
            "resamples above 0": result and result.share_above_zero,
        }
        rows.append(row)
    return rows


def run_row(run: Run) -> Row:
    """Return what is known about one run."""
    return {
        "folder": run.folder,
        "label": run.label,
        "seed": run.seed,
        "status": run.status,
        "error": run.error,
        **run.metrics,
        **_cost([run]),
        "started_at": run.started_at.isoformat(),
        "commit": run.commit,
    }


def _cost(runs: Sequence[Run]) -> Row:
    """Average what the runs took; where they differ in users, all numbers are given."""
    return {
        "wall_time_s": _mean(run.timings_s.get("total") for run in runs),
        "peak_memory_mib": _mean(run.peak_memory_mib for run in runs),
        "evaluated_users": " / ".join(dict.fromkeys(str(run.evaluated_users or "-") for run in runs)),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def as_csv(rows: Sequence[Row]) -> str:
    """Write rows as CSV; a row without a column of another has an empty field there."""
    text = io.StringIO()
    writer = csv.DictWriter(text, dict.fromkeys(key for row in rows for key in row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
