"""Interactions from any table: one row an interaction, whatever its columns are called."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from src.ilrec.dataset.records import NAMES, Records, arrow_records, open_records
from src.ilrec.dataset.sources import Item, Row, described, keep_first
from src.ilrec.dataset.splits import SPLIT_COLUMNS, Targets, part_of, split_files, targets_of
from src.ilrec.dataset.values import ABSENT, Clock, identifier, text_of, title_of
from src.launch.errors import InputError, install_command
from src.launch.lines import existing_file

_TWO_TITLES = (
    "item {!r} has the title {!r} and here {!r}, so that this may be the title of something else, such as a review. "
    "Type dataset.source.title=<column> to take the first of an item all the same, or dataset.source.title='' for none"
)


@dataclass(frozen=True)
class Table:
    """A CSV, TSV, parquet or JSON-lines file; the first bytes tell which, and gzip is unpacked.

    Columns are found by their usual names (``user_id``, ``asin``, ``unixReviewTime``, ...), or by the settings. A
    column named split or the like, or files X.train.csv, X.valid.csv and X.test.csv, must agree with leave-one-out.

    Attributes:
        path: The file.
        columns: Names of the columns of a text file without a header, such as [user, item, rating, timestamp].
        user: Column of the user.
        item: Column of the item, here and in ``items``.
        timestamp: Column of the time: whole numbers of one unit, or dates such as 2014-05-01 or 2014-05-01T12:00:00Z.
        title: Column of the item's title, in ``items`` where there is that file; "" for none.
        text: Further columns of text, where the title is.
        items: File with a row for each item, of any of these kinds.
        separator: Between the cells of a text file; None finds it.
        encoding: Of text files.
        absent: Spellings of ids that mean that there is none.
    """

    path: str
    columns: list[str] | None = None
    user: str | None = None
    item: str | None = None
    timestamp: str | None = None
    title: str | None = None
    text: list[str] = field(default_factory=list)
    items: str | None = None
    separator: str | None = None
    encoding: str = "utf-8"
    absent: list[str] = field(default_factory=lambda: sorted(ABSENT))

    @property
    def name(self) -> str:
        """File name without its endings."""
        return Path(self.path).name.partition(".")[0]

    @property
    def settings(self) -> dict[str, Any]:
        """What decides, beside the content of the files, how they are read."""
        return {key: value for key, value in asdict(self).items() if key not in ("path", "items")}

    def files(self) -> list[Path]:
        """Return the interactions, in three files where they are split, and the items if given."""
        parts = split_files(Path(self.path).expanduser())
        paths = [existing_file(path, "the interactions that dataset.source.path names") for _, path in parts]
        return paths + self._item_files()

    def rows(self) -> Iterator[Row]:
        """Yield the interactions in file order."""
        clock = Clock()
        absent = frozenset(self.absent)
        for _, records in self._parts():
            for number, (user, item, timestamp) in records.values(self._needed(records)):
                try:
                    yield identifier(user, "user", absent), identifier(item, "item", absent), clock.read(timestamp)
                except ValueError as error:
                    raise records.fault(number, error) from error

    def targets(self) -> Targets | None:
        """Return what the split of the data holds for each user, where it has one."""
        parts = self._parts()
        columns = [
            next((name for name in records.names if name.lower() in SPLIT_COLUMNS), None) for _, records in parts
        ]
        if len(parts) == 1 and not any(columns):
            return None
        return targets_of(self._split_rows(parts, columns), self.path)

    def catalogue(self, items: Collection[str]) -> dict[str, Item]:
        """Return title and text of the items, of the first row that has a title."""
        found: dict[str, Item] = {}
        files = self._item_files()
        absent = frozenset(self.absent)
        for records in [self._open(path) for path in files] or [records for _, records in self._parts()]:
            item, title = self._described_by(records, bool(files))
            if title is None and not self.text:
                continue
            wanted = [item, *([title] if title else []), *self.text]
            for number, (key, *cells) in records.values(wanted):
                if key is None and files:  # a few of Steam's games have no id, and so no review
                    continue
                try:
                    if (name := identifier(key, "item", absent)) in items:
                        heading = title_of(cells.pop(0)) if title else ""
                        known = keep_first(found, name, described(heading, map(text_of, cells)))
                        if heading not in ("", known.title) and not files and self.title is None:
                            raise ValueError(_TWO_TITLES.format(name, known.title[:60], heading[:60]))
                except ValueError as error:
                    raise records.fault(number, error) from error
        return found

    def _described_by(self, records: Records, of_items: bool) -> tuple[str, str | None]:
        """Return the columns of the item and of its title, if there is one.

        Raises:
            InputError: there is no column of the item, or none of a name that is set.
        """
        named = self.item if self.item in records.names else None
        # In a file of items "id" and "name" are the item's; elsewhere they may be the row's and the user's.
        item = records.column("item", named, ("id",) if of_items else ())
        if item is None:
            raise _no_column(records, ["item"])
        for column in self.text:
            records.column("text", column)
        return item, None if self.title == "" else records.column("title", self.title, ("name",) if of_items else ())

    def _item_files(self) -> list[Path]:
        what = "the file that dataset.source.items names"
        return [existing_file(Path(self.items).expanduser(), what)] if self.items else []

    def _parts(self) -> Sequence[tuple[str | None, Records]]:
        """Return the parts of the split, or all rows as the only one."""
        return [(part, self._open(path, self.columns)) for part, path in split_files(Path(self.path).expanduser())]

    def _open(self, path: Path, columns: Sequence[str] | None = None) -> Records:
        try:
            "".encode(self.encoding)
        except (LookupError, ValueError):  # no encoding at all, or one of something else than text
            raise InputError(
                f"dataset.source.encoding={self.encoding} is not known. Type one such as utf-8 or latin-1."
            ) from None
        return open_records(path, columns, self.separator, self.encoding)

    def _needed(self, records: Records) -> list[str]:
        """Return the columns of user, item and timestamp.

        Raises:
            InputError: one is not to be found.
        """
        needed = {what: records.column(what, getattr(self, what)) for what in ("user", "item", "timestamp")}
        if absent := [what for what, column in needed.items() if column is None]:
            raise _no_column(records, absent)
        if needed["user"] == needed["item"]:
            told = " ".join(f"dataset.source.{what}=<column>" for what in ("user", "item"))
            raise InputError(f"{records.path}: user and item are both column {needed['user']!r}.\nType:  {told}")
        return [column for column in needed.values() if column is not None]

    def _split_rows(
        self, parts: Sequence[tuple[str | None, Records]], columns: Sequence[str | None]
    ) -> Iterator[tuple[str, str, str]]:
        """Yield part, user and item of every row."""
        for (part, records), column in zip(parts, columns, strict=True):
            user, item, _ = self._needed(records)
            for number, (name, thing, label) in records.values([user, item, column or item]):
                where = f"{records.path}, {records.unit} {number}"
                label = part or part_of(label, f"{where}, column {column!r}")
                yield (
                    label,
                    identifier(name, "user", frozenset(self.absent)),
                    identifier(thing, "item", frozenset(self.absent)),
                )


@dataclass(frozen=True)
class HubTable(Table):
    """A data set of the Hugging Face hub, or a folder that ``save_to_disk`` wrote or that holds data files.

    Attributes:
        path: Name on the hub, or the folder.
        configuration: Which of the data set's configurations; None where there is one.
        split: Which part to read; None where there is one, or a train, a validation and a test part of leave-one-out.
        revision: Commit, tag or branch of a name on the hub; None for the newest.
    """

    configuration: str | None = None
    revision: str | None = None
    split: str | None = None

    @property
    def name(self) -> str:
        """Last part of the data set's name."""
        return Path(self.path).name

    def files(self) -> list[Path]:
        """Return the Arrow files that the data set is kept in, and the items if given."""
        kept = [Path(entry["filename"]) for _, part in self._loaded() for entry in part.cache_files]
        return kept + self._item_files()

    def _parts(self) -> Sequence[tuple[str | None, Records]]:
        """Return the parts of the data set that are read."""

        def records(part: Any) -> Records:
            def batches(wanted: Sequence[str]) -> Iterator[Any]:
                return iter(part.select_columns(list(wanted)).with_format("arrow").iter(65_536))

            return arrow_records(Path(self.path), part.column_names, len(part), batches)

        return [(label, records(part)) for label, part in self._loaded()]

    def _loaded(self) -> list[tuple[str | None, Any]]:
        """Return the parts with their labels; the library keeps what it has loaded before.

        Raises:
            InputError: the library is not installed, it cannot load the data set, or which part is meant is unclear.
        """
        try:
            import datasets
        except ImportError as error:
            told = f"dataset=hub needs the package datasets.\nType:  {install_command('datasets')}"
            raise InputError(told) from error
        folder = Path(self.path).expanduser()
        try:
            if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
                loaded = datasets.load_from_disk(str(folder))
            else:
                name = str(folder) if folder.is_dir() else self.path
                loaded = datasets.load_dataset(name, self.configuration, revision=self.revision)
        except Exception as error:  # unknown names, no network, torn files: a dozen types
            raise InputError(
                f"dataset.source.path={self.path!r} cannot be loaded as a Hugging Face data set:\n{error}\n"
                "I need a name on the hub, or a folder with its files; a single file is read by  dataset=table"
            ) from error
        if isinstance(loaded, datasets.Dataset):
            return [(None, loaded)]
        if self.split or len(loaded) == 1:
            chosen = self.split or next(iter(loaded))
            if chosen in loaded:
                return [(None, loaded[chosen])]
            raise InputError(f"dataset.source.split={chosen} is none of {', '.join(loaded)}, the parts of {self.path}.")
        parts = {part_of(label, f"{self.path}, a part of the data set"): part for label, part in loaded.items()}
        if len(parts) < 3:
            raise InputError(
                f"{self.path} has the parts {', '.join(loaded)}. Type which to read:  dataset.source.split=<part>"
            )
        return [(label, parts[label]) for label in ("train", "valid", "test")]


def _no_column(records: Records, absent: list[str]) -> InputError:
    settings = " ".join(f"dataset.source.{what}=<column>" for what in absent)
    return InputError(
        f"{records.path}, {records.unit} 1: no column of {', '.join(absent)} among {', '.join(records.names)[:300]}.\n"
        f"Say which it is:  {settings}\n"
        "or, where the file has no header, what its columns are:  dataset.source.columns=[user,item,rating,timestamp]\n"
        f"Known by themselves are {', '.join(NAMES[absent[0]])}, with or without _."
    )
