"""What every benchmark shares: interleaved pairs, a table row, the configs of real runs."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import transformers
from hydra import compose, initialize_config_dir

from src.launch.config import resolve

ROOT = Path(__file__).parents[2]
HEADER = "| what | A | B | B / A: median (range) | pairs | goal | check |\n|---|---|---|---|---|---|---|"


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        what: What is compared, at which size.
        sides: What A and B are.
        pairs: What A and B took in each pair, in seconds or MB.
        show: Writes such a value with its unit.
        goal: The B / A aimed for.
        check: Evidence that both sides did the same work, or a remark on it.
    """

    what: str
    sides: tuple[str, str]
    pairs: list[tuple[float, float]]
    show: Callable[[float], str]
    goal: str
    check: str

    @property
    def ratios(self) -> list[float]:
        return [b / a for a, b in self.pairs]

    def __str__(self) -> str:
        values = zip(*self.pairs, strict=True)
        a, b = (f"{side}: {self.show(median(value))}" for side, value in zip(self.sides, values, strict=True))
        ratio = f"**{median(self.ratios):.2f}** ({min(self.ratios):.2f} .. {max(self.ratios):.2f})"
        return f"| {self.what} | {a} | {b} | {ratio} | {len(self.pairs)} | {self.goal} | {self.check} |"


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(a: Callable[[], object], b: Callable[[], object], pairs: int) -> list[tuple[float, float]]:
    """Time A B A B ..., so that a busy machine slows both sides of a pair alike."""
    return [(seconds(a), seconds(b)) for _ in range(pairs)]


def show_seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"


def config(*overrides: str) -> dict[str, dict[str, Any]]:
    """Compose a run's config, so that what is measured is what is run; targets are left out."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        groups = resolve(compose("config", [*overrides, "name=bench"]))
    return {
        group: {key: value for key, value in node.items() if not key.startswith("_")}
        for group, node in groups.items()
        if isinstance(node, dict)
    }


def silence() -> None:
    """Hide notes on devices and on settings that the benchmark chose on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="lightning|transformers")
