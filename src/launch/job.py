"""One run: check its config, carry out its task in a folder, record how it ended."""

from __future__ import annotations

import atexit
import ctypes
import errno
import gc
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from src.launch.config import build, check, groups_of_users
from src.launch.errors import InputError, resume_command
from src.launch.precision import emulated, settled
from src.launch.process import first_process
from src.launch.progress import Line
from src.launch.record import Record

log = logging.getLogger("run")

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_WARNINGS = (
    ".*LeafSpec.* is deprecated",  # of Lightning, about itself
    ".*past_key_values.* is deprecated",  # of transformers; pyproject.toml knows
)
_LOGS = ("lightning", "lightning.pytorch")  # devices and restored files at every start


def run_job(
    config: dict[str, Any],
    folder: Path,
    overrides: list[str],
    *,
    resume: bool,
    sweep: str | None = None,
    multirun: bool = False,
    beside: Sequence[Any] = (),
) -> Record:
    """Carry out the task of a config, or go on with the run that is in the folder; ``src.run`` and chains of runs do.

    Args:
        config: The composed config, plain and resolved; where a run is resumed, its own counts.
        folder: Of the run.
        overrides: What was typed, for the record.
        resume: Go on with the run in the folder; a finished one is left as it is.
        sweep: Name of the sweep that the run is a job of, if any.
        multirun: Whether several jobs share this process.
        beside: Configs of runs that this one is compared with, of whose precision it is.

    Returns:
        The record of the finished run.

    Raises:
        InputError: the folder holds a run already, the config has faults, the disk is full, or as the task does.
    """
    record = None
    quieten()
    try:
        config, chosen = (config, "") if resume else settled(config, *beside)
        record = Record.resume(folder, config) if resume else Record.start(folder, config, overrides)
        config = record.content["config"]
        if record.content["status"] == "finished":
            print(f"{folder} is finished; there is nothing to resume.")
            return record
        if resume:  # in whose config.yaml somebody may have written auto
            config, chosen = settled(config)
            record.update(config=config)
        try:
            _check(config, resumed=resume, multirun=multirun)
            for level, text in ((logging.INFO, chosen), (logging.WARNING, emulated(config, resumed=resume))):
                if text and first_process():
                    log.log(level, text)
        except InputError as error:
            if not resume:  # of a resumed run, the config is kept to be mended
                record.refuse(error)
                record = None
            raise
        build(config["task"]).run(config, folder, record, sweep)
        return record
    except BaseException as error:
        told = _in_our_words(error, folder, started=record is not None)
        if record:
            record.fail(told)
        if told is error:
            raise
        raise told from error
    finally:
        free_memory()  # the next run of this process needs it


def _check(config: dict[str, Any], *, resumed: bool, multirun: bool) -> None:
    """Refuse a config with faults, before anything is built of it."""
    if not config.get("task"):
        raise InputError("There is no task.\nType:  +experiment=<recipe>   (--help lists them)")
    with _nothing_to_collect(), Line(f"{config.get('name')}: reading the settings"):
        check(config, multirun=multirun, parts=True, own_groups=groups_of_users(config if resumed else None))
    quieten()  # of what that has imported


@contextmanager
def _nothing_to_collect() -> Iterator[None]:
    """Import without the collector of garbage, which finds none there and takes 1.5 s of 8 at the start of a run."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _in_our_words(error: BaseException, folder: Path, *, started: bool) -> BaseException:
    """Return what the record and the user are told: Ctrl-C, how to mend a folder or disk, or the error itself."""
    if interrupted := _interrupted(error):
        return interrupted
    if isinstance(error, OSError) and (advice := cannot_write(folder, error)):
        go_on = f"go on:  {resume_command(folder)}" if started else "type the same command again."
        return InputError(f"{advice}, then {go_on}")
    return error


def _interrupted(error: BaseException) -> KeyboardInterrupt | None:
    """Return the Ctrl-C behind an error, if there is one; Lightning turns it into an exit."""
    if isinstance(error, KeyboardInterrupt):
        return error
    is_exit = isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt)
    return KeyboardInterrupt("by Ctrl-C") if is_exit else None


def cannot_write(folder: Path, error: OSError) -> str | None:
    """Return what is wrong with the folder of a run and how to mend it; None if the error is about something else."""
    what = f"Cannot write into {folder}: {error.strerror}.\n"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{what}Free some room there"
    path = Path(str(error.filename2 or error.filename or ""))
    concerns_folder = path.is_relative_to(folder) or folder.is_relative_to(path)
    is_defect = error.errno == errno.ENOENT and folder.exists()  # something that should be there
    if error.errno not in _UNWRITABLE or not concerns_folder or is_defect:
        return None
    return f"{what}I need a folder that I may write to; in the way is {path}. Mend that or type hydra.run.dir=<another>"


def keep_memory() -> None:
    """Keep what is freed for what is needed next, but for blocks of 32 MB and more, the most that glibc allows.

    Otherwise it goes back to the system and comes back page by page, a fault for 4 kB, in every step of a training.
    """
    if sys.platform == "linux":
        option = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if option is not None:
            option(_MMAP_THRESHOLD, 2**25)
            option(_TRIM_THRESHOLD, 2**31 - 1)


@cache
def end_at_once() -> None:
    """Spare Python a last look for garbage: of all that has been imported, for seconds after the last line.

    Not where Triton has been imported, whose types it finds: it would complain of each that they leak.
    """
    atexit.register(lambda: None if "triton" in sys.modules else gc.freeze())


def free_memory() -> None:
    """Let go of what nothing refers to, and hand it back to the system.

    glibc and tcmalloc keep what tensors of many sizes leave behind, many gigabytes after a training, and the next run
    of the process would come on top.
    """
    gc.collect()
    if sys.platform == "linux":
        here = ctypes.CDLL(None)
        trim = getattr(here, "malloc_trim", None)  # other C libraries have none, nor need it
        if trim is not None:
            trim(0)
        release = getattr(here, "MallocExtension_ReleaseFreeMemory", None)  # of tcmalloc, where it is the allocator
        if release is not None:
            release()


def quieten() -> None:
    """Filter them; what is left is worth reading. To be called again when libraries have been imported."""
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in _LOGS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in logging.getLogger("transformers").handlers:
        handler.addFilter(_is_news)
    if "transformers.utils.logging" in sys.modules:
        from huggingface_hub.utils import enable_progress_bars  # type: ignore[attr-defined]
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # of weights that are read from a folder, and written
        enable_progress_bars()  # of downloads, which it has switched off, too


def _is_news(record: logging.LogRecord) -> bool:
    """Whether transformers tells what warnings have not told already."""
    return "are deprecated. Use `cache` instead" not in record.getMessage()
