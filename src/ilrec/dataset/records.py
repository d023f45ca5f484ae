"""Files of rows under named columns: CSV and its kin, JSON lines, parquet, data sets of the Hugging Face hub."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from src.launch.errors import InputError
from src.launch.lines import fault, read_json_lines, read_raw_lines
from src.launch.progress import Line

# What columns are called, by what they hold; compared in lower case, without "_", "-" and spaces.
NAMES = {
    "user": ("user", "userid", "reviewerid", "username", "uid"),
    "item": ("item", "itemid", "parentasin", "asin", "productid", "movieid", "iid", "bookid", "gameid", "appid"),
    "timestamp": ("timestamp", "time", "unixreviewtime", "unixtime", "datetime", "date", "ts"),
    "title": ("title", "itemtitle", "movietitle", "producttitle", "itemname", "productname", "appname"),
    "rating": ("rating", "overall", "stars", "score"),
}
_SEPARATORS = ("\t", "::", ",", ";", "|")
# Rows that are looked through for the fields of JSON lines: an item without a title may come first.
_SAMPLE = 1000
_BATCH = 65_536
_LONG = 1_000_000


@dataclass(frozen=True)
class Records:
    """Rows of a file.

    Attributes:
        path: Where they are from.
        unit: What a row is called in messages.
        names: Names of the columns.
        values: Yields the numbered rows, each as its values in the columns asked for.
    """

    path: Path
    unit: Literal["line", "row"]
    names: list[str]
    values: Callable[[Sequence[str]], Iterator[tuple[int, Sequence[Any]]]]

    def fault(self, number: int, error: Exception) -> InputError:
        """Return the error for one bad row."""
        return fault(self.path, number, str(error), self.unit)

    def column(self, what: str, named: str | None = None, extra: Sequence[str] = ()) -> str | None:
        """Return the name of the column that holds something, None where no column is called so.

        Args:
            what: A key of ``NAMES``.
            named: The column, where a setting names it.
            extra: Further names that it may have.

        Raises:
            InputError: there is no column of the name that is set.
        """
        if named is not None:
            if named not in self.names:
                raise InputError(
                    f"{self.path} has no column {named!r}, which dataset.source.{what} names; it has "
                    f"{', '.join(self.names)[:300]}."
                )
            return named
        plain = {_plain(name): name for name in reversed(self.names)}
        return next((plain[name] for name in (*NAMES[what], *extra) if name in plain), None)


def open_records(
    path: Path, columns: Sequence[str] | None = None, separator: str | None = None, encoding: str = "utf-8"
) -> Records:
    """Return the rows of a file of any kind, which its first bytes tell.

    Args:
        path: A CSV with any separator, JSON lines or parquet; texts may be packed with gzip.
        columns: Names of the columns of a text file that has no header.
        separator: Of a text file; None finds it in the first line.
        encoding: Of a text file.

    Raises:
        InputError: the file is empty or damaged.
    """
    with path.open("rb") as stream:
        is_parquet = stream.read(4) == b"PAR1"
    first = None if is_parquet else next((line for _, line in read_raw_lines(path, encoding) if line.strip()), None)
    if first is None and not is_parquet:
        raise InputError(f"{path} is empty.\nI need rows of user, item and timestamp.")
    if first and not first.lstrip().startswith(("{", "[")):
        return _delimited(path, first, columns, separator, encoding)
    if columns:
        raise InputError(
            f"{path} names its columns itself, so dataset.source.columns is not for it.\n"
            "Say which hold what:  dataset.source.user=<column> dataset.source.item=<column> ..."
        )
    return _parquet(path) if is_parquet else _json_lines(path)


def _delimited(path: Path, first: str, columns: Sequence[str] | None, separator: str | None, encoding: str) -> Records:
    """Return the rows of a CSV or the like; without names of columns its first row is the header."""
    first = first.rstrip("\r\n")
    counts = {mark: len(first.split(mark)) for mark in _SEPARATORS}
    mark = separator or next((mark for mark, count in counts.items() if count > 2), ",")
    rows = _split_rows if len(mark) > 1 else _csv_rows
    head = [cell.strip() for cell in next(rows(path, mark, encoding))[1]]
    header = columns is None or (len(head) == len(columns) and all(map(is_name, head)))
    names = head if columns is None else list(columns)
    if columns is None and (twice := {name for name in head if name and head.count(name) > 1}):
        raise fault(path, 1, f"the header names {', '.join(sorted(twice))} twice")

    def values(wanted: Sequence[str]) -> Iterator[tuple[int, Sequence[Any]]]:
        places = [names.index(name) for name in wanted]
        chosen = itemgetter(*places) if len(places) > 1 else lambda row: (row[places[0]],)
        numbered = rows(path, mark, encoding)
        if header:
            next(numbered)
        for number, row in numbered:
            if len(row) != len(names):
                if header:
                    raise fault(path, number, f"{len(row)} columns, but the header has {len(names)}")
                raise fault(path, number, f"I need {','.join(names)}, got {mark.join(row)[:60]!r}")
            yield number, chosen(row)

    return Records(path, "line", names, values)


def _csv_rows(path: Path, separator: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV with the number of their last line; cells may be quoted, and then hold line breaks."""
    last = 0
    try:
        reader = csv.reader((line for _, line in read_raw_lines(path, encoding)), delimiter=separator, strict=True)
        for row in reader:
            number = reader.line_num
            if number > last + 1 and _swallows_rows(row, separator):
                raise fault(
                    path, last + 1, f"a quote opened here swallows rows up to line {number}, where it is closed"
                )
            last = number
            if row:
                yield number, row
    except (csv.Error, TypeError, ValueError) as error:  # the last two are of a separator that cannot be one
        raise fault(path, last + 1, f"damaged CSV ({error})") from error


