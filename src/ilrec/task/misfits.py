"""Parts of a recommender that do not go together, found in the config: long before they are made and meet."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from src.launch.values import did_you_mean

_PARTS = ("tokenizer", "prompt", "batches", "model", "evaluator", "stage")
_COLLABORATIVE = {
    "tokenizer": ("item_tokens.OneTokenPerItem", "item_ids"),
    "prompt": ("ids.ItemsPrompt", "items"),
    "evaluator": ("full_ranking.FullRankingEvaluator", "full_ranking"),
}
"""What models of whole items go with, and nothing else does: the class, and the choice that makes it."""
_LEARNT_BY = {
    "sequence_models": ("collaborative_filtering.CollaborativeFilteringStage", "collaborative_filtering"),
    "counting": ("counting.CountingStage", "counting"),
}
"""Likewise the stage, by the module of the model or of what it is a kind of."""
_OTHERWISE = {"prompt": "ids", "evaluator": "ranking", "stage": "sft"}
_OF_IDS = {
    "ids.IdsPrompt": "ids",
    "ids.IdsWithTitlesPrompt": "ids_with_titles",
    "alignment.AlignmentPrompt": "alignment",
}
_OWN_ANSWERS = {
    "self_play.SelfPlayStage": ("batches.negatives=own", "batches.epochs_per_draw=2", "batches.prompts_per_epoch=2048"),
    "group_relative.GroupRelativeStage": ("batches.negatives=own", "batches.prompts_per_epoch=2048"),
}
_OF_PAIRS = ("preference.PreferenceStage", *_OWN_ANSWERS)


def misfits(config: Mapping[str, Any]) -> Iterator[str]:
    """Name the parts of a recommender's config that do not go together, each with what to type."""
    kinds = {part: ".".join(str((config.get(part) or {}).get("_target_")).split(".")[-2:]) for part in _PARTS}
    if "None" in kinds.values():
        return  # told as missing
    if str(dataset := (config.get("dataset") or {}).get("_target_")).startswith("src.gisa."):
        yield f"dataset: {dataset} makes questions, and I need interactions. " + _type("dataset=ml_100k")
    yield from _unmeasured(config)
    yield from _unfitting(config["prompt"])
    yield from _unread(config)
    learnt_by = _learnt_by(config["model"]["_target_"])
    if learnt_by:
        yield from _unread_by_collaborative_models(config, counted=learnt_by[1] == "counting")
    if learnt_by and kinds["stage"] != learnt_by[0]:
        yield f"stage: {_name(kinds['stage'])} is not for {_name(kinds['model'])}. " + _type(f"stage={learnt_by[1]}")
    for part, (kind, choice) in _COLLABORATIVE.items():
        if learnt_by and kinds[part] != kind:
            yield f"{part}: {_name(kinds['model'])} reads and ranks whole items, not so {_name(kinds[part])}. " + _type(
                f"{part}={choice}"
            )
    if learnt_by:
        return
    whole_items = [one[0] for one in (*_COLLABORATIVE.values(), *_LEARNT_BY.values())]
    for part in ("prompt", "evaluator", "stage"):
        if kinds[part] in whole_items:
            yield (
                f"{part}: {_name(kinds[part])} is for collaborative models, and this one is a language model. "
                + _type(f"{part}={_OTHERWISE[part]}, or model=sasrec")
            )
    titles = kinds["tokenizer"] == "title.Titles"
    if titles and kinds["prompt"] in _OF_IDS:
        yield (
            f"prompt={_OF_IDS[kinds['prompt']]} writes semantic IDs one after the other, but tokenizer=title writes "
            "items as titles, whose compact form is prompt=titles. " + _type("prompt=instruction")
        )
    if not titles and kinds["prompt"] == "ids.TitlesPrompt":
        yield "prompt=titles writes titles one after the other, but these items are semantic IDs. " + _type(
            "prompt=ids, or tokenizer=title"
        )
    if not titles and kinds["evaluator"] == "grounding.GroundedEvaluator":
        yield "evaluator=grounded compares titles, but these items are semantic IDs. " + _type(
            "tokenizer=title prompt=instruction, or evaluator=ranking"
        )
    yield from _misfits_of_pairs(kinds, config["batches"])


def _learnt_by(model: str) -> tuple[str, str] | None:
    """Return the stage that a collaborative model needs, ours or a class of the user's; None for language models."""
    from hydra.utils import get_object

    try:
        target = get_object(model)
    except Exception:  # told by itself
        return None
    kinds = inspect.getmro(target) if inspect.isclass(target) else ()
    modules = [kind.__module__.rpartition(".")[2] for kind in kinds if kind.__module__.startswith("src.ilrec.model.")]
    return next((_LEARNT_BY[module] for module in modules if module in _LEARNT_BY), None)


