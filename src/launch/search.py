"""A search for the best settings: Hydra's sweeper on Optuna, a trial a job; stopped anywhere, it goes on from its file.

The plugin for Optuna that Hydra's authors publish needs an Optuna of before 3, prunes nothing, and draws the first
trials again when it is started once more. So this one speaks to Optuna itself.
"""

from __future__ import annotations

import json
import shlex
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import yaml
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from src.launch.config import as_typed, build
from src.launch.errors import InputError, JobError, PrunedError, install_command
from src.launch.nodes import faults_of_nodes
from src.launch.storage import write_atomic
from src.launch.values import Count, Node, Seed

if TYPE_CHECKING:
    import optuna
    from hydra.core.override_parser.types import Override
    from hydra.core.utils import JobReturn
    from hydra.plugins.launcher import Launcher
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

_STUDY = "search"


class OptunaSweeper(Sweeper):
    """Draw the settings of each trial from those of the trials before, until there are enough.

    What a trial draws follows from the seed, its number and the trials before it, so a search that is killed and typed
    once more ends as if it had not been: a trial that was running goes on from its last checkpoint.
    """

    def __init__(
        self,
        *,
        params: dict[str, Any] | None,
        n_trials: Count,
        n_jobs: Count,
        direction: Literal["maximize", "minimize"],
        storage: str,
        sampler: Node,
        pruner: Node,
        seed: Seed,
    ) -> None:
        """Store the settings.

        Args:
            params: Settings and what they may be, as they could be typed: ``tag(log, interval(1e-4, 1e-2))``.
            n_trials: Trials in all, with those of before where a search goes on.
            n_jobs: Trials at once, for launchers that run jobs side by side.
            direction: Whether ``optimized_metric`` is the better the higher it is.
            storage: Database of the study, as SQLAlchemy names it.
            sampler: Node of what draws, given its ``seed``.
            pruner: Node of what ends trials early, by their validations.
            seed: Of what is drawn.
        """
        self.params, self.n_trials, self.n_jobs = params or {}, n_trials, n_jobs
        self.direction, self.storage, self.seed = direction, storage, seed
        self.sampler, self.pruner = sampler, pruner

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the settings and take up the launcher.

        Raises:
            InputError: some are out of range, or Optuna is not installed.
        """
        from omegaconf import OmegaConf

        try:
            import optuna  # noqa: F401
        except ModuleNotFoundError as error:
            told = f"A search needs Optuna, which is not installed.\nType:  {install_command('search')}"
            raise InputError(told) from error
        node = cast(Node, OmegaConf.to_container(config.hydra.sweeper, resolve=True))
        if faults := list(faults_of_nodes(node, "hydra.sweeper")):
            raise InputError("\n".join([f"The search has {len(faults)} fault(s):", *(f"- {one}" for one in faults)]))
        self.sampler, self.pruner = node["sampler"], node["pruner"]
        with _told_as("pruner"):
            build(self.pruner)
        self.hydra_context, self.metric = hydra_context, str(optimized_metric(config))
        self.config = config  # which the check of the jobs' overrides asks for
        self.folder = Path(config.hydra.sweep.dir)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run what is left of the trials, print the best and draw the study.

        Raises:
            InputError: nothing is searched, or the study in the folder is another one.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        fixed, space = self._read(arguments)
        self.folder.mkdir(parents=True, exist_ok=True)
        with _told_as("storage"):
            study = optuna.create_study(
                study_name=_STUDY, storage=self.storage, direction=self.direction, load_if_exists=True
            )
        self._require_same_search(study, fixed, space)
        failures = []
        while numbers := self._next_trials(study, space):
            trials = [study.trials[number] for number in numbers]
            jobs = [[*fixed, *_drawn(trial)] for trial in trials]
            self.validate_batch_is_legal(jobs)
            for number, job in zip(numbers, self.launcher.launch(jobs, initial_job_idx=numbers[0]), strict=True):
                failures += _tell(study, number, job)
            if len(failures) == len(study.trials) and failures[0].status == 2:  # the command is at fault, not a trial
                optuna.delete_study(study_name=_STUDY, storage=self.storage)
                return
        show(study, self.metric, fixed, self.folder)

    def _read(self, arguments: Sequence[str]) -> tuple[list[str], dict[str, optuna.distributions.BaseDistribution]]:
        """Split what is typed, and the sweep's own settings before it, into what is fixed and what is searched."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        texts = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        last = {one.get_key_element(): one for one in OverridesParser.create().parse_overrides(texts)}
        fixed = [one.input_line for one in last.values() if not one.is_sweep_override()]
        space = {key: _distribution(one) for key, one in last.items() if one.is_sweep_override()}
        if not space:
            raise InputError("Nothing is searched.\nType, for example:  'stage.strength=tag(log,interval(0.01,1))'")
        return [str(text) for text in fixed], space

    def _require_same_search(self, study: optuna.Study, fixed: list[str], space: dict[str, Any]) -> None:
        command = as_typed([*fixed, *(f"{key} in {one}" for key, one in space.items())])
        before = study.user_attrs.get("command", command)
        if before != command:
            differing = [text for text in [*before, *command] if (text in before) != (text in command)]
            raise InputError(
                f"hydra.sweep.dir={self.folder} holds another search; they differ in: "
                f"{'; '.join(differing)}\nType the same command to go on with it, or leave out hydra.sweep.dir."
            )
        study.set_user_attr("command", command)

    def _next_trials(self, study: optuna.Study, space: dict[str, Any]) -> list[int]:
        """Return the numbers of the trials to run next, one after the other: those cut short before, or new ones."""
        from optuna.trial import TrialState

        running = study.get_trials(states=(TrialState.RUNNING,))
        for trial in running:
            if trial.params.keys() != space.keys():  # killed while it was drawn
                study.tell(trial.number, state=TrialState.FAIL)
        cut_short = [trial.number for trial in running if trial.params.keys() == space.keys()]
        if cut_short:
            side_by_side = [number for at, number in enumerate(cut_short) if number == cut_short[0] + at]
            return side_by_side[: self.n_jobs]
        numbers: list[int] = []
        while len(study.trials) < self.n_trials and len(numbers) < self.n_jobs:
            with _told_as("sampler"):
                study.sampler = build(self.sampler)(seed=_seed_of(self.seed, len(study.trials)))
                numbers.append(study.ask(fixed_distributions=space).number)
        return numbers


