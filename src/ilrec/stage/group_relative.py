"""GRPO for recommendation: the model's own best answers to a prompt are compared with each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

from src.ilrec.evaluator.ranking import RankingEvaluator
from src.ilrec.model.decoding import decode_items
from src.ilrec.stage.post_training import Batch, PostTrainingSettings, PostTrainingStage, other_weights
from src.launch.errors import InputError
from src.launch.values import Weight
from src.losses.preference import group_advantages, group_relative_loss, group_rewards
from src.model.causal_lm import CausalLM


@dataclass(frozen=True, kw_only=True)
class GroupRelativeSettings(PostTrainingSettings):
    """What the stage is told.

    Attributes:
        group_size: Answers to each prompt, >= 2.
        kl_weight: Weight of the divergence from the starting weights; dimensionless, >= 0.

    Raises:
        InputError: the weight is out of range.
    """

    group_size: Annotated[int, Ge(2)]
    kl_weight: Weight

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kl_weight >= 0:
            raise InputError(f"stage.kl_weight={self.kl_weight}: I need a number of at least 0.")


class GroupRelativeStage(PostTrainingStage):
    """Group relative policy optimisation on answers found by constrained beam search.

    The answers are new in every step, so the reference's log-probabilities cannot be known before. The trained weights
    as they were at the start are therefore kept (with LoRA the adapters and the item rows only) and take the model's
    place for a forward pass; with ``kl_weight=0`` there is no reference at all.

    Source: GRPO (arXiv 2402.03300) as MiniOneRec and ReRe use it: beams instead of samples, so that all answers differ.

    Raises:
        InputError: the group is too small, or larger than the catalogue.
    """

    settings: GroupRelativeSettings

    def __init__(self, *, model: CausalLM, evaluator: RankingEvaluator, **settings: Any) -> None:
        super().__init__(model, evaluator, GroupRelativeSettings(**settings))
        answers, group_size = len(set(evaluator.trie.leaf.tolist())), self.settings.group_size
        if not 2 <= group_size <= answers:
            raise InputError(
                f"stage.group_size={group_size}: I need 2 to {answers}; there are so many different answers."
            )
        self._reference: dict[str, Tensor] | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch; see ``losses/preference.py``."""
        kl_weight = self.settings.kl_weight
        prompts = batch["input_ids"], batch["attention_mask"]
        leaf = decode_items(self.model, self.trie, *prompts, num_beams=self.settings.group_size).leaf
        response = self.data.respond(self.trie.items[self.trie.first_item[leaf]])
        hit = leaf == self.trie.leaf[batch["item"][:, :1]]
        rewards = group_rewards(hit)
        reference = None
        if self._reference is not None:
            with torch.no_grad(), other_weights(self, self._reference):
                reference = self._log_p(batch, response)
        policy = self._log_p(batch, response)
        present = response >= 0
        loss = group_relative_loss(policy, reference, group_advantages(rewards), present, kl_weight=kl_weight)
        parts = {"loss": loss, "reward": rewards.mean(), "hit_rate": hit.any(1).float().mean()}
        parts["negatives"] = (~hit).float().sum()
        if reference is not None:
            parts["log_ratio"] = (policy.detach() - reference).sum(2).mean()
        self._log_training(parts)
        return loss * self._share_of_positions(len(hit))

    def _prepare(self, epoch: int) -> None:
        data = self.data
        if data.settings.negatives != "own" or data.settings.prompts_per_epoch is None:
            raise InputError(
                "GroupRelativeStage answers prompts one by one and rejects its own answers.\n"
                "Type:  batches.negatives=own batches.prompts_per_epoch=2048"
            )
        if self.settings.kl_weight > 0 and self._reference is None:
            self._reference = {name: weight.to(self.device) for name, weight in self.starting_weights().items()}
