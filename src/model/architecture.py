"""How a transformers causal LM is read: its parts, found by what they compute, and the shortcuts that are exact for it.

A shortcut is a faster way to the same states: examples that share a row, continuations that share a cache. Whether a
network allows it does not follow from its name. So every network is asked once, when it is loaded: the shortcut's
states are compared with those of plain passes, one sequence a row, padded on the right, under the network's own masks.
What does not agree is not used; what cannot be read even plainly is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from src.launch.errors import InputError
from src.model.attention import additive_mask, use_packed_attention

LONG = 200
"""Tokens of a row from which examples are attended to one by one.

With SmolLM2 and rows of 200 to 250 tokens, a step takes 0.7 of the time in bfloat16 and 0.9 in float32; small models
have shorter rows, and many examples.
"""
_TAIL = 6  # tokens of the second example in a row; a leak from the first shows with few, too
_TOLERANCE = {torch.float32: 2e-5, torch.float64: 2e-5, torch.bfloat16: 0.04, torch.float16: 0.01}  # of a state's norm


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
    notes: dict[str, str] = field(default_factory=dict)
    _asked: int = 0

    @classmethod
    @torch.no_grad()
    def examine(cls, network: Any) -> Architecture:
        """Find the parts of a network, and how it generates.

        Raises:
            InputError: the network is not causal, or its states or logits cannot be read plainly.
        """
        network = getattr(network, "get_base_model", lambda: network)()
        found = cls(network, _decoder_of(network))
        with _evaluating(found.network):
            rows = _read_plainly(found)
            _examine_head(found, rows)
            _examine_attention(found, rows)
            _examine_generation(found, rows)
            _examine_shortcuts(found, rows)
        found.extend(LONG)
        return found

    @torch.no_grad()
    def extend(self, longest: int) -> None:
        """Take shortcuts for sequences of up to so many tokens where they are exact; longer ones are read plainly.

        Raises:
            InputError: the network cannot read as many.
        """
        longest = min(longest, self.context or longest)
        if longest > self._asked and (self.by_example or self.masked):
            self._asked = longest
            with _evaluating(self.network):
                _examine_reach(self, longest)

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
        if self.by_example and LONG <= width <= self.reach:
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


def agree(found: Tensor, expected: Tensor) -> bool:
    """Tell whether states ``(..., D)`` are the same but for rounding, each measured by its norm.

    In half precision a few may differ by more, as where a mixture of experts chooses another one by a hair.
    """
    if found.shape != expected.shape:
        return False
    error = (found.double() - expected.double()).norm(dim=-1) / expected.double().norm(dim=-1).clamp(min=1e-12)
    worst = error.max() if expected.dtype in (torch.float32, torch.float64) else error.flatten().quantile(0.8)
    return bool(worst <= _TOLERANCE[expected.dtype])


@contextmanager
def _evaluating(network: Any) -> Iterator[None]:
    training = {module: module.training for module in network.modules()}
    network.eval()
    yield
    for module, mode in training.items():
        module.training = mode


def _tokens(found: Architecture, count: int) -> Tensor:
    """Return tokens ``(count,)`` without special ones: first one and the same, then others, so that windows show."""
    size = int(found.config.vocab_size)
    special = {value for name, value in found.config.to_dict().items() if name.endswith("_token_id")}
    usable = [token for token in range(size // 8, size - size // 8) if token not in special][:4096]
    chosen = torch.randint(len(usable), (count,), generator=torch.Generator().manual_seed(0))
    chosen[: 2 * count // 5] = 0
    return torch.tensor(usable, device=found.network.device)[chosen]


def _decoder_of(network: Any) -> Any:
    """Return what holds the blocks: what transformers says it is, or else the largest part of the network."""
    parts = sorted(network.children(), key=lambda part: -sum(weight.numel() for weight in part.parameters()))
    for part in (network.get_decoder(), network.base_model, *parts):
        if part is not network and any(isinstance(inner, nn.ModuleList) for inner in part.modules()):
            return part
    return network


def _refuse(found: Architecture, reason: str, error: Exception | None = None) -> InputError:
    kind = type(found.network).__name__
    told = "" if error is None else f" ({type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]})"
    return InputError(
        f"The model is a {kind}, {reason}{told}.\nI need a causal language model with a decoder, such as Llama, Qwen, "
        "Gemma, Mistral or GPT-2.\nType:  model.name=<another model>"
    )


def _read_plainly(found: Architecture) -> _Rows:
    """Require states that later tokens do not change, and find what stands behind the last block."""
    tokens = _tokens(found, 2 * _TAIL)[None]
    try:
        states = _examine_layers(found, tokens)
        rows = _Rows(tokens, tokens[:, :_TAIL], states, found.plain(tokens[:, :_TAIL]).last_hidden_state)
    except Exception as error:  # anything can be wrong with a network nobody has seen
        raise _refuse(found, "which cannot be read as one", error) from error
    if rows.second_states.shape[:2] != rows.second.shape:
        raise _refuse(found, "whose decoder gives no state for each token")
    if not agree(states[:, :_TAIL], rows.second_states):
        raise _refuse(found, "which is not causal: what a token is read as depends on later tokens")
    return rows


def _examine_layers(found: Architecture, tokens: Tensor) -> Tensor:
    """Find what makes the last block's states those of the decoder, which are returned.

    Hidden states have to be what the blocks give.
    """
    holder, blocks = found.stack
    called: list[tuple[str, Any]] = []

    def note(name: str, part: nn.Module) -> Any:
        return part.register_forward_hook(
            lambda _, __, out: called.append((name, out if isinstance(out, Tensor) else out[0]))
        )

    hooks = [note("", block) for block in blocks]
    hooks += [note(name, part) for name, part in (holder.named_children() if holder else ())]
    try:
        output = found.plain(tokens, hidden=True)
    finally:
        for hook in hooks:
            hook.remove()
    states: Tensor = output.last_hidden_state
    given = [out for name, out in called if not name]
    hidden = output.get("hidden_states") or ()
    each = 0 < len(given) == len(blocks) == len(hidden) - 1
    if not each or not all(agree(*pair) for pair in zip(given[:-1], hidden[1:-1], strict=True)):
        found.notes["layers"] = "its hidden states are not what each of its blocks gives"
        return states
    last = max(place for place, (name, _) in enumerate(called) if not name)
    found.norm = tuple(name for name, _ in called[last + 1 :])
    if not _holds(lambda: agree(found.final(given[-1][0]), states[0])):
        found.norm = None
        found.notes["layers"] = "what stands behind its last block is not found"
    return states


def _examine_head(found: Architecture, rows: _Rows) -> None:
    """Require logits that are made from the decoder's states, and find whether the head's product is all of it."""
    try:
        expected = found.network(input_ids=rows.second, use_cache=False).logits.float()
        own = found.logits(rows.second_states)
    except Exception as error:
        raise _refuse(found, "whose logits are not made from the states of its decoder", error) from error
    if not agree(own, expected):
        raise _refuse(found, "whose logits are not made from the states of its decoder alone")
    states = 1000 * rows.second_states  # a cap shows with large ones
    try:
        linear = found.read_head()(torch.cat([rows.second_states, states]))
    except AttributeError as error:
        raise _refuse(found, "which has no language-model head") from error
    found.linear_head = linear.shape[-1] == own.shape[-1] and agree(linear, torch.cat([own, found.logits(states)]))


def _examine_attention(found: Architecture, rows: _Rows) -> None:
    """Use our attention where it gives what the network's own does, and require that padding behind changes nothing."""
    own = found.network.config._attn_implementation
    padded = torch.cat([rows.first, torch.cat([rows.second, rows.first[:, :1].expand(-1, _TAIL)], 1)])
    present = torch.ones_like(padded)
    present[1, _TAIL:] = 0

    def agrees() -> bool:
        states = found.plain(padded, present).last_hidden_state
        return agree(states[:1], rows.first_states) and agree(states[1:, :_TAIL], rows.second_states)

    if use_packed_attention(found.network) and not _holds(agrees):
        found.network.set_attn_implementation(own)
    if found.network.config._attn_implementation == own and not agrees():
        raise _refuse(found, "whose states depend on padding behind them")


