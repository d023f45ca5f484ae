"""Scores and greedy answers of many prompts in one pass against one plain forward pass for each."""

import numpy as np
import pytest
import torch

from src.ilrec.model.decoding import decode_items, greedy_leaves
from src.ilrec.model.responses import response_log_probabilities
from src.ilrec.model.trie import TokenTrie
from src.model.causal_lm import from_scratch

VOCABULARY = [f"<{letter}_{code}>" for letter in "abc" for code in range(4)]
LENGTHS = [7, 3, 5]
# Prompts (sequence, tokens): four beginnings of one sequence, one of the next, two of the last.
ENDS = [(0, 1), (0, 4), (0, 6), (0, 7), (1, 3), (2, 2), (2, 5)]


@pytest.fixture(scope="module")
def model():
    built = from_scratch(
        VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_layers=2,
        num_heads=2,
        dropout=0.0,
        max_length=64,
        seed=3,
    )
    with torch.no_grad():  # sharpen the random model, so that answers differ clearly
        for parameter in built.parameters():
            parameter.mul_(3)
    return built.eval()


def batch(model, side):
    """Sequences of different lengths, padded on one side, and where the prompts in them end."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((3, 8), model.tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        start = 8 - length if side == "left" else 0
        ids[row, start : start + length] = torch.randint(0, 250, (length,), generator=generator)
        mask[row, start : start + length] = 1
    starts = [8 - length if side == "left" else 0 for length in LENGTHS]
    anchor = torch.tensor([row * 8 + starts[row] + end - 1 for row, end in ENDS])
    prompts = [ids[row, starts[row] : starts[row] + end] for row, end in ENDS]
    return ids, mask, anchor, prompts


def one_by_one(model, prompt, response):
    """Log-probability of each token of an unpadded response after an unpadded prompt: one plain forward pass."""
    log_p = model.causal_network(torch.cat([prompt, response])[None]).logits[0].float().log_softmax(-1)
    return torch.stack([log_p[len(prompt) - 1 + t, token] for t, token in enumerate(response)])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("longest", [1, 2, 4])
def test_responses_score_as_if_each_stood_alone_behind_its_prompt(model, side, longest):
    ids, mask, anchor, prompts = batch(model, side)
    generator = torch.Generator().manual_seed(1)
    responses = torch.randint(0, 250, (len(ENDS), 3, longest), generator=generator)
    length = torch.randint(1, longest + 1, (len(ENDS), 3, 1), generator=generator)
    responses[torch.arange(longest) >= length] = -1
    fast = response_log_probabilities(model, ids, mask, anchor, responses)
    for n, prompt in enumerate(prompts):
        for r in range(3):
            alone = one_by_one(model, prompt, responses[n, r][responses[n, r] >= 0])
            torch.testing.assert_close(fast[n, r, : len(alone)], alone, rtol=1e-4, atol=1e-4)
            assert (fast[n, r, len(alone) :] == 0).all()


def test_scores_send_the_gradient_that_separate_passes_send(model):
    ids, mask, anchor, prompts = batch(model, "left")
    responses = torch.randint(0, 250, (len(ENDS), 2, 3), generator=torch.Generator().manual_seed(2))
    weights = torch.randn(len(ENDS), 2, 3, generator=torch.Generator().manual_seed(3))
    parameters = list(model.parameters())
    together = (response_log_probabilities(model, ids, mask, anchor, responses) * weights).sum()
    alone = sum(
        (one_by_one(model, prompt, responses[n, r]) * weights[n, r]).sum()
        for n, prompt in enumerate(prompts)
        for r in range(2)
    )
    slopes, expected = (torch.autograd.grad(total, parameters) for total in (together, alone))
    for one, other in zip(slopes, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_other_responses_change_nothing(model):
    ids, mask, anchor, _ = batch(model, "left")
    responses = torch.randint(0, 250, (len(ENDS), 3, 3), generator=torch.Generator().manual_seed(4))
    changed = responses.clone()
    changed[:, 1:] = (changed[:, 1:] + 7) % 250
    before = response_log_probabilities(model, ids, mask, anchor, responses)[:, 0]
    after = response_log_probabilities(model, ids, mask, anchor, changed)[:, 0]
    torch.testing.assert_close(before, after, rtol=0, atol=1e-6)


def catalogue(count, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.stack(np.unravel_index(rng.permutation(64)[:count], (4, 4, 4)), axis=1)
    return torch.from_numpy(codes + np.array([0, 4, 8]))


@pytest.mark.parametrize("side", ["left", "right"])
def test_greedy_answers_are_those_of_one_beam_from_each_prompt_alone(model, side):
    trie = TokenTrie.build(catalogue(30), vocabulary_size=12)
    ids, mask, anchor, prompts = batch(model, side)
    leaves = greedy_leaves(model, trie, ids, mask, anchor)
    for prompt, leaf in zip(prompts, leaves, strict=True):
        alone = decode_items(model, trie, prompt[None], torch.ones_like(prompt)[None], num_beams=1)
        assert int(alone.leaf[0, 0]) == int(leaf)


def test_an_excluded_answer_is_not_given_though_two_items_share_its_tokens(model):
    tokens = catalogue(20)
    ids, mask, anchor, prompts = batch(model, "left")
    trie = TokenTrie.build(torch.cat([tokens, tokens[:10]]), vocabulary_size=12)
    first = greedy_leaves(model, trie, ids, mask, anchor)
    second = greedy_leaves(model, trie, ids, mask, anchor, excluded_leaf=first)
    assert (first != second).all()
    for prompt, leaf, gone in zip(prompts, second, first, strict=True):
        items = trie.items[trie.first_item[gone] : trie.last_item[gone]][None]
        alone = decode_items(model, trie, prompt[None], torch.ones_like(prompt)[None], num_beams=1, excluded=items)
        assert int(alone.leaf[0, 0]) == int(leaf)


def test_greedy_answers_may_be_shorter_than_others(model):
    # Item 1 ends after two tokens: the first walk finds one of the two items, the second is left with the other.
    trie = TokenTrie.build(torch.tensor([[0, 4, 8], [1, 5, -1]]), vocabulary_size=12)
    ids, mask, anchor, _ = batch(model, "left")
    leaves = greedy_leaves(model, trie, ids, mask, anchor)
    other = greedy_leaves(model, trie, ids, mask, anchor, excluded_leaf=leaves)
    assert (trie.leaf[None] == leaves[:, None]).any(1).all()
    assert (leaves + other == trie.leaf.sum()).all()


def test_padding_does_no_harm_in_half_precision(model):
    ids, mask, anchor, _ = batch(model, "left")
    responses = torch.randint(0, 250, (len(ENDS), 2, 3), generator=torch.Generator().manual_seed(5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = response_log_probabilities(model, ids, mask, anchor, responses)
    full = response_log_probabilities(model, ids, mask, anchor, responses)
    assert (scores - full).abs().max() < 0.1 * full.abs().max()
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(scores.sum(), list(model.parameters())))
