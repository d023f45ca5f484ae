"""Blocks compiled by ``torch.compile``."""

from __future__ import annotations

import shutil

import torch

from src.launch.errors import InputError
from src.model.architecture import Architecture


def require_compiler() -> None:
    """Refuse to compile where there is nothing to do it with.

    Raises:
        InputError: there is neither a GPU nor a C++ compiler.
    """
    if not torch.cuda.is_available() and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise InputError(
            "model.compile=true: torch.compile needs a C++ compiler on a CPU, and there is none.\n"
            "Install one, such as g++, or type:  model.compile=false"
        )


def compile_blocks(found: Architecture) -> None:
    """Compile the transformer blocks for sequences of any length; weights keep their names.

    Examples that share a row are then read under a mask: attending to each by itself would compile anew for every
    batch.
    """
    found.by_example = False
    for block in found.stack[1]:
        block.compile(dynamic=True)
