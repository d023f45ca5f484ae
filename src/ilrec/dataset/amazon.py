"""Raw Amazon reviews as published per category in 2018 and 2023, read as a stream."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.ilrec.dataset.sources import Item, Row
from src.launch.lines import existing_file, fault, read_json_lines, read_lines, whole_number


@dataclass(frozen=True)
class Amazon2018:
    """Amazon 2018: a ratings CSV without header (item, user, rating, timestamp in s) and metadata as JSON lines.

    Attributes:
        ratings: Path of the CSV, plain or ``.gz``.
        metadata: Path of ``meta_*.json.gz`` (asin, title, brand, category, description), plain or ``.gz``; optional.
    """

    ratings: str
    metadata: str | None = None

    @property
    def name(self) -> str:
        """File name of the ratings without its endings."""
        return Path(self.ratings).name.partition(".")[0]

    def files(self) -> list[Path]:
        """Return the ratings and, if given, the metadata."""
        return _files("ratings", self.ratings, self.metadata)

    def rows(self) -> Iterator[Row]:
        """Yield the ratings in file order."""
        path = self.files()[0]
        for number, line in read_lines(path):
            values = line.split(",")
            if len(values) != 4:
                raise fault(path, number, f"I need item,user,rating,timestamp, got {line[:60]!r}")
            try:
                yield values[1], values[0], whole_number(values[3])
            except ValueError as error:
                raise fault(path, number, str(error)) from error

    def catalogue(self, items: Collection[str]) -> dict[str, Item]:
        """Return title and text of the items that the metadata describes."""
        return _catalogue(self.files()[1:], "asin", ("brand", "category", "feature", "description"), items)


@dataclass(frozen=True)
class Amazon2023:
    """Amazon 2023: reviews and metadata as JSON lines.

    Attributes:
        reviews: Path of the reviews (user_id, parent_asin, timestamp in ms), plain or ``.gz``.
        metadata: Path of ``meta_*.jsonl.gz`` (parent_asin, title, store, categories, ...), plain or ``.gz``; optional.
    """

    reviews: str
    metadata: str | None = None

    @property
    def name(self) -> str:
        """File name of the reviews without its endings."""
        return Path(self.reviews).name.partition(".")[0]

    def files(self) -> list[Path]:
        """Return the reviews and, if given, the metadata."""
        return _files("reviews", self.reviews, self.metadata)

    def rows(self) -> Iterator[Row]:
        """Yield the reviews in file order."""
        path = self.files()[0]
        for number, review in read_json_lines(path):
            try:
                yield str(review["user_id"]), str(review["parent_asin"]), whole_number(str(review["timestamp"]))
            except KeyError as error:
                raise fault(path, number, f"no field {error} in the review") from error
            except ValueError as error:
                raise fault(path, number, str(error)) from error

    def catalogue(self, items: Collection[str]) -> dict[str, Item]:
        """Return title and text of the items that the metadata describes."""
        return _catalogue(self.files()[1:], "parent_asin", ("store", "categories", "features", "description"), items)


def _files(setting: str, interactions: str, metadata: str | None) -> list[Path]:
    """Return the paths that are set, all of which must be there."""
    given = {setting: interactions, "metadata": metadata}
    return [
        existing_file(Path(path).expanduser(), f"the file that dataset.source.{key} names")
        for key, path in given.items()
        if path is not None
    ]


def _catalogue(metadata: list[Path], key: str, others: tuple[str, ...], items: Collection[str]) -> dict[str, Item]:
    """Return title and text of the wanted items; other lines are forgotten at once."""
    found = {}
    for path in metadata:
        for number, record in read_json_lines(path):
            if key not in record:
                raise fault(path, number, f"no field {key!r} in the metadata")
            if (item := str(record[key])) in items:
                title = _plain(record.get("title"))
                # Some pages of 2018 were scraped badly: their "title" is a script that calls getTime.
                title = "" if "getTime" in title else title
                parts = (title, *(_plain(record.get(field)) for field in others))
                found[item] = Item(title, ". ".join(part for part in parts if part))
    return found


def _plain(value: Any) -> str:
    """Return a field, which may be a text, a list of texts or absent, without HTML entities, tags and line breaks."""
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value or "")
    return " ".join(re.sub(r"<[^>]*>", " ", html.unescape(text)).split())
