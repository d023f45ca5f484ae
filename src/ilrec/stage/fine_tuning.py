"""Fine-tuning a language model as a recommender: supervised (SFT) and ILRec (CPO, CPD, CRR)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import MinLen
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's usual name

from src.ilrec.evaluator.grounding import GroundedEvaluator
from src.ilrec.evaluator.ranking import RankingEvaluator
from src.ilrec.model.reward_model import RewardModel, load_reward_model
from src.ilrec.stage.next_item import NextItemStage
from src.launch.errors import InputError
from src.launch.values import Count, Positive, Weight
from src.losses.collaborative import reward_loss, rewarded_positions
from src.losses.cross_layer import (
    Form,
    Space,
    distillation_loss,
    negative_weights,
    preference_loss,
    self_hard_negatives,
)
from src.model.architecture import Head
from src.model.causal_lm import CausalLM, intermediate_blocks
from src.training.sharded import gather, release, split
from src.training.stage import TrainingSettings

_COMPARED = 64  # positions at which the gradients are compared: as many as fit into little memory


@dataclass(frozen=True, kw_only=True)
class FineTuningSettings(TrainingSettings):
    """What the stage is told.

    Attributes:
        strength: Size of the penalty on negatives, see ``preference_loss``.
        form: How the penalty enters, see ``preference_loss``.
        ratio: Threshold of the negatives, see ``self_hard_negatives``.
        space: Where the threshold is compared, see ``self_hard_negatives``.
        max_negatives: Most negatives of a position, see ``self_hard_negatives``.
        layers: How many blocks before the final one vote, or which, counted from 1.
        ensemble: ``logits`` averages the layers' logits, ``probabilities`` their probabilities; ``final`` takes the
            final layer instead, for comparison.
        distillation: Weight of the distillation of the final layer into those that vote, see ``distillation_loss``.
        distilled: What learns from it: each of the ``layers``, or their ``ensemble``, as in the paper's figure.
        reward: Weight of the collaborative rewards, see ``reward_loss``.
        reward_from: Checkpoint of a collaborative model of any kind that gives the rewards, or of several, whose
            probabilities are averaged; needed if they weigh.
        reward_temperature: See ``reward_loss``.
        reward_excludes_history: See ``RewardModel``.
        observe_layers: Log what the layers find also where no term reads them, at the log steps; nothing else changes.

    Raises:
        InputError: the ensemble is unknown or has nothing to learn, or rewards weigh and nothing gives them.
    """

    strength: Weight
    form: Form
    ratio: Positive
    space: Space
    max_negatives: Count | None
    layers: Count | Annotated[list[Count], MinLen(1)]
    ensemble: Literal["logits", "probabilities", "final"]
    distillation: Weight
    distilled: Literal["layers", "ensemble"] = "layers"  # as in runs of before there was a choice
    reward: Weight
    reward_from: str | list[str] | None
    reward_temperature: Positive | None
    reward_excludes_history: bool | None
    observe_layers: bool

    def __post_init__(self) -> None:
        if self.ensemble not in ("logits", "probabilities", "final"):
            raise InputError(
                f"stage.ensemble={self.ensemble!r}: type stage.ensemble=logits, stage.ensemble=probabilities "
                "or stage.ensemble=final"
            )
        if isinstance(self.layers, list) and len({*self.layers}) < len(self.layers):
            raise InputError(f"stage.layers={self.layers} names a block twice; type each once")
        if self.distillation > 0 and (self.distilled, self.ensemble) == ("ensemble", "final"):
            raise InputError(
                "stage.ensemble=final makes the final layer its own pupil: stage.distilled=ensemble has nothing to "
                "learn.\nType:  stage.distilled=layers, or stage.ensemble=logits"
            )
        if self.reward > 0 and not self.reward_from:
            raise InputError(
                f"stage.reward={self.reward} needs a collaborative model trained on the same data set.\n"
                "Train one:     python -m src.run +experiment=sasrec\n"
                "and name it:   stage.reward_from=outputs/sasrec/<run>/checkpoints/best.ckpt"
            )


class _Term(NamedTuple):
    """A term of the loss: its mean over so many positions of this process, and what it weighs."""

    mean: Tensor
    positions: Tensor | int
    weight: float = 1.0


class FineTuningStage(NextItemStage):
    """Next-item prediction with a language model, with or without self-hard negatives.

    With ``strength``, ``distillation`` and ``reward`` 0 it is supervised fine-tuning: intermediate layers are then not
    even read.

    Args:
        model: The language model.
        evaluator: Ranks the target of every validation and test user.
        settings: Those of ``FineTuningSettings``.
    """

    model: CausalLM
    settings: FineTuningSettings

    def __init__(self, *, model: CausalLM, evaluator: RankingEvaluator | GroundedEvaluator, **settings: Any) -> None:
        super().__init__(model, evaluator, FineTuningSettings(**settings))
        weights = self.settings.strength, self.settings.distillation, self.settings.reward
        self.learns_from_layers = max(weights) > 0
        read = self.learns_from_layers or self.settings.observe_layers
        self.blocks = intermediate_blocks(model, self.settings.layers) if read else []
        self.rewards: RewardModel | None = None

    @property
    def decisions(self) -> dict[str, Any]:
        """See the base class."""
        return {"reward_excludes_history": self.rewards.exclude_history} if self.rewards else {}

    def configure_model(self) -> None:
        """Split the weights over the processes where the trainer asks for it."""
        if self.device_mesh is not None:
            steps = ("training_step", "validation_step", "test_step")
            split(self, self.model.blocks, self.device_mesh["data_parallel"], steps)

    def on_validation_epoch_start(self) -> None:
        """Begin an evaluation, with whole weights: every process makes passes of its own number."""
        super().on_validation_epoch_start()
        gather(self)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics, and split the weights again."""
        super().on_validation_epoch_end()
        release(self)

    def on_fit_start(self) -> None:
        """Load the collaborative models and let them read all histories.

        Raises:
            InputError: one is none, or was trained on other data.
        """
        if self.settings.reward > 0:
            interactions = self.trainer.datamodule.interactions  # type: ignore[attr-defined]
            named, exclude = self.settings.reward_from or [], self.settings.reward_excludes_history
            self.rewards = load_reward_model(named, interactions, self.evaluator.trie, exclude_history=exclude)
            self.rewards.to(self.device)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch; see ``losses/cross_layer.py``."""
        blocks = self.blocks if self.learns_from_layers or self._is_log_step() else []
        states = self.model.row_states(batch["input_ids"], batch["attention_mask"], batch["rows"], blocks)
        head, target = self.model.read_head(), batch["target"]
        logits = head(states.final)
        if blocks:
            terms, parts = self._ilrec_loss(states.intermediate, head, logits, batch)
        else:
            terms, parts = [_Term(F.cross_entropy(logits, target), len(target))], {}
        weighted = torch.stack([term.weight * term.mean for term in terms])
        self._log_training({"loss": weighted.sum(), **parts})
        positions = torch.stack([torch.as_tensor(term.positions, device=target.device) for term in terms])
        return (weighted * self._share_of_positions(positions)).sum()

    def _ilrec_loss(
        self, states: Tensor, head: Head, logits: Tensor, batch: Mapping[str, Tensor]
    ) -> tuple[list[_Term], dict[str, Tensor]]:
        """Return the terms of CPO + distillation * CPD + reward * CRR, and what is logged of them."""
        settings, target, places = self.settings, batch["target"], self.model.item_token_places
        with torch.no_grad():
            ensemble = logits.detach() if settings.ensemble == "final" else self._ensemble_logits(states, head)
        negatives = self_hard_negatives(
            ensemble,
            logits,
            target,
            ratio=settings.ratio,
            space=settings.space,
            max_negatives=settings.max_negatives,
        )
        weights = negative_weights(ensemble, negatives)
        penalty: dict[str, Any] = {"strength": settings.strength, "form": settings.form}
        terms = [_Term(preference_loss(logits, target, negatives, weights, **penalty), len(target))]
        item_tokens = self.model.item_token_ids
        keep = (places[target] >= 0) & (target != self.model.tokenizer.eos_token_id)
        parts = {}
        if self._is_log_step():
            parts = _negatives_report(ensemble, logits, target, negatives)
            few = slice(_COMPARED)
            parts |= _penalty_report(logits[few], target[few], negatives[few], weights[few], penalty)
            layers = zip(self.blocks, states, strict=True)
            parts |= _layers_report(layers, head.of(item_tokens), logits[:, item_tokens], keep)
        if settings.distillation > 0:
            of_items, each = head.of(item_tokens), settings.distilled == "layers"
            pupils = of_items(states) if each else self._ensemble_logits(states, of_items)[None]
            parts["loss_distillation"] = distillation_loss(pupils, logits[:, item_tokens], keep=keep)
            terms.append(_Term(parts["loss_distillation"], keep.sum(), settings.distillation))
        if self.rewards is not None:
            parts["loss_reward"], positions = self._reward_loss(self.rewards, logits, negatives, batch)
            terms.append(_Term(parts["loss_reward"], positions, settings.reward))
        return terms, parts

    def _reward_loss(
        self, model: RewardModel, logits: Tensor, negatives: Tensor, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return CRR's loss and over how many positions it is a mean."""
        target, item_tokens, temperature = batch["target"], self.model.item_token_ids, self.settings.reward_temperature
        # Only an item's next token has a reward, so nothing else is asked for, however many tokens are negative; and
        # no label that belongs to no response.
        owned = (batch["interaction"] >= 0).nonzero()[:, 0]
        of_responses = batch["interaction"][owned], self.model.item_token_places[target[owned]]
        if model.of_single_tokens:
            rewards = torch.zeros_like(logits)
            rewards[owned] = rewards[owned].index_copy_(
                1, item_tokens[model.trie.token[1:]], model.all_tokens(*of_responses).to(logits.dtype)
            )
            marked = negatives.scatter(1, target[:, None], True)
            loss = reward_loss(logits, target, negatives, rewards, temperature=temperature)
            return loss, (rewards > 0).logical_and_(marked).any(1).sum()
        nth, token, child = model.continuations(*of_responses)
        row, entry = owned[nth], item_tokens[token]
        marked = negatives[row, entry] | (entry == target[row])
        row, entry = row[marked], entry[marked]
        rewards = model(*of_responses, nth[marked], token[marked], child[marked])
        loss = reward_loss(logits, target, negatives, rewards, temperature=temperature, entries=(row, entry))
        return loss, rewarded_positions(len(target), row, rewards)

    def _ensemble_logits(self, states: Tensor, head: Head) -> Tensor:
        if self.settings.ensemble == "probabilities":  # finite where they are all near 0
            return head(states).log_softmax(-1).logsumexp(0) - math.log(len(states))
        # Of a linear head one product with the mean state equals the mean of the layers' logits.
        return head(states.mean(0)) if head.linear else head(states).mean(0)


