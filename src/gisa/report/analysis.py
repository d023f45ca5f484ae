"""All that a report says about runs on a suite of questions beyond their comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from src.gisa.report.benchmark import answered_cells, benchmark_tables, exact_by_kind
from src.gisa.report.scaling import Point, curve, curve_table
from src.report.comparison import ANSWERS, Report
from src.report.layout import Estimate, Table


@dataclass(frozen=True)
class Analysis:
    """Tables of the paper and others.

    Attributes:
        tables: In the order of the report.
        curves: Label and points of the cells with several attempts at a question.
        kinds: Label of each cell and its exact match by kind of question; see ``exact_by_kind``.
        remarks: What is missing and why, in sentences.
    """

    tables: Sequence[Table]
    curves: Sequence[tuple[str, Sequence[Point]]]
    kinds: Sequence[tuple[str, Mapping[str, Estimate]]]
    remarks: Sequence[str]


def analyse(report: Report) -> Analysis:
    """Analyse the runs on a suite; nothing comes of a report without such runs.

    Raises:
        InputError: a record of an episode is damaged.
    """
    cells = [cell for section in report.sections if section.kind is ANSWERS for cell in answered_cells(section.flat)]
    if not cells:
        return Analysis([], [], [], [])
    curves = [(cell.label, points) for cell in cells if (points := curve(cell))]
    tables = [*benchmark_tables(cells), *([curve_table(curves)] if curves else [])]
    kinds = [(cell.label, exact_by_kind(cell)) for cell in cells]
    return Analysis(tables, curves, kinds, [text for cell in cells for run in cell.runs for text in run.remarks])
