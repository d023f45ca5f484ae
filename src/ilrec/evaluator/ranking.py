"""Rank the true item of every user among all items by constrained beam search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.ilrec.evaluator.guided import GuidedEvaluator, RankingSettings, without_padding
from src.ilrec.model.decoding import DecodedItems, Guidance, HistoryPenalty, Opinion, decode_items
from src.ilrec.model.trie import TokenTrie
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.launch.errors import InputError
from src.launch.values import Count
from src.model.causal_lm import CausalLM


@dataclass(frozen=True, kw_only=True)
class BeamRankingSettings(RankingSettings):
    """How items are searched for, beside what every ranking is told.

    Attributes:
        num_beams: Beams of the search; the target's rank is unknown (NaN) when no beam ends in it.
        over: What the model's probabilities are taken over, see ``decode_items``.

    Raises:
        InputError: fewer beams than the largest cutoff, or rewards weigh and nothing gives them.
    """

    num_beams: Count
    over: Literal["vocabulary", "items"] = "vocabulary"

    def __post_init__(self) -> None:
        if self.num_beams < (most := max(self.cutoffs)):
            raise InputError(
                f"evaluator.num_beams={self.num_beams} finds fewer items than the largest cutoff {most} asks for.\n"
                f"Type:  evaluator.num_beams={most}"
            )
        super().__post_init__()


class RankingEvaluator(GuidedEvaluator):
    """Full ranking over all items by constrained beam search.

    Items that share one semantic ID or title share the rank they would have on average in a random order.

    Source: leave-one-out full ranking as in ILRec (arXiv 2602.17410).

    Args:
        items: All items, as semantic IDs or titles.
        settings: Those of ``BeamRankingSettings``.
    """

    settings: BeamRankingSettings

    def __init__(self, items: ItemTokens, **settings: Any) -> None:
        self.settings = BeamRankingSettings(**settings)
        super().__init__(items, self.settings)
        self.num_beams, self.over = self.settings.num_beams, self.settings.over

    def rank(
        self,
        model: CausalLM,
        batch: Mapping[str, Tensor],
        *,
        exclude_history: bool,
        guidance: float = 0.0,
        history_penalty: float = 0.0,
    ) -> NDArray[np.float64]:
        """Return each user's rank of the target, shape ``(B,)``; 1 is best, NaN is not found.

        Args:
            model: The language model, in eval mode.
            batch: ``input_ids`` and ``attention_mask`` ``(B, P)`` padded on the left, ``history`` ``(B, H)`` padded
                with -1, ``target`` ``(B,)``.
            exclude_history: Leave out the items of the history.
            guidance: Weight of the collaborative model's token rewards.
            history_penalty: Nats taken from items of the history.
        """
        target = batch["target"]
        found = self._decode(model, batch, self.num_beams, exclude_history, guidance, history_penalty)
        excluded = batch["history"] if exclude_history else None
        size = (self.trie.last_item - self.trie.first_item)[found.leaf]
        if excluded is not None:
            size = size - _excluded_per_leaf(self.trie, found.leaf, excluded)
        hit = (found.leaf == self.trie.leaf[target][:, None]) & found.score.isfinite()
        ahead = size.cumsum(1) - size
        rank = (ahead + (size + 1).double() / 2).masked_fill(~hit, torch.inf).min(1).values
        gone = rank.isinf()
        if excluded is not None:
            gone |= (excluded == target[:, None]).any(1)
        result: NDArray[np.float64] = rank.masked_fill(gone, torch.nan).cpu().numpy()
        return result

    def recommend(
        self,
        model: CausalLM,
        batch: Mapping[str, Tensor],
        count: int,
        *,
        guidance: float = 0.0,
        history_penalty: float = 0.0,
    ) -> list[list[tuple[int, float]]]:
        """Return each user's best items, best first, at most ``count``, each with its score.

        A score is the item's log-probability in nats; with guidance or a penalty, what they make of it.

        Args:
            model: The language model, in eval mode.
            batch: ``input_ids`` and ``attention_mask`` ``(B, P)`` padded on the left, ``history`` ``(B, H)`` padded
                with -1.
            count: Number of items.
            guidance: Weight of the collaborative model's token rewards.
            history_penalty: Nats taken from items of the history.
        """
        beams, exclude = max(count, self.num_beams), bool(self.exclude_history)
        found = self._decode(model, batch, beams, exclude, guidance, history_penalty)
        trie, best = self.trie, []
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

    def _decode(
        self,
        model: CausalLM,
        batch: Mapping[str, Tensor],
        num_beams: int,
        exclude_history: bool,
        guidance: float,
        penalty: float,
    ) -> DecodedItems:
        history = batch["history"]
        if self.trie.items.device != history.device:
            self.trie = self.trie.to(history.device)
        opinions: list[Opinion] = []
        if guidance > 0:
            probabilities = self.probabilities(history)
            if exclude_history:
                place = self.trie.items.argsort()
                probabilities = probabilities.scatter(1, place[without_padding(history)], 0.0)
            opinions.append(Guidance(probabilities, guidance))
        if penalty > 0:
            opinions.append(HistoryPenalty(self.trie, history, penalty))
        return decode_items(
            model,
            self.trie,
            batch["input_ids"],
            batch["attention_mask"],
            num_beams=num_beams,
            excluded=history if exclude_history else None,
            opinions=opinions,
            over=self.over,
        )


def _excluded_per_leaf(trie: TokenTrie, leaf: Tensor, excluded: Tensor) -> Tensor:
    """Count the distinct excluded items that end in each leaf ``(B, K)``."""
    ordered = excluded.sort(dim=1).values
    distinct = torch.ones_like(ordered, dtype=torch.bool)
    distinct[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    theirs = torch.where(distinct & (ordered >= 0), trie.leaf[ordered.clamp(min=0)], -1)
    return (leaf[:, :, None] == theirs[:, None, :]).sum(2)