@torch.no_grad()
def _negatives_report(ensemble: Tensor, logits: Tensor, target: Tensor, negatives: Tensor) -> dict[str, Tensor]:
    """Return what is logged of the negatives that the layers found: their number, and means over positions."""
    count = negatives.sum(1).float()
    hardest = logits.masked_fill(~negatives, -torch.inf).max(1).values
    margin = (logits.gather(1, target[:, None])[:, 0] - hardest)[count > 0]
    return {
        "loss_cross_entropy": F.cross_entropy(logits, target),
        "negatives": count.sum(),
        "negatives_per_position": count.mean(),
        "positions_without_negatives": (count == 0).float().mean(),
        "negative_mass": (logits.softmax(1) * negatives).sum(1).mean(),
        "negative_mass_intermediate": (ensemble.softmax(1) * negatives).sum(1).mean(),
        "negative_margin": margin.mean() if len(margin) else margin.new_zeros(()),
    }


def _penalty_report(
    logits: Tensor, target: Tensor, negatives: Tensor, weights: Tensor, penalty: dict[str, Any]
) -> dict[str, Tensor]:
    """Return how far the preference loss's gradient by the final logits is from plain cross-entropy's.

    ``cpo_gradient_cosine`` is their cosine, ``cpo_gradient_change`` the length of their difference over that of plain
    cross-entropy's; 1 and 0 where the penalty changes nothing.
    """
    with torch.enable_grad():
        z = logits.detach().requires_grad_()
        losses = preference_loss(z, target, negatives, weights, **penalty), F.cross_entropy(z, target)
        cpo, plain = (torch.autograd.grad(loss, z)[0].flatten() for loss in losses)
    return {
        "cpo_gradient_cosine": F.cosine_similarity(cpo, plain, dim=0),
        "cpo_gradient_change": (cpo - plain).norm() / plain.norm(),
    }


@torch.no_grad()
def _layers_report(layers: Iterable[tuple[int, Tensor]], head: Head, logits: Tensor, keep: Tensor) -> dict[str, Tensor]:
    """Return how far the layers are from the final one at the kept positions, among item tokens.

    ``layer_agreement_<block>`` is the share of positions with the same first choice, ``layer_divergence`` the mean
    distance in nats, ``distillation_loss``. One layer at a time, so that the peak of memory stays where it is.
    """
    report, divergence = {}, []
    choice = logits.argmax(1)
    for block, states in layers:
        layer = head(states)
        report[f"layer_agreement_{block}"] = (layer.argmax(1) == choice)[keep].float().mean()
        divergence.append(distillation_loss(layer[None], logits, keep=keep))
    return report | {"layer_divergence": torch.stack(divergence).mean()}
