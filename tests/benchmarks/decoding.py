"""Constrained decoding against transformers' generate with a prefix constraint, and what guidance adds to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from src.ilrec.model.decoding import DecodedItems, Guidance, decode_items
from src.ilrec.model.trie import TokenTrie
from src.model.causal_lm import CausalLM, from_scratch
from tests.benchmarks import rewards
from tests.benchmarks.comparison import Row, config, interleaved, seconds
from tests.benchmarks.models import LEVELS, SMOLLM2, TOY, random_llama, semantic_ids

BEAMS = 20
Children = dict[tuple[int, ...], list[int]]


@dataclass(frozen=True)
class Sizes:
    """How much is decoded."""

    items: int = 10_000
    codes: int = 64  # per level of the semantic IDs
    prompt_tokens: int = 150
    small: tuple[int, int] = (32, 5)  # prompts and pairs, conf/model/tiny_llama.yaml
    large: tuple[int, int] = (1, 3)  # prompts and pairs, SmolLM2's shape: half a minute of generate for each prompt
    batches: tuple[int, int] = (4, 16)  # prompts that generate gets at once: the faster size counts


FULL, QUICK = Sizes(), Sizes(items=200, codes=8, prompt_tokens=12, small=(4, 2), large=(2, 1), batches=(2, 4))


def rows(*, quick: bool) -> Iterator[Row]:
    sizes = QUICK if quick else FULL
    items = semantic_ids(sizes.items, sizes.codes)
    trie = TokenTrie.build(torch.from_numpy(items.tokens), vocabulary_size=len(items.vocabulary))
    small = from_scratch(items.vocabulary, **config("model=tiny_llama")["model"])
    large = random_llama(items, 49_152, TOY if quick else SMOLLM2)
    for name, model, (users, pairs) in (("tiny_llama", small, sizes.small), ("SmolLM2's shape", large, sizes.large)):
        model.eval()
        history = torch.randint(len(items.vocabulary), (users, sizes.prompt_tokens))
        prompts, children = model.item_token_ids[history], children_by_prefix(model.item_token_ids[items.tokens])
        ours = partial(decode_items, model, trie, prompts, torch.ones_like(prompts), num_beams=BEAMS)
        batches = sorted({min(size, users) for size in sizes.batches})
        candidates = [partial(generate, model, children, prompts, size) for size in batches]
        theirs = min(candidates, key=seconds) if len(candidates) > 1 else candidates[0]
        generated = trie.find(torch.searchsorted(model.item_token_ids, theirs())).view(users, BEAMS)
        same = (generated[:, :10] == ours().leaf[:, :10]).all(1).float().mean()
        yield Row(
            f"Decoding, {name}: {users} prompts of {sizes.prompt_tokens} tokens, {sizes.items:,} items, {BEAMS} beams",
            ("decode_items", f"generate, {theirs.args[-1]} prompts at once"),
            interleaved(ours, theirs, pairs),
            lambda value, users=users: f"{users / value:.3g} users/s",
            ">= 8",
            f"same top 10 for {same:.1%} of users",
        )
        if model is small:
            yield guided_row(sizes, model, trie, prompts)


def guided_row(sizes: Sizes, model: CausalLM, trie: TokenTrie, prompts: Tensor) -> Row:
    """Compare the search with one that a SASRec guides, its pass over the histories included."""
    users, pairs = sizes.small
    judged = rewards.Batch(rewards.Sizes(codes=sizes.codes, users=users), sizes.items)
    history = torch.randint(sizes.items, (users, 20))

    def search(weight: float | None) -> DecodedItems:
        guidance = [] if weight is None else [Guidance(judged.model.probabilities_after(history), weight)]
        mask = torch.ones_like(prompts)
        return decode_items(model, trie, prompts, mask, num_beams=BEAMS, opinions=guidance)

    same = (search(0.0).leaf == search(None).leaf).all(1).float().mean()
    return Row(
        f"Guided decoding, tiny_llama: {users} prompts of {sizes.prompt_tokens} tokens, {sizes.items:,} items",
        ("unguided", "guided by SASRec"),
        interleaved(partial(search, None), partial(search, 1.0), pairs),
        lambda value: f"{users / value:.3g} users/s",
        "<= 1.25",
        f"weight 0 finds the same for {same:.1%} of users",
    )


def children_by_prefix(sequences: Tensor) -> Children:
    """List the tokens that may follow each prefix, once and for all: what generate asks for at every step."""
    children: dict[tuple[int, ...], dict[int, None]] = {}
    for tokens in sequences.tolist():
        for level, token in enumerate(tokens):
            children.setdefault(tuple(tokens[:level]), {})[token] = None
    return {prefix: list(legal) for prefix, legal in children.items()}


def generate(model: CausalLM, children: Children, prompts: Tensor, batch_size: int) -> Tensor:
    """Return the beams of every prompt, best first, shape ``(users * BEAMS, LEVELS)``."""
    width = prompts.shape[1]
    settings = {
        "num_beams": BEAMS,
        "num_return_sequences": BEAMS,
        "max_new_tokens": LEVELS,
        "do_sample": False,
        "use_cache": True,
        "prefix_allowed_tokens_fn": lambda _, tokens: children[tuple(tokens[width:].tolist())],
        "pad_token_id": model.tokenizer.pad_token_id,
        "eos_token_id": None,
    }
    beams = [
        model.causal_network.generate(input_ids=batch, attention_mask=torch.ones_like(batch), **settings)
        for batch in prompts.split(batch_size)
    ]
    return torch.cat(beams)[:, width:].contiguous()
