"""Ranks from the scores of all items, worked by hand."""

import numpy as np
import pytest
import torch

from src.ilrec.evaluator import full_ranking
from src.ilrec.evaluator.full_ranking import FullRankingEvaluator
from src.ilrec.model.counting import Popularity
from src.ilrec.model.sequence_models import SequenceModel, SequenceModelSettings
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.launch.errors import InputError

ITEMS = ItemTokens.from_codes(np.arange(4)[:, None], [range(4)], {})


class LastItem(SequenceModel):
    """The state is the last item's embedding: a table of similarities, worked by hand."""

    def __init__(self):
        super().__init__(ITEMS.vocabulary, SequenceModelSettings(hidden_size=2, dropout=0.0, max_history=9, seed=0))
        self.item_embedding.weight.data = torch.tensor([[1.0, 0.0], [2.0, 1.0], [3.0, 0.0], [2.0, 0.0]])

    def forward(self, items):
        return self.item_embedding(items)


def ranks(history, target, exclude_history=False, model=None, **search):
    evaluator = FullRankingEvaluator(ITEMS, exclude_history="both", cutoffs=[1])
    batch = {
        "input_ids": torch.tensor([[0, *history]]),
        "attention_mask": torch.tensor([[0] + [1] * len(history)]),
        "history": torch.tensor([[*history, -1, -1]]),
        "target": torch.tensor([target]),
    }
    return evaluator.rank(model or LastItem(), batch, exclude_history=exclude_history, **search).tolist()


def test_higher_scores_come_first_and_equal_ones_share_their_expected_rank():
    # After item 0 (1, 0) the items score 1, 2, 3, 2: first 2, then 1 and 3 in either order, then 0.
    assert [ranks([0], target) for target in range(4)] == [[4], [2.5], [1], [2.5]]


def test_mixed_precision_makes_no_scores_equal():
    # 1.001 is 1 in bfloat16, as item 0's score is.
    model = LastItem()
    model.item_embedding.weight.data[3] = torch.tensor([1.001, 0.0])
    with torch.autocast("cpu", torch.bfloat16):
        assert [ranks([0], target, model=model) for target in range(4)] == [[4], [2], [1], [3]]


def test_items_of_the_history_step_aside_if_wanted():
    # The same scores after the history 2, 1, 0 leave only item 3; without exclusion item 2 is ahead, item 1 level.
    assert ranks([2, 1, 0], 3, exclude_history=True) == [1]
    assert ranks([2, 1, 0], 3) == [2.5]


def test_a_penalty_is_taken_from_the_scores_of_the_history_once():
    # After 2, 2, 0 the items score 1, 2, 3, 2, and 1 - 1.5, 2, 3 - 1.5, 2: first 1 and 3, then 2, then 0.
    assert [ranks([2, 2, 0], target, history_penalty=1.5) for target in range(4)] == [[4], [1.5], [3], [1.5]]
    # One of next to nothing or without end: as with the history, and as without it, but for the items in it.
    assert [ranks([2, 0], target, history_penalty=1e-6) for target in range(4)] == [[4], [2.5], [1], [2.5]]
    assert [ranks([2, 0], target, history_penalty=1e6) for target in (1, 3)] == [[1.5], [1.5]]
    assert [ranks([2, 0], target, exclude_history=True) for target in (1, 3)] == [[1.5], [1.5]]


def test_of_a_counted_model_a_penalty_is_a_factor():
    popular = Popularity(ITEMS.vocabulary, max_history=9)
    popular.counts[:] = torch.tensor([8.0, 3.0, 1.0, 5.0])
    # 8 * exp(-.5) = 4.85 is below 5; 3 * exp(-.5) = 1.82 stays above 1.
    found = [ranks([0, 1], target, model=popular, history_penalty=0.5) for target in range(4)]
    assert found == [[2], [3], [4], [1]]


class Opinions:
    """What a second model thinks of the items, whatever the history; 0 is what it rules out."""

    def probabilities_after(self, history):
        return torch.tensor([[0.5, 0.125, 0.0, 0.375]]).expand(len(history), -1)


def guided(model, weight, **search):
    settings = {"cutoffs": [1], "guidance": weight, "reward_from": "some.ckpt"}
    evaluator = FullRankingEvaluator(ITEMS, exclude_history=search.get("exclude_history", False), **settings)
    evaluator.rewards = Opinions()
    batch = {
        "input_ids": torch.tensor([[0]]),
        "attention_mask": torch.tensor([[1]]),
        "history": torch.tensor([[0, -1]]),
    }
    found = [
        evaluator.rank(
            model, batch | {"target": torch.tensor([target])}, **{"exclude_history": False, "guidance": weight} | search
        )[0]
        for target in range(4)
    ]
    return found, evaluator.recommend(model, batch, 4, guidance=weight)[0]


