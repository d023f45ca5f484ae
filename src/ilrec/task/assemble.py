"""The parts of a run on interactions, built from its config: to train, to evaluate, to recommend, to export."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from src.launch.config import build
from src.launch.errors import InputError

if TYPE_CHECKING:
    from src.ilrec.batches.next_item import RecommendationData
    from src.ilrec.dataset.interactions import Interactions
    from src.ilrec.model.sequence_models import SequenceModel
    from src.ilrec.prompt.ids import IdsPrompt, ItemsPrompt
    from src.ilrec.prompt.instruction import InstructionPrompt
    from src.ilrec.stage.next_item import NextItemStage
    from src.ilrec.tokenizer.item_tokens import ItemTokens
    from src.model.causal_lm import CausalLM


@dataclass(frozen=True)
class Parts:
    """What a run is made of; the model has the weights that it is made with until the stage takes others."""

    interactions: Interactions
    items: ItemTokens
    model: CausalLM | SequenceModel
    prompt: IdsPrompt | InstructionPrompt | ItemsPrompt
    data: RecommendationData
    evaluator: Any  # RankingEvaluator | GroundedEvaluator | FullRankingEvaluator, the one that fits the model
    stage: NextItemStage


def assemble(config: dict[str, Any]) -> Parts:
    """Build every part of a checked config, each from those before it."""
    from src.model.causal_lm import CausalLM

    interactions = build(config["dataset"])
    items = build(config["tokenizer"]).fit(interactions)
    model = build(config["model"])(items.vocabulary)
    items = items.written_for(model)
    prompt = build(config["prompt"])(model.tokenizer, items)
    if isinstance(model, CausalLM):
        model.prepare_for(prompt.longest, prompt.advice)
    data = build(config["batches"])(interactions=interactions, prompt=prompt, seed=config["seed"])
    evaluator = build(config["evaluator"])(items)
    stage = build(config["stage"])(model=model, evaluator=evaluator)
    return Parts(interactions, items, model, prompt, data, evaluator, stage)


def load_trained(checkpoint: str | None, **evaluation: Any) -> Parts:
    """Assemble a finished run anew from the ``config.yaml`` beside its checkpoints, with its trained weights.

    Args:
        checkpoint: A checkpoint in the ``checkpoints`` folder of a run.
        evaluation: Settings of the evaluator to change.

    Returns:
        Its parts; the model is in eval mode.

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
    parts = assemble({**config, "evaluator": {**config["evaluator"], **evaluation}})
    if parts.items.index(parts.interactions.item_ids) != index:
        raise InputError(
            f"The items are written differently now than in {folder}/items.index.json: the data or the tokenizer "
            "has changed. Use the data and the environment of that run."
        )
    parts.stage.take_weights(Path(checkpoint), "checkpoint")
    parts.evaluator.start(parts.interactions)
    parts.model.eval()
    return parts
