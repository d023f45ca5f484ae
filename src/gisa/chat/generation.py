"""A chat model in this process: conversations in its own template, and replies to many of them at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from src.gisa.chat.format import ChatFormat
from src.gisa.chat.prefix_cache import BLOCK, PrefixCache, block_names, growing_cache, keeps_all_keys, rows_of
from src.launch.errors import InputError
from src.model.attention import use_packed_attention

_READ_AT_ONCE = 16  # conversations: enough for products of matrices to be fast, few enough to be about equally long


class Generation(NamedTuple):
    """What a model wrote.

    Attributes:
        tokens: Without the one that ends a reply.
        end: That one; None where the limit of tokens came first.
    """

    tokens: list[int]
    end: int | None

    @property
    def ended(self) -> bool:
        """Whether the reply came to its end."""
        return self.end is not None


class ChatModel(ChatFormat):
    """A transformers causal LM with a chat template.

    Attributes:
        network: The model.
        context_tokens: Most tokens it can read and write in one conversation; None where its config does not say.
    """

    def __init__(self, network: Any, tokenizer: Any) -> None:
        """Take a network and its tokenizer; the network changes to the mode of evaluation and to ``attend``.

        Raises:
            InputError: see ``ChatFormat``.
        """
        ends = network.generation_config.eos_token_id if network.generation_config else None
        super().__init__(tokenizer, ends if isinstance(ends, list) else [] if ends is None else [ends])
        self.network = network.eval()
        use_packed_attention(network)
        self.context_tokens: int | None = getattr(network.config.get_text_config(), "max_position_embeddings", None)
        self._keeps_all_keys = keeps_all_keys(network)

    @torch.inference_mode()
    def reply(
        self,
        prompts: Sequence[list[int]],
        *,
        seeds: Sequence[int],
        max_tokens: int,
        temperature: float,
        memory: PrefixCache | None = None,
    ) -> list[Generation]:
        """Continue several conversations at once; one that has ended leaves the batch.

        Each row draws from a generator of its own, so that a reply depends on its neighbours, and on what is
        remembered, by the rounding of sums only. Source of the draw: the largest of ``p / e`` with ``e`` exponential is
        a sample of ``p`` (Gumbel-max).

        Args:
            prompts: Tokens of the conversations, of any lengths.
            seeds: One a conversation.
            max_tokens: Most tokens of one reply.
            temperature: 0 takes the likeliest token.
            memory: What these weights have read before, which is not read again; the conversations are added to it.
        """
        device = self.network.device
        draws = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        written: list[list[int]] = [[] for _ in prompts]
        ends = dict[int, int]()
        at_hand = PrefixCache() if memory is None else memory
        if self._keeps_all_keys:
            shared = [one for one in _shared_beginnings(prompts) if BLOCK * len(at_hand.find(one)) < len(one)]
            if shared:
                self._read(shared, at_hand, keep=True)
        cache, mask, logits, going = self._read(prompts, at_hand)
        position = mask.sum(1, keepdim=True)
        for count in range(1, max_tokens + 1):
            tokens = _chosen(logits, [draws[row] for row in going], temperature)
            kept = []
            for place, (row, token) in enumerate(zip(going, tokens.tolist(), strict=True)):
                if token in self.ends:
                    ends[row] = token
                else:
                    written[row].append(token)
                    kept.append(place)
            if count == max_tokens:
                kept = []
            if memory is not None and self._keeps_all_keys:
                for place in {*range(len(going))} - {*kept}:
                    _remember(memory, prompts[going[place]] + written[going[place]], cache, place, mask)
            if not kept:
                break
            if len(kept) < len(going):
                kept = _moved_forward(kept)
                going = [going[place] for place in kept]
                places = torch.tensor(kept, device=device)
                cache.batch_select_indices(places)
                tokens, mask, position = tokens[places], mask[places], position[places]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits = self._forward(tokens[:, None], mask, position, cache)[0]
            position = position + 1
        return [Generation(tokens, ends.get(row)) for row, tokens in enumerate(written)]

    def _read(
        self, prompts: Sequence[list[int]], memory: PrefixCache, *, keep: bool = False
    ) -> tuple[Any, Tensor, Tensor, list[int]]:
        """Read prompts without what is remembered of their beginnings, and remember them if they are to be kept.

        Returns:
            The model's cache with a row a prompt; which of its columns are tokens, shape ``(B, T)``; the logits of the
            next token, ``(B, V)``; and the prompt of each row, as those with the most to read come first.
        """
        found = [memory.find(prompt[:-1]) for prompt in prompts]  # of each, a token is left to be read
        new = [prompt[BLOCK * len(blocks) :] for prompt, blocks in zip(prompts, found, strict=True)]
        order = sorted(range(len(prompts)), key=lambda row: -len(new[row]))
        known, rest = [found[row] for row in order], [new[row] for row in order]
        ids, mask = _left_padded(rest, self.network.device)
        past = _left_padded([[0] * BLOCK * len(blocks) for blocks in known], self.network.device)[1]
        mask = torch.cat([past, mask], dim=1)
        position = (mask.cumsum(1) - 1).clamp(min=0)[:, past.shape[1] :]
        layers = self.network.config.get_text_config().num_hidden_layers
        cache = growing_cache(layers, known, ids.shape[1]) if self._keeps_all_keys else None
        if any(known) and cache is not None:
            parts = []
            for start in range(0, len(rest), _READ_AT_ONCE):
                rows, unread = slice(start, start + _READ_AT_ONCE), len(rest[start])
                part = rows_of(cache, rows, mask.shape[1] - unread)
                parts.append(self._forward(ids[rows, -unread:], mask[rows], position[rows, -unread:], part)[0])
            logits = torch.cat(parts)
            for layer in cache.layers:
                layer.length = mask.shape[1]
        else:
            logits, cache = self._forward(ids, mask, position, cache)
        if keep:
            for place, row in enumerate(order):
                _remember(memory, prompts[row], cache, place, mask)
        return cache, mask, logits, order

    def _forward(self, ids: Tensor, mask: Tensor, position: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Return float32 logits ``(B, V)`` behind tokens ``(B, T)``, and the model's cache with them."""
        output = self.network(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float(), output.past_key_values


def load_chat_model(name: str, *, dtype: Literal["float32", "bfloat16"], device: str) -> ChatModel:
    """Load a chat model of the hub or of a local folder.

    Args:
        name: Hub name such as ``Qwen/Qwen3-4B``, or a folder written by ``save_pretrained``.
        dtype: Type of the weights in memory.
        device: Where to compute, such as ``cpu`` or ``cuda:1``.

    Raises:
        InputError: no chat model could be loaded by that name, or onto that device.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        network = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype)).to(device)
    except Exception as error:  # unknown names, torn files and absent devices end in errors of a dozen types
        known = "is a folder, but not one that save_pretrained wrote" if Path(name).is_dir() else "is no local folder"
        raise InputError(
            f"agent.policy.name={name!r} {known}, and no model of that name could be loaded onto {device}:\n{error}\n"
            "Type a hub name or a folder with config.json, weights and tokenizer:  agent.policy.name=path/to/folder"
        ) from error
    return ChatModel(network, tokenizer)


def _shared_beginnings(prompts: Sequence[list[int]]) -> list[list[int]]:
    """Return what several prompts begin with, in full blocks, so that it is read once for all of them."""
    names = [block_names(prompt[:-1]) for prompt in prompts]
    counts = Counter(name for row in names for name in row)
    shared = {}
    for prompt, row in zip(prompts, names, strict=True):
        if depth := sum(counts[name] > 1 for name in row):
            shared[row[depth - 1]] = prompt[: BLOCK * depth]
    return list(shared.values())


def _remember(memory: PrefixCache, tokens: Sequence[int], cache: Any, row: int, mask: Tensor) -> None:
    columns = mask[row].nonzero()[:, 0]
    memory.add(tokens[: len(columns)], cache, row, columns)


def _moved_forward(kept: Sequence[int]) -> list[int]:
    """Return the places of the rows that are kept, with the last of them where one is not."""
    last = [place for place in kept if place >= len(kept)]
    return [place if place in kept else last.pop() for place in range(len(kept))]


def _left_padded(prompts: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask, shape ``(B, T)``; padding is token 0, which no row sees."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, dtype=torch.int64, device=device), torch.tensor(mask, dtype=torch.int64, device=device)


def _chosen(logits: Tensor, draws: Sequence[torch.Generator], temperature: float) -> Tensor:
    """Choose a token a row: logits ``(B, V)`` to ids ``(B,)``."""
    if temperature == 0:
        return logits.argmax(1)
    noise = torch.stack(
        [torch.empty_like(row).exponential_(generator=draw) for row, draw in zip(logits, draws, strict=True)]
    )
    return (logits / temperature - noise.log()).argmax(1)
