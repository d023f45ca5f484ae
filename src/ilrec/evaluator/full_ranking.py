"""Rank the true item of every user by the scores a collaborative model gives to all items."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.ilrec.evaluator.guided import GuidedEvaluator, RankingSettings, without_padding
from src.ilrec.model.collaborative import CollaborativeModel
from src.ilrec.model.decoding import Guidance
from src.ilrec.model.sequence_models import SequenceModel
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.launch.errors import InputError

_LARGEST_BLOCK = 1 << 23  # scores at once: 32 MiB, and about 100 MiB with what is compared


class FullRankingEvaluator(GuidedEvaluator):
    """Full ranking over all items by score; equal scores share the rank they would have on average in a random order.

    Users are scored in blocks, so that no more than a few scores of every item are held at once. A trained model's
    scores are logarithms, to which guidance and penalties add; a counted model's are multiplied by as much.

    Source: leave-one-out full ranking as in ILRec (arXiv 2602.17410).

    Args:
        items: One token for each item.
        settings: Those of ``RankingSettings``.

    Raises:
        InputError: the items have semantic IDs, or rewards weigh and nothing gives them.
    """

    settings: RankingSettings

    def __init__(self, items: ItemTokens, **settings: Any) -> None:
        self.settings = RankingSettings(**settings)
        if items.tokens.shape[1] != 1:
            raise InputError(
                f"evaluator=full_ranking scores whole items, but each has {items.tokens.shape[1]} tokens.\n"
                "Type:  tokenizer=item_ids"
            )
        super().__init__(items, self.settings)

    @cached_property
    def _place(self) -> Tensor:
        """Where each item is in the order of the trie, shape ``(I,)``."""
        return self.trie.items.argsort()

    @torch.no_grad()
    def rank(
        self,
        model: CollaborativeModel,
        batch: Mapping[str, Tensor],
        *,
        exclude_history: bool,
        guidance: float = 0.0,
        history_penalty: float = 0.0,
    ) -> NDArray[np.float64]:
        """Return each user's rank of the target, shape ``(B,)``; 1 is best, NaN where the history excludes it.

        Args:
            model: The collaborative model, in eval mode.
            batch: ``input_ids`` and ``attention_mask`` ``(B, P)`` of the latest items, ``history`` ``(B, H)`` of all
                items padded with -1, ``target`` ``(B,)``.
            exclude_history: Leave out the items of the history.
            guidance: Weight of what the collaborative model that guides thinks of each item.
            history_penalty: Nats taken from items of the history.
        """
        ranks = []
        for block, scores in self._scored(model, batch, guidance, history_penalty):
            history, target = block["history"], block["target"][:, None]
            own = scores.gather(1, target)
            if exclude_history:
                _leave_out(scores, history)
            rank = (scores > own).sum(1) + ((scores == own).sum(1) + 1).double() / 2  # in the middle of its equals
            ranks.append(rank.masked_fill((history == target).any(1), torch.nan) if exclude_history else rank)
        result: NDArray[np.float64] = torch.cat(ranks).cpu().numpy()
        return result

    @torch.no_grad()
    def recommend(
        self,
        model: CollaborativeModel,
        batch: Mapping[str, Tensor],
        count: int,
        *,
        guidance: float = 0.0,
        history_penalty: float = 0.0,
    ) -> list[list[tuple[int, float]]]:
        """Return each user's best items, best first, at most ``count``, each with its score; equal ones by index.

        Args:
            model: The collaborative model, in eval mode.
            batch: ``input_ids`` and ``attention_mask`` ``(B, P)`` of the latest items, ``history`` ``(B, H)`` of all
                items padded with -1.
            count: Number of items.
            guidance: Weight of what the collaborative model that guides thinks of each item.
            history_penalty: Nats taken from items of the history.
        """
        best = []
        for block, scores in self._scored(model, batch, guidance, history_penalty):
            if self.exclude_history:
                _leave_out(scores, block["history"])
            last = scores.topk(min(count, scores.shape[1])).values[:, -1:]  # says nothing of the order of equal ones
            for row, candidate in zip(scores, scores >= last, strict=True):
                item = (candidate & (row > -torch.inf)).nonzero()[:, 0]
                order = row[item].sort(descending=True, stable=True).indices[:count]
                best.append(list(zip(item[order].tolist(), row[item[order]].tolist(), strict=True)))
        return best

    def _scored(
        self, model: CollaborativeModel, batch: Mapping[str, Tensor], guidance: float, penalty: float
    ) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Give blocks of users, and their scores of all items, shape ``(users, I)``, which may be overwritten."""
        is_logarithm = isinstance(model, SequenceModel)
        size = max(_LARGEST_BLOCK // len(self._items.tokens), 1)
        for start in range(0, len(batch["history"]), size):
            block = {name: value[start : start + size] for name, value in batch.items()}
            with torch.autocast(block["history"].device.type, enabled=False):  # bfloat16 would make many scores equal
                scores = model.scores(model.last_states(block["input_ids"], block["attention_mask"]))
            if guidance > 0:
                opinion = self.probabilities(block["history"])[:, self._place]
                opinion = opinion.to(scores.dtype).clamp_(min=Guidance.LEAST)
                scores = scores + guidance * opinion.log_() if is_logarithm else scores * opinion.pow_(guidance)
            if penalty > 0:
                seen = without_padding(block["history"])
                theirs = scores.gather(1, seen)
                scores.scatter_(1, seen, theirs - penalty if is_logarithm else theirs * math.exp(-penalty))
            yield block, scores


def _leave_out(scores: Tensor, history: Tensor) -> None:
    """Give the items of each history ``(B, H)`` no chance, in place."""
    scores.scatter_(1, without_padding(history), -torch.inf)
