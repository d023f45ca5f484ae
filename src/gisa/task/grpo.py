"""Let the agent's model learn from rewards of its own episodes, from the weights that imitation has given it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from src.gisa.dataset.gisa import load_suite
from src.gisa.task.imitation import NEEDED, learn, show_trained
from src.launch.config import build
from src.launch.record import Record
from src.training.fit import prepare_training


class GrpoTask:
    """Train, and write the selected weights into ``model/`` as ``ImitationTask`` does, so that any agent can load them.

    ``metrics.csv`` has reward, exact match, share of valid calls and calls an episode by step.
    """

    needs = ("dataset", "agent", "batches", "model", "stage", "trainer", "checkpointing", "checkpoint")

    def run(self, config: dict[str, Any], folder: Path, record: Record, sweep: str | None) -> None:
        """Load the trained policy, train it on, save the model.

        Raises:
            InputError: the checkpoint is none of imitation, the data set is no suite of questions, it may not be learnt
                from, or there are too few questions.
        """
        from src.gisa.agent.rollout import rollout_with
        from src.gisa.chat.generation import ChatModel

        prepare_training(config)
        model = build(config["model"])(())
        chat = ChatModel(model.network, model.tokenizer)
        model.train()  # which the line above has ended; the stage ends it for its rollouts only
        policy = build({**config["agent"]["policy"], "_partial_": True})(model=chat)
        rollout = rollout_with(policy, config["agent"])
        record.trace_origins({"checkpoint_from": config["checkpoint"]})
        suite = load_suite(config["dataset"], NEEDED)
        data = build(config["batches"])(suite=suite, seed=config["seed"])
        stage = build(config["stage"])(model=model, rollout=rollout)
        record.finish(metrics=learn(stage, data, config, folder, record, sweep), protocol=suite.protocol)

    def show(self, record: Record) -> None:
        """Say how it went and how to go on."""
        show_trained(record)