def test_a_second_opinion_adds_its_logarithm_to_trained_scores():
    # After item 0 the items score 1, 2, 3, 2; and 1 + log .5, 2 + log .125, 3 + log 1e-12, 2 + log .375.
    found, best = guided(LastItem(), 1.0)
    assert found == [2, 3, 4, 1]
    assert [item for item, _ in best] == [3, 0, 1, 2]
    expected = [2 + np.log(0.375), 1 + np.log(0.5), 2 + np.log(0.125), 3 + np.log(1e-12)]
    np.testing.assert_allclose([score for _, score in best], expected, rtol=1e-6)
    # With hardly any weight the order stays, but for equals, which it sets apart.
    assert guided(LastItem(), 1e-3)[0] == [4, 3, 1, 2]
    found, best = guided(LastItem(), 1.0, exclude_history=True)
    assert found[1:] == [2, 3, 1]
    assert np.isnan(found[0])
    assert [item for item, _ in best] == [3, 1, 2]


def test_a_counted_model_is_multiplied_by_a_second_opinion():
    popular = Popularity(ITEMS.vocabulary, max_history=9)
    popular.counts[:] = torch.tensor([1.0, 40.0, 9.0, 4.0])
    found, best = guided(popular, 2.0)  # 1 * .25, 40 * .015625, 9 * 1e-24, 4 * .140625
    assert found == [3, 1, 4, 2]
    np.testing.assert_allclose([score for _, score in best], [0.625, 0.5625, 0.25, 9e-24], rtol=1e-6)


def test_a_second_opinion_that_nobody_gives_is_refused():
    with pytest.raises(InputError, match=r"(?s)evaluator.guidance=\[0.5\] needs a .*name it:   evaluator.reward_from="):
        FullRankingEvaluator(ITEMS, exclude_history=False, cutoffs=[5], guidance=[0.5])


def test_a_target_that_the_history_excludes_is_not_found():
    assert np.isnan(ranks([1, 0], 1, exclude_history=True)).all()
    assert ranks([1, 0], 1) == [2.5]


def test_padding_excludes_nobody():
    # History 2 alone, padded: item 0 must stay. After item 2 (3, 0): 3, 6, 9, 6; items 1 and 3 are before it.
    assert ranks([2], 0, exclude_history=True) == [3]


class Table(SequenceModel):
    """Scores are small whole numbers from a table, one row a last item: many are equal."""

    def __init__(self, size):
        super().__init__([""] * size, SequenceModelSettings(hidden_size=size, dropout=0.0, max_history=9, seed=0))
        self.item_embedding.weight.data = torch.eye(size)
        self.table = torch.randint(5, (size, size), generator=torch.Generator().manual_seed(0)).float()

    def forward(self, items):
        return self.table[items]


@pytest.mark.parametrize("block", [1, 45, 1 << 23])
@pytest.mark.parametrize("exclude", [False, True])
def test_users_are_ranked_and_served_in_blocks_as_by_one_sort_of_everything(monkeypatch, block, exclude):
    monkeypatch.setattr(full_ranking, "_LARGEST_BLOCK", block)
    size, users = 20, 7
    generator = torch.Generator().manual_seed(1)
    items = torch.randint(size, (users, 4), generator=generator)
    target = torch.randint(size, (users,), generator=generator)
    batch = {"input_ids": items, "attention_mask": torch.ones_like(items), "history": items, "target": target}
    evaluator = FullRankingEvaluator(
        ItemTokens.from_codes(np.arange(size)[:, None], [range(size)], {}), exclude_history=exclude, cutoffs=[1]
    )
    model = Table(size)
    ranks = evaluator.rank(model, batch, exclude_history=exclude)
    best = {count: evaluator.recommend(model, batch, count) for count in (3, size, size + 5)}
    for user in range(users):
        had = set(items[user].tolist()) if exclude else set()
        scores = model.table[items[user, -1]].tolist()
        order = sorted(set(range(size)) - had, key=lambda item, scores=scores: (-scores[item], item))
        true = int(target[user])
        level = [place for place, item in enumerate(order, start=1) if scores[item] == scores[true]]
        assert np.mean(level) == ranks[user] if true in order else np.isnan(ranks[user])
        for count, served in best.items():
            assert served[user] == [(item, scores[item]) for item in order[:count]]


def test_semantic_ids_are_refused():
    items = ItemTokens.from_codes(np.array([[0, 0], [1, 0]]), [range(2), range(1)], {})
    with pytest.raises(InputError, match=r"each has 2 tokens.\nType:  tokenizer=item_ids"):
        FullRankingEvaluator(items, exclude_history=False, cutoffs=[10])
