"""Any transformers causal language model, with item tokens as new vocabulary and logits only where they are wanted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from src.launch.errors import InputError
from src.launch.precision import Dtype, torch_dtype
from src.launch.values import Count, Dropout, Seed
from src.model.adapters import Lora, trained_rows, with_adapters
from src.model.architecture import Architecture, Head, compile_blocks, require_compiler
from src.model.probe import examine, extend
from src.model.vocabulary import add_item_tokens, grow_vocabulary, start_from_texts, start_rows

log = logging.getLogger("run")


@dataclass(frozen=True)
class RowStates:
    """Hidden states at the label rows, ready for the language-model head.

    Attributes:
        final: After the last block and the final norm, shape ``(N, D)``.
        intermediate: After each chosen block and the final norm, shape ``(L, N, D)``.
    """

    final: Tensor
    intermediate: Tensor


class CausalLM(nn.Module):
    """A causal language model that knows which of its tokens items are made of.

    Args:
        network: A transformers causal LM, or a PEFT model around one.
        tokenizer: Its text tokenizer, item tokens added.
        item_vocabulary: The tokens that were added for items; none where items are titles.
        spec: What the network is, as plain values; kept in checkpoints to refuse another model's weights.
        architecture: How the network is read, if it has been examined.

    Raises:
        InputError: the network cannot be read, see ``probe.examine``.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        item_vocabulary: Sequence[str],
        spec: dict[str, Any],
        architecture: Architecture | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        self.spec = {**spec, "item_tokens": len(item_vocabulary)}
        self.architecture = architecture or examine(network)
        self.item_token_ids: Tensor
        self.item_token_places: Tensor  # the inverse: token id -> place in the item vocabulary, -1 for other tokens
        self.name_item_tokens(item_vocabulary)
        self.compiles = False
        self.train()  # from_pretrained leaves networks in eval mode, without dropout

    def name_item_tokens(self, item_vocabulary: Sequence[str]) -> None:
        """Say which tokens items are made of, in the order in which the items count them."""
        ids = torch.tensor(self.tokenizer.convert_tokens_to_ids(list(item_vocabulary)), dtype=torch.int64)
        places = torch.full((self.architecture.config.vocab_size,), -1)
        places[ids] = torch.arange(len(ids))
        self.register_buffer("item_token_ids", ids, persistent=False)
        self.register_buffer("item_token_places", places, persistent=False)

    def start_item_tokens(self, vectors: np.ndarray, seed: int) -> None:
        """Start the item tokens from vectors, see ``start_rows``."""
        network = self.causal_network
        ends = network.get_input_embeddings(), network.get_output_embeddings()
        for weight, rows in dict(trained_rows(end, self.item_token_ids) for end in ends).items():
            start_rows(weight, rows, vectors, seed)

    @property
    def causal_network(self) -> Any:
        """The transformers model itself, adapters included, without PEFT's wrapper."""
        return self.architecture.network

    @property
    def decoder(self) -> Any:
        """The transformer blocks with the final norm, without the head."""
        return self.architecture.decoder

    @property
    def num_blocks(self) -> int:
        """Number of transformer blocks."""
        return int(self.architecture.config.num_hidden_layers)

    @property
    def blocks(self) -> list[nn.Module]:
        """The transformer blocks."""
        return self.architecture.stack[1]

    def prepare_for(self, longest: int, advice: str) -> None:
        """Be ready for sequences of up to so many tokens.

        Args:
            longest: Tokens of the longest sequence.
            advice: What to type where the model reads fewer; ``{}`` stands for its number.

        Raises:
            InputError: the model reads fewer.
        """
        context = self.architecture.context
        if context is not None and longest > context:
            raise InputError(
                f"Sequences have up to {longest} tokens, but the model, a {type(self.causal_network).__name__}, reads "
                f"{context}.\nType:  {advice.format(context)}"
            )
        extend(self.architecture, longest)
        if self.compiles:
            compile_blocks(self.architecture)
            self.compiles = False
        for reason, note in self.architecture.notes.items():
            if reason != "layers":  # which are told of where they are asked for
                log.warning("%s: %s. It is read a slower way.", type(self.causal_network).__name__, note)

    def head(self, states: Tensor) -> Tensor:
        """Return float32 logits ``(..., V)`` of normed hidden states ``(..., D)``."""
        return self.architecture.head(states)

    def read_head(self) -> Head:
        """Return the head for several products of one step."""
        return self.architecture.read_head()

    def row_states(self, input_ids: Tensor, attention_mask: Tensor, rows: Tensor, blocks: Sequence[int]) -> RowStates:
        """Run the blocks over whole sequences and keep the states of the label rows only.

        The final norm is applied once to each intermediate state; transformers has already applied it to the last one.
        Examples that share a row do not see each other, and each begins at position 0.

        Args:
            input_ids: Tokens, shape ``(B, T)``, int64.
            attention_mask: Number of the example within its row, from 1; 0 for padding; shape ``(B, T)``, int64.
            rows: Positions whose next token is a label, shape ``(B, T)``, bool, N of them True.
            blocks: Intermediate blocks to read, counted from 1; the last block is not one of them.

        Returns:
            States at the N rows.
        """
        final, *intermediate = self.architecture.row_states(input_ids, attention_mask, rows, blocks)
        return RowStates(final, torch.stack(intermediate) if blocks else final.new_zeros(0, *final.shape))


