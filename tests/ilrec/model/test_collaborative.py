"""Collaborative models of every kind read from checkpoints, and refusals of what does not fit."""

import pytest
import torch

from src.ilrec.model.collaborative import load_collaborative_model
from src.launch.errors import InputError
from tests.ilrec.model.test_reward_model import interactions, network


def saved(path, **changes):
    content = {
        "model": network().spec,
        "dataset": "f" * 64,
        "state_dict": {f"model.{name}": weight for name, weight in network().state_dict().items()},
    }
    torch.save({**content, **changes}, path)
    return path


def test_a_checkpoint_comes_back_frozen_and_gives_the_same_states(tmp_path):
    loaded = load_collaborative_model(saved(tmp_path / "a.ckpt"), interactions())
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    items = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded(items), network()(items))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_it_is_read_in_float32_whatever_the_run_computes_in(tmp_path, half_by_default, stored):
    weights = {f"model.{name}": weight.float().add(0.001).to(stored) for name, weight in network().state_dict().items()}
    loaded = load_collaborative_model(saved(tmp_path / "a.ckpt", state_dict=weights), interactions())
    for name, weight in loaded.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, weights[f"model.{name}"].float())


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(InputError, match=r"torn.ckpt is not a checkpoint of this project.*\nTrain one: "):
        load_collaborative_model(torn, interactions())
    with pytest.raises(InputError, match=r"none.ckpt is not a checkpoint"):
        load_collaborative_model(tmp_path / "none.ckpt", interactions())
    llama = saved(tmp_path / "llama.ckpt", model={"kind": "from_scratch"})
    with pytest.raises(InputError, match=r"holds 'from_scratch'; I need one of SASRec, GRU4Rec, Caser, Counting, Pop"):
        load_collaborative_model(llama, interactions())
    older = saved(tmp_path / "older.ckpt", state_dict={"model.embedding": torch.zeros(12, 8)})
    with pytest.raises(InputError, match=r"older.ckpt was written by a version with other weights: .*\n.*Missing key"):
        load_collaborative_model(older, interactions())
    other = saved(tmp_path / "other.ckpt", dataset="0123456789abcdef")
    with pytest.raises(InputError, match=r"trained on the data set 0123456789ab, but this one is three users \(fffff"):
        load_collaborative_model(other, interactions())
