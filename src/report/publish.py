"""A report as a run of its own on Weights & Biases: tables, plots and text; the jobs of a sweep get one at its end."""

from __future__ import annotations

import csv
import html
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from src.launch.errors import InputError
from src.launch.progress import Line

if TYPE_CHECKING:
    from src.report.comparison import Report

log = logging.getLogger("run")


def publish(report: Report, out: Path, title: str, *, views: bool = False) -> str:
    """Send what is in the folder of a report; publishing it again changes the same run.

    Args:
        report: Of the runs, whose settings say where to.
        out: Its folder, with ``report.md``, CSV files and plots.
        title: Heading of it.
        views: Whether to save each paper's workspace and report, too.

    Returns:
        Where it is, in words.

    Raises:
        InputError: W&B is switched off, a key or a package is missing, or no server answers where one is needed.
    """
    from src.training.dashboard import open_summary

    runs = report.collection.runs
    settings: dict[str, Any] = next((run.config["logger"] for run in runs if _on_wandb(run.config)), {})
    papers = [{"users": "ILRec", "questions": "GISA"}[section.wing.unit] for section in report.sections]
    about = {
        "name": f"report {runs[0].source.resolve().name}",
        "group": runs[0].source.resolve().name,
        "tags": [*papers, "report"],
        "config": {"runs": [str(run.folder) for run in runs], "title": title},
    }
    summary = open_summary(out, settings, **about)
    text = (out / "report.md").read_text()
    exit_code = 1
    try:
        content: dict[str, Any] = {"report/text": summary.page(f"<pre>{html.escape(text)}</pre>")}
        for path in sorted(out.glob("*.csv")):
            columns, rows = _read(path)
            content[f"report/{path.stem}"] = summary.table(columns, rows)
        content |= {f"report/{path.stem}": summary.picture(path) for path in sorted(out.glob("*.png"))}
        summary.show(**content)
        exit_code = 0
    finally:
        summary.end(exit_code)
    lines = [f"Published: {summary.address}"]
    if views and summary.entity:
        from src.report.workspace import save_views

        lines += save_views(papers, summary.entity, summary.project, text)
    elif views:
        lines.append("No workspace: that run is offline. Type:  export WANDB_MODE=online")
    return "\n".join(lines)


class SweepSummary(Callback):
    """Print the joint table of a sweep at its end, and publish its report where its jobs were on W&B."""

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Say how the jobs compare and what to type next; what is wrong with it does not fail the sweep."""
        from src.launch.process import first_process

        if not first_process():
            return
        from src.report.comparison import build_report
        from src.report.tables import joint_table

        folder = Path(config.hydra.sweep.dir)
        try:
            with Line("Comparing the jobs"):
                report = build_report([folder])
        except InputError as error:
            log.warning("No table of the sweep: %s", error)
            return
        print(f"\n{joint_table(report)}")
        self._publish(report, config.get("logger") or {}, folder)
        print(f"Tables, plots, intervals:  python -m src.report {shlex.quote(str(folder))}")

    @staticmethod
    def _publish(report: Report, node: Any, folder: Path) -> None:
        """Write the report into the sweep's folder and send it, where its jobs were on W&B."""
        from src.launch.account import mode_of

        if not _on_wandb({"logger": node}) or mode_of(node.get("mode")) == "disabled":
            return
        from src.report.files import write_report

        try:
            with Line("Writing the report"):
                write_report(report, folder / "report", "Report")
            log.info("%s", publish(report, folder / "report", "Report"))
        except InputError as error:
            log.warning("No summary of the sweep on W&B: %s", error)


def _on_wandb(config: Any) -> bool:
    return str((config.get("logger") or {}).get("_target_")).endswith(".wandb_logger")


def _read(path: Path) -> tuple[Sequence[str], list[list[Any]]]:
    """Return columns and rows of a CSV file, numbers as numbers and nothing as None."""
    with path.open(newline="") as stream:
        columns, *rows = csv.reader(stream)
    return columns, [[_value(text) for text in row] for row in rows]


def _value(text: str) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text
