"""Weights & Biases: a run for each job, named and tagged, with what it made; the only import of wandb."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from src.launch.account import Mode, has_key, host, mode_of, unreachable
from src.launch.errors import InputError
from src.launch.process import first_process, peak_memory_mib
from src.launch.record import Record, read_config
from src.launch.storage import write_atomic
from src.launch.values import Whole
from src.training.tracking import rows_since

log = logging.getLogger("run")

STEP = "trainer/global_step"
_PAPERS = {"ilrec": "ILRec", "gisa": "GISA"}
_UNTOLD = ("seed", "name", "experiment", "resume", "logger", "trainer.enable_progress_bar", "upstream", "hydra")
_RESERVED = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")  # what `wandb agent` tells of one run


class Shown:
    """A run of Weights & Biases that tables, pictures and the like are logged to."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.entity: str | None = run.entity or None
        self.project: str = run.project
        self.address = (None if run.offline else run.url) or f"wandb sync {Path(run.dir).parent}   (it is offline)"

    def show(self, **content: Any) -> None:
        """Log one row of tables, pictures and the like, by their keys."""
        self.run.log(content)

    def end(self, exit_code: int) -> None:
        """Close it."""
        self.run.finish(exit_code=exit_code)

    @staticmethod
    def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Any:
        """Make a table of plain values; its columns may mix types and have gaps."""
        import wandb

        return wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)

    @staticmethod
    def histogram(values: Sequence[float]) -> Any:
        """Make a histogram of those that are finite."""
        import wandb

        return wandb.Histogram([value for value in values if math.isfinite(value)])

    @staticmethod
    def picture(path: Path) -> Any:
        """Make an image of a file."""
        import wandb

        return wandb.Image(str(path), caption=path.stem.replace("_", " "))

    @staticmethod
    def page(html: str) -> Any:
        """Make a page."""
        import wandb

        return wandb.Html(html, inject=False)


