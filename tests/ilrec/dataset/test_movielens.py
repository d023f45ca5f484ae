import csv
import gzip
import io
import json
import pickle
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from src.ilrec.dataset.interactions import prepare
from src.ilrec.dataset.movielens import MovieLens100K, MovieLensFiles, MovieLensSmall, _FrameUnpickler
from src.ilrec.dataset.sources import Item
from src.ilrec.dataset.table import Table
from src.launch.errors import InputError
from src.launch.storage import cache_folder


@pytest.fixture
def wheels_only(tmp_path, monkeypatch):
    """A cache with the wheels fetched before, so that they are not downloaded anew, but with nothing prepared."""
    wheels = cache_folder() / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    (tmp_path / "wheels").symlink_to(wheels)
    monkeypatch.setenv("ILREC_GISA_CACHE", str(tmp_path))


@pytest.mark.usefixtures("wheels_only")
def test_ml_100k_has_its_known_counts_raw_and_after_the_5_core():
    data = prepare(MovieLens100K())
    found = [data.statistics[name] for name in ("raw_users", "raw_items", "raw_interactions")]
    assert found == [943, 1682, 100_000]
    assert [data.num_users, data.num_items, len(data.items)] == [943, 1349, 99_287]
    assert data.statistics["items_without_title"] == 0


@pytest.mark.usefixtures("wheels_only")
def test_ml_100k_has_its_known_share_of_ties_and_titles_with_years():
    data = prepare(MovieLens100K(), k_core=1)
    assert data.statistics["timestamp_tie_share"] == pytest.approx(0.758, abs=5e-4)
    assert data.titles[data.item_ids.index("1")] == "Toy Story (1995)"
    assert "The Butcher Boy (1998)" in data.titles
    ambiguous = [title.rpartition(" (")[0] for title in data.titles]
    assert len(set(ambiguous)) < len(set(data.titles))


@pytest.mark.usefixtures("wheels_only")
def test_in_ml_100k_415_users_have_their_last_two_ratings_in_the_same_second():
    source = MovieLens100K()
    times = {}
    for user, _, timestamp in source.rows():
        times.setdefault(user, []).append(timestamp)
    assert sum(sorted(stamps)[-1] == sorted(stamps)[-2] for stamps in times.values()) == 415


@pytest.mark.slow
@pytest.mark.usefixtures("wheels_only")
def test_movielens_small_has_its_known_counts():
    data = prepare(MovieLensSmall())
    found = [data.statistics[name] for name in ("raw_users", "raw_items", "raw_interactions")]
    assert found == [671, 9066, 100_004]
    assert [data.num_users, data.num_items, len(data.items)] == [671, 3496, 90_072]
    whole = prepare(MovieLensSmall(), k_core=1)
    assert whole.statistics["timestamp_tie_share"] == pytest.approx(0.319, abs=5e-4)
    # Seven ratings lack a title; they are of five films.
    assert whole.statistics["items_without_title"] == 5
    assert whole.titles[whole.item_ids.index("1")] == "Toy Story (1995)"


