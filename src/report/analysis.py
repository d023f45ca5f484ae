"""All that a report says about runs on a suite of questions beyond their comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from src.report.benchmark import answered_cells, benchmark_tables
from src.report.comparison import ANSWERS, Report
from src.report.layout import Table
from src.report.scaling import Point, curve, curve_table


@dataclass(frozen=True)
class Analysis:
    """Tables of the paper and others.

    Attributes:
        tables: In the order of the report.
        curves: Label and points of the cells with several attempts at a question.
        remarks: What is missing and why, in sentences.
    """

    tables: Sequence[Table]
    curves: Sequence[tuple[str, Sequence[Point]]]
    remarks: Sequence[str]


def analyse(report: Report) -> Analysis:
    """Analyse the runs on a suite; nothing comes of a report without such runs.

    Raises:
        InputError: a record of an episode is damaged.
    """
    cells = [cell for section in report.sections if section.kind is ANSWERS for cell in answered_cells(section.flat)]
    if not cells:
        return Analysis([], [], [])
    curves = [(cell.label, points) for cell in cells if (points := curve(cell))]
    tables = [*benchmark_tables(cells), *([curve_table(curves)] if curves else [])]
    return Analysis(tables, curves, [text for cell in cells for run in cell.runs for text in run.remarks])
