"""Delimited text to a table of normalised cells, as the official GISA script gets it from pandas, without pandas.

pandas' own readings of one text differ between its releases; here the behaviour of pandas 3.1 is written down once.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Literal

# What pandas.read_csv takes for a missing value, before any white space is stripped.
MISSING = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN")
    + ("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null")
)
_MOST_CELLS = 5_000_000
_SPACE = " \t\n\v\f\r"
_WHOLE = re.compile(rf"[{_SPACE}]*[+-]?[0-9]+(?P<trail>[{_SPACE}]*)")


class TableError(ValueError):
    """The text is not a table; the message says why."""


class Table:
    """A table whose rows all have as many cells as there are columns.

    Cells are normalised when they are asked for: of a huge wrong answer, most never are.

    Attributes:
        columns: Normalised names; two may be equal.
        height: Number of rows.
    """

    def __init__(
        self, columns: list[str], cells: Sequence[Sequence[str]], form: Callable[[Sequence[str], int], list[str]]
    ) -> None:
        """Take normalised names, raw cells by column, and what normalises the first so many cells of a whole column."""
        self.columns = columns
        self.height = len(cells[0]) if cells else 0
        self._cells = cells
        self._form = form
        self._known: dict[int, list[str]] = {}

    def column(self, number: int) -> list[str]:
        """Return the cells of one column, counted as in a list."""
        number %= len(self.columns)
        if number not in self._known:
            self._known[number] = self._form(self._cells[number], self.height)
        return self._known[number]

    def first_row(self) -> list[str]:
        """Return the cells of the first row."""
        return [self._form(cells, 1)[0] for cells in self._cells]

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """All cells."""
        return list(zip(*map(self.column, range(len(self.columns))), strict=True))

    def without_first_row(self) -> Table:
        """Return a table of the other rows."""
        return Table(self.columns, [cells[1:] for cells in self._cells], self._form)

    def renamed(self, columns: Sequence[str]) -> Table:
        """Return the table with other normalised names."""
        return Table(list(columns), self._cells, self._form)

    def has_cells_of(self, other: Table) -> bool:
        """Tell whether all cells are equal, whatever the names."""
        same_shape = (len(self.columns), self.height) == (len(other.columns), other.height)
        return same_shape and all(self.column(number) == other.column(number) for number in range(len(self.columns)))


def read_table(text: str, delimiter: str, *, header: bool) -> Table:
    """Read delimited text as ``pandas.read_csv`` does, and normalise its names and cells.

    Three habits of pandas show in scores. A row shorter than the first row of data is filled up with empty cells. A row
    longer than it makes the text unreadable. Where the rows have more cells than the header, the first ones become the
    index, and so are lost. Types that pandas infers do not show, as normalising a number's text gives the same.

    Source: the official GISA script (RUC-NLPIR/GISA, commit 12f6150), on pandas 3.1.

    Args:
        text: The whole content.
        delimiter: A tab or a comma.
        header: Whether the first row holds the names; without, they are "0", "1", ...

    Returns:
        The table, without its index.

    Raises:
        TableError: there is no row, a row is too long, there are too many cells, a quotation mark is never closed, or
            a character cannot be encoded.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TableError(f"half a surrogate pair at character {error.start}") from error
    records = split_records(text.removeprefix("\ufeff"), delimiter)
    names = distinct(next(records, [])) if header else []
    first = next(records, [])
    width = max(len(names), len(first))
    if not width:
        raise TableError("no rows")
    columns = filled_columns(chain([first] if first else [], records), width)
    names = names or [str(number) for number in range(width)]
    return Table([normalised_name(name) for name in names], columns[width - len(names) :], _normalised_cells)


def filled_columns(records: Iterable[Sequence[str]], width: int) -> list[Sequence[str]]:
    """Return the columns of records, of which those that are shorter than ``width`` are filled up with empty cells.

    Raises:
        TableError: a record is longer, or there are more than 5,000,000 cells, as a few short lines can ask for.
    """
    cells: list[str] = []  # and no list a record: millions of these would keep the garbage collector busy
    for record in records:
        if len(record) > width:
            raise TableError(f"a row of {len(record)} cells among rows of {width}")
        if len(cells) + width > _MOST_CELLS:
            raise TableError(f"more than {_MOST_CELLS:,} cells")
        cells.extend(record)
        cells.extend([""] * (width - len(record)))
    return [cells[column::width] for column in range(width)]


def _normalised_cells(cells: Sequence[str], count: int) -> list[str]:
    missing = MISSING if not _keeps_missing(cells) else ()
    forms = {cell: "" if cell in missing else normalised(cell) for cell in set(cells[:count])}
    return [forms[cell] for cell in cells[:count]]


def _keeps_missing(cells: Sequence[str]) -> bool:
    """Whether pandas leaves N/A and the like as they are in this column.

    It does where it takes the column for whole numbers, meets one that 64 bits cannot hold, and then fails to make
    anything else of the column: there are other cells than whole numbers, or missing ones and negative ones besides.
    """
    given = [cell for cell in cells if cell not in MISSING]
    if len(given) == len(cells) or _whole_number_fault(given, -(2**63), 2**63) != "range":
        return False
    unsigned = [cell for cell in given if not cell.lstrip(_SPACE).startswith("-")]
    fault = _whole_number_fault(unsigned, 0, 2**64)
    if fault is None and any(int(cell) >= 2**63 for cell in unsigned):
        return True
    return fault != "form" and not all(map(_is_whole, given))


