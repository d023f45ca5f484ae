"""Tables and plots over runs and sweeps: ``python -m src.report FOLDER...``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from src.launch.errors import InputError
from src.launch.progress import Line
from src.report.comparison import build_report, wings
from src.report.tables import write_report


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
    except OSError as error:
        in_the_way = Path(str(error.filename2 or error.filename or ""))
        if not (in_the_way.is_relative_to(out) or out.is_relative_to(in_the_way)):
            raise
        print(f"Cannot write into {out}: {error.strerror}.\nMend that, or type  --out=<another>", file=sys.stderr)
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


if __name__ == "__main__":
    sys.exit(main())
