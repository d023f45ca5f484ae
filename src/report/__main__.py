"""The command: ``python -m src.report FOLDER...``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.gisa.report.analysis import Analysis, analyse
from src.gisa.report.leaderboard import write_answers
from src.gisa.report.page import write_pages
from src.launch.errors import InputError
from src.launch.storage import write_atomic
from src.report.comparison import ANSWERS, Report, build_report
from src.report.layout import as_csv
from src.report.tables import cell_rows, markdown, run_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report, print its text, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m src.report", description="Tables and plots over runs and sweeps.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a run folder, or one that holds some")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: report/ in the first FOLDER)")
    parser.add_argument(
        "--metric", help="to compare by user or question (default: test/ndcg@10, or test/global_em on a suite)"
    )
    parser.add_argument(
        "--baseline", metavar="NAME", help="cell to compare with (default: sft, or gisa_rollout; or else the first)"
    )
    parser.add_argument(
        "--leaderboard", action="store_true", help="write the answers of runs on a suite as leaderboards take them"
    )
    parser.add_argument(
        "--show-questions", action="store_true", help="put the questions of GISA into the pages of its runs, in clear"
    )
    parser.add_argument("--title", default="Report", help="heading of report.md")
    options = parser.parse_args(arguments)
    out = options.out or options.folders[0] / "report"
    try:
        report = build_report(options.folders, options.metric, options.baseline)
        print(write_report(report, out, options.title))
        for run in report.collection.having("finished") if options.leaderboard else []:
            if run.evaluated_questions:
                print(f"Answers written to {write_answers(run, out / 'leaderboard')}")
        for line in write_pages(report.collection.having("finished"), show_questions=options.show_questions):
            print(line)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Written to {out}")
    return 0


def write_report(report: Report, out: Path, title: str) -> str:
    """Write ``report.md``, ``report.csv``, ``runs.csv``, a CSV file a further table, and the plots into a folder.

    Returns:
        The Markdown text.

    Raises:
        InputError: a run's ``metrics.csv`` or one of its records cannot be read.
    """
    analysis = analyse(report)
    text = markdown(report, title, analysis.tables, _write_plots(report, analysis, out), analysis.remarks)
    write_atomic(out / "report.md", text)
    write_atomic(out / "report.csv", as_csv(cell_rows(report)))
    write_atomic(out / "runs.csv", as_csv([run_row(run) for run in report.collection.runs]))
    for table in analysis.tables:
        write_atomic(out / f"{table.stem}.csv", as_csv(table.as_rows()))
    return text


def _write_plots(report: Report, analysis: Analysis, out: Path) -> list[str]:
    """Draw what the runs allow; return the names of the PNG files."""
    if not report.sections and not report.untested:
        return []
    from src.report import plots  # matplotlib takes a second to import, and `--help` does not need it
    from src.report.curve_plots import AGENT_CURVES, LAYER_CURVES, curves, training_curves
    from src.report.interval_plots import metric_intervals

    figures: dict[str, Figure | None] = {}
    for section in report.sections:
        if section.kind is ANSWERS:
            figures["exact_match"] = plots.metric_bars(section)
            continue
        cells = [summary.cell for summary in section.flat]
        figures["metrics"] = metric_intervals(section)
        figures["training_curves"] = training_curves(cells, section.metric)
        figures["layers"] = curves(cells, LAYER_CURVES)
    if analysis.curves:
        figures["figure_5"] = plots.attempts_curve(analysis.curves)
    if any(len(kinds) > 1 for _, kinds in analysis.kinds):
        figures["exact_match_by_kind"] = plots.by_kind(analysis.kinds)
    figures["learning"] = curves(report.untested, AGENT_CURVES)
    for stem, figure in figures.items():
        if figure:
            plots.save(figure, out / stem)
    return [f"{stem}.png" for stem, figure in figures.items() if figure]


if __name__ == "__main__":
    sys.exit(main())
