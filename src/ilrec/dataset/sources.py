"""Where interactions come from: what a source offers, RecBole atomic files and LC-Rec JSON files.

MovieLens is in ``movielens.py``, raw Amazon reviews are in ``amazon.py``, any other table is in ``table.py``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from src.ilrec.dataset.splits import SPLIT_COLUMNS, Targets, chained, part_of, split_files, targets_of
from src.ilrec.dataset.values import Clock, decoded, identifier, text_of, title_of
from src.launch.errors import InputError
from src.launch.lines import existing_file, fault, read_json_object, read_lines

Row = tuple[str, str, int | None]
# RecBole's column of the items before the one of the row.
_HISTORY = "item_id_list"


class Item(NamedTuple):
    """What a source says about an item.

    Attributes:
        title: Title; "" where there is none.
        text: Title, description, brand, genres and the like, for item embeddings; "" where there is none.
    """

    title: str
    text: str


class Source(Protocol):
    """Anything ``prepare`` can read; making one reads nothing and downloads nothing."""

    @property
    def name(self) -> str:
        """Name of the data set."""

    def files(self) -> list[Path]:
        """Return the files whose bytes decide the content, downloaded if need be.

        Raises:
            InputError: a file is missing or cannot be downloaded.
        """

    def rows(self) -> Iterator[Row]:
        """Yield (user id, item id, timestamp or None) in file order.

        Raises:
            InputError: a line is damaged; the message names file and line.
        """

    def catalogue(self, items: Collection[str]) -> dict[str, Item]:
        """Return what is known about these items; items nothing is known about may be left out.

        Raises:
            InputError: a line is damaged, or an item that must be described is not.
        """


@dataclass(frozen=True)
class RecBoleFiles:
    """RecBole atomic files: ``<name>.inter`` and, where there is one, ``<name>.item``.

    Tab-separated with a typed header such as ``user_id:token  item_id:token  timestamp:float``, columns in any order.
    The title is the first ``token_seq`` column named title or ...title; the other columns of the item follow it in the
    text. A ``release_year`` is added to the title: 1,659 titles of ML-100K name 1,682 films.

    RecBole copies titles as their sources write them. So ``movie_title``, which MovieLens alone has, gets its article
    to the front and other titles do not, and HTML entities, of which Amazon's are full, become characters everywhere:
    no source means them as they stand.

    Benchmark files, ``<name>.train.inter`` and so on, are read in their order where there is no ``<name>.inter``; their
    split must be leave-one-out. Where rows hold the history beside the item (``item_id_list``), each user's sequence is
    put together again.

    Attributes:
        folder: Folder with the files.
        name: Name of the data set, first part of the file names.
    """

    folder: str
    name: str

    def files(self) -> list[Path]:
        """Return the ``.inter`` file or its three parts and, if it is there, the ``.item`` file."""
        parts = [path for _, path in self._parts()]
        first, *items = interaction_and_item_files(self.folder, parts[0].name, f"{self.name}.item")
        return [first, *parts[1:], *items]

    def rows(self) -> Iterator[Row]:
        """Yield the rows of the ``.inter`` files."""
        parts = self._parts()
        if _HISTORY in _atomic_columns(parts[0][1]):
            yield from self._from_histories(parts)
            return
        clock = Clock()
        for _, path in parts:
            for number, (user, item, timestamp) in _read_atomic(path, ("user_id", "item_id", "timestamp")):
                try:
                    yield identifier(user, "user"), identifier(item, "item"), clock.read(timestamp)
                except ValueError as error:
                    raise fault(path, number, str(error)) from error

    def targets(self) -> Targets | None:
        """Return what the split of the files holds for each user, where there is one."""
        parts = self._parts()
        columns = [next((c for c in _atomic_columns(path) if c in SPLIT_COLUMNS), None) for _, path in parts]
        if len(parts) == 1 and columns == [None]:
            return None

        def labelled() -> Iterator[tuple[str, str, str]]:
            for (part, path), column in zip(parts, columns, strict=True):
                for number, (user, item, label) in _read_atomic(path, ("user_id", "item_id", column or "item_id")):
                    label = part or part_of(label, f"{path}, line {number}, column {column!r}")
                    yield label, identifier(user, "user"), identifier(item, "item")

        return targets_of(labelled(), f"{self.folder}/{self.name}")

    def catalogue(self, items: Collection[str]) -> dict[str, Item]:
        """Return title and text of the items that the ``.item`` file describes."""
        found: dict[str, Item] = {}
        for path in self.files()[len(self._parts()) :]:
            names = _atomic_columns(path)
            for number, values in _read_atomic(path, ("item_id", *(name for name in names if name != "item_id"))):
                row = dict(zip(("item_id", *(name for name in names if name != "item_id")), values, strict=True))
                try:
                    item = identifier(row.pop("item_id"), "item")
                except ValueError as error:
                    raise fault(path, number, str(error)) from error
                if item in items:
                    column = next((column for column in row if re.search("(^|_)title$", column)), None)
                    title = decoded(title_of(row.pop(column))) if column else ""
                    title = article_first(title) if column == "movie_title" else title
                    year = row.pop("release_year", "")
                    if title and year.isdecimal():
                        title = f"{title} ({year})"
                    keep_first(found, item, described(title, (decoded(text_of(value)) for value in row.values())))
        return found

    def _parts(self) -> list[tuple[str | None, Path]]:
        return split_files(Path(self.folder).expanduser() / f"{self.name}.inter")

    def _from_histories(self, parts: list[tuple[str | None, Path]]) -> Iterator[Row]:
        """Yield each user's sequence, of which every row holds a part."""
        rows: dict[str, list[tuple[list[str], str]]] = {}
        for _, path in parts:
            for number, (user, history, item) in _read_atomic(path, ("user_id", _HISTORY, "item_id")):
                try:
                    before = [identifier(one, "item") for one in history.split(" ") if one]
                    rows.setdefault(identifier(user, "user"), []).append((before, identifier(item, "item")))
                except ValueError as error:
                    raise fault(path, number, str(error)) from error
        for user, its in rows.items():
            for item in chained(its, user, f"{self.folder}/{self.name}"):
                yield user, item, None


