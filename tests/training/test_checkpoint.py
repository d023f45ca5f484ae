import errno
import os

import pytest
import torch

from src.launch.errors import InputError
from src.training.checkpoint import AtomicCheckpointIO


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.arange(3), "step": 7}, path)
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    assert loaded["weights"].tolist() == [0, 1, 2]
    assert loaded["step"] == 7
    assert [child.name for child in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"junk"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path, damage):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.arange(1000)}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"last.ckpt is damaged or not a checkpoint: (.|\n)*Delete it"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing.ckpt: no such checkpoint"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "nothing.ckpt")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Dangerous:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"state_dict": Dangerous()}, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match="damaged or not a checkpoint"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("megabytes", [0, 8])
def test_a_full_disk_names_the_folder_and_keeps_the_older_checkpoint(tmp_path, monkeypatch, megabytes):
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError) as caught:
        AtomicCheckpointIO().save_checkpoint({"step": 2, "weights": torch.zeros(megabytes << 18)}, path)
    assert str(caught.value) == (
        f"Cannot write last.ckpt into {path.parent}: No space left on device.\n"
        f"Free some room there, then go on:  python -m src.run resume={tmp_path / 'run'}"
    )
    assert AtomicCheckpointIO().load_checkpoint(path)["step"] == 1
    assert [child.name for child in path.parent.iterdir()] == ["last.ckpt"]


def test_a_disk_that_fills_up_while_writing_is_named(tmp_path):
    """With a real limit: a file may not grow beyond 1 MB in this process, and 8 MB are written."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(InputError, match=r"Cannot write last.ckpt into .*: File too large"):
            AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(2 << 20)}, tmp_path / "last.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
