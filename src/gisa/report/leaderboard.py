"""The answers of a run in the two forms that leaderboards and the official scripts take."""

from __future__ import annotations

import json
from pathlib import Path

from src.gisa.dataset.predictions import read_predictions
from src.gisa.report.attempts import episodes_of
from src.gisa.report.questions import read_questions
from src.launch.storage import write_atomic
from src.report.runs import Run


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
    episodes = episodes_of(run)
    source = episodes.parent if episodes.is_dir() else Path(run.config["predictions"])
    given = read_predictions(source, run.protocol.get("sample", 0)).values
    folder = folder / run.source.resolve().name / run.folder.relative_to(run.source)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for question in read_questions(run):
        prediction = given.get(question.id, "")
        answer = {"id": question.id, "prediction": prediction if isinstance(prediction, str) else ""}
        lines.append(json.dumps(answer) + "\n")
        (folder / f"{question.id}.json").write_text(lines[-1])
    write_atomic(folder / "predictions.jsonl", "".join(lines))
    return folder
