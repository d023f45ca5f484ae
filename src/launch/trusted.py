"""What a config that lies in a folder may build. It may be somebody else's: only what ``conf/`` of this code names."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from src.launch.errors import InputError
from src.launch.values import CONF

VARIABLE = "ILREC_GISA_TRUST"  # packages of the user's own, with commas between them
_OF_LIGHTNING = r"lightning\.pytorch\.(callbacks|loggers|plugins|profilers|strategies)\.(\w+\.)?[A-Z]\w*"
_OF_TORCH = r"torch\.optim\.(lr_scheduler\.)?[A-Z]\w*"
# What finds a model's folder, which overrides put in the place of a name.
_FOLDERS = r"src\.(gisa\.agent\.local\.trained_folder|model\.smollm2\.local_folder)"
# What conf/ does not name one by one, by the part of a config that it may stand in.
_CLASSES = {
    **dict.fromkeys(("trainer", "callbacks", "logger"), re.compile(_OF_LIGHTNING)),
    **dict.fromkeys(("optimizer", "scheduler"), re.compile(_OF_TORCH)),
    "name": re.compile(_FOLDERS),
}
# Keys that hold a choice of a group of another name.
_ELSEWHERE = {"similarity": "embedding", "start": "embedding"}


def require_trusted(config: Any, path: Path, typed: Any = None) -> None:
    """Refuse a config from a folder that would build anything else than parts of this code.

    Args:
        config: As it is in the file.
        path: The file, for the message.
        typed: A config that the user has composed; what it names is the user's own choice.

    Raises:
        InputError: it would; nothing is imported for that.
    """
    if faults := list(untrusted(config, set(targets(typed)))):
        raise InputError(
            "\n".join(
                [
                    f"{path} may be somebody else's, so I build nothing of it but what conf/ of this code names:",
                    *(f"- {fault}" for fault in faults),
                    f"If that is code of your own, type before the command:  {VARIABLE}=<its package>",
                ]
            )
        )


def untrusted(config: Any, typed: Collection[str] = ()) -> Iterator[str]:
    """Name every target of a config that its place does not allow, and every interpolation, which could read keys."""
    own = tuple(f"{name.strip()}." for name in os.environ.get(VARIABLE, "").split(",") if name.strip())
    for path, key, value in _leaves(config):
        place = ".".join([*path, key])
        if key != "_target_":
            if isinstance(value, str) and "${" in value:
                yield f"{place}={value!r}: a config that is written down refers to nothing"
            continue
        known = any(value in named_in_conf(_ELSEWHERE.get(part, part)) for part in path) or value in typed
        classes = (pattern.fullmatch(str(value)) for part in path if (pattern := _CLASSES.get(part)))
        if not (known or any(classes) or str(value).startswith(own or "\0")):
            yield f"{place}={value}"


def targets(config: Any) -> Iterator[str]:
    """Yield every ``_target_`` of a config."""
    return (str(value) for _, key, value in _leaves(config) if key == "_target_")


@cache
def named_in_conf(group: str) -> frozenset[str]:
    """Return every target that the files of a group name, and ``config.yaml`` under that key."""
    if not re.fullmatch(r"[a-z_]+", group):  # such as .. or *, which would lead elsewhere
        return frozenset()
    texts = [path.read_text(encoding="utf-8") for path in CONF.glob(f"**/{group}/**/*.yaml")]
    if not texts:  # a key without choices, such as checkpointing
        top = (CONF / "config.yaml").read_text(encoding="utf-8")
        texts = re.findall(rf"^{re.escape(group)}:\n((?: .*\n)+)", top, re.MULTILINE)
    return frozenset(name for text in texts for name in re.findall(r"_target_: *([\w.]+)", text))


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Yield path, key and value of everything that is no mapping, and of every ``_target_``."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "_target_":
                yield path, key, str(inner)
            else:
                yield from _leaves(inner, (*path, str(key)))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    elif path:
        yield path[:-1], path[-1], value
