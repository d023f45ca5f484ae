"""Text files, plain or gzip, read line by line so that every fault names its file and line."""

from __future__ import annotations

import ast
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import IO, Any

from src.launch.errors import InputError
from src.launch.progress import Line

_GZIP = b"\x1f\x8b"
_NO_TEXT = {
    b"PK\x03\x04": "a ZIP archive or a spreadsheet: unpack it, or save the sheet as CSV",
    b"BZh": "packed with bzip2: unpack it",
    b"\xfd7zXZ": "packed with xz: unpack it",
    b"\x28\xb5\x2f\xfd": "packed with zstd: unpack it",
    b"\xff\xfe": "UTF-16, not UTF-8 text: convert it, iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16, not UTF-8 text: convert it, iconv -f UTF-16 -t UTF-8",
}
# Files from this size on show how far they are read.
_LONG = 16_000_000


def existing_file(path: Path, what: str) -> Path:
    """Return the path if a file is there.

    Args:
        path: The file to look for.
        what: What the file holds and which setting names it, for the message.

    Raises:
        InputError: there is no such file; the message lists what the folder holds.
    """
    if path.is_file():
        return path
    folder = path if path.is_dir() else path.parent
    if folder.is_dir():
        names = sorted(entry.name for entry in folder.iterdir())[:10]
        found = f"{'it is a folder and' if folder == path else folder} holds: {', '.join(names) or 'nothing'}"
    else:
        found = f"there is no folder {path.parent}"
    raise InputError(f"No file {path}: {found}.\nI need {what}.")


def read_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file with their numbers (from 1), without line ends and without empty lines.

    Raises:
        InputError: as ``read_raw_lines``.
    """
    for number, line in read_raw_lines(path, encoding):
        if text := line.rstrip("\r\n"):
            yield number, text


def read_raw_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file with their numbers (from 1) and their ends, without a byte order mark.

    Gzip is known by its first bytes, whatever the name, and unpacked on the way. One line is held at a time, so that
    memory does not grow with the file. Large files show how far they are read.

    Raises:
        InputError: the gzip stream is damaged or cut short, or a line is not text of that encoding.
    """
    number = 0
    try:
        size = path.stat().st_size if path.is_file() else 0
        shown = Line(f"Reading {path.name}", size) if size >= _LONG else None
        with _opened(path) as (stream, packed), shown or nullcontext():
            for line in stream:
                number += 1
                if shown and number % 65_536 == 0:
                    shown.at(packed.tell())
                if b"\0" in line:
                    raise fault(path, number, "NUL bytes, which text has not (a torn download, or UTF-16)")
                text = line.decode(encoding)
                yield number, text if number > 1 else text.removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise fault(
            path, number, f"not UTF-8 text ({error.reason}); convert it, iconv -f LATIN1 -t UTF-8 or the like"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        named = "; the name ends in .gz, so if the file is unpacked already, take that off" if not number else ""
        raise fault(path, number + 1, f"damaged or truncated gzip data ({error}){named}") from error


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the numbered objects of a file with one JSON object a line; Python's own spelling of one is read, too.

    Amazon's metadata of 2014 and Steam's reviews are written so: ``{u'product_id': u'725280', 'early_access': False}``.

    Raises:
        InputError: a line is not a JSON object, or as ``read_lines``.
    """
    for number, line in read_lines(path):
        try:
            spelt = line.startswith(("{'", "{u'", '{u"'))
            record = ast.literal_eval(line) if spelt else _JSON.decode(line)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise fault(path, number, f"damaged or truncated JSON ({error})") from error
        if not isinstance(record, dict):
            raise fault(path, number, f"a JSON object is needed, got {line[:60]!r}")
        yield number, record


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the one JSON object that a file holds, plain or gzip, with or without a byte order mark.

    Raises:
        InputError: the file is not UTF-8 or not one JSON object, or a key occurs twice.
    """
    text = "".join(line for _, line in read_raw_lines(path))
    try:
        content = _JSON.decode(text)
    except json.JSONDecodeError as error:
        raise fault(path, error.lineno, f"column {error.colno}: damaged or truncated JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise fault(path, 1, f"damaged JSON ({error})") from error
    if not isinstance(content, dict):
        raise fault(path, 1, f"a JSON object is needed, got a {type(content).__name__}")
    return content


def whole_number(text: str) -> int:
    """Return a timestamp as the exact integer it is written as.

    ``978300760``, ``978300760.0`` and ``9.7830076e8`` agree. A binary float would merge neighbouring timestamps and so
    invent ties; a real fraction is refused for the same reason: rounding it would change the order.

    Raises:
        ValueError: the text is not a number, or not a whole one, or does not fit 64 bits.
    """
    if len(text) < 19 and text.isdecimal():
        return int(text)
    try:
        exact = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"timestamp {text[:60]!r} is not a number") from None
    if not exact.is_finite():
        raise ValueError(f"timestamp {text[:60]!r} is not a number")
    # The size is tested first: int() of 1e999999999 would not come back.
    if exact.adjusted() > 18 or not -(2**63) <= int(exact) < 2**63:
        raise ValueError(f"timestamp {text[:60]!r} does not fit 64 bits")
    if int(exact) != exact:
        raise ValueError(
            f"timestamp {text[:60]!r} is not a whole number (write all of them in a smaller unit, such as milliseconds)"
        )
    return int(exact)


def fault(path: Path, line: int, reason: str, unit: str = "line") -> InputError:
    """Return the error for one bad line, or row, of a user's file."""
    return InputError(
        f"{path}, {unit} {line}: {reason}.\nRepair that {unit}, or fetch the file again if it was cut short."
    )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Iterable[bytes], IO[bytes]]]:
    """Open a file of text for reading, unpacked where it is packed with gzip, and the file as it lies on the disk.

    Raises:
        InputError: the file cannot be read, or is known to be something else than text.
    """
    try:
        with path.open("rb") as start:
            first = start.read(6)
        for magic, what in _NO_TEXT.items():
            if first.startswith(magic):
                raise InputError(f"{path}, line 1: this is {what}.")
        with path.open("rb") as stream:
            if path.suffix == ".gz" or first.startswith(_GZIP):
                with gzip.open(stream) as unpacked:
                    yield unpacked, stream
            else:
                yield stream, stream
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.\nI need one that I may read.") from error


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; of a key that occurs twice one value would be lost without a word."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)[:60]!r} occurs twice")
    return content


_JSON = json.JSONDecoder(object_pairs_hook=distinct)
