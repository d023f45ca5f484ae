"""Names of the embedded web: which ones models may learn from, and new ones that nobody has."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

T = TypeVar("T")


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


def invented_for(
    names: Iterable[str], parts: Sequence[str], taken: Iterable[str], rng: random.Random
) -> dict[str, str]:
    """Invent a name of one or two words for each, of which none is taken."""
    known, made = {*taken}, {}
    for name in names:
        words = [invented(parts, known, rng) for _ in range(rng.choice((1, 1, 1, 2)))]
        known.update(words)
        made[name] = rng.choice("- ").join(words)
    return made


def renamed(texts: Sequence[T], names: Mapping[str, str]) -> list[T]:
    """Write texts with other names, in addresses, too; parts of longer names stay as they are.

    Args:
        texts: Strings, or what has strings in it: the messages of a conversation, say.
        names: Every name to the one that takes its place.
    """
    if not names:
        return list(texts)
    new = {spelling(old): spelling(name) for old, name in names.items() for spelling in (str, _in_address)}
    spellings = "|".join(map(re.escape, sorted(new, key=len, reverse=True)))
    pattern = re.compile(rf"(?<![\w%-])(?:{spellings})(?![\w%]|-\w)")

    def rewritten(node: Any) -> Any:
        if isinstance(node, str):
            return pattern.sub(lambda found: new[found[0]], node)
        if isinstance(node, Mapping):
            return {key: rewritten(value) for key, value in node.items()}
        return [rewritten(value) for value in node] if isinstance(node, list) else node

    return [rewritten(text) for text in texts]


def _in_address(name: str) -> str:
    return quote(name.lower().replace(" ", "-"))
