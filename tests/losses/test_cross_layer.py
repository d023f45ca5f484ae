"""The cross-layer losses against arithmetic by hand, limits, gradients and slow references."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from src.losses import cross_layer, known_gradient
from src.losses.cross_layer import distillation_loss, negative_weights, preference_loss, self_hard_negatives


def logits(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def log(*probabilities):
    return torch.tensor([[math.log(p) for p in row] for row in probabilities], dtype=torch.float64)


def reference_negatives(ensemble, final, target, ratio, space, max_negatives):
    """One position and one token at a time, straight from the definition."""
    mask = torch.zeros_like(final, dtype=torch.bool)
    for n in range(len(target)):
        y = int(target[n])
        pbar, p = ensemble[n].softmax(0), final[n].softmax(0)
        chosen = []
        for v in range(final.shape[1]):
            by_probability, by_logit = pbar[v] >= ratio * p[y], ensemble[n, v] >= ratio * final[n, y]
            if v != y and (by_probability if space == "probability" else by_logit):
                chosen.append(v)
        chosen.sort(key=lambda v, n=n: -float(ensemble[n, v]))
        for v in chosen[:max_negatives]:
            mask[n, v] = True
    return mask


def reference_loss(final, target, negatives, weights, strength, form):
    """The formula, a position and a token at a time."""
    total = 0.0
    for n in range(len(target)):
        raised = final[n].clone()
        for v in range(final.shape[1]):
            if negatives[n, v]:
                z, w = final[n, v], weights[n, v]
                shift = {
                    "scaled": strength * w * abs(z),
                    "additive": strength * w,
                    "log": torch.log(1 + strength * w),
                }[form]
                raised[v] = z + shift
        total = total - torch.log(torch.exp(raised[target[n]]) / torch.exp(raised).sum())
    return total / len(target)


def reference_distillation(layers, final, vocabulary, keep):
    """Layer by layer, position by position, token by token."""
    divergences = []
    for layer in layers:
        for n in range(len(final)):
            if keep[n]:
                p = torch.exp(final[n, vocabulary]) / torch.exp(final[n, vocabulary]).sum()
                q = torch.exp(layer[n, vocabulary]) / torch.exp(layer[n, vocabulary]).sum()
                divergences.append(sum(p[v] * torch.log(p[v] / q[v]) for v in range(len(vocabulary))))
    return sum(divergences) / len(divergences)


def random_case(seed, positions=6, vocabulary=40, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    final = torch.randn(positions, vocabulary, generator=generator, dtype=torch.float64) * scale
    ensemble = final + torch.randn(positions, vocabulary, generator=generator, dtype=torch.float64)
    target = torch.randint(vocabulary, (positions,), generator=generator)
    return ensemble, final, target


def test_negatives_are_the_tokens_at_or_above_the_true_tokens_probability():
    # p(y=0) = .3. pbar = (.1, .3, .35, .25): token 1 (.3 >= .3) and token 2 (.35) pass, token 3 (.25) does not.
    ensemble, final = log((0.1, 0.3, 0.35, 0.25)), log((0.3, 0.3, 0.2, 0.2))
    mask = self_hard_negatives(ensemble, final, torch.tensor([0]), ratio=0.9999999)
    assert mask.tolist() == [[False, True, True, False]]


def test_ratio_moves_the_threshold():
    # ratio 0.8: tau = .8 * .3 = .24, so token 3 (.25) passes too; ratio 1.1: tau = .33 leaves token 2 (.35) alone.
    ensemble, final = log((0.1, 0.3, 0.35, 0.25)), log((0.3, 0.3, 0.2, 0.2))
    assert self_hard_negatives(ensemble, final, torch.tensor([0]), ratio=0.8).sum() == 3
    assert self_hard_negatives(ensemble, final, torch.tensor([0]), ratio=1.1).tolist() == [[False, False, True, False]]


def test_logit_space_compares_raw_logits():
    # z(y=0) = 2, ratio .5: threshold 1. zbar = (5, 1, .9): only token 1 passes, the true token never does.
    mask = self_hard_negatives(logits([5, 1, 0.9]), logits([2, 0, 0]), torch.tensor([0]), ratio=0.5, space="logit")
    assert mask.tolist() == [[False, True, False]]


def test_max_negatives_keeps_the_strongest():
    ensemble, final = log((0.1, 0.25, 0.4, 0.25)), log((0.1, 0.3, 0.3, 0.3))
    mask = self_hard_negatives(ensemble, final, torch.tensor([0]), ratio=1.0, max_negatives=1)
    assert mask.tolist() == [[False, False, True, False]]


@pytest.mark.parametrize("space", ["probability", "logit"])
@pytest.mark.parametrize("max_negatives", [None, 3])
def test_negatives_equal_the_slow_reference(space, max_negatives):
    for seed in range(20):
        ensemble, final, target = random_case(seed)
        fast = self_hard_negatives(ensemble, final, target, ratio=0.7, space=space, max_negatives=max_negatives)
        assert torch.equal(fast, reference_negatives(ensemble, final, target, 0.7, space, max_negatives))


def test_weights_are_the_softmax_over_the_negatives_only():
    # exp(0) : exp(ln 3) = 1 : 3 over the two negatives; the unmarked 9 does not take part.
    weights = negative_weights(logits([9, 0, math.log(3)]), torch.tensor([[False, True, True]]))
    torch.testing.assert_close(weights, logits([0, 0.25, 0.75]))


def test_a_row_without_negatives_has_weight_zero():
    weights = negative_weights(logits([1, 2], [1, 2]), torch.tensor([[False, False], [True, False]]))
    assert weights.tolist() == [[0, 0], [1, 0]]


def test_scaled_penalty_worked_by_hand():
    # z = (1, 2, -2), y = 0, both others negative with w = .5, a = 1: z' = (1, 2 + .5*2, -2 + .5*2) = (1, 3, -1).
    # L = -1 + log(e^1 + e^3 + e^-1) = -1 + log(2.71828 + 20.08554 + .36788) = -1 + 3.142932 = 2.142932
    loss = preference_loss(
        logits([1, 2, -2]),
        torch.tensor([0]),
        torch.tensor([[False, True, True]]),
        logits([0, 0.5, 0.5]),
        strength=1.0,
    )
    assert loss.item() == pytest.approx(2.142932, abs=1e-6)


def test_additive_and_log_penalties_worked_by_hand():
    # z = 0 everywhere, y = 0, one negative of weight 1 and a = 1. additive: z' = (0, 1): log(1 + e) = 1.313262;
    # log: z' = (0, log 2): log(1 + 2) = 1.098612.
    arguments = logits([0, 0]), torch.tensor([0]), torch.tensor([[False, True]]), logits([0, 1])
    assert preference_loss(*arguments, strength=1.0, form="additive").item() == pytest.approx(1.313262, abs=1e-6)
    assert preference_loss(*arguments, strength=1.0, form="log").item() == pytest.approx(1.098612, abs=1e-6)


@pytest.mark.parametrize("form", ["scaled", "additive", "log"])
def test_loss_equals_the_slow_reference(form):
    for seed in range(20):
        ensemble, final, target = random_case(seed)
        negatives = self_hard_negatives(ensemble, final, target, ratio=0.5)
        weights = negative_weights(ensemble, negatives)
        fast = preference_loss(final, target, negatives, weights, strength=0.7, form=form)
        torch.testing.assert_close(fast, reference_loss(final, target, negatives, weights, 0.7, form))


def by_autograd(final, target, negatives, weights, strength, form):
    """The loss on whole matrices, with the floor under the negatives' gradient as a term of value 0."""
    penalty = strength * weights * negatives
    shift, slope = (penalty if form == "additive" else penalty.log1p()), torch.ones_like(penalty)
    if form == "scaled":
        shift, slope = penalty * (final.relu() + (-final.detach()).relu()), 1 + penalty * (final.detach() > 0)
    raised = final + shift
    with torch.no_grad():
        floor = (final.softmax(1) - raised.softmax(1) * slope).relu() * negatives
    return F.cross_entropy(raised, target) + (floor * (final - final.detach())).sum() / len(target)


