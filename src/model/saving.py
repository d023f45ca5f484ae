"""A trained language model as files that transformers and PEFT load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from src.launch.errors import InputError
from src.model.causal_lm import CausalLM

_ALL = "Export the weights whole:  task.adapters_only=false"


def save_model(model: CausalLM, folder: str | Path, generation: Mapping[str, Any] | None = None) -> None:
    """Save a ``CausalLM`` as ``save_pretrained`` does, its adapters merged into the weights, with its tokenizer.

    Args:
        model: The model, whose adapters are gone then.
        folder: Where to.
        generation: What ``generation_config.json`` says instead of the base model's, which may be to sample.
    """
    network = model.network
    if hasattr(network, "merge_and_unload"):
        network = network.merge_and_unload()
    if generation is not None:
        network.generation_config = GenerationConfig(**generation)
    network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)


def save_adapters(model: CausalLM, folder: str | Path) -> None:
    """Save the adapters of a ``CausalLM`` and the trained rows of its item tokens as PEFT does, with its tokenizer.

    Raises:
        InputError: it has none, or PEFT cannot load them as they are.
    """
    network = model.network
    if not hasattr(network, "merge_and_unload"):
        raise InputError(f"task.adapters_only=true: this run has trained all weights; there are no adapters.\n{_ALL}")
    head = network.get_output_embeddings()
    if getattr(getattr(head, "original_module", None), "bias", None) is not None:
        raise InputError(
            f"task.adapters_only=true: the head of a {type(model.causal_network).__name__} has a bias, which PEFT "
            f"loses where it loads rows of tokens.\n{_ALL}"
        )
    network.save_pretrained(folder, save_embedding_layers=False)  # the rows that were trained are saved by themselves
    model.tokenizer.save_pretrained(folder)
    (Path(folder) / "README.md").unlink(missing_ok=True)  # PEFT's empty form of one
