"""From the command line to objects: rewrite it for Hydra, name all faults of the config at once, build what it says."""

from __future__ import annotations

import atexit
import difflib
import re
import shutil
import tempfile
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, cast

from annotated_types import Ge

from src.launch.errors import InputError, resume_command
from src.launch.machine import absent, optimiser_refusals
from src.launch.nodes import SEVERAL, apart, choices, faults_of_nodes
from src.launch.overrides import quoted, readable, unquoted, value_of
from src.launch.process import first_process
from src.launch.record import change, may_change_in, require_resumable
from src.launch.values import CONF as CONF
from src.launch.values import MISSING, Count, Name, Node, Seed, did_you_mean, faults_of

_SPEAKS_ITSELF = ("--hydra-help", "--version", "--shell-completion", "-sc")
_INFO = ("--info", "-i")
_MULTIRUN = ("-m", "--multirun")
_CONFIG_DIR = ("--config-dir", "-cd")
_WITH_VALUE = (*_CONFIG_DIR, "--cfg", "-c", *_INFO, "--config-path", "-cp", "--config-name", "-cn", "--package", "-p")
_ADDED_BY_HAND = ("experiment", "sweep", "ablation")  # groups that are not in the defaults list
_SETTING = re.compile(r"(?:[\w.]+\.)?(\w+)=")
_PLAIN = re.compile(r"[A-Za-z_][\w.\-]*=")


class Upstream(TypedDict, total=False):
    """Checkpoints of other runs that recipes build on, by the name of their recipe, and where a sweep has them all."""

    folder: str
    sasrec: str
    counting: str
    popularity: str
    uniform: str
    sft: str
    ilrec_stage1: str


class Pretrained(TypedDict, total=False):
    """What recipes of pre-trained models may spend: optimiser steps (-1 sets no limit), and users to evaluate."""

    max_steps: Annotated[int, Ge(-1)]
    max_users: Count | None


@dataclass(frozen=True)
class Config:
    """The closed set of top-level keys of a run."""

    name: Name  # of the recipe: folder below outputs/, row of the report
    seed: Seed  # of everything random
    threads: Count  # of PyTorch on the CPU; a busy neighbour makes two slower than one
    matmul_precision: Literal["highest", "high", "medium"]  # of float32 products: whole, or by TF32 or bfloat16
    resume: str | None  # folder of the run to go on with; it brings its whole config
    checkpoint: str | None  # trained weights that a task uses: to recommend, to export
    predictions: str | None  # answers that a task scores: a folder, a file or a run folder
    task: Node  # what is done with all that follows; it says which groups it needs
    upstream: Upstream
    pretrained: Pretrained
    dataset: Node  # interactions
    tokenizer: Node  # items to tokens
    prompt: Node  # history to model input
    batches: Node  # what a step learns from
    model: Node  # language model
    agent: Node  # what answers questions, with its tools and limits
    stage: Node  # what is trained, and how
    optimizer: Node  # what makes steps of gradients; empty for AdamW
    scheduler: Node  # how the learning rate goes; empty for warm-up and a cosine
    evaluator: Node  # how it is measured
    trainer: Node  # arguments of lightning.Trainer
    checkpointing: Node  # what is kept, and when to stop
    logger: Node  # dashboards beside metrics.csv, one or several; empty for none
    callbacks: Node  # of Lightning's trainer, each under a name of its own
    optimized_metric: str | None = None  # what a search goes by; null for checkpointing.monitor


def groups_of_users(resumed: Mapping[str, Any] | None = None) -> set[str]:
    """Return the keys that the user's own groups add to ours: chosen from now, or by a run that began before."""
    from hydra.core.hydra_config import HydraConfig

    began = [key for key, value in (resumed or {}).items() if isinstance(value, dict)]
    chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else ()
    return {*began, *map(str, chosen)} - {field.name for field in fields(Config)}


def resolve(cfg: Any) -> dict[str, Any]:
    """Turn a composed config into plain containers, with its interpolations filled in.

    Raises:
        InputError: an interpolation points nowhere.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    except OmegaConfBaseException as error:
        raise InputError(f"The config refers to something that is not there: {error}") from error


def build(node: dict[str, Any]) -> Any:
    """Call the target of a config node, with plain containers as arguments; None for an empty one."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(node, _convert_="all") if node else None
    except InstantiationException as wrapped:
        error: BaseException = wrapped
        while isinstance(error, InstantiationException) and error.__cause__:
            error = error.__cause__
        raise error from error.__cause__  # what the target raised; users know nothing of Hydra's wrapping


