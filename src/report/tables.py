"""The report as Markdown and as rows for CSV files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from src.metrics.stats import Interval
from src.report.comparison import ANSWERS, Comparison, Report, Section, Summary
from src.report.curves import negatives_per_second
from src.report.layout import Row, Table, markdown_table
from src.report.runs import Collection, Run, as_typed


def markdown(
    report: Report, title: str, tables: Sequence[Table] = (), images: Sequence[str] = (), remarks: Sequence[str] = ()
) -> str:
    """Write the report as Markdown.

    Args:
        report: What is known about the runs.
        title: Heading.
        tables: Further ones, of runs on a suite.
        images: Names of files to show at the end.
        remarks: Further warnings.
    """
    parts = [f"# {title}", _counts(report.collection)]
    warnings = report.collection.warnings + [text for summary in report.all_summaries for text in summary.warnings]
    if warnings := [*warnings, *remarks]:
        parts += ["## Warnings", "\n".join(f"- {text}" for text in warnings)]
    for section in report.sections:
        if section.kind is ANSWERS:
            parts += ["## Runs on a suite of questions", _protocols(section), *(one.as_markdown() for one in tables)]
        else:
            parts += _results(section)
        parts += _comparisons(section)
    parts += [f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in images]
    return "\n\n".join(parts) + "\n"


def _results(section: Section) -> list[str]:
    parts = ["## Test metrics", "Mean over the seeds ± half the width of Student's 95% interval over the seeds."]
    for group in section.summaries:
        parts += [f"Protocol: {as_typed(group[0].cell.protocol) or 'not recorded'}", _results_table(group)]
    return parts


def _protocols(section: Section) -> str:
    return "\n".join(
        f"- {cell.label}: {len(cell.runs)} run(s) over {_cost(cell.runs)['total (s)']:.0f} s each, "
        f"{as_typed(cell.protocol) or 'protocol not recorded'}"
        for cell in (summary.cell for summary in section.flat)
    )


def _comparisons(section: Section) -> list[str]:
    units, parts = section.kind.unit, []
    if section.comparisons:
        parts += [
            f"## Paired differences in {section.metric}",
            f"Same {units}, same seeds; 95% interval by bootstrap over {units} and seeds (over {units} only for one "
            "seed).",
            _comparison_table(section.comparisons),
        ]
    reasons = [f"- {one.cell.label}, not compared: {one.reason}." for one in section.comparisons if one.reason]
    return [*parts, *(["\n".join(reasons)] if reasons else [])]


def _counts(collection: Collection) -> str:
    finished, failed, unfinished = (collection.having(status) for status in ("finished", "failed", "running"))
    lines = [f"- failed: {run.label} seed={run.seed} ({run.folder}): {run.error}" for run in failed]
    lines += [f"- unfinished: {run.label} seed={run.seed} ({run.folder})" for run in unfinished]
    lines += [f"- missing: {text}" for text in collection.missing]
    count = (
        f"Runs: {len(finished)} finished, {len(failed)} failed, {len(unfinished)} unfinished, "
        f"{len(collection.missing)} missing."
    )
    count += "".join(f"\n\n{who}: `{' '.join(overrides)}`" for who, overrides in collection.shared.items())
    return "\n\n".join([count, "\n".join(line.partition("\n")[0] for line in lines)]).rstrip()


def _results_table(group: Sequence[Summary]) -> str:
    metrics = [name.removeprefix("test/") for name in group[0].over_seeds]
    costs = [_cost(summary.cell.runs) for summary in group]
    names = dict.fromkeys(name for cost in costs for name in cost)
    known = [name for name in names if any(cost.get(name) is not None for cost in costs)]
    rows = []
    for summary, cost in zip(group, costs, strict=True):
        figures = [_plus_minus(interval) for interval in summary.over_seeds.values()]
        shown = [_rounded(cost.get(name)) for name in known]
        rows.append([summary.cell.method, str(len(summary.cell.runs)), *figures, *shown])
    return markdown_table(["cell", "seeds", *metrics, *known], rows)


def _rounded(value: object) -> str:
    """Write whole numbers, but digits of those below 10, and what is absent as a dash."""
    return f"{value:.{4 if abs(value) < 10 else 0}f}" if isinstance(value, float) else str(value or "-")


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


def _plus_minus(interval: Interval) -> str:
    return f"{interval.mean:.4f}" + ("" if math.isnan(interval.half_width) else f" ± {interval.half_width:.4f}")


def cell_rows(report: Report) -> list[Row]:
    """Return one row a cell: means, both kinds of interval, cost, and the difference from the baseline."""
    compared = {one.cell.label: one for one in report.comparisons}
    units = {summary.cell.label: section.kind.unit for section in report.sections for summary in section.flat}
    rows = []
    for summary in report.all_summaries:
        unit = units[summary.cell.label].removesuffix("s")
        row: Row = {"cell": summary.cell.label, "seeds": len(summary.cell.runs)}
        for metric, interval in summary.over_seeds.items():
            resampled = summary.over_units.get(metric)
            row |= {
                metric: interval.mean,
                f"{metric} seed half width": interval.half_width,
                f"{metric} {unit} low": resampled and resampled.low,
                f"{metric} {unit} high": resampled and resampled.high,
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
    """Average what the runs took; where they differ in users (or questions), all numbers are given."""
    units = "evaluated_questions" if any(run.evaluated_questions for run in runs) else "evaluated_users"
    return {
        **_validation(runs),
        "fit (s)": _mean(run.timings_s.get("fit") for run in runs),
        "total (s)": _mean(run.timings_s.get("total") for run in runs),
        "s/step": _mean(run.timings_s.get("fit", 0.0) / run.steps if run.steps else None for run in runs),
        "negatives/s": _mean(negatives_per_second(run) for run in runs),
        "memory (MiB)": _mean(run.peak_memory_mib for run in runs),
        units.removeprefix("evaluated_"): " / ".join(dict.fromkeys(str(getattr(run, units) or "-") for run in runs)),
    }


def _validation(runs: Sequence[Run]) -> Row:
    """Average the validation metric of the weights that were tested: what settings are to be chosen by."""
    names = dict.fromkeys(name for run in runs for name in run.metrics if name.startswith("val/"))
    return {name: _mean(run.metrics.get(name) for run in runs) for name in names}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
