"""Answers to GISA's questions from any harness: a folder of JSON files, a JSON Lines file, a run of this project."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.launch.errors import InputError


@dataclass(frozen=True)
class Predictions:
    """The answers of one run.

    Attributes:
        values: By question id; whatever stands in ``prediction``, text or not.
        outcomes: By question id, how the episode ended, where the run says so.
        remarks: Files and lines that could not be used, and why; they cost their question only.
        contaminated: Ids of the questions whose episode came upon the benchmark's own pages, where the run says so.
    """

    values: dict[str, Any]
    outcomes: dict[str, str]
    remarks: list[str]
    contaminated: set[str] = field(default_factory=set)


def read_predictions(path: Path, sample: int = 0) -> Predictions:
    """Read all answers of one sample.

    A folder holds ``<id>.json`` with a ``prediction``, as the official harness writes it, or is a run folder of this
    project with ``episodes/``. A file holds one ``{"id": ..., "prediction": ...}`` a line. Where a question has several
    answers, the last counts.

    Args:
        path: Folder or file.
        sample: Which attempt to take, where the records tell attempts apart.

    Raises:
        InputError: there is nothing of the kind at ``path``.
    """
    predictions = Predictions({}, {}, [])
    if path.is_dir():
        records = _folder(path / "episodes" if (path / "episodes").is_dir() else path, predictions.remarks)
    elif path.is_file():
        records = _lines(path, predictions.remarks)
    else:
        raise InputError(
            f"predictions={path}: there is no such folder or file.\nI need a folder of <id>.json files, each with a "
            'prediction; a run folder; or a file with a line {"id": ..., "prediction": ...} for each question.'
        )
    for place, name, record in records:
        if record.get("sample", 0) != sample:
            continue
        if "prediction" not in record:
            predictions.remarks.append(f"{place}: no prediction in it")
            continue
        if name in predictions.values:
            predictions.remarks.append(f"{place}: another answer to question {name}; it replaces the one before")
        predictions.values[name] = record["prediction"]
        if isinstance(record.get("outcome"), str):
            predictions.outcomes[name] = record["outcome"]
        if record.get("contaminated"):
            predictions.contaminated.add(name)
    if not predictions.values and not predictions.remarks:
        raise InputError(f"predictions={path}: I find no answer there, neither <id>.json files nor lines.")
    return predictions


def _folder(folder: Path, remarks: list[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield file name, question id and content of each file; names with an underscore are the official script's own."""
    for path in sorted(folder.glob("*.json")):
        if not path.name.startswith(("_", ".")):
            record = _object(path.read_bytes(), path.name, remarks)
            if record is not None:
                yield path.name, str(record.get("question_id", path.stem)), record


def _lines(path: Path, remarks: list[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            place = f"{path.name}, line {number}"
            record = _object(line, place, remarks) if line.strip() else None
            if record is not None and "id" in record:
                yield place, str(record["id"]), record
            elif record is not None:
                remarks.append(f"{place}: no id in it")


def _object(content: bytes, place: str, remarks: list[str]) -> dict[str, Any] | None:
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        remarks.append(f"{place}: damaged or truncated JSON")
        return None
    if isinstance(record, dict):
        return record
    remarks.append(f"{place}: a JSON object is needed, got a {type(record).__name__}")
    return None
