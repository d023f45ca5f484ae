"""Low-rank adapters around a network, by PEFT; and a trained model, with or without, as files that others load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from transformers import GenerationConfig

from src.launch.errors import InputError, install_command
from src.launch.values import Count, Dropout, Positive
from src.model.architecture import Architecture
from src.model.probe import agree, exact_products

if TYPE_CHECKING:
    from src.model.causal_lm import CausalLM

_ALL = "Export the weights whole:  task.adapters_only=false"


class Lora(TypedDict):
    """Low-rank adapters.

    Attributes:
        rank: Of the adapters' matrices.
        alpha: Their product is scaled by ``alpha / rank``.
        dropout: Probability of dropping what an adapter reads.
    """

    rank: Count
    alpha: Positive
    dropout: Dropout


@exact_products()
def with_adapters(architecture: Architecture, token_ids: list[int], *, rank: int, alpha: float, dropout: float) -> Any:
    """Put low-rank adapters on all linear layers of every block, and train the rows of some tokens in full.

    Args:
        architecture: The network and how it is read.
        token_ids: The tokens.
        rank: Rank of the adapters.
        alpha: Scale of the adapters: they weigh ``alpha / rank``.
        dropout: Share of an adapter's inputs that is dropped in training, 0 to 1.

    Returns:
        A PEFT model around the same network.

    Raises:
        InputError: PEFT is not installed, or does not fit the network: fresh adapters have to change nothing.
    """
    network = architecture.network
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise InputError(
            f"model.lora needs the package peft.\nType:  {install_command('lora')}\n"
            "or train all weights:  model.lora=null"
        ) from error
    ends = {network.get_input_embeddings(), network.get_output_embeddings()}
    if len({module.weight for module in ends}) == 1:
        ends = {network.get_input_embeddings()}  # PEFT ties the rows of the other
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="all-linear",
        trainable_token_indices={n: token_ids for n, part in network.named_modules() if part in ends and token_ids},
        task_type="CAUSAL_LM",
    )
    sample = torch.tensor([token_ids[:4] or [0]])
    network.eval()  # fresh adapters change nothing then
    try:
        with torch.no_grad():
            states = architecture.plain(sample).last_hidden_state
            expected = architecture.logits(states)
            wrapped = get_peft_model(network, config).eval()
            _keep_bias(network)
            found = wrapped(input_ids=sample, use_cache=False).logits.float()
            same = agree(found, expected) and agree(architecture.read_head()(states), expected)
    except Exception as error:  # each architecture that does not fit has a way of its own
        raise _no_adapters(network, str(error).partition("\n")[0]) from error
    if not same:
        raise _no_adapters(network, "fresh adapters change its logits")
    return wrapped


def trained_rows(end: Any, token_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the matrix where the rows of item tokens are trained, and which of its rows they are.

    Args:
        end: Input embedding or head of a network, with adapters or without.
        token_ids: The tokens that adapters were made for, shape ``(n,)``, int64.

    Returns:
        The weight, ``(V, D)``, and the tokens; with adapters PEFT's own copy of the rows, ``(n, D)``, and ``0..n-1``:
        what is written to its ``weight`` goes nowhere.
    """
    adapter = getattr(end, "token_adapter", None)
    if adapter is None:
        return end.weight, token_ids
    (copy,) = adapter.trainable_tokens_delta.values()
    return copy, torch.arange(len(token_ids))


def _keep_bias(network: Any) -> None:
    """Add the head's bias where PEFT's wrapper of trained rows leaves it out (huggingface/peft#3649)."""
    head = network.get_output_embeddings()
    bias = getattr(getattr(head, "original_module", None), "bias", None)
    if bias is not None:
        states = torch.zeros(1, head.weight.shape[1], dtype=bias.dtype)
        if not torch.equal(head(states)[0], bias):
            head.register_forward_hook(lambda _, __, logits: logits + bias)


def _no_adapters(network: Any, reason: str) -> InputError:
    return InputError(
        f"The model is a {type(network).__name__}, which adapters do not fit: {reason}.\n"
        "Train all weights:  model.lora=null\nor type:           model.name=<another model>"
    )


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
