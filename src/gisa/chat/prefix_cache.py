"""Keys and values of what a model has read: kept from call to call, and grown without a copy for every token."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

BLOCK = 16
"""Tokens that are remembered and forgotten together."""

_ROOM = 128  # tokens for which a copy makes room; most replies are shorter


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
        found = []
        for name in block_names(tokens):
            if name not in self._blocks:
                break
            found.append(name)
        for name in reversed(found):  # the end of a sequence is to be forgotten before its beginning
            self._blocks.move_to_end(name)
        return [self._blocks[name] for name in found]

    def add(self, tokens: Sequence[int], cache: Cache, row: int, columns: Tensor) -> None:
        """Remember a sequence as far as it fills blocks; nothing where the layers differ in the shapes of keys.

        Args:
            tokens: Of T tokens.
            cache: Of ``GrowingLayer``, which holds it.
            row: Its row.
            columns: Where its tokens are in the row, shape ``(T,)``.
        """
        held = [one[row] for layer in cache.layers for one in (layer.keys, layer.values)]
        if len({one.shape for one in held}) > 1:
            return
        for name, places in reversed(list(zip(block_names(tokens), torch.split(columns, BLOCK), strict=False))):
            if name not in self._blocks:
                self._blocks[name] = torch.stack([one[:, places] for one in held])
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
            self.keys, self.values = (torch.nn.functional.pad(one, (0, 0, 0, more)) for one in (self.keys, self.values))
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
        for one in (self.keys, self.values):
            one[moved] = one[indices[moved]]
        self.keys, self.values = self.keys[: len(indices)], self.values[: len(indices)]


def block_names(tokens: Sequence[int]) -> list[bytes]:
    """Name each full block by its tokens and all that come before it."""
    written, name, names = array("q", tokens).tobytes(), b"", []
    size = BLOCK * array("q").itemsize
    for end in range(size, len(written) + 1, size):
        name = hashlib.sha256(name + written[end - size : end]).digest()
        names.append(name)
    return names


def keeps_all_keys(network: Any) -> bool:
    """Tell whether a model's layers keep the keys and values of all tokens, and nothing else."""
    return {type(layer) for layer in DynamicCache(config=network.config.get_text_config()).layers} == {DynamicLayer}


def rows_of(cache: Cache, rows: slice, length: int) -> Cache:
    """Return a cache of some rows that writes into the same tensors, so many tokens of which are there."""
    part = Cache(layers=[GrowingLayer() for _ in cache.layers])
    for layer, whole in zip(part.layers, cache.layers, strict=True):
        layer.begin(whole.keys[rows], whole.values[rows], length)
    return part


def growing_cache(layers: int, known: Sequence[Sequence[Tensor]], more: int) -> Cache:
    """Return a cache that begins with what is remembered.

    Args:
        layers: Of the model.
        known: Blocks of each row; shorter ones follow on a gap.
        more: Tokens that are to be read next.
    """
    cache = Cache(layers=[GrowingLayer() for _ in range(layers)])
    length = BLOCK * max(map(len, known))
    if length:
        joined = [torch.cat(list(blocks), 2) if blocks else None for blocks in known]
        like = next(one for one in joined if one is not None)
        shape = (len(known), like.shape[1], length + more + _ROOM, like.shape[3])
        for layer in cache.layers:
            layer.begin(like.new_zeros(shape), like.new_zeros(shape), length)
        for row, one in enumerate(joined):
            if one is not None:
                for layer, keys, values in zip(cache.layers, one[::2], one[1::2], strict=True):
                    layer.keys[row, :, length - one.shape[2] : length] = keys
                    layer.values[row, :, length - one.shape[2] : length] = values
    return cache
