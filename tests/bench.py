"""Print measured ratios as a Markdown table; ``--help`` names the parts.

Every ratio is the median over interleaved pairs (A B A B ...) of one run; the absolute values only show the scale.
Nothing here asserts a time. `nox -s bench`, or `python -m tests.bench` with the project installed.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from tests.benchmarks import (
    answers,
    decoding,
    density,
    generation,
    imitation,
    loss,
    packing,
    rewards,
    rollout,
    start_up,
    training,
)
from tests.benchmarks.comparison import HEADER, ROOT, silence

SECTIONS = {
    "decoding": decoding.rows,
    "step": training.time_rows,
    "memory": training.memory_rows,
    "packing": packing.rows,
    "loss": loss.rows,
    "density": density.rows,
    "rewards": rewards.rows,
    "answers": answers.rows,
    "rollout": rollout.rows,
    "generation": generation.rows,
    "imitation": imitation.rows,
    "start-up": start_up.rows,
}


def circumstances() -> str:
    git = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    commit = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
    changed = " with local changes" if git(["git", "status", "--porcelain", "src", "conf", "tests"]).stdout else ""
    cpu_file = Path("/proc/cpuinfo")
    cpu = re.findall(r"model name\s*: (.+)", cpu_file.read_text()) if cpu_file.exists() else []
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "lightning", "peft"))
    return (
        f"Commit {commit}{changed}; {(cpu or [platform.machine()])[0]}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}, threads {torch.get_num_threads()}; Python {platform.python_version()}, {packages}"
    )


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="toy sizes: shows that everything runs, not how fast")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="may be repeated (memory needs Linux)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; default: 1, as in conf/config.yaml")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    silence()
    start = time.perf_counter()
    print(f"{circumstances()}\n\n{HEADER}", flush=True)
    for name in options.only or SECTIONS:
        for row in SECTIONS[name](quick=options.quick):
            print(row, flush=True)
    print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main(sys.argv[1:])
