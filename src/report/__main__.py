"""The command: ``python -m src.report FOLDER...``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from src.errors import InputError
from src.report.comparison import Report, build_report
from src.report.tables import as_csv, cell_rows, markdown, run_row
from src.storage import write_atomic


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report, print its text, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m src.report", description="Tables and plots over runs and sweeps.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a run folder, or one that holds some")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: report/ in the first FOLDER)")
    parser.add_argument("--metric", default="test/ndcg@10", help="metric to compare by user (default: %(default)s)")
    parser.add_argument("--baseline", metavar="NAME", help="cell to compare with (default: sft, or else the first)")
    parser.add_argument("--title", default="Report", help="heading of report.md")
    options = parser.parse_args(arguments)
    out = options.out or options.folders[0] / "report"
    try:
        report = build_report(options.folders, options.metric, options.baseline)
        print(write_report(report, out, options.title))
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Written to {out}")
    return 0


def write_report(report: Report, out: Path, title: str) -> str:
    """Write ``report.md``, ``report.csv``, ``runs.csv`` and the plots into a folder.

    Returns:
        The Markdown text.

    Raises:
        InputError: a run's ``metrics.csv`` cannot be read.
    """
    text = markdown(report, title, _write_plots(report, out))
    write_atomic(out / "report.md", text)
    write_atomic(out / "report.csv", as_csv(cell_rows(report)))
    write_atomic(out / "runs.csv", as_csv([run_row(run) for run in report.collection.runs]))
    return text


def _write_plots(report: Report, out: Path) -> list[str]:
    """Draw what the runs allow; return the names of the PNG files."""
    if not report.summaries:
        return []
    from src.report import plots  # matplotlib takes a second to import, and `--help` does not need it

    cells = [summary.cell for summary in report.all_summaries]
    figures = {
        "metrics": plots.metric_bars(report.summaries),
        "training_curves": plots.training_curves(cells, report.metric),
    }
    for stem, figure in figures.items():
        if figure:
            plots.save(figure, out / stem)
    return [f"{stem}.png" for stem, figure in figures.items() if figure]


if __name__ == "__main__":
    sys.exit(main())
