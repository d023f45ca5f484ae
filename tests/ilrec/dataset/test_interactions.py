import os
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.ilrec.dataset.interactions import Interactions, _load, _store, prepare
from src.ilrec.dataset.sources import LcRecFiles, RecBoleFiles
from src.launch.errors import InputError

SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ILREC_GISA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path):
    """Three users with three to five interactions, one with two, in no order; user 10 repeats a row."""
    rows = [
        ("10", "b", 5), ("9", "a", 4), ("10", "a", 5), ("10", "b", 5), ("9", "b", 3), ("9", "c", 3),
        ("2", "a", 1), ("2", "a", 2), ("2", "c", 2), ("2", "b", 9), ("2", "a", 7), ("10", "c", 1), ("x", "a", 1),
        ("x", "d", 2),
    ]  # fmt: skip
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *("\t".join(map(str, row)) for row in rows)]
    (tmp_path / "toy.inter").write_text("\n".join(lines))
    (tmp_path / "toy.item").write_text("item_id:token\ttitle:token_seq\na\tAlpha\nb\tBeta\n")
    return RecBoleFiles(str(tmp_path), "toy")


def sequences(data):
    return {user: "".join(data.item_ids[item] for item in data.sequence(row)) for row, user in enumerate(data.user_ids)}


def assert_same(one, other):
    for field in fields(Interactions):
        mine, its = getattr(one, field.name), getattr(other, field.name)
        assert np.array_equal(mine, its) if isinstance(mine, np.ndarray) else mine == its, field.name


def test_items_are_ordered_by_timestamp_then_by_file_order_and_ids_by_number(source):
    data = prepare(source, k_core=1)
    assert data.user_ids == ["2", "9", "10"]
    assert data.item_ids == ["a", "b", "c"]
    # User 2: a at 1, then a and c at 2 in file order, a at 7, b at 9. User 9: b and c at 3 in file order, a at 4.
    # User 10: c at 1, then b and a at 5 in file order; the second (b, 5) is the repeated row.
    assert sequences(data) == {"2": "aacab", "9": "bca", "10": "cba"}
    assert data.items.dtype == data.offsets.dtype == np.int64


def test_the_last_item_is_the_test_target_and_the_second_last_the_validation_target(source):
    data = prepare(source, k_core=1)
    assert data.sequence(0).tolist() == [0, 0, 2, 0, 1]
    assert data.training_sequence(0).tolist() == [0, 0, 2]
    assert data.history(0, "val").tolist() == [0, 0, 2]
    assert data.history(0, "test").tolist() == [0, 0, 2, 0]
    assert (data.target(0, "val"), data.target(0, "test")) == (0, 1)


