"""Where interactions come from: what a source offers, RecBole atomic files and LC-Rec JSON files.

MovieLens from pinned wheels is in ``movielens.py``, raw Amazon reviews are in ``amazon.py``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from src.launch.errors import InputError
from src.launch.lines import existing_file, fault, read_json_object, read_lines, whole_number

Row = tuple[str, str, int | None]


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

    Attributes:
        folder: Folder with the files.
        name: Name of the data set, first part of the file names.
    """

    folder: str
    name: str

    def files(self) -> list[Path]:
        """Return the ``.inter`` and, if it is there, the ``.item`` file."""
        return interaction_and_item_files(self.folder, f"{self.name}.inter", f"{self.name}.item")

    def rows(self) -> Iterator[Row]:
        """Yield the rows of the ``.inter`` file."""
        path = self.files()[0]
        for number, row in _read_atomic(path, ("user_id", "item_id", "timestamp")):
            try:
                yield row["user_id"], row["item_id"], whole_number(row["timestamp"])
            except ValueError as error:
                raise fault(path, number, str(error)) from error

    def catalogue(self, items: Collection[str]) -> dict[str, Item]:
        """Return title and text of the items that the ``.item`` file describes."""
        found = {}
        for path in self.files()[1:]:
            for _, row in _read_atomic(path, ("item_id",)):
                if (item := row.pop("item_id")) in items:
                    column = next((column for column in row if re.search("(^|_)title$", column)), None)
                    title = article_first(row.pop(column)) if column else ""
                    year = row.pop("release_year", "")
                    if title and year.isdecimal():
                        title = f"{title} ({year})"
                    found[item] = Item(title, ". ".join(part for part in (title, *row.values()) if part))
        return found


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
            if not isinstance(items, list) or any(type(item) is not int for item in items):
                raise InputError(f"{path}: user {user!r} has {str(items)[:60]}; I need a list of item numbers.")
            for item in items:
                yield user, str(item), None

    def catalogue(self, items: Collection[str]) -> dict[str, Item]:
        """Return title and text of the items; an ``.item.json`` must give a title to each of them."""
        found = {}
        for path in self.files()[1:]:
            records = read_json_object(path)
            for item in items:
                record = records.get(item)
                title = str(record.get("title") or "").strip() if isinstance(record, dict) else ""
                if not isinstance(record, dict) or not title:
                    raise InputError(
                        f"{path} gives no title to item {item!r}, which {self.name}.inter.json uses.\n"
                        "I need a record with a title for every item. Complete the file, or move it away to train "
                        "without titles."
                    )
                others = (str(record.get(field) or "").strip() for field in ("brand", "categories", "description"))
                found[item] = Item(title, ". ".join(part for part in (title, *others) if part))
        return found


def interaction_and_item_files(folder: str, interactions: str, items: str) -> list[Path]:
    """Return the paths of the interactions file, which must be there, and of the items file if it is there.

    Raises:
        InputError: the interactions file is missing.
    """
    path = Path(folder).expanduser()
    first = existing_file(path / interactions, "the interactions: set dataset.source.folder and dataset.source.name")
    return [first, path / items] if (path / items).is_file() else [first]


def article_first(title: str) -> str:
    """Return a title with its article where it is read: "Butcher Boy, The" becomes "The Butcher Boy".

    Titles in brackets are treated alike: "Tin Drum, The (Blechtrommel, Die)" becomes "The Tin Drum (Die Blechtrommel)".
    """
    article = r"The|A|An|La|Le|Les|L'|Il|El|Los|Las|Lo|Der|Die|Das|Det|Den"
    moved = re.sub(rf"(^|\((?:a\.k\.a\. )?)([^()]+), ({article})(?=$|\)| \()", r"\1\3 \2", title)
    return moved.replace("L' ", "L'")


def _read_atomic(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the numbered rows of an atomic file as column -> value, without the types of the header."""
    lines = read_lines(path)
    _, header = next(lines, (1, ""))
    columns = [column.partition(":")[0] for column in header.split("\t")]
    if missing := [column for column in needed if column not in columns]:
        raise fault(path, 1, f"no column {', '.join(missing)} in the header {header!r}")
    for number, line in lines:
        values = line.split("\t")
        if len(values) != len(columns):
            raise fault(path, number, f"{len(values)} columns, but the header has {len(columns)}")
        yield number, dict(zip(columns, values, strict=True))
