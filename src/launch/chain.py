"""Runs of a run: each composed of a recipe, choices and settings, and all of them checked before the first begins."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.launch.config import CONF, check, prepare_arguments, resolve
from src.launch.errors import InputError
from src.launch.job import run_job
from src.launch.overrides import in_words
from src.launch.record import Record
from src.launch.values import is_name

_WORD = re.compile(r"(?!(null|true|false|nan|inf)$)[A-Za-z_][\w/]*", re.IGNORECASE)


@dataclass(frozen=True)
class Child:
    """What one run of a chain is to be.

    Attributes:
        recipe: As typed: ``+experiment=...`` and whatever else it is composed of.
        settings: What differs from that, nested as in the config.
    """

    recipe: Sequence[str]
    settings: Mapping[str, Any]

    @property
    def overrides(self) -> list[str]:
        """As it could be typed."""
        return [*self.recipe, *_typed(self.settings)]


def child_of(*nodes: Mapping[str, Any], recipe: Sequence[str] = ()) -> Child:
    """Return the run that some nodes of a config describe together; what comes later wins.

    Args:
        nodes: Each with the settings that differ from the recipe's, nested as in the config; ``experiment`` is the name
            of the recipe, and ``choices`` are files of groups, such as ``{agent/policy: smollm2}``.
        recipe: What comes after recipe and choices, as typed.
    """
    from omegaconf import OmegaConf

    settings: Any = OmegaConf.to_container(OmegaConf.merge(*nodes))
    experiment, choices = settings.pop("experiment", None), settings.pop("choices", {})
    chosen = [f"{group}={choice}" for group, choice in choices.items()]
    return Child([*([f"+experiment={experiment}"] if experiment else []), *chosen, *recipe], settings)


def run_children(
    children: Mapping[str, Child], config: dict[str, Any], folder: Path, record: Record, sweep: str | None
) -> None:
    """Run children one after the other, each in a folder of its name; what is finished is left as it is.

    Seed, threads and logger are the parent's.

    Args:
        children: By name.
        config: Of the parent.
        folder: Of the parent, which holds theirs.
        record: Of the parent; each child is a lap.
        sweep: Name of the sweep that the parent is a job of, if any.

    Raises:
        InputError: a config of them is at fault, or what they raise.
    """
    if odd := [name for name in children if not is_name(name)]:
        raise InputError(f"task: {', '.join(map(repr, odd))} cannot name a run; I need letters, digits, ., - and _.")
    common = {key: config[key] for key in ("seed", "threads")}
    children = {name: Child(child.recipe, {**child.settings, **common}) for name, child in children.items()}
    configs = {name: _composed(child, config.get("logger")) for name, child in children.items()}
    faults = dict(filter(None, map(_faulty, configs.items())))  # of all, before the first begins and takes an hour
    if faults:
        raise InputError("\n".join(f"{name}: {text}" for name, text in faults.items()))
    done: list[Any] = []
    for number, (name, child) in enumerate(children.items(), 1):
        print(f"\n{name} ({number} of {len(children)}): {' '.join(child.overrides)}", flush=True)
        there = (folder / name / "config.yaml").is_file()  # not of one that was refused
        ran = run_job(configs[name], folder / name, child.overrides, resume=there, sweep=sweep, beside=done)
        done.append(ran.content["config"])
        record.lap(name)


def _faulty(named: tuple[str, dict[str, Any]]) -> tuple[str, str] | None:
    """Return the name of a child and what is wrong with its config, if anything is."""
    name, config = named
    try:
        check(config, parts=True)
    except InputError as error:
        return name, str(error)
    return None


def _composed(child: Child, logger: Any) -> dict[str, Any]:
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        cfg = compose("config", prepare_arguments(list(child.recipe), CONF))
        OmegaConf.set_struct(cfg, False)  # a key that is not there is a fault that `check` lists
        cfg.merge_with(child.settings)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"{' '.join(child.recipe)}: {in_words(error)}") from error
    cfg["logger"] = logger
    return resolve(cfg)


def _typed(settings: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _typed(value, f"{path}{key}.")
        else:
            yield f"{path}{key}={value if isinstance(value, str) and _WORD.fullmatch(value) else json.dumps(value)}"
