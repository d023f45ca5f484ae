"""The agent at work as a Lightning module, so that the Trainer shares the questions out over processes and machines."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
from torch import Tensor

from src.gisa.agent.rollout import Rollout
from src.gisa.agent.trajectory import Attempt, RunStore


class RolloutStage(lightning.LightningModule):
    """Answers questions; nothing is trained.

    Args:
        rollout: The agent.
        attempts: What to answer; batches are indices into it.
        folder: The run folder; the first process's counts.
        settings: Everything that changes an answer; see ``RunStore``.
    """

    def __init__(
        self, *, rollout: Rollout, attempts: Sequence[Attempt], folder: Path, settings: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.rollout, self.attempts = rollout, attempts
        self.folder, self.settings = folder, settings

    def predict_step(self, batch: Tensor, batch_idx: int) -> Counter[str]:
        """Answer this process's share of the attempts; return how many episodes ended how."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Lightning would wait for the last episode; the store need not
        folder = Path(self.trainer.strategy.broadcast(str(self.folder)))
        share = [self.attempts[index] for index in batch.tolist()[self.global_rank :: self.trainer.world_size]]
        return self.rollout.run(share, RunStore(folder, self.settings), processes=self.trainer.world_size)

    def on_predict_end(self) -> None:
        """Wait for the other processes, as the first one goes on with the answers of all."""
        self.trainer.strategy.barrier()
