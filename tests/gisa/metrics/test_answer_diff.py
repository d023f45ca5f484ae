import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.metrics.answer_diff import compare
from src.gisa.metrics.answers import robust_score


def rows(prediction, gold, kind):
    """Each row as (place in the answer, place in the gold table, cells as status:given/right)."""
    found = compare(prediction, gold.encode(), kind)
    return [(row.given, row.right, [f"{c.status}:{c.given}/{c.right}" for c in row.cells]) for row in found.rows]


def test_a_table_is_compared_by_names_of_columns_and_by_rows_that_are_alike():
    gold = "City,Year,Height\nOslo,1000,3\nRome,-753,21\nLima,1535,161\n"
    answer = "```tsv\nheight\tCity\tMayor\n21\tRome\ta\n4\tOslo\tb\n9\tCairo\tc\n```"
    found = compare(answer, gold.encode(), "table")
    assert [(c.status, c.given, c.right) for c in found.columns] == [
        ("same", "City", "City"),
        ("missing", "", "Year"),
        ("same", "height", "Height"),
        ("extra", "Mayor", ""),
    ]
    # Rome is equal in the common columns; Oslo has one cell in common with 4/Oslo; Lima and Cairo have no partner.
    assert rows(answer, gold, "table") == [
        (1, 0, ["same:Oslo/Oslo", "missing:/1000", "changed:4/3", "extra:b/"]),
        (2, None, ["extra:Cairo/", "blank:/", "extra:9/", "extra:c/"]),
        (0, 1, ["same:Rome/Rome", "missing:/-753", "same:21/21", "extra:a/"]),
        (None, 2, ["missing:/Lima", "missing:/1535", "missing:/161", "blank:/"]),
    ]


def test_cells_are_shown_as_written_and_compared_as_scored():
    assert rows("n\tshare\nA B\t$1,000", "N,Share\na b,1000.0\n", "table") == [
        (0, 0, ["same:A B/a b", "same:$1,000/1000.0"])
    ]


def test_an_entry_elsewhere_in_a_list_has_moved_and_one_between_the_same_neighbours_has_changed():
    # As for the order score: c d is the longest common run of a b c d and a c d b x, then a before it; b has moved.
    assert rows("Name\na\nc\nd\nb\nx", "a\nb\nc\nd\n", "list") == [
        (0, 0, ["same:a/a"]),
        (3, 1, ["moved:b/b"]),
        (4, None, ["extra:x/"]),
        (1, 2, ["same:c/c"]),
        (2, 3, ["same:d/d"]),
    ]
    assert rows("Name\na\nx\nc", "a\nb\nc\n", "list")[1] == (1, 1, ["changed:x/b"])


def test_the_entries_of_a_set_are_paired_wherever_they_stand():
    assert rows("Name\nz\nb\na", "a\nb\nc\n", "set") == [
        (0, None, ["extra:z/"]),
        (2, 0, ["same:a/a"]),
        (1, 1, ["same:b/b"]),
        (None, 2, ["missing:/c"]),
    ]


def test_an_item_is_compared_with_the_first_row_with_and_without_a_header():
    assert rows("```tsv\nCity\nOslo\n```", "Rome\n", "item") == [(0, 0, ["changed:Oslo/Rome"])]
    assert rows("Rome", "Rome\n", "item") == [(0, 0, ["same:Rome/Rome"])]


def test_the_last_column_counts_where_an_entry_has_more():
    found = compare("Rank\tName\n1\ta\n2\tb", b"a\nb\n", "set")
    assert [(column.status, column.given) for column in found.columns] == [("extra", "Rank"), ("same", "Name")]
    assert rows("Rank\tName\n1\ta", "a\n", "set") == [(0, 0, ["extra:1/", "same:a/a"])]


@pytest.mark.parametrize("prediction", [None, "", "   ", 7])
def test_without_an_answer_all_is_missing(prediction):
    assert rows(prediction, "a,b\n1,2\n", "table") == [(None, 0, ["missing:/1", "missing:/2"])]


def test_an_unreadable_gold_file_leaves_the_answer_alone():
    found = compare("a\tb\n1\t2", b"\x81\xff", "table")
    assert {cell.status for row in found.rows for cell in row.cells} == {"extra"}


def test_long_answers_are_cut_and_it_is_said_how_much_is_left_out():
    found = compare("Name\n" + "\n".join(map(str, range(1000))), b"5\n999999\n", "set")
    assert found.left_out == 1000 - 400
    assert len(found.rows) == 401
    wide = "\t".join(map(str, range(1000)))
    found = compare(f"{wide}\n{wide}", b"7,999\n7,999\n", "table")
    assert (len(found.columns), found.left_out) == (60, 940)
    assert [cell.status for cell in found.rows[0].cells[:3]] == ["same", "same", "extra"]


CELLS = st.text('ab1,\t\n"|`\ud800', max_size=4)


ANSWERS = st.lists(st.lists(CELLS, max_size=3).map("\t".join), max_size=5).map("\n".join)


@given(ANSWERS, st.text('ab1,\n"', max_size=12), st.sampled_from(["item", "set", "list", "table"]))
def test_every_row_of_both_sides_is_there_once_and_an_exact_match_shows_no_difference(answer, gold, kind):
    found = compare(answer, gold.encode(), kind)
    for side in ("given", "right"):
        places = [getattr(row, side) for row in found.rows if getattr(row, side) is not None]
        assert sorted(places) == list(range(len(places)))
    assert [row.right for row in found.rows if row.right is not None] == sorted(
        row.right for row in found.rows if row.right is not None
    )
    assert json.loads(json.dumps(found)) is not None
    statuses = {row.cells[-1].status for row in found.rows}
    if kind == "list" and robust_score(answer, gold.encode(), kind)["global_em"]:
        assert statuses <= {"same"}
    if kind == "list" and statuses == {"same"} and not found.left_out:
        assert robust_score(answer, gold.encode(), kind)["global_em"]