def _misfits_of_pairs(kinds: Mapping[str, str], batches: Mapping[str, Any]) -> Iterator[str]:
    stage, has_pairs = kinds["stage"], kinds["batches"] == "pairs.PreferenceData"
    if stage in _OF_PAIRS and not has_pairs:
        yield f"batches: {_name(stage)} learns from pairs of items. " + _type("batches=pairs")
    elif stage not in _OF_PAIRS and has_pairs:
        yield f"batches: {_name(stage)} learns from next items, not from pairs. " + _type("batches=next_item")
    elif has_pairs and kinds["prompt"] == "alignment.AlignmentPrompt":
        yield "prompt=alignment asks more than next items, of which pairs are. " + _type("prompt=ids_with_titles")
    elif stage in _OWN_ANSWERS:
        rounds = batches.get("epochs_per_draw") == 2 or stage != "self_play.SelfPlayStage"
        if batches.get("negatives") != "own" or batches.get("prompts_per_epoch") is None or not rounds:
            yield f"batches: {_name(stage)} answers prompts drawn for it and rejects its own answers. " + _type(
                " ".join(_OWN_ANSWERS[stage])
            )


def _unmeasured(config: Mapping[str, Any]) -> Iterator[str]:
    """Name the metric that selects the weights, or settings in a search, where the evaluator does not measure it."""
    evaluator, monitor = config["evaluator"], (config.get("checkpointing") or {}).get("monitor")
    cutoffs = evaluator.get("cutoffs") or ()
    names = [f"{metric}@{cutoff}" for metric in ("ndcg", "hit") for cutoff in cutoffs]
    measured = [f"val/{name}" for name in names]
    if len({*cutoffs}) < len(cutoffs):
        yield f"evaluator.cutoffs={cutoffs} names one twice. " + _type(f"evaluator.cutoffs={[*dict.fromkeys(cutoffs)]}")
    if measured and isinstance(monitor, str) and monitor not in measured:
        yield f"checkpointing.monitor={monitor}: evaluator.cutoffs={cutoffs} measure no such metric" + did_you_mean(
            monitor, measured
        )
    asked = config.get("optimized_metric") or monitor
    split, _, name = str(asked).partition("/")
    if measured and asked != monitor and asked in measured:
        yield f"optimized_metric={asked}: of the validation, a job returns what its weights are selected by. " + _type(
            f"checkpointing.monitor={asked}"
        )
    elif measured and asked != monitor and not (split.startswith("test") and name in names):
        yield f"optimized_metric={asked}: evaluator.cutoffs={cutoffs} measure no such metric" + did_you_mean(
            str(asked), [*measured, *(f"test/{one}" for one in names)]
        )


def _unfitting(prompt: Mapping[str, Any]) -> Iterator[str]:
    """Name a stride that leaves items between the windows, of a prompt or of the one within it."""
    for node, path in ((prompt, "prompt"), (prompt.get("next") or {}, "prompt.next")):
        stride, shown, kind = node.get("stride"), node.get("max_history"), str(node.get("_target_"))
        if kind.startswith("src.ilrec.prompt.ids.") and isinstance(stride, int) and isinstance(shown, int):
            most = shown + (not kind.endswith(".ItemsPrompt"))  # whose first item is no label
            if stride > most:
                yield f"{path}.stride={stride} must lie between 1 and {most} ({path}.max_history={shown})"


def _unread(config: Mapping[str, Any]) -> Iterator[str]:
    """Name settings that others leave without any effect."""
    places = {"checkpoint": "stage.init_from=<it>, or +experiment=evaluate", "predictions": "+experiment=gisa_score"}
    for key, place in places.items():
        if config.get(key) is not None:
            yield f"{key}={config[key]}: a training of a recommender reads none. " + _type(f"{key}=null, or {place}")
    if config["model"].get("new_rows") == "titles":
        if str(config["tokenizer"]["_target_"]).endswith("title.Titles"):
            yield "model.new_rows=titles: tokenizer=title adds no tokens, so that no row starts anew. " + _type(
                "model.new_rows=mean"
            )
        if config["tokenizer"].get("start"):
            yield "model.new_rows=titles and tokenizer.start both say where the rows of item tokens start. " + _type(
                "model.new_rows=mean, or tokenizer.start=null"
            )
    yield from unpenalised(config["evaluator"])


def _unread_by_collaborative_models(config: Mapping[str, Any], *, counted: bool) -> Iterator[str]:
    model, shown = config["model"], config["prompt"].get("max_history")
    if counted and config["tokenizer"].get("start"):
        yield f"tokenizer.start: {model['_target_'].rpartition('.')[2]} has no weights that could start. " + _type(
            "tokenizer.start=null"
        )
    if (read := model.get("max_history", shown)) != shown:
        yield f"model.max_history={read}, and the prompt shows it {shown} items. " + _type(
            f"prompt.max_history={read}, which the model follows"
        )


def unpenalised(evaluator: Mapping[str, Any]) -> Iterator[str]:
    """Say what to type where items are to be ranked lower that are not ranked at all; from a list 0 may be chosen."""
    penalty = evaluator.get("history_penalty")
    several = penalty if isinstance(penalty, list) else [penalty]
    positive = [one for one in several if isinstance(one, int | float) and one > 0]
    if evaluator.get("exclude_history") is True and positive and positive == several:
        yield f"evaluator.history_penalty={penalty}: items of the history are left out anyway. " + _type(
            "evaluator.history_penalty=0, or evaluator.exclude_history=both"
        )


def _name(kind: str) -> str:
    return kind.partition(".")[2]


def _type(what: str) -> str:
    return f"Type:  {what}"
