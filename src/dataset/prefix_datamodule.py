"""All moments of all episodes as one batch, and the folds: which network may learn from which questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import lightning
import numpy as np
import torch
from torch import Tensor

from src.dataset.episode_states import NAMES
from src.dataset.scored_episodes import ScoredEpisode
from src.errors import InputError

Batch = dict[str, Tensor]


class PrefixData(lightning.LightningDataModule):
    """The batch of every step, for as many networks as there are folds, each learning from all folds but its own.

    A fold is made of whole questions. Every question weighs the same, so do its attempts, and so do the moments of one.

    Args:
        episodes: What is learnt from.
        seed: Of the folds.
        folds: K, into how many parts the questions are shuffled.
        left_out: Numbers of a state that nothing is learnt from, by their names in ``episode_states``.

    Attributes:
        fold: Of each moment, shape ``(N,)``; the network of that number has not learnt from its question.
        batch: ``states`` ``(K, N, F)``, for each network with mean 0 and deviation 1 over what it learns from;
            ``target`` ``(N,)``, the F1 that the episode came to; ``weight`` ``(K, N)``, 0 for what a network may not
            learn from, summing to 1 over the rest.

    Symbols: K networks, N moments of all episodes, F numbers of a state.

    Raises:
        InputError: there are fewer questions than folds, or fewer than two folds, or no number of such a name.
    """

    def __init__(
        self, *, episodes: Sequence[ScoredEpisode], seed: int, folds: int, left_out: Sequence[str] = ()
    ) -> None:
        super().__init__()
        questions = list(dict.fromkeys(episode.question_id for episode in episodes))
        if not 2 <= folds <= len(questions):
            raise InputError(
                f"data.folds={folds}, and there are {len(questions)} questions: I need at least two folds, and a "
                "question for each.\nType:  data.folds=<number>, or give rollouts of more questions"
            )
        if unknown := sorted(set(left_out) - set(NAMES)):
            raise InputError(f"data.left_out: there is no {', '.join(unknown)}; there are: {', '.join(NAMES)}")
        order = np.random.default_rng(seed).permutation(len(questions))
        fold_of = {questions[place]: number % folds for number, place in enumerate(order)}
        attempts = {name: sum(episode.question_id == name for episode in episodes) for name in questions}
        sizes = [len(episode.states) for episode in episodes]
        shares = [1 / (attempts[one.question_id] * len(one.states)) for one in episodes]
        self.fold = np.repeat([fold_of[episode.question_id] for episode in episodes], sizes)
        weight = np.repeat(shares, sizes) * (self.fold != np.arange(folds)[:, None])
        weight /= weight.sum(1, keepdims=True)
        values = np.concatenate([episode.states for episode in episodes]).astype(np.float64)
        values[:, [NAMES.index(name) for name in left_out]] = 0
        mean = weight @ values
        variance = weight @ values**2 - mean**2
        # A number that is always the same where a network learns tells it nothing, whatever it is elsewhere.
        scale = np.where(variance > 1e-6, np.maximum(variance, 1e-6) ** -0.5, 0.0)
        scaled = (values - mean[:, None]) * scale[:, None]
        self.batch: Batch = {
            "states": torch.tensor(scaled, dtype=torch.float32),
            "target": torch.tensor(np.repeat([episode.f1 for episode in episodes], sizes), dtype=torch.float32),
            "weight": torch.tensor(weight, dtype=torch.float32),
        }

    def train_dataloader(self) -> WholeBatch:
        """Return the batch; iterating once is one epoch of one step."""
        return WholeBatch(self.batch)


class WholeBatch:
    """Gives one batch an epoch; nothing has to be known of where it stands."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return 1

    def __iter__(self) -> Iterator[Batch]:
        """Give the batch."""
        yield self.batch

    def state_dict(self) -> dict[str, int]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Do nothing."""
