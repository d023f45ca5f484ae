"""Splits that a data set brings with it: read where they agree with leave-one-out, refused where they do not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from src.launch.errors import InputError

# Names of columns that say which part of a split a row is in.
SPLIT_COLUMNS = ("split", "subset", "fold", "set", "partition")
_PARTS = {
    "train": "train", "training": "train",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
_ADVICE = (
    "I split by leave-one-out: the last item of each user is to test on, the one before it to validate on, and there "
    "is one of either.\nTo have the rows split so, put them into one file, without a column that says otherwise."
)

Targets = dict[str, tuple[str, str]]


@runtime_checkable
class SplitSource(Protocol):
    """A source that may bring its own split."""

    def targets(self) -> Targets | None:
        """Return what the split holds for each user to validate and to test on; None where there is no split."""


def part_of(label: object, where: str) -> str:
    """Return which part a label of a split names: train, valid or test.

    Raises:
        InputError: it names none of them.
    """
    part = _PARTS.get(str(label).strip().lower())
    if part is None:
        raise InputError(f"{where}: {str(label)[:60]!r} is none of {', '.join(_PARTS)}.\n{_ADVICE}")
    return part


def split_files(path: Path) -> list[tuple[str | None, Path]]:
    """Return the parts of the split that a file belongs to, or the file alone.

    ``X.train.csv`` stands for the three files X.train.csv, X.valid.csv and X.test.csv, and so does ``X.csv`` where
    there is no such file.

    Raises:
        InputError: one of three parts is absent.
    """
    pattern = rf"(.*[._-])?({'|'.join(_PARTS)})((?:[._-].*)?)"
    named = re.fullmatch(pattern, path.name, re.IGNORECASE)
    if path.is_file() and not named:
        return [(None, path)]
    ending = "".join(path.suffixes[-2 if path.suffix == ".gz" else -1 :])
    before, after = (named[1] or "", named[3]) if named else (f"{path.name.removesuffix(ending)}.", ending)
    found: dict[str, Path] = {}
    for label, part in _PARTS.items():
        if (candidate := path.with_name(f"{before}{label}{after}")).is_file():
            found.setdefault(part, candidate)
    if len(found) < 2:  # no split, or no such file, which is said where it is read
        return [(None, path)]
    if len(found) < 3:
        raise InputError(f"{', '.join(map(str, found.values()))}: two parts of a split.\n{_ADVICE}")
    return [(part, found[part]) for part in ("train", "valid", "test")]


def targets_of(rows: Iterable[tuple[str, str, str]], where: str) -> Targets:
    """Return each user's item to validate on and to test on.

    Args:
        rows: (part, user, item) of every row.
        where: Which file or column the split is from.

    Raises:
        InputError: a user has none of either, or more than one.
    """
    held_out: dict[str, dict[str, list[str]]] = {}
    for part, user, item in rows:
        parts = held_out.setdefault(user, {})
        if part != "train":
            parts.setdefault(part, []).append(item)
    for user, parts in held_out.items():
        counts = {part: len(parts.get(part, ())) for part in ("valid", "test")}
        if set(counts.values()) != {1}:
            raise InputError(
                f"{where}: user {user!r} has {counts['valid']} to validate, {counts['test']} to test on.\n{_ADVICE}"
            )
    return {user: (parts["valid"][0], parts["test"][0]) for user, parts in held_out.items()}


def check_targets(name: str, targets: Targets, user: str, last: Sequence[str]) -> None:
    """Compare what a user is validated and tested on with the split that the data brings.

    Raises:
        InputError: they differ.
    """
    if targets[user] != tuple(last):
        raise InputError(
            f"The split that {name} brings is not leave-one-out: of user {user!r} it validates on item "
            f"{targets[user][0]!r} and tests on {targets[user][1]!r}, but the last two in time, after the k-core, are "
            f"{last[0]!r} and {last[1]!r}.\n{_ADVICE}\nIf the k-core took an item:  dataset.k_core=1"
        )


def chained(rows: Sequence[tuple[Sequence[str], str]], user: str, where: str) -> list[str]:
    """Return the sequence of which each row holds a part: the items before, perhaps only the last of them, and an item.

    Source: RecBole's sequential benchmark files (``item_id_list`` beside ``item_id``), where the rows of a user grow
    item by item, or shrink, as those of UniSRec do.

    Raises:
        InputError: the rows do not follow one upon the other.
    """
    for ordered in (rows, [*rows[-3::-1], *rows[-2:]], rows[::-1]):
        sequence = [*ordered[0][0], ordered[0][1]]
        for history, item in ordered[1:]:
            if not history or list(history) != sequence[-len(history) :]:
                break
            sequence.append(item)
        else:
            return sequence
    raise InputError(
        f"{where}: the histories of user {user!r} do not follow one upon the other; so their order is unknown.\n"
        "I need each row's item_id_list to hold the items before its item_id; or a file with one item a row and a "
        "timestamp."
    )