def check(
    config: Mapping[str, Any], *, multirun: bool = False, parts: bool = False, own_groups: Collection[str] = ()
) -> None:
    """Look for everything that can be known to be wrong before anything is built.

    Args:
        config: The config as plain containers, interpolations resolved.
        multirun: Whether it is one of several jobs.
        parts: Whether its parts have to go together, too, as for a run they must.
        own_groups: Keys that the user's own folder of configs adds to ours.

    Raises:
        InputError: it lists all faults.
    """
    faults = [*_top_level({key: value for key, value in config.items() if key not in own_groups})]
    for key, value in config.items():
        flat, named = apart(value) if key in SEVERAL and isinstance(value, dict) else (value, {})
        faults += faults_of_nodes(flat, key)
        for name, node in named.items():
            faults += faults_of_nodes(node, f"{key}.{name}")
        if key == "callbacks" and flat:
            faults.append(f"callbacks.{next(iter(flat))}: I need a name of yours, and below it _target_ and settings")
    in_order = not any(fault.startswith(("optimizer", "scheduler")) for fault in faults)
    for look in (
        _absent_groups(config),
        _misfits(config) if parts else (),
        absent(config, multirun),
        optimiser_refusals(config, build) if in_order else (),
    ):
        _extend(faults, look)
    if faults := _one_a_cause(faults):
        raise InputError("\n".join([f"The config has {len(faults)} fault(s):", *(f"- {fault}" for fault in faults)]))


def _extend(faults: list[str], look: Iterable[str]) -> None:
    """Add what a look at parts together finds, up to where a value of a wrong type, which is told, ends it."""
    try:
        faults.extend(look)
    except Exception:
        if not faults:
            raise


def _one_a_cause(faults: list[str]) -> list[str]:
    """Join faults that differ in the group only: one value that is typed once and copied into several groups."""
    copies: dict[str, list[str]] = {}
    for fault in faults:
        setting = _SETTING.match(fault)
        copies.setdefault(fault[setting.start(1) :] if setting else fault, []).append(fault)
    return [
        first + (f" (copied into {', '.join(copy.partition('=')[0] for copy in others)})" if others else "")
        for first, *others in copies.values()
    ]


def _is_group(hint: Any) -> bool:
    return hint == Node or typing.is_typeddict(hint)


def _top_level(config: Mapping[str, Any]) -> Iterator[str]:
    """Compare the keys and their types with ``Config``."""
    hints = typing.get_type_hints(Config, include_extras=True)
    for key in sorted(config.keys() - hints.keys()):
        yield f"{key}: no such key{did_you_mean(key, hints)}"
    for field in fields(Config):
        if _is_group(hints[field.name]) and config.get(field.name) is None:
            continue  # an empty one
        if field.name not in config:
            yield from [f"{field.name}: missing"] if field.default is NO_DEFAULT else []
        elif config[field.name] == MISSING:
            yield f"{field.name}: needs a value; type {field.name}=..."
        else:
            yield from faults_of(field.name, config[field.name], hints[field.name])


def _absent_groups(config: Mapping[str, Any]) -> Iterator[str]:
    """Name the groups and values that the task needs and does not have, and those that it would leave unread.

    A task that takes all parts from the run of a checkpoint says by ``settings_at`` where some of them can be changed.
    """
    from hydra.utils import get_object

    try:
        task = get_object(config["task"]["_target_"])
        needs, settings_at = task.needs, getattr(task, "settings_at", None)
    except Exception:  # told as a fault of `task` itself, with all others
        return
    hints = typing.get_type_hints(Config)
    for key, value in config.items():
        if settings_at is not None and hints.get(key) == Node and value and key != "task":
            typed = f"type {settings_at[key]}.<setting>=..." if key in settings_at else "leave it out"
            yield f"{key}: the run of the checkpoint brings its own; {typed}"
        elif hints.get(key) == Node and value and "_target_" not in value and not (key in SEVERAL and apart(value)[1]):
            yield f"{key}.{next(iter(value))}: this group has no _target_; type {key}=<a file of conf/{key}>"
    for key in needs:
        if not config.get(key):
            choice = f"missing; type {key}=<a file of conf/{key}>"
            yield f"{key}: " + (choice if hints[key] == Node else f"needs a value; type {key}=...")


