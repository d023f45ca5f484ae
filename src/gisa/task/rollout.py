"""Let an agent answer the questions of a suite, and score the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from src.gisa.dataset.gisa import Gisa, load_suite
from src.gisa.evaluator.answers import read_predictions
from src.gisa.task.score import ScoreTask
from src.launch.config import build
from src.launch.errors import InputError, resume_command
from src.launch.progress import Line, loading
from src.launch.record import Record
from src.launch.values import Count, Whole
from src.training.fit import split_loggers, trainer_of, use_processor

# What makes a run quicker, safer or cheaper, and changes no answer; it may differ between resumes.
_NO_MATTER = frozenset(
    {"web", "cache", "concurrency", "question_usd", "run_usd", "prices", "tokenizer", "reply_cache", "timeout_s"}
)

_AGAIN = "Try them again, and only them:  {}\nor score them as wrong:  task.max_infra_errors=<number>"


class RolloutTask(ScoreTask):
    """Write one record an episode into ``episodes/``, then what ``ScoreTask`` writes, ``page.html`` with trajectories.

    Args:
        samples: How many independent attempts at each question; the first is scored.
        max_questions: Ask only so many questions, spread evenly over the suite, for trials; None for all. A run that
            is resumed with more asks those that are new; a multiple of the number before, and all, hold those before.
        allow_contaminated: Whether the policy may have learnt from these questions. Its score on them says nothing
            then; its exact episodes may be learnt from.
        max_infra_errors: How many episodes without an answer for reasons of infrastructure may be scored, as wrong;
            with more, the run ends unscored, and its resume tries them again.
    """

    needs: tuple[str, ...] = ("dataset", "agent", "stage", "trainer", "evaluator")
    may_change: tuple[str, ...] = (
        *("task.max_questions", "task.max_infra_errors", "agent.run_usd", "agent.question_usd", "agent.concurrency"),
        *("agent.web.attempts", "agent.web.max_delay_s", "agent.web.concurrency_per_host"),
    )

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

        from src.gisa.agent.trajectory import Attempt, RunStore, all_alike, infra_failures
        from src.gisa.report.live import Progress, show_questions
        from src.training.dashboard import dashboards
        from src.training.tracking import open_logs

        lightning.seed_everything(config["seed"], verbose=False)
        use_processor(config)
        with Line("Reading the questions"):
            suite, remarks, whole = self._suite(config)
        attempts = [Attempt.at(question, sample) for sample in range(self.samples) for question in suite.questions]
        agent = _what_matters(config["agent"])
        settings = {"suite": whole, "questions": suite.fingerprint, "agent": agent, "seed": config["seed"]}
        with loading((config["agent"].get("policy") or {}).get("name")):
            rollout = self._rollout(config, suite)
        if config.get("checkpoint"):
            record.trace_origins({"checkpoint_from": config["checkpoint"]})
        stage = build(config["stage"])(rollout=rollout, attempts=attempts, folder=folder, settings=settings)
        store = RunStore(folder, settings)
        context = {"config": config, "group": sweep or config["name"], "sweep": sweep, "record": record}
        with open_logs(folder, build(split_loggers(config)[0]), done_steps=0, **context) as logs:
            shown = list(dashboards(logs))
            trainer = trainer_of(config, folder, default_root_dir=folder, logger=logs)
            record.lap("prepare")
            indices = DataLoader(range(len(attempts)), batch_size=len(attempts))  # type: ignore[arg-type, var-annotated]
            with Line("Answering", len(attempts), counted=True) as line:
                done = (one for one in store.records() if one["outcome"] != "infra_error")  # these are tried again
                stage.watch = Progress(line, shown, suite, len(attempts), done, self.sample)
                trainer.predict(stage, dataloaders=indices, return_predictions=False)
                if trainer.world_size > 1 and trainer.is_global_zero:
                    stage.watch.take_in_others(store.records())
            record.lap("rollout")
            if not trainer.is_global_zero:
                return
            outcomes, counts = _tally(store.records())
            if outcomes["infra_error"] > self.max_infra_errors:
                raise InputError(f"{infra_failures(store.records())}\n{_AGAIN.format(resume_command(folder))}")
            predictions = read_predictions(folder, self.sample)
            alike = all_alike((one["outcome"], one["reason"]) for one in store.records())
            remarks += [*alike, *getattr(rollout.policy, "remarks", ()), *predictions.remarks]
            results = self.score(config, suite, predictions, remarks, folder, record)
            results["metrics"] |= {f"test/{name}_per_question": count / len(attempts) for name, count in counts.items()}
            for log in logs:
                log.log_metrics(results["metrics"])
            record.update(protocol=results["protocol"])
            for dashboard in shown:
                show_questions(dashboard, folder, record.content, suite)
            record.lap("score")
        results["protocol"] |= self._protocol(config["agent"], counts, rollout.prices)
        record.finish(**results, outcomes=dict(outcomes))

    def _protocol(self, agent: Mapping[str, Any], counts: Mapping[str, float], prices: Any) -> dict[str, str]:
        """Return what scores depend on beside the questions: those under another protocol are not to be mixed."""
        compaction = agent.get("compaction", {}).get("method", "none")
        return {
            "budget": agent["budget"]["semantics"],
            **({"compaction": compaction} if compaction != "none" else {}),
            **({"questions": "learnt from, perhaps"} if self.allow_contaminated else {}),
            **_remarkable(counts),
            **({"prices": prices.source} if prices.library else {}),
        }

    def _suite(self, config: dict[str, Any]) -> tuple[Gisa, list[str], str]:
        """Return the questions to ask, what is odd about the files of the whole suite, and its fingerprint."""
        suite = load_suite(
            config["dataset"],
            "the agent needs a suite of questions:\n  dataset=factbook, or dataset=gisa dataset.root=<folder>",
        )
        remarks, whole = suite.remarks(), suite.fingerprint_of(suite.questions)
        suite.keep_spread(self.max_questions)
        return suite, remarks, whole

    def _rollout(self, config: dict[str, Any], suite: Gisa) -> Any:
        """Build the agent, unless its policy has learnt from the questions and that is not allowed."""
        from src.gisa.dataset.contamination import refuse_contaminated

        rollout = build(config["agent"])
        if rollout.manifest is not None and not self.allow_contaminated:
            refuse_contaminated(suite, rollout.manifest)
        return rollout


def _what_matters(settings: Any) -> Any:
    """Leave out what changes no answer, at any depth."""
    if not isinstance(settings, dict):
        return settings
    return {key: _what_matters(value) for key, value in settings.items() if key not in _NO_MATTER}


def _remarkable(counts: Mapping[str, float]) -> dict[str, str]:
    """Say of how many calls the tokens are estimated, and how many replies another model or an earlier run gave."""
    words = {"estimated": "tokens counted here", "reused": "replies kept from before", "model": "replies by a fallback"}
    found = {kind: int(sum(value for key, value in counts.items() if key.endswith(f"_{kind}_calls"))) for kind in words}
    said = [f"{words[kind]}: {count}" for kind, count in found.items() if count]
    return {"calls": "; ".join(said)} if said else {}


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
