"""What was found, read or said before, on disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from src.launch.storage import write_atomic


class Cache:
    """Results on disk, one file each: successes only. Processes may share the folder.

    The ``bucket`` is the time they stand for, as a date or month; another one sees none of them.
    """

    def __init__(self, folder: str, *, bucket: str) -> None:
        self._folder = Path(folder)
        self._bucket = bucket

    def get(self, *key: str) -> Any:
        """Return a kept result, None if there is none that can be read."""
        try:
            kept = json.loads(self._path(key).read_bytes())
            return kept["result"] if kept["key"] == [self._bucket, *key] else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def put(self, result: Any, *key: str) -> None:
        """Keep a success; it must be plain JSON."""
        write_atomic(self._path(key), json.dumps({"key": [self._bucket, *key], "result": result}))

    def _path(self, key: tuple[str, ...]) -> Path:
        digest = hashlib.sha256(json.dumps([self._bucket, *key]).encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.json"
