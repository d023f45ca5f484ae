import sys
from pathlib import Path

import pytest

from src.memory import free_memory


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_let_go_of_goes_back_to_the_system_even_from_below_what_is_kept():
    many = [bytearray(100_000) for _ in range(3000)]
    kept = many[::100]  # at the end, too: the heap cannot shrink from there
    before = resident_mb()
    del many
    free_memory()
    assert resident_mb() < before - 200
    assert len(kept) == 30
