"""Items and models with random contents and real sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers

from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.model.adapters import with_adapters
from src.model.causal_lm import CausalLM, _byte_tokenizer
from src.model.probe import examine
from src.model.vocabulary import add_item_tokens

LEVELS = 3
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
TOY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def semantic_ids(items: int, codes: int) -> ItemTokens:
    """Give each of the items its own ID of three levels with so many codes each."""
    chosen = np.random.default_rng(0).permutation(codes**LEVELS)[:items]
    ids = np.stack(np.unravel_index(chosen, (codes,) * LEVELS), axis=1)
    return ItemTokens.from_codes(ids, [range(codes)] * LEVELS, {})


def random_llama(
    items: ItemTokens, vocabulary: int, shape: dict[str, int], lora: dict[str, Any] | None = None
) -> CausalLM:
    """Make a Llama whose text tokens are bytes; they and the item tokens fill a small part of its vocabulary."""
    tokenizer = _byte_tokenizer()
    add_item_tokens(tokenizer, items.vocabulary)
    torch.manual_seed(0)
    settings = transformers.LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=True, **shape)
    network = transformers.LlamaForCausalLM(settings)
    architecture = examine(network)
    if lora is not None:
        network = with_adapters(architecture, tokenizer.convert_tokens_to_ids(items.vocabulary), **lora)
    return CausalLM(network, tokenizer, items.vocabulary, {"kind": "random"}, architecture)
