"""A probe of every network at load: what it is made of, and which shortcuts give what plain passes give.

A shortcut is a faster way to the same states: examples that share a row, continuations that share a cache. Plain passes
are those of one sequence a row, padded on the right, under the network's own masks. A shortcut that does not agree with
them is not taken; what cannot be read even plainly is refused. So nobody has to keep a list of architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from src.launch.errors import InputError
from src.model.architecture import LONG, Architecture, SharedCache, read_by_example, read_masked
from src.model.attention import use_packed_attention

_TAIL = 6  # tokens of the second example in a row; a leak from the first shows with few, too
_LARGE = 50_000_000  # weights of a network of which few blocks are asked
_TOLERANCE = {torch.float32: 2e-5, torch.float64: 2e-5, torch.bfloat16: 0.04, torch.float16: 0.01}  # of a state's norm


@contextmanager
def exact_products() -> Iterator[None]:
    """Multiply float32 matrices exactly, whatever ``matmul_precision`` a run has chosen.

    Rounded products differ by the shapes of their factors: as a network would that cannot be read, or cut short.
    """
    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(chosen)


@torch.no_grad()
@exact_products()
def examine(network: Any) -> Architecture:
    """Find the parts of a network, how it generates, and which shortcuts are exact for up to 200 tokens.

    Args:
        network: A transformers causal LM, or a PEFT model around one.

    Raises:
        InputError: the network is not causal, or its states or logits cannot be read plainly.
    """
    network = getattr(network, "get_base_model", lambda: network)()
    found = Architecture(network, _decoder_of(network))
    with _evaluating(network):
        _examine_head(found, _read_plainly(found))
        with _few_blocks(found):
            rows = _Rows.read(found, _tokens(found, 2 * _TAIL), _TAIL)
            _examine_attention(found, rows)
            _examine_generation(found, rows)
            _examine_shortcuts(found, rows)
    extend(found, LONG)
    return found


@torch.no_grad()
@exact_products()
def extend(found: Architecture, longest: int) -> None:
    """Take shortcuts for sequences of up to so many tokens where they are exact; longer ones are read plainly.

    Raises:
        InputError: the network cannot read as many.
    """
    longest = min(longest, found.context or longest)
    if longest > found.asked and (found.by_example or found.masked):
        found.asked = longest
        with _evaluating(found.network), _few_blocks(found):
            _examine_reach(found, longest)


def agree(found: Tensor, expected: Tensor) -> bool:
    """Tell whether states ``(..., D)`` are the same but for rounding, each measured by its norm.

    In half precision a few may differ by more, as where a mixture of experts chooses another one by a hair.
    """
    if found.shape != expected.shape:
        return False
    error = (found.float() - expected.float()).norm(dim=-1) / expected.float().norm(dim=-1).clamp(min=1e-12)
    worst = error.max() if expected.dtype in (torch.float32, torch.float64) else error.flatten().quantile(0.8)
    return bool(worst <= _TOLERANCE[expected.dtype])


@contextmanager
def _evaluating(network: Any) -> Iterator[None]:
    training = {module: module.training for module in network.modules()}
    network.eval()
    yield
    for module, mode in training.items():
        module.training = mode


@contextmanager
def _few_blocks(found: Architecture) -> Iterator[None]:
    """Leave out blocks of a large network that are made as those before them: they would take the same shortcuts."""
    holder, blocks = found.stack
    count = len(blocks)
    if holder is not None and sum(weight.numel() for weight in found.network.parameters()) > _LARGE:
        kinds = [_kind(found, index, block) for index, block in enumerate(blocks)]
        count = max(2, 1 + max(kinds.index(kind) for kind in kinds))
    if holder is None or count == len(blocks):
        yield
        return
    name = next(name for name, part in holder.named_children() if isinstance(part, nn.ModuleList) and blocks[0] in part)
    whole = getattr(holder, name)
    setattr(holder, name, whole[:count])
    try:
        yield
    finally:
        setattr(holder, name, whole)


def _kind(found: Architecture, index: int, block: nn.Module) -> list[Any]:
    """Return all that tells a block from others but its weights and its number."""
    plain = (bool, int, float, str, type(None))
    parts = [
        (name, type(part), [(key, value) for key, value in sorted(vars(part).items()) if isinstance(value, plain)])
        for name, part in block.named_modules()
    ]
    told = [(name, type(part), [pair for pair in pairs if pair != ("layer_idx", index)]) for name, part, pairs in parts]
    lists = [value for value in vars(found.config).values() if isinstance(value, list | tuple)]
    each = [value[index] for value in lists if len(value) == found.config.num_hidden_layers]
    return [told, each, [(name, weight.shape) for name, weight in block.named_parameters()]]


def _tokens(found: Architecture, count: int) -> Tensor:
    """Return tokens ``(count,)`` without special ones: first one and the same, then others, so that windows show."""
    size = int(found.config.vocab_size)
    named = [value for name, value in found.config.to_dict().items() if name.endswith("_token_id")]
    special = {token for value in named for token in (value if isinstance(value, list) else [value])}
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
    tokens = _tokens(found, 2 * _TAIL)
    try:
        states = _examine_layers(found, tokens[None])
        rows = _Rows(tokens[None], tokens[None, :_TAIL], states, found.plain(tokens[None, :_TAIL]).last_hidden_state)
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
    states = rows.second_states[:, -1:] * torch.tensor([1.0, 1000.0])[:, None, None].to(own.device)  # a cap shows
    states = states.to(rows.second_states.dtype)
    try:
        own, linear = found.logits(states), found.read_head()(states)
    except AttributeError as error:
        raise _refuse(found, "which has no language-model head") from error
    found.linear_head = linear.shape[-1] == own.shape[-1] and agree(linear, own)


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
    if found.network.config._attn_implementation == own:
        try:
            same = agrees()
        except Exception as error:
            raise _refuse(found, "which fails where padding stands behind a sequence", error) from error
        if not same:
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
    """Read rows but for two tokens, and these one by one from the network's own cache; return the last ones ``(B, D)``.

    One would not do: Mamba of transformers 5.24 goes wrong at the second.
    """
    position = (mask.cumsum(1) - 1).clamp(min=0)
    cache, width = None, rows.shape[1]
    for begin, end in ((0, width - 2), (width - 2, width - 1), (width - 1, width)):
        states, cache = found.from_cache(rows[:, begin:end], mask[:, :end], position[:, begin:end], cache)
    return states[:, 0]


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
        half = longest // 2
        try:  # an example as long as a window may be, and two of about the same length
            both = [
                _Rows.read(found, _tokens(found, first), second)
                for first, second in ((longest - _TAIL, _TAIL), (longest - half, half - 1))
            ]
        except Exception as error:
            raise _refuse(found, f"which cannot read {longest} tokens", error) from error
        if _holds(lambda rows=both: all(_packed_agrees(way, found, one) for one in rows)):  # type: ignore[misc]
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

    @classmethod
    def read(cls, found: Architecture, tokens: Tensor, second: int) -> _Rows:
        """Read tokens ``(T,)``, and the last ones of them beside, which are not what the row begins with."""
        parts = tokens[None], tokens[None, -second:]
        return cls(*parts, *(found.plain(part).last_hidden_state for part in parts))

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
