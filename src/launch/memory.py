"""Memory between the runs of one process."""

from __future__ import annotations

import ctypes
import gc
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


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
