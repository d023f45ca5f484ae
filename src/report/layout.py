"""Tables as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Row = dict[str, object]


class Estimate(NamedTuple):
    """A mean with the ends of its 95% interval, and the number of questions that it is over."""

    mean: float
    low: float
    high: float
    questions: int


class Column(NamedTuple):
    """A column: its key in the rows, its heading for readers, and the decimals shown."""

    key: str
    heading: str
    digits: int = 2


@dataclass(frozen=True)
class Table:
    """A table of the report.

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
                value = values.get(key)
                row[key] = value.mean if isinstance(value, Estimate) else value
                if isinstance(value, Estimate):
                    row |= {f"{key} low": value.low, f"{key} high": value.high, f"{key} n": value.questions}
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
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    lines = [
        [
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in cells
    ]
    rule = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def as_csv(rows: Sequence[Row]) -> str:
    """Write rows as CSV; a row without a column of another has an empty field there."""
    text = io.StringIO()
    writer = csv.DictWriter(text, dict.fromkeys(key for row in rows for key in row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
