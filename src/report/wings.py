"""What a wing adds to the report, and where it is looked for: the report itself knows neither users nor questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from src.report.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from src.report.comparison import Section
    from src.report.tables import Table

Scores = Callable[[str], NDArray[np.float64]]
"""By metric, the scores of shape ``(runs, units)``."""


@dataclass(frozen=True)
class Findings:
    """What a wing says about its runs above their comparisons.

    Attributes:
        text: Markdown, in paragraphs and tables.
        draw: Draws the figures that the runs allow, by the stem of their files.
        tables: Those of the text that are written as CSV files as well.
        warnings: What is missing and why, in sentences.
    """

    text: Sequence[str]
    draw: Callable[[], Mapping[str, Figure | None]]
    tables: Sequence[Table] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Wing:
    """How the runs of a wing are scored and shown.

    Attributes:
        unit: What is scored and resampled, in the plural, such as users.
        file: In the run folder, with the scores of each unit.
        default_metric: Of the comparisons.
        default_baseline: Name of the cell that the others are compared with, if there is one.
        metrics: Returns the test metrics of runs that follow from the file; none means that they are of another wing.
        scores: Reads the file of runs; raises an ``InputError`` where they have not all units in common.
        findings: Says what is known about the runs; raises an ``InputError`` where a file of theirs is damaged.
        learning: What trainings log whose models other runs test: by metric, its name at the axis.
        flags: Further flags of the command, without their dashes, and their help.
        write_files: Writes further files about finished runs of any wing, below the report's folder or the runs', by
            the flags that were given, and tells where they are.
    """

    unit: str
    file: str
    default_metric: str
    default_baseline: str
    metrics: Callable[[Sequence[Run]], list[str]]
    scores: Callable[[Sequence[Run]], Scores]
    findings: Callable[[Section], Findings]
    learning: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    write_files: Callable[[Sequence[Run], Path, Mapping[str, Any]], Iterable[str]] = lambda runs, out, options: ()


def wings() -> list[Wing]:
    """Return the ``WING`` of every module ``src.<wing>.report.wing``."""
    names = sorted(path.parts[-3] for path in Path(__file__).parents[1].glob("*/report/wing.py"))
    return [import_module(f"src.{name}.report.wing").WING for name in names]
