"""Attention of few queries against transformers' own; that of many examples is tested with the models."""

from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from src.model.attention import attend


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