def test_the_training_matrix_counts_the_training_part_only(source):
    # Training parts: user 2 has a, a, c; user 9 has b; user 10 has c.
    matrix = prepare(source, k_core=1).training_matrix()
    assert matrix.toarray().tolist() == [[2, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_the_statistics_count_what_was_dropped_and_why(source):
    statistics = prepare(source, k_core=1).statistics
    assert [statistics[name] for name in ("raw_users", "raw_items", "raw_interactions")] == [4, 4, 14]
    assert [statistics[name] for name in ("users", "items", "interactions")] == [3, 3, 11]
    assert statistics["duplicates_dropped"] == 1
    # Interactions that share user and timestamp: two of user 2, two of user 9, two of user 10.
    assert statistics["timestamp_tie_share"] == pytest.approx(6 / 11)
    assert statistics["density"] == pytest.approx(11 / 9)
    assert [statistics[f"length_{name}"] for name in ("min", "median", "max")] == [3, 3, 5]
    # Lengths 3, 3, 5: the 75% quantile lies halfway between the second and the third.
    assert statistics["length_p75"] == 4


def test_users_shorter_than_three_are_dropped_and_counted_with_the_items_that_only_they_have(source):
    data = prepare(source, k_core=1)
    assert data.statistics["users_too_short"] == 1
    assert "x" not in data.user_ids
    assert "d" not in data.item_ids


def test_an_item_that_the_source_does_not_describe_has_empty_title_and_text_and_is_counted(source):
    data = prepare(source, k_core=1)
    assert data.titles == ["Alpha", "Beta", ""]
    assert data.texts == ["Alpha", "Beta", ""]
    assert data.statistics["items_without_title"] == 1


def test_max_users_keeps_the_first_users_and_all_items(source):
    data = prepare(source, k_core=1, max_users=1)
    assert sequences(data) == {"2": "aacab"}
    assert data.item_ids == ["a", "b", "c"]
    assert data.statistics["users_left_out"] == 2
    assert data.statistics["timestamp_tie_share"] == pytest.approx(2 / 5)


def test_the_table_shows_every_statistic(source):
    data = prepare(source, k_core=1)
    table = data.statistics_table()
    assert table.splitlines()[0] == f"toy ({data.fingerprint[:12]})"
    assert "interactions         11\n" in table
    assert "density              1.222\n" in table
    assert len(table.splitlines()) == 1 + len(data.statistics)


def test_nothing_left_after_the_core_gives_the_numbers_and_what_to_type(source):
    with pytest.raises(InputError) as error:
        prepare(source, k_core=5)
    message = str(error.value)
    assert "Nothing is left of toy after the 5-core: before it 14 interactions of 4 users with 4 items" in message
    assert message.endswith("I need a denser log, or a lower core:  dataset.k_core=2")


def test_users_that_are_all_too_short_give_no_advice_to_lower_the_core(tmp_path):
    (tmp_path / "X.inter.json").write_text('{"0": [1, 2], "1": [2, 1]}')
    with pytest.raises(InputError, match="in it 2 users, none of whom has 3 interactions.\nI need a denser log$"):
        prepare(LcRecFiles(str(tmp_path), "X"), k_core=1)


@pytest.mark.parametrize("setting", [{"k_core": 0}, {"max_users": 0}])
def test_settings_out_of_range_are_named(source, setting):
    with pytest.raises(InputError, match=rf"dataset\.{next(iter(setting))}=0: I need a whole number of at least 1"):
        prepare(source, **setting)


def test_the_second_call_reads_the_cache_and_gives_the_same(source, cache):
    first = prepare(source, k_core=1)
    [path] = (cache / "prepared").iterdir()
    written = path.stat().st_mtime_ns
    assert_same(prepare(source, k_core=1), first)
    assert path.stat().st_mtime_ns == written


def test_changed_content_or_settings_give_another_fingerprint(source, tmp_path):
    fingerprints = {
        prepare(source, k_core=1).fingerprint,
        prepare(source, k_core=2).fingerprint,
        prepare(source, k_core=1, max_users=2).fingerprint,
    }
    (tmp_path / "toy.item").write_text("item_id:token\ttitle:token_seq\na\tAleph\nb\tBeta\n")
    changed = prepare(source, k_core=1)
    assert len(fingerprints | {changed.fingerprint}) == 4
    assert changed.titles[0] == "Aleph"


def test_the_fingerprint_does_not_depend_on_the_folder(source, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for ending in ("inter", "item"):
        (tmp_path / "elsewhere" / f"toy.{ending}").write_bytes((tmp_path / f"toy.{ending}").read_bytes())
    moved = RecBoleFiles(str(tmp_path / "elsewhere"), "toy")
    assert prepare(moved, k_core=1).fingerprint == prepare(source, k_core=1).fingerprint


def test_the_hash_of_an_old_file_is_remembered_and_forgotten_when_the_file_changes(
    source, cache, tmp_path, monkeypatch
):
    before = prepare(source, k_core=1).fingerprint
    # The files are seconds old, so nothing is remembered yet: they could change again within the clock's resolution.
    assert not (cache / "hashes").exists()
    now = time.time()
    monkeypatch.setattr("src.ilrec.dataset.interactions.time.time", lambda: now + 10)
    assert prepare(source, k_core=1).fingerprint == before
    assert len(list((cache / "hashes").iterdir())) == 2
    assert prepare(source, k_core=1).fingerprint == before
    path = tmp_path / "toy.inter"
    path.write_text(path.read_text().replace("2\ta\t1\n", "2\ta\t3\n"))
    assert prepare(source, k_core=1).fingerprint != before


def test_a_torn_or_damaged_cache_file_is_made_anew(source, cache):
    first = prepare(source, k_core=1)
    [path] = (cache / "prepared").iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]):
        path.write_bytes(damaged)
        assert_same(prepare(source, k_core=1), first)
        assert_same(_load(path), first)


@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_flipped_byte_of_a_cache_file_never_changes_what_is_read(tmp_path_factory, position, flip):
    data = Interactions(
        "n", np.array([0, 3]), np.array([0, 1, 0]), ["u"], ["a", "b"], ["A", ""], ["A", ""], "f", {"x": 1}
    )
    path = tmp_path_factory.mktemp("flip") / "n.npz"
    _store(path, data)
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= flip
    path.write_bytes(content)
    read = _load(path)
    if read is not None:
        assert_same(read, data)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, the device that is always full")
def test_a_full_disk_is_named_and_leaves_no_half_file(source, cache):
    fingerprint = prepare(source, k_core=1).fingerprint
    path = cache / "prepared" / f"{fingerprint}.npz"
    path.unlink()
    path.with_name(f".{path.name}.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(InputError, match="Cannot write into the cache folder .*No space left on device"):
        prepare(source, k_core=1)
    assert list((cache / "prepared").iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "name", "counts"),
    [
        ("amazon_instruments", "Instruments", (24_772, 9_922, 206_153)),
        ("amazon_industrial", "Industrial", (3_285, 3_541, 22_743)),
    ],
)
def test_amazon_sets_in_lc_rec_format_have_their_known_counts_and_keep_their_item_numbers(folder, name, counts):
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data, real data for development")
    data = prepare(LcRecFiles(str(SHARED / folder), name), k_core=1)
    assert (data.num_users, data.num_items, len(data.items)) == counts
    assert data.item_ids == [str(number) for number in range(data.num_items)]
    assert "timestamp_tie_share" not in data.statistics