@pytest.mark.parametrize("few", [0, 1], ids=["all entries", "listed entries"])
@pytest.mark.parametrize("entries", [1, 100, 1 << 18])
@pytest.mark.parametrize("form", ["scaled", "additive", "log"])
def test_loss_and_gradient_are_the_same_at_any_density_by_any_way_and_in_any_block(monkeypatch, few, entries, form):
    monkeypatch.setattr(cross_layer, "FEW", few)
    monkeypatch.setitem(known_gradient._ENTRIES, "cpu", entries)
    for seed, density in enumerate((0.0, 0.05, 0.5, 1.0)):
        ensemble, final, target = random_case(seed)
        generator = torch.Generator().manual_seed(seed)
        negatives = torch.rand(final.shape, generator=generator) < density
        negatives.scatter_(1, target[:, None], False)[2] = False
        final.requires_grad_()
        arguments = final, target, negatives, negative_weights(ensemble, negatives)
        fast, slow = preference_loss(*arguments, strength=0.7, form=form), by_autograd(*arguments, 0.7, form)
        torch.testing.assert_close(fast, slow)
        torch.testing.assert_close(*(torch.autograd.grad(3 * loss, final)[0] for loss in (fast, slow)))


def test_tokens_that_a_model_rules_out_stay_out_of_it():
    # Logit -inf and no negative: p = 0, no loss and no gradient; else as without that token.
    final = logits([1, 2, -2, -math.inf]).requires_grad_()
    negatives, weights = torch.tensor([[False, True, True, False]]), logits([0, 0.5, 0.5, 0])
    loss = preference_loss(final, torch.tensor([0]), negatives, weights, strength=1.0)
    assert loss.item() == pytest.approx(2.142932, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, final)
    assert gradient.isfinite().all()
    assert gradient[0, 3] == 0