def _misfits(config: Mapping[str, Any]) -> Iterator[str]:
    """Name the parts that belong to the runs of the other paper, and what the task finds in those of its own."""
    from hydra.utils import get_object

    def wing(key: str) -> str | None:
        names = str((config.get(key) or {}).get("_target_")).split(".")
        # Rooms of the floor have no wing before them, and other people's packages belong to neither.
        return names[1] if names[0] == "src" and names[2:3] == [key] else None

    try:
        task = get_object(config["task"]["_target_"])
    except Exception:  # told by itself
        return
    for key in task.needs:
        if key != "dataset" and isinstance(config.get(key), dict) and wing(key) not in (None, wing("task")):
            target = config[key]["_target_"]
            yield f"{key}: {target} is for tasks of {wing(key)}, and this one is of {wing('task')}; type {key}=..."
    found = [*task.misfits(config)] if hasattr(task, "misfits") else []
    yield from found
    for key in ("checkpoint", "predictions"):
        read = key in task.needs or _holds([node for other, node in config.items() if other != key], config.get(key))
        if not read and not any(fault.startswith(f"{key}=") for fault in found):
            yield f"{key}={config[key]}: nothing in this run reads it; leave it out"


def _holds(node: Any, value: Any) -> bool:
    """Whether a value stands anywhere in a config; None, which says nothing, in every one."""
    if isinstance(node, Mapping):
        node = list(node.values())
    return value is None or node == value or (isinstance(node, list) and any(_holds(inner, value) for inner in node))


