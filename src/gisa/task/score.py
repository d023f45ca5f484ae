"""Score the answers of a run on GISA, from this project or any other harness; nothing is rolled out again."""

from __future__ import annotations

import json
import shlex
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.gisa.dataset.gisa import Gisa, load_suite
from src.gisa.evaluator.answers import AnswerScores, Mean
from src.gisa.evaluator.predictions import Predictions, read_predictions, unknown
from src.gisa.report.page import write_page
from src.launch.config import build
from src.launch.errors import InputError
from src.launch.record import Record
from src.launch.storage import write_atomic
from src.launch.values import Whole
from src.report.tables import markdown_table


class ScoreTask:
    """Write the scores of all answers into the run folder.

    ``questions.jsonl`` has a line a question, ``summary.json`` all means with intervals, ``summary.md`` the same to be
    read, ``page.html`` to be browsed (see ``write_page``); ``_all_evaluation_results.json`` and ``_final_scores.json``
    are what the official script writes, without the text of the questions.

    Args:
        sample: Which attempt at each question to score, where a run has several.
    """

    needs: tuple[str, ...] = ("dataset", "evaluator", "predictions")

    def __init__(self, *, sample: Whole) -> None:
        self.sample = sample

    def run(self, config: dict[str, Any], folder: Path, record: Record, sweep: str | None) -> None:
        """Read suite and answers, score, write.

        Raises:
            InputError: the data set is not GISA's, there are no answers, or none belongs to a question of the suite.
        """
        suite = load_suite(
            config["dataset"],
            "I can only score answers to a suite of questions:\n"
            "  python -m src.run +experiment=gisa_score dataset.root=<folder> predictions=<folder or .jsonl>",
        )
        predictions = read_predictions(Path(config["predictions"]), self.sample)
        ids = {question.id for question in suite.questions}
        if not ids & predictions.values.keys():
            theirs, given = (", ".join(list(names)[:3]) for names in (sorted(ids), predictions.values))
            raise InputError(
                f"predictions={config['predictions']}: none of its {len(predictions.values)} answers has the id of one "
                f"of the {len(ids)} questions below {suite.root}.\nIds there are such as {theirs}; ids of the answers "
                f"such as {given}."
            )
        remarks = [*suite.remarks(), *predictions.remarks, *unknown(predictions, ids)]
        record.lap("prepare")
        results = self.score(config, suite, predictions, remarks, folder, record)
        record.lap("score")
        record.finish(**results)

    def score(
        self,
        config: dict[str, Any],
        suite: Gisa,
        predictions: Predictions,
        remarks: list[str],
        folder: Path,
        record: Record,
    ) -> dict[str, Any]:
        """Score answers and write all files; return what a record keeps of it."""
        evaluator = build(config["evaluator"])
        scores = evaluator.score(suite, predictions)
        if evaluator.judge is not None:
            questions, cost = evaluator.judge.label(scores.questions, suite, predictions, folder)
            scores = AnswerScores(questions, scores.means)
            record.update(judge=cost)
            remarks = [*remarks, f"causes of errors by a judge: {_counts(cost)}"]
        write_scores(scores, suite, predictions, remarks, folder)
        write_page(folder, record.content, suite)
        metrics = {f"test/{name_of(mean)}": mean.mean for mean in scores.means if not mean.part.startswith("topic")}
        return {
            "metrics": metrics | {f"test/evidence_{name}": one["mean"] for name, one in scores.evidence().items()},
            "evaluated_questions": len(scores.questions),
            "errors": scores.errors(),
            "protocol": {**suite.protocol, "sample": self.sample},
        }

    def show(self, record: Record) -> None:
        """Print exact match by kind of question, and say where the rest is and every question can be looked at."""
        folder = record.path.parent
        means = [Mean(**mean) for mean in json.loads((folder / "summary.json").read_bytes())["means"]]
        by_part: dict[str, list[Mean]] = {}
        for mean in means:
            if mean.metric == "global_em" and not mean.part.startswith("topic"):
                by_part.setdefault(mean.part, []).append(mean)
        rows = [
            [part, str(both[0].questions), str(both[0].errors), *map(_percent, both)] for part, both in by_part.items()
        ]
        print(f"\n{markdown_table(['EM', 'asked', 'errors', 'official', 'robust'], rows)}\n")
        for line in (folder / "summary.md").read_text().splitlines():
            if not line.startswith("|"):
                print(textwrap.fill(line, 79, break_long_words=False, break_on_hyphens=False))
        print(f"All measures:  {folder / 'summary.md'}\nEvery question, in a browser:  {folder / 'page.html'}")

    def next_commands(self, record: Record) -> list[str]:
        """Say what can be done with the run."""
        return [f"src.report {shlex.quote(str(record.path.parent))}"]


def write_scores(scores: AnswerScores, suite: Gisa, predictions: Predictions, remarks: list[str], folder: Path) -> None:
    """Write all files of a scored run; see ``ScoreTask``."""
    official = {
        question.id: {
            "q_item": {key: getattr(question, key) for key in ("id", "answer_type", "question_type", "topic")},
            **({"pred_item": {"prediction": predictions.values[question.id]}} if question.answered else {}),
            "metrics": question.official,
        }
        for question in scores.questions
    }
    summary = {
        "official": scores.summary("official"),
        "robust": scores.summary("robust"),
        "means": [asdict(mean) for mean in scores.means],
        "errors": scores.errors(),
        "evidence": scores.evidence(),
        "contaminated": sorted(predictions.contaminated),
        "parity_flags": scores.parity_flags(),
        "remarks": remarks,
    }
    # ASCII in JSON: an answer may hold half a surrogate pair, which no encoding of files takes.
    write_atomic(
        folder / "questions.jsonl", "".join(json.dumps(asdict(question)) + "\n" for question in scores.questions)
    )
    write_atomic(folder / "_all_evaluation_results.json", json.dumps(official, indent=1))
    write_atomic(folder / "_final_scores.json", json.dumps(summary["official"], indent=4))
    write_atomic(folder / "summary.json", json.dumps(summary, indent=1))
    write_atomic(folder / "summary.md", markdown(scores, suite, remarks))


def name_of(mean: Mean) -> str:
    """Return the name under which a mean stands in ``result.json``, such as ``robust_global_em/live``."""
    name = mean.metric if mean.scorer == "official" else f"robust_{mean.metric}"
    return f"{name}/{mean.part}" if mean.metric == "global_em" and mean.part != "all" else name


def markdown(scores: AnswerScores, suite: Gisa, remarks: list[str]) -> str:
    """Write all means as one table, official and robust side by side, and what was odd."""
    pairs = zip(scores.means[::2], scores.means[1::2], strict=True)  # each metric by both scorers in turn
    rows = [
        f"| {left.part} | {left.questions} | {left.errors} | {left.metric} | {_percent(left)} | {_percent(right)} |"
        for left, right in pairs
    ]
    lines = [
        f"{len(scores.questions)} questions, answers {suite.snapshot or 'as published'}; percent, with 95% intervals "
        "by bootstrap over questions. Errors (no prediction, or none that can be scored) count as 0.",
        "",
        "| part | questions | errors | metric | official | robust |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"Errors: {_counts(scores.errors())}. Why official and robust differ: {_counts(scores.parity_flags())}.",
        *(f"- {remark}" for remark in remarks),
    ]
    return "\n".join(lines) + "\n"


def _percent(mean: Mean) -> str:
    return f"{100 * mean.mean:.2f} [{100 * mean.low:.2f}, {100 * mean.high:.2f}]"


def _counts(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
