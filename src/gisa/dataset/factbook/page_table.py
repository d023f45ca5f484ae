"""A table of a page as lines of text, one a row, with the cells that span several rows or columns in each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

_MOST_COLUMNS, _MOST_ROWS = 1_000, 65_534  # that a cell may span, as the HTML standard has it


class _Cell(NamedTuple):
    """A cell: its text on one line, or the lines that cannot be one; the columns and rows that it spans."""

    text: str
    lines: Sequence[str] | None
    columns: int
    rows: int


class PageTable:
    """Cells as they come.

    Attributes:
        chars: How much text they hold.
    """

    def __init__(self) -> None:
        self.chars = 0
        self._rows: list[list[_Cell]] = []
        self._groups: set[int] = set()  # rows that begin a group; no cell reaches across

    def begin_row(self) -> None:
        """Let the next cells be a new row."""
        self._rows.append([])

    def end_group(self) -> None:
        """Let the next row begin a new group, as ``thead`` and ``tbody`` are."""
        self._groups.add(len(self._rows))

    def add(self, text: str, lines: Sequence[str] | None, columns: int | None, rows: int | None) -> None:
        """Append a cell to the row.

        Args:
            text: What it says, on one line.
            lines: The same as lines, where it holds headings or tables, and so is no cell but a part of the page.
            columns: How many it spans; None for one.
            rows: Likewise; 0 is all that are left of the group.
        """
        if not self._rows:
            self.begin_row()
        self.chars += len(text)
        span = _MOST_ROWS if rows == 0 else rows or 1
        self._rows[-1].append(
            _Cell(text, lines, min(max(columns or 1, 1), _MOST_COLUMNS), min(max(span, 1), _MOST_ROWS))
        )

    def lines(self, max_chars: int) -> Iterator[str]:
        """Yield the rows that say something; a row with a part of the page is laid out line by line.

        Args:
            max_chars: Where to stop, roughly: a few cells that span many rows and columns can ask for gigabytes.
        """
        # A row of one cell often spans more columns than there are.
        width = max((sum(cell.columns for cell in row) for row in self._rows if len(row) > 1), default=1)
        above: dict[int, list[tuple[int, str]]] = {}  # by column, where cells from above end, and what they say
        for number, row in enumerate(self._rows):
            if number in self._groups:
                above.clear()
            texts: list[str] = []
            for cell in row:
                _take(above, number, texts)
                text = "" if cell.lines else cell.text
                for _ in range(cell.columns if len(row) > 1 else min(cell.columns, width)):
                    if cell.rows > 1:
                        above.setdefault(len(texts), []).append((number + cell.rows, text))
                    texts.append(text)
            reached = [place for place in [*above] if _at(above, number, place) is not None]
            _take(above, number, texts, until=max(reached, default=0))
            if any(cell.lines for cell in row):
                for cell in row:
                    yield from cell.lines or [cell.text]
                continue
            line = " ".join(" | ".join(texts).split())
            max_chars -= len(line)
            if line.strip("| "):
                yield line
            if max_chars < 0:
                return


def _take(above: dict[int, list[tuple[int, str]]], row: int, texts: list[str], *, until: int = -1) -> None:
    """Put the cells from above into the places that they reach down to, and nothing into those between."""
    while (text := _at(above, row, len(texts))) is not None or len(texts) < until:
        texts.append(text or "")


def _at(above: dict[int, list[tuple[int, str]]], row: int, place: int) -> str | None:
    """Return what stands in a place from above: of two that overlap, the later one."""
    if place not in above:
        return None
    above[place] = reaching = [(end, text) for end, text in above[place] if end > row]
    if not reaching:
        del above[place]
        return None
    return reaching[-1][1]