@dataclass(frozen=True)
class LcRecFiles:
    """LC-Rec JSON files: ``<name>.inter.json`` and, where there is one, ``<name>.item.json``.

    Each user's list of item numbers is in chronological order; there are no timestamps.

    Attributes:
        folder: Folder with the files.
        name: Name of the data set, first part of the file names.
    """

    folder: str
    name: str

    def files(self) -> list[Path]:
        """Return the ``.inter.json`` and, if it is there, the ``.item.json`` file."""
        return interaction_and_item_files(self.folder, f"{self.name}.inter.json", f"{self.name}.item.json")

    def rows(self) -> Iterator[Row]:
        """Yield each user's items in the order of the list."""
        path = self.files()[0]
        for user, items in read_json_object(path).items():
            if not isinstance(items, list) or any(type(item) is not int or item < 0 for item in items):
                raise InputError(f"{path}: user {user!r} has {str(items)[:60]}; I need a list of item numbers.")
            try:
                name = identifier(user, "user")
            except ValueError as error:
                raise InputError(f"{path}: {error}. I need an id for every user.") from error
            for item in items:
                yield name, str(item), None

    def catalogue(self, items: Collection[str]) -> dict[str, Item]:
        """Return title and text of the items; an ``.item.json`` must give a title to each of them."""
        found = {}
        for path in self.files()[1:]:
            records = read_json_object(path)
            for item in items:
                record = records.get(item)
                try:
                    title = title_of(record.get("title")) if isinstance(record, dict) else ""
                except ValueError as error:
                    raise InputError(f"{path}, item {item!r}: {error}.\nI need one text as its title.") from error
                if not isinstance(record, dict) or not title:
                    raise InputError(
                        f"{path} gives no title to item {item!r}, which {self.name}.inter.json uses.\n"
                        "I need a record with a title for every item. Complete the file, or move it away to train "
                        "without titles."
                    )
                others = (text_of(record.get(field)) for field in ("brand", "categories", "description"))
                found[item] = described(title, others)
        return found


def interaction_and_item_files(folder: str, interactions: str, items: str) -> list[Path]:
    """Return the paths of the interactions file, which must be there, and of the items file if it is there.

    Raises:
        InputError: the interactions file is missing.
    """
    path = Path(folder).expanduser()
    first = existing_file(path / interactions, "the interactions: set dataset.source.folder and dataset.source.name")
    return [first, path / items] if (path / items).is_file() else [first]


def described(title: str, others: Iterable[str]) -> Item:
    """Return an item of a title and the other texts about it."""
    return Item(title, ". ".join(part for part in (title, *others) if part))


def keep_first(found: dict[str, Item], name: str, item: Item) -> Item:
    """Add what a row says about an item, unless a row before it had a title or said as much; return what stays."""
    known = found.get(name)
    if known is None or (not known.title and (item.title or not known.text)):
        found[name] = known = item
    return known


def article_first(title: str) -> str:
    """Return a title of MovieLens with its article where it is read: "Butcher Boy, The" becomes "The Butcher Boy".

    Titles in brackets are treated alike: "Tin Drum, The (Blechtrommel, Die)" becomes "The Tin Drum (Die Blechtrommel)".
    "Die" is an article in brackets only, which hold the title of another language: "Never Say, Die" stays.
    """
    article = r"The|A|An|La|Le|Les|L'|Il|El|Los|Las|Lo|Der|Das|Det|Den"
    moved = re.sub(rf"^([^()]+), ({article})(?=$| \()", r"\2 \1", title)
    moved = re.sub(rf"(\((?:a\.k\.a\. )?)([^()]+), ({article}|Die)(?=\)| \()", r"\1\3 \2", moved)
    return moved.replace("L' ", "L'")


def _atomic_columns(path: Path) -> list[str]:
    """Return the columns of an atomic file, without the types of the header.

    Raises:
        InputError: two of them have one name.
    """
    _, header = next(read_lines(path), (1, ""))
    columns = [column.partition(":")[0] for column in header.split("\t")]
    if twice := {column for column in columns if columns.count(column) > 1}:
        raise fault(path, 1, f"the header names {', '.join(sorted(twice))} twice")
    return columns


def _read_atomic(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the numbered rows of an atomic file, each as its values in the columns needed."""
    columns = _atomic_columns(path)
    lines = read_lines(path)
    _, header = next(lines, (1, ""))
    if missing := [column for column in needed if column not in columns]:
        raise fault(path, 1, f"no column {', '.join(missing)} in the header {header[:200]!r}")
    places = [columns.index(column) for column in needed]
    for number, line in lines:
        values = line.split("\t")
        if len(values) != len(columns):
            raise fault(path, number, f"{len(values)} columns, but the header has {len(columns)}")
        yield number, tuple([values[place] for place in places])
