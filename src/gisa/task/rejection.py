"""Rejection sampling in rounds: ask the policy often, keep its exact episodes, train again, test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.gisa.agent.local import trained_folder
from src.gisa.task.imitation_eval import result_of, rollouts_on, show_report, write_report
from src.launch.chain import Child, child_of, run_children
from src.launch.errors import InputError
from src.launch.record import Record
from src.launch.values import Count, Node, Positive


@dataclass(frozen=True, kw_only=True)
class RejectionSettings:
    """What the task is told.

    Attributes:
        checkpoint: Of a run of ``+experiment=gisa_imitation``, which the trainings repeat with more to learn from.
        rounds: How many.
        samples: Episodes a question and round.
        temperature: Of these episodes, above 0; the tests take the likeliest tokens.
        questions: How many training questions are asked, spread evenly over all; None for all.
        keep: Most exact episodes of a question that are learnt from, the shortest first.
        train: What else is different in the trainings; as all that follow, see ``child_of``.
        rollout: All rollouts, whatever a policy or a test says.
        sample: Rollouts on training questions, which are those of the checkpoint's run.
        tests: Rollouts on each test, by its name.
        resamples: Of the bootstrap.
    """

    checkpoint: str | None
    rounds: Count
    samples: Count
    temperature: Positive
    questions: Count | None
    keep: Count
    train: Node
    rollout: Node
    sample: Node
    tests: Node
    resamples: Count


class RejectionTask:
    """Carry out rounds of rejection sampling, each with a rollout on training questions, a training and the tests.

    A round lets the latest policy answer training questions several times and trains anew, from the model that the
    first policy began with, on that policy's traces and on all exact episodes so far. So the rounds differ in the
    episodes alone, and errors of one round's weights are not carried into the next; source: STaR (arXiv 2203.14465).

    The runs are in ``round<n>_sample`` and ``round<n>_train``, and the tests in ``<test>_round<n>``, those of the
    given checkpoint in ``<test>_round0``. The comparison is written to ``report.md`` and ``report.json``.

    Args:
        settings: Those of ``RejectionSettings``.

    Raises:
        InputError: a number is out of range.
    """

    needs: tuple[str, ...] = ()
    settings: RejectionSettings

    def __init__(self, **settings: Any) -> None:
        self.settings = told = RejectionSettings(**settings)
        for name in ("rounds", "samples", "keep", "questions"):
            if (value := getattr(told, name)) is not None and value < 1:
                raise InputError(f"task.{name}={value}: I need a whole number of at least 1.")
        if not told.temperature > 0:
            raise InputError(
                f"task.temperature={told.temperature}: I need a number above 0, or all episodes are the same."
            )
        names = [f"round{number}" for number in range(told.rounds + 1)]
        self.pairs = list(dict.fromkeys([*zip(names, names[1:], strict=False), (names[0], names[-1])]))

    def run(self, config: dict[str, Any], folder: Path, record: Record, sweep: str | None) -> None:
        """Carry out what is not done yet, compare, record.

        Raises:
            InputError: the checkpoint is none of imitation, no episode of a round is exact, a config of the runs is at
                fault, or what they raise.
        """
        checkpoint = self.settings.checkpoint
        trained_folder(checkpoint)
        trained = result_of(Path(str(checkpoint)).parent.parent)
        if trained["config"]["task"]["_target_"] != "src.gisa.task.learning.ImitationTask":
            raise InputError(
                f"checkpoint={checkpoint} was trained by {trained['name']}, and I train as the run of the checkpoint "
                "did, with more to learn from; so it has to be one of imitation.\n"
                "Type:  checkpoint=outputs/gisa_imitation/<run>/checkpoints/best.ckpt"
            )
        record.trace_origins({"checkpoint_from": checkpoint})
        run_children(self._children(folder, trained), config, folder, record, sweep)
        settings = (0, self.settings.resamples)
        title = "Rounds of rejection sampling"
        metrics, outcomes = write_report(title, self.settings.tests, self.pairs, folder, *settings)
        record.lap("report")
        record.finish(metrics=metrics, rollouts=outcomes)

    def show(self, record: Record) -> None:
        """Print the comparison."""
        show_report(record)

    def _children(self, folder: Path, trained: dict[str, Any]) -> dict[str, Child]:
        """Return the runs, in their order, after the run that has trained the checkpoint."""
        told, policy = self.settings, _policy(str(self.settings.checkpoint))
        task = {"samples": told.samples, "max_questions": told.questions, "allow_contaminated": True}
        asked = {"task": task, "agent": {"policy": {"temperature": told.temperature}}}
        same_questions = [text for text in trained["overrides"] if text.startswith(("dataset=", "dataset."))]
        episodes = [*trained["config"]["task"].get("episodes_from", [])]
        children = rollouts_on("round0", policy, told.tests, told.rollout)
        for number in range(1, told.rounds + 1):
            sample, train = f"round{number}_sample", f"round{number}_train"
            children[sample] = child_of(policy, asked, told.sample, told.rollout, recipe=same_questions)
            episodes = [*episodes, str(folder / sample)]
            more = {"task": {"episodes_from": episodes, "keep": told.keep}, "name": f"gisa_{train}"}
            children[train] = child_of(told.train, more, recipe=trained["overrides"])
            policy = _policy(str(folder / train / "checkpoints" / "best.ckpt"))
            children |= rollouts_on(f"round{number}", policy, told.tests, told.rollout)
        return children


def _policy(checkpoint: str) -> Node:
    return {"choices": {"agent/policy": "imitation"}, "checkpoint": checkpoint}