@pytest.mark.parametrize("few", [0, 1], ids=["all entries", "listed entries"])
@pytest.mark.parametrize("strength", [1.0, 7.0])
def test_a_negative_that_the_final_layer_rules_out_is_raised_to_nothing(monkeypatch, few, strength):
    # z = -inf stays so: of z = (1, 2, -inf) only 2 + strength * .5 * 2 is raised.
    monkeypatch.setattr(cross_layer, "FEW", few)
    final = logits([1, 2, -math.inf]).requires_grad_()
    negatives, weights = torch.tensor([[False, True, True]]), logits([0, 0.5, 0.5])
    loss = preference_loss(final, torch.tensor([0]), negatives, weights, strength=strength)
    assert loss.item() == pytest.approx(math.log(math.e + math.exp(2 + strength)) - 1)
    (gradient,) = torch.autograd.grad(loss, final)
    assert gradient.isfinite().all()
    assert gradient[0, 2] == 0


@pytest.mark.parametrize("few", [0, 1], ids=["all entries", "listed entries"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_all_is_as_of_the_same_numbers_in_double(monkeypatch, dtype, few):
    monkeypatch.setattr(cross_layer, "FEW", few)
    ensemble, final, target = random_case(3, scale=4.0)
    found = []
    for wide in (dtype, torch.float64):
        layer, z = (one.to(dtype).to(wide) for one in (ensemble, final))
        z.requires_grad_()
        negatives = self_hard_negatives(layer, z, target, ratio=0.9, max_negatives=5)
        weights = negative_weights(layer, negatives)
        loss = preference_loss(z, target, negatives, weights, strength=0.7)
        layers = torch.stack([layer, -layer]).requires_grad_()
        taught = distillation_loss(layers, z)
        found.append([negatives.double(), weights, loss, taught, *torch.autograd.grad(loss + taught, [z, layers])])
    assert found[0][1].dtype == torch.float32
    for half, double in zip(*found, strict=True):
        torch.testing.assert_close(half.double(), double.double(), rtol=1e-2, atol=1e-3)
    for half, double in zip(found[0][1:4], found[1][1:4], strict=True):  # gradients are as coarse as what they are of
        torch.testing.assert_close(half.double(), double.double(), rtol=1e-5, atol=1e-5)


def test_strength_zero_is_plain_cross_entropy_to_the_bit():
    ensemble, final, target = random_case(0)
    final.requires_grad_()
    negatives = self_hard_negatives(ensemble, final, target, ratio=0.5)
    assert negatives.any()
    loss = preference_loss(final, target, negatives, negative_weights(ensemble, negatives), strength=0.0)
    plain = F.cross_entropy(final, target)
    assert torch.equal(loss, plain)
    (gradient,) = torch.autograd.grad(loss, final)
    (plain_gradient,) = torch.autograd.grad(plain, final)
    assert torch.equal(gradient, plain_gradient)


def test_without_negatives_any_strength_is_plain_cross_entropy_to_the_bit():
    _, final, target = random_case(1)
    none = torch.zeros_like(final, dtype=torch.bool)
    loss = preference_loss(final, target, none, torch.zeros_like(final), strength=5.0)
    assert torch.equal(loss, F.cross_entropy(final, target))


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**31),
    strength=st.floats(0, 20),
    ratio=st.floats(0.01, 3),
    scale=st.floats(0.01, 10),
    form=st.sampled_from(["scaled", "additive", "log"]),
)
def test_every_negative_is_pushed_down_at_least_as_hard_as_by_cross_entropy(seed, strength, ratio, scale, form):
    ensemble, final, target = random_case(seed, scale=scale)
    final.requires_grad_()
    negatives = self_hard_negatives(ensemble, final, target, ratio=ratio)
    weights = negative_weights(ensemble, negatives)
    loss = preference_loss(final, target, negatives, weights, strength=strength, form=form)
    (gradient,) = torch.autograd.grad(loss, final)
    (plain,) = torch.autograd.grad(F.cross_entropy(final, target), final)
    assert (gradient[negatives] >= plain[negatives] - 1e-12).all()


