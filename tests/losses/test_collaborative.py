"""Token rewards and their loss against arithmetic by hand, limits, gradients and slow references."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from src.ilrec.model.trie import TokenTrie
from src.losses import collaborative, known_gradient
from src.losses.collaborative import (
    interval_rewards,
    marked_entries,
    reward_loss,
    rewarded_positions,
    token_rewards,
)

# Three items of two tokens: (0, 2), (0, 3), (1, 2).
TOKENS = torch.tensor([[0, 2], [0, 3], [1, 2]])
PROBABILITIES = torch.tensor([[0.2, 0.3, 0.5]])


def logits(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def starts_with(sequence, prefix):
    return tuple(sequence[: len(prefix)]) == tuple(prefix)


def brute_force(probabilities, catalogue, prefix, token):
    """The definition, an item at a time."""
    below = sum(p for p, item in zip(probabilities, catalogue, strict=True) if starts_with(item, prefix))
    extended = sum(p for p, item in zip(probabilities, catalogue, strict=True) if starts_with(item, (*prefix, token)))
    return extended / below


def from_intervals(trie, probabilities, history, prefixes, token):
    """Rewards of the entries (history, prefix, token) through the trie."""
    node = trie.find(prefixes)
    child = trie.child(node, token)
    bounds = torch.stack([trie.first_item, trie.last_item], dim=1)
    place = torch.arange(len(history)), bounds[child] * (child >= 0)[:, None]
    return interval_rewards(probabilities[:, trie.items], history, bounds[node], *place)


def reference_loss(final, target, negatives, rewards, temperature):
    """The formula, a position and a token at a time."""
    losses = []
    for n in range(len(target)):
        candidates = [v for v in range(final.shape[1]) if negatives[n, v] or v == target[n]]
        label = {v: float(rewards[n, v]) for v in candidates}
        if sum(label.values()) == 0:
            continue
        if temperature is not None:
            label = {v: math.exp(r / temperature) for v, r in label.items()}
        losses.append(
            -sum(
                s / sum(label.values()) * torch.log(torch.exp(final[n, v]) / torch.exp(final[n]).sum())
                for v, s in label.items()
            )
        )
    return sum(losses) / len(losses)


def random_case(seed, positions=6, vocabulary=12):
    generator = torch.Generator().manual_seed(seed)
    final = torch.randn(positions, vocabulary, generator=generator, dtype=torch.float64)
    target = torch.randint(vocabulary, (positions,), generator=generator)
    negatives = torch.rand(positions, vocabulary, generator=generator) < 0.3
    negatives.scatter_(1, target[:, None], False)
    rewards = torch.rand(positions, vocabulary, generator=generator, dtype=torch.float64)
    rewards[2] = 0
    return final, target, negatives, rewards


def test_rewards_worked_by_hand():
    # First token: items 0 and 1 begin with 0: .2 + .3 = .5; item 2 with 1: .5. After 0: token 2 has .2 / .5 = .4,
    # token 3 .3 / .5 = .6. After 1 only token 2: 1. After (1, 2) nothing follows, and nothing starts with 3.
    prefixes = torch.tensor([[-1, -1], [0, -1], [1, -1], [1, 2], [3, -1]])
    rewards = token_rewards(PROBABILITIES.expand(5, -1), TOKENS, prefixes)
    expected = [[0.5, 0.5, 0, 0], [0, 0, 0.4, 0.6], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(rewards, logits(*expected))


def test_interval_rewards_worked_by_hand():
    # The items are sorted already: those that begin with 0 stand at 0 .. 1, with (0, 3) at 1, with (1, 2) at 2.
    rewards = interval_rewards(
        PROBABILITIES,
        torch.zeros(3, dtype=torch.int64),
        torch.tensor([[0, 3], [0, 2], [0, 2]]),
        torch.arange(3),
        torch.tensor([[0, 2], [1, 2], [0, 0]]),
    )
    torch.testing.assert_close(rewards, logits(0.5, 0.6, 0))


@st.composite
def catalogues(draw):
    """Item token sequences, prefix-free because each ends with token 0; some items share their tokens."""
    bodies = draw(st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=20))
    scores = draw(st.lists(st.floats(-8, 8), min_size=len(bodies), max_size=len(bodies)))
    return [(*body, 0) for body in bodies], torch.tensor([scores]).softmax(1)


@settings(max_examples=150)
@given(catalogues())
def test_rewards_are_the_sum_over_items_and_add_up_to_one_over_the_legal_tokens(case):
    catalogue, probabilities = case
    width = max(map(len, catalogue))
    sequences = torch.tensor([list(item) + [-1] * (width - len(item)) for item in catalogue])
    trie = TokenTrie.build(sequences, vocabulary_size=5)
    inner = sorted({item[:length] for item in catalogue for length in range(len(item))})
    prefixes = torch.tensor([list(prefix) + [-1] * (width - len(prefix)) for prefix in inner])
    dense = token_rewards(probabilities.expand(len(inner), -1), sequences, prefixes, vocabulary_size=5)
    row, token = torch.ones_like(dense).nonzero(as_tuple=True)
    sparse = from_intervals(trie, probabilities, torch.zeros_like(row), prefixes[row], token).view_as(dense)
    slow = logits(*([brute_force(probabilities[0].tolist(), catalogue, p, v) for v in range(5)] for p in inner))
    torch.testing.assert_close(dense, slow, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(sparse, slow, rtol=1e-9, atol=1e-12)
    one = torch.ones(len(inner), dtype=torch.float64)
    torch.testing.assert_close(dense.sum(1), one)
    torch.testing.assert_close(sparse.sum(1), one, rtol=0, atol=1e-15)


def test_rare_items_behind_a_common_one_keep_their_shares():
    # After 0.999... of the mass, two items of 3e-14 and 1e-14: .75 and .25 of their prefix. A float64 sum, exact to
    # 1e-16 near 1, would be wrong in the third digit; multiples of 2^-60 (9e-19) are wrong in the fifth.
    probabilities = torch.tensor([[1.0, 3e-14, 1e-14]])
    bounds = torch.tensor([[1, 3]]), torch.tensor([0, 0]), torch.tensor([[1, 2], [2, 3]])
    rewards = interval_rewards(probabilities, torch.zeros(1, dtype=torch.int64), *bounds)
    torch.testing.assert_close(rewards, logits(0.75, 0.25), rtol=1e-4, atol=0)
    assert rewards.sum() == 1


def test_a_prefix_without_probability_has_no_rewards():
    one = torch.tensor([[0, -1]])
    assert token_rewards(torch.tensor([[0.0, 0.0, 1.0]]), TOKENS, one).tolist() == [[0, 0, 0, 0]]
    bounds = torch.tensor([[0, 2]]), torch.tensor([0]), torch.tensor([[0, 1]])
    assert interval_rewards(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([0]), *bounds).tolist() == [0]


def test_each_entry_asks_its_own_history():
    probabilities = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]])
    bounds = torch.tensor([[0, 3]] * 2), torch.tensor([0, 1, 0]), torch.tensor([[0, 1]] * 3)
    rewards = interval_rewards(probabilities, torch.tensor([1, 0]), *bounds)
    torch.testing.assert_close(rewards, logits(0.6, 0.2, 0.6))


def test_marked_entries_are_the_negatives_and_the_target_in_order():
    negatives = torch.tensor([[False, True, False], [False, False, False], [True, True, False]])
    row, token = marked_entries(torch.tensor([0, 2, 2]), negatives)
    assert list(zip(row.tolist(), token.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 2), (2, 0), (2, 1), (2, 2)]


def test_loss_worked_by_hand():
    # z = (0, ln 2, ln 5): p = (1, 2, 5) / 8. y = 0, token 1 negative, r = (.3, .1, .6): s = (.75, .25).
    # L = -.75 ln(1/8) - .25 ln(2/8) = .75 * 2.079442 + .25 * 1.386294 = 1.906155
    final, negatives = logits([0, math.log(2), math.log(5)]), torch.tensor([[False, True, False]])
    loss = reward_loss(final, torch.tensor([0]), negatives, logits([0.3, 0.1, 0.6]))
    assert loss.item() == pytest.approx(1.906155, abs=1e-6)


def test_temperature_takes_the_softmax_of_the_rewards():
    # As above with temperature .2 / ln 3: s = exp(.3 ln 3 / .2) : exp(.1 ln 3 / .2) = 3 : 1 = (.75, .25) again.
    final, negatives = logits([0, math.log(2), math.log(5)]), torch.tensor([[False, True, False]])
    loss = reward_loss(final, torch.tensor([0]), negatives, logits([0.3, 0.1, 0.6]), temperature=0.2 / math.log(3))
    assert loss.item() == pytest.approx(1.906155, abs=1e-6)


@pytest.mark.parametrize("few", [0, 1], ids=["all entries", "listed entries"])
@pytest.mark.parametrize("block", [1, 1 << 18])
@pytest.mark.parametrize("temperature", [None, 0.3, 2e-3])
def test_loss_and_gradient_equal_the_slow_reference_in_every_layout_by_any_way(monkeypatch, few, block, temperature):
    monkeypatch.setattr(collaborative, "FEW", few)
    monkeypatch.setitem(known_gradient._ENTRIES, "cpu", block)
    for seed in range(5):
        final, target, negatives, rewards = random_case(seed)
        rewards[:, ::3] = 0
        final.requires_grad_()
        slow = reference_loss(final, target, negatives, rewards, temperature)
        (gradient,) = torch.autograd.grad(slow, final)
        row, token = marked_entries(target, negatives)
        listed = rewards[row, token]
        known = listed > 0  # those without a reward need not be listed
        layouts = (rewards, None), (listed, None), (listed, (row, token)), (listed[known], (row[known], token[known]))
        for values, entries in layouts:
            fast = reward_loss(final, target, negatives, values, temperature=temperature, entries=entries)
            torch.testing.assert_close(fast, slow)
            torch.testing.assert_close(torch.autograd.grad(fast, final)[0], gradient)


@pytest.mark.parametrize("few", [0, 1], ids=["all entries", "listed entries"])
def test_tokens_that_a_model_rules_out_stay_out_of_it(monkeypatch, few):
    # Logit -inf, and neither negative nor true: as without that token, see the loss worked by hand.
    monkeypatch.setattr(collaborative, "FEW", few)
    final = logits([0, math.log(2), math.log(5), -math.inf]).requires_grad_()
    negatives = torch.tensor([[False, True, False, False]])
    loss = reward_loss(final, torch.tensor([0]), negatives, logits([0.3, 0.1, 0.6, 0]))
    assert loss.item() == pytest.approx(1.906155, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, final)
    torch.testing.assert_close(gradient, logits([1 / 8 - 0.75, 2 / 8 - 0.25, 5 / 8, 0]))


@pytest.mark.parametrize("few", [0, 1], ids=["all entries", "listed entries"])
def test_a_negative_that_the_model_rules_out_and_nobody_rewards_costs_nothing(monkeypatch, few):
    monkeypatch.setattr(collaborative, "FEW", few)
    final = logits([0, math.log(2), math.log(5), -math.inf]).requires_grad_()
    negatives = torch.tensor([[False, True, False, True]])
    loss = reward_loss(final, torch.tensor([0]), negatives, logits([0.3, 0.1, 0.6, 0]))
    assert loss.item() == pytest.approx(1.906155, abs=1e-6)  # as without that token
    (gradient,) = torch.autograd.grad(loss, final)
    torch.testing.assert_close(gradient, logits([1 / 8 - 0.75, 2 / 8 - 0.25, 5 / 8, 0]))


@pytest.mark.parametrize("few", [0, 1], ids=["all entries", "listed entries"])
def test_a_temperature_near_nothing_leaves_the_best_and_a_huge_one_makes_all_alike(monkeypatch, few):
    monkeypatch.setattr(collaborative, "FEW", few)
    final, target, negatives, rewards = (one.float() if one.is_floating_point() else one for one in random_case(1))
    marked, given = negatives.scatter(1, target[:, None], True), (rewards > 0).any(1)
    log_p = final.log_softmax(1)
    best = log_p.gather(1, (rewards * marked).argmax(1, keepdim=True))[:, 0]
    alike = (log_p * marked).sum(1) / marked.sum(1)
    for temperature, expected in ((1e-300, best), (1e-30, best), (1e30, alike)):
        loss = reward_loss(final, target, negatives, rewards, temperature=temperature)
        torch.testing.assert_close(loss, -expected[given].mean())


@pytest.mark.parametrize("few", [0, 1], ids=["all entries", "listed entries"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_loss_is_that_of_the_same_numbers(monkeypatch, dtype, few):
    monkeypatch.setattr(collaborative, "FEW", few)
    final, target, negatives, rewards = random_case(2)
    half = final.to(dtype).requires_grad_()
    loss = reward_loss(half, target, negatives, rewards)
    torch.testing.assert_close(loss.double(), reward_loss(half.double(), target, negatives, rewards), rtol=1e-5, atol=0)
    assert torch.autograd.grad(loss, half)[0].isfinite().all()


@pytest.mark.parametrize("few", [0, 1], ids=["all entries", "listed entries"])
def test_mixed_precision_leaves_the_loss_as_it_is(monkeypatch, few):
    monkeypatch.setattr(collaborative, "FEW", few)
    final, target, negatives, rewards = (one.float() if one.is_floating_point() else one for one in random_case(2))
    expected = reward_loss(final, target, negatives, rewards)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(reward_loss(final, target, negatives, rewards), expected)


def test_positions_with_a_reward_are_counted():
    # Position 0 has none listed, 1 has two, 2 has a zero only, 3 one of two.
    row, rewards = torch.tensor([1, 1, 2, 3, 3]), torch.tensor([0.5, 0.5, 0.0, 0.0, 0.2])
    assert rewarded_positions(4, row, rewards).item() == 2


def test_without_negatives_it_is_plain_cross_entropy():
    final, target, negatives, rewards = random_case(0)
    rewards[2] = 1
    loss = reward_loss(final, target, torch.zeros_like(negatives), rewards)
    torch.testing.assert_close(loss, F.cross_entropy(final, target))


def test_gradient_is_probability_minus_soft_label_and_rewards_get_none():
    final, target, negatives, rewards = random_case(1)
    final.requires_grad_()
    rewards.requires_grad_()
    loss = reward_loss(final, target, negatives, rewards)
    gradient, none = torch.autograd.grad(loss, (final, rewards), allow_unused=True)
    label = rewards * negatives.scatter(1, target[:, None], True)
    label = label / label.sum(1, keepdim=True)
    known = [0, 1, 3, 4, 5]  # position 2 has no reward
    torch.testing.assert_close(gradient[known], ((final.softmax(1) - label) / 5)[known])
    assert none is None
    assert not gradient[2].any()


@pytest.mark.parametrize("temperature", [None, 0.1])
def test_without_any_reward_it_is_zero_and_can_still_be_added_and_differentiated(temperature):
    final, target, negatives, rewards = random_case(2)
    final.requires_grad_()
    loss = reward_loss(final, target, negatives, torch.zeros_like(rewards), temperature=temperature)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, final)[0].any()


def test_bad_arguments_are_named():
    final, target, negatives, rewards = random_case(3)
    with pytest.raises(ValueError, match=r"temperature=0 must be positive"):
        reward_loss(final, target, negatives, rewards, temperature=0)
    with pytest.raises(ValueError, match=r"final_logits \(5, 12\), negatives \(6, 12\)"):
        reward_loss(final[:5], target, negatives, rewards)
    with pytest.raises(ValueError, match=r"rewards \(6, 11\); need \(6, 12\), or \(\d+,\), one for each negative"):
        reward_loss(final, target, negatives, rewards[:, :11])
    entries = torch.tensor([0, 1]), torch.tensor([3, 4])
    for wrong in (rewards[0, :3], rewards):
        with pytest.raises(ValueError, match=r"rewards .*; need \(2,\), one for each entry"):
            reward_loss(final, target, negatives, wrong, entries=entries)
    with pytest.raises(ValueError, match=r"item_probabilities \(1, 2\), item_tokens \(3, 2\), prefixes \(1, 1\)"):
        token_rewards(PROBABILITIES[:, :2], TOKENS, torch.tensor([[0]]))
    with pytest.raises(ValueError, match=r"history \(2,\), prefix \(1, 2\), position \(2,\)"):
        interval_rewards(PROBABILITIES, torch.zeros(2), torch.zeros(1, 2), torch.zeros(2), torch.zeros(2, 2))
