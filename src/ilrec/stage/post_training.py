"""What every stage shares that goes on from a supervised model: the start, the reference, passes over an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.ilrec.batches.pairs import PreferenceBatches, PreferenceData
from src.ilrec.evaluator.ranking import RankingEvaluator
from src.ilrec.model.decoding import greedy_leaves
from src.ilrec.model.responses import response_log_probabilities
from src.ilrec.model.trie import TokenTrie
from src.ilrec.stage.next_item import NextItemStage
from src.launch.errors import InputError
from src.launch.progress import tracked
from src.losses.preference import reward_margins
from src.model.causal_lm import CausalLM
from src.training.sharded import load_weights
from src.training.stage import TrainingSettings

Batch = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class PostTrainingSettings(TrainingSettings):
    """What these stages are told.

    Raises:
        InputError: ``init_from`` is not given.
    """

    def __post_init__(self) -> None:
        if self.init_from is None:
            raise InputError(
                "stage.init_from is not given: this stage goes on from a supervised model of the same data set.\n"
                "Train one:     python -m src.run +experiment=sft\n"
                "and name it:   stage.init_from=outputs/sft/<run>/checkpoints/best.ckpt"
            )


class PostTrainingStage(NextItemStage):
    """A stage that trains on preferences, from the weights of a ``FineTuningStage`` checkpoint of the same model.

    Dropout is off in preference steps, so that policy and reference differ by their weights alone; source: DPO's
    released code.

    What is found out about a draw of pairs (reference log-probabilities, the model's answers) is kept in ``draw`` and
    is part of every checkpoint: a resumed run has exactly what the uninterrupted one has.

    Args:
        model: The language model.
        evaluator: Ranks the target of every validation and test user.
        settings: Of the stage.

    Attributes:
        draw: ``key``, which says what it belongs to, and tensors with one row for each pair.
    """

    model: CausalLM
    evaluator: RankingEvaluator

    settings: PostTrainingSettings

    continues = "FineTuningStage"

    def __init__(self, model: CausalLM, evaluator: RankingEvaluator, settings: PostTrainingSettings) -> None:
        super().__init__(model, evaluator, settings)
        self._start = Path(str(settings.init_from))
        self.draw: dict[str, Any] = {}

    @property
    def data(self) -> PreferenceData:
        """The data module."""
        data: PreferenceData = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    @property
    def trie(self) -> TokenTrie:
        """The evaluator's trie, on this device."""
        if self.evaluator.trie.items.device != self.device:
            self.evaluator.trie = self.evaluator.trie.to(self.device)
        return self.evaluator.trie

    def on_train_start(self) -> None:
        """Prepare the epoch; in the middle of one, where a resumed run may begin, no other hook does."""
        self.draw = {name: one.to(self.device) if isinstance(one, Tensor) else one for name, one in self.draw.items()}
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        """Prepare the epoch.

        Raises:
            InputError: the batches are not of pairs.
        """
        batches = self.trainer.train_dataloader
        if not isinstance(batches, PreferenceBatches):
            raise InputError(f"{type(self).__name__} learns from pairs of items.\nType:  batches=pairs")
        self._prepare(batches.next_epoch)

    def _prepare(self, epoch: int) -> None:
        """Fill ``draw``, where its key does not say that it is there, and tell the data module of the answers in it."""
        raise NotImplementedError

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Fix the random numbers of the step, and switch dropout off."""
        super().on_train_batch_start(batch, batch_idx)
        self.model.eval()
        for module in self.model.modules():
            if getattr(module, "gradient_checkpointing", False):
                module.training = True  # a condition of checkpointing; the blocks' dropout lies in modules below them

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is known of the draw, too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["draw"] = self.draw

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what is known of the draw, too."""
        super().on_load_checkpoint(checkpoint)
        self.draw = checkpoint["draw"]

    def _log_p(self, batch: Batch, response: Tensor | None = None) -> Tensor:
        """Return token log-probabilities of the batch's responses, or of others to the same prompts: ``(P, R, M)``."""
        response = batch["response"] if response is None else response
        return response_log_probabilities(
            self.model, batch["input_ids"], batch["attention_mask"], batch["anchor"], response
        )

    def _log_preferences(self, loss: Tensor, policy: Tensor, reference: Tensor, **more: Tensor) -> None:
        """Log the loss of some pairs, and by how much their chosen items are preferred to the rejected ones."""
        margins = reward_margins(policy.detach(), reference)
        parts = {"loss": loss, "margin": margins.mean(), "accuracy": (margins > 0).float().mean(), **more}
        self._log_training({**parts, "negatives": torch.tensor(float(margins.numel()))})

    def _scores(self, epoch: int) -> Tensor:
        """Return the sequence log-probability of every response to every pair's prompt, shape ``(n, 1 + K)``."""
        return self._over_pairs(epoch, lambda batch: self._log_p(batch).sum(2), "Reference log-probabilities")

    def _answers(self, epoch: int, *, wrong: bool) -> Tensor:
        """Return the model's greedy answer to every pair's prompt as an item, the chosen one left out if ``wrong``."""

        def answer(batch: Batch) -> Tensor:
            excluded = self.trie.leaf[batch["item"][:, 0]] if wrong else None
            prompts = batch["input_ids"], batch["attention_mask"], batch["anchor"]
            leaf = greedy_leaves(self.model, self.trie, *prompts, excluded_leaf=excluded)
            return self.trie.items[self.trie.first_item[leaf]]

        self.data.answers = None
        return self._over_pairs(epoch, answer, "The model's own answers")

    @torch.no_grad()
    def _over_pairs(self, epoch: int, read: Callable[[Batch], Tensor], what: str) -> Tensor:
        """Read every batch of an epoch and return the values by pair, those of all processes."""
        self.zero_grad()  # gradients of the last step are of no use, and their memory is
        self.model.eval()
        pairs = len(self.data.pairs(epoch).chosen)
        found: Tensor | None = None
        shown = getattr(self.trainer.progress_bar_callback, "is_enabled", False)
        with self.trainer.precision_plugin.forward_context():
            batches = self.data.epoch_batches(epoch)
            for batch in tracked(batches, what, len(batches)) if shown else batches:
                moved = self.transfer_batch_to_device(batch, self.device, 0)
                values = read(moved)
                if found is None:
                    found = values.new_zeros(pairs, *values.shape[1:])
                found[moved["pair"]] = values
        reduced: Tensor = self.trainer.strategy.reduce(found, reduce_op="sum")
        return reduced

    def starting_weights(self) -> dict[str, Tensor]:
        """Read the trained weights that this stage started from."""
        stored = load_weights(self._start)["state_dict"]
        return {name: stored[name] for name in self._trained_names()}


@contextmanager
def other_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a module compute with other weights for a while; they trade places, and only a change of device copies.

    Args:
        module: The module; no backward pass may run inside that began outside, or the other way round.
        weights: Weights by parameter name; the other parameters stay.
    """
    parameters = dict(module.named_parameters())
    own = {name: parameters[name].data for name in weights}
    try:
        for name, weight in weights.items():
            parameters[name].data = weight.to(own[name])
        yield
    finally:
        for name, weight in own.items():
            parameters[name].data = weight
