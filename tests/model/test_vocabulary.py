"""Where the rows of new tokens start."""

import numpy as np
import pytest
import torch

from src.launch.errors import InputError
from src.model.adapters import save_model
from src.model.causal_lm import from_pretrained, from_scratch
from src.model.vocabulary import start_rows
from tests.model.architectures import LORA

VOCABULARY = ["<a_0>", "<a_1>", "<b_0>"]
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.0, "max_length": 64}


@pytest.mark.parametrize("shared", [0.0, 5.0])  # from scratch, pre-trained
def test_rows_start_as_the_centred_vectors_turned_around_their_mean_as_far_as_rows_lie(shared):
    weight, vectors = torch.randn(10, 6) + shared, np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    before, rows = weight.clone(), torch.tensor([2, 3, 7, 9])
    start_rows(weight, rows, vectors, seed=1)
    centred = torch.nn.functional.normalize(torch.from_numpy(vectors - vectors.mean(0)))
    mean = before[rows].mean(0)
    distance = (before[rows] - mean).norm(dim=1).mean()
    around = weight[rows] - mean
    torch.testing.assert_close(around @ around.T, distance**2 * centred @ centred.T, rtol=1e-4, atol=1e-4)
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


def test_rows_start_near_the_mean_of_their_texts_and_without_texts_around_the_mean_of_all(tmp_path):
    save_model(from_scratch([], **SIZES, seed=0), tmp_path)
    texts = [["ab", "c"], ["c"], []]
    settings = {"name": str(tmp_path), "dtype": "float32", "gradient_checkpointing": False, "seed": 1}
    for lora in (None, LORA):
        model = from_pretrained(VOCABULARY, texts, lora=lora, new_rows="titles", **settings)
        other = from_pretrained(VOCABULARY, lora=lora, **settings)
        rows, head = (part.weight for part in (model.causal_network.get_input_embeddings(), model.read_head()))
        known, ids = rows[: -len(VOCABULARY)], model.item_token_ids
        of = {text: known[model.tokenizer(f" {text}").input_ids].mean(0) for text in ("ab", "c")}
        noise = 0.02 * known.std(0).mean()
        for place, expected in enumerate([(of["ab"] + of["c"]) / 2, of["c"]]):
            for matrix in (rows, head):
                assert 0 < (matrix[ids[place]] - expected).abs().max() < 5 * noise
        assert torch.equal(rows[ids[2]], other.causal_network.get_input_embeddings().weight[ids[2]])


def test_a_row_starts_from_the_letters_of_a_text_that_spells_a_new_token(tmp_path):
    save_model(from_scratch([], **SIZES, seed=0), tmp_path)
    settings = {"name": str(tmp_path), "dtype": "float32", "gradient_checkpointing": False, "seed": 1, "lora": None}
    model = from_pretrained(VOCABULARY, [["<a_1>"], ["</s>"], []], new_rows="titles", **settings)
    rows, ids = model.causal_network.get_input_embeddings().weight, model.item_token_ids
    known = rows[: -len(VOCABULARY)]
    for place, text in enumerate(("<a_1>", "</s>")):
        letters = torch.tensor(model.tokenizer.convert_tokens_to_ids(["Ġ", *text]))  # Ġ is how bytes name a space
        assert 0 < (rows[ids[place]] - known[letters].mean(0)).abs().max() < 0.1 * known.std(0).mean()


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_item_tokens_are_read_and_predicted_by_the_vectors_that_they_start_from(tmp_path, lora, tied):
    saved = from_scratch([], **SIZES, seed=0)
    if not tied:
        saved.causal_network.config.tie_word_embeddings = False
        saved.causal_network.lm_head.weight = torch.nn.Parameter(torch.randn_like(saved.causal_network.lm_head.weight))
    save_model(saved, tmp_path)
    settings = {"name": str(tmp_path), "dtype": "float32", "gradient_checkpointing": False, "seed": 1}
    model, vectors = from_pretrained(VOCABULARY, lora=lora, **settings), np.eye(3, dtype=np.float32)
    ids = model.item_token_ids
    before = model.causal_network.get_input_embeddings()(ids).detach()
    model.start_item_tokens(vectors, seed=1)
    read = model.causal_network.get_input_embeddings()(ids)
    predicted = model.read_head()(torch.eye(SIZES["hidden_size"])).T[ids]
    centred = torch.nn.functional.normalize(torch.eye(3) - 1 / 3)
    mean = before.mean(0)
    distance = (before - mean).norm(dim=1).mean()
    torch.testing.assert_close((read - mean) @ (read - mean).T, distance**2 * centred @ centred.T)
    ways = [torch.nn.functional.normalize(rows - rows.mean(0)) for rows in (predicted, read)]
    torch.testing.assert_close(*ways)
    read.sum().backward()
    assert sum(bool(weight.grad is not None and weight.grad.any()) for weight in model.parameters()) == 1
