"""Results of searches and visits kept on disk; only successes, and only for the day or month they are good for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from src.launch.storage import write_atomic


class Cache:
    """One file a result. Several processes may share the folder."""

    def __init__(self, folder: str, *, bucket: str) -> None:
        """Open a cache.

        Args:
            folder: Where it is.
            bucket: The time its results stand for, as a date or month; another bucket sees none of them.
        """
        self._folder = Path(folder)
        self._bucket = bucket

    def get(self, *key: str) -> Any:
        """Return a kept result, None if there is none."""
        try:
            found = json.loads(self._path(key).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return found["result"] if found["key"] == [self._bucket, *key] else None

    def put(self, result: Any, *key: str) -> None:
        """Keep a success; it must be plain JSON."""
        write_atomic(self._path(key), json.dumps({"key": [self._bucket, *key], "result": result}))

    def _path(self, key: tuple[str, ...]) -> Path:
        digest = hashlib.sha256(json.dumps([self._bucket, *key]).encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.json"
