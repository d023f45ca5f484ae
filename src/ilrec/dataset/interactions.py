"""Interactions ready for sequential recommendation: k-core, chronological leave-one-out split, cached by content."""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from src.ilrec.dataset.log import Log
from src.ilrec.dataset.sources import Item, Source
from src.ilrec.dataset.splits import SplitSource, check_targets
from src.launch.errors import InputError
from src.launch.storage import cache_folder, sha256_of, write_atomic, writing_to_cache
from src.launch.values import Count

# Part of the fingerprint: raise it whenever the same files and settings give other interactions.
_FORMAT = 2
# One item to learn from, one to validate on, one to test on.
_SHORTEST = 3

Split = Literal["val", "test"]


@dataclass(frozen=True)
class Interactions:
    """Every user's items in chronological order, split by leave-one-out.

    The last item of a user is the test target, the second last the validation target, the rest is training data.

    Attributes:
        name: Name of the data set.
        offsets: Where each user's items begin in ``items``, shape ``(users + 1,)``, int64.
        items: Item numbers, chronological within each user, shape ``(interactions,)``, int64.
        user_ids: The source's id of each user.
        item_ids: The source's id of each item.
        titles: Title of each item; "" where there is none.
        texts: Title, description, genres and the like of each item; "" where there is none.
        fingerprint: Hex SHA-256 over the source's content, the settings and the version of the preparation.
        statistics: Counts and shares by name; see ``prepare``.
    """

    name: str
    offsets: NDArray[np.int64]
    items: NDArray[np.int64]
    user_ids: list[str]
    item_ids: list[str]
    titles: list[str]
    texts: list[str]
    fingerprint: str
    statistics: dict[str, float]

    @property
    def num_users(self) -> int:
        """Number of users, each with at least three items."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Number of items, all of which are ranked."""
        return len(self.item_ids)

    def sequence(self, user: int) -> NDArray[np.int64]:
        """Return all items of a user, oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def training_sequence(self, user: int) -> NDArray[np.int64]:
        """Return the items of a user that may be learned from: all but the last two."""
        return self.sequence(user)[:-2]

    def history(self, user: int, split: Split) -> NDArray[np.int64]:
        """Return what is known of a user when the target of the split is to be predicted."""
        return self.sequence(user)[: -1 if split == "test" else -2]

    def target(self, user: int, split: Split) -> int:
        """Return the item of a user that is to be predicted."""
        return int(self.sequence(user)[-1 if split == "test" else -2])

    def training_matrix(self) -> csr_matrix:
        """Return how often each user met each item in the training part, shape ``(users, items)``, float32."""
        lengths = np.diff(self.offsets)
        position = np.arange(len(self.items)) - np.repeat(self.offsets[:-1], lengths)
        training = position < np.repeat(lengths, lengths) - 2
        bounds = np.concatenate(([0], np.cumsum(lengths - 2)))
        ones = np.ones(int(bounds[-1]), dtype=np.float32)
        matrix = csr_matrix((ones, self.items[training], bounds), shape=(self.num_users, self.num_items))
        matrix.sum_duplicates()
        return matrix

    def statistics_table(self) -> str:
        """Return the statistics as two aligned columns."""
        width = max(map(len, self.statistics))
        lines = [f"{name:<{width}}  {_readable(value)}" for name, value in self.statistics.items()]
        return "\n".join([f"{self.name} ({self.fingerprint[:12]})", *lines])


def prepare(source: Source, *, k_core: Count = 5, max_users: Count | None = None) -> Interactions:
    """Read a source, filter it, order it and split it; the second call with the same content reads the cache.

    One rule for all sources: rows that agree in user, item and timestamp count once; every other repetition is kept.
    Users and items with fewer than ``k_core`` interactions are dropped, iterated; so are users with fewer than three,
    whom leave-one-out cannot split. A user's items are ordered by exact integer timestamp, and by file order within
    one timestamp. Users and items are numbered by id, shorter ids first, then alphabetically (numeric order for integer
    ids).

    Source: ILRec's protocol (5-core, chronological leave-one-out); duplicates, tie-break and numbering are our choice.

    Args:
        source: Where the interactions come from.
        k_core: Least number of interactions of every user and item, >= 1; 1 keeps everything.
        max_users: Keep only the first users, for trials; all items stay, so the ranking task does not get easier.

    Returns:
        The interactions. ``statistics`` holds ``users``, ``items``, ``interactions``, ``density``, ``length_*``
        (quantiles of the users' sequence lengths), ``timestamp_tie_share`` (share of interactions that share user and
        timestamp with another; absent without timestamps), ``items_without_title``, ``users_too_short`` (users of the
        k-core dropped for the split), ``users_left_out`` (by ``max_users``), ``duplicates_dropped`` and
        ``raw_users``, ``raw_items``, ``raw_interactions`` (before any filter), and ``highest_item_number`` before any
        filter where all items are numbers.

    Raises:
        InputError: a setting is out of range, a file is missing or damaged, nothing is left after the k-core, or the
            cache cannot be written.
    """
    for setting, value in (("k_core", k_core), ("max_users", max_users)):
        if value is not None and value < 1:
            raise InputError(f"dataset.{setting}={value}: I need a whole number of at least 1.")
    content = [_content_hash(path) for path in _files(source)]
    reading = getattr(source, "settings", None)  # of sources that can be told how to read their files
    settings = [_FORMAT, type(source).__name__, source.name, reading, k_core, max_users]
    fingerprint = hashlib.sha256(json.dumps([settings, content]).encode()).hexdigest()
    path = cache_folder() / "prepared" / f"{fingerprint}.npz"
    cached = _load(path)
    if cached is not None:
        return cached
    interactions = _build(source, k_core, max_users, fingerprint)
    _store(path, interactions)
    return interactions


def _files(source: Source) -> list[Path]:
    """Return the files of a source.

    Raises:
        InputError: one is missing, or what is set can be no path: empty, too long, in the home of nobody.
    """
    try:
        return source.files()
    except (OSError, ValueError, RuntimeError) as error:
        advice = "Type a path that there is for each of its files."
        raise InputError(f"dataset.source names no file: {str(error)[:200]}.\n{advice}") from error


def _build(source: Source, k_core: int, max_users: int | None, fingerprint: str) -> Interactions:
    """Do the work of ``prepare`` without the cache."""
    log = Log(source.rows())
    raw = {"raw_users": len(log.user_ids), "raw_items": len(log.item_ids), "raw_interactions": len(log)}
    if all(item.isdecimal() and len(item) < 19 for item in log.item_ids):
        raw["highest_item_number"] = max(map(int, log.item_ids), default=0)
    if not len(log):
        raise InputError(f"{source.files()[0]} holds no interaction. Fetch the file again.")
    log.keep_core(k_core, k_core)
    # Few rows are left to look through now, and the core of what remains is the core of a log without duplicates.
    duplicates = log.drop_duplicates()
    log.keep_core(k_core, k_core)
    core_users = log.count_users()
    log.keep_core(max(k_core, _SHORTEST), k_core)
    if not len(log):
        lower = f", or a lower core:  dataset.k_core={min(2, k_core - 1)}" if k_core > 1 else ""
        raise InputError(
            f"Nothing is left of {source.name} after the {k_core}-core: before it {raw['raw_interactions']:,} "
            f"interactions of {raw['raw_users']:,} users with {raw['raw_items']:,} items, in it {core_users:,} users, "
            f"none of whom has {_SHORTEST} interactions.\nI need a denser log{lower}"
        )
    log.renumber()
    sequences, user_ids, item_ids = log.sequences(), log.user_ids, log.item_ids
    del log
    if isinstance(source, SplitSource) and (targets := source.targets()) is not None:
        for row, user in enumerate(user_ids):
            last = sequences.items[sequences.offsets[row + 1] - 2 : sequences.offsets[row + 1]]
            check_targets(source.name, targets, user, [item_ids[item] for item in last])
    kept_users = user_ids[:max_users]
    offsets = sequences.offsets[: len(kept_users) + 1]
    items = sequences.items[: offsets[-1]].astype(np.int64)
    known = source.catalogue(set(item_ids))
    described = [known.get(item, Item("", "")) for item in item_ids]
    ties = {} if sequences.tied is None else {"timestamp_tie_share": float(sequences.tied[: len(items)].mean())}
    return Interactions(
        name=source.name,
        offsets=offsets,
        items=items,
        user_ids=kept_users,
        item_ids=item_ids,
        titles=[item.title for item in described],
        texts=[item.text for item in described],
        fingerprint=fingerprint,
        statistics={
            **_shape(offsets, len(item_ids)),
            **ties,
            "items_without_title": sum(not item.title for item in described),
            "users_too_short": core_users - len(user_ids),
            "users_left_out": len(user_ids) - len(kept_users),
            "duplicates_dropped": duplicates,
            **raw,
        },
    )


def _shape(offsets: NDArray[np.int64], num_items: int) -> dict[str, float]:
    """Return the counts, the density and the quantiles of the sequence lengths."""
    lengths = np.diff(offsets)
    shares = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
    return {
        "users": len(lengths),
        "items": num_items,
        "interactions": int(offsets[-1]),
        "density": float(offsets[-1] / (len(lengths) * num_items)),
        **{f"length_{name}": float(np.quantile(lengths, share)) for name, share in shares.items()},
    }


def _content_hash(path: Path) -> str:
    """Return a file's SHA-256, remembered by path, size and time of change: hashing 10 GB takes a minute.

    A file changed within the last two seconds is hashed but not remembered: a second change could leave the same times.
    """
    before = path.stat()
    key = f"{path.resolve()} {before.st_size} {before.st_mtime_ns} {before.st_ctime_ns}"
    memory = cache_folder() / "hashes" / hashlib.sha256(key.encode()).hexdigest()
    if memory.is_file() and len(known := memory.read_text()) == 64:
        return known
    digest = sha256_of(path)
    if time.time() - max(before.st_mtime, before.st_ctime) > 2:
        with writing_to_cache():
            write_atomic(memory, digest)
    return digest


def _store(path: Path, interactions: Interactions) -> None:
    """Write the cache file: the arrays, and everything else as JSON."""
    plain = {field.name: getattr(interactions, field.name) for field in fields(interactions)}
    arrays = {name: plain.pop(name) for name in ("offsets", "items")}
    arrays["plain"] = np.frombuffer(json.dumps(plain).encode(), dtype=np.uint8)
    with writing_to_cache():
        write_atomic(path, lambda stream: np.savez(stream, **arrays))


def _load(path: Path) -> Interactions | None:
    """Return the interactions of a cache file; None, so that it is made anew, where it is absent or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            plain: dict[str, Any] = json.loads(stored["plain"].tobytes())
            return Interactions(offsets=stored["offsets"], items=stored["items"], **plain)
    # Every member of the archive carries a CRC, so whatever is damaged surfaces as one of these.
    except (OSError, RuntimeError, zipfile.BadZipFile, EOFError, KeyError, ValueError, TypeError):
        return None


def _readable(value: float) -> str:
    """Return a count with thousands separators, or a share with four significant digits."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def count_pairs(interactions: Interactions, *, skip: int, back: float) -> csr_matrix:
    """Count pairs of items at distance d = 1..``skip`` in a training sequence, each ``0.5 ** (d - 1)`` times.

    Args:
        interactions: The data set.
        skip: Largest distance.
        back: What the reversed pair counts, relative to the pair.

    Returns:
        How often the column's item follows the row's, shape ``(I, I)``, float64, sparse.
    """
    lengths = np.diff(interactions.offsets)
    end = np.repeat(interactions.offsets[1:] - 2, lengths)
    forward = csr_matrix((interactions.num_items,) * 2)
    for distance in range(1, skip + 1):
        earlier = np.flatnonzero(np.arange(len(end)) + distance < end)
        pair = interactions.items[earlier], interactions.items[earlier + distance]
        forward += csr_matrix((np.full(len(earlier), 0.5 ** (distance - 1)), pair), shape=forward.shape)
    pairs = csr_matrix(forward + back * forward.T) if back else forward
    pairs.sort_indices()
    return pairs
