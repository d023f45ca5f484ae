"""Checkpoints in shards: a small file, and beside it a folder of tensors that all processes wrote together.

The file names the folder under the key ``shards``. It is written last, so the two change as one.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

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


def write_shards(tensors: dict[str, Any], folder: Path) -> None:
    """Write nested dicts of tensors, each process what it holds of them; all must call this.

    Raises:
        CheckpointException: a process could not write.
    """
    save(tensors, storage_writer=FileSystemWriter(folder))


def fill_from_shards(tensors: dict[str, Any], folder: Path) -> None:
    """Read nested dicts of tensors in place, each process what it holds of them; all must call this.

    Raises:
        CheckpointException: a process could not read, or a shape is another.
    """
    load(tensors, storage_reader=_Reader(folder))


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
