"""Finished, failed and unfinished runs of any wing, collected from the ``result.json`` files below some folders."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from src.launch.errors import InputError

# Overrides that do not tell two cells apart: the seed is averaged over, the name already stands for the experiment, and
# the others change no result.
SAME_CELL = (
    *("seed", "name", "experiment", "resume", "logger", "trainer.enable_progress_bar"),
    "evaluator.exclude_history",  # a part of the protocol
)
Curve = dict[int, float]
"""Value by optimiser step."""


class Failure(BaseModel):
    """The exception that ended a run."""

    type: str
    message: str

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"


class Origin(BaseModel):
    """A checkpoint that a run started or learned from."""

    path: str
    sha256: str
    name: str | None = None
    """Of the run that wrote it."""


class Run(BaseModel):
    """One ``result.json``, checked."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    source: Path
    """The folder given by the user below which this run was found."""
    status: Literal["finished", "failed", "running", "interrupted", "pruned"]
    name: str
    seed: int
    started_at: AwareDatetime
    overrides: list[str]
    metrics: dict[str, float] = {}
    error: Failure | None = None
    config: dict[str, Any] = {}
    protocol: dict[str, Any] = {}
    lineage: dict[str, Origin] | None = None
    versions: dict[str, str] = {}
    commit: str | None = None
    dirty: bool | None = None
    timings_s: dict[str, float] = {}
    steps: int | None = None
    rank_column: str = "rank"
    """Of ``ranks.parquet``."""
    peak_memory_mib: float | None = None
    evaluated_users: int | None = None
    evaluated_questions: int | None = None

    @property
    def label(self) -> str:
        """The name and every override that matters, in the order typed; checkpoints by the name of their run."""
        return " ".join([self.name, *self.telling_overrides])

    @property
    def telling_overrides(self) -> list[str]:
        """The overrides that matter, in the order typed; checkpoints by the name of their run."""
        shown = []
        origins = {origin.path: origin.name for origin in (self.lineage or {}).values()}
        settings = dict(_leaves(self.config, ""))
        for text in self.overrides:
            key = text.lstrip("+~").partition("=")[0]
            value = settings.get(key)
            named = [origins.get(str(one)) for one in (value if isinstance(value, list) else [value])]
            if named and all(named):
                shown.append(f"{key}={','.join(map(str, named))}")
            elif key not in SAME_CELL and not key.startswith(("logger.", "upstream.")):  # of which a run uses a part
                shown.append(text)
        return shown

    def variants(self) -> list[Run]:
        """Return the run, and one for each other way in which its test measured: without the history's items, guided.

        What was guided or penalised has a name of its own, so that no table mixes it with what was not.
        """
        others = []
        for ending in ("_excluded", "_guided", "_guided_excluded", "_penalised"):
            prefix = f"test{ending}/"
            values = {name.replace(prefix, "test/"): v for name, v in self.metrics.items() if name.startswith(prefix)}
            if values:
                changes = {"metrics": {**self.metrics, **values}, "rank_column": f"rank{ending}"}
                if ending.endswith("_excluded"):
                    changes["protocol"] = {**self.protocol, "exclude_history": True}
                if way := ending.removesuffix("_excluded"):
                    changes["name"] = f"{self.name}{way}"
                others.append(self.model_copy(update=changes))
        return [self, *others]

    def curves(self) -> dict[str, Curve]:
        """Return what every metric was while it trained, from ``metrics.csv``; nothing where there is none.

        ``train/layer_agreement`` is added, the mean over the layers read.

        Raises:
            InputError: the file cannot be read.
        """
        path = self.folder / "metrics.csv"
        if not path.exists():
            return {}
        curves: dict[str, Curve] = defaultdict(dict)
        layers: dict[int, list[float]] = defaultdict(list)
        number = 0
        try:
            with path.open(newline="") as stream:
                reader = csv.DictReader(stream)
                for row in reader:
                    number = reader.line_num
                    step, name, value = int(row["step"]), row["metric"], float(row["value"])
                    curves[name][step] = value
                    if name.startswith("train/layer_agreement_"):
                        layers[step].append(value)
        except (csv.Error, KeyError, OSError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}, line {number}: needed are the columns step, epoch, metric and value with numbers; got "
                f"{error}.\nDelete the file to report without its training curve."
            ) from error
        if layers:
            curves["train/layer_agreement"] = {step: float(np.mean(values)) for step, values in layers.items()}
        return dict(curves)


@dataclass(frozen=True)
class Cell:
    """Finished runs that differ in nothing but the seed, one a seed, by rising seed.

    Attributes:
        label: Unique in a collection: ``method`` and, where two cells would share that, the protocol.
        method: Name and overrides.
        runs: At least one run.
    """

    label: str
    method: str
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.runs[0].name

    @property
    def protocol(self) -> dict[str, Any]:
        """The evaluation settings, equal in all runs."""
        return self.runs[0].protocol


