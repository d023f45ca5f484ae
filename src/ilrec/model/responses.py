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
    (batch, length), (prompts, count, longest) = input_ids.shape, responses.shape
    device, fed = input_ids.device, longest - 1  # nothing follows a response's last token, so it is not read
    places = PromptPlaces.find(anchor, attention_mask)
    branches = places.slots * count
    tokens = places.scatter(responses[..., :fed].clamp(min=0), batch).flatten(1)
    ahead = torch.arange(1, fed + 1, device=device).expand(prompts, count, fed)
    position = places.scatter(places.position[:, None, None] + ahead, batch).flatten(1)

    visible = torch.zeros(batch, length + branches * fed, length + branches * fed, dtype=torch.bool, device=device)
    earlier = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    visible[:, :length, :length] = earlier & attention_mask.bool()[:, None]
    prompt = places.scatter(places.visible, batch).repeat_interleave(count * fed, dim=1)
    visible[:, length:, :length] = prompt
    itself = torch.eye(branches, device=device)
    visible[:, length:, length:] = torch.kron(itself, torch.ones(fed, fed, device=device).tril()).bool()
    # Padding that saw nothing would be NaN in half precision, and spread.
    visible.diagonal(dim1=1, dim2=2).fill_(True)

    states = model.decoder(
        input_ids=torch.cat([input_ids, tokens], dim=1),
        attention_mask=additive_mask(visible, model.causal_network.dtype),
        position_ids=torch.cat([(attention_mask.cumsum(1) - 1).clamp(min=0), position], dim=1),
        use_cache=False,
    ).last_hidden_state
    first = states[places.sequence, places.last]
    branch = states[:, length:].unflatten(1, (places.slots, count * fed))[places.sequence, places.slot]
    logits = model.head(torch.cat([first, branch.flatten(0, 1)]))
    number = torch.arange(len(logits), device=device)
    first_row = number[:prompts, None, None].expand(prompts, count, 1)  # all responses start from the prompt's state
    rows = torch.cat([first_row, number[prompts:].view(prompts, count, fed)], dim=2)
    return token_log_probabilities(logits, rows, responses)