def intermediate_blocks(model: CausalLM, layers: int | list[int]) -> list[int]:
    """Choose blocks before the final one, counted from 1: the last few, or those listed.

    Raises:
        InputError: the model has too few blocks, or they cannot be read.
    """
    if model.architecture.norm is None:
        raise InputError(
            f"The model is a {type(model.causal_network).__name__}, whose intermediate layers cannot be read: "
            f"{model.architecture.notes['layers']}.\nTrain it with stage=sft, or use a Llama-like model."
        )
    most = model.num_blocks - 1
    chosen = list(range(most + 1 - layers, most + 1)) if isinstance(layers, int) else sorted(set(layers))
    if not chosen or chosen[0] < 1 or chosen[-1] > most:
        raise InputError(
            f"stage.layers={layers}: a model of {model.num_blocks} blocks has {most} intermediate ones (the final "
            f"block never votes).\nType:  stage.layers={max(most, 1)}"
        )
    return chosen


def from_scratch(
    item_vocabulary: Sequence[str],
    *,
    hidden_size: Count,
    intermediate_size: Count,
    num_layers: Count,
    num_heads: Count,
    dropout: Dropout,
    max_length: Count,
    seed: Seed,
    residual_dropout: Dropout = 0.0,
) -> CausalLM:
    """Make a small Llama with random weights over bytes and item tokens.

    Args:
        item_vocabulary: The item tokens to add.
        hidden_size: Width D of the residual stream.
        intermediate_size: Width of the feed-forward layers.
        num_layers: Number of blocks.
        num_heads: Attention heads; each takes an even share of ``hidden_size``.
        dropout: Probability of dropping an attention weight and an input embedding, 0 to 1.
        residual_dropout: Likewise of what an attention or a feed-forward layer adds to the residual stream.
        max_length: Longest sequence in tokens.
        seed: Seed of the weights, which are float32.

    Raises:
        InputError: the heads do not divide the width into even parts.
    """
    if hidden_size % (2 * num_heads):
        raise InputError(
            f"model.hidden_size={hidden_size} does not split into model.num_heads={num_heads} heads of an even width.\n"
            f"Type:  model.hidden_size={-(-hidden_size // (2 * num_heads)) * 2 * num_heads}"
        )
    tokenizer = _byte_tokenizer()
    add_item_tokens(tokenizer, item_vocabulary)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        attention_dropout=dropout,
        max_position_embeddings=max_length,
        # transformers' 0.02 suits a width of 2,500; at a width of 128 it leaves a plateau of thousands of steps.
        initializer_range=hidden_size**-0.5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LlamaForCausalLM(config)
    _drop_out(network.get_input_embeddings(), dropout)
    for block in network.model.layers:
        _drop_out(block.self_attn, residual_dropout)
        _drop_out(block.mlp, residual_dropout)
    sizes = {"hidden_size": hidden_size, "intermediate_size": intermediate_size}
    spec = {"kind": "from_scratch", **sizes, "num_layers": num_layers, "num_heads": num_heads}
    return CausalLM(network, tokenizer, item_vocabulary, spec)


def _drop_out(module: nn.Module, probability: float) -> None:
    """Drop out what a module gives, or the first part of it, in training."""

    def dropped(module: nn.Module, _: Any, output: Any) -> Any:
        first, *rest = output if isinstance(output, tuple) else (output,)
        first = nn.functional.dropout(first, probability, training=module.training)
        return (first, *rest) if isinstance(output, tuple) else first

    if probability:
        module.register_forward_hook(dropped)


