"""The only way in: ``python -m src.run +experiment=ilrec_stage1`` composes, checks, runs the task, records."""

from __future__ import annotations

import errno
import logging
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from src.launch.build import build
from src.launch.command_line import as_typed, help_text, prepare_arguments
from src.launch.errors import InputError
from src.launch.memory import free_memory, keep_memory
from src.launch.record import Record
from src.launch.schema import check, resolve

CONF = Path(__file__).resolve().parents[1] / "conf"
log = logging.getLogger("run")


def main() -> int:
    """Run the job or jobs of the command line and return the exit status: 1 for a defect, 2 for a fault to mend."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text(CONF))
        return 0
    keep_memory()
    statuses: list[int] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def job(cfg: DictConfig) -> None:
        statuses.append(run_job(cfg))

    try:
        sys.argv[1:] = prepare_arguments(sys.argv[1:], CONF)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    job()
    return statuses[0] if len(statuses) == 1 else int(any(statuses))


def run_job(cfg: DictConfig) -> int:
    """Run one job, record how it ended, and return its exit status."""
    record = None
    try:
        job = HydraConfig.get()
        sweeping = job.mode == RunMode.MULTIRUN
        folder = Path(cfg.get("resume") or job.runtime.output_dir)
        if cfg.get("resume") or (sweeping and Record.began(folder, resolve(cfg))):
            record = Record.resume(folder)
        else:
            record = Record.start(folder, resolve(cfg), as_typed(list(job.overrides.task)))
        config = record.content["config"]
        if record.content["status"] == "finished":
            print(f"{folder} is finished; there is nothing to resume.")
        else:
            in_this_process = job.launcher._target_.endswith(".BasicLauncher")
            check(config, multirun=sweeping and in_this_process)
            sweep = Path(job.sweep.dir).name if sweeping else None
            build(config["task"]).run(config, folder, record, sweep)
        build(config["task"]).show(record)
        return 0
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            go_on = f"go on:  python -m src.run resume={folder}" if record else "type the same command again."
            error = InputError(f"Cannot write into {folder}: {error.strerror}.\nFree some room there, then {go_on}")
        if record:
            record.fail(error)
        if isinstance(error, InputError):
            log.error("%s", error)
            return 2
        if not isinstance(error, Exception):
            raise
        log.exception("The run failed.")
        return 1
    finally:
        free_memory()  # the next job of a sweep needs it


if __name__ == "__main__":
    sys.exit(main())
