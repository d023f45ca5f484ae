"""Answers to GISA's questions from any harness, in the forms that people keep them in."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from src.launch.errors import InputError

_FORM = (
    "I need a folder of <id>.json files, each with a prediction; a run folder; or a file with a line "
    '{"id": ..., "prediction": ...} for each question. The file may also be one JSON array of these, one object '
    '{"<id>": "<prediction>", ...} or a CSV with the columns id and prediction; any of them gzipped.'
)
_ID_KEYS = ("id", "question_id", "qid")
_PREDICTION_KEYS = ("prediction", "answer", "response")
_WRAPPERS = ("predictions", "answers", "results")  # of a file that is an object around what is wanted
_STRAY_BYTE = re.compile("[\udc80-\udcff]")
_MOST_REASONS = 20  # that a message names; ``remarks`` has all


@dataclass(frozen=True)
class Predictions:
    """The answers of one run.

    Attributes:
        values: By question id; whatever stands in ``prediction``, text or not.
        outcomes: By question id, how the episode ended, where the run says so.
        remarks: Files and lines that could not be used, and why; they cost their question only.
        contaminated: Ids of the questions whose episode came upon the benchmark's own pages, where the run says so.
        sources: By question id, the file, and line of it, that the answer comes from.
        files: By question id, that file of a folder; lines of a file have none of their own.
    """

    values: dict[str, Any]
    outcomes: dict[str, str]
    remarks: list[str]
    contaminated: set[str] = field(default_factory=set)
    sources: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)


class _Entry(NamedTuple):
    """One record: where it stands, the id that its place gives it, None for none, and what it is."""

    source: str
    name: Any
    content: Any


class _UnusableError(Exception):
    """A line or file that is no answer; the message says why."""


def read_predictions(path: Path, sample: int = 0) -> Predictions:
    """Read all answers of one sample.

    A folder holds ``<id>.json`` with a ``prediction``, as the official harness writes it, or is a run folder of this
    project with ``episodes/``. A file holds records ``{"id": ..., "prediction": ...}``, one a line, in one JSON array,
    or as rows of a CSV, or is one JSON object from ids to predictions or records; it may be gzipped. ``question_id``
    and ``answer`` are names for the same; white space around an id, and ``.0`` behind it, are not part of it. Where a
    question has several answers, the last counts.

    Args:
        path: Folder or file.
        sample: Which attempt to take, where the records tell attempts apart.

    Raises:
        InputError: there is nothing of the kind at ``path``; the message names what is wrong with each line.
    """
    predictions = Predictions({}, {}, [])
    remarks = predictions.remarks
    folder = path / "episodes" if (path / "episodes").is_dir() else path
    if path.is_dir():
        entries = _folder(folder, remarks)
    elif path.is_file():
        entries = _file(path, remarks)
    else:
        raise InputError(f"predictions={path}: there is no such folder or file.\n{_FORM}")
    others: set[str] = set()
    for entry in entries:
        try:
            others.add(_take(entry, sample, predictions))
        except _UnusableError as error:
            remarks.append(f"{entry.source}: {error}")
    if path.is_dir():
        predictions.files.update({name: folder / source for name, source in predictions.sources.items()})
    if not predictions.values:
        reasons = "".join(f"\n  {remark}" for remark in remarks[:_MOST_REASONS])
        more = f"\n  and {len(remarks) - _MOST_REASONS} more" if len(remarks) > _MOST_REASONS else ""
        if others := others - {str(sample)}:
            more += f"\n  all others are attempts {', '.join(sorted(others)[:5])}; you asked for  task.sample={sample}"
        raise InputError(f"predictions={path}: I find no answer there. {_FORM}{reasons}{more}")
    return predictions


def _take(entry: _Entry, sample: int, predictions: Predictions) -> str:
    """Take the answer of a record, if it is of the attempt that was asked for; return of which it is."""
    record = entry.content
    if not isinstance(record, dict):
        raise _UnusableError(f"a JSON object is needed, got a {type(record).__name__}")
    sample_given = record.get("sample")
    given = str(0 if sample_given in (None, "") else sample_given).strip().removesuffix(".0")
    if given != str(sample):
        return given
    name = _name_of(record) if entry.name is None else _id(entry.name)
    key = next((key for key in _PREDICTION_KEYS if key in record), None)
    if key is None:
        keys = ", ".join(map(str, record)) or "nothing"
        raise _UnusableError(f"no prediction in it; I need one of {', '.join(_PREDICTION_KEYS)}, and it has {keys}")
    if name in predictions.values:
        predictions.remarks.append(f"{entry.source}: another answer to question {name}; it replaces the one before")
    predictions.values[name] = record[key]
    predictions.sources[name] = entry.source
    if isinstance(record.get("outcome"), str):
        predictions.outcomes[name] = record["outcome"]
    if record.get("contaminated"):
        predictions.contaminated.add(name)
    return given


def _name_of(record: Mapping[str, Any]) -> str:
    for key in _ID_KEYS:
        if key in record:
            return _id(record[key], key)
    keys = ", ".join(map(str, record)) or "nothing"
    raise _UnusableError(f"no id in it; I need one of {', '.join(_ID_KEYS)}, and it has {keys}")


def _id(value: Any, key: str = "id") -> str:
    """Return an id as text: 7, "7", " 7 ", 7.0 and "7.0" are one."""
    name = str(value).strip()
    if isinstance(value, bool) or not isinstance(value, int | float | str) or not name:
        raise _UnusableError(f"{key}={value!r} must be a whole number or text")
    whole = re.fullmatch(r"(\d+)\.0*", name)
    return whole[1] if whole else name


def _folder(folder: Path, remarks: list[str]) -> Iterator[_Entry]:
    """Yield the record of each file; names with an underscore are the official script's own."""
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.json.gz")]):
        if path.name.startswith(("_", ".")) or not path.is_file():
            continue
        try:
            record = _json(_text_of(path))
            stem = path.name.removesuffix(".gz").removesuffix(".json")
            own = record.get("question_id", stem) if isinstance(record, dict) else stem
            yield _Entry(path.name, own, record)
        except _UnusableError as error:
            remarks.append(f"{path.name}: {error}")


