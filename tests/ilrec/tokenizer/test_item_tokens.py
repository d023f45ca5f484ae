"""Names, files and measures of semantic IDs."""

import json
import math

import numpy as np
import pytest

from src.ilrec.dataset.interactions import Interactions
from src.ilrec.tokenizer.item_tokens import ItemTokens, OneTokenPerItem, id_statistics

# Items 0 and 1 share an ID.
CODES = np.array([[0, 0], [0, 0], [0, 2], [1, 0]])


def test_the_vocabulary_lists_whole_codebooks_by_level_then_code():
    tokens = ItemTokens.from_codes(CODES, [range(2), range(3)], {})
    assert tokens.vocabulary == ["<a_0>", "<a_1>", "<b_0>", "<b_1>", "<b_2>"]
    # Level b starts at position 2, so code 2 of level b is token 4.
    assert tokens.tokens.tolist() == [[0, 2], [0, 2], [0, 4], [1, 2]]
    assert tokens.tokens.dtype == np.int64


def test_collisions_and_codebook_use_of_four_items_by_hand():
    report = id_statistics(CODES, [2, 3])
    # IDs: (0,0) twice, (0,2), (1,0): 3 distinct; 2 of 4 items share theirs.
    assert report["items"] == 4
    assert report["distinct_ids"] == 3
    assert report["collision_rate"] == 0.5
    assert report["largest_group"] == 2
    assert report["codebook_sizes"] == [2, 3]
    assert report["codes_used"] == [2, 2]
    # Both levels use two codes in shares 3/4 and 1/4: exp(-(3/4 ln 3/4 + 1/4 ln 1/4)) = 4 / 3 ** 0.75 = 1.7548.
    assert report["perplexity"] == pytest.approx([4 / 3**0.75] * 2)


def test_distinct_evenly_spread_ids_have_full_perplexity_and_no_collision():
    report = id_statistics(np.array([[a, b] for a in range(4) for b in range(3)]), [4, 3])
    assert report["collision_rate"] == 0
    assert report["largest_group"] == 1
    assert report["perplexity"] == pytest.approx([4, 3])


def test_the_report_table_has_one_line_per_measure_and_one_value_per_level():
    tokens = ItemTokens.from_codes(CODES, [range(2), range(3)], {"items_ignored": 1234})
    lines = dict(line.split(maxsplit=1) for line in tokens.report_table().splitlines())
    assert lines["collision_rate"] == "0.5"
    assert lines["codes_used"] == "2 / 2"
    assert lines["perplexity"] == "1.755 / 1.755"
    assert lines["items_ignored"] == "1,234"
    assert set(lines) == set(tokens.report)


def test_the_index_is_written_in_the_shape_of_lc_rec(tmp_path):
    path = tmp_path / "new" / "shop.index.json"
    ItemTokens.from_codes(CODES, [range(2), range(3)], {}).save_index(path, ["p", "q", "r", "ü"])
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "p": ["<a_0>", "<b_0>"],
        "q": ["<a_0>", "<b_0>"],
        "r": ["<a_0>", "<b_2>"],
        "ü": ["<a_1>", "<b_0>"],
    }


def test_item_ids_of_another_length_are_refused_and_leave_no_file(tmp_path):
    tokens = ItemTokens.from_codes(CODES, [range(2), range(3)], {})
    with pytest.raises(ValueError, match="zip"):
        tokens.save_index(tmp_path / "x.index.json", ["p", "q"])
    assert list(tmp_path.iterdir()) == []


def test_one_code_for_all_items_has_perplexity_one():
    report = id_statistics(np.zeros((5, 1), dtype=int), [8])
    assert report["perplexity"] == [pytest.approx(1)]
    assert math.isclose(float(report["collision_rate"]), 1)


def test_an_items_token_is_its_index():
    interactions = Interactions(
        "three", np.array([0, 3]), np.array([2, 0, 1]), ["u"], ["x", "y", "z"], [""] * 3, [""] * 3, "f" * 64, {}
    )
    items = OneTokenPerItem().fit(interactions)
    assert items.tokens.tolist() == [[0], [1], [2]]
    assert items.vocabulary == ["<a_0>", "<a_1>", "<a_2>"]
    assert items.report["collision_rate"] == 0


def test_a_token_starts_from_the_mean_vector_of_its_items(make_interactions):
    class Rows:
        def embed(self, interactions):
            return np.array([[1, 0], [3, 0], [0, 5]], dtype=np.float32)

    named = ItemTokens.from_codes(np.array([[0, 0], [0, 1], [1, 1]]), [range(2), range(3)], {})
    start = named.started(Rows(), make_interactions([[0, 1, 2]])).start
    assert start.tolist() == [[2, 0], [0, 5], [1, 0], [1.5, 2.5], [0, 0]]
    assert named.started(None, make_interactions([[0, 1, 2]])).start is None
