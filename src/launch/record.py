"""``result.json`` and ``config.yaml``: what a run was told, what it did and how it ended."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_class

from src.launch.errors import InputError, PrunedError, resume_command
from src.launch.precision import settled
from src.launch.process import first_process, peak_memory_mib, reset_peak_memory
from src.launch.storage import sha256_of, write_atomic
from src.launch.trusted import note_own, require_own, require_trusted, targets

PACKAGES = ("torch", "transformers", "lightning", "hydra-core", "numpy", "ilrec-gisa")
_SOURCE = Path(__file__).parents[1]
_ENDS = {KeyboardInterrupt: "interrupted", PrunedError: "pruned"}
_SHOWN = 10  # runs in a message
_WRITE_AGAIN = (
    "Mend it; result.json beside it holds the config as it was when the run last began, under the key config."
)


class Record:
    """The ``result.json`` of one run, on disk from the first moment and rewritten whole at every change.

    Attributes:
        content: What the file holds; the keys are those that ``src.report`` reads.
    """

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        """Take the content as it is; see ``start`` and ``resume``."""
        self.path = folder / "result.json"
        self.content = content
        self._lap_began = time.monotonic()

    @classmethod
    def start(cls, folder: Path, config: dict[str, Any], overrides: list[str]) -> Record:
        """Write ``config.yaml`` and a ``result.json`` with the status ``running``.

        Raises:
            InputError: the folder already holds a run.
        """
        # The other processes may come after it has begun.
        if first_process() and (folder / "result.json").exists() and not _has_made_nothing(folder):
            raise InputError(
                f"{folder} already holds a run. I need a folder of its own for every run.\n"
                f"Go on with that one:  {resume_command(folder)}\n"
                "or leave out hydra.run.dir, and a new folder is made below outputs/."
            )
        reset_peak_memory()
        note_own(config)
        write_atomic(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        record = cls(
            folder,
            {
                "status": "running",
                "name": str(config.get("name")),
                # A seed that is no number is a fault of the config, which has yet to be checked.
                "seed": config["seed"] if isinstance(config.get("seed"), int) else -1,
                "metrics": {},
                "error": None,
                "config": config,
                "overrides": overrides,
                "versions": _versions(),
                **_commit(),
                "started_at": _now(),
                "finished_at": None,
                "timings_s": {"prepare": 0.0, "fit": 0.0, "test": 0.0, "total": 0.0},
                "steps": None,
                "peak_memory_mib": None,
                "evaluated_users": None,
                "protocol": {},
                "lineage": None,
                "resumed": 0,
            },
        )
        record.update()
        return record

    @classmethod
    def began(cls, folder: Path, config: dict[str, Any]) -> bool:
        """Tell whether a folder holds a run of this config, as those of a sweep do that is typed once more."""
        content = _content(folder)
        same = content.get("config") == json.loads(json.dumps(settled(config, content.get("config"))[0]))
        return same and refusal(folder) is None

    @classmethod
    def resume(cls, folder: Path, typed: Mapping[str, Any] | None = None) -> Record:
        """Read the record and the config of a run to go on with; a finished one is left as it is.

        Args:
            folder: Of the run.
            typed: The config that the user has composed, whose targets need no further trust.

        Raises:
            InputError: an older version of the code made it, or its config cannot be read, or would build anything.
        """
        if older := older_version(folder):
            raise InputError(older)
        require_resumable(folder, typed)
        record = cls(folder, _content(folder))
        require_trusted(record.content.get("config"), record.path, typed)
        if record.content["status"] != "finished":
            reset_peak_memory()
            if first_process():
                for unfinished in folder.rglob(".*.tmp"):  # left by a kill in the middle of a write
                    unfinished.unlink()
            resumed = record.content["resumed"] + 1
            record.update(status="running", error=None, config=read_config(folder, typed), resumed=resumed)
        return record

    def update(self, **changes: Any) -> None:
        """Change keys, and write the file; of several processes only the first does."""
        self.content |= changes
        if first_process():
            write_atomic(self.path, json.dumps(self.content, indent=1))

    def lap(self, part: str, total: float | None = None) -> None:
        """Add the seconds since the last lap to a part of the run; a resumed run goes on counting.

        Args:
            part: Such as ``prepare``, ``fit`` or ``test``.
            total: The part's seconds over all resumes, where they are known from elsewhere.
        """
        now, timings = time.monotonic(), self.content["timings_s"]
        timings[part] = round(timings.get(part, 0.0) + now - self._lap_began if total is None else total, 3)
        timings["total"] = round(sum(seconds for name, seconds in timings.items() if name != "total"), 3)
        self._lap_began = now
        self.update()

    def trace_origins(self, stage: Mapping[str, Any]) -> None:
        """Note the checkpoints a stage starts or learns from, its ``*_from`` settings, by path, content and recipe."""
        paths: dict[str, str] = {}
        for key, named in stage.items():
            if key.endswith("_from") and named is not None:
                several = isinstance(named, list)
                paths |= {f"{key}[{n}]": path for n, path in enumerate(named)} if several else {key: named}
        if paths:
            self.update(lineage={key: _origin(Path(path)) for key, path in paths.items()})

    def finish(self, **results: Any) -> None:
        """Close the record of a run that went well."""
        self.update(status="finished", finished_at=_now(), peak_memory_mib=peak_memory_mib(), **results)

    def fail(self, error: BaseException) -> None:
        """Close the record of a run that did not."""
        description = {"type": type(error).__name__, "message": str(error)}
        status = next((name for kind, name in _ENDS.items() if isinstance(error, kind)), "failed")
        with suppress(OSError):  # a full disk, of all times; the error itself is reported anyway
            self.update(status=status, finished_at=_now(), peak_memory_mib=peak_memory_mib(), error=description)

    def refuse(self, error: InputError) -> None:
        """Close the record of a run whose config has faults: nothing leads back to that config."""
        self.fail(error)
        if first_process():
            self.update(error={**self.content["error"], "refused": True})
            (self.path.parent / "config.yaml").unlink(missing_ok=True)


def read_config(folder: Path, typed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read the ``config.yaml`` of a run folder.

    Args:
        folder: Of the run, which may be somebody else's.
        typed: The config that the user has composed, whose targets need no further trust.

    Raises:
        InputError: it is not YAML, or no config, or would build something else than parts of this code.
    """
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged: {error}\n{_WRITE_AGAIN}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is damaged: it holds no settings.\n{_WRITE_AGAIN}")
    require_trusted(config, path, typed)
    return config


