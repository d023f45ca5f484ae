"""An answer in JSON, where a table was asked for, as the robust scorer reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_MOST_CELLS = 300_000
_NAMES = ("columns", "header", "headers")


def json_records(text: str) -> list[list[str]]:
    """Return what an answer in JSON says as records, the names first; an empty list where it is none.

    It is a list of objects, of lists or of values, an object of lists of one length, one of names and rows, or one of
    values; an object around one of these may have one key.
    """
    if text.lstrip()[:1] not in ("[", "{"):
        return []
    try:
        return _records(json.loads(text, parse_int=str, parse_float=str, parse_constant=str))
    except (ValueError, RecursionError):
        return []


def _records(content: Any) -> list[list[str]]:
    if isinstance(content, dict):
        return _records_of_object(content)
    if not isinstance(content, list) or not content:
        return []
    if all(isinstance(row, dict) for row in content):
        names = [*dict.fromkeys(name for row in content for name in row)]
        if len(names) * len(content) > _MOST_CELLS:
            return []
        return [names, *([_cell(row.get(name)) for name in names] for row in content)]
    if all(isinstance(row, list) for row in content):
        return [[*map(_cell, row)] for row in content]
    return [[""], *([_cell(value)] for value in content)]


def _records_of_object(content: Mapping[str, Any]) -> list[list[str]]:
    values = list(content.values())
    names = next((content[name] for name in _NAMES if isinstance(content.get(name), list)), None)
    if names is not None:
        rows = next((value for value in values if value is not names and isinstance(value, list)), [])
        return [[*map(_cell, names)], *_records([row for row in rows if isinstance(row, list)])]
    if len(values) == 1 and isinstance(values[0], dict | list):
        return _records(values[0])
    if values and all(isinstance(value, list) for value in values) and len(set(map(len, values))) == 1:
        return [list(content), *([*map(_cell, row)] for row in zip(*values, strict=True))]
    return [list(content), [*map(_cell, values)]] if values else []


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, Sequence) and not any(isinstance(part, dict | list) for part in value):
        return ", ".join(map(_cell, value))
    return json.dumps(value, ensure_ascii=False)
