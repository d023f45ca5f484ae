"""Memory between the runs of one process."""

from __future__ import annotations

import ctypes
import gc
import sys


def free_memory() -> None:
    """Let go of what nothing refers to, and hand it back to the system.

    glibc keeps what tensors of many sizes leave behind, many gigabytes after a training, and the next run of the
    process would come on top.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none, nor need it
        if trim is not None:
            trim(0)
