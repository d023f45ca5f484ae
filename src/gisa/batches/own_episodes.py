"""Rejection sampling: of a policy's own episodes, those with an exact answer become demonstrations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.gisa.agent.rollout import Rollout
from src.gisa.agent.trajectory import Attempt, replies_of
from src.gisa.batches.demonstrations import Demonstrations, NotLearnableError, answer_text, demonstrations_of
from src.gisa.chat.format import ChatFormat
from src.gisa.dataset.gisa import Gisa
from src.gisa.metrics.answers import official_score
from src.launch.errors import InputError

Record = Mapping[str, Any]  # of an episode, as the rollout writes it


def add_episodes(
    made: Demonstrations, folders: Sequence[Path], rollout: Rollout, chat: ChatFormat, *, most: int, max_tokens: int
) -> None:
    """Add demonstrations of a policy's exact episodes to those of the traces, with the tool results that it really saw.

    Counted are ``own_sampled`` episodes, ``own_exact`` ones, ``own_episodes`` that became demonstrations, and
    ``own_questions`` that these answer.

    Args:
        made: Demonstrations of the suite's traces.
        folders: Run folders of ``task=gisa_rollout`` on the same suite.
        rollout: The agent, whose prompts and budget count; its policy is not asked.
        chat: How conversations are written for the model.
        most: Most episodes of a question.
        max_tokens: Most tokens of a sequence.

    Raises:
        InputError: ``most`` is below 1, a folder holds no episodes on these questions, or no episode will do.
    """
    if most < 1:
        raise InputError(f"task.keep={most}: I need a whole number of at least 1.")
    records = [record for folder in folders for record in _records(folder, made.suite)]
    exact = [record for record in records if _is_exact(made.suite, record)]
    kept = shortest_episodes(made.suite, exact, most)
    by_id = {question.id: question for question in made.suite.questions}
    for (attempt, _), recalled in zip(kept, rollout.recall(kept), strict=True):
        name = attempt.question_id
        answer = answer_text(made.suite.gold(by_id[name]), attempt.answer_type)
        try:
            made.own += demonstrations_of(name, recalled, answer, chat, max_tokens)
            made.counts["own_episodes"] += 1
        except NotLearnableError as reason:
            made.drop(f"own episode: {reason}", name)
    made.counts["own_sampled"] = len(records)
    made.counts["own_exact"] = len(exact)
    made.counts["own_questions"] = len({demonstration.question_id for demonstration in made.own})
    if not made.own:
        raise InputError(
            f"None of the {len(records)} episodes below {', '.join(map(str, folders))} is an exact answer without "
            "malformed calls, so there is nothing to learn from.\n"
            "Ask more often (task.samples=...), ask more questions (task.questions=...), or begin with a policy that "
            "has learnt more:  python -m src.run +experiment=gisa_imitation batches.training_questions=null"
        )


def shortest_episodes(suite: Gisa, records: Iterable[Record], most: int) -> list[tuple[Attempt, Record]]:
    """Choose the episodes to learn from, of those whose calls are all well-formed and carried out.

    Of a question's episodes the shortest come first, by calls and then by tokens written; of those that say the same
    word for word, one counts.

    Args:
        suite: The questions.
        records: Of episodes with exact answers.
        most: Most episodes of a question.

    Returns:
        What was asked and the record, in the order of the questions.
    """
    by_question: dict[str, dict[str, Record]] = {}
    for record in sorted(records, key=_length):
        counts = record["counts"]
        if not counts["invalid_calls"] and not counts["skipped_calls"]:
            by_question.setdefault(record["question_id"], {}).setdefault(_said(record), record)
    return [
        (Attempt.at(question, record["sample"]), record)
        for question in suite.questions
        for record in list(by_question.get(question.id, {}).values())[:most]
    ]


def _records(folder: Path, suite: Gisa) -> list[Record]:
    """Read the records of a run on a suite."""
    try:
        asked = json.loads((folder / "agent.json").read_bytes())["questions"]
    except FileNotFoundError:
        raise InputError(
            f"task.episodes_from: {folder} holds no episodes. I need a run folder of +experiment=gisa_rollout."
        ) from None
    records = [json.loads(path.read_bytes()) for path in sorted((folder / "episodes").glob("*.json"))]
    answered = {record["question_id"] for record in records}
    part = suite.fingerprint_of(question for question in suite.questions if question.id in answered)
    if asked not in (suite.fingerprint, part):  # a part: task.max_questions
        raise InputError(
            f"task.episodes_from: the episodes of {folder} answer other questions than those below {suite.root}, or "
            "only a part of what was to be asked.\n"
            "Give the same dataset to both, see dataset in the config.yaml of that folder; or end the rollout:\n"
            f"  python -m src.run resume={folder}"
        )
    return records


def _is_exact(suite: Gisa, record: Record) -> bool:
    question = next((question for question in suite.questions if question.id == record["question_id"]), None)
    if question is None or record["outcome"] != "answered":
        return False
    gold = suite.gold(question)
    return bool(gold) and official_score(record["prediction"], gold, question.answer_type)["global_em"] == 1


def _length(record: Record) -> tuple[int, int]:
    return record["counts"]["calls"], record["spent"]["chain"]["completion_tokens"]


def _said(record: Record) -> str:
    """Return all that the policy said, without the ids of its calls."""
    messages = replies_of(record["steps"])
    return json.dumps(
        [[said["content"], [call["function"] for call in said.get("tool_calls", [])]] for said in messages]
    )
