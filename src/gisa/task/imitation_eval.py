"""Train the agent's model on traces and let it answer before and after: several runs in one, each in its own folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.launch.config import build, check, resolve
from src.launch.errors import InputError
from src.launch.job import run_job
from src.launch.record import Record
from src.launch.storage import write_atomic


class ImitationEvalTask:
    """Carry out a training run and, on tests, rollouts with another policy and with the trained one; compare them.

    Each is what ``python -m src.run`` does with its overrides, in a folder of the run's: ``train``,
    ``<test>_before``, ``<test>_after``. A resumed run goes on with the one that was cut short. The comparison is
    written to ``report.md`` and ``report.json``.

    Args:
        every: Overrides of all runs.
        train: Overrides of the training.
        rollout: Overrides of all rollouts.
        before: Overrides of the rollouts with the policy to compare with.
        after: Overrides of the rollouts with the trained one; its checkpoint is filled in.
        tests: Overrides of the rollouts on each test, by its name.
        before_tests: Those of the tests that the policy to compare with is asked.
        more_train: Further overrides of the training, to be typed.
        more_rollout: Further overrides of all rollouts, to be typed.
        resamples: Of the bootstrap.

    Raises:
        InputError: a test of ``before_tests`` is none of ``tests``.
    """

    needs: tuple[str, ...] = ()
    title = "Before and after imitation"
    pairs: Sequence[tuple[str, str]] = (("before", "after"),)  # policies to compare, in the order of the report

    def __init__(
        self,
        *,
        every: list[str],
        train: list[str],
        rollout: list[str],
        before: list[str],
        after: list[str],
        tests: dict[str, Any],
        before_tests: list[str],
        more_train: list[str],
        more_rollout: list[str],
        resamples: int,
    ) -> None:
        self.training = [*train, *every, *more_train]
        self.policies = {"before": before, "after": after}
        self.rollout, self.tests, self.more_rollout = [*rollout, *every], tests, more_rollout
        if unknown := [test for test in before_tests if test not in tests]:
            raise InputError(f"task.before_tests: there is no test {unknown[0]}; there are: {', '.join(tests)}.")
        self.before_tests, self.resamples = before_tests, resamples

    def run(self, config: dict[str, Any], folder: Path, record: Record, sweep: str | None) -> None:
        """Carry out what is not done yet, compare, record.

        Raises:
            InputError: a config of the runs is at fault, or what they raise.
        """
        from hydra import compose

        plan = self._plan(folder)
        configs = {name: resolve(compose("config", overrides)) for name, overrides in plan.items()}
        for one in configs.values():
            check(one)  # all of them before the first one begins, which may take an hour
        for name, overrides in plan.items():
            print(f"\n{name}: {' '.join(overrides)}", flush=True)
            there = (folder / name / "result.json").is_file()
            run_job(configs[name], folder / name, overrides, resume=there, sweep=sweep)
            record.lap(name)
        metrics, outcomes = self._report(folder, config["seed"])
        record.lap("report")
        record.finish(metrics=metrics, rollouts=outcomes)

    def show(self, record: Record) -> None:
        """Print the comparison."""
        print(f"\n{(record.path.parent / 'report.md').read_text()}\n{record.path.parent}")

    def _plan(self, folder: Path) -> dict[str, list[str]]:
        """Return the overrides of each run, in their order."""
        checkpoint = json.dumps(str(folder / "train" / "checkpoints" / "best.ckpt"))
        after = [*self.policies["after"], f"checkpoint={checkpoint}"]
        return {
            "train": self.training,
            **self._tests("before", self.policies["before"], self.before_tests),
            **self._tests("after", after, self.tests),
        }

    def _tests(self, name: str, policy: list[str], tests: Iterable[str]) -> dict[str, list[str]]:
        """Return the overrides of a policy's rollouts on tests."""
        return {f"{test}_{name}": [*self.rollout, *policy, *self.tests[test], *self.more_rollout] for test in tests}

    def _report(self, folder: Path, seed: int) -> tuple[dict[str, float], dict[str, Any]]:
        """Write the comparison; return its metrics, and how the episodes of each rollout ended."""
        from src.gisa.report.answered import compare_rollouts, comparison_table, valid_calls

        metrics: dict[str, float] = {}
        outcomes, content, text = {}, {}, []
        carried_out = self._plan(folder)
        for test in self.tests:
            suite = build(result_of(folder / f"{test}_{self.pairs[0][1]}")["config"]["dataset"])
            for before, after in self.pairs:
                first = folder / f"{test}_{before}" if f"{test}_{before}" in carried_out else None
                compared = compare_rollouts(
                    suite, first, folder / f"{test}_{after}", seed=seed, resamples=self.resamples
                )
                heading = test if len(self.pairs) == 1 else f"{test}, {before} to {after}"
                content[heading] = [asdict(one) for one in compared]
                text += [f"## {heading}\n", comparison_table(compared), ""]
                for one in (one for one in compared if not one.part.startswith("family")):
                    key = f"{test}/{one.metric}/{one.part}"
                    metrics |= {f"{key}/{after}": one.after.mean}
                    metrics |= {f"{key}/{before}": one.before.mean} if one.before else {}
            for name in dict.fromkeys(name for pair in self.pairs for name in pair):
                run = folder / f"{test}_{name}"
                if run.name not in carried_out:
                    continue
                records = (json.loads(path.read_bytes()) for path in sorted((run / "episodes").glob("*.json")))
                valid, calls = valid_calls(records)
                outcomes[run.name] = result_of(run)["outcomes"]
                metrics[f"{test}/valid_calls_{name}"] = valid / calls if calls else 0.0
                text.append(f"{name}: {valid} of {calls} tool calls are valid; outcomes {outcomes[run.name]}.\n")
        note = "Percent, by the official scorer, with 95% intervals by bootstrap over questions."
        write_atomic(folder / "report.md", "\n".join([f"# {self.title}\n", f"{note}\n", *text]))
        write_atomic(folder / "report.json", json.dumps(content, indent=1))
        return metrics, outcomes


def result_of(folder: Path) -> dict[str, Any]:
    """Read the ``result.json`` of a run folder."""
    return dict(json.loads((folder / "result.json").read_bytes()))
