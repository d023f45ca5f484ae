"""The agent at work as a Lightning module, so that the Trainer shares the questions out over processes and machines."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
from torch import Tensor

from src.gisa.agent.rollout import Rollout
from src.gisa.agent.trajectory import Attempt, Episode, RunStore


class RolloutStage(lightning.LightningModule):
    """Answers questions; nothing is trained.

    Args:
        rollout: The agent.
        attempts: What to answer; batches are indices into it.
        folder: The run folder; the first process's counts.
        settings: Everything that changes an answer; see ``RunStore``.
        watch: Is given the record of each episode that ends in this process, by threads.
    """

    def __init__(
        self,
        *,
        rollout: Rollout,
        attempts: Sequence[Attempt],
        folder: Path,
        settings: Mapping[str, Any],
        watch: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        super().__init__()
        self.rollout, self.attempts = rollout, attempts
        self.folder, self.settings, self.watch = folder, settings, watch

    def predict_step(self, batch: Tensor, batch_idx: int) -> Counter[str]:
        """Answer this process's share of the attempts; return how many episodes ended how."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Lightning would wait for the last episode; the store need not
        folder = Path(self.trainer.strategy.broadcast(str(self.folder)))
        share = [self.attempts[index] for index in batch.tolist()[self.global_rank :: self.trainer.world_size]]
        store = _Watched(folder, self.settings, self.watch) if self.watch else RunStore(folder, self.settings)
        return self.rollout.run(share, store, processes=self.trainer.world_size)

    def on_predict_end(self) -> None:
        """Wait for the other processes, as the first one goes on with the answers of all."""
        self.trainer.strategy.barrier()


class _Watched(RunStore):
    """A store that tells somebody of each episode it has stored."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], watch: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__(folder, settings)
        self.watch = watch

    def finish(self, episode: Episode) -> None:
        super().finish(episode)
        self.watch(episode.record())