def test_a_lone_negative_with_negative_logit_is_pushed_down_harder_than_by_cross_entropy():
    # z = (0, -1), y = 0, w = 1, a = .5: z'(1) = -.5. p'(1) = e^-.5 / (1 + e^-.5) = .377541 > p(1) = .268941; a gradient
    # through |z| would have scaled it by (1 - a), to .188770: less than plain cross-entropy.
    final = logits([0, -1]).requires_grad_()
    loss = preference_loss(final, torch.tensor([0]), torch.tensor([[False, True]]), logits([0, 1]), strength=0.5)
    (gradient,) = torch.autograd.grad(loss, final)
    assert gradient[0, 1].item() == pytest.approx(0.377541, abs=1e-6)


def test_with_positive_logits_the_gradient_is_that_of_the_multiplicative_form():
    # One negative and z >= 0: nothing to floor, so autograd through z * (1 + a w) must give the same.
    final = logits([3, 2, 1]).requires_grad_()
    negatives, weights = torch.tensor([[False, True, False]]), logits([0, 1, 0])
    loss = preference_loss(final, torch.tensor([0]), negatives, weights, strength=0.3)
    multiplicative = F.cross_entropy(final * (1 + 0.3 * weights), torch.tensor([0]))
    torch.testing.assert_close(loss, multiplicative)
    torch.testing.assert_close(torch.autograd.grad(loss, final), torch.autograd.grad(multiplicative, final))


def test_masks_and_weights_carry_no_gradient():
    ensemble, final, target = random_case(2)
    ensemble.requires_grad_()
    final.requires_grad_()
    negatives = self_hard_negatives(ensemble, final, target, ratio=0.5)
    weights = negative_weights(ensemble, negatives)
    loss = preference_loss(final, target, negatives, weights, strength=1.0)
    assert not weights.requires_grad
    assert torch.autograd.grad(loss, ensemble, allow_unused=True) == (None,)


def test_distillation_worked_by_hand():
    # Teacher (.5, .5). Layer 1 (.25, .75): .5 ln(.5/.25) + .5 ln(.5/.75) = .5 * .693147 - .5 * .405465 = .143841;
    # layer 2 agrees: 0. Mean over the two layers: .071921.
    loss = distillation_loss(torch.stack([log((0.25, 0.75)), log((0.5, 0.5))]), log((0.5, 0.5)))
    assert loss.item() == pytest.approx(0.071921, abs=1e-6)


def test_distillation_of_the_ensemble_worked_by_hand():
    # Teacher (.5, .5), layers (.25, .75) and (.75, .25). Each is .143841 away; their mean logits are level: 0, and
    # nothing to learn. With (.75, .25) twice the mean is either of them; its gradient is halved for each, .25 / 2.
    final, apart = log((0.5, 0.5)), torch.stack([log((0.25, 0.75)), log((0.75, 0.25))]).requires_grad_()
    assert distillation_loss(apart, final).item() == pytest.approx(0.143841, abs=1e-6)
    loss = distillation_loss(apart.mean(0, keepdim=True), final)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(loss, apart)[0].abs().max() < 1e-12
    alike = torch.stack([log((0.75, 0.25))] * 2).requires_grad_()
    loss = distillation_loss(alike.mean(0, keepdim=True), final)
    assert loss.item() == pytest.approx(0.143841, abs=1e-6)
    expected = torch.tensor([[[0.125, -0.125]]] * 2, dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(loss, alike)[0], expected)


def test_distillation_looks_at_the_vocabulary_only():
    # Token 1's share differs; between tokens 0 and 2 the teacher gives (.5, .5), the layer (.25, .75): .143841 again.
    loss = distillation_loss(log((0.2, 0.2, 0.6))[None], log((0.05, 0.9, 0.05)), vocabulary=torch.tensor([0, 2]))
    assert loss.item() == pytest.approx(0.143841, abs=1e-6)


def test_distillation_leaves_positions_out():
    # Position 1 disagrees, but is not kept; what is left is position 0's .143841, and not half of it.
    layers, final = log((0.25, 0.75), (0.9, 0.1))[None], log((0.5, 0.5), (0.5, 0.5))
    loss = distillation_loss(layers, final, keep=torch.tensor([True, False]))
    assert loss.item() == pytest.approx(0.143841, abs=1e-6)


