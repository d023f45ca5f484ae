"""Names of the embedded web: which ones models may learn from, and new ones that nobody has."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Collection, Iterable, Sequence


def is_for_training(name: str) -> bool:
    """Tell whether an entity or group is on the side that models may learn from; two of three are."""
    return hashlib.sha256(name.encode()).digest()[0] % 3 > 0


def name_parts(names: Iterable[str]) -> list[str]:
    """Return those of one word that models may learn from."""
    return [name for name in names if is_for_training(name) and re.fullmatch(r"[A-Z][a-z]{4,}", name)]


def invented(names: Sequence[str], taken: Collection[str], rng: random.Random) -> str:
    """Put a name together from the beginning of one and the end of another."""
    while True:
        first, second = rng.sample(names, 2)
        name = first[: rng.randint(2, len(first) - 2)] + second[-rng.randint(2, len(second) - 2) :]
        if name not in taken:
            return name
