"""The reward model on a small real data set: against the dense definition, and its refusals."""

import numpy as np
import pytest
import torch

from src.ilrec.dataset.interactions import Interactions
from src.ilrec.model import reward_model
from src.ilrec.model.counting import Counting, LeaveOneOut, Popularity, Uniform
from src.ilrec.model.reward_model import RewardModel, history_states
from src.ilrec.model.sequence_models import SASRec
from src.ilrec.model.trie import TokenTrie
from src.losses.collaborative import token_rewards

# 12 items of two tokens: first 0 .. 2, second 3 .. 6.
TOKENS = torch.tensor([[a, 3 + b] for a in range(3) for b in range(4)])
TRIE = TokenTrie.build(TOKENS, vocabulary_size=7)


def interactions(items=None):
    lengths = [9, 3, 5]
    return Interactions(
        name="three users",
        offsets=np.cumsum([0, *lengths]),
        items=np.random.default_rng(0).integers(0, 12, sum(lengths)) if items is None else np.array(items),
        user_ids=["u", "v", "w"],
        item_ids=[str(n) for n in range(12)],
        titles=[""] * 12,
        texts=[""] * 12,
        fingerprint="f" * 64,
        statistics={},
    )


def network(max_history=4):
    sizes = {"hidden_size": 8, "inner_size": 16, "num_layers": 1, "num_heads": 2}
    model = SASRec([""] * 12, **sizes, dropout=0.5, max_history=max_history, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # fresh weights tell the items little apart
    return model.eval().requires_grad_(False)


def make_model(stride=1):
    return RewardModel(network(), interactions(), TRIE, stride=stride)


def positions(*numbers):
    """Label positions of whole items, each followed by the end of the response."""
    interaction = torch.tensor([number for number in numbers for _ in range(3)])
    target = torch.cat([torch.cat([TOKENS[interactions().items[number]], torch.tensor([-1])]) for number in numbers])
    return interaction, target


def test_states_are_those_of_each_history_alone():
    data, model = interactions(), network()
    states = history_states(model, data, stride=1)
    for user in range(3):
        sequence, begin = torch.from_numpy(data.sequence(user)), int(data.offsets[user])
        assert states[begin].isnan().all()
        for place in range(1, len(sequence)):
            alone = model(sequence[None, max(place - 4, 0) : place])[0, -1]
            torch.testing.assert_close(states[begin + place], alone)


def test_a_larger_stride_shows_less_history_but_never_none():
    exact, fast = (history_states(network(), interactions(), stride=stride) for stride in (1, 4))
    assert torch.equal(exact.isnan(), fast.isnan())
    torch.testing.assert_close(exact[[1, 10, 13]], fast[[1, 10, 13]])  # after one item there is nothing to leave out
    assert not torch.isclose(exact, fast, equal_nan=True).all()


@pytest.mark.parametrize("chunk", [1, 30, 1 << 22])
def test_rewards_equal_the_dense_definition_whatever_the_chunk(monkeypatch, chunk):
    monkeypatch.setattr(reward_model, "_LARGEST_CHUNK", chunk)
    model = make_model()
    interaction, target = positions(2, 8, 10, 13)
    prefixes = torch.full((12, 2), -1)
    prefixes[1::3, 0] = target[0::3]
    prefixes[2::3] = torch.stack([target[0::3], target[1::3]], dim=1)
    probabilities = torch.empty(12, 12)
    probabilities[:, TRIE.items] = model.probabilities(interaction)
    dense = token_rewards(probabilities, TOKENS, prefixes, vocabulary_size=7)
    row, token = torch.ones(12, 7).nonzero(as_tuple=True)
    # The probabilities are float32, and matrix products of other shapes may round them differently.
    torch.testing.assert_close(model(interaction, target, row, token).view(12, 7), dense, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(dense.sum(1), torch.tensor([1, 1, 0] * 4, dtype=torch.float64))


@pytest.mark.parametrize("chunk", [1, 30, 1 << 22])
def test_of_items_of_one_token_each_all_rewards_come_at_once(monkeypatch, chunk):
    monkeypatch.setattr(reward_model, "_LARGEST_CHUNK", chunk)
    tokens = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    model = RewardModel(network(), interactions(), TokenTrie.build(tokens[:, None], vocabulary_size=14), stride=1)
    interaction = torch.tensor(
        [0, 1, 2, 2, 5, 8, 9, 10, 13]
    )  # two of them without a history, one with a label behind it
    target = tokens[torch.from_numpy(interactions().items)[interaction]]
    target[3] = -1
    row, token = torch.ones(9, 12).nonzero(as_tuple=True)
    listed = model(interaction, target, row, model.trie.token[1:][token]).view(9, 12)
    assert model.of_single_tokens
    assert not make_model().of_single_tokens
    torch.testing.assert_close(model.all_tokens(interaction, target).double(), listed, rtol=1e-6, atol=0)
    assert listed.sum(1).tolist() == pytest.approx([0, 1, 1, 0, 1, 1, 0, 1, 1])


def test_rewards_are_float32_whatever_the_run_computes_in(half_by_default):
    sasrec, tokens = network().float(), torch.arange(12)[:, None]
    model = RewardModel(sasrec, interactions(), TokenTrie.build(tokens, vocabulary_size=12), stride=1)
    interaction = torch.tensor([2, 5])
    together = model.all_tokens(interaction, tokens[:2, 0])
    assert together.dtype == torch.float32
    states = sasrec(torch.from_numpy(interactions().items)[None, :2])[0, -1]
    torch.testing.assert_close(together[0], sasrec.scores(states).softmax(0))


def test_items_that_share_their_only_token_are_asked_by_lists():
    trie = TokenTrie.build(torch.tensor([0, 0, *range(1, 11)])[:, None], vocabulary_size=14)
    assert not RewardModel(network(), interactions(), trie, stride=1).of_single_tokens


def test_rewards_of_few_entries_are_those_among_all():
    model = make_model()
    interaction, target = positions(2, 8, 10)
    row, token = torch.ones(9, 7).nonzero(as_tuple=True)
    every = model(interaction, target, row, token)
    some = torch.tensor([0, 3, 4, 13, 50, 51])
    assert torch.equal(model(interaction, target, row[some], token[some]), every[some])
    assert len(model(interaction, target, row[:0], token[:0])) == 0


def test_the_continuations_are_all_the_tokens_that_have_a_reward():
    model = make_model()
    interaction, target = positions(2, 8, 0, 10)
    row, token = torch.ones(12, 7).nonzero(as_tuple=True)
    rewarded = model(interaction, target, row, token) > 0
    listing = model.continuations(interaction, target)
    listed = list(zip(*(one.tolist() for one in listing[:2]), strict=True))
    assert torch.equal(model(interaction, target, *listing), model(interaction, target, *listing[:2]))
    # Every item has the first tokens 0 to 2 and any of 3 to 6 after each; at an end nothing goes on.
    assert listed == [(n, v) for n in range(12) for v in ([0, 1, 2], [3, 4, 5, 6], [])[n % 3]]
    assert {(n, v) for n, v in zip(row[rewarded].tolist(), token[rewarded].tolist(), strict=True)} == {
        (n, v)
        for n, v in listed
        if not 6 <= n < 9  # a user's first item has no history, and nothing a reward
    }


def test_a_prefix_of_no_item_has_no_continuations():
    interaction, target = torch.tensor([2, 2, 2]), torch.tensor([6, 0, -1])  # no item starts with 6
    row, _, _ = make_model().continuations(interaction, target)
    assert row.tolist() == [0, 0, 0]


def test_without_a_history_and_after_an_items_last_token_and_outside_the_items_there_is_no_reward():
    model = make_model()
    interaction, target = positions(0, 9, 2)  # the first items of two users, then one with a history
    row, token = torch.ones(9, 7).nonzero(as_tuple=True)
    rewards = model(interaction, target, row, token).view(9, 7)
    assert not rewards[:6].any()
    assert rewards[6:8].any(1).all()
    assert not rewards[8].any()
    assert model(interaction, target, torch.tensor([6]), torch.tensor([-1])).tolist() == [0]


def test_probabilities_are_the_softmax_of_the_scores_in_the_tries_order():
    model, data = make_model(), interactions()
    state = network()(torch.from_numpy(data.sequence(0)[None, :2]))[0, -1]
    expected = network().scores(state).softmax(0)[TRIE.items]
    torch.testing.assert_close(model.probabilities(torch.tensor([2]))[0], expected)


@pytest.mark.parametrize("exclude", [False, True])
def test_probabilities_after_histories_are_those_of_each_alone(exclude):
    data = interactions([5, 2, 7, 11, 0, 1, 3, 4, 6, *[8, 9, 10], *[5, 2, 7, 11, 0]])
    model = RewardModel(network(), data, TRIE, stride=1, exclude_history=exclude)
    history = torch.tensor([[5, 2, 7, 11, 0, 1], [8, -1, -1, -1, -1, -1], [5, 2, 7, -1, -1, -1]])
    asked = model.probabilities_after(history)
    torch.testing.assert_close(asked, model.probabilities(torch.tensor([6, 10, 15])))  # before what came next
    torch.testing.assert_close(asked.sum(1), torch.ones(3))
    zero = [set(TRIE.items[row == 0].tolist()) for row in asked]
    assert zero == ([{5, 2, 7, 11, 0, 1}, {8}, {5, 2, 7}] if exclude else [set()] * 3)


def test_mixed_precision_leaves_probabilities_as_they_are():
    data = interactions([5, 2, 7, 11, 0, 1, 3, 4, 6, *[8, 9, 10], *[5, 2, 7, 11, 0]])
    model = RewardModel(network(), data, TRIE, stride=1)
    asked = [(model.probabilities, torch.tensor([6, 10])), (model.probabilities_after, torch.tensor([[5, 2, 7]]))]
    for ask, about in asked:
        expected = ask(about)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(ask(about), expected)


def test_after_a_history_of_all_items_none_has_a_probability():
    data = interactions([5, 2, 7, 11, 0, 1, 3, 4, 6, *[8, 9, 10], *[5, 2, 7, 11, 0]])
    model = RewardModel(network(), data, TRIE, stride=1, exclude_history=True)
    items = torch.arange(len(TRIE.items))
    asked = model.probabilities_after(torch.stack([items, torch.where(items < 3, items, -1)]))
    assert not asked[0].any()
    assert asked[1].sum().item() == pytest.approx(1)


def test_items_of_the_history_have_no_probability_but_one_that_comes_again_has():
    data = interactions([5, 2, 7, 2, 0, 1, 3, 4, 6, *[8, 9, 10], *[5, 2, 7, 11, 0]])
    model = RewardModel(network(), data, TRIE, stride=1, exclude_history=True)
    state = network()(torch.from_numpy(data.sequence(0)[None, :3]))[0, -1]
    scores = network().scores(state)
    scores[[5, 7]] = -torch.inf  # and not 2, which is what the user takes next
    asked = model.probabilities(torch.tensor([3, 13]))
    torch.testing.assert_close(asked[0], scores.softmax(0)[TRIE.items])
    assert asked[1][(TRIE.items == 5)].item() == 0  # another user, with one item before
    assert (asked[1] > 0).sum() == 11


def test_the_history_is_excluded_by_default_only_where_nobody_takes_an_item_twice_in_training():
    distinct = [*range(9), *[0, 1, 2], *range(5)]
    held_out = distinct[:-1] + [0]  # the last user's test item is the first one again
    repeated = [1, 1, *distinct[2:]]
    for items, expected in ((distinct, True), (held_out, True), (repeated, False)):
        assert RewardModel(network(), interactions(items), TRIE, stride=1).exclude_history == expected
    kept = RewardModel(network(), interactions(distinct), TRIE, stride=1, exclude_history=False)
    assert (kept.probabilities(torch.tensor([8])) > 0).all()


def counted(kind, data, **settings):
    model = kind([""] * 12, max_history=4, **settings)
    model.count(data)
    return model


GRID = {"decay": [0.5], "skip": [3], "back": [0.3], "norm": [0.5], "smoothing": 0.3}


@pytest.mark.parametrize("exclude", [False, True])
def test_after_a_history_a_model_says_what_it_says_before_the_item_that_is_held_out(exclude):
    data = interactions([5, 2, 7, 11, 0, 1, 3, 4, 6, *[8, 9, 10], *[5, 2, 7, 11, 0]])
    history = torch.tensor([[5, 2, 7, 11, 0, 1, 3], [8, *[-1] * 6], [5, 2, 7, *[-1] * 4]])
    for network_of in (network(), counted(Counting, data, **GRID), counted(Popularity, data), counted(Uniform, data)):
        model = RewardModel(network_of, data, TRIE, stride=1, exclude_history=exclude)
        after = model.probabilities_after(history)
        torch.testing.assert_close(after, model.probabilities(torch.tensor([7, 10, 15])))  # before what came next
        torch.testing.assert_close(after.sum(1), torch.ones(3))
        without = [set(TRIE.items[row == 0].tolist()) for row in after]
        assert without == ([{5, 2, 7, 11, 0, 1, 3}, {8}, {5, 2, 7}] if exclude else [set()] * 3)


def test_before_a_training_item_its_users_own_pairs_are_left_out():
    data = interactions([5, 2, 7, 11, 0, 1, 3, 4, 6, *[8, 9, 10], *[5, 2, 7, 11, 0]])
    counting = counted(Counting, data, **GRID)
    asked = RewardModel(counting, data, TRIE, exclude_history=False).probabilities(torch.tensor([3, 13]))
    expected = LeaveOneOut(counting, data).probabilities(torch.tensor([3, 13]))[:, TRIE.items]
    torch.testing.assert_close(asked, expected.float())
    everyone = counting.probabilities(torch.tensor([[7, 2, 5, -1], [5, -1, -1, -1]]))[:, TRIE.items]
    assert (asked < everyone)[torch.arange(2), TRIE.items.argsort()[data.items[[3, 13]]]].all()


def test_of_several_models_the_mean_of_the_probabilities_counts():
    data = interactions()
    several = [network(), counted(Counting, data, **GRID), counted(Uniform, data)]
    before, history = torch.tensor([2, 8, 13]), torch.tensor([[3, 1, 4, 1, 5, 9], [7, *[-1] * 5]])
    for exclude in (False, True):
        alone = [RewardModel(one, data, TRIE, stride=1, exclude_history=exclude) for one in several]
        mean = RewardModel(several, data, TRIE, stride=1, exclude_history=exclude)
        expected = torch.stack([one.probabilities(before) for one in alone]).mean(0)
        torch.testing.assert_close(mean.probabilities(before), expected)
        expected = torch.stack([one.probabilities_after(history) for one in alone]).mean(0)
        torch.testing.assert_close(mean.probabilities_after(history), expected)
        assert mean.probabilities(torch.tensor([0])).isnan().all()  # a user's first item, whatever the model


def test_a_few_items_are_told_by_their_log_probabilities(monkeypatch):
    model, interaction, items = make_model(), torch.tensor([2, 8, 13]), torch.tensor([[3, 4], [0, 11], [7, 7]])
    expected = model.probabilities(interaction).gather(1, TRIE.items.argsort()[items]).log()
    monkeypatch.setattr(reward_model, "_LARGEST_CHUNK", 24)  # two histories at once
    torch.testing.assert_close(model.log_probabilities(interaction, items), expected)


def test_rewards_of_titles_are_the_mass_of_the_titles_that_go_on_so():
    # Letters 0 to 2, the end 3. Items 1 and 5 agree, 0 is the beginning of 2, and 3 differs from 2 in the last letter.
    words = ["0", "1", "012", "011", "20", "1", "22", "212", "02", "10", "100", "21"]
    rows = [torch.tensor([*map(int, word), 3]) for word in words]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    trie = TokenTrie.build(tokens, vocabulary_size=4)
    model = RewardModel(network(), interactions(), trie, stride=1)
    places = [2, 8, 13]
    written = [rows[interactions().items[place]] for place in places]
    interaction = torch.cat([torch.full((len(word),), place) for place, word in zip(places, written, strict=True)])
    target = torch.cat(written)
    row, token = torch.ones(len(target), 4).nonzero(as_tuple=True)
    rewards = model(interaction, target, row, token).view(-1, 4)
    probabilities = torch.empty(len(places), 12)
    probabilities[:, trie.items] = model.probabilities(torch.tensor(places))
    expected = []
    for history, word in zip(probabilities.tolist(), written, strict=True):
        spelled = "".join(map(str, word.tolist()))
        for length in range(len(spelled)):
            masses = [
                sum(p for p, one in zip(history, words, strict=True) if f"{one}3".startswith(spelled[:length] + letter))
                for letter in "0123"
            ]
            expected.append([mass / sum(masses) for mass in masses])
    torch.testing.assert_close(rewards, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-7)
