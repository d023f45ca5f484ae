"""Attention of few queries, and of examples that share a row, against transformers' own."""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from src.model import attention
from src.model.attention import additive_mask, attend, attend_causally, attend_to_what_is_seen


def inputs(heads, key_heads, queries, tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(2, heads, queries, 8, generator=generator)
    key, value = (torch.randn(2, key_heads, tokens, 8, generator=generator) for _ in range(2))
    seen = torch.rand(2, 1, queries, tokens, generator=generator) < 0.6
    seen[..., -1] = True
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    layer = SimpleNamespace(num_key_value_groups=heads // key_heads, is_causal=True)
    return layer, query, key, value, mask


@pytest.mark.parametrize("queries", [1, 2, 20, 32, 33])
@pytest.mark.parametrize(("heads", "key_heads"), [(6, 2), (4, 1), (3, 3)])
def test_few_queries_of_heads_that_share_keys_see_what_they_would_each_by_itself(heads, key_heads, queries):
    layer, query, key, value, mask = inputs(heads, key_heads, queries, 40)
    expected, _ = sdpa_attention_forward(layer, query, key, value, mask, scaling=0.3)
    found, weights = attend(layer, query, key, value, mask, scaling=0.3)
    assert found.shape == (2, queries, heads, 8)
    assert weights is None
    torch.testing.assert_close(found, expected)


def test_a_query_without_a_mask_sees_all_and_several_are_left_to_transformers():
    for queries in (1, 5):
        layer, query, key, value, _ = inputs(6, 2, queries, 5 if queries == 5 else 40)
        expected, _ = sdpa_attention_forward(layer, query, key, value, None)
        torch.testing.assert_close(attend(layer, query, key, value, None)[0], expected)


def test_gradients_are_those_of_transformers():
    layer, *tensors, mask = inputs(6, 2, 3, 10)
    found = []
    for one in (attend, sdpa_attention_forward):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        one(layer, *leaves, mask)[0].square().sum().backward()
        found.append([leaf.grad for leaf in leaves])
    for own, expected in zip(*found, strict=True):
        torch.testing.assert_close(own, expected)


def an_example(heads, key_heads, tokens, dtype=torch.float32, width=8):
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(1, number, tokens, width) for number in (heads, key_heads, key_heads)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def by_definition(query, key, value, scale):
    """Softmax over all scores of the same and earlier tokens, with the key heads repeated."""
    key, value = (one.repeat_interleave(query.shape[1] // one.shape[1], 1) for one in (key, value))
    later = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).triu(1)
    scores = (scale * query @ key.mT).masked_fill(later, -torch.inf)
    return (scores.softmax(3) @ value).transpose(1, 2)


def test_two_tokens_by_hand():
    query, key = torch.tensor([[[[5.0], [1.0]]]]), torch.tensor([[[[0.0], [3.0]]]])
    value = torch.tensor([[[[2.0], [6.0]]]])
    # The first token sees itself; the second weighs 1 : exp(2 x 3).
    expected = [2.0, (2 + 6 * math.exp(6)) / (1 + math.exp(6))]
    assert attend_causally(query, key, value, 2.0)[0, :, 0, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("tokens", [1, 2, 127, 128, 129, 300])
@pytest.mark.parametrize(("heads", "key_heads"), [(6, 2), (4, 1), (3, 3)])
def test_an_example_and_its_gradients_are_those_by_definition(heads, key_heads, tokens):
    example = an_example(heads, key_heads, tokens)
    towards = torch.randn(1, tokens, heads, 8, generator=torch.Generator().manual_seed(1))
    found, expected = attend_causally(*example, 0.4), by_definition(*example, 0.4)
    torch.testing.assert_close(found, expected)
    gradients = zip(
        torch.autograd.grad(found, example, towards), torch.autograd.grad(expected, example, towards), strict=True
    )
    for own, of_definition in gradients:
        torch.testing.assert_close(own, of_definition, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_finite_differences(monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK", 3)
    example = an_example(4, 2, 7, torch.float64, width=2)
    assert torch.autograd.gradcheck(lambda *parts: attend_causally(*parts, 0.7), example)


def test_in_bfloat16_it_is_as_near_to_float32_as_the_fused_kernel():
    example = an_example(9, 3, 400, width=64)
    exact = by_definition(*example, 0.125)
    half = [one.bfloat16() for one in example]
    layer = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    fused = sdpa_attention_forward(layer, *half, None, scaling=0.125)[0]
    own = attend_causally(*half, 0.125)
    assert own.dtype == torch.bfloat16
    assert (own - exact).norm() < 2 * (fused - exact).norm()


def test_mixed_precision_computes_in_its_type_and_gives_gradients_in_that_of_the_input():
    example = an_example(4, 2, 50)
    with torch.autocast("cpu", torch.bfloat16):
        output = attend_causally(*example, 0.4)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, attend_causally(*(one.bfloat16() for one in example), 0.4))
    output.float().sum().backward()
    assert all(one.grad.dtype == torch.float32 for one in example)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_examples_of_a_row_are_attended_to_one_by_one_with_dropout_by_transformers(dropout):
    lengths, example = [3, 200, 1], an_example(6, 2, 204)
    layer = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    torch.manual_seed(0)
    found, weights = attend(layer, *example, None, example_lengths=lengths, dropout=dropout)
    parts = zip(*(one.split(lengths, 2) for one in example), strict=True)
    torch.manual_seed(0)
    expected = [sdpa_attention_forward(layer, *part, None, dropout=dropout)[0] for part in parts]
    assert weights is None
    torch.testing.assert_close(found, torch.cat(expected, 1))


@pytest.mark.parametrize("scores", [1, 10**9])
@pytest.mark.parametrize("queries", [1, 20, 300])
@pytest.mark.parametrize(("heads", "key_heads"), [(6, 2), (3, 3)])
def test_what_is_seen_is_attended_to_as_by_transformers(heads, key_heads, queries, scores, monkeypatch):
    monkeypatch.setattr(attention, "_SCORES", scores)
    monkeypatch.setattr(attention, "_SCORES_OF_FEW", scores)
    layer, query, key, value, mask = inputs(heads, key_heads, queries, 310)
    query = query.transpose(1, 2).contiguous().transpose(1, 2)  # as layers give them
    expected, _ = sdpa_attention_forward(layer, query, key, value, mask, scaling=0.3)
    held = torch.cat([key, key], 2), torch.cat([value, value, value], 2)  # as a cache holds them, with room behind
    front = torch.cat([key[:, :, :7], key], 2), torch.cat([value[:, :, :7], value], 2)  # or with other tokens before
    for keys, values in (
        (key, value),
        [one[:, :, :310] for one in held],
        (key, held[1][:, :, :310]),
        [one[:, :, 7:] for one in front],
    ):
        torch.testing.assert_close(attend_to_what_is_seen(query, keys, values, mask, 0.3), expected)
        torch.testing.assert_close(attend_to_what_is_seen(query, keys, values, mask == 0, 0.3), expected)


def test_room_behind_keys_is_taken_along_and_nothing_else():
    held = torch.zeros(4, 3, 20, 8)
    rows = held[1:3, :, :12]
    whole = attention._with_room(rows)
    assert whole.shape == (2, 3, 20, 8)
    assert whole.data_ptr() == rows.data_ptr()
    for other in (held, held[:, :, 5:], held[:, 1:], held[..., 2:], torch.zeros(2, 20, 3, 8).transpose(1, 2)):
        assert attention._with_room(other).shape == other.shape


def test_bfloat16_is_attended_to_by_blocks_unless_gradients_or_dropout_are_wanted(monkeypatch):
    layer, *tensors = inputs(6, 2, 40, 50)
    query, key, value, mask = (one.bfloat16() for one in tensors)
    expected = attend_to_what_is_seen(query, key, value, mask, 8**-0.5)
    fused = sdpa_attention_forward(layer, query, key, value, mask)[0]
    assert not torch.equal(expected, fused)  # they round differently, which tells them apart
    torch.testing.assert_close(expected, fused, rtol=0.05, atol=0.02)
    assert torch.equal(attend(layer, query, key, value, mask)[0], expected)
    assert torch.equal(attend(layer, query.requires_grad_(), key, value, mask)[0], fused)


def test_a_query_that_sees_nothing_gives_numbers():
    _, query, key, value, _ = inputs(6, 2, 3, 10)
    nothing = torch.zeros(2, 1, 3, 10, dtype=torch.bool)
    mean = value.repeat_interleave(3, 1).mean(2, keepdim=True).transpose(1, 2).expand(2, 3, 6, 8)
    torch.testing.assert_close(attend_to_what_is_seen(query, key, value, nothing, 0.3), mean)
    added = additive_mask(nothing[:, 0], torch.float32)
    torch.testing.assert_close(attend_to_what_is_seen(query, key, value, added, 0.3), mean)
