"""What every ranking shares: its settings, and a collaborative model that guides it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from src.ilrec.dataset.interactions import Interactions
from src.ilrec.model.reward_model import RewardModel, load_reward_model
from src.ilrec.model.trie import TokenTrie
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.launch.errors import InputError
from src.launch.values import Choice, Count, Cutoffs, values_to_try

NEEDS_REWARDS = (
    "needs a collaborative model trained on the same data set.\n"
    "Train one:     python -m src.run +experiment=sasrec\n"
    "and name it:   evaluator.reward_from=outputs/sasrec/<run>/checkpoints/best.ckpt"
)


@dataclass(frozen=True, kw_only=True)
class RankingSettings:
    """What of a ranking is measured, and what it listens to beside the model.

    Attributes:
        exclude_history: Never recommend an item of the user's history; ``both`` tests with and without them, and
            validates with them.
        cutoffs: The k of Hit@k and NDCG@k.
        guidance: Weight of a collaborative model's rewards, see ``Guidance``; 0 leaves them out. Of several weights the
            test uses the best on validation users. It is made without guidance, too.
        guidance_users: Validation users that weights and penalties are compared on, spread evenly; None for all.
        reward_from: Checkpoint of a collaborative model that gives the rewards, or of several; needed with a weight.
        reward_excludes_history: See ``RewardModel``.
        history_penalty: Nats taken from items of the history where it is kept, see ``HistoryPenalty``. Of several the
            test uses the best on validation users. It is made without a penalty, too.

    Raises:
        InputError: rewards weigh and nothing gives them.
    """

    exclude_history: bool | Literal["both"]
    cutoffs: Cutoffs
    guidance: Choice = 0.0
    guidance_users: Count | None = None
    reward_from: str | list[str] | None = None
    reward_excludes_history: bool | None = None
    history_penalty: Choice = 0.0

    def __post_init__(self) -> None:
        if values_to_try(self.guidance) and not self.reward_from:
            raise InputError(f"evaluator.guidance={self.guidance} {NEEDS_REWARDS}")


class GuidedEvaluator:
    """A ranking of items that a collaborative model can guide.

    Source: guidance is ours, and the paper's tables are made without it.

    Args:
        items: All items.
        settings: Of the ranking; they are attributes, too, ``guidance`` and ``history_penalty`` as lists of the values
            to try.

    Attributes:
        rewards: The collaborative model; None before it is first asked.
    """

    def __init__(self, items: ItemTokens, settings: RankingSettings) -> None:
        self.exclude_history, self.cutoffs = settings.exclude_history, list(settings.cutoffs)
        self.guidance, self.history_penalty = values_to_try(settings.guidance), values_to_try(settings.history_penalty)
        self.guidance_users = settings.guidance_users
        self.reward_from, self.reward_excludes_history = settings.reward_from, settings.reward_excludes_history
        self._interactions: Interactions | None = None
        self.rewards: RewardModel | None = None
        self._items = items

    @cached_property
    def trie(self) -> TokenTrie:
        """The items' tokens; made when first asked for, as full rankings without guidance never do."""
        return TokenTrie.build(torch.from_numpy(self._items.tokens), vocabulary_size=len(self._items.vocabulary))

    def start(self, interactions: Interactions) -> None:
        """Begin an evaluation: the collaborative model is loaded when it is first asked."""
        self._interactions = interactions

    def probabilities(self, history: Tensor) -> Tensor:
        """Return what the collaborative model thinks of all items ``(B, I)``, in the order of the trie.

        Args:
            history: Items ``(B, H)``, padded on the right with -1.

        Raises:
            InputError: no such model is named, or it cannot be used.
        """
        if self.rewards is None:
            if self._interactions is None or not self.reward_from:
                raise InputError(f"Guidance {NEEDS_REWARDS}")
            trie = self.trie.to(torch.device("cpu"))
            self.rewards = load_reward_model(
                self.reward_from, self._interactions, trie, self.reward_excludes_history
            ).to(history.device)
        return self.rewards.probabilities_after(history)


def without_padding(history: Tensor) -> Tensor:
    """Return the items of each history ``(B, H)``, the first one again in place of padding."""
    return torch.where(history < 0, history[:, :1], history)
