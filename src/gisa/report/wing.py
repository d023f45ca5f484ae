"""What the report says of runs on a suite: the tables of GISA's paper, attempts, leaderboard files and pages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from src.gisa.evaluator.answers import read_predictions
from src.gisa.report.anchors import anchor_tables
from src.gisa.report.answered import AnsweredCell, episodes_of, read_questions, suite_of
from src.gisa.report.attempts import attempts_figure, curve, curve_table
from src.gisa.report.benchmark import TABLE_3, benchmark_tables, kinds_figure
from src.gisa.report.page import write_page
from src.gisa.report.status import watch
from src.gisa.report.viewers import require_inspect, require_weave, send_traces, write_log
from src.launch.errors import InputError
from src.launch.storage import write_atomic
from src.report.comparison import Findings, Scores, Section, Wing
from src.report.runs import Run, as_typed
from src.report.tables import cost_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def metrics(runs: Sequence[Run]) -> list[str]:
    """Return the official metrics that are shown and that a run has, in the order of the paper."""
    names = (*TABLE_3.values(), "test/global_em/stable", "test/global_em/live")
    return [name for name in names if any(name in run.metrics for run in runs)]


def scores(runs: Sequence[Run]) -> Scores:
    """Return what scores each question in each run by a metric, such as ``test/global_em/live`` or ``test/set_f1``.

    Raises:
        InputError: a file is absent or unreadable, the runs answered different questions, or none has the metric.
    """
    tables = [{question.id: question for question in read_questions(run.folder)} for run in runs]
    first = tables[0]
    for run, table in zip(runs, tables, strict=True):
        if table.keys() != first.keys():
            raise InputError(
                f"{runs[0].folder} and {run.folder} cannot be joined by question: {len(first)} and {len(table)} "
                f"questions, {len(first.keys() & table.keys())} of them the same"
            )

    def by_metric(metric: str) -> NDArray[np.float64]:
        name, _, part = metric.removeprefix("test/").partition("/")
        chosen = [
            question.id
            for question in first.values()
            if name in question.official and part in ("", question.answer_type, question.question_type)
        ]
        if not chosen:
            raise InputError(f"{runs[0].folder / 'questions.jsonl'} has no question with {metric}")
        return np.array([[table[key].official[name] for key in chosen] for table in tables], dtype=np.float64)

    return by_metric


def findings(section: Section) -> Findings:
    """Return the tables of the paper and more; draw exact match by type, over attempts and by pages needed.

    Raises:
        InputError: a record of an episode is damaged.
    """
    # Cells without scores of their questions have a warning of their own.
    cells = [AnsweredCell(summary) for summary in section.summaries if summary.over_units]
    points = [(cell.label, points) for cell in cells if (points := curve(cell))]
    tables = [
        *([*benchmark_tables(cells), *anchor_tables(cells)] if cells else []),
        *([curve_table(points)] if points else []),
    ]
    protocols = [
        f"- {cell.label}: {len(cell.runs)} run(s) over {cost_of(cell.runs)['total (s)']:.0f} s each, "
        f"{as_typed(cell.protocol) or 'protocol not recorded'}"
        for cell in (summary.cell for summary in section.summaries)
    ]

    def draw() -> Mapping[str, Figure | None]:
        from src.report.plots import metric_bars

        metrics = dict.fromkeys(name for summary in section.summaries for name in summary.over_seeds)
        return {
            "exact_match": metric_bars(section, [name for name in metrics if name.split("/")[1].endswith("_em")]),
            "figure_5": attempts_figure(points) if points else None,
            "exact_match_by_kind": kinds_figure(cells) if cells else None,
        }

    text = ["## Runs on a suite of questions", "\n".join(protocols), *(table.as_markdown() for table in tables)]
    return Findings(text, draw, tables, [text for cell in cells for run in cell.runs for text in run.warnings])


def write_files(runs: Sequence[Run], out: Path, options: Mapping[str, Any]) -> Iterator[str]:
    """Write answers for leaderboards and inspect-ai and send traces, if asked for; say where the page of each run is.

    A run's own page stays as it is: with questions in clear, or where there is none, it is written beside the report.
    """
    if options["weave"]:
        require_weave()
    if options["inspect"]:
        require_inspect()
    for run in runs:
        if options["leaderboard"] and run.evaluated_questions:
            yield f"Answers written to {write_answers(run, out / 'leaderboard')}"
    for run in runs:
        if not (run.folder / "questions.jsonl").is_file():
            continue
        path = run.folder / "page.html"
        anew = options["show_questions"] or not path.is_file()
        try:
            if anew or options["weave"] or options["inspect"]:
                suite = suite_of(run)
                suite.show_questions |= options["show_questions"]
            if anew:
                path = out / "pages" / run.source.resolve().name / run.folder.relative_to(run.source) / "page.html"
                write_page(run.folder, run.model_dump(mode="json"), suite, path)
            yield f"Page of {run.label}: {path}"
            if options["inspect"]:
                yield f"Log of {run.label}: {write_log(run, suite, out / 'inspect')}"
        except InputError as error:
            yield f"No page of {run.label}: {error}"
            continue
        if options["weave"]:
            yield send_traces(run, suite)


def write_answers(run: Run, folder: Path) -> Path:
    """Write ``<id>.json`` with id and prediction of each question, and ``predictions.jsonl`` with the same as lines.

    Both values are text: questions without an answer have an empty one.

    Args:
        run: A finished run on a suite; the attempt that it scored counts.
        folder: A subfolder of it is made, named like the run's folder below the one that was reported on.

    Returns:
        The subfolder.

    Raises:
        InputError: the run has no answers, or no scores.
    """
    episodes = episodes_of(run.folder, run.config)
    source = episodes.parent if episodes.is_dir() else Path(run.config["predictions"])
    given = read_predictions(source, run.protocol.get("sample", 0)).values
    folder = folder / run.source.resolve().name / run.folder.relative_to(run.source)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for question in read_questions(run.folder):
        prediction = given.get(question.id, "")
        answer = {"id": question.id, "prediction": prediction if isinstance(prediction, str) else ""}
        lines.append(json.dumps(answer) + "\n")
        (folder / f"{question.id}.json").write_text(lines[-1])
    write_atomic(folder / "predictions.jsonl", "".join(lines))
    return folder


WING = Wing(
    unit="questions",
    file="questions.jsonl",
    default_metric="test/global_em",
    default_baseline="gisa_rollout",
    metrics=metrics,
    scores=scores,
    findings=findings,
    learning={
        "train/loss": "training loss",
        "val/token_accuracy": "share of tokens right, validation",
        "train/reward": "reward of an episode",
        "train/em": "exact match in training",
        "val/em": "exact match, validation",
        "train/valid_calls": "share of tool calls that are valid",
        "train/calls": "valid calls of an episode",
    },
    flags={
        "leaderboard": "write the answers of runs on a suite as leaderboards take them",
        "show-questions": "put the questions of GISA into the pages of its runs, in clear",
        "weave": "send the episodes of runs on a suite to Weave",
        "inspect": "write runs on a suite as logs of inspect-ai, for `inspect view`",
    },
    write_files=write_files,
    watch=watch,
)