def _whole_number_fault(cells: Sequence[str], low: int, end: int) -> Literal["form", "range"] | None:
    """Return what is wrong with the first cell that is not a whole number from ``low`` to below ``end``."""
    for cell in cells:
        whole = _WHOLE.fullmatch(cell)
        if not whole:
            return "form"
        if not low <= int(cell[:4000]) < end:  # Python reads at most 4,300 digits
            return "form" if whole["trail"] else "range"
    return None


def _is_whole(cell: str) -> bool:
    """Whether Python reads the cell as a whole number; unlike pandas' own reader it allows underscores."""
    try:
        return cell.isascii() and int(cell) is not None
    except ValueError:
        return False


def split_records(text: str, delimiter: str) -> Iterator[list[str]]:
    r"""Split delimited text into records of one field or more.

    A field that starts with a quotation mark runs to its closing one, across delimiters and line ends, and on to the
    next delimiter; any other quotation mark is a character like others. Lines end with ``\n``, ``\r\n`` or ``\r``.
    Lines of nothing but spaces (and tabs, where they do not delimit) are dropped.

    Args:
        text: The whole content.
        delimiter: A tab or a comma.

    Raises:
        TableError: a quotation mark is never closed.
    """
    blank = " \t".replace(delimiter, "")
    if '"' not in text and "\r" not in text:
        yield from (line.split(delimiter) for line in text.split("\n") if line.strip(blank))
        return
    # By a slip of pandas, a blank line's `\r` swallows a delimiter behind it, unless leading spaces of a field follow.
    blank_line = re.compile(rf"[{blank}]*+(?:\r\n|\n|\r(?:{delimiter}(?![{blank}]++[^{blank}\r\n]))?|\Z)")
    field = re.compile(
        r'(?:"(?P<quoted>[^"]*+(?:""[^"]*+)*+)(?P<close>"?))?+'
        rf"(?P<plain>[^{delimiter}\r\n]*+)(?P<end>{delimiter}|\r\n|\n|\r|\Z)"
    )
    position = 0
    while position < len(text):
        if skipped := blank_line.match(text, position):
            position = skipped.end()
            continue
        record, end = [], delimiter
        while end == delimiter:
            match = field.match(text, position)
            assert match
            quoted, close, plain, end = match.group("quoted", "close", "plain", "end")
            if close == "":
                raise TableError("a quotation mark that is never closed")
            record.append(plain if quoted is None else quoted.replace('""', '"') + plain)
            position = match.end()
        yield record


def tsv_block(rows: Iterable[Sequence[str]]) -> str:
    """Write a table, its column names first, as an agent is to give it: tab-separated values in a code block.

    Cells with quotation marks, tabs or line ends are quoted. A space, which the scorer strips, comes before each: so
    names have the tokens that they have in sentences and lists, while at the beginning of a line a model would have to
    spell them from memory.
    """
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows([f" {cell}" for cell in row] for row in rows)
    return f"```tsv\n{text.getvalue()}```"


def normalised(cell: str) -> str:
    """Return the form in which the official script compares a cell.

    Numbers lose thousands' commas, dollar signs and zeros at either end, and are rounded to 6 decimals; a percentage
    becomes a fraction. Other text becomes lower case without spaces, asterisks and line feeds. What Python's ``float``
    reads is a number, so ``1_000``, ``inf`` and digits of other scripts are.

    Source: the official GISA script.
    """
    cell = cell.strip()
    lower = cell.lower()
    if lower in ("", "nan", "none", "null"):
        return ""
    if not cell[0].isalpha() or lower[0] in "in":  # inf and nan; for other words a failing `float` would take the time
        digits = cell.replace(",", "").replace("$", "")
        try:  # noqa: SIM105 - `suppress` would take a third of the time of reading a table
            number = float(digits[:-1]) / 100 if digits.endswith("%") else float(digits)
            return str(int(number)) if number.is_integer() else f"{number:.6f}".rstrip("0").rstrip(".")
        except ValueError:
            pass
    return lower.replace(" ", "").replace("*", "").replace("\n", "")


def normalised_name(name: str) -> str:
    """Return the form in which the official script compares the name of a column."""
    return name.strip().lower().replace(" ", "")


def distinct(header: Sequence[str]) -> list[str]:
    """Name unnamed columns and number repeated names, as pandas does: a, a, a.1 become a, a.2, a.1."""
    names = [name or f"Unnamed: {number}" for number, name in enumerate(header)]
    present, met = Counter(names), Counter[str]()
    for column in sorted(range(len(names)), key=lambda column: not header[column]):  # given names come first
        given = name = names[column]
        number = met[given]
        while number > 0:
            met[given] = number + 1
            name = f"{given}.{number}"
            number = number + 1 if present[name] else met[name]
        present[given] -= 1
        present[name] += 1
        names[column] = name
        met[name] = number + 1
    return names
