"""Files that are either whole or absent: atomic writes, content hashes, the cache folder, members of pinned wheels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO


def cache_folder() -> Path:
    """Return the folder for downloads and prepared data: ``$ILREC_GISA_CACHE`` or ``~/.cache/ilrec-gisa``."""
    return Path(os.environ.get("ILREC_GISA_CACHE") or Path.home() / ".cache" / "ilrec-gisa")


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomic(path: Path, write: Callable[[IO[bytes]], object] | bytes | str) -> None:
    """Write a file so that a reader, or a kill at any moment, finds the old file or the whole new one.

    The bytes go to a temporary file in the same folder, which is flushed to disk and renamed over ``path``.

    Args:
        path: The file to make or replace; its folder is made when missing.
        write: The content, or a function that writes it into the open binary stream.

    Raises:
        OSError: the disk is full or the folder cannot be written; the temporary file is removed, ``path`` is as before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            if callable(write):
                write(stream)
            else:
                stream.write(write.encode() if isinstance(write, str) else write)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
