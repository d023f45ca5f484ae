"""Raw Amazon reviews as published per category in 2014, 2018 and 2023, read as a stream."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar

from src.ilrec.dataset.records import is_name, open_records
from src.ilrec.dataset.sources import Item, Row, described, keep_first
from src.ilrec.dataset.splits import Targets, split_files
from src.ilrec.dataset.table import Table
from src.ilrec.dataset.values import Clock, decoded, identifier, text_of, title_of, without_tags
from src.launch.errors import InputError
from src.launch.lines import existing_file, fault, read_json_lines, read_lines

# An item: Amazon's own number, or a book's ISBN-10. Users have 12 characters and more.
_ASIN = re.compile(r"B[0-9A-Z]{9}|\d{9}[\dX]")
_SAMPLE = 1000
_RATINGS = ("user", "item", "rating", "timestamp")


class _Reviews:
    """What the files of all years have in common.

    Attributes:
        setting: The field that names the reviews or ratings.
        order: Columns of a CSV without a header; None where the published one has a header.
        fields: Keys of user, item and timestamp in a review.
        described: Keys of item and texts in the metadata.
    """

    metadata: str | None
    columns: list[str] | None
    setting: ClassVar[str]
    order: ClassVar[tuple[str, ...] | None]
    fields: ClassVar[tuple[str, str, str]]
    described: ClassVar[tuple[str, ...]]

    @property
    def name(self) -> str:
        """File name of the reviews without its endings."""
        return Path(self._path).name.partition(".")[0]

    @property
    def settings(self) -> list[str] | None:
        """What decides, beside the content of the files, how they are read."""
        return self.columns

    @property
    def _path(self) -> str:
        return str(getattr(self, self.setting))

    def files(self) -> list[Path]:
        """Return the reviews, of a split all three files, and, if given, the metadata; all must be there."""
        parts = [(self.setting, path) for _, path in split_files(Path(self._path).expanduser())]
        given = [*parts, *([("metadata", Path(self.metadata).expanduser())] if self.metadata else ())]
        return [existing_file(path, f"the file that dataset.source.{key} names") for key, path in given]

    def rows(self) -> Iterator[Row]:
        """Yield the reviews in file order."""
        path, *_ = self.files()
        if _is_json(path):
            return _reviews(path, self.fields)
        return _ratings(self._path, self.metadata, self.columns, self.order).rows()

    def catalogue(self, items: Collection[str]) -> dict[str, Item]:
        """Return title and text of the items that the metadata describes."""
        return _catalogue(self.metadata, self.described, items)


@dataclass(frozen=True)
class Amazon2018(_Reviews):
    """Amazon 2018: a ratings CSV without header (item, user, rating, timestamp in s), or reviews as JSON lines.

    Attributes:
        ratings: Path of the CSV, or of ``X.json.gz`` or ``X_5.json.gz`` (reviewerID, asin, unixReviewTime).
        metadata: Path of ``meta_*.json.gz`` (asin, title, brand, category, description); optional.
        columns: Order of the CSV's columns, such as [user, item, rating, timestamp], where it is not the published one.
    """

    ratings: str
    metadata: str | None = None
    columns: list[str] | None = None
    setting = "ratings"
    order = ("item", "user", "rating", "timestamp")
    fields = ("reviewerID", "asin", "unixReviewTime")
    described = ("asin", "brand", "category", "categories", "feature", "description")


@dataclass(frozen=True)
class Amazon2014(Amazon2018):
    """Amazon 2014: as 2018, but the CSV (``ratings_*.csv``) is user, item, rating, timestamp."""

    order = _RATINGS


@dataclass(frozen=True)
class Amazon2023(_Reviews):
    """Amazon 2023: reviews and metadata as JSON lines, or the rating-only CSV with its header.

    Attributes:
        reviews: Path of the reviews or ratings (user_id, parent_asin, timestamp in ms), plain or packed.
        metadata: Path of ``meta_*.jsonl.gz`` (parent_asin, title, store, categories, ...); optional.
        columns: Order of the CSV's columns, such as [user, item, rating, timestamp], where it has no header.
    """

    reviews: str
    metadata: str | None = None
    columns: list[str] | None = None
    setting = "reviews"
    order = None
    fields = ("user_id", "parent_asin", "timestamp")
    described = ("parent_asin", "store", "categories", "features", "description")

    def targets(self) -> Targets | None:
        """Return what the split of the CSV files (``5core_last_out``) holds for each user, where there is one."""
        return None if _is_json(self.files()[0]) else Table(self.reviews, self.columns).targets()


def _is_json(path: Path) -> bool:
    """Return whether a file holds JSON lines; an empty one is left to who reads it."""
    return next((line for _, line in read_lines(path)), "").lstrip().startswith("{")


def _reviews(path: Path, fields: tuple[str, str, str]) -> Iterator[Row]:
    """Yield user, item and timestamp of reviews as JSON lines."""
    clock = Clock()
    for number, review in read_json_lines(path):
        try:
            user, item, timestamp = (review[field] for field in fields)
            yield identifier(user, "user"), identifier(item, "item"), clock.read(timestamp)
        except KeyError as error:
            raise fault(path, number, f"no field {error} in the review") from error
        except ValueError as error:
            raise fault(path, number, str(error)) from error


def _ratings(path: str, metadata: str | None, columns: list[str] | None, order: tuple[str, ...] | None) -> Table:
    """Return the table of a ratings CSV, once its content agrees with the order of its columns.

    Args:
        path: The CSV.
        metadata: Path of the metadata, if any.
        columns: The order that the user has set; it is believed.
        order: The published order; None where the published file has a header.

    Raises:
        InputError: the content says that users and items are the other way round, or does not tell.
    """
    if columns:
        return Table(path, columns)
    table = Table(path, list(order) if order else None)
    file = split_files(Path(path).expanduser())[0][1]
    if order and all(map(is_name, open_records(file).names)):
        raise fault(
            file, 1, "timestamp 'timestamp' is not a number: the published file has no header; dataset=table reads one"
        )
    records = open_records(file, order)
    user, item = records.column("user"), records.column("item")
    if user and item:  # or else the table says which is absent
        sample = [(str(row[0]), str(row[1])) for _, row in islice(records.values([user, item]), _SAMPLE)]
        _check_order(file, sample, metadata, [name if order else "" for name in records.names])
    return table


def _check_order(file: Path, sample: list[tuple[str, str]], metadata: str | None, order: list[str]) -> None:
    """Compare the first users and items of a file with what items look like, and with those of the metadata.

    Raises:
        InputError: they are the other way round, or nothing tells them apart.
    """
    of_users, of_items = ({row[column] for row in sample} for column in (0, 1))
    likely = [sum(map(bool, map(_ASIN.fullmatch, ids))) > len(ids) / 2 for ids in (of_users, of_items)]
    if likely[0] == likely[1] and metadata:
        hits = [0, 0]
        for _, record in read_json_lines(Path(metadata).expanduser()):
            name = str(record.get("parent_asin", record.get("asin")))
            hits[0] += name in of_users
            hits[1] += name in of_items
        likely = [hits[0] > hits[1], hits[1] > hits[0]]
    if likely == [False, True] or not sample:
        return
    seen = f"user {sample[0][0][:40]!r}, item {sample[0][1][:40]!r}"
    doubt = "users and items seem to be the other way round" if likely == [True, False] else "which are the items"
    turned = {"user": "item", "item": "user"}
    shown = [turned.get(name, name) if likely[0] else name for name in order] if any(order) else list(_RATINGS)
    raise InputError(
        f"{file}: {doubt}? ({seen}; items of Amazon look like 'B00YQ6X8EO'.)\n"
        f"Say what the columns are:  dataset.source.columns=[{','.join(shown)}]\n"
        "Files of 2014 (dataset=amazon_2014) are user,item,rating,timestamp, those of 2018 (dataset=amazon_2018) "
        "item,user,rating,timestamp, those of 2023 have a header."
    )


def _catalogue(metadata: str | None, keys: Sequence[str], items: Collection[str]) -> dict[str, Item]:
    """Return title and text of the wanted items; other lines are forgotten at once."""
    key, *others = keys
    found: dict[str, Item] = {}
    path = Path(metadata or "").expanduser()
    for number, record in read_json_lines(path) if metadata else ():
        if key not in record:
            raise fault(path, number, f"no field {key!r} in the metadata")
        try:
            if (item := identifier(record[key], "item")) in items:
                title = _plain(title_of(record.get("title")))
                # Some pages of 2018 were scraped badly: their "title" is a script that calls getTime.
                title = "" if "getTime" in title else title
                keep_first(found, item, described(title, (_plain(text_of(record.get(field))) for field in others)))
        except ValueError as error:
            raise fault(path, number, str(error)) from error
    return found


def _plain(text: str) -> str:
    """Return a text of Amazon's pages without HTML entities, tags and line breaks."""
    return " ".join(without_tags(decoded(text)).split())
