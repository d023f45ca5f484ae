"""A report as files: Markdown, CSV and plots in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.launch.storage import write_atomic
from src.report.comparison import Findings, Report, wings
from src.report.tables import as_csv, cell_rows, markdown, run_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
