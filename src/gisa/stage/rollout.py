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
from src.gisa.agent.store import RunStore
from src.gisa.agent.trajectory import Attempt


class RolloutStage(lightning.LightningModule):
    """Answers questions; nothing is trained.

    Args:
        rollout: The agent.
        tasks: What to answer; batches are indices into it.
        folder: The run folder; the first process's counts.
        settings: Everything that changes an answer; see ``RunStore``.
    """

    def __init__(
        self, *, rollout: Rollout, tasks: Sequence[Attempt], folder: Path, settings: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.rollout = rollout
        self.tasks = tasks
        self.folder = folder
        self.settings = settings

    def predict_step(self, batch: Tensor, batch_idx: int) -> Counter[str]:
        """Answer this process's share of the tasks; return how many episodes ended how."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Lightning would wait for the last episode; the store need not
        folder = Path(self.trainer.strategy.broadcast(str(self.folder)))
        store = RunStore(folder, self.settings)
        share = [self.tasks[index] for index in batch.tolist()[self.global_rank :: self.trainer.world_size]]
        return self.rollout.run(share, store, processes=self.trainer.world_size)

    def on_predict_end(self) -> None:
        """Wait for the other processes, as the first one goes on with the answers of all."""
        self.trainer.strategy.barrier()
