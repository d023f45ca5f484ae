"""Train the agent's model on traces and let it answer before and after: several runs in one, each in its own folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.launch.chain import Child, child_of, run_children
from src.launch.config import build
from src.launch.errors import InputError
from src.launch.record import Record
from src.launch.storage import write_atomic
from src.launch.values import Count, Node


class ImitationEvalTask:
    """Train, let another policy and the trained one answer tests, compare them.

    Each is a run of its own, in a folder of the run's: ``train``, ``<test>_before``, ``<test>_after``. A resumed run
    goes on with the one that was cut short. The comparison is written to ``report.md`` and ``report.json``.

    Args:
        train: The training; as all that follow, see ``child_of``.
        rollout: All rollouts, whatever a policy or a test says.
        before: Rollouts with the policy to compare with.
        after: Rollouts with the trained one; its checkpoint is filled in.
        tests: Rollouts on each test, by its name.
        before_tests: Those of the tests that the policy to compare with is asked.
        resamples: Of the bootstrap.

    Raises:
        InputError: a test of ``before_tests`` is none of ``tests``.
    """

    needs: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        train: Node,
        rollout: Node,
        before: Node,
        after: Node,
        tests: Node,
        before_tests: list[str],
        resamples: Count,
    ) -> None:
        if unknown := [test for test in before_tests if test not in tests]:
            raise InputError(f"task.before_tests: there is no test {unknown[0]}; there are: {', '.join(tests)}.")
        self.train, self.rollout, self.before, self.after = train, rollout, before, after
        self.tests, self.before_tests, self.resamples = tests, before_tests, resamples

    def run(self, config: dict[str, Any], folder: Path, record: Record, sweep: str | None) -> None:
        """Carry out what is not done yet, compare, record.

        Raises:
            InputError: a config of the runs is at fault, or what they raise.
        """
        run_children(self._children(folder), config, folder, record, sweep)
        pairs, settings = [("before", "after")], (0, self.resamples)  # the seed of reports
        metrics, outcomes = write_report("Before and after imitation", self.tests, pairs, folder, *settings)
        record.lap("report")
        record.finish(metrics=metrics, rollouts=outcomes)

    def show(self, record: Record) -> None:
        """Print the comparison."""
        show_report(record)

    def _children(self, folder: Path) -> dict[str, Child]:
        """Return the runs, in their order."""
        after = {**self.after, "checkpoint": str(folder / "train" / "checkpoints" / "best.ckpt")}
        before_tests = {test: self.tests[test] for test in self.before_tests}
        return {
            "train": child_of(self.train),
            **rollouts_on("before", self.before, before_tests, self.rollout),
            **rollouts_on("after", after, self.tests, self.rollout),
        }


def rollouts_on(name: str, policy: Node, tests: Node, rollout: Node) -> dict[str, Child]:
    """Return a policy's rollouts on tests, as ``<test>_<name>``."""
    return {f"{test}_{name}": child_of(policy, node, rollout) for test, node in tests.items()}


def write_report(
    title: str, tests: Mapping[str, Any], pairs: Sequence[tuple[str, str]], folder: Path, seed: int, resamples: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Compare pairs of policies on tests by their rollouts, and write ``report.md`` and ``report.json``.

    Each rollout is in ``<test>_<policy>`` of the folder; that of the first of a pair need not be there. Seed and
    resamples are those of the bootstrap.

    Returns:
        Its metrics, and how the episodes of each rollout ended.
    """
    from src.gisa.report.answered import compare_rollouts, comparison_table, valid_calls

    metrics: dict[str, float] = {}
    outcomes, content, text = {}, {}, []
    for test in tests:
        suite = build(result_of(folder / f"{test}_{pairs[0][1]}")["config"]["dataset"])
        for before, after in pairs:
            first = folder / f"{test}_{before}"
            compared = compare_rollouts(
                suite, first if first.exists() else None, folder / f"{test}_{after}", seed=seed, resamples=resamples
            )
            heading = test if len(pairs) == 1 else f"{test}, {before} to {after}"
            content[heading] = [asdict(row) for row in compared]
            text += [f"## {heading}\n", comparison_table(compared), ""]
            for row in (row for row in compared if not row.part.startswith("family")):
                key = f"{test}/{row.metric}/{row.part}"
                metrics |= {f"{key}/{after}": row.after.mean}
                metrics |= {f"{key}/{before}": row.before.mean} if row.before else {}
        for policy in dict.fromkeys(policy for pair in pairs for policy in pair):
            run = folder / f"{test}_{policy}"
            if not run.exists():
                continue
            records = (json.loads(path.read_bytes()) for path in sorted((run / "episodes").glob("*.json")))
            valid, calls = valid_calls(records)
            outcomes[run.name] = result_of(run)["outcomes"]
            metrics[f"{test}/valid_calls_{policy}"] = valid / calls if calls else 0.0
            text.append(f"{policy}: {valid} of {calls} tool calls are valid; outcomes {outcomes[run.name]}.\n")
    note = "Percent, by the official scorer, with 95% intervals by bootstrap over questions."
    write_atomic(folder / "report.md", "\n".join([f"# {title}\n", f"{note}\n", *text]))
    write_atomic(folder / "report.json", json.dumps(content, indent=1))
    return metrics, outcomes


def show_report(record: Record) -> None:
    """Print the comparison that a run has written."""
    print(f"\n{(record.path.parent / 'report.md').read_text()}\n{record.path.parent}")


def result_of(folder: Path) -> dict[str, Any]:
    """Read the ``result.json`` of a run folder."""
    return dict(json.loads((folder / "result.json").read_bytes()))
