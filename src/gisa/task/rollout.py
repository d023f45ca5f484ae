"""Let an agent answer the questions of a suite, and score the answers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from src.gisa.dataset.gisa import Gisa, load_suite
from src.gisa.evaluator.answers import read_predictions
from src.gisa.task.score import ScoreTask
from src.launch.config import build
from src.launch.errors import InputError, resume_command
from src.launch.record import Record
from src.launch.values import Count, Whole
from src.training.fit import split_loggers, trainer_of, use_processor

# What makes a run quicker, safer or cheaper, and changes no answer; it may differ between resumes.
_NO_MATTER = ("web", "cache", "concurrency", "question_usd", "run_usd", "prices")


class RolloutTask(ScoreTask):
    """Write one record an episode into ``episodes/``, then what ``ScoreTask`` writes, ``page.html`` with trajectories.

    Args:
        samples: How many independent attempts at each question; the first is scored.
        max_questions: Ask only so many questions, spread evenly over the suite, for trials; None for all.
        allow_contaminated: Whether the policy may have learnt from these questions. Its score on them says nothing
            then; its exact episodes may be learnt from.
        max_infra_errors: How many episodes without an answer for reasons of infrastructure may be scored, as wrong;
            with more, the run ends unscored, and its resume tries them again.
    """

    needs: tuple[str, ...] = ("dataset", "agent", "stage", "trainer", "evaluator")

    def __init__(
        self, *, samples: Count, max_questions: Count | None, max_infra_errors: Whole, allow_contaminated: bool = False
    ) -> None:
        super().__init__(sample=0)
        if samples < 1:
            raise InputError(f"task.samples={samples}: I need a whole number of at least 1.")
        self.samples = samples
        self.max_questions = max_questions
        self.allow_contaminated = allow_contaminated
        self.max_infra_errors = max_infra_errors

    def run(self, config: dict[str, Any], folder: Path, record: Record, sweep: str | None) -> None:
        """Roll out, score, record.

        Raises:
            InputError: the data set is no suite of questions, the model has learnt from one of them, a ceiling is
                reached, or too many episodes failed.
        """
        import lightning  # seconds of imports that --help must not wait for
        from torch.utils.data import DataLoader

        from src.gisa.agent.trajectory import Attempt, RunStore, infra_failures
        from src.gisa.report.live import Progress, show_questions
        from src.training.dashboard import dashboards
        from src.training.tracking import open_logs

        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        lightning.seed_everything(config["seed"], verbose=False)
        use_processor(config)
        suite, remarks = self._suite(config)
        attempts = [Attempt.at(question, sample) for sample in range(self.samples) for question in suite.questions]
        agent = {key: value for key, value in config["agent"].items() if key not in _NO_MATTER}
        settings = {"questions": suite.fingerprint, "agent": agent, "seed": config["seed"]}
        rollout = self._rollout(config, suite)
        if config.get("checkpoint"):
            record.trace_origins({"checkpoint_from": config["checkpoint"]})
        stage = build(config["stage"])(rollout=rollout, attempts=attempts, folder=folder, settings=settings)
        store = RunStore(folder, settings)
        context = {"config": config, "group": sweep or config["name"], "sweep": sweep, "record": record}
        with open_logs(folder, build(split_loggers(config)[0]), done_steps=0, **context) as logs:
            shown = list(dashboards(logs))
            if shown:
                done = (one for one in store.records() if one["outcome"] != "infra_error")  # these are tried again
                stage.watch = Progress(shown, suite, len(attempts), done, self.sample)
            trainer = trainer_of(config, folder, default_root_dir=folder, logger=logs)
            record.lap("prepare")
            indices = DataLoader(range(len(attempts)), batch_size=len(attempts))  # type: ignore[arg-type, var-annotated]
            trainer.predict(stage, dataloaders=indices, return_predictions=False)
            record.lap("rollout")
            if not trainer.is_global_zero:
                return
            outcomes, counts = _tally(store.records())
            if outcomes["infra_error"] > self.max_infra_errors:
                raise InputError(
                    f"{infra_failures(store.records())}\n"
                    f"Try them again, and only them:  {resume_command(folder)}\n"
                    "or score them as wrong:  task.max_infra_errors=<number>"
                )
            predictions = read_predictions(folder, self.sample)
            results = self.score(config, suite, predictions, [*remarks, *predictions.remarks], folder, record)
            results["metrics"] |= {f"test/{name}_per_question": count / len(attempts) for name, count in counts.items()}
            for log in logs:
                log.log_metrics(results["metrics"])
            record.update(protocol=results["protocol"])
            for dashboard in shown:
                show_questions(dashboard, folder, record.content, suite)
            record.lap("score")
        results["protocol"] |= {"budget": config["agent"]["budget"]["semantics"]}
        results["protocol"] |= {"questions": "learnt from, perhaps"} if self.allow_contaminated else {}
        record.finish(**results, outcomes=dict(outcomes))

    def _suite(self, config: dict[str, Any]) -> tuple[Gisa, list[str]]:
        """Return the questions to ask, and what is odd about the files of the whole suite."""
        suite = load_suite(
            config["dataset"],
            "the agent needs a suite of questions:\n  dataset=factbook, or dataset=gisa dataset.root=<folder>",
        )
        remarks = suite.remarks()
        suite.keep_spread(self.max_questions)
        return suite, remarks

    def _rollout(self, config: dict[str, Any], suite: Gisa) -> Any:
        """Build the agent, unless its policy has learnt from the questions and that is not allowed."""
        from src.gisa.dataset.contamination import refuse_contaminated

        rollout = build(config["agent"])
        if rollout.manifest is not None and not self.allow_contaminated:
            refuse_contaminated(suite, rollout.manifest)
        return rollout


def _tally(records: Iterable[Mapping[str, Any]]) -> tuple[Counter[str], Counter[str]]:
    """Count outcomes, and sum calls, tokens and costs over all episodes."""
    outcomes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for record in records:
        outcomes[record["outcome"]] += 1
        counts.update(record["counts"])
        for part, spent in record["spent"].items():
            counts.update({f"{part}_{key}": value for key, value in spent.items() if value is not None})
    return outcomes, counts
