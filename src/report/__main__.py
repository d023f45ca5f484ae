"""Tables and plots over runs and sweeps: ``python -m src.report FOLDER...``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from src.launch.errors import InputError
from src.launch.progress import Line
from src.launch.storage import write_atomic
from src.report.comparison import Findings, Report, build_report, wings
from src.report.tables import as_csv, cell_rows, markdown, run_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report, print its text, and return the exit status."""
    metrics = " or ".join(f"{wing.default_metric} of {wing.unit}" for wing in wings())
    baselines = " or ".join(wing.default_baseline for wing in wings())
    parser = argparse.ArgumentParser(prog="python -m src.report", description="Tables and plots over runs and sweeps.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a run folder, or one that holds some")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: report/ in the first FOLDER)")
    parser.add_argument("--metric", help=f"to compare by (default: {metrics})")
    parser.add_argument(
        "--baseline", metavar="NAME", help=f"cell to compare with (default: {baselines}, or else the first)"
    )
    for flag, text in (pair for wing in wings() for pair in wing.flags.items()):
        parser.add_argument(f"--{flag}", action="store_true", help=text)
    parser.add_argument("--wandb", action="store_true", help="send it to Weights & Biases, as a run of its own")
    parser.add_argument("--workspace", action="store_true", help="with --wandb: save each paper's workspace and report")
    parser.add_argument("--live", action="store_true", help="show how far the run in FOLDER is, until it ends")
    parser.add_argument("--title", default="Report", help="heading of report.md")
    options = parser.parse_args(arguments)
    out = options.out or options.folders[0] / "report"
    try:
        if options.live:
            return watch(options.folders[0])
        with Line("Reading and comparing the runs"):
            report = build_report(options.folders, options.metric, options.baseline)
        with Line("Writing tables and plots"):
            text = write_report(report, out, options.title)
        print(text)
        for wing in wings():
            for line in wing.write_files(report.collection.having("finished"), out, vars(options)):
                print(line)
        if options.wandb or options.workspace:
            from src.report.publish import publish

            print(publish(report, out, options.title, views=options.workspace))
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Written to {out}")
    return 0


def watch(folder: Path) -> int:
    """Show how far a run is, every two seconds until it ends or Ctrl-C; once where no terminal reads it.

    Raises:
        InputError: the folder holds no run that can be watched.
    """
    views = next(wing.watch for wing in wings() if wing.watch)(folder)
    with suppress(KeyboardInterrupt):
        for text, at_work in views:
            print(f"\033[2J\033[H{text}" if sys.stdout.isatty() else text, flush=True)
            if not at_work or not sys.stdout.isatty():
                break
            time.sleep(2.0)
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
