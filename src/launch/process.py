"""What is asked of the process itself: whether it is the first of a run's, and how much memory it has held."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path


def first_process() -> bool:
    """Whether this is the process of a distributed run that writes and prints; true in an ordinary run."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))  # the last from Lightning
    return int(next(filter(None, ranks), 0)) == 0


def peak_memory_mib() -> float:
    """Return the most memory held so far: of the GPU if one was used, or else of this process."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return round(float(torch.cuda.max_memory_allocated()) / 2**20, 1)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB elsewhere
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return round(peak * unit / 2**20, 1)


def reset_peak_memory() -> None:
    """Forget the peak of an earlier job of this process, where the system can."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