def may_change_in(folder: Path) -> tuple[str, ...]:
    """Return the settings of a run that its task lets change between resumes; none where no run of our own is there."""
    path = folder / "config.yaml"
    task = read_config(folder).get("task") if path.is_file() else None
    target = task.get("_target_") if isinstance(task, dict) else None
    known: tuple[str, ...] = getattr(get_class(target), "may_change", ()) if target else ()
    return known


def change(folder: Path, settings: Mapping[str, Any]) -> None:
    """Change settings of a run that will be resumed; a finished one is opened again.

    Raises:
        InputError: the config has no such setting, or would start programs or send keys that no run here had.
    """
    config = read_config(folder)
    require_own(config, folder)
    for name, value in settings.items():
        *groups, key = name.split(".")
        node: dict[str, Any] = config
        for group in groups:
            inner = node.get(group)
            node = inner if isinstance(inner, dict) else {}
        if key not in node:
            raise InputError(f"resume={folder}: the config of that run has no setting {name}, so it cannot change.")
        node[key] = value
    note_own(config)
    write_atomic(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    content = _content(folder)
    if content["status"] == "finished":
        write_atomic(folder / "result.json", json.dumps({**content, "status": "running"}, indent=1))


def refusal(folder: Path) -> str | None:
    """Return why the run of a folder was refused before anything was built; None if it was not."""
    error = _content(folder).get("error") or {}
    return str(error["message"]) if error.get("refused") else None


def _has_made_nothing(folder: Path) -> bool:
    """Whether the run of a folder ended in a fault of its user before it made anything: a mended one may replace it."""
    content = _content(folder)
    error = content.get("error") or {}
    made = {path.name for path in folder.iterdir()} - {"config.yaml", "result.json", "run.log", "items.index.json"}
    return content.get("status") == "failed" and error.get("type") == InputError.__name__ and not made


def require_resumable(folder: Path, config_typed: Mapping[str, Any] | None = None) -> None:
    """Refuse to go on where there is nothing to go on with.

    Args:
        folder: Of the run.
        config_typed: See ``read_config``.

    Raises:
        InputError: the folder holds no run, a damaged or a refused one, or several; the message says what to type.
    """
    result, config = folder / "result.json", folder / "config.yaml"
    if (message := refusal(folder)) is not None:
        typed = shlex.join(_content(folder).get("overrides", []))
        raise InputError(
            f"resume={folder}: that run was refused before it began, so there is nothing to go on with. {message}\n"
            f"Mend that, and type the command again:\n  python -m src.run {typed}"
        )
    if result.is_file() and config.is_file() and _read(result) is None:
        raise InputError(
            f"resume={folder}: {result} is damaged, so I cannot tell what that run was.\n"
            "Type its command again; without hydra.run.dir, a new folder is made below outputs/."
        )
    if result.is_file() and config.is_file():
        if _content(folder).get("status") != "finished":
            require_own(read_config(folder, config_typed), folder, config_typed)
        return
    need = "I find no run there. I need a folder with config.yaml and result.json, as src.run writes it below outputs/."
    raise InputError(f"resume={folder}: {need}{_runs_nearby(folder)}")


def _runs_nearby(folder: Path) -> str:
    """Return the commands that go on with the runs below a folder, as of a sweep, or above it."""
    above = next((parent for parent in list(folder.parents)[:2] if (parent / "result.json").is_file()), None)
    if above:
        return f"\nType:  {resume_command(above)}"
    below = sorted(path.parent for path in folder.glob("*/result.json"))
    open_ones = [path for path in below if _content(path).get("status") != "finished" and refusal(path) is None]
    if below and not open_ones:
        return f"\nBelow it there are {len(below)} run(s), each finished or refused."
    shown = [f"  {resume_command(path)}" for path in open_ones[:_SHOWN]]
    more = [f"  and {len(open_ones) - _SHOWN} more"] if len(open_ones) > _SHOWN else []
    again = "or, for a sweep, its command with  hydra.sweep.dir=<that folder>, which does all that is left."
    return (
        "\n".join(["", "Below it there are runs that are not finished. Type:", *shown, *more, again]) if below else ""
    )


def _content(folder: Path) -> dict[str, Any]:
    """Read the ``result.json`` of a folder; empty where there is none, or a damaged one."""
    return _read(folder / "result.json") or {}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, RecursionError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def older_version(folder: Path) -> str | None:
    """Say what to do with a run folder whose config names code that is gone; None for one that can be used."""
    run = _content(folder)  # nothing of a damaged one, which those who need it will say
    gone = next((target for target in targets(run.get("config")) if not _is_here(target)), None)
    if gone is None:
        return None
    return (
        f"{folder} is a run of an older version of this code, whose {gone} is gone.\n"
        f"Use it as it was:  git checkout {run.get('commit') or '<the commit of that time>'}\n"
        "or train it again with the code as it is."
    )


def _is_here(target: str) -> bool:
    """Whether the module of a target is there, if it is one of ours."""
    package, *parts = target.split(".")
    files = (_SOURCE.joinpath(*parts[:count]).with_suffix(".py") for count in range(1, len(parts)))
    return package != _SOURCE.name or any(file.is_file() for file in files)


def _origin(checkpoint: Path) -> dict[str, str | None]:
    """Return a checkpoint's path, its content's hash and the name of the run that wrote it, if that can be known."""
    name = _content(checkpoint.parent.parent).get("name")
    return {"path": str(checkpoint), "sha256": sha256_of(checkpoint), "name": name}


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _commit() -> Mapping[str, str | bool | None]:
    """Return the commit of the code, and whether it was changed since; None outside a checkout of its own."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # an environment may lie in somebody's project
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
