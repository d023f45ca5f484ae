"""What is done to the command line before Hydra reads it."""

from __future__ import annotations

import atexit
import json
import re
import shutil
import tempfile
from pathlib import Path

from src.launch.errors import InputError
from src.launch.record import first_process

_SHOWS_ONLY = ("--hydra-help", "--cfg", "-c", "--info", "-i", "--version", "--shell-completion", "-sc")
_MULTIRUN = ("-m", "--multirun")
_PLAIN = re.compile(r"[A-Za-z_][\w.\-]*=")


def prepare_arguments(arguments: list[str], conf: Path) -> list[str]:
    """Rewrite the command line.

    Plain overrides become forced ones (``++a.b=c``), so that a typo reaches ``src.launch.schema.check``, which lists
    all faults at once, instead of ending in Hydra's complaint about the first. ``resume=FOLDER`` makes Hydra work in
    that folder. Processes other than the first of a distributed run get a throw-away run folder.

    Args:
        arguments: As typed, without the program.
        conf: The config folder; its subfolders are the groups, whose choice is left to Hydra.

    Raises:
        InputError: ``resume`` stands beside other overrides, or names something else than a run folder.
    """
    if any(argument.partition("=")[0] in _SHOWS_ONLY for argument in arguments):
        return arguments
    groups = {path.name for path in conf.iterdir() if path.is_dir()}
    resumed = [argument for argument in arguments if argument.lstrip("+").startswith("resume=")]
    if resumed and resumed[-1].partition("=")[2] not in ("", "null"):
        rest = [argument for argument in arguments if argument not in resumed]
        arguments = _resume(Path(resumed[-1].partition("=")[2]), rest)
    else:
        # Stable sort: Hydra's parser stumbles over a `-m` between overrides.
        arguments = sorted((_forced(argument, groups) for argument in arguments), key=lambda one: one not in _MULTIRUN)
    if not first_process():
        arguments = [argument for argument in arguments if not argument.startswith("hydra.run.dir=")]
        folder = tempfile.mkdtemp(prefix="rank-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        arguments.append(f"hydra.run.dir={folder}")
    return arguments


def help_text(conf: Path) -> str:
    """Return the usage with every group and its choices; Hydra takes three times as long to find them."""
    folders = sorted(path for path in conf.iterdir() if path.is_dir())
    groups = {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders}
    added = {group: groups.pop(group) for group in ("experiment", "sweep") if group in groups}
    return "\n".join(
        [
            "python -m src.run [+experiment=NAME] [GROUP=CHOICE]... [KEY=VALUE]...",
            "",
            *(f"  +{group}={'|'.join(choices)}" for group, choices in added.items()),
            *(f"  {group}={'|'.join(choices)}" for group, choices in groups.items()),
            "",
            "Every setting:   python -m src.run +experiment=sft --cfg job",
            "A sweep:         python -m src.run -m +experiment=sft seed=1,2,3",
            "Go on with one:  python -m src.run resume=FOLDER",
            "A report:        python -m src.report FOLDER...",
        ]
    )


def as_typed(overrides: list[str]) -> list[str]:
    """Return Hydra's list of overrides without what ``prepare_arguments`` made of it, and without the sweep's name."""
    return [text.removeprefix("++") for text in overrides if not text.startswith(("+sweep=", "++resume="))]


def _forced(argument: str, groups: set[str]) -> str:
    key = argument.partition("=")[0]
    plain = _PLAIN.match(argument) and key not in groups | {"hydra"} and not key.startswith("hydra.")
    return f"++{argument}" if plain else argument


def _resume(folder: Path, rest: list[str]) -> list[str]:
    if rest:
        raise InputError(
            f"resume={folder} takes its whole config from the folder; remove: {' '.join(rest)}\n"
            f"  python -m src.run resume={folder}"
        )
    if not (folder / "config.yaml").is_file() or not (folder / "result.json").is_file():
        raise InputError(
            f"resume={folder}: I find no run there. I need a folder with config.yaml and result.json, as src.run "
            "writes it below outputs/."
        )
    return [f"++resume={json.dumps(str(folder))}", f"hydra.run.dir={json.dumps(str(folder))}"]
