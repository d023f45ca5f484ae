"""Replies of a chat model in this process: many conversations at once, and no token read twice."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's usual name
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from src.gisa.chat.format import ChatFormat, end_tokens
from src.launch.errors import InputError
from src.launch.precision import Dtype, torch_dtype
from src.model.probe import examine

BLOCK = 16
"""Tokens that are remembered and forgotten together."""

_READ_AT_ONCE = 16  # conversations: enough for products of matrices to be fast, few enough to be about equally long
_ROOM = 128  # tokens for which a copy of a cache makes room; most replies are shorter


class Generation(NamedTuple):
    """What a model wrote: tokens, and the one that ends the reply; None where the limit of tokens came first."""

    tokens: list[int]
    end: int | None

    @property
    def ended(self) -> bool:
        """Whether the reply came to its end."""
        return self.end is not None


class Generator(Protocol):
    """Continues conversations, with weights that stay as they are as long as it is used.

    Continuous batching of transformers 5.24 would be one, too, and is none: on a CPU it takes 2.0 to 2.2 times the time
    of ``CachedGenerator`` for 80 episodes of two or three turns and 1.2 to 1.5 times for 12 whole ones (SmolLM2-135M in
    float32, one and two threads of an AMD EPYC with AVX2), with the same tokens; in bfloat16 it takes 0.8 times, with
    other tokens in one reply of nine. It has no seed for a reply: what is drawn for one would depend on its neighbours.
    """

    def generate(
        self, prompts: Sequence[list[int]], *, seeds: Sequence[int], max_tokens: int, temperature: float
    ) -> list[Generation]:
        """Continue several conversations, each as it would be continued alone.

        Args:
            prompts: Tokens of the conversations, of any lengths.
            seeds: One a conversation, of what is drawn for it.
            max_tokens: Most tokens of one reply.
            temperature: 0 takes the likeliest token.
        """


class ChatModel(ChatFormat):
    """A transformers causal LM with a chat template; it is put into the mode of evaluation, with packed attention.

    Attributes:
        context_tokens: Most tokens it can read and write in one conversation; None where its config does not say.

    Raises:
        InputError: see ``ChatFormat``.
    """

    def __init__(self, network: Any, tokenizer: Any) -> None:
        super().__init__(tokenizer, end_tokens(network.generation_config))
        self.network = network.eval()
        self.architecture = examine(network)
        self.context_tokens: int | None = self.architecture.context


def load_chat_model(name: str, *, dtype: Dtype, device: str) -> ChatModel:
    """Load a chat model: a hub name such as ``Qwen/Qwen3-4B``, or a folder written by ``save_pretrained``.

    Raises:
        InputError: no chat model could be loaded by that name, or onto that device.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        network = AutoModelForCausalLM.from_pretrained(name, dtype=torch_dtype(dtype, device)).to(device)
    except Exception as error:  # unknown names, torn files and absent devices end in errors of a dozen types
        known = "is a folder, but not one that save_pretrained wrote" if Path(name).is_dir() else "is no local folder"
        raise InputError(
            f"agent.policy.name={name!r} {known}, and no model of that name could be loaded onto {device}:\n{error}\n"
            "Type a hub name or a folder with config.json, weights and tokenizer:  agent.policy.name=path/to/folder"
        ) from error
    return ChatModel(network, tokenizer)


