"""Rank the true item of every user among all items by constrained beam search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.ilrec.dataset.interactions import Interactions
from src.ilrec.model.decoding import decode_items
from src.ilrec.model.trie import TokenTrie
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.launch.errors import InputError
from src.launch.values import Count, Cutoffs
from src.model.causal_lm import CausalLM


class RankingEvaluator:
    """Full ranking over all items.

    Items that share one semantic ID or title share the rank they would have on average in a random order.

    Source: leave-one-out full ranking as in ILRec (arXiv 2602.17410).

    Args:
        items: All items, as semantic IDs or titles.
        num_beams: Beams of the search; the target's rank is unknown (NaN) when no beam ends in it.
        exclude_history: Never recommend an item of the user's history; ``both`` tests with and without them, and
            validates with them.
        cutoffs: The k of Hit@k and NDCG@k.

    Raises:
        InputError: fewer beams than the largest cutoff.
    """

    def __init__(
        self, items: ItemTokens, *, num_beams: Count, exclude_history: bool | Literal["both"], cutoffs: Cutoffs
    ) -> None:
        if num_beams < max(cutoffs):
            raise InputError(
                f"evaluator.num_beams={num_beams} finds fewer items than the largest cutoff {max(cutoffs)} asks for.\n"
                f"Type:  evaluator.num_beams={max(cutoffs)}"
            )
        self.trie = TokenTrie.build(torch.from_numpy(items.tokens), vocabulary_size=len(items.vocabulary))
        self.num_beams = num_beams
        self.exclude_history = exclude_history
        self.cutoffs = list(cutoffs)

    def start(self, interactions: Interactions) -> None:
        """Begin an evaluation: there is nothing to prepare."""

    def rank(self, model: CausalLM, batch: Mapping[str, Tensor], *, exclude_history: bool) -> NDArray[np.float64]:
        """Return each user's rank of the target, shape ``(B,)``; 1 is best, NaN is not found.

        Args:
            model: The language model, in eval mode.
            batch: ``input_ids`` and ``attention_mask`` ``(B, P)`` padded on the left, ``history`` ``(B, H)`` padded
                with -1, ``target`` ``(B,)``.
            exclude_history: Leave out the items of the history.
        """
        target, device = batch["target"], batch["target"].device
        if self.trie.items.device != device:
            self.trie = self.trie.to(device)
        excluded = batch["history"] if exclude_history else None
        found = decode_items(
            model, self.trie, batch["input_ids"], batch["attention_mask"], num_beams=self.num_beams, excluded=excluded
        )
        size = (self.trie.last_item - self.trie.first_item)[found.leaf]
        if excluded is not None:
            size = size - _excluded_per_leaf(self.trie, found.leaf, excluded)
        hit = (found.leaf == self.trie.leaf[target][:, None]) & found.score.isfinite()
        ahead = size.cumsum(1) - size
        rank = (ahead + (size + 1) / 2).masked_fill(~hit, torch.inf).min(1).values
        gone = rank.isinf()
        if excluded is not None:
            gone |= (excluded == target[:, None]).any(1)
        result: NDArray[np.float64] = rank.double().masked_fill(gone, torch.nan).cpu().numpy()
        return result

    def recommend(self, model: CausalLM, batch: Mapping[str, Tensor], count: int) -> list[list[tuple[int, float]]]:
        """Return each user's best items, best first, at most ``count``, each with its log-probability in nats.

        Args:
            model: The language model, in eval mode.
            batch: ``input_ids`` and ``attention_mask`` ``(B, P)`` padded on the left, ``history`` ``(B, H)`` padded
                with -1.
            count: Number of items.
        """
        trie = self.trie = self.trie.to(batch["history"].device)
        found = decode_items(
            model,
            trie,
            batch["input_ids"],
            batch["attention_mask"],
            num_beams=max(count, self.num_beams),
            excluded=batch["history"] if self.exclude_history else None,
        )
        best = []
        for leaves, scores, history in zip(found.leaf, found.score.tolist(), batch["history"].tolist(), strict=True):
            seen = set(history) if self.exclude_history else set()
            groups = (trie.items[trie.first_item[leaf] : trie.last_item[leaf]].tolist() for leaf in leaves)
            ordered = [
                (item, score)
                for group, score in zip(groups, scores, strict=True)
                for item in group
                if item not in seen and score > -math.inf
            ]
            best.append(ordered[:count])
        return best


def _excluded_per_leaf(trie: TokenTrie, leaf: Tensor, excluded: Tensor) -> Tensor:
    """Count the distinct excluded items that end in each leaf ``(B, K)``."""
    ordered = excluded.sort(dim=1).values
    distinct = torch.ones_like(ordered, dtype=torch.bool)
    distinct[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    theirs = torch.where(distinct & (ordered >= 0), trie.leaf[ordered.clamp(min=0)], -1)
    return (leaf[:, :, None] == theirs[:, None, :]).sum(2)
