"""Learn from rollouts what an episode will come to, and choose the best of several attempts by it."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.build import build
from src.errors import InputError
from src.record import Record
from src.storage import write_atomic
from src.task.training import fitted, prepare_training

if TYPE_CHECKING:
    from src.evaluator.episode_values import Chosen, Foretold
    from src.report.runs import Run

_WHAT_TO_TYPE = "Make some:  python -m src.run +experiment=gisa_rollout task.samples=8 agent.policy.slips=0.3"


class GisaValue:
    """Write ``value.json``, ``value.md`` and plots into the run folder.

    ``episodes.jsonl`` has a line an attempt: its F1 and its values at every moment, by networks that have not learnt
    from its question.

    Args:
        resamples: Of the bootstrap.
    """

    needs: tuple[str, ...] = ("predictions", "data", "model", "stage", "trainer", "checkpointing")

    def __init__(self, *, resamples: int) -> None:
        self.resamples = resamples

    def run(self, config: dict[str, Any], folder: Path, record: Record, sweep: str | None) -> None:
        """Read the rollouts, train, compare, choose, record.

        Raises:
            InputError: there are no rollouts, they are of different questions, or of one attempt at each.
        """
        import numpy as np

        from src.dataset.episode_states import NAMES
        from src.dataset.scored_episodes import score_episodes
        from src.evaluator.episode_values import baselines, chosen, foretold
        from src.report.attempts import read_suite
        from src.report.questions import read_questions
        from src.report.value import draw, markdown

        prepare_training(config)
        warnings.filterwarnings("ignore", message="The number of training batches .* is smaller")  # one step an epoch
        runs = rollouts(Path(config["predictions"]))
        records = records_of(runs)
        suite = read_suite(runs[0], {question.id: question for question in read_questions(runs[0])})
        episodes = score_episodes(suite, records)
        data = build(config["data"])(episodes=episodes, seed=config["seed"])
        model = build(config["model"])(len(data.batch["weight"]), len(NAMES))
        stage = build(config["stage"])(model=model)
        with fitted(stage, data, config, folder, record, sweep) as (trainer, _):
            if not trainer.is_global_zero:
                return
            values = {"value_model": stage.held_out_values(data.batch).double().numpy()}
            values |= baselines(episodes, data.fold, data.batch["weight"].double().numpy(), seed=config["seed"])
            compared = foretold(episodes, values, seed=config["seed"], resamples=self.resamples)
            ends = np.cumsum([len(one.states) for one in episodes])
            choices = chosen(episodes, values["value_model"][ends - 1], seed=config["seed"], resamples=self.resamples)
            metrics = _metrics(compared, choices)
            for log in trainer.loggers:
                log.log_metrics(metrics, step=trainer.global_step)
        lines = [
            {"question_id": one.question_id, "f1": one.f1, "exact": one.exact, "values": mine.round(6).tolist()}
            for one, mine in zip(episodes, np.split(values["value_model"], ends[:-1]), strict=True)
        ]
        content = {"foretold": [asdict(one) for one in compared], "chosen": [asdict(one) for one in choices]}
        write_atomic(folder / "episodes.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        write_atomic(folder / "value.json", json.dumps(content, indent=1))
        write_atomic(folder / "value.md", markdown(compared, choices, len(records)))
        draw(compared, choices, folder / "value")
        record.lap("test")
        record.finish(
            metrics=metrics,
            evaluated_questions=len(records),
            outcomes=dict(Counter(one["outcome"] for attempts in records.values() for one in attempts)),
            protocol={**runs[0].protocol, "attempts": choices[-1].k},
            rollouts=[str(run.folder) for run in runs],
        )

    def show(self, record: Record) -> None:
        """Print the comparison."""
        print(f"\n{(record.path.parent / 'value.md').read_text()}\n{record.path.parent}")


def _metrics(compared: Sequence[Foretold], choices: Sequence[Chosen]) -> dict[str, float]:
    metrics = {f"{one.moment}/error/{one.by}": one.error.mean for one in compared}
    metrics |= {f"{one.moment}/order/{one.by}": one.order.mean for one in compared if one.order}
    for one in choices:
        metrics |= {f"exact@{one.k}/{by}": getattr(one, by).mean for by in ("by_value", "majority", "random", "best")}
    return metrics


def rollouts(folder: Path) -> list[Run]:
    """Return the rollouts below a folder, all of the same questions, in the order of starting.

    Raises:
        InputError: there are none, one is unfinished, or they are of different questions.
    """
    from src.report.runs import find_runs

    runs = [run for run in find_runs([folder]) if (run.folder / "episodes").is_dir()]
    if not runs:
        raise InputError(f"predictions={folder}: none of the runs there has episodes/.\n{_WHAT_TO_TYPE}")
    for run in runs:
        if run.status != "finished":
            raise InputError(
                f"{run.folder} is {run.status}, and I need finished rollouts.\n"
                f"Go on with it:  python -m src.run resume={run.folder}"
            )
        if any(run.protocol.get(key) != runs[0].protocol.get(key) for key in ("dataset", "snapshot")):
            raise InputError(
                f"{run.folder} and {runs[0].folder} are of different questions or answers: "
                f"{run.protocol.get('dataset')}, {runs[0].protocol.get('dataset')}.\n"
                "Give a folder whose rollouts have the same dataset, dataset.snapshot and task.max_questions."
            )
    return runs


def records_of(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """Return the records of all attempts by question, those of one run after the other, by sample.

    Raises:
        InputError: a question has one attempt, or fewer than another.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        mine = [_record(path, run) for path in (run.folder / "episodes").glob("*.json")]
        for one in sorted(mine, key=lambda one: (one["question_id"], one["sample"])):
            found.setdefault(one["question_id"], []).append(one)
    counts = {name: len(attempts) for name, attempts in found.items()}
    fewest, most = min(counts.values()), max(counts.values())
    if most < 2:
        raise InputError(
            f"{runs[0].folder} has one attempt at each of {len(counts)} questions; to choose, I need at least two.\n"
            f"{_WHAT_TO_TYPE}"
        )
    if fewest < most:
        names = ", ".join(sorted(name for name, count in counts.items() if count < most)[:5])
        raise InputError(
            f"Some questions have {most} attempts, and others fewer, such as {names}: records are missing.\n"
            f"{_WHAT_TO_TYPE}"
        )
    return found


def _record(path: Path, run: Run) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        return {key: content[key] for key in ("question_id", "sample", "outcome", "prediction", "steps")}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not the record of an episode: {type(error).__name__}: {error}.\n{_WHAT_TO_TYPE}"
        ) from error