def test_distillation_equals_the_slow_reference():
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        layers = torch.randn(3, 6, 12, generator=generator, dtype=torch.float64)
        final = torch.randn(6, 12, generator=generator, dtype=torch.float64)
        vocabulary, keep = torch.randperm(12, generator=generator)[:5], torch.tensor([1, 1, 0, 1, 0, 1]).bool()
        fast = distillation_loss(layers, final, vocabulary=vocabulary, keep=keep)
        torch.testing.assert_close(fast, reference_distillation(layers, final, vocabulary, keep))


@pytest.mark.parametrize("layers_too", [False, True])
def test_distillation_leaves_out_what_the_final_layer_rules_out(layers_too):
    # KL((1/2, 1/2, 0) || (1/4, 1/4, 1/2)) = log 2; without the layer's third token both are the same.
    final = log((0.5, 0.5, 1.0)) + logits([0, 0, -math.inf])
    layer = (log((0.25, 0.25, 0.5)) + logits([0, 0, -math.inf if layers_too else 0]))[None].requires_grad_()
    loss = distillation_loss(layer, final)
    assert loss.item() == pytest.approx(0 if layers_too else math.log(2))
    (gradient,) = torch.autograd.grad(loss, layer)
    torch.testing.assert_close(gradient, torch.zeros_like(layer) if layers_too else logits([-0.25, -0.25, 0.5])[None])


def test_a_layer_that_agrees_up_to_a_constant_has_nothing_to_learn():
    _, final, _ = random_case(4)
    layers = torch.stack([final, final + 3]).requires_grad_()
    loss = distillation_loss(layers, final)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(loss, layers)[0].abs().max() < 1e-12


def test_distillation_teaches_the_layers_and_leaves_the_teacher_alone():
    # d KL(p || softmax(z)) / dz = softmax(z) - p; divided by 2 layers and 6 positions.
    layer, final, _ = random_case(5)
    layers = torch.stack([layer, 2 * layer]).requires_grad_()
    final.requires_grad_()
    student, teacher = torch.autograd.grad(distillation_loss(layers, final), (layers, final), allow_unused=True)
    assert teacher is None
    torch.testing.assert_close(student, (layers.softmax(2) - final.softmax(1)) / 12)


def test_distillation_without_a_position_is_zero_and_can_still_be_added_and_differentiated():
    layer, final, _ = random_case(6)
    layers = layer[None].requires_grad_()
    loss = distillation_loss(layers, final, keep=torch.zeros(6, dtype=torch.bool))
    assert loss.item() == 0
    assert torch.equal(torch.autograd.grad(loss, layers)[0], torch.zeros(1, 6, 40, dtype=torch.float64))


def test_bad_arguments_are_named():
    ensemble, final, target = random_case(3)
    negatives = torch.zeros_like(final, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"ratio=0 must be positive"):
        self_hard_negatives(ensemble, final, target, ratio=0)
    with pytest.raises(ValueError, match=r"max_negatives=0 must be at least 1"):
        self_hard_negatives(ensemble, final, target, ratio=1, max_negatives=0)
    with pytest.raises(ValueError, match=r"space='odds' must be"):
        self_hard_negatives(ensemble, final, target, ratio=1, space="odds")
    with pytest.raises(ValueError, match=r"shapes disagree: ensemble_logits \(5, 40\)"):
        self_hard_negatives(ensemble[:5], final, target, ratio=1)
    with pytest.raises(ValueError, match=r"shapes disagree: ensemble_logits \(6, 40\), negatives \(5, 40\)"):
        negative_weights(ensemble, negatives[:5])
    with pytest.raises(ValueError, match=r"strength=-1 must not be negative"):
        preference_loss(final, target, negatives, final, strength=-1)
    with pytest.raises(ValueError, match=r"form='cubic' must be"):
        preference_loss(final, target, negatives, final, strength=1, form="cubic")
    with pytest.raises(ValueError, match=r"weights \(6, 39\)"):
        preference_loss(final, target, negatives, final[:, :39], strength=1)
    with pytest.raises(ValueError, match=r"shapes disagree: layer_logits \(6, 40\), final_logits \(6, 40\), keep None"):
        distillation_loss(final, final)
    with pytest.raises(ValueError, match=r"keep \(5,\); need"):
        distillation_loss(final[None], final, keep=torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"layer_logits holds no layer"):
        distillation_loss(final[:0].view(0, 6, 40), final)
