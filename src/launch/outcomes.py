"""How the jobs of a command have ended: one that fails stops no other, and the exit status tells, whoever launches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from src.launch.errors import JobError

outcomes: list[JobError | None] = []  # of this command's jobs; None for one that went well


class PatientLauncher(Launcher):
    """A launcher that hands on failures as values; Hydra's sweepers would end at the first that raises."""

    def __init__(self, launcher: Launcher) -> None:
        """Take the launcher of the config, which is set up."""
        self.launcher = launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Do nothing: it is set up."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; the value of one that has failed is its ``JobError``."""
        results = self.launcher.launch(job_overrides, initial_job_idx)
        for result in results:
            failure = result._return_value if result.status == JobStatus.FAILED else None
            if isinstance(failure, JobError):
                result.status = JobStatus.COMPLETED
            outcomes.append(failure if isinstance(failure, JobError) else None)
        return results


def exit_status() -> int:
    """Return that of the only job, or 1 where one of several has failed."""
    statuses = [failure.status if failure else 0 for failure in outcomes]
    return statuses[0] if len(statuses) == 1 else int(any(statuses))


def watch_launchers() -> None:
    """Let every launcher of Hydra's be a patient one from here on, and forget the jobs of before."""
    outcomes.clear()
    make = Plugins.instantiate_launcher
    if make.__module__ != __name__:

        def patient(plugins: Plugins, *args: Any, **kwargs: Any) -> Launcher:
            return PatientLauncher(make(plugins, *args, **kwargs))

        Plugins.instantiate_launcher = patient  # type: ignore[method-assign, assignment]
