"""The report's tables, as Markdown and as rows of CSV files, and the folder that all of it is written to."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from src.launch.storage import write_atomic
from src.metrics.stats import Interval
from src.report.comparison import Comparison, Findings, Report, Section, Summary, wings
from src.report.runs import Collection, Run, as_typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Row = dict[str, object]


@dataclass(frozen=True)
class Estimate(Interval):
    """An interval that says how many questions it is over."""

    questions: int


class Column(NamedTuple):
    """A column: its key in the rows, its heading for readers, and the decimals shown."""

    key: str
    heading: str
    digits: int = 2


@dataclass(frozen=True)
class Table:
    """A table of a wing.

    Attributes:
        stem: Name of its CSV file.
        title: Heading above it.
        note: What the figures are, in sentences.
        columns: Those shown; the CSV file has them too, by their keys.
        rows: Label and values by key; None, or no value, is an empty cell.
    """

    stem: str
    title: str
    note: str
    columns: Sequence[Column]
    rows: Sequence[tuple[str, Mapping[str, object]]]

    def as_markdown(self) -> str:
        """Return heading, note and table; a mean shows how many questions it has where the row has others."""
        header = ["", *(column.heading for column in self.columns)]
        lines = [
            [label, *(_shown(row.get(key), digits, row.get("questions")) for key, _, digits in self.columns)]
            for label, row in self.rows
        ]
        return "\n\n".join([f"## {self.title}", self.note, markdown_table(header, lines)])

    def as_rows(self) -> list[Row]:
        """Return the rows for a CSV file, unrounded; a mean takes four columns."""
        rows = []
        for label, values in self.rows:
            row: Row = {"row": label}
            for key, _, _ in self.columns:
                value = row[key] = values.get(key)
                if isinstance(value, Estimate):
                    row |= {key: value.mean, f"{key} low": value.low, f"{key} high": value.high}
                    row |= {f"{key} n": value.questions}
            rows.append(row)
        return rows


def _shown(value: object, digits: int, questions: object) -> str:
    if isinstance(value, Estimate):
        count = "" if value.questions == questions else f" (n={value.questions})"
        return f"{value.mean:,.{digits}f} [{value.low:,.{digits}f}, {value.high:,.{digits}f}]{count}"
    return f"{value:,.{digits}f}" if isinstance(value, float) else "" if value is None else str(value)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table whose columns line up in a terminal: the first to the left, the others to the right."""
    cells = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in [header, *rows]]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        for row in cells
    ]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def as_csv(rows: Sequence[Row]) -> str:
    """Write rows as CSV; a row without a column of another has an empty field there."""
    text = io.StringIO()
    writer = csv.DictWriter(text, dict.fromkeys(key for row in rows for key in row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown(report: Report, findings: Sequence[Findings], title: str, images: Sequence[str] = ()) -> str:
    """Write the report as Markdown, with the findings of each section and the image files, by name, at its end."""
    parts = [f"# {title}", _counts(report.collection)]
    warnings = [
        *report.collection.warnings,
        *(text for section in report.sections for summary in section.summaries for text in summary.warnings),
        *(text for of_section in findings for text in of_section.warnings),
    ]
    if warnings:
        parts += ["## Warnings", "\n".join(f"- {text}" for text in warnings)]
    for section, of_section in zip(report.sections, findings, strict=True):
        parts += [*of_section.text, *_comparisons(section)]
    parts += [f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in images]
    return "\n\n".join(parts) + "\n"


def metric_tables(section: Section) -> list[str]:
    """Return a table of metrics and cost for each protocol, a cell a row."""
    parts = ["## Test metrics", f"Mean over the seeds ± half the width of {interval_kind(section)}."]
    for group in section.groups:
        parts += [f"Protocol: {as_typed(group[0].cell.protocol) or 'not recorded'}", _metric_table(group)]
    return parts


def joint_table(report: Report) -> str:
    """Return a sweep's cells side by side, in 80 columns: the metric they are compared by and the difference."""
    parts = [_counts(report.collection).partition("\n")[0]]
    for section in report.sections:
        compared = {comparison.cell.label: comparison.result for comparison in section.comparisons}
        rows = []
        shown = _in_little_room([_without_groups(summary.cell.label) for summary in section.summaries], 28)
        for label, summary in zip(shown, section.summaries, strict=True):
            result = compared.get(summary.cell.label)
            difference = "" if result is None else f"{result.difference.mean:+.4f}"
            figure = _plus_minus(shown_interval(summary, section.metric))
            rows.append([label, str(len(summary.cell.runs)), figure, difference])
        reference = next((one.baseline.method for one in section.comparisons if one.baseline), "the first")
        header = ["cell", "seeds", section.metric.removeprefix("test/"), _short(f"minus {reference}", 18)]
        parts += [markdown_table(header, rows), f"±: half the width of {interval_kind(section)}."]
    return "\n\n".join(parts)


def _without_groups(label: str) -> str:
    """Return a cell's label with its settings by their last names alone, so that there is room for what they are."""
    for value, short in (("false", "kept"), ("true", "excluded")):
        label = label.replace(f"(exclude_history={value})", f"({short})")
    return re.sub(r"(?<!\S)[^\s=]*\.(?=[^\s.=]+=)", "", label)


def _in_little_room(labels: list[str], most: int) -> list[str]:
    """Return labels so short that they can still be told apart: without what all have, with shorter names of settings.

    What is longer still is cut.
    """
    if max(map(len, labels), default=0) <= most:
        return labels
    parts = [re.split(r"\s+(?=[^\s=]+=|\()", label) for label in labels]
    shared = set.intersection(*map(set, parts)) if len(parts) > 1 else set()
    if all(set(one) - shared for one in parts):
        parts = [[part for part in one if part not in shared] for one in parts]
    for length in range(max(map(len, labels)), 2, -1):
        cut = [" ".join(re.sub(rf"^([^\s=]{{{length}}})[^\s=]+=", r"\1…=", part) for part in one) for one in parts]
        if max(map(len, cut)) <= most:
            break
    return [_short(label, most) for label in cut]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shown_interval(summary: Summary, metric: str) -> Interval:
    """Return a cell's mean with the interval that tables and plots show; see ``interval_kind``."""
    over_seeds = summary.over_seeds[metric]
    return over_seeds if len(summary.cell.runs) > 1 else summary.over_units.get(metric, over_seeds)


def interval_kind(section: Section) -> str:
    """Return in words what the intervals of a section are over: seeds, or, of one seed, what it was scored on."""
    alone = f"a 95% bootstrap over {section.wing.unit}"
    several = [len(summary.cell.runs) > 1 for summary in section.summaries]
    if not any(several):
        return alone
    return "Student's 95% interval over the seeds" + ("" if all(several) else f", of one seed {alone}")


def _metric_table(group: Sequence[Summary]) -> str:
    metrics = [name.removeprefix("test/") for name in group[0].over_seeds]
    costs = [cost_of(summary.cell.runs) for summary in group]
    names = dict.fromkeys(name for cost in costs for name in cost)
    known = [name for name in names if any(cost.get(name) is not None for cost in costs)]
    rows = []
    for summary, cost in zip(group, costs, strict=True):
        figures = [_plus_minus(shown_interval(summary, metric)) for metric in summary.over_seeds]
        shown = [_rounded(cost.get(name)) for name in known]
        rows.append([summary.cell.method, str(len(summary.cell.runs)), *figures, *shown])
    return markdown_table(["cell", "seeds", *metrics, *known], rows)


def _rounded(value: object) -> str:
    """Write whole numbers, but digits of those below 10, and what is absent as a dash."""
    return f"{value:.{4 if abs(value) < 10 else 0}f}" if isinstance(value, float) else str(value or "-")


def _plus_minus(interval: Interval) -> str:
    return f"{interval.mean:.4f}" + ("" if math.isnan(interval.half_width) else f" ± {interval.half_width:.4f}")


def _comparisons(section: Section) -> list[str]:
    units, parts = section.wing.unit, []
    if section.comparisons:
        parts += [
            f"## Paired differences in {section.metric}",
            f"Same {units}, same seeds; 95% interval by bootstrap over {units} and seeds (over {units} only for one "
            "seed).",
            _comparison_table(section.comparisons),
        ]
    reasons = [
        f"- {beside.cell.label}, not compared: {beside.reason}." for beside in section.comparisons if beside.reason
    ]
    return [*parts, *(["\n".join(reasons)] if reasons else [])]


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    header = ["cell", "minus", "seeds", "difference", "95% interval", "relative", "resamples > 0"]
    rows = []
    for comparison in comparisons:
        figures = ["-"] * 4
        if result := comparison.result:
            figures = [
                f"{result.difference.mean:+.4f}",
                f"{result.difference.low:+.4f} to {result.difference.high:+.4f}",
                "-" if math.isnan(result.relative) else f"{result.relative:+.1%}",
                f"{result.share_above_zero:.1%}",
            ]
        baseline = comparison.baseline.label if comparison.baseline else "-"
        rows.append([comparison.cell.label, baseline, str(len(comparison.seeds)), *figures])
    return markdown_table(header, rows)


def _counts(collection: Collection) -> str:
    finished, failed, pruned = (collection.having(status) for status in ("finished", "failed", "pruned"))
    unfinished = [*collection.having("running"), *collection.having("interrupted")]
    lines = [f"- failed: {run.label} seed={run.seed} ({run.folder}): {run.error}" for run in failed]
    lines += [f"- unfinished: {run.label} seed={run.seed} ({run.folder})" for run in unfinished]
    lines += [f"- missing: {text}" for text in collection.missing]
    count = (
        f"Runs: {len(finished)} finished, {len(failed)} failed, {len(unfinished)} unfinished, "
        f"{len(collection.missing)} missing{f', {len(pruned)} ended early by the search' if pruned else ''}."
    )
    count += "".join(f"\n\n{who}: `{' '.join(overrides)}`" for who, overrides in collection.shared.items())
    return "\n\n".join([count, "\n".join(line.partition("\n")[0] for line in lines)]).rstrip()


def cell_rows(report: Report) -> list[Row]:
    """Return one row a cell: means, both kinds of interval, cost, and the difference from the baseline."""
    compared = {comparison.cell.label: comparison for comparison in report.comparisons}
    return [
        _cell_row(summary, compared.get(summary.cell.label), section.wing.unit.removesuffix("s"))
        for section in report.sections
        for summary in section.summaries
    ]


def _cell_row(summary: Summary, comparison: Comparison | None, unit: str) -> Row:
    row: Row = {"cell": summary.cell.label, "seeds": len(summary.cell.runs)}
    for metric, interval in summary.over_seeds.items():
        resampled = summary.over_units.get(metric)
        row |= {
            metric: interval.mean,
            f"{metric} seed half width": interval.half_width,
            f"{metric} {unit} low": resampled and resampled.low,
            f"{metric} {unit} high": resampled and resampled.high,
        }
    result = comparison.result if comparison else None
    return row | {
        **cost_of(summary.cell.runs),
        "baseline": comparison.baseline.label if comparison and comparison.baseline else None,
        "difference": result and result.difference.mean,
        "difference low": result and result.difference.low,
        "difference high": result and result.difference.high,
        "difference relative": result and result.relative,
        "resamples above 0": result and result.share_above_zero,
    }


def run_row(run: Run) -> Row:
    """Return what is known about one run."""
    return {
        "folder": run.folder,
        "label": run.label,
        "seed": run.seed,
        "status": run.status,
        "error": run.error,
        **run.metrics,
        **cost_of([run]),
        "started_at": run.started_at.isoformat(),
        "commit": run.commit,
    }


def cost_of(runs: Sequence[Run]) -> Row:
    """Average what the runs took; where they differ in users (or questions), all numbers are given.

    First is the validation metric of the weights that were tested: what settings are to be chosen by.
    """
    units = "evaluated_questions" if any(run.evaluated_questions for run in runs) else "evaluated_users"
    validation = dict.fromkeys(name for run in runs for name in run.metrics if name.startswith("val/"))
    return {
        **{name: _mean(run.metrics.get(name) for run in runs) for name in validation},
        "fit (s)": _mean(run.timings_s.get("fit") for run in runs),
        "total (s)": _mean(run.timings_s.get("total") for run in runs),
        "s/step": _mean(run.timings_s.get("fit", 0.0) / run.steps if run.steps else None for run in runs),
        "negatives/s": _mean(map(_negatives_per_second, runs)),
        "memory (MiB)": _mean(run.peak_memory_mib for run in runs),
        units.removeprefix("evaluated_"): " / ".join(dict.fromkeys(str(getattr(run, units) or "-") for run in runs)),
    }


def _negatives_per_second(run: Run) -> float | None:
    """Return how many negatives the run learned from in a second of fitting, validation and preparations included.

    Rejected items of a preference method, answers without the true item of GRPO, self-hard negatives (tokens) of ILRec:
    the mean over the logged steps, times all steps. None where none were logged.
    """
    seconds = run.timings_s.get("fit")
    logged = run.curves().get("train/negatives") if seconds and run.steps else None
    return float(np.mean(list(logged.values()))) * run.steps / seconds if logged and run.steps and seconds else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def write_report(report: Report, out: Path, title: str) -> str:
    """Write ``report.md``, ``report.csv``, ``runs.csv``, a CSV file a further table, and the plots into a folder.

    Returns:
        The Markdown text.

    Raises:
        InputError: a run's ``metrics.csv`` or one of its records cannot be read.
    """
    findings = [section.wing.findings(section) for section in report.sections]
    text = markdown(report, findings, title, _write_plots(report, findings, out))
    write_atomic(out / "report.md", text)
    write_atomic(out / "report.csv", as_csv(cell_rows(report)))
    write_atomic(out / "runs.csv", as_csv([run_row(run) for run in report.collection.runs]))
    for table in (table for of_section in findings for table in of_section.tables):
        write_atomic(out / f"{table.stem}.csv", as_csv(table.as_rows()))
    return text


def _write_plots(report: Report, findings: Sequence[Findings], out: Path) -> list[str]:
    """Draw what the runs allow; return the names of the PNG files."""
    if not report.sections and not report.untested:
        return []
    from src.report.plots import curves, save  # Matplotlib takes a second to import, and `--help` does not need it

    figures: dict[str, Figure | None] = {}
    for of_section in findings:
        figures |= of_section.draw()
    figures["learning"] = curves(
        report.untested, {name: text for wing in wings() for name, text in wing.learning.items()}
    )
    drawn = {stem: figure for stem, figure in figures.items() if figure}
    for stem, figure in drawn.items():
        save(figure, out / stem)
    return [f"{stem}.png" for stem in drawn]