def _examine_generation(found: Architecture, rows: _Rows) -> None:
    """Find whether the network's own cache goes on where it ended, with rows padded on the left or without."""
    ends = torch.cat([rows.first_states, rows.second_states[:, -1:]], 1)[0, -2:]
    both = torch.cat([rows.first, torch.cat([rows.first[:, :1].expand(-1, _TAIL), rows.second], 1)])
    mask = torch.ones_like(both)
    mask[1, :_TAIL] = 0
    if _holds(lambda: agree(_step_from_cache(found, both, mask), ends)):
        found.generation = "together"
    elif _holds(lambda: agree(_step_from_cache(found, rows.first, mask[:1]), ends[:1])):
        found.generation = "alone"


def _step_from_cache(found: Architecture, rows: Tensor, mask: Tensor) -> Tensor:
    """Read rows but for their last tokens, and these from the network's own cache; return their states ``(B, D)``."""
    position = (mask.cumsum(1) - 1).clamp(min=0)
    cache = None
    for part, seen in ((slice(0, -1), mask[:, :-1]), (slice(-1, None), mask)):
        output = found.decoder(
            input_ids=rows[:, part],
            attention_mask=seen,
            position_ids=position[:, part],
            past_key_values=cache,
            use_cache=True,
        )
        cache = output.past_key_values
    states: Tensor = output.last_hidden_state[:, 0]
    return states


