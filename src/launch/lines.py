"""Text files, plain or gzip, read line by line so that every fault names its file and line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from src.launch.errors import InputError


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
    if path.parent.is_dir():
        names = sorted(entry.name for entry in path.parent.iterdir())[:10]
        found = f"{path.parent} holds: {', '.join(names) or 'nothing'}"
    else:
        found = f"there is no folder {path.parent}"
    raise InputError(f"No file {path}: {found}.\nI need {what}.")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file with their numbers (from 1), without line ends and without empty lines.

    ``.gz`` files are unpacked on the way. One line is held at a time, so that memory does not grow with the file.

    Raises:
        InputError: the gzip stream is damaged or cut short, or a line is not UTF-8.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            for line in stream:
                number += 1
                if text := line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n"):
                    yield number, text
    except UnicodeDecodeError as error:
        raise fault(path, number, f"not UTF-8 text ({error.reason})") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise fault(path, number + 1, f"damaged or truncated gzip data ({error})") from error


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the numbered objects of a file with one JSON object a line.

    Raises:
        InputError: a line is not a JSON object, or as ``read_lines``.
    """
    for number, line in read_lines(path):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise fault(path, number, f"damaged or truncated JSON ({error})") from error
        if not isinstance(record, dict):
            raise fault(path, number, f"a JSON object is needed, got {line[:60]!r}")
        yield number, record


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the one JSON object that a file holds.

    Raises:
        InputError: the file is not UTF-8 or not one JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise fault(path, error.lineno, f"column {error.colno}: damaged or truncated JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise fault(path, 1 + error.object.count(b"\n", 0, error.start), f"not UTF-8 text ({error.reason})") from error
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
    try:
        exact = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"timestamp {text!r} is not a number") from None
    if not exact.is_finite():
        raise ValueError(f"timestamp {text!r} is not a number")
    # The size is tested first: int() of 1e999999999 would not come back.
    if exact.adjusted() > 18 or not -(2**63) <= int(exact) < 2**63:
        raise ValueError(f"timestamp {text!r} does not fit 64 bits")
    if int(exact) != exact:
        raise ValueError(
            f"timestamp {text!r} is not a whole number (write all of them in a smaller unit, such as milliseconds)"
        )
    return int(exact)


def fault(path: Path, line: int, reason: str) -> InputError:
    """Return the error for one bad line of a user's file."""
    return InputError(f"{path}, line {line}: {reason}.\nRepair that line, or fetch the file again if it was cut short.")
