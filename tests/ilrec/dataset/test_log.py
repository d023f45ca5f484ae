from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.ilrec.dataset.log import Log

logs = st.lists(
    st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("abcdef"), st.integers(0, 3)),
    max_size=60,
)


def rows_of(log):
    times = [None] * len(log) if log.timestamps is None else log.timestamps.tolist()
    return [(log.user_ids[u], log.item_ids[i], t) for u, i, t in zip(log.users, log.items, times, strict=True)]


def core_reference(rows, per_user, per_item):
    """Drop one offending user or item at a time."""
    rows = list(rows)
    while True:
        users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
        few = [user for user in users if users[user] < per_user]
        rare = [item for item in items if items[item] < per_item]
        if few:
            rows = [row for row in rows if row[0] != few[0]]
        elif rare:
            rows = [row for row in rows if row[1] != rare[0]]
        else:
            return rows


def test_the_core_is_iterated_until_nothing_falls():
    # Item c has one interaction and falls; that leaves u with one, so u falls; that leaves a with one, so a falls;
    # v keeps b twice. No single pass finds this.
    log = Log([("u", "a", 1), ("u", "c", 2), ("v", "b", 1), ("v", "a", 2), ("v", "b", 3)])
    log.keep_core(2, 2)
    assert rows_of(log) == [("v", "b", 1), ("v", "b", 3)]


@given(logs, st.integers(1, 4), st.integers(1, 4))
def test_the_core_equals_the_one_found_by_dropping_one_at_a_time(rows, per_user, per_item):
    log = Log(rows)
    log.keep_core(per_user, per_item)
    assert rows_of(log) == core_reference(rows, per_user, per_item)
    assert log.count_users() == len({row[0] for row in core_reference(rows, per_user, per_item)})


@given(logs)
def test_of_equal_rows_the_first_stays(rows):
    log = Log(rows)
    dropped = log.drop_duplicates()
    assert rows_of(log) == list(dict.fromkeys(rows))
    assert dropped == len(rows) - len(set(rows))


@given(logs, st.integers(1, 4))
def test_duplicates_may_be_dropped_between_two_cores(rows, least):
    log = Log(rows)
    log.keep_core(least, least)
    log.drop_duplicates()
    log.keep_core(least, least)
    assert rows_of(log) == core_reference(list(dict.fromkeys(rows)), least, least)


def test_a_repeated_row_without_timestamp_is_behaviour():
    log = Log([("u", "a", None), ("u", "a", None)])
    assert log.drop_duplicates() == 0
    assert len(log) == 2


def test_ids_are_numbered_by_length_then_alphabet_whatever_the_order_of_the_rows():
    log = Log([("10", "b", 1), ("9", "a", 2), ("2", "c", 3)])
    log.renumber()
    assert log.user_ids == ["2", "9", "10"]
    assert log.item_ids == ["a", "b", "c"]
    assert rows_of(log) == [("10", "b", 1), ("9", "a", 2), ("2", "c", 3)]


@given(logs, st.booleans(), st.integers(1, 7))
def test_sequences_are_sorted_by_user_timestamp_and_file_order_in_blocks_of_any_size(rows, timed, block):
    rows = rows if timed else [(user, item, None) for user, item, _ in rows]
    # sorted() is stable, so rows with equal keys stay in file order.
    ordered = sorted(rows, key=lambda row: (row[0], row[2] or 0))
    users = sorted({user for user, _, _ in rows})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.ilrec.dataset.log._block_size", lambda _: block)
        log = Log(rows)
        log.renumber()
        offsets, items, tied = log.sequences()
    assert [log.item_ids[item] for item in items] == [item for _, item, _ in ordered]
    assert offsets.tolist() == [sum(row[0] < user for row in rows) for user in users] + [len(rows)]
    if log.timestamps is None:
        assert tied is None
    else:
        shared = Counter((user, time) for user, _, time in rows)
        assert tied.tolist() == [shared[user, time] > 1 for user, _, time in ordered]
