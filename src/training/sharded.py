"""Training split over processes (PyTorch's FSDP2): the weights, the Trainer's strategy, and checkpoints in shards.

Such a checkpoint is a small file, and beside it a folder of tensors that all processes wrote together. The file names
the folder under the key ``shards``. It is written last, so the two change as one.
"""

from __future__ import annotations

import pickle
import shutil
import uuid
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.checkpoint import state_dict as distributed_state
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from src.launch.errors import InputError
from src.training.checkpoint import cannot_write

# What the table of contents is made of. Anything else in it could be code.
_PARTS = {
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},  # its place in Python 3.13
    "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
}  # fmt: skip


class _Contents(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _PARTS.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint")
        return super().find_class(module, name)


class _Reader(FileSystemReader):
    """Reads tensors and nothing else; PyTorch's own would run code that a table of contents names."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as stream:
            metadata: Metadata = _Contents(stream).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def load_weights(path: Path) -> dict[str, Any]:
    """Read a checkpoint with its weights put together, on the CPU; of one in shards without the optimiser's state."""
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(checkpoint, dict) and "shards" in checkpoint:
        reader, prefix = _Reader(path.with_name(checkpoint["shards"])), "state_dict."
        weights = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in reader.read_metadata().state_dict_metadata.items()
            if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is .* single process")  # which is the intent
            load(weights, storage_reader=reader, no_dist=True)
        checkpoint["state_dict"] = {name.removeprefix(prefix): weight for name, weight in weights.items()}
    return checkpoint


def split(module: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, steps: Iterable[str]) -> None:
    """Let each process keep its part of every weight; once is enough.

    Args:
        module: The module; afterwards its class is a subclass of its own.
        blocks: Parts that are put together one at a time; the rest stays whole from a step's beginning to its end.
        mesh: The processes.
        steps: Methods of ``module`` in which the weights may be used.
    """
    if isinstance(module, FSDPModule):
        return
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for step in steps:
        register_fsdp_forward_method(module, step)


def gather(module: nn.Module) -> None:
    """Put all weights together until ``release``: no pass in between waits for the other processes."""
    if isinstance(module, FSDPModule):
        module.set_reshard_after_forward(False)
        for part in _split_parts(module):
            part.unshard()


def release(module: nn.Module) -> None:
    """Let each process keep its part again."""
    for number, part in enumerate(_split_parts(module)):
        part.reshard()
        if number:  # the module itself, which is the first, stays whole from a step's beginning to its end
            part.set_reshard_after_forward(True, recurse=False)


def _split_parts(module: nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


class Sharded(ModelParallelStrategy):
    """Weights, gradients and optimiser state split over all processes (FSDP2), and so are the checkpoints.

    A checkpoint is a file like any other, whose tensors lie in a folder beside it. Frozen
    weights are in none. The stage's ``configure_model`` says what is split.
    """

    model: lightning.LightningModule
    lightning_module: lightning.LightningModule

    def setup_environment(self) -> None:
        """Split the data, not the layers, over all processes."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether the optimiser's state is taken from what ``load_checkpoint`` returns."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return this process's part of the trained weights, each under one name."""
        options = distributed_state.StateDictOptions(ignore_frozen_params=True, cpu_offload=True)
        weights = distributed_state.get_model_state_dict(self.model, options=options)
        return {name: weights[name] for name, weight in self.model.named_parameters() if weight.requires_grad}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; all processes must call this.

        Raises:
            InputError: the folder is full or cannot be written.
        """
        path: Path = self.broadcast(Path(filepath))
        folder: Path = self.broadcast(path.with_name(f"{path.stem}-{uuid.uuid4().hex[:12]}.shards"))
        tensors = {"state_dict": checkpoint.pop("state_dict")}
        for number, state in enumerate(checkpoint["optimizer_states"]):
            tensors[f"optimizer_{number}"] = state.pop("state")
        try:
            save(tensors, storage_writer=FileSystemWriter(folder))
        except CheckpointException as error:
            for reason, _ in error.failures.values():
                if isinstance(reason, OSError):
                    raise cannot_write(path, reason) from error
            raise
        super(ModelParallelStrategy, self).save_checkpoint({**checkpoint, "shards": folder.name}, path)
        if self.is_global_zero:
            for older in set(path.parent.glob(f"{path.stem}-*.shards")) - {folder}:
                shutil.rmtree(older)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, and of its tensors this process's part; all processes must call this.

        Raises:
            InputError: it is missing, damaged, or not in shards.
        """
        path: Path = self.broadcast(Path(checkpoint_path))
        checkpoint = self.checkpoint_io.load_checkpoint(path)
        if "shards" not in checkpoint:
            raise InputError(f"{path} is not in shards: go on with the trainer.strategy that wrote it.")
        checkpoint["state_dict"] = self.lightning_module_state_dict()
        tensors = {"state_dict": checkpoint["state_dict"]}
        if self.lightning_module.trainer.state.fn == TrainerFn.FITTING:
            for number, optimizer in enumerate(self.optimizers):
                state = tensors[f"optimizer_{number}"] = self.optimizer_state(optimizer)["state"]
                checkpoint["optimizer_states"][number]["state"] = state
        try:
            load(tensors, storage_reader=_Reader(path.with_name(checkpoint["shards"])))
        except CheckpointException as error:
            reason = next(iter(error.failures.values()))[0]
            raise InputError(
                f"{path} has shards that are missing, damaged or of another model: {type(reason).__name__}: {reason}\n"
                "Delete it; a run resumed without last.ckpt starts over."
            ) from error
        return checkpoint

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take up the trained weights."""
        options = distributed_state.StateDictOptions(strict=False)
        distributed_state.set_model_state_dict(self.model, checkpoint["state_dict"], options=options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take up the optimiser's state."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            distributed_state.set_optimizer_state_dict(self.model, optimizer, state)
