"""Any transformers causal language model, with item tokens as new vocabulary and logits only where they are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from src.launch.errors import InputError
from src.launch.values import Count, Dropout, Positive
from src.model.attention import additive_mask, use_packed_attention

# Tokens of a row from which examples are attended to one by one. With SmolLM2 and rows of 200 to 250 tokens, a step
# takes 0.7 of the time in bfloat16 and 0.9 in float32; small models have shorter rows, and many examples.
_LONG = 200
_FINAL_NORMS = ("norm", "final_layernorm", "ln_f", "final_layer_norm")


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


@dataclass(frozen=True)
class RowStates:
    """Hidden states at the label rows, ready for the language-model head.

    Attributes:
        final: After the last block and the final norm, shape ``(N, D)``.
        intermediate: After each chosen block and the final norm, shape ``(L, N, D)``.
    """

    final: Tensor
    intermediate: Tensor


@dataclass(frozen=True)
class Head:
    """The language-model head as a matrix, read once for several products.

    Attributes:
        weight: One row a token, shape ``(V, D)``; trained rows of an adapter are in it.
        bias: One number a token, shape ``(V,)``, or ``None``.
    """

    weight: Tensor
    bias: Tensor | None

    def __call__(self, states: Tensor) -> Tensor:
        """Return float32 logits ``(..., V)`` of normed hidden states ``(..., D)``."""
        return nn.functional.linear(states, self.weight, self.bias).float()

    def of(self, tokens: Tensor) -> Head:
        """Return the head of some tokens only."""
        # Its gradient names the rows; that of `weight[tokens]` would be a second matrix as large as the whole head.
        rows = nn.functional.embedding(tokens, self.weight, sparse=True)
        return Head(rows, None if self.bias is None else self.bias[tokens])


class CausalLM(nn.Module):
    """A causal language model that knows which of its tokens items are made of.

    Args:
        network: A transformers causal LM, or a PEFT model around one.
        tokenizer: Its text tokenizer, item tokens added.
        item_vocabulary: The tokens that were added for items; none where items are titles.
        spec: What the network is, as plain values; kept in checkpoints to refuse another model's weights.
    """

    def __init__(self, network: Any, tokenizer: Any, item_vocabulary: Sequence[str], spec: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        self.spec = {**spec, "item_tokens": len(item_vocabulary)}
        self._attends_by_example = use_packed_attention(self.causal_network)
        self.item_token_ids: Tensor
        self.item_token_places: Tensor  # the inverse: token id -> place in the item vocabulary, -1 for other tokens
        self.name_item_tokens(item_vocabulary)
        self.train()  # from_pretrained leaves networks in eval mode, without dropout

    def name_item_tokens(self, item_vocabulary: Sequence[str]) -> None:
        """Say which tokens items are made of, in the order in which the items count them."""
        ids = torch.tensor(self.tokenizer.convert_tokens_to_ids(list(item_vocabulary)), dtype=torch.int64)
        places = torch.full((self.causal_network.config.vocab_size,), -1)
        places[ids] = torch.arange(len(ids))
        self.register_buffer("item_token_ids", ids, persistent=False)
        self.register_buffer("item_token_places", places, persistent=False)

    @property
    def causal_network(self) -> Any:
        """The transformers model itself, adapters included, without PEFT's wrapper."""
        return self.network.get_base_model() if hasattr(self.network, "get_base_model") else self.network

    @property
    def decoder(self) -> Any:
        """The transformer blocks with the final norm, without the head."""
        return self.causal_network.get_decoder()

    @property
    def num_blocks(self) -> int:
        """Number of transformer blocks."""
        return int(self.causal_network.config.num_hidden_layers)

    @property
    def blocks(self) -> list[nn.Module]:
        """The transformer blocks."""
        lists = (part for part in self.decoder.children() if isinstance(part, nn.ModuleList))
        return list(next(part for part in lists if len(part) == self.num_blocks))

    def head(self, states: Tensor) -> Tensor:
        """Return float32 logits ``(..., V)`` of normed hidden states ``(..., D)``."""
        logits: Tensor = self.causal_network.get_output_embeddings()(states)
        return logits.float()

    def read_head(self) -> Head:
        """Return the head for several products of one step: an adapter copies the whole matrix at every reading."""
        head = self.causal_network.get_output_embeddings()
        return Head(head.weight, getattr(head, "bias", None))

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
        layout: dict[str, Any]
        if self._attends_by_example and input_ids.shape[1] >= _LONG:
            # One row of all examples without padding; their lengths take the place of the mask.
            row = torch.arange(len(input_ids), device=input_ids.device)[:, None]
            present = attention_mask > 0
            example = (attention_mask + row * input_ids.shape[1])[present]
            lengths = torch.unique_consecutive(example, return_counts=True)[1]
            begin = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
            layout = {
                "input_ids": input_ids[present][None],
                "attention_mask": additive_mask(present.new_ones(1, 1, 1), self.causal_network.dtype),  # not read
                "position_ids": (torch.arange(len(begin), device=begin.device) - begin)[None],
                "example_lengths": lengths.tolist(),
            }
            rows = rows[present][None]
        else:
            same_example = attention_mask[:, :, None] == attention_mask[:, None, :]
            layout = {
                "input_ids": input_ids,
                "attention_mask": additive_mask(same_example.tril(), self.causal_network.dtype),
                "position_ids": same_example.tril(-1).sum(2),
            }
        output = self.decoder(**layout, output_hidden_states=bool(blocks), use_cache=False)
        final = output.last_hidden_state[rows]
        intermediate = [self._final_norm(output.hidden_states[block][rows]) for block in blocks]
        return RowStates(final, torch.stack(intermediate) if blocks else final.new_zeros(0, *final.shape))

    def _final_norm(self, states: Tensor) -> Tensor:
        for name in _FINAL_NORMS:
            norm = getattr(self.decoder, name, None)
            if norm is not None:
                normed: Tensor = norm(states)
                return normed
        raise InputError(
            f"{type(self.decoder).__name__} has no final norm under any of the names {', '.join(_FINAL_NORMS)}: "
            "intermediate layers cannot be read. Train it with stage=sft, or use a Llama-like model."
        )


