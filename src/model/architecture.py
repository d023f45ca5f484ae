"""How a transformers causal LM is read: its parts, and the ways of reading many sequences, plain ones and shortcuts.

Which shortcuts are exact for a network does not follow from its name; ``probe.py`` finds out.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from src.launch.errors import InputError
from src.model.attention import additive_mask

LONG = 200
"""Tokens of a row from which examples are attended to one by one.

With SmolLM2 and rows of 200 to 250 tokens, a step takes 0.7 of the time in bfloat16 and 0.9 in float32; small models
have shorter rows, and many examples.
"""
_WIDE = 512
"""Width of a state from which that pays on a CPU for rows of any length, as it leaves no padding.

With SmolLM2, 576 wide, and rows of 55 to 120 tokens, 80% of them filled, a step takes 0.88 of the time in float32.
"""

# Of what a decoder takes and returns; older transformers know it as the second only, 5.40 no longer.
_CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


class _Output(dict[str, Any]):
    """What a decoder returns, with nothing but its states."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)

    def __getitem__(self, key: Any) -> Any:
        return self["last_hidden_state"] if key == 0 else super().__getitem__(key)


@dataclass(frozen=True)
class Head:
    """The language-model head as a matrix, read once for several products.

    Attributes:
        weight: One row a token, shape ``(V, D)``; trained rows of an adapter are in it.
        bias: One number a token, shape ``(V,)``, or ``None``.
        logits: What gives the logits of all tokens instead, where they are capped or scaled.
        tokens: The tokens it is the head of; all where there is None.
    """

    weight: Tensor
    bias: Tensor | None
    logits: Callable[[Tensor], Tensor] | None = None
    tokens: Tensor | None = None

    def __call__(self, states: Tensor) -> Tensor:
        """Return float32 logits ``(..., V)`` of normed hidden states ``(..., D)``."""
        if self.logits is None:
            return nn.functional.linear(states, self.weight, self.bias).float()
        every = self.logits(states)
        return every if self.tokens is None else every[..., self.tokens]

    @property
    def linear(self) -> bool:
        """Whether the logits of a mean of states are the mean of their logits."""
        return self.logits is None

    def of(self, tokens: Tensor) -> Head:
        """Return the head of some tokens only."""
        if self.logits is not None:
            return replace(self, tokens=tokens)
        # Its gradient names the rows; that of `weight[tokens]` would be a second matrix as large as the whole head.
        rows = nn.functional.embedding(tokens, self.weight, sparse=True)
        return Head(rows, None if self.bias is None else self.bias[tokens])