def _swallows_rows(row: list[str], separator: str) -> bool:
    """Return whether a quoted cell of several lines has a line with as many separators as a row."""
    return any(line.count(separator) + 1 >= len(row) for cell in row for line in cell.split("\n")[1:])


def _split_rows(path: Path, separator: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a file whose separator has several characters; it knows no quotes."""
    for number, line in read_raw_lines(path, encoding):
        if text := line.rstrip("\r\n"):
            yield number, text.split(separator)


def _json_lines(path: Path) -> Records:
    """Return the rows of JSON lines; a field that a line lacks is absent there."""
    names: dict[str, None] = {}
    for _, record in islice(read_json_lines(path), _SAMPLE):
        names.update(dict.fromkeys(record))

    def values(wanted: Sequence[str]) -> Iterator[tuple[int, Sequence[Any]]]:
        for number, record in read_json_lines(path):
            yield number, [record.get(name) for name in wanted]

    return Records(path, "line", list(names), values)


def _parquet(path: Path) -> Records:
    """Return the rows of a parquet file, a batch at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names, count = file.schema_arrow.names, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is no whole parquet file: {error}.\nFetch it again.") from error

    def batches(wanted: Sequence[str]) -> Iterator[Any]:
        try:
            with parquet.ParquetFile(path) as file:
                yield from file.iter_batches(_BATCH, columns=list(wanted))
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path} is no whole parquet file: {error}.\nFetch it again.") from error

    return arrow_records(path, names, count, batches)


def arrow_records(
    path: Path, names: Sequence[str], count: int, batches: Callable[[Sequence[str]], Iterable[Any]]
) -> Records:
    """Return the rows of Arrow tables or batches, as parquet files and Hugging Face data sets hold them."""

    def values(wanted: Sequence[str]) -> Iterator[tuple[int, Sequence[Any]]]:
        number = 0
        shown = Line(f"Reading {path.name}", count, counted=True) if count >= _LONG else None
        with shown or nullcontext():
            for batch in batches(list(dict.fromkeys(wanted))):
                try:
                    columns = [_cells(path, name, batch.column(name)) for name in wanted]
                except ValueError as error:  # of Arrow, too
                    raise fault(path, number + 1, f"a value that cannot be read ({error})", "row") from error
                for row in zip(*columns, strict=True):
                    number += 1
                    yield number, row
                if shown:
                    shown.at(number)

    if twice := {name for name in names if list(names).count(name) > 1}:
        raise InputError(f"{path} has two columns {', '.join(sorted(twice))}. I need one of a name.")
    return Records(path, "row", list(names), values)


def _cells(path: Path, name: str, column: Any) -> list[Any]:
    """Return the values of an Arrow column; moments become whole numbers in the column's own unit."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date64(kind):
        column = column.cast(pa.int64())
    elif pa.types.is_date32(kind):
        column = column.cast(pa.int32())
    values: list[Any] = column.to_pylist()
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        limit = 2 ** (11 if pa.types.is_float16(kind) else 24)
        if large := next((value for value in values if value is not None and limit < abs(value) < float("inf")), None):
            raise InputError(
                f"{path}: column {name!r} is {kind}, and {large:.0f} in it stands for several whole numbers.\n"
                "I need whole numbers or text there."
            )
    return values


def is_name(cell: str) -> bool:
    """Return whether a cell is what a column is called, and so no value."""
    return any(_plain(cell) in known for known in NAMES.values())


def _plain(name: str) -> str:
    """Return the name of a column as it is compared."""
    return "".join(character for character in name.lower() if character not in "_- ")
