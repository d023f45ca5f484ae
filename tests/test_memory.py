import os
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import pytest

from src import memory
from src.memory import free_memory, use_tcmalloc


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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_blocks_of_less_than_32_mb_are_there_for_the_next_ones(keep):
    """Ten times twelve blocks of 20 MB: the pages are touched once where they are kept, each time where not."""
    script = """
import resource, sys
from src.memory import keep_memory
if sys.argv[1] == "True":
    keep_memory()
for _ in range(10):
    blocks = [b"x" * 20_000_000 for _ in range(12)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt * 4096 / 1e6)
"""
    ran = subprocess.run([sys.executable, "-c", script, str(keep)], capture_output=True, text=True, check=True)
    faults_mb = float(ran.stdout)
    assert 240 < faults_mb < 500 if keep else 1000 < faults_mb < 3000


def begun(script, *arguments, **settings):
    """What a new process prints that runs a script after ``use_tcmalloc``."""
    script = f"from src.memory import free_memory, use_tcmalloc\nuse_tcmalloc()\n{script}"
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"} | settings
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_in_ci_tcmalloc_is_there():
    assert os.environ.get("CI") != "true" or find_library("tcmalloc_minimal")


needs_tcmalloc = pytest.mark.skipif(
    sys.platform != "linux" or not find_library("tcmalloc_minimal"),
    reason="no tcmalloc here; on Debian: apt-get install libtcmalloc-minimal4",
)


@needs_tcmalloc
@pytest.mark.parametrize("settings", [{}, {"LD_PRELOAD": ""}, {"LD_PRELOAD": "libc.so.6"}])
def test_a_process_begins_anew_with_tcmalloc_unless_told_otherwise(settings):
    script = """
import os, sys
print("libtcmalloc" in open("/proc/self/maps").read(), os.environ.get("LD_PRELOAD"), sys.argv[1:])
"""
    expected = f"False {settings['LD_PRELOAD']} ['a b', 'c']" if settings else "True None ['a b', 'c']"
    assert begun(script, "a b", "c", **settings).strip() == expected


@needs_tcmalloc
def test_what_is_let_go_of_goes_back_to_the_system_from_tcmalloc_too():
    script = """
def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
many = [bytearray(100_000 + 1_000 * number) for number in range(1500)]
kept, full = many[::100], resident_mb()
del many
held = resident_mb()
free_memory()
print(full - held, full - resident_mb())
"""
    of_itself, freed = map(float, begun(script).split())
    assert of_itself < 300
    assert freed > 900


def test_without_tcmalloc_or_on_another_system_a_process_goes_on_as_it_is(monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(memory, "find_library", lambda name: None)
    use_tcmalloc()
    monkeypatch.undo()
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    use_tcmalloc()
    assert "LD_PRELOAD" not in os.environ
