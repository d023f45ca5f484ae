"""Constrained beam search: only real items, the prompt read once, its cache shared by all beams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from src.ilrec.model.responses import PromptPlaces
from src.ilrec.model.trie import TokenTrie
from src.losses.collaborative import UNITS, cumulative_units
from src.model.causal_lm import CausalLM


@dataclass(frozen=True)
class DecodedItems:
    """Each prompt's best token sequences, best first.

    Attributes:
        leaf: Trie node of each decoded sequence, shape ``(B, K)``, int64.
        score: Its log-probability in nats, with what opinions make of it, shape ``(B, K)``, float32; -inf where
            fewer than K sequences are allowed.
    """

    leaf: Tensor
    score: Tensor


Opinion = Callable[[TokenTrie, Tensor], Tensor]
"""What else is thought of the items below each node ``(B, ...)``, in nats, the same shape; 0 at the root."""


class Guidance:
    """A collaborative model's token rewards as a second opinion on every step of a search.

    A token adds ``weight * log r(token | prefix, history)``. The rewards of a sequence multiply to the probability of
    the items below it, so that a prefix scores ``log p(prefix) + weight * log P(items below it | history)``, and an
    item ``log p + weight * log P`` (of its group, where several share its tokens). Probabilities below 1e-12 count as
    that much, so that what the collaborative model rules out keeps the order that the language model gives it.

    Source: ours; the rewards are those of ILRec (arXiv 2602.17410), CRR, which trains with them.

    Symbols: B prompts, I items.

    Args:
        probabilities: P(item | history) in the order of the trie, shape ``(B, I)``, float, up to a factor a row.
        weight: Of the rewards' logarithms, >= 0.
    """

    LEAST = 1e-12

    def __init__(self, probabilities: Tensor, weight: float) -> None:
        self.weight = weight
        self._cumulative = cumulative_units(probabilities)

    def __call__(self, trie: TokenTrie, node: Tensor) -> Tensor:
        """Return ``weight * log P`` of the items below each node ``(B, ...)``, the same shape, float32."""
        below = self._upto(trie.last_item[node]) - self._upto(trie.first_item[node])
        return (below.double() / UNITS).clamp_(min=self.LEAST).log_().mul_(self.weight).float()

    def _upto(self, position: Tensor) -> Tensor:
        return self._cumulative.gather(1, position.flatten(1)).view(position.shape)


class HistoryPenalty:
    """Nats taken from items of the history: what an item is a copy of is easily found likely, and seldom comes again.

    A prefix pays where nothing but items of the history lies below it, so that an item pays once, and items that share
    their tokens only together.

    Source: ours; as a penalty on repeated tokens, but of whole items.

    Args:
        trie: Of the items.
        history: Item indices, shape ``(B, H)``, int64, -1 pads.
        nats: To take, >= 0.
    """

    def __init__(self, trie: TokenTrie, history: Tensor, nats: float) -> None:
        self.nats, self._seen = nats, _positions(trie, history)

    def __call__(self, trie: TokenTrie, node: Tensor) -> Tensor:
        """Return what is taken from each node ``(B, ...)``, 0 or ``-nats``, the same shape, float32."""
        return (_items_left(trie, node, self._seen) == 0).float().mul_(-self.nats)


@torch.no_grad()
def decode_items(
    model: CausalLM,
    trie: TokenTrie,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    num_beams: int,
    excluded: Tensor | None = None,
    opinions: Sequence[Opinion] = (),
    over: Literal["vocabulary", "items"] = "vocabulary",
) -> DecodedItems:
    """Find each prompt's most probable items by beam search over the trie.

    By tree attention: all beams of a prompt stand side by side in one sequence, so that its keys and values exist once
    and nothing is copied when beams change places. A model that this is not exact for reads every beam apart.

    A score is the sum of log-probabilities over the whole vocabulary, as ``transformers.generate`` with a prefix
    constraint gives it; opinions add to it. Equal scores are ordered by item index.

    Over ``items``, the probabilities of the tokens that may follow a prefix add up to 1, and so do those of all items.
    A token that has to follow costs nothing then, so that a beam is finished where it is the beginning of one item, and
    the rest of a long title need not be read. Ours.

    Args:
        model: The language model, in eval mode.
        trie: Legal continuations, over positions in the model's ``item_token_ids``.
        input_ids: Prompts padded on the LEFT, shape ``(B, P)``, int64.
        attention_mask: 1 for tokens, 0 for padding, shape ``(B, P)``.
        num_beams: Number K of sequences kept at every step and returned.
        excluded: Item indices that must not be decoded, shape ``(B, H)``, int64, -1 pads; ``None`` excludes nothing.
        opinions: What else is thought of the items; without any it is left to the model.
        over: What probabilities are taken over.

    Returns:
        The K best sequences of each prompt.
    """
    batch, device, items = len(input_ids), input_ids.device, model.item_token_ids
    prompts = model.architecture.continued(input_ids, attention_mask, trie.depth)
    states = prompts.states[:, -1:].contiguous()  # or the head would be copied for each prompt
    blocked = None if excluded is None else _positions(trie, excluded)
    head = model.read_head().of(items) if over == "items" else None

    node = torch.zeros(batch, 1, dtype=torch.int64, device=device)
    score = torch.zeros(batch, 1, device=device)
    for step in range(trie.depth):
        log_p = partial(_shares, head(states)) if head else partial(_log_probabilities, model.head(states), items)
        node, score, parent = _advance(trie, node, score, log_p, num_beams, blocked, opinions)
        node = _only_leaf(trie, node) if head else node
        goes_on = (trie.first_child[node] < trie.first_child[node + 1]) & score.isfinite()
        if step + 1 == trie.depth or not bool(goes_on.any()):
            break
        # Beams that go on come first, and only they are read: titles end after different numbers of tokens.
        order = (~goes_on).long().argsort(dim=1, stable=True)
        node, score, parent = (values.gather(1, order) for values in (node, score, parent))
        fed = int(goes_on.sum(1).max())
        token, parent = trie.token[node[:, :fed]], parent[:, :fed].clamp(max=states.shape[1] - 1)
        states = prompts.extend(items[token.clamp(min=0)], parent)
    return _in_order(trie, node, score)


@torch.no_grad()
def greedy_leaves(
    model: CausalLM,
    trie: TokenTrie,
    input_ids: Tensor,
    attention_mask: Tensor,
    anchor: Tensor,
    *,
    excluded_leaf: Tensor | None = None,
) -> Tensor:
    """Follow the most probable legal token from each of many prompts, which may be beginnings of one sequence.

    A sequence is read once; then every step feeds one token for each of its prompts, side by side as beams are above.

    Args:
        model: The language model, in eval mode.
        trie: Legal continuations, over positions in the model's ``item_token_ids``.
        input_ids: Sequences, shape ``(B, S)``, int64.
        attention_mask: 1 for tokens, 0 for padding, shape ``(B, S)``.
        anchor: Where each of P prompts ends, as ``sequence * S + index of its last token``, shape ``(P,)``, int64,
            ascending.
        excluded_leaf: Trie node that a prompt's answer must not end in, shape ``(P,)``, int64; ``None`` allows all.

    Returns:
        Trie node of each answer, shape ``(P,)``, int64.
    """
    batch, places = len(input_ids), PromptPlaces.find(anchor, attention_mask)
    prompts = model.architecture.continued(input_ids, attention_mask, trie.depth)
    prompts.begin(places.scatter(places.visible, batch))
    states = prompts.states[places.sequence, places.last]
    blocked = None if excluded_leaf is None else _leaf_positions(trie, excluded_leaf)
    node, score = torch.zeros_like(anchor)[:, None], torch.zeros(len(anchor), 1, device=anchor.device)
    itself = torch.arange(places.slots, device=anchor.device).expand(batch, -1)
    for step in range(trie.depth):
        logits = model.head(states)[:, model.item_token_ids]
        node, score, _ = _advance(trie, node, score, partial(_of_tokens, logits[:, None]), 1, blocked)
        if step + 1 == trie.depth or bool((trie.first_child[node] == trie.first_child[node + 1]).all()):
            break
        token = places.scatter(model.item_token_ids[trie.token[node[:, 0]].clamp(min=0)], batch)
        states = prompts.extend(token, itself)[places.sequence, places.slot]
    return node[:, 0]


def _of_tokens(logits: Tensor, token: Tensor, _: Tensor) -> Tensor:
    return logits.gather(2, token)


def _only_leaf(trie: TokenTrie, node: Tensor) -> Tensor:
    """Return the leaf of nodes below which there is no other, and other nodes as they are."""
    leaf, last = (trie.leaf[trie.items[place]] for place in (trie.first_item[node], trie.last_item[node] - 1))
    return torch.where(leaf == last, leaf, node)


def _shares(logits: Tensor, token: Tensor, legal: Tensor) -> Tensor:
    """Return the log of the shares that legal tokens ``(B, K, C)`` have among each other, from logits of item tokens.

    As in ``_log_probabilities``, beams without logits are finished.
    """
    first = slice(logits.shape[1])
    shares = logits.gather(2, token[:, first]).masked_fill(~legal[:, first], -torch.inf).log_softmax(2)
    return torch.nn.functional.pad(shares, (0, 0, 0, token.shape[1] - logits.shape[1]))


def _log_probabilities(logits: Tensor, item_token_ids: Tensor, token: Tensor, _: Tensor) -> Tensor:
    """Look up tokens ``(B, K, C)``, counted as the trie does, in logits of the first beams ``(B, <= K, V)``.

    The others are finished; no token follows them.
    """
    first = token[:, : logits.shape[1]]
    log_p = logits.gather(2, item_token_ids[first]) - logits.logsumexp(-1, keepdim=True)
    return torch.nn.functional.pad(log_p, (0, 0, 0, token.shape[1] - first.shape[1]))


def _advance(
    trie: TokenTrie,
    node: Tensor,
    score: Tensor,
    log_p: Callable[[Tensor, Tensor], Tensor],
    num_beams: int,
    blocked: Tensor | None,
    opinions: Sequence[Opinion] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """Extend every beam by every legal token and keep the best; a finished beam competes with the score it has."""
    child, legal = trie.children(node)
    finished = trie.first_child[node] == trie.first_child[node + 1]
    extended = score[..., None] + log_p(trie.token[child].clamp(min=0), legal)
    for opinion in opinions:
        extended += opinion(trie, child) - opinion(trie, node)[..., None]
    candidate = torch.cat([child, node[..., None]], dim=2)
    allowed = torch.cat([legal, finished[..., None]], dim=2)
    if blocked is not None:
        allowed &= _items_left(trie, candidate, blocked) > 0
    total = torch.cat([extended, score[..., None]], dim=2).masked_fill(~allowed, -torch.inf)
    width = total.shape[2]
    best, index = total.flatten(1).topk(min(num_beams, total[0].numel()), dim=1)
    return candidate.flatten(1).gather(1, index), best, index // width


def _positions(trie: TokenTrie, items: Tensor) -> Tensor:
    """Turn items ``(B, H)`` into ascending positions of the trie's order; padding and repeats move past the end."""
    end = len(trie.items)
    place = torch.empty_like(trie.items)
    place[trie.items] = torch.arange(end, device=trie.items.device)
    positions = torch.where(items >= 0, place[items.clamp(min=0)], end).sort(dim=1).values
    repeated = torch.zeros_like(positions, dtype=torch.bool)
    repeated[:, 1:] = positions[:, 1:] == positions[:, :-1]
    return positions.masked_fill(repeated, end).sort(dim=1).values


