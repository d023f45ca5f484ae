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


def ranks(model, targets, history, exclude, items=ITEMS):
    evaluator = RankingEvaluator(items, num_beams=5, exclude_history="both", cutoffs=[5])
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


def test_ranks_are_whole_whatever_the_run_computes_in(model, half_by_default):
    # 300 items hold the first ranks, in the mean 150.5, and the last one is at 301: neither is a bfloat16.
    crowd = ItemTokens.from_codes(np.array([[0, 0]] * 300 + [[1, 1]]), [range(2), range(2)], {})
    assert ranks(model, [0, 300], [[-1]] * 2, exclude=False, items=crowd) == [150.5, 301]


def test_excluded_items_leave_their_group_and_make_room(model):
    # Without item 0, its twin 1 is alone at rank 1 and item 4 moves up to 4. Repeats in the history count once.
    assert ranks(model, [1, 4], [[0, 0], [0, 0]], exclude=True) == [1, 4]
    # Without items 2 and 3: 0 and 1 at 1.5, item 4 at 3.
    assert ranks(model, [1, 4], [[3, 2], [3, 2]], exclude=True) == [1.5, 3]


def test_a_target_of_the_excluded_history_is_not_found(model):
    assert np.isnan(ranks(model, [2, 0], [[2, -1], [0, -1]], exclude=True)).all()


def test_the_history_is_kept_unless_excluded(model):
    assert ranks(model, [2], [[2]], exclude=False) == [3]


def guided(model, targets, history, exclude, probabilities, weight=1.0):
    """Ranks where a collaborative model thinks that of the items, whatever the history."""

    class Opinions:
        def probabilities_after(self, history):
            return torch.tensor([probabilities] * len(history))[:, evaluator.trie.items]

    evaluator = RankingEvaluator(
        ITEMS, num_beams=5, exclude_history="both", cutoffs=[5], guidance=[0.5, 1.0], reward_from="some.ckpt"
    )
    evaluator.rewards = Opinions()
    batch = {
        "input_ids": torch.full((len(targets), 1), model.tokenizer.bos_token_id),
        "attention_mask": torch.ones(len(targets), 1, dtype=torch.int64),
        "history": torch.tensor(history),
        "target": torch.tensor(targets),
    }
    best = evaluator.recommend(model, batch, 5, guidance=weight)[0]
    return evaluator.rank(model, batch, exclude_history=exclude, guidance=weight).tolist(), best


def test_guided_ranks_are_by_the_group_where_items_share_an_id(model):
    # The model finds all alike. Items 0 and 1 have .15 + .15 together, less than item 4's .4 and more than 2 and 3.
    found, best = guided(model, [0, 1, 2, 3, 4], [[3]] * 5, False, [0.15, 0.15, 0.2, 0.1, 0.4])
    assert found == [2.5, 2.5, 4, 5, 1]
    assert [item for item, _ in best] == [4, 0, 1, 2]  # item 3 is not recommended again
    assert best[0][1] - best[3][1] == pytest.approx(np.log(2), abs=1e-5)


def test_an_excluded_item_lends_its_group_nothing(model):
    # Without item 0, its twin 1 has .15 alone, less than item 2; item 4's own .4 is gone with it.
    found, _ = guided(model, [1, 2, 3, 4], [[0, 4]] * 4, True, [0.15, 0.15, 0.2, 0.1, 0.4])
    assert found[:3] == [2, 1, 3]
    assert np.isnan(found[3])


def test_items_without_a_reward_can_still_be_ranked(model):
    assert guided(model, [0, 2, 3, 4], [[3]] * 4, False, [0.0, 0.0, 0.0, 1.0, 0.0])[0] == [2.5, 4, 1, 5]


def test_a_weight_without_rewards_is_refused():
    with pytest.raises(InputError, match=r"(?s)evaluator.guidance=\[0.5\] needs a .*name it:   evaluator.reward_from="):
        RankingEvaluator(ITEMS, num_beams=5, exclude_history=False, cutoffs=[5], guidance=[0.5])
    assert RankingEvaluator(ITEMS, num_beams=5, exclude_history=False, cutoffs=[5], guidance=[0]).guidance == []


def test_too_few_beams_for_the_cutoffs_are_refused():
    with pytest.raises(InputError, match=r"evaluator.num_beams=5 finds fewer items than the largest cutoff 20"):
        RankingEvaluator(ITEMS, num_beams=5, exclude_history=False, cutoffs=[5, 10, 20])
