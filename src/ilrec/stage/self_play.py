"""SPRec: a recommender plays against itself, rejecting its own answers of the round before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from src.ilrec.evaluator.ranking import RankingEvaluator
from src.ilrec.stage.post_training import Batch, PostTrainingSettings, PostTrainingStage
from src.launch.errors import InputError
from src.launch.values import Positive
from src.losses.preference import dpo_loss
from src.model.causal_lm import CausalLM


@dataclass(frozen=True, kw_only=True)
class SelfPlaySettings(PostTrainingSettings):
    """What the stage is told.

    Attributes:
        beta: How strongly the reference holds the model back; dimensionless, > 0.

    Raises:
        InputError: it is out of range.
    """

    beta: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta > 0:
            raise InputError(f"stage.beta={self.beta}: I need a number above 0.")


class SelfPlayStage(PostTrainingStage):
    """Rounds of two epochs over prompts drawn for the round: supervised, then DPO against what that led to.

    At the start of a round the model answers the prompts, greedily and with real items only. The first epoch trains on
    the chosen items; the model after it is the reference of the second, which prefers the chosen item to the answer.
    Pairs whose answer was right are left out of it.

    Source: SPRec (arXiv 2412.09243). One optimiser and one schedule over all rounds are our choice.
    """

    settings: SelfPlaySettings

    def __init__(self, *, model: CausalLM, evaluator: RankingEvaluator, **settings: Any) -> None:
        super().__init__(model, evaluator, SelfPlaySettings(**settings))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Fix the random numbers of the step; dropout is on in supervised epochs only."""
        super().on_train_batch_start(batch, batch_idx)
        if batch["item"].shape[1] == 1:
            self.model.train()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch: cross-entropy where it holds no answers, DPO where it does."""
        response, log_p = batch["response"], self._log_p(batch)
        if response.shape[1] == 1:
            tokens = response >= 0
            loss = -log_p.sum() / tokens.sum()
            self._log_training({"loss": loss, "negatives": loss.new_zeros(())})
            return loss * self._share_of_positions(int(tokens.sum()))
        wrong = (response[:, 0] != response[:, 1]).any(1)
        count = int(wrong.sum())
        if count == 0:
            return log_p.sum() * 0.0 * self._share_of_positions(0)
        policy, reference = log_p.sum(2)[wrong], self.draw["reference"][batch["pair"]][wrong]
        loss = dpo_loss(policy, reference, beta=self.settings.beta)
        self._log_preferences(loss, policy, reference, wrong_answers=wrong.float().mean())
        return loss * self._share_of_positions(count)

    def _prepare(self, epoch: int) -> None:
        data = self.data
        if (
            data.settings.negatives != "own"
            or data.settings.epochs_per_draw != 2
            or data.settings.prompts_per_epoch is None
        ):
            raise InputError(
                "SelfPlayStage draws prompts for rounds of two epochs and rejects the model's own answers.\n"
                "Type:  batches.negatives=own batches.epochs_per_draw=2 batches.prompts_per_epoch=2048"
            )
        key = f"{epoch} {data.pairs(epoch).fingerprint()}"
        if self.draw.get("key") != key:
            if epoch % 2 == 0:
                self.draw = {"key": key, "answers": self._answers(epoch, wrong=False)}
            else:
                data.answers = self.draw["answers"].cpu().numpy()
                self.draw = {**self.draw, "key": key, "reference": self._scores(epoch)}
        data.answers = None if epoch % 2 == 0 else self.draw["answers"].cpu().numpy()
