"""Losses that bring their gradient along, and the blocks that it is computed by."""

import pytest
import torch

from src.losses import known_gradient
from src.losses.known_gradient import row_blocks, with_gradient


def test_the_gradient_is_the_one_given_times_what_comes_after():
    # f = 5 with the gradient (2, -1); of 3 f + f they are 4 times as large, and nothing reaches the given gradient.
    logits, gradient = torch.zeros(2, requires_grad=True), torch.tensor([2.0, -1.0], requires_grad=True)
    value = with_gradient(logits, torch.tensor(5.0), gradient)
    assert value.item() == 5
    found = torch.autograd.grad(3 * value + value, (logits, gradient), allow_unused=True)
    assert found[0].tolist() == [8, -4]
    assert found[1] is None


def test_it_cannot_be_differentiated_twice():
    logits = torch.zeros(2, requires_grad=True)
    value = with_gradient(logits, torch.tensor(5.0), torch.ones(2))
    (gradient,) = torch.autograd.grad(value * value, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_without_gradients_it_is_the_value():
    assert not with_gradient(torch.zeros(2), torch.tensor(5.0), torch.ones(2)).requires_grad


@pytest.mark.parametrize(("entries", "rows"), [(1, [1, 1, 1, 1, 1]), (8, [2, 2, 1]), (100, [5])])
def test_blocks_hold_every_row_once_and_at_least_one(monkeypatch, entries, rows):
    monkeypatch.setitem(known_gradient._ENTRIES, "cpu", entries)
    matrix = torch.arange(20).view(5, 4)
    blocks = [matrix[block] for block in row_blocks(matrix)]
    assert [len(block) for block in blocks] == rows
    assert torch.equal(torch.cat(blocks), matrix)
    assert list(row_blocks(matrix[:0])) == []