def from_pretrained(
    item_vocabulary: Sequence[str],
    texts: Sequence[Sequence[str]] | None = None,
    *,
    name: str,
    dtype: Dtype,
    gradient_checkpointing: bool,
    lora: Lora | None,
    seed: Seed,
    new_rows: Literal["mean", "titles"] = "mean",
    attn_implementation: str | None = None,
    compile: bool = False,
) -> CausalLM:
    """Load a causal LM of the hub or of a local folder and add the item tokens to it.

    Args:
        item_vocabulary: The item tokens to add.
        texts: What each of them stands for, if ``new_rows`` is to start from it.
        name: Hub name such as ``meta-llama/Llama-3.1-8B``, or a folder written by ``save_pretrained``.
        dtype: Type of the weights in memory; ``auto`` is bfloat16 where the device multiplies it.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        lora: Adapters on all linear layers of every block; the item tokens' rows are trained in full. ``None`` trains
            everything.
        seed: Seed of the new rows and adapters.
        new_rows: Where the rows of the item tokens start: ``mean``, around the mean of the known ones; ``titles``, near
            the mean of ``texts``, each the mean of its tokens' rows.
        attn_implementation: Of transformers, such as ``eager`` or ``flash_attention_2``; None takes its choice, in our
            own leaner form where that is ``sdpa``.
        compile: Compile the blocks by ``torch.compile``, once all is known that is read plainly.

    Returns:
        The model.

    Raises:
        InputError: the name is no folder and the hub does not give it, the model is none that can be read, see
            ``probe.examine``, its tokenizer has the item tokens already or no end of text, or PEFT is not installed or
            does not fit the model.
    """
    if compile:
        require_compiler()
    tokenizer, network = _load(name, torch_dtype(dtype), attn_implementation)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    add_item_tokens(tokenizer, item_vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grow_vocabulary(network, len(tokenizer), len(item_vocabulary))
        if new_rows == "titles" and texts:
            start_from_texts(network, tokenizer, texts)
        if gradient_checkpointing:
            _recompute_activations(network)
        architecture = examine(network)  # before each of its matrices has adapters
        ids = tokenizer.convert_tokens_to_ids(list(item_vocabulary))
        wrapped = network if lora is None else with_adapters(architecture, ids, **lora)
    sizes = {"hidden_size": architecture.config.hidden_size, "num_layers": architecture.config.num_hidden_layers}
    spec = {"kind": type(network).__name__, **sizes, "lora": dict(lora or {})}
    model = CausalLM(wrapped, tokenizer, item_vocabulary, spec, architecture)
    model.compiles = compile
    return model


def _load(name: str, dtype: torch.dtype, attn_implementation: str | None) -> tuple[Any, Any]:
    """Return tokenizer and network."""
    chosen = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    try:
        config, tokenizer = AutoConfig.from_pretrained(name), AutoTokenizer.from_pretrained(name)
        causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
        network = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **chosen) if causal else None
    except Exception as error:  # unknown names and torn files end in errors of a dozen types
        known = "is a folder, but not one that save_pretrained wrote" if Path(name).is_dir() else "is no local folder"
        raise InputError(
            f"model.name={name!r} {known}, and no causal language model of that name could be loaded:\n{error}\n"
            "Type a hub name or a folder with config.json, weights and tokenizer:  model.name=path/to/folder"
            + (
                f"\nor another way to attend than {attn_implementation}:  model.attn_implementation=null"
                if chosen
                else ""
            )
        ) from error
    if network is None:
        raise InputError(
            f"model.name={name!r} holds a {type(config).__name__}, which is no causal language model of transformers.\n"
            "I need one such as Llama, Qwen, Gemma, Mistral or GPT-2.\nType:  model.name=<another model>"
        )
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"model.name={name!r}: its tokenizer has no end-of-text token, so that no response would have an end.\n"
            'I need one: name it as "eos_token" in tokenizer_config.json of a local copy, and type  '
            "model.name=<that folder>"
        )
    return tokenizer, network


def _byte_tokenizer() -> Any:
    alphabet = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytes_only = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_only.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_only,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def _recompute_activations(network: Any) -> None:
    try:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise InputError(
            f"The model is a {type(network).__name__}, which cannot recompute activations: {error}\n"
            "Type:  model.gradient_checkpointing=false"
        ) from error