@dataclass
class Architecture:
    """A network's parts and shortcuts.

    Symbols: B rows, T tokens of the longest, D width of a state, V vocabulary.

    Attributes:
        network: The transformers causal LM, adapters included, without PEFT's wrapper.
        decoder: Its transformer blocks with the final norm, without the head.
        norm: Names of the parts between the last block and the head, beside the list of blocks; None where they are
            not found, and intermediate states cannot be read.
        linear_head: Whether logits are the head's product and nothing more; others cap or scale it.
        masked: Whether examples may share a row under a mask that keeps them apart.
        by_example: Whether they may share a row and be attended to one by one.
        shared: Whether continuations of a sequence may share its cache.
        reach: Longest sequence, in tokens, for which all that is known; past a window none of it holds.
        generation: How the network's own cache goes on: ``together`` from rows padded on the left, ``alone`` from one
            row, or not at all, so that whole sequences are read again for every token, ``reread``.
        asked: Longest sequence that has been asked for.
        notes: Why a shortcut is not taken, or intermediate states cannot be read.
    """

    network: Any
    decoder: Any
    norm: tuple[str, ...] | None = None
    linear_head: bool = True
    masked: bool = False
    by_example: bool = False
    shared: bool = False
    reach: int = 0
    generation: Literal["together", "alone", "reread"] = "reread"
    asked: int = 0
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Any:
        """The config of the text model; composite ones have several."""
        return self.network.config.get_text_config(decoder=True)

    @property
    def context(self) -> int | None:
        """Most tokens that the network reads; None where its config does not say."""
        return getattr(self.config, "max_position_embeddings", None)

    @property
    def stack(self) -> tuple[nn.Module | None, list[nn.Module]]:
        """The transformer blocks, and the module that holds their list; none where they are not found."""
        depth = self.config.num_hidden_layers
        for holder in self.decoder.modules():
            for part in holder.children():
                if isinstance(part, nn.ModuleList) and len(part) == depth:
                    return holder, list(part)
        return None, []

    def plain(self, input_ids: Tensor, present: Tensor | None = None, *, hidden: bool = False) -> Any:
        """Read sequences one a row, padded on the right, under the network's own masks; the slow and sure way."""
        mask = torch.ones_like(input_ids) if present is None else present.long()
        options = {"output_hidden_states": True} if hidden else {}
        return self.decoder(input_ids=input_ids, attention_mask=mask, use_cache=False, **options)

    def from_cache(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, cache: Any
    ) -> tuple[Tensor, Any]:
        """Read what comes behind the tokens of a cache; none begins one.

        Args:
            input_ids: New tokens, shape ``(B, T)``.
            attention_mask: Of those before them, too, in any form that the network's decoder takes.
            position_ids: Of the new ones, shape ``(B, T)``.
            cache: Keys and values of the network's layers; it is changed.

        Returns:
            States ``(B, T, D)``, and the cache with the new tokens; None from networks that keep none.
        """
        cached = {_CACHE: cache, "use_cache": True, "position_ids": position_ids}
        output = self.decoder(input_ids=input_ids, attention_mask=attention_mask, **cached)
        return output.last_hidden_state, output.get(_CACHE)

    def final(self, states: Tensor) -> Tensor:
        """Apply what stands between a block and the head to states ``(..., D)``."""
        holder, _ = self.stack
        for name in self.norm or ():
            states = getattr(holder, name)(states)
        return states

    def read_head(self) -> Head:
        """Return the head for several products of one step: an adapter copies the whole matrix at every reading."""
        head = self.network.get_output_embeddings()
        bias = getattr(getattr(head, "original_module", head), "bias", None)  # PEFT's wrapper does not show it
        return Head(head.weight, bias, None if self.linear_head else self.logits)

    def head(self, states: Tensor) -> Tensor:
        """Return float32 logits ``(..., V)`` of normed states ``(..., D)``."""
        if not self.linear_head:
            return self.logits(states)
        logits: Tensor = self.network.get_output_embeddings()(states)
        return logits.float()

    def logits(self, states: Tensor) -> Tensor:
        """Return what ``head`` does, by all of the network's own code behind its decoder."""
        flat = states.reshape(1, -1, states.shape[-1])
        decoder = self.decoder
        before = vars(decoder).get("forward")
        decoder.forward = lambda *_, **__: _Output(last_hidden_state=flat)
        try:
            tokens = torch.zeros(1, flat.shape[1], dtype=torch.int64, device=states.device)
            logits: Tensor = self.network(input_ids=tokens, use_cache=False).logits
        finally:
            del decoder.forward
            if before is not None:
                decoder.forward = before
        return logits.reshape(*states.shape[:-1], -1).float()

    def row_states(self, input_ids: Tensor, number: Tensor, rows: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Run the blocks over whole sequences, the shortest way that is exact.

        Args:
            input_ids: Tokens, shape ``(B, T)``.
            number: Number of the example within its row, from 1; 0 for padding; shape ``(B, T)``.
            rows: Which states are wanted, shape ``(B, T)``, bool, N of them True.
            blocks: Intermediate blocks to read, too, counted from 1.

        Returns:
            States of the last block and of each of those, ``(N, D)``, all behind the final norm.
        """
        width = input_ids.shape[1]
        one_by_one = width >= LONG or (
            getattr(self.config, "hidden_size", 0) >= _WIDE and input_ids.device.type == "cpu"
        )
        if self.by_example and one_by_one and width <= self.reach:
            rows = rows[number > 0][None]
            output = read_by_example(self, input_ids, number, hidden=bool(blocks))
        elif self.masked and width <= self.reach:
            output = read_masked(self, input_ids, number, hidden=bool(blocks))
        else:
            place, present = _one_a_row(number)
            rows = rows.flatten()[place] & present
            output = self.plain(input_ids.flatten()[place], present, hidden=bool(blocks))
        # The last of the hidden states is normed already.
        return [output.last_hidden_state[rows], *(self.final(output.hidden_states[block][rows]) for block in blocks)]

    def continued(self, input_ids: Tensor, attention_mask: Tensor, more: int) -> SharedCache | Apart:
        """Read sequences that go on by up to so many tokens each; see ``SharedCache``."""
        way = SharedCache if self.shared and input_ids.shape[1] + more <= self.reach else Apart
        return way(self, input_ids, attention_mask)


def read_masked(found: Architecture, input_ids: Tensor, number: Tensor, *, hidden: bool = False) -> Any:
    """Read rows of several examples under a mask that keeps them apart; each begins at position 0.

    Args:
        found: The network.
        input_ids: Tokens, shape ``(B, T)``.
        number: Number of the example within its row, from 1; 0 for padding; shape ``(B, T)``.
        hidden: Whether all hidden states are wanted.
    """
    same_example = number[:, :, None] == number[:, None, :]
    return found.decoder(
        input_ids=input_ids,
        attention_mask=additive_mask(same_example.tril(), found.network.dtype),
        position_ids=same_example.tril(-1).sum(2),
        output_hidden_states=hidden,
        use_cache=False,
    )


def read_by_example(found: Architecture, input_ids: Tensor, number: Tensor, *, hidden: bool = False) -> Any:
    """Read rows as ``read_masked`` does, as one row of all examples without padding, attended to one by one.

    Returns:
        States of the tokens that are there, as one row.
    """
    row = torch.arange(len(input_ids), device=input_ids.device)[:, None]
    present = number > 0
    example = (number + row * input_ids.shape[1])[present]
    lengths = torch.unique_consecutive(example, return_counts=True)[1]
    begin = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    return found.decoder(
        input_ids=input_ids[present][None],
        attention_mask=additive_mask(present.new_ones(1, 1, 1), found.network.dtype),  # not read
        position_ids=(torch.arange(len(begin), device=begin.device) - begin)[None],
        example_lengths=lengths.tolist(),
        output_hidden_states=hidden,
        use_cache=False,
    )


class SharedCache:
    """Continuations of sequences side by side, by tree attention: what they share is read once and never copied.

    A mask lets each see its sequence and its own ancestors.

    Args:
        found: The network.
        input_ids: Sequences, shape ``(B, S)``, padded on either side.
        attention_mask: 1 for tokens, 0 for padding, shape ``(B, S)``.

    Attributes:
        states: Of the sequences, shape ``(B, S, D)``.
    """

    def __init__(self, found: Architecture, input_ids: Tensor, attention_mask: Tensor) -> None:
        self._found = found
        self._cache = DynamicCache(config=found.config)
        position = (attention_mask.cumsum(1) - 1).clamp_(min=0)
        self.states: Tensor = found.from_cache(input_ids, attention_mask, position, self._cache)[0]
        self.begin(attention_mask.bool()[:, None, :])

    def begin(self, visible: Tensor) -> None:
        """Say which tokens each of K beginnings of every sequence is made of, shape ``(B, K, S)``, bool."""
        self._visible, self._position = visible, visible.sum(2)

    def extend(self, tokens: Tensor, parent: Tensor) -> Tensor:
        """Append one token to continuations; return states ``(B, K, D)``.

        Args:
            tokens: Of each new continuation, shape ``(B, K)``.
            parent: Which of those before it goes on, shape ``(B, K)``.
        """
        batch, count = tokens.shape
        inherited = self._visible.gather(1, parent[..., None].expand(-1, -1, self._visible.shape[2]))
        itself = torch.eye(count, dtype=torch.bool, device=tokens.device).expand(batch, -1, -1)
        position = self._position.gather(1, parent)
        visible = torch.cat([inherited, itself], dim=2)
        mask = additive_mask(visible, self.states.dtype)
        states: Tensor = self._found.from_cache(tokens, mask, position, self._cache)[0]
        self._visible, self._position = visible, position + 1
        return states


class Apart:
    """The same by plain passes: every continuation is read with its whole sequence, in a row of its own."""

    def __init__(self, found: Architecture, input_ids: Tensor, attention_mask: Tensor) -> None:
        self._found, self._ids = found, input_ids
        present = attention_mask.bool()
        order = (~present).long().argsort(dim=1, stable=True)  # padding goes to the right
        states = found.plain(input_ids.gather(1, order), present.gather(1, order)).last_hidden_state
        back = order.argsort(1)
        self.states: Tensor = states.gather(1, back[..., None].expand_as(states))
        self.begin(present[:, None, :])

    def begin(self, visible: Tensor) -> None:
        """See ``SharedCache``."""
        self._length = visible.sum(2)
        order = (~visible).long().argsort(dim=2, stable=True)[..., : int(self._length.max())]
        self._tokens = self._ids[:, None].expand_as(visible).gather(2, order)

    def extend(self, tokens: Tensor, parent: Tensor) -> Tensor:
        """See ``SharedCache``."""
        length = self._length.gather(1, parent)
        before = self._tokens.gather(1, parent[..., None].expand(-1, -1, self._tokens.shape[2]))
        self._tokens = torch.cat([before, before[..., :1]], 2).scatter(2, length[..., None], tokens[..., None])
        self._length = length + 1
        rows, last = self._tokens.flatten(0, 1), length.flatten()
        present = torch.arange(rows.shape[1], device=rows.device) <= last[:, None]
        states = self._found.plain(rows, present).last_hidden_state
        ends: Tensor = states[torch.arange(len(rows), device=rows.device), last]
        return ends.view(*tokens.shape, -1)


def _one_a_row(number: Tensor) -> tuple[Tensor, Tensor]:
    """Lay examples that share rows out one a row, padded on the right.

    Args:
        number: Number of the example within its row, from 1; 0 for padding; shape ``(B, T)``.

    Returns:
        The place of each token, ``row * T + column``, shape ``(E, longest)``, 0 for padding; and where a token is,
        bool, of the same shape. Tokens stand in the order in which they stood.
    """
    width = number.shape[1]
    row = torch.arange(len(number), device=number.device)[:, None]
    place = (number > 0).flatten().nonzero()[:, 0]
    example = (number + row * (width + 1)).flatten()[place]
    lengths = torch.unique_consecutive(example, return_counts=True)[1]
    present = torch.arange(int(lengths.max()), device=number.device) < lengths[:, None]
    return torch.zeros_like(present, dtype=torch.int64).masked_scatter(present, place), present


def require_compiler() -> None:
    """Refuse to compile where there is nothing to do it with.

    Raises:
        InputError: there is neither a GPU nor a C++ compiler.
    """
    if not torch.cuda.is_available() and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise InputError(
            "model.compile=true: torch.compile needs a C++ compiler on a CPU, and there is none.\n"
            "Install one, such as g++, or type:  model.compile=false"
        )


def compile_blocks(found: Architecture) -> None:
    """Compile the transformer blocks for sequences of any length; weights keep their names.

    Examples that share a row are then read under a mask: attending to each by itself would compile anew for every
    batch.
    """
    found.by_example = False
    for block in found.stack[1]:
        block.compile(dynamic=True)
