"""Every node with a ``_target_``, bound to the signature of its target: names, types and ranges of its settings."""

from __future__ import annotations

import inspect
import os
import typing
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any, Literal, TypedDict, cast

from src.launch.errors import InputError
from src.launch.machine import EarlyStoppingRanges, TrainerRanges
from src.launch.values import CONF, MISSING, Node, did_you_mean, faults_of

SEVERAL = ("logger", "callbacks")  # groups of which several choices may stand side by side
_INSTRUCTIONS = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")


class Schedule(TypedDict, total=False):
    """Schedules of transformers that need no more than a number of steps."""

    name: Literal[
        "cosine", "linear", "constant", "constant_with_warmup", "inverse_sqrt", "cosine_with_min_lr", "polynomial"
    ]


_RANGES = {
    "lightning.Trainer": TrainerRanges,
    "lightning.pytorch.callbacks.EarlyStopping": EarlyStoppingRanges,
    "transformers.get_scheduler": Schedule,
}


def apart(group: Node) -> tuple[Node, dict[str, Node]]:
    """Split a group that takes several choices, such as ``logger=[wandb,tensorboard]``: what lies flat, and by name."""
    named = {key: node for key, node in group.items() if isinstance(node, dict) and "_target_" in node}
    return {key: value for key, value in group.items() if key not in named}, named


def choices(path: str) -> str:
    """Name the files of a group, given by its path in a config; nothing where it is none."""
    return ", ".join(sorted(file.stem for file in (CONF / path.replace(".", "/")).glob("*.yaml")))


def faults_of_nodes(value: Any, path: str) -> Iterator[str]:
    """Check every node with a ``_target_`` and every key of a service, at any depth."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield from _call(value, path)
        variable = value.get("key_env")
        if isinstance(variable, str) and variable != MISSING and not os.environ.get(variable, "").strip():
            yield (
                f"{path}.key_env: the environment variable {variable} holds no API key; type  export {variable}=<key>, "
                f"name another one with {path}.key_env=..., or give null for a server that needs none"
            )
        for key, inner in value.items():
            yield from faults_of_nodes(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from faults_of_nodes(inner, f"{path}[{index}]")


def _call(node: Node, path: str) -> Iterator[str]:
    """Bind a node to the signature of its target."""
    from hydra.utils import get_object

    arguments = {key: value for key, value in node.items() if key not in _INSTRUCTIONS}
    yield from (f"{path}.{key}: needs a value; type {path}.{key}=..." for key in _missing(arguments))
    try:
        target = get_object(node["_target_"])
    except Exception as error:  # importing runs code of any kind
        yield f"{path}._target_: cannot import {node['_target_']}: {error}"
        return
    signature, hints, settings = _parameters(target)
    hints |= typing.get_type_hints(_RANGES.get(node["_target_"], object), include_extras=True)
    accepted = {
        name: one for name, one in signature.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    }
    faults = []
    if (placed := node.get("_args_")) is not None:
        known = [name for name, one in accepted.items() if one.kind is one.POSITIONAL_OR_KEYWORD][: len(placed)]
        several = any(one.kind is one.VAR_POSITIONAL for one in signature.values())
        if node.get("_partial_") or arguments.keys() & known or not (several or len(known) == len(placed)):
            faults.append(f"{path}._args_: {node['_target_']} cannot be given these; type {path}.<name>=... for each")
        accepted = {name: one for name, one in accepted.items() if name not in known}
    if not any(one.kind is one.VAR_KEYWORD for one in signature.values()):
        for key in sorted(arguments.keys() - accepted.keys()):
            faults.append(f"{path}.{key}: {node['_target_']} has no such setting{did_you_mean(key, accepted)}")
    own = inspect.signature(settings).parameters if settings else {}  # which nobody else can give
    for name, one in accepted.items():
        needed = not node.get("_partial_") or name in own
        if needed and one.default is one.empty and name not in arguments:
            faults.append(f"{path}.{name}: missing; type +{path}.{name}=...")
    for key in sorted(arguments.keys() & hints.keys()):
        value, files = arguments[key], choices(f"{path}.{key}")
        is_node = isinstance(value, dict) and "_target_" in value
        if value != MISSING and isinstance(value, str | dict) and not is_node and files:
            group = f"{path}.{key}".replace(".", "/")
            faults.append(f"{path}.{key}={value!r}: this is a group of settings; type {group}=<one of {files}>")
        elif value != MISSING:
            faults += faults_of(f"{path}.{key}", value, hints[key])
    if settings and not faults and not _missing(arguments):
        faults += _of_the_settings(settings, arguments)
    yield from faults


def _of_the_settings(settings: type, arguments: Node) -> Iterator[str]:
    """Ask a dataclass of settings what it finds wrong with them together."""
    names = inspect.signature(settings).parameters
    told = {name: value for name, value in arguments.items() if name in names}
    try:
        settings(**told)
    except InputError as error:
        yield str(error)
    except Exception:  # one is missing, or is an object once it is built
        return


def _missing(arguments: Node) -> list[str]:
    return [key for key, value in arguments.items() if value == MISSING]


def _parameters(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any], type | None]:
    """Return a callable's parameters, their type hints where they can be resolved, and its dataclass of settings.

    Those of the ``**settings`` of a class are the fields of the dataclass that it annotates its attribute of that name
    with: so configs are flat, and constructors short.
    """
    parameters = dict(inspect.signature(target).parameters)
    hints = _hints(target if is_dataclass(target) or not inspect.isclass(target) else target.__init__)
    settings = None
    for name in [name for name, one in parameters.items() if one.kind is one.VAR_KEYWORD and inspect.isclass(target)]:
        kinds = (kind for kind in inspect.getmro(cast(type, target)) if name in inspect.get_annotations(kind))
        if owner := next(kinds, None):
            del parameters[name]
            settings = inspect.get_annotations(owner, eval_str=True)[name]
            parameters |= inspect.signature(settings).parameters
            hints |= typing.get_type_hints(settings, include_extras=True)
    return parameters, hints, settings


def _hints(owner: Any) -> dict[str, Any]:
    """Return the type hints of a function or a dataclass, those that can be resolved beside those that cannot.

    What our code imports for its hints alone are classes, which a node makes; others' may be anything.
    """
    ours, absent = str(getattr(owner, "__module__", "")).startswith("src."), dict[str, Any]()
    while True:
        try:
            return typing.get_type_hints(owner, localns=absent or None, include_extras=True)
        except NameError as error:
            name = str(error.name)
            absent[name] = type(name, (), {}) if ours else Any
        except (AttributeError, TypeError):
            return {}
