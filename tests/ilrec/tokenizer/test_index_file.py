"""LC-Rec index files: what is read, and every fault with its message."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.ilrec.dataset.interactions import Interactions
from src.ilrec.tokenizer.index_file import IndexFile, apart
from src.launch.errors import InputError

INSTRUMENTS = Path(__file__).parents[4] / "shared" / "data" / "amazon_instruments"
INDEX = {"0": ["<a_7>", "<b_3>"], "1": ["<a_12>", "<b_3>"], "2": ["<a_7>", "<b_3>"]}


@pytest.fixture
def shop(make_interactions):
    return make_interactions([[0, 1, 2, 0], [2, 1, 0, 2]])


@pytest.fixture
def write(tmp_path):
    def write(content) -> IndexFile:
        path = tmp_path / "shop.index.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return IndexFile(path=str(path))

    return write


def test_tokens_keep_their_names_and_are_ordered_by_number_not_by_spelling(write, shop):
    tokens = write(INDEX).fit(shop)
    assert tokens.vocabulary == ["<a_7>", "<a_12>", "<b_3>"]
    assert tokens.tokens.tolist() == [[0, 2], [1, 2], [0, 2]]
    assert tokens.report["collision_rate"] == pytest.approx(2 / 3)
    assert tokens.report["items_ignored"] == 0


def test_items_that_the_data_set_lacks_are_ignored_and_counted(write, shop):
    tokens = write({**INDEX, "77": ["<a_99>", "<b_99>"], "78": ["whatever"]}).fit(shop)
    assert tokens.report["items_ignored"] == 2
    assert "<a_99>" not in tokens.vocabulary


@settings(max_examples=50)
@given(st.integers(1, 4).flatmap(lambda levels: st.lists(st.tuples(*[st.integers(0, 300)] * levels), min_size=3)))
def test_a_saved_index_reads_back_as_the_same_tokens(write, make_interactions, rows):
    index = {
        str(item): [f"<{'abcd'[level]}_{code}>" for level, code in enumerate(row)] for item, row in enumerate(rows)
    }
    shop = make_interactions([[0, 1, 2]], items=len(rows))
    file = write(index)
    first = file.fit(shop)
    assert {
        item: [first.vocabulary[t] for t in row] for item, row in zip(shop.item_ids, first.tokens, strict=True)
    } == index
    first.save_index(file.path, shop.item_ids)
    again = file.fit(shop)
    assert again.vocabulary == first.vocabulary
    assert again.tokens.tolist() == first.tokens.tolist()


def test_missing_items_are_counted_and_named(write, shop):
    with pytest.raises(
        InputError, match=r"shop\.index\.json misses 2 of the 3 items of 'shop' \(first: 1, 2\)"
    ) as error:
        write({"0": ["<a_7>"]}).fit(shop)
    assert "tokenizer.path=" in str(error.value)
    assert "tokenizer=residual_kmeans" in str(error.value)


@pytest.mark.parametrize(
    "broken",
    [
        ["<a_1>"],
        [f"<a_{'9' * 5000}>", "<b_1>"],
        ["<a_1>", "<b_1>", "<c_1>"],
        ["<b_1>", "<a_1>"],
        ["<a_1>", "<a_2>"],
        ["<a_1>", "b_2"],
        ["<a_1>", "<b_02>"],
        ["<a_1>", 5],
        [],
        None,
        "<a_1><b_1>",
    ],
)
def test_an_id_that_is_not_one_token_per_level_is_named(write, shop, broken):
    with pytest.raises(
        InputError, match=r"item 1 has the ID .*, but an ID must read <a_N>, <b_N>.*first item's \(2\)"
    ) as error:
        write({**INDEX, "1": broken}).fit(shop)
    assert json.dumps(broken) in str(error.value)


def test_a_first_item_without_an_id_is_named(write, shop):
    with pytest.raises(InputError, match="item 0 has the ID null"):
        write(dict.fromkeys(INDEX)).fit(shop)


def test_broken_json_is_reported_with_file_and_line(write, shop):
    with pytest.raises(InputError, match=r"shop\.index\.json is not valid JSON: .*line 2 column"):
        write('{"0": ["<a_1>"],\n"1": [').fit(shop)


def test_a_byte_order_mark_is_no_fault(write, shop):
    assert write("\ufeff" + json.dumps(INDEX)).fit(shop).tokens.tolist() == [[0, 2], [1, 2], [0, 2]]


@pytest.mark.parametrize(
    ("text", "fault"), [('{"0": ["<a_1>"], "0": ["<a_2>"]}', "the key '0' occurs twice"), ("[" * 100_000, "recursion")]
)
def test_what_would_be_lost_or_never_end_is_refused(write, shop, text, fault):
    with pytest.raises(InputError, match=f"shop.index.json is not valid JSON: .*{fault}"):
        write(text).fit(shop)


def test_a_file_that_holds_no_object_is_refused(write, shop):
    with pytest.raises(InputError, match=r"holds no object; it must read \{\"item id\""):
        write([1, 2]).fit(shop)


def test_an_absent_file_and_a_folder_are_refused_with_what_to_type(tmp_path, shop):
    with pytest.raises(InputError, match=r"absent\.json cannot be read: No such file.*tokenizer\.path="):
        IndexFile(path=str(tmp_path / "absent.json")).fit(shop)
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        IndexFile(path=str(tmp_path)).fit(shop)


@pytest.mark.skipif(not INSTRUMENTS.exists(), reason="../shared/data/amazon_instruments is absent")
def test_the_published_instruments_index_has_9897_distinct_ids(make_interactions):
    sequences = list(json.loads((INSTRUMENTS / "Instruments.inter.json").read_text()).values())
    shop: Interactions = make_interactions(sequences)
    tokens = IndexFile(path=str(INSTRUMENTS / "Instruments.index.json")).fit(shop)
    assert tokens.report["items"] == 9_922
    assert tokens.report["distinct_ids"] == 9_897
    assert tokens.tokens.shape == (9_922, 4)
    assert tokens.report["items_ignored"] == 0


def test_of_items_that_share_an_id_all_but_the_most_popular_take_the_nearest_free_code(make_interactions):
    # Items 0, 1 and 4 share <a_0><b_0>. Item 1 is the most popular and stays. Free below <a_0> are <b_1> (item 2's) and
    # <b_2> (item 3's): item 0 has the users of item 2, item 4 those of item 3.
    codes = np.array([[0, 0], [0, 0], [1, 1], [1, 2], [0, 0]])
    shop = make_interactions([[0, 2, 1, 1, 1], [0, 2, 1, 1, 1], [3, 4, 1, 1, 1], [3, 4, 1, 1, 1]], items=5)
    assert apart(codes, shop).tolist() == [[0, 1], [0, 0], [1, 1], [1, 2], [0, 2]]


def test_where_no_code_is_free_new_ones_are_made_and_the_report_counts_who_moved(write, make_interactions):
    index = {str(item): ["<a_3>", "<b_5>"] for item in range(3)}
    file = write(index)
    file.unique = True
    tokens = file.fit(make_interactions([[0, 1, 2], [2, 1, 1, 1, 0]]))
    assert sorted(tokens.vocabulary) == ["<a_3>", "<b_5>", "<b_6>", "<b_7>"]
    assert tokens.report["collision_rate"] == 0
    assert tokens.report["items_moved"] == 2


@settings(max_examples=30)
@given(st.integers(1, 3).flatmap(lambda n: st.lists(st.tuples(*[st.integers(0, 2)] * n), min_size=3, max_size=12)))
def test_every_item_gets_an_id_of_its_own_and_those_that_have_one_keep_it(make_interactions, rows):
    codes = np.array(rows)
    moved = apart(codes, make_interactions([[0, 1, 2, 0, 1], [1, 0, 2, 1]], items=len(rows)))
    assert len(np.unique(moved, axis=0)) == len(rows)
    assert (moved[:, :-1] == codes[:, :-1]).all()
    _, group, size = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    alone = size[group.ravel()] == 1
    assert (moved[alone] == codes[alone]).all()
    assert (moved == codes).all(axis=1).sum() == len(size)
