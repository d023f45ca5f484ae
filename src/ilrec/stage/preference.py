"""DPO, S-DPO and RosePO: a supervised recommender learns to prefer the chosen item to rejected ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from src.ilrec.batches.pairs import Pairs
from src.ilrec.evaluator.ranking import RankingEvaluator
from src.ilrec.model.reward_model import load_reward_model
from src.ilrec.stage.post_training import Batch, PostTrainingSettings, PostTrainingStage, other_weights
from src.launch.errors import InputError
from src.launch.storage import sha256_of
from src.launch.values import Positive
from src.losses.preference import dpo_loss, preference_smoothing, rosepo_loss, sdpo_loss
from src.model.causal_lm import CausalLM


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings(PostTrainingSettings):
    """What the stage is told.

    Attributes:
        objective: ``dpo``, ``sdpo`` or ``rosepo``, see ``losses/preference.py``.
        beta: How strongly the reference holds the model back; dimensionless, > 0.
        reward_from: Checkpoint of a collaborative model of any kind, the preference oracle, or of several, whose
            probabilities are averaged; ``rosepo`` needs it.
        temperature: Of the oracle's score differences, see ``preference_smoothing``; > 0.

    Raises:
        InputError: a number is out of range, or there is no oracle for ``rosepo``.
    """

    objective: Literal["dpo", "sdpo", "rosepo"]
    beta: Positive
    reward_from: str | list[str] | None
    temperature: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta", "temperature"):
            if not getattr(self, name) > 0:
                raise InputError(f"stage.{name}={getattr(self, name)}: I need a number above 0.")
        if self.objective == "rosepo" and not self.reward_from:
            raise InputError(
                "stage.reward_from is not given: RosePO asks a collaborative model how sure each preference is.\n"
                "Train one:     python -m src.run +experiment=sasrec\n"
                "and name it:   stage.reward_from=outputs/sasrec/<run>/checkpoints/best.ckpt"
            )


class PreferenceStage(PostTrainingStage):
    """Preference optimisation against the supervised model it starts from.

    The reference log-probabilities of a draw of pairs are computed once, before its first step. A second draw is scored
    by the starting weights, which are read from ``init_from`` and take the model's place for that pass; at no time does
    a second copy of the model stand beside the gradients. Adapters switched off would be the reference only if the
    supervised model had none.
    """

    settings: PreferenceSettings

    def __init__(self, *, model: CausalLM, evaluator: RankingEvaluator, **settings: Any) -> None:
        super().__init__(model, evaluator, PreferenceSettings(**settings))

    @cached_property
    def _origin(self) -> str:
        return sha256_of(self._start)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch; see ``losses/preference.py``."""
        objective, beta = self.settings.objective, self.settings.beta
        policy, reference = self._log_p(batch).sum(2), self.draw["reference"][batch["pair"]]
        if objective == "rosepo":
            loss = rosepo_loss(policy, reference, self.draw["smoothing"][batch["pair"]], beta=beta)
        else:
            loss = (sdpo_loss if objective == "sdpo" else dpo_loss)(policy, reference, beta=beta)
        self._log_preferences(loss, policy, reference)
        return loss * self._share_of_positions(len(policy))

    def _prepare(self, epoch: int) -> None:
        data, pairs = self.data, self.data.pairs(epoch)
        key = f"{self._origin} {pairs.fingerprint()}"
        if self.draw.get("key") != key:
            with other_weights(self, self.starting_weights() if self.global_step else {}):
                answers = self._answers(epoch, wrong=True) if data.settings.negatives == "own" else None
                data.answers = None if answers is None else answers.cpu().numpy()
                self.draw = {"key": key, "answers": answers, "reference": self._scores(epoch)}
            if self.settings.objective == "rosepo":
                self.draw["smoothing"] = self._smoothing(pairs).to(self.device)
        answers = self.draw["answers"]
        data.answers = None if answers is None else answers.cpu().numpy()

    def _smoothing(self, pairs: Pairs) -> Tensor:
        """Return how unsure the oracle is of each pair, shape ``(n, K)``; 0 where it has no history to judge by."""
        interactions = self.data.interactions
        trie = self.evaluator.trie.to(torch.device("cpu"))
        oracle = load_reward_model(self.settings.reward_from or [], interactions, trie, exclude_history=False)
        answers = self.data.answers
        rejected = pairs.rejected if answers is None else answers[:, None]
        asked = torch.from_numpy(np.concatenate([pairs.chosen[:, None], rejected], axis=1))
        scores = oracle.log_probabilities(torch.from_numpy(interactions.offsets[pairs.user] + pairs.label), asked)
        smoothing = preference_smoothing(scores[:, :1], scores[:, 1:], temperature=self.settings.temperature)
        return smoothing.nan_to_num(0.0)
