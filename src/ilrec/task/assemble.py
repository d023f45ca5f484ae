"""The parts of a run on interactions, built from its config: to train, to evaluate, to recommend, to export."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from src.launch.config import build
from src.launch.errors import InputError
from src.launch.machine import absent
from src.launch.nodes import faults_of_nodes
from src.launch.progress import Line, loading
from src.launch.record import read_config

if TYPE_CHECKING:
    from src.ilrec.batches.next_item import RecommendationData
    from src.ilrec.dataset.interactions import Interactions
    from src.ilrec.model.collaborative import CollaborativeModel
    from src.ilrec.prompt.alignment import AlignmentPrompt
    from src.ilrec.prompt.ids import CompactPrompt, ItemsPrompt
    from src.ilrec.prompt.instruction import InstructionPrompt
    from src.ilrec.stage.next_item import NextItemStage
    from src.ilrec.tokenizer.item_tokens import ItemTokens
    from src.model.causal_lm import CausalLM


log = logging.getLogger("run")
_BUILT = ("dataset", "tokenizer", "model", "prompt", "batches", "evaluator", "stage")


@dataclass(frozen=True)
class Parts:
    """What a run is made of; the model has the weights that it is made with until the stage takes others."""

    interactions: Interactions
    items: ItemTokens
    model: CausalLM | CollaborativeModel
    prompt: AlignmentPrompt | CompactPrompt | InstructionPrompt | ItemsPrompt
    data: RecommendationData
    evaluator: Any  # RankingEvaluator | GroundedEvaluator | FullRankingEvaluator, the one that fits the model
    stage: NextItemStage


def assemble(config: dict[str, Any]) -> Parts:
    """Build every part of a checked config, each from those before it."""
    with Line("Preparing the data"):
        interactions = build(config["dataset"])
    with Line("Fitting the tokenizer"):
        items = build(config["tokenizer"]).fit(interactions)
    from_titles = config["model"].get("new_rows") == "titles" and items.vocabulary
    told = [items.titles_of_tokens(interactions.titles)] if from_titles else []
    with loading(config["model"].get("name")):
        model = build(config["model"])(items.vocabulary, *told)
    if items.start is not None:
        model.start_item_tokens(items.start, config["seed"])
    with Line("Writing items and prompts"):
        return _with_model(config, interactions, items, model)


def _with_model(config: dict[str, Any], interactions: Interactions, items: ItemTokens, model: Any) -> Parts:
    """Build what needs a model."""
    from src.model.causal_lm import CausalLM
    from src.training.stage import TrainingStage

    items = replace(items.written_for(model), titles=interactions.titles)
    prompt = build(config["prompt"])(model.tokenizer, items)
    if isinstance(model, CausalLM):
        model.prepare_for(prompt.longest, prompt.advice)
    data = build(config["batches"])(interactions=interactions, prompt=prompt, seed=config["seed"])
    evaluator = build(config["evaluator"])(items)
    stage = build(config["stage"])(model=model, evaluator=evaluator)
    if isinstance(stage, TrainingStage):  # another Lightning module makes its own optimiser
        stage.learn_by(config)
    return Parts(interactions, items, model, prompt, data, evaluator, stage)


def foresee(config: dict[str, Any]) -> None:
    """Refuse what a stage cannot start or learn from before any part is made, which may take long.

    Raises:
        InputError: a checkpoint cannot be read, or is of another stage or data set.
    """
    from hydra.utils import get_object

    from src.training.stage import foresee_start

    node = config["stage"]
    foresee_start(get_object(node["_target_"]), node)
    learns = node.get("reward") or node.get("objective") == "rosepo"
    foresee_rewards(config, node.get("reward_from") if learns else None)


def foresee_rewards(config: dict[str, Any], of_stage: str | list[str] | None = None) -> None:
    """Refuse collaborative models that the evaluator's guidance cannot use, or the stage; see ``foresee``."""
    from src.ilrec.model.collaborative import load_collaborative_model

    evaluator = config["evaluator"]
    named = [of_stage, evaluator.get("reward_from") if evaluator.get("guidance") else None]
    paths = {path for one in named if one for path in ([one] if isinstance(one, str) else one)}
    interactions: Any = build(config["dataset"]) if paths else None
    for path in paths:
        load_collaborative_model(Path(path), interactions)


def require_same_items(checkpoint: Mapping[str, Any], path: Path, parts: Parts) -> None:
    """Refuse to start from weights whose semantic IDs mean other items.

    Titles mean the same in every data set: weights that have learnt from another one are let pass, and said so.

    Args:
        checkpoint: Its content.
        path: Of the checkpoint, ``stage.init_from``.
        parts: Of the run that starts from it.

    Raises:
        InputError: they do, or there is no telling, as the checkpoint is in no run folder.
    """
    data, before = parts.interactions, str(checkpoint.get("dataset"))
    if not parts.items.as_text:
        there, setting = read_index(path, "stage.init_from"), f"stage.init_from={str(path)!r}"
        if difference := differing(there, parts.items.index(data.item_ids)):
            raise InputError(
                f"{setting} was trained with other items: {difference}.\nIts data set is {before[:12]}, this one is "
                f"{data.name} ({data.fingerprint[:12]}). Its tokens would mean other items here.\nCompose the data set "
                "and tokenizer of that run's config.yaml, or train one on this data set, and name it:\n"
                "  stage.init_from=outputs/<recipe>/<run>/checkpoints/best.ckpt"
            )
    if before != data.fingerprint:
        log.warning(
            "stage.init_from was trained on another data set (%s; this one is %s, %s). The test says what it should "
            "only if it has not learnt from the last two items of these users.",
            *(before[:12], data.name, data.fingerprint[:12]),
        )