@contextmanager
def _told_as(setting: str) -> Iterator[None]:
    """Tell of what other people's code, which is given anything, refuses in a setting of the search."""
    try:
        yield
    except Exception as error:
        raise InputError(f"hydra.sweeper.{setting}: {error}\nMend its settings, or leave them out.") from error


def optimized_metric(config: Mapping[str, Any]) -> str | None:
    """Return the metric that a job returns: the one that is asked for, or else the one that decides in training."""
    return config.get("optimized_metric") or (config.get("checkpointing") or {}).get("monitor")


def register() -> None:
    """Let Hydra take this sweeper, although it lies in no package ``hydra_plugins``: that would be one beside src/."""
    accepts = Plugins.is_in_toplevel_plugins_module
    ours = f"{OptunaSweeper.__module__}.{OptunaSweeper.__name__}"
    if not accepts(ours):
        Plugins.is_in_toplevel_plugins_module = staticmethod(lambda name: name == ours or accepts(name))  # type: ignore[method-assign, assignment]
        Plugins.instance().register(OptunaSweeper)


@dataclass(frozen=True)
class RunningTrial:
    """The trial that a job is, as the job itself sees it.

    Attributes:
        storage: Of the study.
        number: Of the trial.
        pruner: As in the config.
    """

    storage: str
    number: int
    pruner: Any

    def report(self, value: float, epoch: int) -> None:
        """Tell how good the trial is so far.

        Raises:
            PrunedError: as good as others were at that time, it is not.
        """
        import optuna

        study = optuna.load_study(study_name=_STUDY, storage=self.storage, pruner=self.pruner)
        trial = optuna.Trial(study, study.trials[self.number]._trial_id)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*already reported")  # by the run that this one goes on with
            trial.report(value, epoch)
        if trial.should_prune():
            raise PrunedError(f"Trial {self.number} is behind the others after epoch {epoch + 1}, at {value:.4g}.")


def running_trial(folder: Path) -> RunningTrial | None:
    """Return the trial whose run folder this is; None for any other run."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    hydra = HydraConfig.instance().cfg and HydraConfig.get()
    if not hydra or hydra.mode != RunMode.MULTIRUN or not is_search(hydra) or Path(hydra.runtime.output_dir) != folder:
        return None
    pruner = cast(dict[str, Any], OmegaConf.to_container(hydra.sweeper.pruner))
    return RunningTrial(str(hydra.sweeper.storage), int(hydra.job.num), build(pruner))


def is_search(hydra: Any) -> bool:
    """Whether Hydra's part of a config says that its jobs are trials."""
    return str(hydra.sweeper._target_).endswith(f".{OptunaSweeper.__name__}")


