"""A finished run, rebuilt from its folder: the parts it was made of, with its trained weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from src.launch.config import build
from src.launch.errors import InputError


@dataclass(frozen=True)
class TrainedRun:
    """The parts of a finished run; the model is in eval mode and holds the checkpoint's weights."""

    interactions: Any
    items: Any
    model: Any
    prompt: Any
    evaluator: Any


def load_trained_run(checkpoint: str | None, **evaluation: Any) -> TrainedRun:
    """Rebuild a run from the ``config.yaml`` beside its checkpoints.

    Args:
        checkpoint: A checkpoint in the ``checkpoints`` folder of a run.
        evaluation: Settings of the evaluator to change.

    Returns:
        Its parts.

    Raises:
        InputError: there is no such checkpoint, it is in no run folder, or its items are written differently today.
    """
    if checkpoint is None or not Path(checkpoint).is_file():
        raise InputError(
            f"checkpoint={checkpoint}: no such file. I need the weights of a finished run.\n"
            "Type:  checkpoint=outputs/<recipe>/<run>/checkpoints/best.ckpt"
        )
    folder = Path(checkpoint).parent.parent
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        index = json.loads((folder / "items.index.json").read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"checkpoint={checkpoint} is not in a run folder: {error.filename} is missing.\n"
            "Move it back into checkpoints/ of the folder that src.run wrote."
        ) from error
    interactions = build(config["dataset"])
    items = build(config["tokenizer"]).fit(interactions)
    model = build(config["model"])(items.vocabulary)
    items = items.written_for(model)
    if items.index(interactions.item_ids) != index:
        raise InputError(
            f"The items are written differently now than in {folder}/items.index.json: the data or the tokenizer "
            "has changed. Use the data and the environment of that run."
        )
    prompt = build(config["prompt"])(model.tokenizer, items)
    evaluator = build({**config["evaluator"], **evaluation})(items)
    evaluator.start(interactions)
    build({**config["stage"], "init_from": checkpoint})(model=model, evaluator=evaluator)  # loads the weights
    return TrainedRun(interactions, items, model.eval(), prompt, evaluator)
