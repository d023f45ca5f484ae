"""GRPO for the agent: its own episodes about a question are compared with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from src.gisa.agent.policy import ReplyTokens
from src.gisa.agent.rollout import Rollout
from src.gisa.agent.trajectory import Attempt, Episode, MemoryStore, infra_failures, tool_calls_of
from src.gisa.batches.data import GradedQuestion, QuestionData
from src.gisa.metrics.answers import official_score
from src.gisa.metrics.behaviour import StepValue, Weights, rewards, step_values
from src.gisa.stage.imitation import LearningStage
from src.launch.errors import InputError
from src.launch.values import Weight
from src.losses.preference import group_advantages, group_relative_loss, token_log_probabilities
from src.model.causal_lm import CausalLM
from src.model.packing import lay_out
from src.model.probe import extend
from src.training.stage import Optimisation

_FOUND = Weights(novelty=0.0, cost=0.0)


@dataclass(frozen=True, kw_only=True)
class GrpoSettings(Optimisation):
    """What the stage is told.

    Attributes:
        group_size: Episodes of each question, >= 2.
        process_weight: Weight of the process reward beside an exact match; dimensionless, >= 0.
        kl_weight: Weight of the divergence from the starting weights; dimensionless, >= 0.
    """

    group_size: Annotated[int, Ge(2)]
    process_weight: Weight
    kl_weight: Weight


class GrpoStage(LearningStage):
    """Group relative policy optimisation over real rollouts: every step answers its questions with the weights of now.

    The reward of an episode is its official exact match, plus ``process_weight`` times what its steps brought (see
    ``src.gisa.metrics.behaviour``); how rewards are compared, see ``episode_advantages``. Potential-based shaping would
    change nothing here: it moves reward between the steps of an episode and sums to 0, and episodes are compared as
    wholes.

    Only tokens that the model has written are learnt, those of malformed calls included; all others are read. The
    reference of the divergence is the model with its adapters switched off, which is what the run began with.

    Source: GRPO (arXiv 2402.03300) with one step per group.

    Args:
        model: The language model; with adapters if there is a divergence to weigh, and without dropout.
        rollout: The agent, whose ``LocalPolicy`` generates with ``model``.
        settings: Those of ``GrpoSettings``.

    Raises:
        InputError: a setting is out of range, or there are no adapters to switch off.
    """

    settings: GrpoSettings

    def __init__(self, *, model: CausalLM, rollout: Rollout, **settings: Any) -> None:
        super().__init__(model, GrpoSettings(**settings))
        group_size, kl_weight = self.settings.group_size, self.settings.kl_weight
        if group_size < 2:
            raise InputError(f"stage.group_size={group_size}: I need at least 2 episodes to compare.")
        for name, weight in {"process_weight": self.settings.process_weight, "kl_weight": kl_weight}.items():
            if not weight >= 0:
                raise InputError(f"stage.{name}={weight}: I need a number of at least 0.")
        if kl_weight > 0 and not hasattr(model.network, "disable_adapter"):
            raise InputError(
                f"stage.kl_weight={kl_weight} needs adapters: the model without them is what is diverged from.\n"
                "Type:  stage.kl_weight=0, or model.lora.rank=16"
            )
        self._temperature: float = rollout.policy.temperature  # type: ignore[attr-defined]
        if not self._temperature > 0:
            raise InputError("agent.policy.temperature=0: all episodes of a group would be the same.\nType 1.0 there.")
        self.rollout, self._manifest_before = rollout, rollout.manifest

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        """Roll out a group a question, and return the loss of all episodes; None where nothing was written in any."""
        size = self.settings.group_size
        episodes, outcome, process, found = self._rewarded(batch, size + self.global_step * size)
        tokens = [episode.tokens for episode in episodes]
        if not any(tokens):
            return self._skipped(len(batch))
        grouped = [values.view(len(batch), size) for values in (outcome, process, found)]
        advantages = episode_advantages(*grouped, process_weight=self.settings.process_weight)
        loss, gap = self._loss(tokens, advantages.to(self.device))
        parts = _behaviour(episodes) | {"loss": loss, "reward": self._reward(outcome, process).mean()}
        parts |= {"em": outcome.mean(), "process": process.mean()} | _mixed(grouped[0])
        self._log_training(parts if gap is None else {**parts, "log_ratio": gap})
        return loss * self._share_of_positions(len(batch))

    def _skipped(self, count: int) -> Tensor | None:
        """Return what makes no step; of several processes, the others wait for gradients, which are 0."""
        if self.trainer.world_size == 1:
            return None
        trained = [weight.sum() for weight in self.model.parameters() if weight.requires_grad]
        return 0.0 * torch.stack(trained).sum() * self._share_of_positions(count)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Log what a group of episodes of each question comes to, sampled as in training."""
        episodes, outcome, process, _ = self._rewarded(batch, 0)
        parts = _behaviour(episodes) | {"em": outcome.mean(), "reward": self._reward(outcome, process).mean()}
        shown = {f"val/{name}": value for name, value in parts.items()}
        self.log_dict(shown, batch_size=len(batch), on_epoch=True, sync_dist=True)

    def _reward(self, outcome: Tensor, process: Tensor) -> Tensor:
        return outcome + self.settings.process_weight * process

    def _rewarded(self, batch: Tensor, first: int) -> tuple[list[Episode], Tensor, Tensor, Tensor]:
        """Answer each question ``group_size`` times; seed, question and number of the sample make what is drawn.

        Returns:
            Episodes, those of a question next to each other, with exact match, process reward and what was found of
            each, ``(E,)``; see ``episode_advantages``.

        Raises:
            InputError: an episode failed for reasons of infrastructure; such an episode is no wrong answer.
        """
        data: QuestionData = self.trainer.datamodule  # type: ignore[attr-defined]
        questions = [data.questions[index] for index in batch.tolist()]
        numbers = range(first, first + self.settings.group_size)
        attempts = [Attempt.at(graded.question, number) for graded in questions for number in numbers]
        training, store = self.model.training, MemoryStore()
        self.model.eval()
        self.rollout.run(attempts, store)
        self.model.train(training)
        episodes = [store.ended[attempt] for attempt in attempts]
        records = [episode.record() for episode in episodes]
        if any(record["outcome"] == "infra_error" for record in records):
            advice = "Mend that, and go on:  python -m src.run resume=<folder of this run>"
            raise InputError(f"{infra_failures(records)}\n{advice}")
        steps = self._step_values(questions, records)
        return episodes, *self._judge(questions, records), _sums(steps, _FOUND)

    def _judge(
        self, questions: Sequence[GradedQuestion], records: Sequence[Mapping[str, Any]]
    ) -> tuple[Tensor, Tensor]:
        """Return exact match and process reward of each episode, shape ``(E,)``."""
        outcome = []
        for at, record in enumerate(records):
            graded = questions[at // self.settings.group_size]
            exact = official_score(record["prediction"], graded.gold, graded.question.answer_type)["global_em"]
            outcome.append(float(exact) if record["outcome"] == "answered" else 0.0)
        return torch.tensor(outcome), _sums(self._step_values(questions, records), Weights())

    def _step_values(
        self, questions: Sequence[GradedQuestion], records: Sequence[Mapping[str, Any]]
    ) -> list[list[StepValue]]:
        """Return what the steps of each episode brought."""
        asked = (questions[at // self.settings.group_size] for at in range(len(records)))
        return [
            step_values(tool_calls_of(record["steps"]), graded.cells, graded.human_urls)
            for graded, record in zip(asked, records, strict=True)
        ]

    def _loss(self, turns: Sequence[Sequence[ReplyTokens]], advantages: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the loss of episodes with advantages ``(Q, G)``, and by how much their log-probability has grown."""
        laid_out = as_batch(turns, self.model.tokenizer.pad_token_id)
        batch = {name: tensor.to(self.device) for name, tensor in laid_out.items()}
        extend(self.model.architecture, 1 << (batch["input_ids"].shape[1] - 1).bit_length())  # few times a run
        reference = None
        if self.settings.kl_weight > 0:
            with torch.no_grad(), self._without_adapters():
                reference = self._log_p(batch, advantages)[0]
        policy, present = self._log_p(batch, advantages)
        loss = group_relative_loss(policy, reference, advantages, present, kl_weight=self.settings.kl_weight)
        gap = None if reference is None else (policy.detach() - reference).sum(2).mean()
        return loss, gap

    def _without_adapters(self) -> AbstractContextManager[None]:
        adapters: AbstractContextManager[None] = self.model.network.disable_adapter()
        return adapters

    def _log_p(self, batch: Mapping[str, Tensor], advantages: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of the tokens of each episode, shape ``(Q, G, M)``, and where there are some.

        An episode without tokens, as the question alone was too long to be read, has one of probability 1.
        """
        states = self.model.row_states(batch["input_ids"], batch["attention_mask"], batch["rows"], [])
        counts = batch["owner"].bincount(minlength=advantages.numel())
        present = torch.arange(int(counts.max()), device=counts.device) < counts[:, None]
        rows = torch.zeros_like(present, dtype=torch.int64).masked_scatter(present, batch["owner"].argsort(stable=True))
        tokens = batch["target"][rows].masked_fill(~present, -1)
        log_p = token_log_probabilities(self.model.head(states.final) / self._temperature, rows, tokens)
        present[:, 0] = True
        return log_p.view(*advantages.shape, -1), present.view(*advantages.shape, -1)


def episode_advantages(outcome: Tensor, process: Tensor, found: Tensor, *, process_weight: float) -> Tensor:
    """Compare the episodes of each group.

    A group with right and wrong answers is compared by ``outcome + process_weight * process`` as GRPO does. In any
    other the outcomes tell nothing, and the deviation is that of trifles: divided by it, a step that was saved would
    count as much as an answer, and of wrong answers one without a single call would be the best. So what was found is
    compared there, ``process_weight * (found - mean)``: no costs, no novelty, nothing divided (our choice).

    Args:
        outcome: Exact match, shape ``(Q, G)``, 0 or 1.
        process: Reward of the steps, costs included, shape ``(Q, G)``, in units of a right answer.
        found: What they found, cells of the answer and a human's pages, shape ``(Q, G)``, likewise, >= 0.
        process_weight: Weight of both; dimensionless, >= 0.

    Returns:
        Advantages, shape ``(Q, G)``; they sum to 0 in each group.

    Symbols: Q questions, G episodes of a group.
    """
    mixed = outcome.amax(1, keepdim=True) > outcome.amin(1, keepdim=True)
    alike = process_weight * (found - found.mean(1, keepdim=True))
    return torch.where(mixed, group_advantages(outcome + process_weight * process), alike)


def _mixed(outcome: Tensor) -> dict[str, Tensor]:
    """Return the share of groups with right and wrong answers, and the exact match within these if there are some."""
    mixed = outcome.amax(1) > outcome.amin(1)
    apart = {"em_mixed": outcome[mixed].mean()} if mixed.any() else {}
    return {"mixed_groups": mixed.float().mean(), **apart}


def _sums(steps: Sequence[Sequence[StepValue]], weights: Weights) -> Tensor:
    """Return the reward of each episode, shape ``(E,)``; 0 where nobody called a tool."""
    return torch.tensor([sum(rewards(values, weights)) for values in steps], dtype=torch.float32)


def as_batch(episodes: Sequence[Sequence[ReplyTokens]], pad_token_id: int) -> dict[str, Tensor]:
    """Lay the turns of episodes out in rows; labels are the tokens that were written, ``owner`` is the episode.

    A turn that was read as the continuation of the one before it, word for word, is in the same sequence. Where that
    is not so, as of a call only the part that was understood is read again, a new sequence begins. Each token is a
    label once, behind exactly those tokens behind which it was written.
    """
    examples = []
    for owner, turns in enumerate(episodes):
        tokens: list[int] = []
        labels: list[int] = []
        for read, written in turns:
            if tokens and read[: len(tokens)] != tokens:
                examples.append((np.array(tokens), np.array(labels)))
                labels = []
            labels += [-1] * (len(read) - len(labels)) + [owner] * len(written)
            tokens = [*read, *written]
        if tokens:
            examples.append((np.array(tokens), np.array(labels)))
    return lay_out(examples, pad_token_id=pad_token_id, packed=True)


def _behaviour(episodes: Sequence[Episode]) -> dict[str, Tensor]:
    """Return the share of calls that are valid, of episodes that ended with an answer, and calls and tokens of one."""
    records = [episode.record() for episode in episodes]
    counts = [record["counts"] for record in records]
    valid = sum(count["calls"] + count["skipped_calls"] for count in counts)
    every = valid + sum(count["invalid_calls"] for count in counts)
    written = sum(record["spent"].get("chain", {}).get("completion_tokens", 0) for record in records)
    answered = sum(record["outcome"] == "answered" for record in records)
    return {
        "valid_calls": torch.tensor(valid / every if every else 1.0),
        "answered": torch.tensor(answered / len(records)),
        "calls": torch.tensor(valid / len(records)),
        "tokens": torch.tensor(written / len(records)),
    }
