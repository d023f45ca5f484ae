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
from src.launch.errors import InputError
from src.launch.job import keep_memory, run_job
from src.launch.overrides import errors_of_hydra
from src.launch.record import Record

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
        statuses.append(_job(cfg))

    try:
        sys.argv[1:] = prepare_arguments(sys.argv[1:], CONF)
        with errors_of_hydra():
            job()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return statuses[0] if len(statuses) == 1 else int(any(statuses))


def _job(cfg: DictConfig) -> int:
    """Run one job of Hydra's and return its exit status."""
    try:
        hydra_job = HydraConfig.get()
        sweeping = hydra_job.mode == RunMode.MULTIRUN
        folder, config = Path(cfg.get("resume") or hydra_job.runtime.output_dir), resolve(cfg)
        in_this_process = hydra_job.launcher._target_.endswith(".BasicLauncher")
        record = run_job(
            config,
            folder,
            as_typed(list(hydra_job.overrides.task)),
            resume=bool(cfg.get("resume")) or (sweeping and Record.began(folder, config)),
            sweep=Path(hydra_job.sweep.dir).name if sweeping else None,
            multirun=sweeping and in_this_process,
        )
        build(record.content["config"]["task"]).show(record)
        return 0
    except InputError as error:
        log.error("%s", error)
        return 2
    except Exception:
        log.exception("The run failed.")
        return 1


if __name__ == "__main__":
    sys.exit(main())