def _file(path: Path, remarks: list[str]) -> Iterator[_Entry]:
    """Yield the records of a file, whatever its form; its name does not tell it."""
    try:
        text = _text_of(path).removeprefix("\ufeff")
    except _UnusableError as error:
        raise InputError(f"predictions={path}: {error}.\n{_FORM}") from error
    start = text.lstrip()[:1]
    if start in ("{", "["):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            yield from _array(path.name, text, remarks) if start == "[" else _lines(path.name, text, remarks)
        else:
            is_damaged = _STRAY_BYTE.search(text)
            for entry in _whole(path.name, content):
                if is_damaged and _STRAY_BYTE.search(json.dumps(entry.content, ensure_ascii=False)):
                    remarks.append(f"{entry.source}: not UTF-8")
                else:
                    yield entry
    elif start and text.lstrip().partition("\n")[0].lower().count("id"):
        yield from _rows(path.name, text, remarks)
    else:
        yield from _lines(path.name, text, remarks)


def _whole(name: str, content: Any) -> Iterator[_Entry]:
    """Yield what a file of one JSON array or object holds."""
    if isinstance(content, list):
        yield from (_Entry(f"{name}, entry {number}", None, entry) for number, entry in enumerate(content, 1))
        return
    wrapped = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), list | dict)), None)
    if wrapped is not None:
        yield from _whole(name, wrapped)
    elif any(key in content for key in _ID_KEYS) and any(key in content for key in _PREDICTION_KEYS):
        yield _Entry(f"{name}, line 1", None, content)
    else:
        for key, value in content.items():
            record = value.get("pred_item", value) if isinstance(value, dict) else {"prediction": value}
            yield _Entry(f"{name}, key {key!r}", key, record)


def _array(name: str, text: str, remarks: list[str]) -> Iterator[_Entry]:
    """Yield the entries of a damaged array up to the damage, or of lines that begin with a bracket."""
    decoder, position, number = json.JSONDecoder(), text.index("[") + 1, 1
    while True:
        position = re.compile(r"[\s,]*").match(text, position).end()  # type: ignore[union-attr]
        try:
            entry, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            if number == 1:
                yield from _lines(name, text, remarks)
                return
            line = text.count("\n", 0, position) + 1
            remarks.append(f"{name}, entry {number}, line {line}: damaged or truncated JSON ({_reason(error)})")
            return
        yield _Entry(f"{name}, entry {number}", None, entry)
        number += 1


def _lines(name: str, text: str, remarks: list[str]) -> Iterator[_Entry]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            source = f"{name}, line {number}"
            try:
                yield _Entry(source, None, _json(line))
            except _UnusableError as error:
                remarks.append(f"{source}: {error}")


def _rows(name: str, text: str, remarks: list[str]) -> Iterator[_Entry]:
    """Yield the rows of a table with a header, delimited by commas, tabs or semicolons."""
    csv.field_size_limit(sys.maxsize)
    if _STRAY_BYTE.search(text):  # as spreadsheets write it
        text = text.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",\t;", key=first.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        number = lines.line_num + 1
        try:
            cells = next(lines, None)
        except csv.Error as error:
            remarks.append(f"{name}, line {number}: not a row of a CSV ({error})")
            continue
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip().lower() for cell in cells]
            if not set(header) & set(_ID_KEYS) or not set(header) & set(_PREDICTION_KEYS):
                remarks.append(f"{name}, line {number}: a header with id and prediction is needed, got {first.strip()}")
                return
        elif len(cells) != len(header):
            remarks.append(f"{name}, line {number}: {len(cells)} cells where the header has {len(header)}")
        else:
            yield _Entry(f"{name}, line {number}", None, dict(zip(header, cells, strict=True)))


def _text_of(path: Path) -> str:
    """Return the text of a file; bytes that are not UTF-8 become half surrogates, so that they cost their line only."""
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise _UnusableError(f"damaged or truncated gzip ({error})") from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")  # half a character costs its line, too
    return content.decode("utf-8", "surrogateescape")


def _json(text: str) -> Any:
    if stray := _STRAY_BYTE.search(text):
        raise _UnusableError(f"damaged or truncated JSON (not UTF-8 at character {stray.start() + 1})")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _UnusableError(f"damaged or truncated JSON ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def unknown(predictions: Predictions, ids: Iterable[str]) -> list[str]:
    """Return what is to be said of answers to questions that there are not."""
    known = set(ids)
    return [
        f"{predictions.sources.get(name, '')}: answer to question {name}, which there is not".removeprefix(": ")
        for name in predictions.values
        if name not in known
    ]