def _distribution(override: Override) -> optuna.distributions.BaseDistribution:
    """Turn Hydra's ``choice``, ``range`` and ``interval`` into Optuna's; a list ``a,b,c`` is a choice."""
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    try:
        if isinstance(value, IntervalSweep | RangeSweep):
            low, high = (value.start, value.end) if isinstance(value, IntervalSweep) else (value.start, value.stop)
            is_whole = isinstance(low, int) and isinstance(high, int)
            step = {} if isinstance(value, IntervalSweep) else {"step": value.step}
            kind: Any = IntDistribution if is_whole else FloatDistribution
            return kind(low, high, log="log" in value.tags, **step)  # type: ignore[no-any-return]
        texts = override.sweep_string_iterator()  # of what is no number, in Hydra's own grammar
        pairs = zip_longest(getattr(value, "list", []), texts, fillvalue="")
        return CategoricalDistribution([one if isinstance(one, int | float | None) else text for one, text in pairs])
    except (TypeError, ValueError) as error:
        raise InputError(f"{override.input_line}: this cannot be searched: {error}") from error


def _seed_of(seed: int, trial: int) -> int:
    import numpy as np

    return int(np.random.SeedSequence([seed, trial]).generate_state(1)[0])


def _drawn(trial: optuna.trial.FrozenTrial) -> list[str]:
    """Return the settings of a trial as they are typed: what is drawn from an interval to four digits."""
    from optuna.distributions import FloatDistribution

    def typed(key: str, value: Any) -> str:
        if isinstance(trial.distributions[key], FloatDistribution):
            return f"{value:.4g}"
        return value if isinstance(value, str) else json.dumps(value)

    return [f"{key}={typed(key, value)}" for key, value in trial.params.items()]


def _tell(study: optuna.Study, number: int, job: JobReturn) -> list[JobError]:
    """Note how a trial has ended; return its failure, if it is one."""
    from optuna.trial import TrialState

    value = job.return_value
    if isinstance(value, JobError):
        study.tell(number, state=TrialState.FAIL)
        return [value]
    if value is None:
        study.tell(number, state=TrialState.PRUNED)
    else:
        study.tell(number, value)
    return []


def show(study: optuna.Study, metric: str, fixed: Sequence[str], folder: Path) -> None:
    """Print the best trial and the command that runs it again; write ``best.yaml`` and, as a plot, ``study.png``."""
    states = Counter(trial.state.name.lower() for trial in study.trials)
    print(f"\n{len(study.trials)} trials: {', '.join(f'{count} {state}' for state, count in states.items())}")
    if not states["complete"]:
        return
    best = study.best_trial
    settings = as_typed(_drawn(best))
    print(f"Best: trial {best.number}, {metric} = {best.value:.4f}: {' '.join(settings)}")
    command = shlex.join([*as_typed(list(fixed)), *settings, "seed=1,2,3"])
    print(f"With other seeds:  python -m src.run -m {command}\nThe study: {folder / 'study.png'}")
    content = {"metric": metric, "value": best.value, "trial": best.number, "overrides": settings}
    write_atomic(folder / "best.yaml", yaml.safe_dump(content, sort_keys=False))
    draw(study, metric, folder / "study.png")


def draw(study: optuna.Study, metric: str, path: Path) -> None:
    """Draw the trials in their order and over each setting; those ended early at their last validation."""
    from matplotlib.figure import Figure
    from optuna.trial import TrialState

    figure = Figure(figsize=(4 * (1 + len(study.best_params)), 3.2), layout="constrained")
    axes = figure.subplots(1, 1 + len(study.best_params), sharey=True, squeeze=False)[0]
    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    seen = [trial for trial in ended if trial.value is not None or trial.intermediate_values]
    for state, marker, label in ((TrialState.COMPLETE, "o", "whole"), (TrialState.PRUNED, "x", "ended early")):
        trials = [trial for trial in seen if trial.state == state]
        values = [
            trial.value if trial.value is not None else trial.intermediate_values[max(trial.intermediate_values)]
            for trial in trials
        ]
        positions = [[trial.number for trial in trials]]
        positions += [[trial.params[key] for trial in trials] for key in study.best_params]
        for axis, position in zip(axes, positions, strict=True):
            if trials:
                axis.scatter(position, values, marker=marker, label=label)
    best = study.best_trial
    for axis, position in zip(axes, [best.number, *best.params.values()], strict=True):
        axis.scatter([position], [best.value], marker="o", s=120, facecolors="none", edgecolors="black", label="best")
    for axis, key in zip(axes, ["trial", *study.best_params], strict=True):
        axis.set_xlabel(key.lstrip("+"))
        if getattr(best.distributions.get(key), "log", False):
            axis.set_xscale("log")
    axes[0].set_ylabel(metric)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    axes[0].xaxis.get_major_locator().set_params(integer=True)
    write_atomic(path, lambda stream: figure.savefig(stream, format="png", dpi=120))
