"""Rank the true item of every user by the scores a collaborative model gives to all items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.ilrec.dataset.interactions import Interactions
from src.ilrec.model.sequence_models import SequenceModel
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.launch.errors import InputError
from src.launch.values import Cutoffs


class FullRankingEvaluator:
    """Full ranking over all items by score; equal scores are ordered by item index.

    Source: leave-one-out full ranking as in ILRec (arXiv 2602.17410).

    Args:
        items: One token for each item.
        exclude_history: Never recommend an item of the user's history; ``both`` tests with and without them, and
            validates with them.
        cutoffs: The k of Hit@k and NDCG@k.

    Raises:
        InputError: the items have semantic IDs.
    """

    def __init__(self, items: ItemTokens, *, exclude_history: bool | Literal["both"], cutoffs: Cutoffs) -> None:
        if items.tokens.shape[1] != 1:
            raise InputError(
                f"evaluator=full_ranking scores whole items, but each has {items.tokens.shape[1]} tokens.\n"
                "Type:  tokenizer=item_ids"
            )
        self.exclude_history = exclude_history
        self.cutoffs = list(cutoffs)

    def start(self, interactions: Interactions) -> None:
        """Begin an evaluation: there is nothing to prepare."""

    @torch.no_grad()
    def rank(self, model: SequenceModel, batch: Mapping[str, Tensor], *, exclude_history: bool) -> NDArray[np.float64]:
        """Return each user's rank of the target, shape ``(B,)``; 1 is best, NaN where the history excludes it.

        Args:
            model: The collaborative model, in eval mode.
            batch: ``input_ids`` and ``attention_mask`` ``(B, P)`` of the latest items, ``history`` ``(B, H)`` of all
                items padded with -1, ``target`` ``(B,)``.
            exclude_history: Leave out the items of the history.
        """
        history, target = batch["history"], batch["target"][:, None]
        scores = model.scores(model.last_states(batch["input_ids"], batch["attention_mask"]))
        own = scores.gather(1, target)
        if exclude_history:
            seen = torch.where(history < 0, history[:, :1], history)  # padding repeats the first item
            scores = scores.scatter(1, seen, -torch.inf)
        item = torch.arange(scores.shape[1], device=scores.device)
        ahead = (scores > own) | ((scores == own) & (item < target))
        rank = 1.0 + ahead.sum(1).double()
        if exclude_history:
            rank = rank.masked_fill((history == target).any(1), torch.nan)
        result: NDArray[np.float64] = rank.cpu().numpy()
        return result

    @torch.no_grad()
    def recommend(self, model: SequenceModel, batch: Mapping[str, Tensor], count: int) -> list[list[tuple[int, float]]]:
        """Return each user's best items, best first, at most ``count``, each with its score (a logit).

        Args:
            model: The collaborative model, in eval mode.
            batch: ``input_ids`` and ``attention_mask`` ``(B, P)`` of the latest items, ``history`` ``(B, H)`` of all
                items padded with -1.
            count: Number of items.
        """
        history = batch["history"]
        scores = model.scores(model.last_states(batch["input_ids"], batch["attention_mask"]))
        if self.exclude_history:
            scores = scores.scatter(1, torch.where(history < 0, history[:, :1], history), -torch.inf)
        best = scores.sort(dim=1, descending=True, stable=True)
        rows = zip(best.indices[:, :count].tolist(), best.values[:, :count].tolist(), strict=True)
        return [[(i, s) for i, s in zip(*row, strict=True) if s > -torch.inf] for row in rows]
