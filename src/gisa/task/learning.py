"""Let the agent's model learn, from human traces or from rewards of its own episodes, and keep it for any agent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.gisa.dataset.gisa import load_suite
from src.launch.config import build
from src.launch.progress import Line, loading
from src.launch.record import Record
from src.launch.values import Count
from src.training.fit import fitted, prepare_training

NEEDED = "I need a suite of questions with traces:\n  dataset=factbook_set, or dataset=gisa dataset.root=<folder>"


class ImitationTask:
    """Train, then write the selected weights into ``model/``: adapters merged, with tokenizer and ``manifest.json``.

    ``manifest.json`` names all that the weights have learnt from, and so does ``manifest`` of every checkpoint.

    Args:
        max_tokens: Most tokens of a demonstration; longer ones are dropped, never cut.
        allow_train_on_benchmark: Whether questions that are there to test with may be learnt from.
        episodes_from: Run folders of ``task=gisa_rollout`` on the same suite: their exact episodes are learnt from,
            beside the traces.
        keep: Most such episodes of a question.
    """

    needs = ("dataset", "agent", "batches", "model", "stage", "trainer", "checkpointing")

    def __init__(
        self, *, max_tokens: Count, allow_train_on_benchmark: bool, episodes_from: Sequence[str] = (), keep: Count = 2
    ) -> None:
        self.max_tokens = max_tokens
        self.allow_train_on_benchmark = allow_train_on_benchmark
        self.episodes_from = episodes_from
        self.keep = keep

    def run(self, config: dict[str, Any], folder: Path, record: Record, sweep: str | None) -> None:
        """Make the demonstrations, train, validate the selected weights, save the model.

        Raises:
            InputError: the data set is no suite of questions, or one not to be learnt from, or there is too little.
        """
        from src.gisa.agent.heuristic import HeuristicPolicy
        from src.gisa.agent.rollout import rollout_with
        from src.gisa.batches.demonstrations import add_episodes, make_demonstrations
        from src.gisa.chat.format import ChatFormat, end_tokens
        from src.gisa.stage.imitation import ImitationStage
        from src.training.stage import foresee_start

        prepare_training(config)
        foresee_start(ImitationStage, config["stage"])
        record.trace_origins(config["stage"])
        with Line("Reading the questions"):
            suite = load_suite(config["dataset"], NEEDED)
        with loading(config["model"].get("name")):
            model = build(config["model"])(())
        rollout = rollout_with(HeuristicPolicy(), config["agent"])  # which is not asked, and without weights
        chat = ChatFormat(model.tokenizer, end_tokens(model.causal_network.generation_config))
        allowed = self.allow_train_on_benchmark
        demonstrations = make_demonstrations(
            suite, rollout, chat, max_tokens=self.max_tokens, allow_train_on_benchmark=allowed
        )
        if self.episodes_from:
            folders = [Path(folder) for folder in self.episodes_from]
            add_episodes(demonstrations, folders, rollout, chat, most=self.keep, max_tokens=self.max_tokens)
        data = build(config["batches"])(
            demonstrations=demonstrations, pad_token_id=model.tokenizer.pad_token_id, seed=config["seed"]
        )
        model.prepare_for(int(max(data.lengths)), "task.max_tokens={}")
        stage = build(config["stage"])(model=model)
        more = {f"demonstrations/{name}": count for name, count in demonstrations.counts.items()}
        dropped = {reason: len(ids) for reason, ids in demonstrations.dropped.items()}
        metrics = learn(stage, data, config, folder, record, sweep)
        record.finish(metrics=metrics | more, dropped=dropped, protocol=suite.protocol)

    def show(self, record: Record) -> None:
        """Say how it went and how to go on."""
        show_trained(record)


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
        with loading(config["model"].get("name")):
            model = build(config["model"])(())
        chat = ChatModel(model.network, model.tokenizer)
        model.train()  # which the line above has ended; the stage ends it for its rollouts only
        policy = build({**config["agent"]["policy"], "_partial_": True})(model=chat)
        rollout = rollout_with(policy, config["agent"])
        record.trace_origins({"checkpoint_from": config["checkpoint"]})
        with Line("Reading the questions"):
            suite = load_suite(config["dataset"], NEEDED)
        data = build(config["batches"])(suite=suite, seed=config["seed"])
        stage = build(config["stage"])(model=model, rollout=rollout)
        record.finish(metrics=learn(stage, data, config, folder, record, sweep), protocol=suite.protocol)

    def show(self, record: Record) -> None:
        """Say how it went and how to go on."""
        show_trained(record)


def learn(
    stage: Any, data: Any, config: dict[str, Any], folder: Path, record: Record, sweep: str | None
) -> dict[str, float]:
    """Train a ``LearningStage``, validate the selected weights, save the model; return the metrics of validation."""
    stage.initialise()
    stage.learn_by(config)
    with fitted(stage, data, config, folder, record, sweep) as (trainer, checkpoints):
        trainer.validate(stage, datamodule=data, ckpt_path=checkpoints.selected, verbose=False)
        record.lap("test")
        if trainer.is_global_zero:
            keep_model(stage.model, stage.manifest, folder)
    return {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}


def show_trained(record: Record) -> None:
    """Say how a training went and how to go on."""
    for name, value in record.content["metrics"].items():
        print(f"{name} {value:.4f}" if name.startswith("val/") else f"{name} {value:,}")
    print(
        "\nLet it answer:  python -m src.run +experiment=gisa_rollout agent/policy=imitation "
        "dataset=factbook_set dataset.split=entities \\\n"
        f"  checkpoint={record.path.parent / 'checkpoints' / 'best.ckpt'}"
    )


def keep_model(model: Any, manifest: dict[str, Any], folder: Path) -> None:
    """Write ``model/`` into a run folder, whole or not at all: adapters merged, tokenizer, and ``manifest.json``."""
    from src.model.adapters import save_model

    unfinished = folder / "model.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    with Line("Writing the model"):
        save_model(model, unfinished)
    (unfinished / "manifest.json").write_text(json.dumps(manifest, indent=1))
    shutil.rmtree(folder / "model", ignore_errors=True)
    unfinished.rename(folder / "model")
