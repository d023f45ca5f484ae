"""Checkpoints in shards, in one process; tests/ilrec/task/test_paper_scale.py has two."""

import os
import pickle

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from src.training.checkpoint import AtomicCheckpointIO
from src.training.sharded import load_weights

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is")


def in_shards(folder):
    """Write a checkpoint in shards and return its path."""
    path = folder / "last.ckpt"
    tensors = {"state_dict": {"a.b": torch.arange(6.0).view(2, 3)}, "optimizer_0": {"a.b": {"step": torch.tensor(7.0)}}}
    save(tensors, storage_writer=FileSystemWriter(folder / "last-1.shards"))
    AtomicCheckpointIO().save_checkpoint({"global_step": 7, "shards": "last-1.shards"}, path)
    return path


def test_weights_are_put_together_without_the_optimisers_state(tmp_path):
    checkpoint = load_weights(in_shards(tmp_path))
    assert checkpoint["global_step"] == 7
    assert checkpoint["state_dict"].keys() == {"a.b"}
    assert checkpoint["state_dict"]["a.b"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_checkpoint_without_shards_is_read_as_it_is(tmp_path):
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"a": torch.ones(2)}}, tmp_path / "best.ckpt")
    assert load_weights(tmp_path / "best.ckpt")["state_dict"]["a"].tolist() == [1, 1]


def test_code_in_a_table_of_contents_is_not_run(tmp_path):
    class Dangerous:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    path = in_shards(tmp_path)
    (tmp_path / "last-1.shards" / ".metadata").write_bytes(pickle.dumps(Dangerous()))
    with pytest.raises(pickle.UnpicklingError, match=r"posix.mkdir has no place in a checkpoint"):
        load_weights(path)
    assert not (tmp_path / "made").exists()


def test_shards_lie_beside_their_checkpoint_and_nowhere_else(tmp_path):
    path = in_shards(tmp_path)
    AtomicCheckpointIO().save_checkpoint({"shards": "../last-1.shards"}, path)
    with pytest.raises(ValueError, match="Invalid name"):
        load_weights(path)
