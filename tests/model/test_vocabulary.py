"""Where the rows of new tokens start."""

import numpy as np
import pytest
import torch

from src.launch.errors import InputError
from src.model.vocabulary import start_rows


def test_rows_start_as_the_centred_vectors_turned_and_of_the_length_that_rows_have():
    weight, vectors = torch.randn(10, 6), np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    before, rows = weight.clone(), torch.tensor([2, 3, 7, 9])
    start_rows(weight, rows, vectors, seed=1)
    centred = torch.nn.functional.normalize(torch.from_numpy(vectors - vectors.mean(0)))
    length = before[rows].norm(dim=1).mean()
    torch.testing.assert_close(weight[rows] @ weight[rows].T, length**2 * centred @ centred.T)
    others = torch.tensor([0, 1, 4, 5, 6, 8])
    assert torch.equal(weight[others], before[others])


def test_a_row_without_a_vector_stays_as_it_is():
    weight, vectors = torch.randn(3, 4), np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    before = weight.clone()
    start_rows(weight, torch.arange(3), vectors, seed=1)
    assert torch.equal(weight[1], before[1])
    assert not torch.equal(weight[0], before[0])


def test_vectors_wider_than_the_model_are_refused_with_what_to_type():
    with pytest.raises(InputError, match=r"16 dimensions, and the model is 8 wide[^$]*tokenizer.start.dimensions=8"):
        start_rows(torch.zeros(2, 8), torch.arange(2), np.ones((2, 16), dtype=np.float32), seed=1)
