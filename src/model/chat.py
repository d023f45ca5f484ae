"""A chat model in this process: conversations in its own template, and replies to many of them at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from src.errors import InputError
from src.model.attention import attend_leanly
from src.model.chat_format import ChatFormat
from src.model.prefix_cache import BLOCK, PrefixCache, block_names, growing_cache, keeps_all_keys

_MATCHED = 3, 2  # last tokens that are looked up, in this order


class Written(NamedTuple):
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
        attend_leanly(network)
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
        lookup_tokens: int = 0,
    ) -> list[Written]:
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
            lookup_tokens: Most tokens that are drafted at a time by ``PromptLookup`` and read together; those that the
                model would not have chosen itself are dropped again, so that a reply stays what it is without them.
                Models that forget keys get no draft.
        """
        device = self.network.device
        draws = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        written: list[list[int]] = [[] for _ in prompts]
        going, ends = list(range(len(prompts))), dict[int, int]()
        at_hand = PrefixCache() if memory is None else memory
        if self._keeps_all_keys:
            shared = [one for one in _shared_beginnings(prompts) if BLOCK * len(at_hand.find(one)) < len(one)]
            if shared:
                self._read(shared, at_hand, keep=True)
        drafting = lookup_tokens > 0 and self._keeps_all_keys
        lookups = [PromptLookup(prompt) for prompt in prompts if drafting]
        drafts: list[list[int]] = [[] for _ in prompts]
        cache, mask, logits = self._read(prompts, at_hand)
        while True:
            chosen = _chosen(logits, drafts, [draws[row] for row in going], temperature)
            kept = []
            for place, (row, tokens) in enumerate(zip(going, chosen, strict=True)):
                before, room = len(written[row]), max_tokens - len(written[row])
                cut = next((at for at, token in enumerate(tokens) if token in self.ends), len(tokens))
                written[row] += tokens[: min(cut, room)]
                if cut < min(len(tokens), room):
                    ends[row] = tokens[cut]
                elif len(written[row]) < max_tokens:
                    kept.append(place)
                right = min(len(written[row]) - before, len(tokens) - 1)  # of the draft; what follows is not so written
                mask[place, mask.shape[1] - logits.shape[1] + 1 + right :] = 0
                if lookups:
                    lookups[row].extend(written[row][before:])
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
                mask = mask[places]
            rooms = [min(lookup_tokens, max_tokens - len(written[row]) - 1) for row in going]
            drafts = [lookups[row].draft(room) if lookups else [] for row, room in zip(going, rooms, strict=True)]
            ids, new = _right_padded(
                [[written[row][-1], *draft] for row, draft in zip(going, drafts, strict=True)], device
            )
            position = torch.tensor([[len(prompts[row]) + len(written[row]) - 1] for row in going], device=device)
            mask = torch.cat([mask, new], dim=1)
            logits = self._forward(
                ids, mask, position + torch.arange(ids.shape[1], device=device), cache, ids.shape[1]
            )[0]
        return [Written(tokens, ends.get(row)) for row, tokens in enumerate(written)]

    def _read(
        self, prompts: Sequence[list[int]], memory: PrefixCache, *, keep: bool = False
    ) -> tuple[Any, Tensor, Tensor]:
        """Read prompts without what is remembered of their beginnings, and remember them if they are to be kept.

        Returns:
            The model's cache with a row a prompt; which of its columns are tokens, shape ``(B, T)``; and the logits of
            the next token, ``(B, 1, V)``.
        """
        known = [memory.find(prompt[:-1]) for prompt in prompts]  # of each, a token is left to be read
        rest = [prompt[BLOCK * len(blocks) :] for prompt, blocks in zip(prompts, known, strict=True)]
        ids, mask = _left_padded(rest, self.network.device)
        past = _left_padded([[0] * BLOCK * len(blocks) for blocks in known], self.network.device)[1]
        mask = torch.cat([past, mask], dim=1)
        position = (mask.cumsum(1) - 1).clamp(min=0)[:, past.shape[1] :]
        layers = self.network.config.get_text_config().num_hidden_layers
        begun = growing_cache(layers, known, ids.shape[1]) if self._keeps_all_keys else None
        logits, cache = self._forward(ids, mask, position, begun, 1)
        if keep:
            for row, prompt in enumerate(prompts):
                _remember(memory, prompt, cache, row, mask)
        return cache, mask, logits

    def _forward(self, ids: Tensor, mask: Tensor, position: Tensor, cache: Any, last: int) -> tuple[Tensor, Any]:
        """Return float32 logits ``(B, last, V)`` behind the last of tokens ``(B, T)``, and the cache with all."""
        output = self.network(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=last,
        )
        return output.logits[:, -last:].float(), output.past_key_values


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


class PromptLookup:
    """Drafts what a conversation goes on with: what followed where its last tokens stood before.

    Source: prompt lookup decoding, as transformers' ``prompt_lookup_num_tokens``, for many conversations at once.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        """Take a conversation."""
        self._tokens: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}  # some tokens to the place behind where they stood last
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Take what it goes on with."""
        for token in tokens:
            place = len(self._tokens)
            for size in _MATCHED:
                if place >= size:
                    self._next[(*self._tokens[place - size :],)] = place
            self._tokens.append(token)

    def draft(self, most: int) -> list[int]:
        """Return at most so many tokens; none if the last ones have not been there before."""
        for size in _MATCHED:
            place = self._next.get((*self._tokens[-size:],))
            if place is not None:
                return self._tokens[place : place + most]
        return []


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


def _right_padded(rows: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask as ``_left_padded`` does, with the padding on the other side."""
    longest = max(map(len, rows))
    ids = [row + [0] * (longest - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return torch.tensor(ids, dtype=torch.int64, device=device), torch.tensor(mask, dtype=torch.int64, device=device)


def _chosen(
    logits: Tensor, drafts: Sequence[list[int]], draws: Sequence[torch.Generator], temperature: float
) -> list[list[int]]:
    """Choose the tokens of each row: as long as the draft has the same ones, and the first one that it has not.

    Args:
        logits: Shape ``(B, D, V)``: behind what is written, behind the first token of the draft, and so on.
        drafts: Of each row, at most D - 1 tokens.
        draws: Of each row.
        temperature: 0 takes the likeliest token.
    """
    chosen: list[list[int]] = [[] for _ in drafts]
    agreed = list(range(len(drafts)))
    for at in range(logits.shape[1]):
        tokens = _chosen_tokens(logits[agreed, at], [draws[row] for row in agreed], temperature).tolist()
        for row, token in zip(agreed, tokens, strict=True):
            chosen[row].append(token)
        agreed = [row for row in agreed if drafts[row][at : at + 1] == chosen[row][at:]]
        if not agreed:
            break
    return chosen


def _chosen_tokens(logits: Tensor, draws: Sequence[torch.Generator], temperature: float) -> Tensor:
    """Choose a token a row: logits ``(B, V)`` to ids ``(B,)``."""
    if temperature == 0:
        return logits.argmax(1)
    noise = torch.stack(
        [torch.empty_like(row).exponential_(generator=draw) for row, draw in zip(logits, draws, strict=True)]
    )
    return (logits / temperature - noise.log()).argmax(1)
