"""Rejection sampling in rounds: ask the policy often, keep its exact episodes, train again, test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from src.gisa.agent.local import trained_folder
from src.gisa.task.imitation_eval import ImitationEvalTask, result_of
from src.launch.errors import InputError
from src.launch.record import Record


class RejectionTask(ImitationEvalTask):
    """Carry out rounds of rejection sampling, each with a rollout on training questions, a training and the tests.

    A round lets the latest policy answer training questions several times and trains anew, from the model that the
    first policy began with, on that policy's traces and on all exact episodes so far. So the rounds differ in the
    episodes alone, and errors of one round's weights are not carried into the next; source: STaR (arXiv 2203.14465).

    The runs are in ``round<n>_sample`` and ``round<n>_train``, and the tests in ``<test>_round<n>``, those of the
    given checkpoint in ``<test>_round0``. See ``ImitationEvalTask`` for what they are and for the report.

    Args:
        checkpoint: Of a run of ``+experiment=gisa_imitation``, whose overrides are those of the trainings.
        rounds: How many.
        samples: Episodes a question and round.
        temperature: Of these episodes, above 0; the tests take the likeliest tokens.
        questions: How many training questions are asked, spread evenly over all; None for all.
        keep: Most exact episodes of a question that are learnt from, the shortest first.
        every: Overrides of all runs.
        rollout: Overrides of all rollouts.
        sample: Further overrides of the rollouts on training questions, which are those of the checkpoint's run.
        tests: Overrides of the rollouts on each test, by its name.
        more_train: Further overrides of the trainings, to be typed.
        more_rollout: Further overrides of all rollouts, to be typed.
        resamples: Of the bootstrap.
    """

    title = "Rounds of rejection sampling"

    def __init__(
        self,
        *,
        checkpoint: str | None,
        rounds: int,
        samples: int,
        temperature: float,
        questions: int | None,
        keep: int,
        every: list[str],
        rollout: list[str],
        sample: list[str],
        tests: dict[str, Any],
        more_train: list[str],
        more_rollout: list[str],
        resamples: int,
    ) -> None:
        for name, value in {"rounds": rounds, "samples": samples, "keep": keep, "questions": questions}.items():
            if value is not None and value < 1:
                raise InputError(f"task.{name}={value}: I need a whole number of at least 1.")
        if not temperature > 0:
            raise InputError(f"task.temperature={temperature}: I need a number above 0, or all episodes are the same.")
        super().__init__(
            every=every, train=[], rollout=rollout, before=[], after=[], tests=tests, before_tests=[],
            more_train=more_train, more_rollout=more_rollout, resamples=resamples,
        )  # fmt: skip
        self.checkpoint, self.rounds, self.keep, self.more_train = checkpoint, rounds, keep, more_train
        asked = [f"task.samples={samples}", f"task.max_questions={'null' if questions is None else questions}"]
        temperature_set = f"agent.policy.temperature={temperature}"
        self.sample = [*sample, *asked, temperature_set, "task.allow_contaminated=true", *more_rollout]
        names = [f"round{number}" for number in range(rounds + 1)]
        self.pairs = list(dict.fromkeys([*zip(names, names[1:], strict=False), (names[0], names[-1])]))

    def run(self, config: dict[str, Any], folder: Path, record: Record, sweep: str | None) -> None:
        """Carry out what is not done yet, compare, record.

        Raises:
            InputError: the checkpoint is none of imitation, no episode of a round is exact, or see the base class.
        """
        trained_folder(self.checkpoint)
        run = result_of(Path(str(self.checkpoint)).parent.parent)
        if run["config"]["task"]["_target_"] != "src.gisa.task.imitation.ImitationTask":
            raise InputError(
                f"checkpoint={self.checkpoint} was trained by {run['name']}, and I train as the run of the checkpoint "
                "did, with more to learn from; so it has to be one of imitation.\n"
                "Type:  checkpoint=outputs/gisa_imitation/<run>/checkpoints/best.ckpt"
            )
        record.trace_origins({"checkpoint_from": self.checkpoint})
        every = self.training  # it is all that the base class knows of the trainings
        self.training = [*run["overrides"], *every]
        same_questions = [text for text in run["overrides"] if text.startswith(("dataset=", "dataset."))]
        self.sample = [*same_questions, *self.sample]
        self.episodes_before = run["config"]["task"].get("episodes_from", [])
        super().run(config, folder, record, sweep)

    def _plan(self, folder: Path) -> dict[str, list[str]]:
        """Return the overrides of each run, in their order."""
        checkpoint, episodes = str(self.checkpoint), list(self.episodes_before)
        plan = self._tests("round0", _policy(checkpoint), self.tests)
        for number in range(1, self.rounds + 1):
            sampled, trained = f"round{number}_sample", f"round{number}_train"
            plan[sampled] = [*self.rollout, *_policy(checkpoint), *self.sample]
            episodes.append(str(folder / sampled))
            demonstrations = [
                f"task.episodes_from={json.dumps(episodes)}",
                f"task.keep={self.keep}",
                f"name=gisa_{trained}",
            ]
            plan[trained] = [*self.training, *demonstrations]
            checkpoint = str(folder / trained / "checkpoints" / "best.ckpt")
            plan |= self._tests(f"round{number}", _policy(checkpoint), self.tests)
        return plan


def _policy(checkpoint: str) -> list[str]:
    return ["agent/policy=imitation", f"checkpoint={json.dumps(checkpoint)}"]