def intermediate_blocks(model: CausalLM, layers: int | list[int]) -> list[int]:
    """Choose blocks before the final one, counted from 1: the last few, or those listed.

    Raises:
        InputError: the model has too few blocks.
    """
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
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    num_heads: int,
    dropout: float,
    max_length: int,
    seed: int,
) -> CausalLM:
    """Make a small Llama with random weights over bytes and item tokens.

    Args:
        item_vocabulary: The item tokens to add.
        hidden_size: Width D of the residual stream.
        intermediate_size: Width of the feed-forward layers.
        num_layers: Number of blocks.
        num_heads: Attention heads; each takes an even share of ``hidden_size``.
        dropout: Probability of dropping an attention weight and an input embedding, 0 to 1.
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
    _add_item_tokens(tokenizer, item_vocabulary)
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
    if dropout:
        network.get_input_embeddings().register_forward_hook(
            lambda module, _, states: nn.functional.dropout(states, dropout, training=module.training)
        )
    sizes = {"hidden_size": hidden_size, "intermediate_size": intermediate_size}
    spec = {"kind": "from_scratch", **sizes, "num_layers": num_layers, "num_heads": num_heads}
    return CausalLM(network, tokenizer, item_vocabulary, spec)


def from_pretrained(
    item_vocabulary: Sequence[str],
    *,
    name: str,
    dtype: Literal["float32", "bfloat16"],
    gradient_checkpointing: bool,
    lora: Lora | None,
    seed: int,
) -> CausalLM:
    """Load a causal LM of the hub or of a local folder and add the item tokens to it.

    Args:
        item_vocabulary: The item tokens to add.
        name: Hub name such as ``meta-llama/Llama-3.1-8B``, or a folder written by ``save_pretrained``.
        dtype: Type of the weights in memory.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        lora: Adapters on all linear layers of every block; the item tokens' rows are trained in full. ``None`` trains
            everything.
        seed: Seed of the new rows and adapters.

    Returns:
        The model.

    Raises:
        InputError: the name is no folder and the hub does not give it, the model's logits are not those of a linear
            head, its tokenizer has the item tokens already, or PEFT is not installed.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        network = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype))
    except Exception as error:  # unknown names and torn files end in errors of a dozen types
        known = "is a folder, but not one that save_pretrained wrote" if Path(name).is_dir() else "is no local folder"
        raise InputError(
            f"model.name={name!r} {known}, and no causal language model of that name could be loaded:\n{error}\n"
            "Type a hub name or a folder with config.json, weights and tokenizer:  model.name=path/to/folder"
        ) from error
    _require_linear_head(network, name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _add_item_tokens(tokenizer, item_vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _grow_vocabulary(network, len(tokenizer), len(item_vocabulary))
        if gradient_checkpointing:
            network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        ids = tokenizer.convert_tokens_to_ids(list(item_vocabulary))
        wrapped = network if lora is None else _with_lora(network, ids, **lora)
    sizes = {"hidden_size": network.config.hidden_size, "num_layers": network.config.num_hidden_layers}
    spec = {"kind": type(network).__name__, **sizes, "lora": dict(lora or {})}
    return CausalLM(wrapped, tokenizer, item_vocabulary, spec)


@torch.no_grad()
def _require_linear_head(network: Any, name: str) -> None:
    """Refuse models that cap or scale what their head gives: losses and decoding here read the head itself."""
    token = torch.zeros(1, 1, dtype=torch.int64)
    states = network.get_decoder()(token).last_hidden_state
    if not torch.allclose(network.get_output_embeddings()(states), network(token).logits):
        raise InputError(
            f"model.name={name!r} is a {type(network).__name__}, which caps or scales the logits of its head; I need "
            "one with a plain linear head, such as Llama, Qwen, Mistral or GPT-2.\nType:  model.name=<another model>"
        )


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


def _add_item_tokens(tokenizer: Any, item_vocabulary: Sequence[str]) -> None:
    clash = [token for token in item_vocabulary if token in tokenizer.get_vocab()]
    if clash:
        raise InputError(
            f"The model's tokenizer already has {len(clash)} of the {len(item_vocabulary)} item tokens (first: "
            f"{', '.join(clash[:3])}): it was saved with them in. I need one without, to add them myself.\n"
            "Type:  model.name=<the model that it was made from>"
        )
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in item_vocabulary])