@dataclass(frozen=True)
class Collection:
    """All runs below the given folders, sorted out.

    Attributes:
        runs: Every run in the order of starting.
        cells: In the order of their first run.
        shared: Overrides of all runs, and by recipe of all its runs; they are left out of the labels.
        missing: "label seed=s" of each cell without the seed s that another cell of the same folder has.
        warnings: Reasons to distrust a cell's mean, in sentences.
    """

    runs: list[Run]
    cells: list[Cell]
    shared: dict[str, list[str]]
    missing: list[str]
    warnings: list[str]

    def having(self, status: str) -> list[Run]:
        """Return the runs of one status."""
        return [run for run in self.runs if run.status == status]


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Read every ``result.json`` below the folders, at any depth.

    Returns:
        The runs in the order of starting, each once.

    Raises:
        InputError: there is no such folder, nothing below it, or a file that is not a result.
    """
    runs: dict[Path, Run] = {}
    for source in folders:
        if not source.is_dir():
            raise InputError(f"{source} is not a folder; needed: a run folder, or a folder that holds some.")
        for path in sorted(source.rglob("result.json")):
            runs.setdefault(path.resolve(), _read_run(path, source))
    if not runs:
        raise InputError(
            f"no result.json below {', '.join(map(str, folders))}; needed: folders written by src.run.\n"
            "Make one: python -m src.run +experiment=ilrec_stage1"
        )
    return sorted(runs.values(), key=lambda run: (run.started_at, run.folder))


def collect(runs: Sequence[Run]) -> Collection:
    """Sort runs into cells; runs evaluated under different protocols never share one."""
    shared: dict[str, list[str]] = {}
    runs = _without_shared(runs, "All runs", shared)
    names = dict.fromkeys(run.name for run in runs)
    if len(names) > 1:
        parts = (_without_shared([run for run in runs if run.name == name], name, shared) for name in names)
        changed = {run.folder: run for part in parts for run in part}
        runs = [changed[run.folder] for run in runs]
    groups: dict[tuple[str, str], list[Run]] = {}
    for tested in (tested for run in runs if run.status == "finished" for tested in run.variants()):
        groups.setdefault((tested.label, json.dumps(tested.protocol, sort_keys=True)), []).append(tested)
    labels = [label for label, _ in groups]
    warnings: list[str] = []
    cells = []
    for (method, _), members in groups.items():
        label = method
        if labels.count(label) > 1:
            differing = _differing([other[0].protocol for (name, _), other in groups.items() if name == method])
            label += f" ({as_typed({key: members[0].protocol.get(key) for key in differing})})"
        # A seed run twice would count as two independent seeds and make the interval too narrow.
        latest = {run.seed: run for run in members}
        if len(latest) < len(members):
            warnings.append(f"{label}: a seed was run more than once; only its latest run counts.")
        cell = Cell(label, method, tuple(latest[seed] for seed in sorted(latest)))
        warnings += _inconsistencies(cell)
        cells.append(cell)
    return Collection(runs, cells, shared, _missing(runs), warnings)


def _without_shared(runs: Sequence[Run], who: str, shared: dict[str, list[str]]) -> list[Run]:
    """Take the overrides that all these runs have out of them, and note them in ``shared[who]``."""
    everywhere = set.intersection(*(set(run.telling_overrides) for run in runs))
    if everywhere:
        shared[who] = [text for text in runs[0].telling_overrides if text in everywhere]
    return [
        run.model_copy(update={"overrides": [text for text in run.telling_overrides if text not in everywhere]})
        for run in runs
    ]


def by_protocol(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Group cells that may be compared with each other, keeping their order."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(json.dumps(cell.protocol, sort_keys=True), []).append(cell)
    return list(groups.values())


def as_typed(settings: Mapping[str, Any]) -> str:
    """Write settings as one would type them: ``exclude_history=false, num_beams=20``."""
    return ", ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()
    )


def _read_run(path: Path, source: Path) -> Run:
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not an object")
        json.dumps(content, ensure_ascii=False).encode()  # half a character can be neither written nor drawn
        return Run.model_validate({**content, "folder": path.parent, "source": source})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
    except (OSError, RecursionError, ValueError) as error:
        faults = str(error)
    raise InputError(
        f"{path} is not a result of src.run: {faults}.\nDelete the folder {path.parent}, or run that job again."
    )


def _missing(runs: Sequence[Run]) -> list[str]:
    missing = []
    for source in dict.fromkeys(run.source for run in runs):
        seeds: dict[str, set[int]] = {}
        for run in runs:
            if run.source == source:
                seeds.setdefault(run.label, set()).add(run.seed)
        wanted = set().union(*seeds.values())
        missing += [f"{label} seed={seed}" for label, present in seeds.items() for seed in sorted(wanted - present)]
    return missing


def _inconsistencies(cell: Cell) -> list[str]:
    warnings = []
    configs = [dict(_leaves(run.config)) for run in cell.runs]
    pairs = list(zip(cell.runs, configs, strict=True))
    differing = _differing(configs)
    if suspect := [key for key in differing if not all(_by_design(run, key, config.get(key)) for run, config in pairs)]:
        warnings.append(f"{cell.label}: its runs differ in more than the seed: {', '.join(suspect)}.")
    for what in ("commit", "dirty", "versions", "evaluated_users", "evaluated_questions"):
        values = dict.fromkeys(json.dumps(getattr(run, what), sort_keys=True) for run in cell.runs)
        if len(values) > 1:
            warnings.append(f"{cell.label}: its runs differ in {what}: {' / '.join(values)}.")
    return warnings


def _by_design(run: Run, key: str, value: Any) -> bool:
    """Tell whether a setting copies the seed or the run's folder, names a checkpoint, or says that it was resumed."""
    own_path = isinstance(value, str) and run.folder.name in Path(value).parts
    is_origin = key.endswith("_from") or key.startswith("upstream.")
    return value == run.seed or own_path or is_origin or key == "resume"


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that are not equal everywhere, in order of appearance."""
    keys = dict.fromkeys(key for mapping in settings for key in mapping)
    return [key for key in keys if any((key, mapping.get(key)) not in settings[0].items() for mapping in settings)]


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten a nested config to dotted keys."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
