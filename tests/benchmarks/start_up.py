"""The command line's answer against the mere import of hydra."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

from tests.benchmarks.comparison import ROOT, Row, interleaved, show_seconds


def rows(*, quick: bool) -> Iterator[Row]:
    for words in (("--help",), ("--cfg", "job")):
        yield Row(
            f"Start-up, {' '.join(words)}",
            ("import hydra", "src.run"),
            interleaved(python("-c", "import hydra"), python("-m", "src.run", *words), 1 if quick else 9),
            show_seconds,
            "<= 2.5",
            "both exit with 0",
        )


def python(*words: str) -> Callable[[], object]:
    return partial(subprocess.run, [sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