class Dashboard(Shown, WandbLogger):
    """The run of a job: metrics by step, those of the best validation in the summary, and artifacts with lineage.

    Args:
        run: Of wandb.
        record: Of the job.
        settings: Its config.
        users: How many users of a recommender are to be shown.
    """

    def __init__(self, run: Any, record: Record, settings: Mapping[str, Any], users: int = 0) -> None:
        WandbLogger.__init__(self, experiment=run, project=run.project, id=run.id)
        Shown.__init__(self, run)
        self.record, self.users = record, users
        self._monitor = (settings.get("checkpointing") or {}).get("monitor")
        self._batch_size = (settings.get("batches") or {}).get("batch_size")
        self._upload = bool((settings.get("logger") or {}).get("upload_checkpoint"))
        self._before: tuple[float, int] | None = None
        run.define_metric(STEP, hidden=True)
        # No two patterns fit one name: which of them counts, the client leaves to chance.
        for split in ("train", "test", "test_excluded", "test_guided", "test_penalised"):
            run.define_metric(f"{split}/*", step_metric=STEP)
        run.define_metric("progress/*", step_metric="progress/questions")
        # Of the tested weights, which are not the last ones: `log_row` keeps the summary of these.
        run.define_metric("val/*", step_metric=STEP, summary="none")

    def log_hyperparams(self, params: Any) -> None:
        """Do nothing: the whole config is there, and flat copies of a stage's settings would stand beside it."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a row, with the speed of training; a validation better than all before goes into the summary."""
        self.log_row({**metrics, **self._speed(metrics, step or 0)}, step or 0)

    def log_row(self, metrics: Mapping[str, float], step: int) -> None:
        """Log a row as it is."""
        self.run.log({**metrics, STEP: step})
        score = metrics.get(self._monitor or "")
        best = self.run.summary.get(self._monitor) if score is not None else None
        if score is not None and (not isinstance(best, int | float) or score > best):
            validated = {name: value for name, value in metrics.items() if name.startswith("val")}
            self.run.summary.update({**validated, "best_step": step})

    def _speed(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """Return examples a second since the last row of training, if no validation came between."""
        training, now, before = any(name.startswith("train/") for name in metrics), time.monotonic(), self._before
        self._before = (now, step) if training else None
        if not (training and before and self._batch_size) or step <= before[1] or now <= before[0]:
            return {}
        return {"train/examples_per_second": (step - before[1]) * self._batch_size / (now - before[0])}

    def summarise(self, **values: Any) -> None:
        """Put values into the summary, those that are not finite left out."""
        kept = {name: value for name, value in values.items() if not (isinstance(value, float) and math.isnan(value))}
        self.run.summary.update(kept)

    def artifact(
        self,
        name: str,
        kind: str,
        files: Mapping[str, Path | Mapping[str, Any]],
        /,
        *,
        used: bool = False,
        **about: Any,
    ) -> None:
        """Log an artifact that the run has made, or one that it uses; the same files are the same version of it.

        Args:
            name: Of it.
            kind: Such as ``dataset`` or ``model``.
            files: By their name in it: a file, or what is written into one.
            used: Whether the run uses it.
            about: Its metadata.
        """
        import wandb

        artifact = wandb.Artifact(_safe(name), kind, metadata=about)
        for inner, content in files.items():
            if isinstance(content, Path):
                artifact.add_file(str(content), name=inner, policy="immutable")
            else:
                with artifact.new_file(inner, mode="w") as stream:
                    stream.write(json.dumps(content, indent=1, sort_keys=True))
        # `use_artifact` refuses offline runs and waits for the server; this is what it calls before that.
        self.run._log_artifact(artifact, is_user_created=True, use_after_commit=used)

    def close(self, exit_code: int) -> None:
        """End the run, with what the record knows by now in its summary, and the checkpoints' lineage."""
        content = self.record.content
        self.summarise(
            protocol=content["protocol"],
            timings_s=content["timings_s"],
            peak_memory_mib=peak_memory_mib(),
            commit=content["commit"],
            steps=content["steps"],
        )
        for origin in (content["lineage"] or {}).values():
            self._checkpoint(Path(origin["path"]), origin["sha256"], origin["name"], used=True)
        best = self.record.path.parent / "checkpoints" / "best.ckpt"
        if exit_code == 0 and best.is_file():
            with best.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            self._checkpoint(best, sha256, content["name"], used=False)
        self.end(exit_code)

    def _checkpoint(self, path: Path, sha256: str, name: str | None, *, used: bool) -> None:
        """Log a checkpoint by its hash, so that the run that made it and those that use it name the same artifact."""
        upload = self._upload
        if used and (path.parent.parent / "config.yaml").is_file():
            upload = bool((read_config(path.parent.parent).get("logger") or {}).get("upload_checkpoint"))
        files: dict[str, Any] = {"checkpoint.json": {"sha256": sha256, "recipe": name}}
        files |= {"best.ckpt": path} if upload else {}
        self.artifact(f"model-{name or 'unknown'}-{sha256[:12]}", "model", files, used=used)


def dashboards(loggers: Iterable[Any]) -> Iterator[Dashboard]:
    """Yield those loggers that can show more than metrics."""
    return (one for one in loggers if isinstance(one, Dashboard))


def wandb_logger(
    folder: Path,
    *,
    config: dict[str, Any],
    group: str,
    record: Record,
    project: str,
    sweep: str | None = None,
    mode: Mode | None = None,
    entity: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    users: Whole = 100,
    upload_checkpoint: bool = False,
) -> Dashboard | None:
    """Open a run of Weights & Biases, or go on with the one of this run folder; None where there is to be none.

    A run that goes on first gets the rows of ``metrics.csv`` that a kill has kept from the server.

    Args:
        folder: The run folder; holds the id in ``wandb_id`` and the data in ``wandb/``.
        config: The run's whole config, plain.
        group: Runs of one sweep share it.
        record: Of the job.
        project: Project of the dashboard.
        sweep: Name of the sweep that the run is a job of, if any.
        mode: Offline keeps everything in the folder; None as ``WANDB_MODE`` says, or else offline.
        entity: Team or user; None for the key's own.
        tags: Beside paper, data set and recipe.
        notes: On the run.
        users: Of a recommender whose test is shown with titles.
        upload_checkpoint: Whether ``best.ckpt`` is uploaded.
    """
    if (mode := mode_of(mode)) == "disabled" or not first_process():
        return None
    if mode == "online" and (reason := unreachable()):
        log.warning(
            "%s does not answer (%s): the run goes on offline. Send it later:  wandb sync %s/wandb/*",
            *(host(), reason, folder),
        )
        mode = "offline"
    about = _about(record, [*_tags(config), *tags], group, sweep)
    run = _begin(
        folder,
        mode=mode,
        known=record.content.get("dashboard"),
        project=project or "ilrec-gisa",
        entity=entity,
        name=os.environ.get("WANDB_NAME") or run_name(config["name"], record.content["overrides"], config["seed"]),
        group=about["group"],
        job_type=config["name"],
        tags=about["tags"],
        notes=notes,
        config={**config, "job": about["job"]},
    )
    record.update(dashboard={"entity": run.entity or None, "project": run.project, "id": run.id, **about})
    dashboard = Dashboard(run, record, config, users)
    for step, metrics in rows_since(folder / "metrics.csv", run.summary.get(STEP)):
        dashboard.log_row(metrics, step)
    return dashboard


def open_summary(folder: Path, settings: Mapping[str, Any], **about: Any) -> Shown:
    """Open the run of a report, or go on with the one that was published from this folder.

    Args:
        folder: Of the report.
        settings: Of the logger of its runs.
        about: Name, group, tags and config.

    Raises:
        InputError: it is to be online and has no key, or W&B is switched off.
    """
    mode = mode_of(settings.get("mode"))
    if mode == "disabled":
        raise InputError("WANDB_MODE=disabled: there is nothing to publish to.\nType:  export WANDB_MODE=online")
    if mode == "online" and not has_key():
        raise InputError(
            f"No key of Weights & Biases for {host()}.\nType:  wandb login   or  export WANDB_MODE=offline"
        )
    if mode == "online" and (reason := unreachable()):
        log.warning("%s does not answer (%s): the report is kept offline, in %s.", host(), reason, folder)
        mode = "offline"
    where = {"project": settings.get("project") or "ilrec-gisa", "entity": settings.get("entity")}
    run = _begin(folder, mode=mode, known=None, job_type="report", **where, **about)
    return Shown(run)


def _about(record: Record, tags: Sequence[str], group: str, sweep: str | None) -> dict[str, Any]:
    """Return job, tags and group: of a run that goes on those that it had, as Hydra was told nothing more about them.

    From ``WANDB_*`` is read what the client would take from there, were it not told something else.
    """
    overrides = list(record.content["overrides"])
    job = {"overrides": overrides, "sweep_folder": sweep, **_choices("experiment", "sweep", "ablation")}
    every = [*tags, *filter(None, os.environ.get("WANDB_TAGS", "").split(","))]
    about = {
        "job": job,
        "tags": [*dict.fromkeys(every)],
        "group": (os.environ.get("WANDB_RUN_GROUP") or group)[:128],
    }
    known = record.content.get("dashboard") or {}
    return {**about, **{key: known[key] for key in about if key in known}}


def _begin(folder: Path, *, mode: Mode, known: Mapping[str, Any] | None, **about: Any) -> Any:
    """Open the run; its id is in ``wandb_id`` from then on, whoever chose it."""
    import wandb

    path = folder / "wandb_id"
    name = path.read_text() if path.is_file() else None
    if name and known:
        about |= {key: known[key] for key in ("entity", "project")}
    # Online, the address is printed; a server that has gone holds up the end for ten minutes, then there is wandb sync.
    wanted: dict[str, Any] = {
        "max_end_of_run_history_metrics": 0,
        "max_end_of_run_summary_metrics": 0,
        "finish_timeout": 600.0,
    }
    known_here = {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}
    settings = wandb.Settings(silent=mode == "offline", init_timeout=60, **known_here)
    with _as_told(not name):
        try:
            # An offline run cannot know what the server has: it is told all again, and what it was told before is of
            # no use, nor can a file that a kill has torn be synchronised.
            for torn in folder.glob(f"wandb/offline-run-*-{name}") if name else ():
                shutil.rmtree(torn)
            run = wandb.init(id=name, dir=folder, mode=mode, resume="allow", settings=settings, **about)
        except (wandb.errors.Error, ValueError) as error:
            if mode == "offline":
                raise InputError(
                    f"W&B refuses its settings: {error}\nMend them, WANDB_... or logger..., or type  logger=none"
                ) from error
            log.warning("%s takes no run (%s): it goes on offline.", host(), str(error).partition("\n")[0])
            wandb.teardown()
            return _begin(folder, mode="offline", known=known, **about)
    write_atomic(path, run.id)
    return run


@contextmanager
def _as_told(anew: bool) -> Iterator[None]:
    """Let the first new run of a process be the one that ``wandb agent`` asks for, and no other."""
    import wandb

    told = {name: os.environ.pop(name) for name in _RESERVED if name in os.environ}
    if anew:
        os.environ |= told
    try:
        yield
    finally:
        if told:
            wandb.setup().settings.sweep_id = wandb.setup().settings.run_id = None
            for name in _RESERVED:
                os.environ.pop(name, None)
            os.environ |= {} if anew else told


def run_name(recipe: str, overrides: Sequence[str], seed: int) -> str:
    """Return recipe, what was typed that matters, and seed; files by their names, checkpoints by that of their run."""
    told = []
    for text in overrides:
        key, _, value = text.lstrip("+~").partition("=")
        if not any(key == one or key.startswith(f"{one}.") for one in _UNTOLD):
            path = Path(value)
            name = path.parent.parent.name if path.suffix == ".ckpt" else path.name if path.is_absolute() else value
            told.append(f"{key}={name}")
    end = f" seed={seed}"
    return " ".join([recipe, *told])[: 128 - len(end)] + end  # which is the most that is taken


def _tags(config: Mapping[str, Any]) -> list[str]:
    """Return paper, data set and recipe; Weights & Biases takes 64 letters of each."""
    wing = str((config.get("task") or {}).get("_target_")).split(".")[1:2]
    dataset = config.get("dataset") or {}
    source = dataset.get("source")
    name = (
        (source.get("name") if isinstance(source, dict) else None)
        or _choices("dataset").get("dataset")
        or str(dataset.get("_target_")).rpartition(".")[2]
    )
    return [tag[:64] for tag in [*(_PAPERS.get(one, one) for one in wing), name, config["name"]] if tag]


def _choices(*groups: str) -> dict[str, str | None]:
    """Return which files of these groups Hydra has taken."""
    from hydra.core.hydra_config import HydraConfig

    chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    return {group: chosen.get(group) for group in groups}


def _safe(name: str) -> str:
    """Return a name with what artifacts may be called by."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)[:120]