def _examine_shortcuts(found: Architecture, rows: _Rows) -> None:
    """Compare each shortcut with plain passes over short rows."""
    together = found.plain(rows.packed[0]).last_hidden_state[:, -_TAIL:]
    if agree(together, rows.second_states):
        # Its weights are so small that a leak would not show, nor anything else.
        found.notes["rows"] = "what comes before a token hardly changes its state, so that nothing can be compared"
        return
    found.by_example = _holds(partial(_packed_agrees, read_by_example, found, rows))
    found.masked = _holds(partial(_packed_agrees, read_masked, found, rows))
    found.shared = _holds(partial(_shared_agrees, found, rows))
    if found.by_example or found.masked:
        found.reach = len(rows)
    else:
        found.notes["rows"] = "examples that share a row would change each other"
    if not found.shared:
        found.notes["beams"] = "continuations that share a cache would change each other"


def _examine_reach(found: Architecture, longest: int) -> None:
    """Compare long rows with plain passes over them, then shorter ones until they agree.

    A long example that is attended to as a whole, with the states of plain passes, is within the network's window. So
    the other shortcuts, too, see what they should.
    """
    way, least = read_by_example if found.by_example else read_masked, 3 * _TAIL
    while longest > max(least, found.reach):
        tokens = _tokens(found, longest)[None]
        parts = tokens[:, :-_TAIL], tokens[:, -_TAIL:]
        try:
            rows = _Rows(*parts, *(found.plain(part).last_hidden_state for part in parts))
        except Exception as error:
            raise _refuse(found, f"which cannot read {longest} tokens", error) from error
        if _packed_agrees(way, found, rows):
            found.reach = longest
            return
        found.notes["length"] = "past its attention window, sequences are read one by one"
        longest //= 2


@dataclass(frozen=True)
class _Rows:
    """Two sequences, the second one of 6 tokens, and their states by plain passes."""

    first: Tensor
    second: Tensor
    first_states: Tensor
    second_states: Tensor

    def __len__(self) -> int:
        return self.first.shape[1] + self.second.shape[1]

    @property
    def packed(self) -> tuple[Tensor, Tensor]:
        """Both in one row, and the number of each token's sequence."""
        number = torch.cat([torch.ones_like(self.first), torch.full_like(self.second, 2)], 1)
        return torch.cat([self.first, self.second], 1), number


def _holds(way: Callable[[], bool]) -> bool:
    try:
        return way()
    except Exception:  # a shortcut that a network's code does not take
        return False


def _packed_agrees(read: Callable[..., Any], found: Architecture, rows: _Rows) -> bool:
    return agree(read(found, *rows.packed).last_hidden_state, torch.cat([rows.first_states, rows.second_states], 1))


def _shared_agrees(found: Architecture, rows: _Rows) -> bool:
    """Continue the first sequence, padded and without its last two tokens, by these and by others."""
    alone, padding = rows.first_states[0], (3, 0)
    tokens = nn.functional.pad(rows.first, padding, value=int(rows.first[0, 0]))
    mask = nn.functional.pad(torch.ones_like(rows.first), padding)
    tree = SharedCache(found, tokens[:, :-2], mask[:, :-2])
    first, second = tokens[:, -2:-1], tokens[:, -1:]
    one = tree.extend(torch.cat([second, first], 1), torch.zeros_like(tokens[:, :2]))
    two = tree.extend(torch.cat([first, second], 1), torch.ones_like(tokens[:, :2]))
    return agree(torch.stack([tree.states[0, -1], one[0, 1], two[0, 1]]), alone[-3:])


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
        self.states: Tensor = found.decoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
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
        states: Tensor = self._found.decoder(
            input_ids=tokens,
            attention_mask=additive_mask(torch.cat([inherited, itself], dim=2), self.states.dtype),
            position_ids=position,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        self._visible, self._position = torch.cat([inherited, itself], dim=2), position + 1
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
        states: Tensor = self._found.plain(rows, present).last_hidden_state
        return states[torch.arange(len(rows), device=rows.device), last].unflatten(0, tokens.shape)


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