def prepare_arguments(arguments: list[str], conf: Path) -> list[str]:
    """Rewrite the command line.

    Plain overrides become forced ones (``++a.b=c``), so that a typo reaches ``check``, which lists all faults at once.
    ``resume=FOLDER`` makes Hydra work in that folder. Processes after the first of several get a throw-away run folder.

    Args:
        arguments: As typed, without the program.
        conf: The config folder; its subfolders are the groups, whose choice is left to Hydra.

    Raises:
        InputError: ``resume`` stands beside other overrides, or names something else than a run to go on with; or a
            word is no override.
    """
    named = {argument.partition("=")[0] for argument in arguments}
    multirun = not named.isdisjoint(_MULTIRUN)
    if named & {*_SPEAKS_ITSELF}:
        return arguments
    if named & {"--cfg", "-c", *_INFO}:  # behind overrides, as --info may have a value or none
        options, texts = _options_first(arguments)
        return [*(readable(text, multirun=multirun) for text in texts), *options]
    resumed = [argument for argument in arguments if argument.lstrip("+").startswith("resume=")]
    if resumed and not resumed[-1].endswith("=null"):
        rest = [argument for argument in arguments if argument not in resumed]
        if not first_process():  # Lightning starts the others with what this function has made, and more
            rest = [argument for argument in rest if not argument.startswith("hydra.")]
        arguments = _resume(unquoted(resumed[-1].partition("=")[2]), rest)
    else:
        options, arguments = _options_first(arguments)
        _require_overrides(arguments)
        folders = [conf, *_own_folders(options, arguments)]
        groups = {path.name for folder in folders for path in folder.iterdir() if path.is_dir()}
        _require_choices(arguments, groups)
        arguments = [*options, *(_forced(readable(argument, multirun=multirun), groups) for argument in arguments)]
    if not first_process():
        arguments = [argument for argument in arguments if not argument.startswith("hydra.run.dir=")]
        folder = tempfile.mkdtemp(prefix="rank-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        arguments.append(f"hydra.run.dir={folder}")
    return arguments


def help_text(conf: Path) -> str:
    """Return the usage with every group at any depth, and what each choice is: the first comment line of its file."""
    lines = ["python -m src.run [+experiment=NAME] [GROUP=CHOICE]... [KEY=VALUE]..."]
    for folder in sorted({path.parent for path in conf.glob("*/**/*.yaml")}):
        group = folder.relative_to(conf).as_posix()
        lines.append("")
        for path in sorted(folder.glob("*.yaml")):
            comments = (line.removeprefix("# ") for line in path.read_text(encoding="utf-8").splitlines())
            choice = f"{'+' * (group in _ADDED_BY_HAND)}{group}={path.stem}"
            lines.append(f"  {choice:<36}  {next(line for line in comments if not line.startswith('@package'))}")
    return "\n".join(
        [
            *lines,
            "",
            "Every setting:   python -m src.run +experiment=sft --cfg job",
            "A sweep:         python -m src.run -m +experiment=sft seed=1,2,3",
            "Go on with one:  python -m src.run resume=FOLDER",
            "With more:       python -m src.run resume=FOLDER task.max_questions=null agent.run_usd=5",
            "A report:        python -m src.report FOLDER...",
            'Completion:      eval "$(ilrec-gisa -sc install=bash)"; ilrec-gisa is python -m src.run as one word',
        ]
    )


def as_typed(overrides: list[str]) -> list[str]:
    """Return Hydra's list of overrides without what ``prepare_arguments`` made of it, and without the sweep's name."""
    return [text.removeprefix("++") for text in overrides if not text.startswith(("+sweep=", "++resume="))]


def _forced(argument: str, groups: set[str]) -> str:
    key = argument.partition("=")[0]
    plain = _PLAIN.match(argument) and key not in groups | {"hydra"} and not key.startswith("hydra.")
    return f"++{argument}" if plain else argument


def _options_first(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split options of Hydra's, with their values, from overrides, between which its parser stumbles over them."""
    options, overrides, rest = [], [], [*arguments]
    while rest:
        argument = rest.pop(0)
        if argument.startswith("-"):
            has_value = argument in _WITH_VALUE and rest and not (argument in _INFO and "=" in rest[0])
            options += [argument, *([rest.pop(0)] if has_value else [])]
        else:
            overrides.append(argument)
    return sorted(options, key=lambda one: one not in _MULTIRUN), overrides


def _own_folders(options: list[str], overrides: list[str]) -> list[Path]:
    """Return the folders of configs that the command line names; their subfolders are groups, too.

    Raises:
        InputError: there is no such folder.
    """
    named = [value for option, value in zip(options, options[1:], strict=False) if option in _CONFIG_DIR]
    named += [option.partition("=")[2] for option in options if option.startswith("--config-dir=")]
    listed = [text.partition("=")[2] for text in overrides if text.startswith("hydra.searchpath=")]
    found = (path.strip().removeprefix("file://") for text in listed for path in re.findall(r"[^,\[\]'\"]+", text))
    folders = [Path(name) for name in (*named, *found) if "://" not in name]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of configs.\nType:  --config-dir <folder with experiment/ ...>")
    return folders


def _require_overrides(arguments: list[str]) -> None:
    recipes = [path.stem for path in (CONF / "experiment").glob("*.yaml")]
    for argument in arguments:
        if "=" not in argument and not argument.startswith("~"):
            close = difflib.get_close_matches(argument, recipes, n=1) or ["sft"]
            raise InputError(f"{argument}: I need KEY=VALUE or GROUP=CHOICE, such as  +experiment={close[0]}")


def _require_choices(arguments: list[str], groups: set[str]) -> None:
    """Refuse what names no file of a group, nor a folder for the run, at which Hydra stumbles or writes anywhere."""
    for argument in arguments:
        key, _, value = argument.lstrip("+").partition("=")
        if not value and key in ("hydra.run.dir", "hydra.sweep.dir"):
            raise InputError(f"{argument} names no folder.\nType:  {key}=<a folder>")
        if (key in groups or "/" in key) and re.fullmatch(r"null|true|false|[-+.\d]+|\{.*\}", value, re.IGNORECASE):
            there = choices(key) or "the files of that group"
            raise InputError(f"{argument}: I need the name of a choice: {there}.\nTo do without:  '~{key}'")


def _resume(named: str, rest: list[str]) -> list[str]:
    if not named:
        raise InputError("resume= names no run.\nType:  resume=<folder of a run>")
    folder = Path(named)
    may_change = may_change_in(folder) if rest else ()
    changes = [text.lstrip("+") for text in rest]
    if refused := [text for text in changes if text.partition("=")[0] not in may_change]:
        others = "\nNo result depends on these, so that they may change: " + ", ".join(may_change)
        raise InputError(
            f"resume={folder} takes its whole config from the folder; remove: {' '.join(refused)}\n"
            f"  {resume_command(folder)}{others * bool(may_change)}"
        )
    require_resumable(folder)
    if changes and first_process():
        change(folder, {text.partition("=")[0]: value_of(text) for text in changes})
    return [f"++resume={quoted(str(folder))}", f"hydra.run.dir={quoted(str(folder))}"]
