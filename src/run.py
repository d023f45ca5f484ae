"""The only way in: ``python -m src.run +experiment=ilrec_stage1`` composes, checks, runs the task, records."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from src.launch.config import CONF, as_typed, build, help_text, prepare_arguments, resolve
from src.launch.errors import InputError, JobError, PrunedError, resume_command
from src.launch.job import end_at_once, keep_memory, run_job
from src.launch.outcomes import exit_status, outcomes, watch_launchers
from src.launch.overrides import errors_of_hydra, quoted
from src.launch.process import first_process
from src.launch.record import Record
from src.launch.search import is_search, optimized_metric, register
from src.launch.values import did_you_mean

log = logging.getLogger("run")


def main() -> int:
    """Run the job or jobs of the command line and return the exit status: 1 for a defect, 2 for a fault to mend."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text(CONF))
        return 0
    keep_memory()
    end_at_once()
    register()
    watch_launchers()

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def job(cfg: DictConfig) -> float | None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return _job(cfg)  # whose failure the launcher carries here from whatever process it ran in
        try:
            value = _job(cfg)
        except JobError as failure:
            outcomes.append(failure)
            return None
        outcomes.append(None)
        return value

    try:
        sys.argv[1:] = prepare_arguments(sys.argv[1:], CONF)
        with errors_of_hydra():
            job()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # as shells count a Ctrl-C
    return exit_status()


def _job(cfg: DictConfig) -> float | None:
    """Run one job of Hydra's and return its ``optimized_metric``; None where it has none, or is ended early.

    Raises:
        JobError: it has failed, and said so.
    """
    hydra_job = HydraConfig.get()
    sweeping = hydra_job.mode == RunMode.MULTIRUN
    folder = Path(cfg.get("resume") or hydra_job.runtime.output_dir)
    try:
        config = resolve(cfg)
        in_this_process = hydra_job.launcher._target_.endswith(".BasicLauncher")
        record = run_job(
            config,
            folder,
            as_typed(list(hydra_job.overrides.task)),
            resume=bool(cfg.get("resume")) or (sweeping and Record.began(folder, config)),
            sweep=Path(hydra_job.sweep.dir).name if sweeping else None,
            multirun=sweeping and in_this_process,
        )
        task = build(record.content["config"]["task"])
        if first_process():  # the others' folders are empty
            task.show(record)
            for command in () if sweeping else getattr(task, "next_commands", lambda _: ())(record):
                print(f"Next:  python -m {command}")
        return _optimized(record, required=sweeping and is_search(hydra_job))
    except KeyboardInterrupt:
        typed_again = f"type the command again with  hydra.sweep.dir={quoted(hydra_job.sweep.dir)}"
        print(f"\ninterrupted; go on:  {typed_again if sweeping else resume_command(folder)}", file=sys.stderr)
        raise
    except PrunedError as reason:
        log.info("%s", reason)
        return None
    except InputError as error:
        log.error("%s", error)
        raise JobError(2) from error
    except Exception as error:
        log.exception("The run failed.")
        raise JobError(1) from error


def _optimized(record: Record, *, required: bool) -> float | None:
    """Return the metric by which a search tells good settings from bad ones."""
    name, metrics = optimized_metric(record.content["config"]), record.content["metrics"]
    if required and name not in metrics:
        on_validation = [other for other in metrics if other.startswith("val/")]  # to choose by the test is cheating
        hint = did_you_mean(str(name), on_validation) if on_validation else ", and nothing of the validation is"
        raise InputError(f"optimized_metric={name}: nothing of that name is measured{hint}")
    return float(metrics[name]) if name in metrics else None


if __name__ == "__main__":
    sys.exit(main())