def _grow_vocabulary(network: Any, size: int, added: int) -> None:
    """Append rows around the mean of the known ones, so that a new token starts out neither likely nor unlikely."""
    known = size - added
    network.resize_token_embeddings(max(size, network.get_input_embeddings().num_embeddings), mean_resizing=False)
    tied = network.config.tie_word_embeddings
    matrices = [network.get_input_embeddings().weight] + ([] if tied else [network.get_output_embeddings().weight])
    with torch.no_grad():
        for weight in matrices:
            rows = weight[:known].float()
            noise = torch.randn(added, weight.shape[1]) * rows.std(0)
            weight[known:size] = (rows.mean(0) + 0.1 * noise).to(weight.dtype)


def _with_lora(network: Any, token_ids: list[int], *, rank: int, alpha: float, dropout: float) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise InputError(
            "model.lora needs the package peft.\nType:  pip install -e '.[lora]'\n"
            "or train all weights:  model.lora=null"
        ) from error
    ends = [network.get_input_embeddings()]
    if not network.config.tie_word_embeddings:
        ends.append(network.get_output_embeddings())
    rows = {name: token_ids for name, module in network.named_modules() if module in ends and token_ids}
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="all-linear",
        trainable_token_indices=rows or None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(network, config)


def save_model(model: CausalLM, folder: str | Path) -> None:
    """Save a ``CausalLM`` as ``save_pretrained`` does, its adapters merged into the weights, with its tokenizer."""
    network = model.network
    if hasattr(network, "merge_and_unload"):
        network = network.merge_and_unload()
    network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