def test_a_pickle_that_names_any_other_function_is_refused_before_it_is_called(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    with pytest.raises(pickle.UnpicklingError, match="the pickle names .*, which a table does not need"):
        _FrameUnpickler(io.BytesIO(pickle.dumps(Trap()))).load()
    assert not (tmp_path / "touched").exists()


# The first lines of each archive, in its shape: separators, headers, quotes and encodings.
SHAPES = {
    "ml-100k": {"u.data": "196\t242\t3\t881250949\n186\t302\t3\t891717742\n",
                "u.item": "242|Kolya (1996)|24-Jan-1997||http://us.imdb.com/M/title" + "|0" * 5 + "|1" + "|0" * 13
                + "\n302|Misérables, Les (1995)|01-Jan-1997||http://x" + "|0" * 6 + "|1|0|0|0|1" + "|0" * 8 + "\n"},
    "ml-1m": {"ratings.dat": "196::242::3::881250949\n186::302::3::891717742\n",
              "movies.dat": "242::Kolya (1996)::Comedy\n302::Misérables, Les (1995)::Crime|Film-Noir\n"},
    "ml-10M100K": {"ratings.dat": "196::242::3.5::881250949\n186::302::3::891717742\n",
                   "movies.dat": "242::Kolya (1996)::Comedy\n302::Misérables, Les (1995)::Crime|Film-Noir\n"},
    "ml-25m": {"ratings.csv": "userId,movieId,rating,timestamp\n196,242,3.5,881250949\n186,302,3.0,891717742\n",
               "movies.csv": 'movieId,title,genres\n242,Kolya (1996),Comedy\n'
               '302,"Misérables, Les (1995)",Crime|Film-Noir\n303,"Say ""No"" (1990)",(no genres listed)\n'},
}  # fmt: skip


@pytest.mark.parametrize("archive", SHAPES)
def test_an_archive_of_movielens_is_read_in_the_shape_it_is_published_in(tmp_path, archive):
    folder = tmp_path / archive
    folder.mkdir()
    for name, content in SHAPES[archive].items():
        encoding = "latin-1" if archive in ("ml-100k", "ml-1m") else "utf-8"
        (folder / name).write_bytes(content.replace("\n", "\r\n" if archive == "ml-25m" else "\n").encode(encoding))
    source = MovieLensFiles(str(folder))
    assert source.name == archive
    assert list(source.rows()) == [("196", "242", 881250949), ("186", "302", 891717742)]
    found = source.catalogue({"242", "302", "303"})
    assert found.pop("303", None) in (None, Item('Say "No" (1990)', 'Say "No" (1990)'))
    title = "Les Misérables (1995)"
    assert found == {
        "242": Item("Kolya (1996)", "Kolya (1996). Comedy"),
        "302": Item(title, f"{title}. Crime Film-Noir"),
    }


def test_a_folder_without_the_files_of_movielens_names_them(tmp_path):
    (tmp_path / "links.csv").touch()
    with pytest.raises(InputError, match=r"holds: links\.csv\.\nI need one of ratings\.csv, ratings\.dat, u\.data"):
        MovieLensFiles(str(tmp_path)).files()
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n")
    with pytest.raises(InputError, match=r"No file .*movies\.csv"):
        MovieLensFiles(str(tmp_path)).files()


def door(folder, kind, rows, titles):
    """Write MovieLens 100K in the shape of another door and return its source."""
    named = [dict(zip(("userId", "movieId", "timestamp"), row, strict=True)) for row in rows]
    quoted = io.StringIO()
    csv.writer(quoted).writerows([("movieId", "title", "genres"), *((item, title, "Drama") for item, title in titles)])
    (folder / "movies.csv").write_text(quoted.getvalue())
    (folder / "movies.dat").write_text("".join(f"{item}::{title}::Drama\n" for item, title in titles))
    items = str(folder / "movies.csv")
    path = folder / "x"
    if kind in ("ratings.csv", "ratings.dat"):
        mark = "," if kind == "ratings.csv" else "::"
        header = "userId,movieId,rating,timestamp\n" if kind == "ratings.csv" else ""
        (folder / kind).write_text(header + "".join(mark.join((u, i, "5", str(t))) + "\n" for u, i, t in rows))
        return MovieLensFiles(str(folder))
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(named), path)
        return Table(str(path), items=items)
    if kind == "json lines":
        path.write_text("".join(json.dumps(row) + "\n" for row in named))
        return Table(str(path), items=items)
    if kind == "dates":
        day = [(user, item, datetime.fromtimestamp(time, UTC).isoformat()) for user, item, time in rows]
        path.write_text("user;item;time\n" + "".join(";".join(row) + "\n" for row in day))
        return Table(str(path), items=items)
    named = dict(titles)
    rows = [(*row, named[row[1]]) for row in rows]
    csv.writer(quoted := io.StringIO()).writerows([("user", "item", "time", "title"), *rows])
    path.write_bytes(gzip.compress(quoted.getvalue().encode()))
    return Table(str(path))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """MovieLens 100K: its rows, its titles by item, and the data set that is prepared of it."""
    source, cache = MovieLens100K(), tmp_path_factory.mktemp("cache")
    rows = list(source.rows())
    titles = [(item, known.title) for item, known in source.catalogue({item for _, item, _ in rows}).items()]
    with pytest.MonkeyPatch.context() as patch:
        wheels = cache_folder() / "wheels"
        (cache / "wheels").symlink_to(wheels)
        patch.setenv("ILREC_GISA_CACHE", str(cache))
        return rows, titles, prepare(source)


@pytest.mark.usefixtures("wheels_only")
@pytest.mark.parametrize("kind", ["ratings.csv", "ratings.dat", "parquet", "json lines", "dates", "csv.gz with titles"])
def test_ml_100k_has_its_known_counts_and_the_same_sequences_through_every_door(tmp_path, whole, kind):
    rows, titles, expected = whole
    (tmp_path / "ml").mkdir()
    source = door(tmp_path / "ml", kind, rows, titles)
    data = prepare(source)
    assert [data.statistics[name] for name in ("raw_users", "raw_items", "raw_interactions")] == [943, 1682, 100_000]
    assert [data.num_users, data.num_items, len(data.items)] == [943, 1349, 99_287]
    for name in ("items", "offsets", "user_ids", "item_ids", "titles"):
        assert np.array_equal(getattr(data, name), getattr(expected, name)), name
    assert data.statistics == expected.statistics
