"""Let the agent's model learn from rewards of its own episodes, from the weights that imitation has given it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from src.gisa.task.imitation import keep_model, suite_of
from src.launch.config import build
from src.launch.record import Record
from src.training.fit import fitted, prepare_training


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
        suite = suite_of(config)
        data = build(config["batches"])(suite=suite, seed=config["seed"])
        stage = build(config["stage"])(model=model, rollout=rollout)
        with fitted(stage, data, config, folder, record, sweep) as (trainer, checkpoints):
            trainer.validate(stage, datamodule=data, ckpt_path=checkpoints.selected, verbose=False)
            record.lap("test")
            if trainer.is_global_zero:
                keep_model(model, stage.manifest, folder)
        record.finish(
            metrics={name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")},
            protocol={"dataset": f"gisa ({suite.fingerprint[:12]})", "snapshot": suite.snapshot},
        )

    def show(self, record: Record) -> None:
        """Say how it went and how to go on."""
        for name, value in record.content["metrics"].items():
            print(f"{name} {value:.4f}")
        print(
            "\nLet it answer:  python -m src.run +experiment=gisa_rollout agent/policy=imitation "
            "dataset=factbook_set dataset.split=entities \\\n"
            f"  checkpoint={record.path.parent / 'checkpoints' / 'best.ckpt'}"
        )
