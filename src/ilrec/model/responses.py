"""Log-probabilities of many responses to many prompts in one pass: each prompt is read once, its responses branch off.

Prompts may be beginnings of one sequence, as in a window in which every item is a response to the items before it. An
attention mask lets each response see its prompt and itself. It is a tree attention, as in decoding.py.

Symbols: B sequences of S tokens, P prompts in them, A most prompts in one sequence, R responses to each prompt, M
tokens of the longest response, V vocabulary size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from src.losses.preference import token_log_probabilities
from src.model.attention import additive_mask
from src.model.causal_lm import CausalLM


@dataclass(frozen=True)
class PromptPlaces:
    """Where each prompt of a batch ends, and its place among the prompts of its sequence.

    Attributes:
        sequence: Sequence of each prompt, shape ``(P,)``, int64.
        last: Index of the prompt's last token in its sequence, shape ``(P,)``, int64.
        slot: Number of the prompt in its sequence, from 0, shape ``(P,)``, int64.
        position: Position of its last token, not counting padding, shape ``(P,)``, int64.
        visible: Tokens that belong to the prompt, shape ``(P, S)``, bool.
        slots: Number A of slots.
    """

    sequence: Tensor
    last: Tensor
    slot: Tensor
    position: Tensor
    visible: Tensor
    slots: int

    @classmethod
    def find(cls, anchor: Tensor, attention_mask: Tensor) -> PromptPlaces:
        """Resolve flat indices ``sequence * S + last``, shape ``(P,)``, int64, ascending."""
        length = attention_mask.shape[1]
        sequence, last = anchor // length, anchor % length
        slot = torch.arange(len(anchor), device=anchor.device) - torch.searchsorted(sequence, sequence)
        visible = attention_mask.bool()[sequence] & (torch.arange(length, device=anchor.device) <= last[:, None])
        return cls(sequence, last, slot, visible.sum(1) - 1, visible, int(slot.max()) + 1)

    def scatter(self, values: Tensor, sequences: int) -> Tensor:
        """Sort values of prompts ``(P, ...)`` into ``(B, A, ...)``; 0 where a sequence has fewer prompts."""
        placed = values.new_zeros(sequences, self.slots, *values.shape[1:])
        placed[self.sequence, self.slot] = values
        return placed


def response_log_probabilities(
    model: CausalLM, input_ids: Tensor, attention_mask: Tensor, anchor: Tensor, responses: Tensor
) -> Tensor:
    """Score responses token by token.

    Args:
        model: The language model.
        input_ids: Sequences, shape ``(B, S)``, int64.
        attention_mask: 1 for tokens, 0 for padding on either side, shape ``(B, S)``.
        anchor: Where each prompt ends, as ``sequence * S + index of its last token``, shape ``(P,)``, int64, ascending.
        responses: Tokens of the responses, shape ``(P, R, M)``, int64; -1 pads on the right.

    Returns:
        Log-probabilities in nats, shape ``(P, R, M)``, float32; 0 at padding. The sum over M is the sequence's.
    """
    places, fed = PromptPlaces.find(anchor, attention_mask), responses[..., :-1]  # nothing follows the last token
    found, length = model.architecture, input_ids.shape[1] + responses.shape[2]
    if found.masked and found.shared and length <= found.reach:
        first, branch = _states_side_by_side(model, input_ids, attention_mask, places, fed)
    else:
        first, branch = _states_apart(model, input_ids, places, fed)
    prompts, count, longest = responses.shape
    logits = model.head(torch.cat([first, branch.flatten(0, 2)]))
    number = torch.arange(len(logits), device=logits.device)
    first_row = number[:prompts, None, None].expand(prompts, count, 1)  # all responses start from the prompt's state
    rows = torch.cat([first_row, number[prompts:].view(prompts, count, longest - 1)], dim=2)
    return token_log_probabilities(logits, rows, responses)


def _states_side_by_side(
    model: CausalLM, input_ids: Tensor, attention_mask: Tensor, places: PromptPlaces, fed: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the states of the prompts' ends ``(P, D)`` and of the tokens fed ``(P, R, F)``, shape ``(P, R, F, D)``."""
    (batch, length), (prompts, count, fed_tokens) = input_ids.shape, fed.shape
    device, branches = input_ids.device, places.slots * count
    tokens = places.scatter(fed.clamp(min=0), batch).flatten(1)
    ahead = torch.arange(1, fed_tokens + 1, device=device).expand(prompts, count, fed_tokens)
    position = places.scatter(places.position[:, None, None] + ahead, batch).flatten(1)

    whole = length + branches * fed_tokens
    visible = torch.zeros(batch, whole, whole, dtype=torch.bool, device=device)
    earlier = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    visible[:, :length, :length] = earlier & attention_mask.bool()[:, None]
    prompt = places.scatter(places.visible, batch).repeat_interleave(count * fed_tokens, dim=1)
    visible[:, length:, :length] = prompt
    itself = torch.eye(branches, device=device)
    visible[:, length:, length:] = torch.kron(itself, torch.ones(fed_tokens, fed_tokens, device=device).tril()).bool()
    # Padding that saw nothing would be NaN in half precision, and spread.
    visible.diagonal(dim1=1, dim2=2).fill_(True)

    states = model.decoder(
        input_ids=torch.cat([input_ids, tokens], dim=1),
        attention_mask=additive_mask(visible, model.causal_network.dtype),
        position_ids=torch.cat([(attention_mask.cumsum(1) - 1).clamp(min=0), position], dim=1),
        use_cache=False,
    ).last_hidden_state
    branch = states[:, length:].unflatten(1, (places.slots, count, fed_tokens))[places.sequence, places.slot]
    return states[places.sequence, places.last], branch


def _states_apart(model: CausalLM, input_ids: Tensor, places: PromptPlaces, fed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same, each response read with its prompt in a row of its own: slow, and exact for every model."""
    prompts, count, fed_tokens = fed.shape
    lengths = places.visible.sum(1)
    order = (~places.visible).long().argsort(dim=1, stable=True)[:, : int(lengths.max())]
    prompt = input_ids[places.sequence].gather(1, order)
    rows = torch.nn.functional.pad(prompt, (0, fed_tokens))[:, None].repeat(1, count, 1)
    ahead = lengths[:, None, None] + torch.arange(fed_tokens, device=fed.device).expand_as(fed)
    rows = rows.scatter(2, ahead, fed.clamp(min=0)).flatten(0, 1)
    ends = (lengths + fed_tokens).repeat_interleave(count)
    present = torch.arange(rows.shape[1], device=fed.device) < ends[:, None]
    states = model.architecture.plain(rows, present).last_hidden_state.unflatten(0, (prompts, count))
    at = torch.cat([lengths[:, None, None].expand(-1, count, 1) - 1, ahead], 2)
    chosen = states.gather(2, at[..., None].expand(-1, -1, -1, states.shape[-1]))
    return chosen[:, 0, 0], chosen[:, :, 1:]
