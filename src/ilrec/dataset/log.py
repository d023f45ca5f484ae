"""An interaction log (who met which item when): k-core, duplicates, numbering and chronological order."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Sequences(NamedTuple):
    """Every user's items in chronological order.

    Attributes:
        offsets: Where each user's items begin, shape ``(users + 1,)``, int64.
        items: Item numbers, shape ``(n,)``, int32.
        tied: Whether an interaction shares user and timestamp with another, shape ``(n,)``; None without timestamps.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    tied: NDArray[np.bool_] | None


class Log:
    """Interactions in file order, 16 bytes each (8 without timestamps), and the ids of users and items.

    Attributes:
        users: User number of each interaction, shape ``(n,)``, int32.
        items: Item number of each interaction, shape ``(n,)``, int32.
        timestamps: Exact timestamps, shape ``(n,)``, int64; None where file order is the chronological order.
        user_ids: Id of each user number.
        item_ids: Id of each item number.
    """

    def __init__(self, rows: Iterable[tuple[str, str, int | None]]) -> None:
        """Read all rows.

        Args:
            rows: (user id, item id, timestamp) in file order; either every timestamp is an integer or every one None.
        """
        users, items, timestamps = array("i"), array("i"), array("q")
        user_numbers: dict[str, int] = {}
        item_numbers: dict[str, int] = {}
        for user, item, timestamp in rows:
            users.append(user_numbers.setdefault(user, len(user_numbers)))
            items.append(item_numbers.setdefault(item, len(item_numbers)))
            if timestamp is not None:
                timestamps.append(timestamp)
        self.users: NDArray[np.int32] = np.asarray(users)
        self.items: NDArray[np.int32] = np.asarray(items)
        self.timestamps: NDArray[np.int64] | None = np.asarray(timestamps) if timestamps else None
        self.user_ids = list(user_numbers)
        self.item_ids = list(item_numbers)

    def __len__(self) -> int:
        return len(self.users)

    def count_users(self) -> int:
        """Return how many users have an interaction left."""
        return int(np.count_nonzero(_counts(self.users, len(self.user_ids))))

    def keep_core(self, per_user: int, per_item: int) -> None:
        """Drop users below ``per_user`` and items below ``per_item`` interactions, again and again, until none is left.

        Source: the k-core of the field's evaluation protocols, iterated over users and items.
        """
        while True:
            kept = _looked_up(_counts(self.users, len(self.user_ids)) >= per_user, self.users)
            kept &= _looked_up(_counts(self.items, len(self.item_ids)) >= per_item, self.items)
            if kept.all():
                return
            self._keep(kept)

    def drop_duplicates(self) -> int:
        """Keep the first of the rows that agree in user, item and timestamp; return how many were dropped.

        A user who meets an item again at another time keeps both: that is behaviour, a repeated row is an export fault.
        Without timestamps nothing tells the two apart and nothing is dropped.
        """
        if self.timestamps is None:
            return 0
        kept = np.ones(len(self), dtype=bool)
        for rows in self._chronological_blocks():
            columns = (self.items[rows], self.timestamps[rows], self.users[rows])
            order = np.lexsort(columns)
            repeated = np.logical_and.reduce([np.diff(column[order]) == 0 for column in columns])
            kept[rows[order[1:][repeated]]] = False
        dropped = len(self) - int(kept.sum())
        if dropped:
            self._keep(kept)
        return dropped

    def renumber(self) -> None:
        """Number the users and the items that are left by their ids, shorter ids first, then alphabetically.

        For integer ids that is numeric order; it does not depend on the order of the rows.
        """
        self.users, self.user_ids = _renumbered(self.users, self.user_ids)
        self.items, self.item_ids = _renumbered(self.items, self.item_ids)

    def sequences(self) -> Sequences:
        """Return every user's items, ordered by timestamp and, within one timestamp, by file order."""
        offsets = np.concatenate(([0], np.cumsum(_counts(self.users, len(self.user_ids)))))
        items = np.empty(len(self), dtype=np.int32)
        tied = None if self.timestamps is None else np.zeros(len(self), dtype=bool)
        done = 0
        for rows in self._chronological_blocks():
            block = slice(done, done := done + len(rows))
            items[block] = self.items[rows]
            if tied is not None and self.timestamps is not None:
                same = (np.diff(self.users[rows]) == 0) & (np.diff(self.timestamps[rows]) == 0)
                tied[block][1:] |= same
                tied[block][:-1] |= same
        return Sequences(offsets, items, tied)

    def _chronological_blocks(self) -> Iterator[NDArray[np.int64]]:
        """Yield row numbers ordered by (user, timestamp, file order), the rows of some whole users at a time."""
        ends = np.cumsum(_counts(self.users, len(self.user_ids)))
        first = 0
        while first < len(ends):
            start = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, start + _block_size(len(self)), side="right")))
            chosen = self.users >= first
            chosen &= self.users < last
            rows = np.flatnonzero(chosen)
            keys = (self.users[rows],) if self.timestamps is None else (self.timestamps[rows], self.users[rows])
            # The sort is stable, so rows with equal keys stay in file order.
            yield rows[np.lexsort(keys)]
            first = last

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        self.users = self.users[kept]
        self.items = self.items[kept]
        self.timestamps = None if self.timestamps is None else self.timestamps[kept]


def _block_size(interactions: int) -> int:
    """Return how many interactions to work on at a time where the work needs more than their own 16 bytes.

    A sixty-fourth, so that the extra memory stays below a byte or two an interaction and the log is scanned 64 times.
    """
    return max(1 << 18, interactions // 64)


def _counts(numbers: NDArray[np.int32], size: int) -> NDArray[np.int64]:
    """Count each number below ``size``; in blocks, because bincount makes an 8-byte copy of what it counts."""
    counts = np.zeros(size, dtype=np.int64)
    step = _block_size(len(numbers))
    for start in range(0, len(numbers), step):
        block = np.bincount(numbers[start : start + step])
        counts[: len(block)] += block
    return counts


def _looked_up(table: NDArray[Any], numbers: NDArray[np.int32]) -> NDArray[Any]:
    """Return ``table[numbers]``; in blocks, because numpy makes an 8-byte copy of the index."""
    values = np.empty(len(numbers), dtype=table.dtype)
    step = _block_size(len(numbers))
    for start in range(0, len(numbers), step):
        values[start : start + step] = table[numbers[start : start + step]]
    return values


def _renumbered(numbers: NDArray[np.int32], ids: list[str]) -> tuple[NDArray[np.int32], list[str]]:
    """Return the numbers in the order of the ids that occur, and those ids."""
    present = np.flatnonzero(_counts(numbers, len(ids)))
    order = sorted(present.tolist(), key=lambda number: (len(ids[number]), ids[number]))
    new = np.zeros(len(ids), dtype=np.int32)
    new[order] = np.arange(len(order), dtype=np.int32)
    return _looked_up(new, numbers), [ids[number] for number in order]