class CachedGenerator:
    """Generates in one batch that replies leave as they end, and keeps what it has read from call to call.

    Each row draws from a generator of its own, so that a reply depends on its neighbours, and on what is remembered,
    by the rounding of sums only. Source of the draw: the largest of ``p / e`` with ``e`` exponential is a sample of
    ``p`` (Gumbel-max).

    Args:
        model: The chat model.
        most_bytes: Most bytes of keys and values to keep; 0 keeps none.

    Attributes:
        memory: What is kept; None for nothing.
    """

    def __init__(self, model: ChatModel, most_bytes: float = 0.0) -> None:
        self.model = model
        self.memory = PrefixCache(most_bytes) if most_bytes else None
        layers = DynamicCache(config=model.architecture.config).layers
        together = model.architecture.generation == "together"
        self._keeps_all_keys = together and {type(layer) for layer in layers} == {DynamicLayer}

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[list[int]], *, seeds: Sequence[int], max_tokens: int, temperature: float
    ) -> list[Generation]:
        """See ``Generator``."""
        way = self.model.architecture.generation
        if way != "together" and len(prompts) > 1:  # padding would change what is read
            alone = partial(self.generate, max_tokens=max_tokens, temperature=temperature)
            return [alone([prompt], seeds=[seed])[0] for prompt, seed in zip(prompts, seeds, strict=True)]
        device = self.model.network.device
        draws = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        written: list[list[int]] = [[] for _ in prompts]
        ends = dict[int, int]()
        cache, mask, logits, going = self._read_all(prompts)
        position = mask.sum(1, keepdim=True)
        for count in range(1, max_tokens + 1):
            tokens = _chosen(logits, [draws[row] for row in going], temperature)
            kept = []
            for slot, (row, token) in enumerate(zip(going, tokens.tolist(), strict=True)):
                if token in self.model.ends:
                    ends[row] = token
                else:
                    written[row].append(token)
                    kept.append(slot)
            if count == max_tokens:
                kept = []
            if self.memory is not None and self._keeps_all_keys:
                for slot in {*range(len(going))} - {*kept}:
                    _remember(self.memory, prompts[going[slot]] + written[going[slot]], cache, slot, mask)
            if not kept:
                break
            if len(kept) < len(going):
                kept = _moved_forward(kept)
                going = [going[slot] for slot in kept]
                slots = torch.tensor(kept, device=device)
                cache.batch_select_indices(slots)
                tokens, mask, position = tokens[slots], mask[slots], position[slots]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            if way == "reread":
                logits = self._read([prompts[0] + written[0]], PrefixCache())[2]
                continue
            logits = self._forward(tokens[:, None], mask, position, cache)[0]
            position = position + 1
        return [Generation(tokens, ends.get(row)) for row, tokens in enumerate(written)]

    def _read_all(self, prompts: Sequence[list[int]]) -> tuple[Any, Tensor, Tensor, list[int]]:
        """Read prompts as ``_read`` does, once what several of them begin with."""
        at_hand = PrefixCache() if self.memory is None else self.memory
        if self._keeps_all_keys:
            shared = [
                tokens for tokens in _shared_beginnings(prompts) if BLOCK * len(at_hand.find(tokens)) < len(tokens)
            ]
            if shared:
                cache, mask, _, order = self._read(shared, at_hand)
                for slot, row in enumerate(order):
                    _remember(at_hand, shared[row], cache, slot, mask)
        return self._read(prompts, at_hand)

    def _read(self, prompts: Sequence[list[int]], memory: PrefixCache) -> tuple[Any, Tensor, Tensor, list[int]]:
        """Read prompts without what is remembered of their beginnings.

        Returns:
            The model's cache with a row a prompt; which of its columns are tokens, shape ``(B, T)``; the logits of the
            next token, ``(B, V)``; and the prompt of each row, as those with the most to read come first.
        """
        remembered = [memory.find(prompt[:-1]) for prompt in prompts]  # of each, a token is left to be read
        new = [prompt[BLOCK * len(blocks) :] for prompt, blocks in zip(prompts, remembered, strict=True)]
        order = sorted(range(len(prompts)), key=lambda row: -len(new[row]))
        known, rest = [remembered[row] for row in order], [new[row] for row in order]
        ids, mask = _left_padded(rest, self.model.network.device)
        past = _left_padded([[0] * BLOCK * len(blocks) for blocks in known], self.model.network.device)[1]
        mask = torch.cat([past, mask], dim=1)
        position = (mask.cumsum(1) - 1).clamp(min=0)[:, past.shape[1] :]
        layers = self.model.architecture.config.num_hidden_layers
        cache = _growing_cache(layers, known, ids.shape[1]) if self._keeps_all_keys else None
        if any(known) and cache is not None:
            parts = []
            for start in range(0, len(rest), _READ_AT_ONCE):
                rows, unread = slice(start, start + _READ_AT_ONCE), len(rest[start])
                part = _rows_of(cache, rows, mask.shape[1] - unread)
                parts.append(self._forward(ids[rows, -unread:], mask[rows], position[rows, -unread:], part)[0])
            logits = torch.cat(parts)
            for layer in cache.layers:
                layer.length = mask.shape[1]
        else:
            logits, cache = self._forward(ids, mask, position, cache)
        return cache, mask, logits, order

    def _forward(self, ids: Tensor, mask: Tensor, position: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Return float32 logits ``(B, V)`` behind tokens ``(B, T)``, and the model's cache with them."""
        found = self.model.architecture
        if found.generation == "reread":
            states = found.plain(ids, mask).last_hidden_state
        else:
            states, cache = found.from_cache(ids, mask, position, cache)
        return found.head(states[:, -1]), cache


class PrefixCache:
    """Keys and values of the beginnings of token sequences; those that were used least recently are forgotten first.

    They hold for the weights that read them only: whoever changes weights begins with an empty one.

    Source: blocks named by a hash of all tokens up to their ends, as in vLLM (arXiv 2309.06180).

    Attributes:
        most_bytes: Most bytes of keys and values.
        bytes: Of those that are there.
    """

    def __init__(self, most_bytes: float = float("inf")) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._blocks: OrderedDict[bytes, Tensor] = OrderedDict()

    def find(self, tokens: Sequence[int]) -> list[Tensor]:
        """Return the longest beginning that is remembered, in blocks.

        Returns:
            Each of shape ``(2 x layers, heads, BLOCK, D)``: the keys of a layer, its values, the keys of the next ...
        """
        names = list(takewhile(self._blocks.__contains__, _block_names(tokens)))
        for name in reversed(names):  # the end of a sequence is to be forgotten before its beginning
            self._blocks.move_to_end(name)
        return [self._blocks[name] for name in names]

    def add(self, tokens: Sequence[int], cache: Cache, row: int, columns: Tensor) -> None:
        """Remember a sequence of T tokens as far as it fills blocks; nothing where the layers' keys differ in shape.

        A cache of ``GrowingLayer`` holds it in a row, its tokens in the columns, shape ``(T,)``.
        """
        held = [tensor[row] for layer in cache.layers for tensor in (layer.keys, layer.values)]
        if len({tensor.shape for tensor in held}) > 1:
            return
        for name, block in reversed(list(zip(_block_names(tokens), torch.split(columns, BLOCK), strict=False))):
            if name not in self._blocks:
                self._blocks[name] = torch.stack([tensor[:, block] for tensor in held])
                self.bytes += self._blocks[name].nbytes
            self._blocks.move_to_end(name)
            while self.bytes > self.most_bytes:
                self.bytes -= self._blocks.popitem(last=False)[1].nbytes


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a layer, with room for more behind the ``length`` tokens that are there."""

    keys: Tensor
    values: Tensor
    is_initialized: bool
    length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values, shape ``(B, heads, T, D)``, and return all that are there."""
        if not self.is_initialized:
            self.begin(key_states[:, :, :0], value_states[:, :, :0])
        begin, self.length = self.length, self.length + key_states.shape[2]
        if self.length > self.keys.shape[2]:
            more = self.length + _ROOM - self.keys.shape[2]
            # Zeros, as masked columns are multiplied by a weight of 0.
            self.keys, self.values = (F.pad(tensor, (0, 0, 0, more)) for tensor in (self.keys, self.values))
        self.keys[:, :, begin : self.length] = key_states
        self.values[:, :, begin : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def begin(self, keys: Tensor, values: Tensor, length: int = 0) -> None:
        """Take tensors to write into, of which some tokens are there."""
        self.keys, self.values, self.length = keys, values, length
        self.device, self.dtype, self.is_initialized = keys.device, keys.dtype, True

    def get_seq_length(self) -> int:
        """Return the number of tokens that are there."""
        return self.length

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep rows: each in its place, or moved forward to the place of one that is not kept."""
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero()[:, 0]
        for tensor in (self.keys, self.values):
            tensor[moved] = tensor[indices[moved]]
        self.keys, self.values = self.keys[: len(indices)], self.values[: len(indices)]


def _block_names(tokens: Sequence[int]) -> list[bytes]:
    """Name each full block by its tokens and all that come before it."""
    written, name, names = array("q", tokens).tobytes(), b"", []
    size = BLOCK * array("q").itemsize
    for end in range(size, len(written) + 1, size):
        name = hashlib.sha256(name + written[end - size : end]).digest()
        names.append(name)
    return names


def _shared_beginnings(prompts: Sequence[list[int]]) -> list[list[int]]:
    """Return what several prompts begin with, in full blocks, so that it is read once for all of them."""
    names = [_block_names(prompt[:-1]) for prompt in prompts]
    counts = Counter(name for row in names for name in row)
    shared = {}
    for prompt, row in zip(prompts, names, strict=True):
        if depth := sum(counts[name] > 1 for name in row):
            shared[row[depth - 1]] = prompt[: BLOCK * depth]
    return list(shared.values())


def _rows_of(cache: Cache, rows: slice, length: int) -> Cache:
    """Return a cache of some rows that writes into the same tensors, so many tokens of which are there."""
    part = Cache(layers=[GrowingLayer() for _ in cache.layers])
    for layer, whole in zip(part.layers, cache.layers, strict=True):
        layer.begin(whole.keys[rows], whole.values[rows], length)
    return part


def _growing_cache(layers: int, known: Sequence[Sequence[Tensor]], more: int) -> Cache:
    """Return a cache that begins with the remembered blocks of each row, shorter ones behind a gap, and has room."""
    cache = Cache(layers=[GrowingLayer() for _ in range(layers)])
    length = BLOCK * max(map(len, known))
    if length:
        joined = {row: torch.cat(list(blocks), 2) for row, blocks in enumerate(known) if blocks}
        like = next(iter(joined.values()))
        shape = (len(known), like.shape[1], length + more + _ROOM, like.shape[3])
        for layer in cache.layers:
            layer.begin(like.new_zeros(shape), like.new_zeros(shape), length)
        for row, tensors in joined.items():
            columns = slice(length - tensors.shape[2], length)
            for layer, keys, values in zip(cache.layers, tensors[::2], tensors[1::2], strict=True):
                layer.keys[row, :, columns], layer.values[row, :, columns] = keys, values
    return cache


def _remember(memory: PrefixCache, tokens: Sequence[int], cache: Any, row: int, mask: Tensor) -> None:
    columns = mask[row].nonzero()[:, 0]
    memory.add(tokens[: len(columns)], cache, row, columns)


def _moved_forward(kept: Sequence[int]) -> list[int]:
    """Return the places of the rows that are kept, with the last of them where one is not."""
    last = [slot for slot in kept if slot >= len(kept)]
    return [slot if slot in kept else last.pop() for slot in range(len(kept))]


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
