"""The preference losses against arithmetic by hand, limits, gradients and slow references."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.losses.preference import (
    dpo_loss,
    group_advantages,
    group_relative_loss,
    group_rewards,
    preference_smoothing,
    reward_margins,
    rosepo_loss,
    sdpo_loss,
    token_log_probabilities,
)


def numbers(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def random_pair(seed, pairs=5, rejected=3):
    generator = torch.Generator().manual_seed(seed)
    policy, reference = torch.randn(2, pairs, 1 + rejected, generator=generator, dtype=torch.float64) * 3
    return policy, reference


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def reference_margin(policy, reference, n, d):
    """D(y+) - D(y-_d) of prompt n."""
    chosen = policy[n, 0] - reference[n, 0]
    rejected = policy[n, 1 + d] - reference[n, 1 + d]
    return float(chosen - rejected)


def test_token_log_probabilities_worked_by_hand():
    # Row 0: logits (0, ln 3) = p (1/4, 3/4). Row 1: (0, 0) = p (1/2, 1/2). Response one: token 1 by row 0, token 0 by
    # row 1: ln .75 + ln .5; response two: token 0 by row 0, then padding: ln .25.
    logits = numbers([0, math.log(3)], [0, 0])
    rows, tokens = torch.tensor([[0, 1], [0, 1]]), torch.tensor([[1, 0], [0, -1]])
    log_p = token_log_probabilities(logits, rows, tokens)
    torch.testing.assert_close(log_p, numbers([math.log(0.75), math.log(0.5)], [math.log(0.25), 0]))


def test_token_log_probabilities_equal_a_softmax_token_by_token():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 11, generator=generator, dtype=torch.float64)
    rows = torch.randint(7, (4, 3, 5), generator=generator)
    tokens = torch.randint(-1, 11, (4, 3, 5), generator=generator)
    fast = token_log_probabilities(logits, rows, tokens)
    for place in torch.cartesian_prod(torch.arange(4), torch.arange(3), torch.arange(5)).tolist():
        row, token = int(rows[tuple(place)]), int(tokens[tuple(place)])
        slow = torch.log(torch.exp(logits[row, token]) / torch.exp(logits[row]).sum()) if token >= 0 else 0.0
        assert float(fast[tuple(place)]) == pytest.approx(float(slow))


def test_padding_sends_no_gradient_to_its_row():
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    token_log_probabilities(logits, torch.tensor([[0, 1]]), torch.tensor([[2, -1]])).sum().backward()
    torch.testing.assert_close(logits.grad, numbers([-1 / 3, -1 / 3, 2 / 3], [0, 0, 0]))


def test_rows_and_tokens_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shapes disagree: rows \(1, 2\), tokens \(1, 3\)"):
        token_log_probabilities(torch.zeros(2, 3), torch.zeros(1, 2).long(), torch.zeros(1, 3).long())


def test_margins_compare_what_policy_and_reference_say_of_both_answers():
    # D(y+) = -1 + 2 = 1; D(y-) = -4 + 3 = -1 and -5 + 7 = 2: margins 2 and -1.
    margins = reward_margins(numbers([-1, -4, -5]), numbers([-2, -3, -7]))
    assert margins.tolist() == [[2, -1]]


def test_dpo_worked_by_hand():
    # Margin 2, beta .5: -log sigmoid(1) = log(1 + e^-1) = log 1.367879 = .313262.
    loss = dpo_loss(numbers([-1, -4]), numbers([-2, -3]), beta=0.5)
    assert loss.item() == pytest.approx(0.313262, abs=1e-6)


def test_sdpo_worked_by_hand():
    # Margins 2 and -1, beta 1: log(e^-2 + e^1) = log 2.853617 = 1.048587; softplus = log(1 + 2.853617) = 1.349012.
    loss = sdpo_loss(numbers([-1, -4, -5]), numbers([-2, -3, -7]), beta=1.0)
    assert loss.item() == pytest.approx(1.349012, abs=1e-6)


def test_rosepo_worked_by_hand():
    # Margin 2, beta .5, e .25: .75 log(1 + e^-1) + .25 log(1 + e^1) = .75 * .313262 + .25 * 1.313262 = .563262.
    loss = rosepo_loss(numbers([-1, -4]), numbers([-2, -3]), numbers([0.25]), beta=0.5)
    assert loss.item() == pytest.approx(0.563262, abs=1e-6)


@pytest.mark.parametrize("loss", [dpo_loss, sdpo_loss])
def test_a_policy_equal_to_its_reference_is_undecided(loss):
    # All D are 0. One rejected answer: log 2; for S-DPO K of them: log(1 + K).
    same, three_rejected = numbers([-3, -8], [-1, -2]), numbers([-3, -8, -9, -4])
    assert loss(same, same, beta=0.7).item() == pytest.approx(math.log(2))
    assert sdpo_loss(three_rejected, three_rejected, beta=0.7).item() == pytest.approx(math.log(4))


def test_sdpo_with_one_rejected_answer_is_dpo():
    for seed in range(10):
        policy, reference = random_pair(seed, rejected=1)
        policy.requires_grad_()
        values = [loss(policy, reference, beta=0.3) for loss in (sdpo_loss, dpo_loss)]
        slopes = [torch.autograd.grad(value, policy)[0] for value in values]
        torch.testing.assert_close(values[0], values[1])
        torch.testing.assert_close(slopes[0], slopes[1])


def test_rosepo_without_smoothing_is_dpo_and_with_full_smoothing_its_reverse():
    policy, reference = random_pair(0)
    zero = torch.zeros(5, 3, dtype=torch.float64)
    torch.testing.assert_close(rosepo_loss(policy, reference, zero, beta=0.3), dpo_loss(policy, reference, beta=0.3))
    margins = reward_margins(policy, reference)
    torch.testing.assert_close(
        rosepo_loss(policy, reference, zero + 1, beta=0.3), torch.log(1 + torch.exp(0.3 * margins)).mean()
    )


def test_losses_equal_the_slow_references():
    for seed in range(10):
        policy, reference = random_pair(seed)
        smoothing = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        dpo, sdpo, rosepo = [], [], []
        for n in range(5):
            margins = [0.4 * reference_margin(policy, reference, n, d) for d in range(3)]
            dpo += [-math.log(sigmoid(m)) for m in margins]
            sdpo.append(-math.log(sigmoid(-math.log(sum(math.exp(-m) for m in margins)))))
            for d, m in enumerate(margins):
                e = float(smoothing[n, d])
                rosepo.append(-(1 - e) * math.log(sigmoid(m)) - e * math.log(sigmoid(-m)))
        for fast, slow in (
            (dpo_loss(policy, reference, beta=0.4), dpo),
            (sdpo_loss(policy, reference, beta=0.4), sdpo),
            (rosepo_loss(policy, reference, smoothing, beta=0.4), rosepo),
        ):
            assert fast.item() == pytest.approx(sum(slow) / len(slow))


@pytest.mark.parametrize("loss", [dpo_loss, sdpo_loss])
def test_losses_stay_finite_where_exponentials_overflow(loss):
    # Margin -2000: the loss is beta * 2000 in the limit; with margin +2000 it is 0.
    assert loss(numbers([-2000, 0]), numbers([0, 0]), beta=1.0).item() == pytest.approx(2000)
    assert loss(numbers([0, -2000]), numbers([0, 0]), beta=1.0).item() == pytest.approx(0)


def test_the_chosen_answer_is_pulled_up_the_rejected_ones_down_and_the_reference_left_alone():
    policy, reference = random_pair(3)
    smoothing = torch.full((5, 3), 0.2, dtype=torch.float64, requires_grad=True)
    policy.requires_grad_()
    reference.requires_grad_()
    for loss in (dpo_loss(policy, reference, beta=1.0), sdpo_loss(policy, reference, beta=1.0)):
        (slope,) = torch.autograd.grad(loss, policy, retain_graph=True)
        assert (slope[:, 0] < 0).all()
        assert (slope[:, 1:] > 0).all()
        # Only differences count: a prompt's slopes cancel.
        torch.testing.assert_close(slope.sum(1), torch.zeros(5, dtype=torch.float64))
        assert torch.autograd.grad(loss, reference, allow_unused=True) == (None,)
    loss = rosepo_loss(policy, reference, smoothing, beta=1.0)
    assert torch.autograd.grad(loss, (reference, smoothing), allow_unused=True) == (None, None)


def test_rosepo_pulls_only_until_the_margin_says_what_the_oracle_says():
    # d/dm = -(1 - e) sigmoid(-m) + e sigmoid(m) = 0 at sigmoid(m) = 1 - e; e = .2: m = ln 4. Below it up, above down.
    for margin, sign in ((math.log(4) - 1, -1), (math.log(4), 0), (math.log(4) + 1, 1)):
        policy = numbers([margin, 0]).requires_grad_()
        rosepo_loss(policy, numbers([0, 0]), numbers([0.2]), beta=1.0).backward()
        assert round(float(policy.grad[0, 0]), 9) * sign > 0 or (sign == 0 and abs(float(policy.grad[0, 0])) < 1e-12)


def test_the_hardest_rejected_answer_takes_the_largest_share_of_sdpos_gradient():
    # Shares are softmax(-beta margin): margins 2 and -1 give e^-2 : e^1 = .0474 : .9526.
    policy = numbers([-1, -4, -5]).requires_grad_()
    sdpo_loss(policy, numbers([-2, -3, -7]), beta=1.0).backward()
    share = policy.grad[0, 1:] / policy.grad[0, 1:].sum()
    torch.testing.assert_close(share, numbers([0.04742587, 0.95257413])[0])


def test_smoothing_is_half_where_the_oracle_is_undecided_and_grows_with_its_disagreement():
    # (s+ - s-) / temperature = 0, 2 / 2 = 1, -2 / 2 = -1: sigmoid(0) = .5, sigmoid(-1) = .268941, sigmoid(1) = .731059.
    smoothing = preference_smoothing(numbers([3, 3, 1]), numbers([3, 1, 3]), temperature=2.0)
    torch.testing.assert_close(smoothing, numbers([0.5, 0.26894142, 0.73105858]))
    # A sharp oracle that agrees leaves plain DPO.
    assert preference_smoothing(numbers([1]), numbers([0]), temperature=1e-3).item() == 0


def test_smoothing_falls_with_the_chosen_score():
    chosen = numbers([0.3, -2]).requires_grad_()
    preference_smoothing(chosen, numbers([1, 1]), temperature=0.5).sum().backward()
    assert (chosen.grad < 0).all()


def test_rewards_worked_by_hand():
    # Discounts 1, 1/log2(3) = .630930, 1/2; sum 2.130930; shares .469279, .296082, .234639. Target second: misses
    # first and third cost their shares. Without the target nothing is lost or won.
    rewards = group_rewards(torch.tensor([[False, True, False], [False, False, False]]))
    expected = torch.tensor([[-0.469279, 1.0, -0.234639], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(rewards, expected, rtol=0, atol=1e-6)


@settings(max_examples=50)
@given(st.integers(2, 20), st.data())
def test_rewards_equal_the_slow_reference(size, data):
    target = data.draw(st.none() | st.integers(0, size - 1))
    discounts = [1 / math.log2(i + 2) for i in range(size)]
    slow = [
        1.0 if i == target else (-discounts[i] / sum(discounts) if target is not None else 0.0) for i in range(size)
    ]
    hit = torch.tensor([[i == target for i in range(size)]])
    torch.testing.assert_close(group_rewards(hit)[0], torch.tensor(slow), rtol=0, atol=1e-6)


def test_rewards_are_float32_whatever_the_run_computes_in(half_by_default):
    hit = torch.tensor([[False, True, False]])
    discounts = [1 / math.log2(rank + 2) for rank in range(3)]
    expected = [-discounts[0] / sum(discounts), 1, -discounts[2] / sum(discounts)]
    assert group_rewards(hit)[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_advantages_worked_by_hand():
    # Mean 1, deviations (-1, 0, 1), sample variance 2 / 2 = 1: (-1, 0, 1) / 1.0001.
    advantages = group_advantages(numbers([0, 1, 2]))
    torch.testing.assert_close(advantages, numbers([-1, 0, 1]) / 1.0001)


def test_equal_rewards_are_no_advantage():
    assert group_advantages(numbers([0.7, 0.7, 0.7])).abs().max() < 1e-9


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="a group of 1 answers has nothing to compare"):
        group_advantages(numbers([1]))


def test_group_relative_loss_worked_by_hand():
    # Answer one, A = 2: tokens lp (-1, -2), lr (-1, -2 + ln 2): token losses -2 and -2 + .5 (2 - ln 2 - 1) = -1.846574;
    # mean -1.923287. Answer two, A = -1: one token, lp = lr: +1. Mean of the answers -.461643.
    policy, reference = numbers([[-1, -2], [-3, 0]]), numbers([[-1, -2 + math.log(2)], [-3, 0]])
    present = torch.tensor([[[True, True], [True, False]]])
    loss = group_relative_loss(policy, reference, numbers([2, -1]), present, kl_weight=0.5)
    assert loss.item() == pytest.approx(-0.461643, abs=1e-6)


@pytest.mark.parametrize("filler", [7.0, -math.inf, math.nan])
def test_what_stands_at_padding_changes_neither_loss_nor_gradient(filler):
    # The answers worked by hand above.
    policy, reference = (
        numbers([[-1, -2], [-3, filler]]).requires_grad_(),
        numbers([[-1, -2 + math.log(2)], [-3, filler]]),
    )
    present = torch.tensor([[[True, True], [True, False]]])
    loss = group_relative_loss(policy, reference, numbers([2, -1]), present, kl_weight=0.5)
    assert loss.item() == pytest.approx(-0.461643, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, policy)
    # -A / tokens / answers, and of the second token .5 (1 - 2) more in its place: -2/4, -2.5/4, 1/2, and none.
    torch.testing.assert_close(gradient, numbers([[-0.5, -0.625], [0.5, 0]]))


def test_group_relative_loss_equals_the_slow_reference():
    generator = torch.Generator().manual_seed(1)
    policy, reference = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    advantages = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    present = torch.arange(5) < torch.randint(1, 6, (3, 4, 1), generator=generator)
    total = 0.0
    for n in range(3):
        for g in range(4):
            tokens = []
            for t in range(5):
                if present[n, g, t]:
                    gap = float(reference[n, g, t] - policy[n, g, t])
                    tokens.append(-(float(advantages[n, g]) - 0.2 * (math.exp(gap) - gap - 1)))
            total += sum(tokens) / len(tokens) / 12
    fast = group_relative_loss(policy, reference, advantages, present, kl_weight=0.2)
    assert fast.item() == pytest.approx(total)


def test_group_relative_gradient_is_the_advantage_on_policy_and_nothing_in_the_reference():
    # With lp = lr the divergence is at its minimum: d/dlp = -A / (tokens * answers) = -A / 4.
    policy = numbers([[-1, -2], [-3, -4]]).requires_grad_()
    reference = policy.detach().clone().requires_grad_()
    advantages = numbers([2, -1]).requires_grad_()
    present = torch.ones(1, 2, 2, dtype=torch.bool)
    loss = group_relative_loss(policy, reference, advantages, present, kl_weight=0.5)
    slopes = torch.autograd.grad(loss, (policy, reference, advantages), allow_unused=True)
    torch.testing.assert_close(slopes[0], numbers([[-0.5, -0.5], [0.25, 0.25]]))
    assert slopes[1:] == (None, None)


def test_divergence_pulls_the_policy_towards_the_reference():
    # No advantage; policy below the reference in one token and above it in the other.
    policy = numbers([[-3, -1], [-3, -1]]).requires_grad_()
    present = torch.ones(1, 2, 2, dtype=torch.bool)
    group_relative_loss(policy, policy.detach() * 0 - 2, numbers([0, 0]), present, kl_weight=1.0).backward()
    assert (policy.grad[..., 0] < 0).all()
    assert (policy.grad[..., 1] > 0).all()


def test_weight_zero_needs_no_reference_and_equals_any():
    policy, present = numbers([[-1, -2], [-3, -4]]), torch.ones(1, 2, 2, dtype=torch.bool)
    without = group_relative_loss(policy, None, numbers([2, -1]), present, kl_weight=0.0)
    assert torch.equal(without, group_relative_loss(policy, policy - 1, numbers([2, -1]), present, kl_weight=0.0))


def test_bad_arguments_are_named():
    one, two = torch.zeros(2, 2), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"policy \(2, 2\), reference \(2, 3\); need \(N, 1 \+ K\) twice"):
        dpo_loss(one, two, beta=1.0)
    with pytest.raises(ValueError, match=r"with K >= 1"):
        sdpo_loss(one[:, :1], one[:, :1], beta=1.0)
    for loss in (dpo_loss, sdpo_loss):
        with pytest.raises(ValueError, match="beta=0 must be positive"):
            loss(one, one, beta=0)
    with pytest.raises(ValueError, match=r"smoothing has the shape \(2, 2\); need \(N, K\) = \(2, 1\)"):
        rosepo_loss(one, one, one, beta=1.0)
    with pytest.raises(ValueError, match="temperature=0 must be positive"):
        preference_smoothing(one, one, temperature=0)
    present = torch.ones(2, 2, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"advantages \(2, 3\); need \(N, G, M\) twice"):
        group_relative_loss(present.float(), None, two, present, kl_weight=0.0)
    with pytest.raises(ValueError, match="kl_weight=0.1 must not be negative, and needs a reference"):
        group_relative_loss(present.float(), None, one, present, kl_weight=0.1)
