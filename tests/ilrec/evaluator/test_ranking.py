"""Ranks of targets, with shared semantic IDs and excluded histories."""

import numpy as np
import pytest
import torch

from src.ilrec.evaluator.ranking import RankingEvaluator
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.launch.errors import InputError
from src.model.causal_lm import from_scratch

# Items 0 and 1 share the ID (0, 0); 2 = (0, 1), 3 = (1, 0), 4 = (1, 1).
ITEMS = ItemTokens.from_codes(np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 1]]), [range(2), range(2)], {})


@pytest.fixture(scope="module")
def model():
    """All weights zero: every sequence is equally likely, so items stand in the order of their index."""
    flat = from_scratch(
        ITEMS.vocabulary,
        hidden_size=8,
        intermediate_size=8,
        num_layers=2,
        num_heads=1,
        dropout=0.0,
        max_length=8,
        seed=0,
    ).eval()
    with torch.no_grad():
        for parameter in flat.parameters():
            parameter.zero_()
    return flat


def ranks(model, targets, history, exclude):
    evaluator = RankingEvaluator(ITEMS, num_beams=5, exclude_history="both", cutoffs=[5])
    batch = {
        "input_ids": torch.full((len(targets), 1), model.tokenizer.bos_token_id),
        "attention_mask": torch.ones(len(targets), 1, dtype=torch.int64),
        "history": torch.tensor(history),
        "target": torch.tensor(targets),
    }
    return evaluator.rank(model, batch, exclude_history=exclude).tolist()


def test_items_that_share_an_id_get_the_expected_rank(model):
    # Items 0 and 1 hold ranks 1 and 2 in some order: 1.5 each. Then 2, 3, 4 at ranks 3, 4, 5.
    assert ranks(model, [0, 1, 2, 3, 4], [[-1]] * 5, exclude=False) == [1.5, 1.5, 3, 4, 5]


def test_excluded_items_leave_their_group_and_make_room(model):
    # Without item 0, its twin 1 is alone at rank 1 and item 4 moves up to 4. Repeats in the history count once.
    assert ranks(model, [1, 4], [[0, 0], [0, 0]], exclude=True) == [1, 4]
    # Without items 2 and 3: 0 and 1 at 1.5, item 4 at 3.
    assert ranks(model, [1, 4], [[3, 2], [3, 2]], exclude=True) == [1.5, 3]


def test_a_target_of_the_excluded_history_is_not_found(model):
    assert np.isnan(ranks(model, [2, 0], [[2, -1], [0, -1]], exclude=True)).all()


def test_the_history_is_kept_unless_excluded(model):
    assert ranks(model, [2], [[2]], exclude=False) == [3]


def test_too_few_beams_for_the_cutoffs_are_refused():
    with pytest.raises(InputError, match=r"evaluator.num_beams=5 finds fewer items than the largest cutoff 20"):
        RankingEvaluator(ITEMS, num_beams=5, exclude_history=False, cutoffs=[5, 10, 20])