def read_index(checkpoint: Path, setting: str) -> dict[str, list[str]]:
    """Read how the run of a checkpoint has written its items, from ``items.index.json`` beside ``checkpoints``.

    Raises:
        InputError: there is no such file, or a damaged one.
    """
    path = checkpoint.parent.parent / "items.index.json"
    try:
        index = json.loads(path.read_bytes())
        if not isinstance(index, dict):
            raise ValueError(f"it holds a {type(index).__name__}")
    except FileNotFoundError as error:
        raise InputError(
            f"{setting}={checkpoint} is not in a run folder of a recommender: {path} is missing.\n"
            "Move it back into checkpoints/ of the folder that src.run wrote."
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{setting}={checkpoint}: {path} is damaged, so I cannot tell what its tokens mean: {error}\n"
            "Use another checkpoint, or train it again."
        ) from error
    return index


def differing(there: Mapping[str, list[str]], here: Mapping[str, list[str]]) -> str | None:
    """Return in words how two indices of items differ; None if they do not."""
    if there == here:
        return None
    gone, new = [item for item in there if item not in here], [item for item in here if item not in there]
    if gone or new:
        examples = ", ".join([*(f"{item} only there" for item in gone[:2]), *(f"{item} only here" for item in new[:2])])
        return f"{len(there)} items there, {len(here)} here ({examples})"
    other = [item for item in here if there[item] != here[item]]
    item = other[0]
    return (
        f"{len(other)} of {len(here)} items are written differently, such as {item}: {''.join(map(str, there[item]))} "
        f"there, {''.join(here[item])} here"
    )


def trained_config(checkpoint: str | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Read the config of a finished run, from the ``config.yaml`` beside its checkpoints, and change it.

    Args:
        checkpoint: A checkpoint in the ``checkpoints`` folder of a run.
        changes: Settings that are to differ, nested as in the config.

    Raises:
        InputError: there is no such checkpoint, it is in no run folder, or a setting cannot be changed so.
    """
    from omegaconf import OmegaConf

    from src.training.stage import read_checkpoint

    if checkpoint is None or not Path(checkpoint).is_file():
        inside = Path(checkpoint or "", "checkpoints", "best.ckpt")
        raise InputError(
            f"checkpoint={checkpoint}: no such file. I need the weights of a finished run.\n"
            f"Type:  checkpoint={inside if inside.is_file() else 'outputs/<recipe>/<run>/checkpoints/best.ckpt'}"
        )
    folder = Path(checkpoint).parent.parent
    read_checkpoint(Path(checkpoint), "checkpoint")
    read_index(Path(checkpoint), "checkpoint")
    needed = ("evaluator", *changes)
    config = read_config(folder) if (folder / "config.yaml").is_file() else {}
    if missing := next((key for key in needed if not config.get(key)), None):
        raise InputError(
            f"checkpoint={checkpoint} is not in the folder of a run that can recommend: its config.yaml has no "
            f"{missing}.\nMove it back into checkpoints/ of the folder that src.run wrote."
        )
    changed: Any = OmegaConf.to_container(OmegaConf.merge(config, changes))
    nodes = (fault for key in _BUILT for fault in faults_of_nodes(changed.get(key), key))
    if faults := [*nodes, *absent(changes, False)]:
        raise InputError("\n".join([f"{checkpoint}: its run cannot be changed so:", *(f"- {one}" for one in faults)]))
    return cast(dict[str, Any], changed)


def load_trained(checkpoint: str | None, changes: Mapping[str, Any] | None = None) -> Parts:
    """Assemble a finished run anew, with its trained weights; see ``trained_config``.

    Returns:
        Its parts; the model is in eval mode.

    Raises:
        InputError: its config or its checkpoint cannot be used, or its items are written differently today.
    """
    config = trained_config(checkpoint, changes or {})
    path = Path(str(checkpoint))
    index, parts = read_index(path, "checkpoint"), assemble(config)
    if difference := differing(index, parts.items.index(parts.interactions.item_ids)):
        raise InputError(
            f"The items are written differently now than in {path.parent.parent}/items.index.json: the data or the "
            f"tokenizer has changed ({difference}). Use the data and the environment of that run."
        )
    parts.stage.take_weights(path, "checkpoint")
    parts.evaluator.start(parts.interactions)
    parts.model.eval()
    return parts