def _leaf_positions(trie: TokenTrie, leaf: Tensor) -> Tensor:
    """List the positions of each leaf's items ``(P, largest group)``; padding lies past the end."""
    first, last = trie.first_item[leaf], trie.last_item[leaf]
    positions = first[:, None] + torch.arange(int((last - first).max()), device=leaf.device)
    return positions.where(positions < last[:, None], len(trie.items))


def _items_left(trie: TokenTrie, node: Tensor, blocked: Tensor) -> Tensor:
    """Count the items below each node ``(B, ...)`` that are not blocked; a node is an interval of the item order."""
    first, last = trie.first_item[node], trie.last_item[node]
    before_first = torch.searchsorted(blocked, first.flatten(1)).view_as(first)
    before_last = torch.searchsorted(blocked, last.flatten(1)).view_as(last)
    return last - first - (before_last - before_first)


def _in_order(trie: TokenTrie, node: Tensor, score: Tensor) -> DecodedItems:
    """Sort by score, then by item index: two stable sorts, the less significant key first."""
    by_item = trie.items[trie.first_item[node]].argsort(dim=1, stable=True)
    node, score = node.gather(1, by_item), score.gather(1, by_item)
    by_score = score.argsort(dim=1, descending=True, stable=True)
    return DecodedItems(node.gather(1, by_score), score.gather(1, by_score))
