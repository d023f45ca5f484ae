"""What a config that lies in a folder may build. It may be somebody else's: only what ``conf/`` of this code names."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from src.launch.errors import InputError
from src.launch.storage import cache_folder
from src.launch.values import CONF

VARIABLE = "ILREC_GISA_TRUST"  # packages and run folders of the user's own, with commas between them
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
_REACHES_OUT = frozenset(("command", "env", "key_env"))  # start programs, or give secrets of the environment away
_WHERE_TO = frozenset(("base_url", "url"))
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
    own = tuple(f"{name}." for name in _trusted())
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


def require_own(config: Any, folder: Path, typed: Any = None) -> None:
    """Refuse to go on with a run that starts programs or sends keys, unless such a one was begun on this machine.

    Args:
        config: Of the run.
        folder: Of the run, which may be somebody else's.
        typed: A config that the user has composed; what it says so is the user's own choice.

    Raises:
        InputError: it is refused; the message says what the run would start and send.
    """
    found = _outward(config)
    known = {*_outward(typed)}.issuperset(found) or _sign(found).exists()
    if not known and folder.resolve() not in map(Path, map(os.path.realpath, _trusted())):
        raise InputError(
            "\n".join(
                [
                    f"{folder} may be somebody else's: no run of this user on this machine had its",
                    *(f"- {place}={value}" for place, value in found),
                    "It would start programs, or send keys of yours to servers.",
                    f"If they are what you want, type before the command:  {VARIABLE}={folder}",
                ]
            )
        )


def note_own(config: Any) -> None:
    """Remember which programs a run of the user's starts, and where it sends keys."""
    if found := _outward(config):
        with suppress(OSError):  # without it, who goes on is asked
            _sign(found).parent.mkdir(parents=True, exist_ok=True)
            _sign(found).touch()


def _outward(config: Any) -> list[tuple[str, str]]:
    """Return the settings that start programs or give secrets away, and where to; none where no such one is set."""
    named = [(".".join([*path, key]), key, value) for path, key, value in _leaves(config) if value is not None]
    if not any(key in _REACHES_OUT for _, key, _ in named):
        return []
    return [(place, str(value)) for place, key, value in named if key in _REACHES_OUT | _WHERE_TO]


def _sign(found: list[tuple[str, str]]) -> Path:
    return cache_folder() / "own" / hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _trusted() -> list[str]:
    return [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]


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
