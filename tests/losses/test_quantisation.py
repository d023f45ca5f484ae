"""The losses of residual quantisation against arithmetic by hand, limits, gradients and slow references."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.losses.quantisation import quantisation_loss, squared_distances, straight_through


def numbers(*rows):
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


def random_case(seed, levels=3, items=5, width=4):
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(items, width, generator=generator, dtype=torch.float64, requires_grad=True)
    chosen = torch.randn(levels, items, width, generator=generator, dtype=torch.float64, requires_grad=True)
    return latent, chosen


def reference_loss(latent, chosen, commitment):
    """The formula, a level, an item and a dimension at a time."""
    terms = []
    for n in range(len(latent)):
        residual = latent[n]
        for level in range(len(chosen)):
            for r, e in zip(residual, chosen[level, n], strict=True):
                terms.append((r.detach() - e) ** 2 + commitment * (r - e.detach()) ** 2)
            residual = residual - chosen[level, n].detach()
    return sum(terms) / len(terms)


def test_squared_distances_by_hand():
    # (1, 2) to (1, 0): 0 + 4; to (4, 6): 9 + 16.
    assert squared_distances(numbers([1, 2]), numbers([1, 0], [4, 6])).tolist() == [[4, 25]]


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_squared_distances_equal_a_pair_at_a_time(seed):
    vectors, chosen = random_case(seed)
    pairs = torch.stack([torch.stack([sum((v - c) ** 2) for c in chosen[0]]) for v in vectors])
    torch.testing.assert_close(squared_distances(vectors, chosen[0]), pairs)


def test_a_vector_is_at_no_negative_distance_from_itself():
    # Outside float64, |v|^2 + |v|^2 - 2 v.v of large vectors ends a little below 0.
    vectors = torch.randn(50, 30, generator=torch.Generator().manual_seed(0)) * 1e3
    assert squared_distances(vectors, vectors).min() >= 0


def test_the_decoder_sees_the_codes_and_its_gradient_reaches_the_latent_unchanged():
    latent, quantised = numbers([1, 2]), numbers([1.5, 0])
    passed = straight_through(latent, quantised)
    assert passed.tolist() == [[1.5, 0]]
    (passed * torch.tensor([3.0, -7.0])).sum().backward()
    assert latent.grad.tolist() == [[3, -7]]
    assert quantised.grad is None


def test_two_levels_by_hand():
    # Latent (3, 0). Level 1 takes (2, 0): residual (3, 0), difference (1, 0), squares sum to 1. Level 2 takes (0, 1):
    # residual (1, 0), difference (1, -1), squares sum to 2. Mean over 2 levels x 1 item x 2 dimensions: 3 / 4, once
    # for the codes and .25 times for the commitment: .75 * 1.25 = .9375.
    loss = quantisation_loss(numbers([3, 0]), torch.stack([numbers([2, 0]), numbers([0, 1])]), commitment=0.25)
    assert loss.item() == 0.9375


def test_gradients_by_hand():
    # As above. Codes: 2 (e - r) / 4: level 1 (-.5, 0), level 2 (-.5, .5). Latent: .25 * 2 / 4 * sum of both levels'
    # differences (1, 0) + (1, -1) = .125 * (2, -1).
    latent, first, second = numbers([3, 0]), numbers([2, 0]), numbers([0, 1])
    quantisation_loss(latent, torch.stack([first, second]), commitment=0.25).backward()
    assert first.grad.tolist() == [[-0.5, 0]]
    assert second.grad.tolist() == [[-0.5, 0.5]]
    assert latent.grad.tolist() == [[0.25, -0.125]]


def test_without_commitment_the_encoder_is_left_alone():
    latent, chosen = random_case(0)
    quantisation_loss(latent, chosen, commitment=0.0).backward()
    assert latent.grad.abs().max() == 0
    assert chosen.grad.abs().min() > 0


def test_codes_that_hit_their_residuals_cost_nothing():
    latent = numbers([3, 0])
    chosen = torch.stack([numbers([2, 1]), numbers([1, -1])])
    # Level 1 misses by (1, -1), level 2 by nothing: 2 / 4, twice.
    assert quantisation_loss(latent, chosen, commitment=1.0).item() == 1
    assert quantisation_loss(latent, latent[None], commitment=1.0).item() == 0


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.floats(0, 2))
def test_the_loss_and_its_gradients_equal_the_slow_reference(seed, commitment):
    results = []
    for function in (quantisation_loss, reference_loss):
        latent, chosen = random_case(seed)
        loss = function(latent, chosen, commitment=commitment)
        loss.backward()
        results.append((loss.detach(), latent.grad, chosen.grad))
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize("chosen", [torch.zeros(2, 3, 5), torch.zeros(3, 4), torch.zeros(0, 3, 4)])
def test_shapes_that_disagree_are_refused(chosen):
    with pytest.raises(ValueError, match=r"shapes disagree: latent \(3, 4\), chosen .*need \(N, D\) and \(L, N, D\)"):
        quantisation_loss(torch.zeros(3, 4), chosen, commitment=0.25)


def test_a_negative_commitment_is_refused():
    with pytest.raises(ValueError, match="commitment=-1 must not be negative"):
        quantisation_loss(torch.zeros(3, 4), torch.zeros(1, 3, 4), commitment=-1)
