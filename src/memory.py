"""The allocator of memory, and memory between the runs of one process."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from ctypes.util import find_library

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_TCMALLOC = {"TCMALLOC_RELEASE_RATE": "0", "TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD": str(2**40)}  # keep all; be quiet


def use_tcmalloc() -> None:
    """Begin the process anew with tcmalloc where the system has it, unless ``LD_PRELOAD`` is set, be it to nothing.

    glibc's own allocator walks long lists of free blocks once tensors of many sizes have come and gone, a fifth and
    more of a long training on CPUs. Which one there is can be chosen only before a process begins, so this is for the
    first lines of a program; its children choose for themselves.
    """
    library = find_library("tcmalloc_minimal") if sys.platform == "linux" else None
    if library is None:
        return
    chosen = os.environ.get("LD_PRELOAD")
    if chosen is None:
        os.environ.update(_TCMALLOC | {"LD_PRELOAD": library})
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    elif chosen == library:
        del os.environ["LD_PRELOAD"]


def keep_memory() -> None:
    """Keep what is freed for what is needed next, but for blocks of 32 MB and more, the most that glibc allows.

    Otherwise it goes back to the system and comes back page by page, a fault for 4 kB, in every step of a training.
    """
    if sys.platform == "linux":
        option = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if option is not None:
            option(_MMAP_THRESHOLD, 2**25)
            option(_TRIM_THRESHOLD, 2**31 - 1)


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
