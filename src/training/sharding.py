"""A module whose weights are split over several processes (PyTorch's FSDP2) and put together where they are used."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method


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
