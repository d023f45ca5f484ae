"""Demonstrations for the agent's model, in its own tokens: human traces acted out with its tools; its own episodes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from src.gisa.agent.rollout import Replayed, Rollout, Script
from src.gisa.agent.trajectory import Attempt, replies_of
from src.gisa.chat.format import ChatFormat, Marked, sense_of
from src.gisa.dataset.contamination import refuse_benchmark
from src.gisa.dataset.factbook.demonstrations import renamed, training_aids
from src.gisa.dataset.gisa import Gisa, HumanTrajectory, Question, human_trajectory
from src.gisa.metrics.answer_table import TableError, split_records, tsv_block
from src.gisa.metrics.answer_text import decode_gold
from src.gisa.metrics.answers import official_score
from src.gisa.metrics.behaviour import step_values
from src.launch.errors import InputError, resume_command
from src.launch.progress import tracked

Record = Mapping[str, Any]  # of an episode, as the rollout writes it


@dataclass(frozen=True)
class Demonstration:
    """One sequence to learn from.

    Attributes:
        question_id: Of the question that it answers; a few templates need several sequences for one. Empty for
            drills, which answer none.
        shown: Share of the answer's cells that its tool results show: what is missing cannot be learnt from reading.
        marked: Its tokens, and which of them are to be learnt.
    """

    question_id: str
    shown: float
    marked: Marked


@dataclass
class Demonstrations:
    """All demonstrations of a suite, and what became of the questions without one.

    Attributes:
        demonstrations: In the order of the questions.
        suite: Where they come from.
        dropped: Why a question has no demonstration, to the ids of such questions.
        counts: Episodes; searches; visits by what tells their search; ``orphans``, ``repeats`` and ``results_pages``,
            clicks that are no step; tokens and trained tokens; of a policy's own episodes, see ``add_episodes``.
        own: Those of a policy's own episodes, in the order of their questions.
        drills: What is learnt beside questions, of embedded suites; see ``training_aids``.
    """

    demonstrations: list[Demonstration]
    suite: Gisa
    dropped: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    own: list[Demonstration] = field(default_factory=list)
    drills: list[Demonstration] = field(default_factory=list)

    def drop(self, reason: str, question_id: str) -> None:
        """Note why a question, or one more episode of it, has no demonstration."""
        self.dropped.setdefault(reason, []).append(question_id)


class NotLearnableError(Exception):
    """A question or an episode that gives no demonstration; the message says why."""


def make_demonstrations(
    suite: Gisa, rollout: Rollout, chat: ChatFormat, *, max_tokens: int, allow_train_on_benchmark: bool = False
) -> Demonstrations:
    """Turn the traces of a suite into demonstrations.

    A question has no demonstration where the trace or the answer is missing, the official scorer does not give the
    answer as it would be learnt an exact match of 1, no step is left, a page cannot be read, the agent's budget is too
    small, or the conversation is longer than ``max_tokens``: nothing is ever cut.

    Args:
        suite: Questions, answers and traces.
        rollout: The agent, whose tools, prompts and budget count; its policy is not asked.
        chat: How conversations are written for the model.
        max_tokens: Most tokens of a sequence.
        allow_train_on_benchmark: Whether questions that are there to test with may be learnt from.

    Raises:
        InputError: it is not allowed to learn from these questions, or the template does not do; see ``ChatFormat``.
    """
    refuse_benchmark(suite, allow_train_on_benchmark)
    aids = training_aids(suite)
    drills = [Demonstration("", 1.0, chat.endings(block)) for block in aids.drills]
    made = Demonstrations([], suite, drills=drills)
    scripts: list[Script] = []
    for question in suite.questions:
        try:
            scripts.append(_script(suite, question, aids.scratchpads.get(question.id, {}), made.counts))
        except NotLearnableError as reason:
            made.drop(str(reason), question.id)
    acted_out = rollout.replay(tracked(scripts, "Acting out the traces", len(scripts)))
    pairs = zip(scripts, acted_out, strict=True)
    for script, replayed in tracked(pairs, "Writing demonstrations", len(scripts)):
        name = script.attempt.question_id
        acted = replace(replayed, messages=renamed(replayed.messages, aids.renamed.get(name, {})))
        try:
            demonstrations = demonstrations_of(name, acted, script.answer, chat, max_tokens)
        except NotLearnableError as reason:
            made.drop(str(reason), name)
            continue
        made.demonstrations += demonstrations
        made.counts["episodes"] += 1
        made.counts["tokens"] += sum(len(demonstration.marked.tokens) for demonstration in demonstrations)
        made.counts["trained_tokens"] += sum(sum(demonstration.marked.trained) for demonstration in demonstrations)
    return made


def demonstrations_of(
    question_id: str, replayed: Replayed, answer: str, chat: ChatFormat, max_tokens: int
) -> list[Demonstration]:
    """Turn an episode, acted out or recalled, into demonstrations.

    Its answer is the right one, as ``answer_text`` writes it; the scratchpad may come first.

    Raises:
        NotLearnableError: it did not end with the answer, not all of it went well, it is too long, or a rollout would
            read its turns in another way than they are taught.
        InputError: the template does not do; see ``ChatFormat``.
    """
    sequences = chat.marked(replayed.messages, replayed.tools)
    if replayed.verdict.outcome != "answered":
        raise NotLearnableError(f"{replayed.verdict.outcome}: {replayed.verdict.reason}")
    if replayed.counts["failed_urls"]:
        raise NotLearnableError("a page could not be read")
    if replayed.counts["invalid_calls"]:
        raise NotLearnableError("a call is malformed")
    if max(len(marked.tokens) for marked in sequences) > max_tokens:
        raise NotLearnableError(f"longer than {max_tokens} tokens")
    taught = [sense_of(message) for message in replayed.messages if message["role"] == "assistant"]
    actions = [action for marked in sequences for action in marked.actions]
    if [sense_of(chat.read("", action, replayed.tools)) for action in actions] != taught:
        raise NotLearnableError("a turn would be read otherwise than it is taught")
    shown = sum(value.new_cells for value in step_values(replayed.tool_calls, cells_of(answer), ()))
    return [Demonstration(question_id, shown, marked) for marked in sequences]


def answer_text(gold: bytes, answer_type: str) -> str:
    """Write an answer of the benchmark as the agent is to give it: tab-separated values in a code block.

    Where the benchmark names no column, it is called Answer.

    Raises:
        TableError: the gold file is no text or no table.
    """
    rows = list(split_records(decode_gold(gold)[0].removeprefix("\ufeff"), ","))
    if not rows:
        raise TableError("no rows")
    if answer_type != "table":
        width = max(map(len, rows))
        rows.insert(0, ["Answer"] if width == 1 else [f"Answer {number}" for number in range(1, width + 1)])
    return tsv_block(rows)


def cells_of(answer: str) -> list[str]:
    """Return the cells of an answer as ``answer_text`` writes it, without the names of its columns."""
    table = answer.partition("```tsv\n")[2].removesuffix("```")
    return [cell.strip() for row in list(split_records(table, "\t"))[1:] for cell in row]


def calls_of(trajectory: HumanTrajectory) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the tool calls of a human's steps; the goal of a visit is the query that led to it."""
    query = ""
    for step in trajectory.steps:
        if step.kind == "search":
            query = step.what
            yield "search", {"query": query}
        else:
            yield "visit", {"url": [step.what], "goal": query}


def exact_answer(suite: Gisa, question: Question) -> str:
    """Return the answer of a question as ``answer_text`` writes it.

    Raises:
        NotLearnableError: it is missing, unreadable, or not exact by the official scorer.
    """
    gold = suite.gold(question)
    if not gold:
        raise NotLearnableError("no answer")
    try:
        answer = answer_text(gold, question.answer_type)
    except TableError as error:
        raise NotLearnableError(f"unreadable answer: {error}") from error
    if official_score(answer, gold, question.answer_type)["global_em"] != 1:
        raise NotLearnableError("the official scorer reads the answer otherwise")
    return answer


def _script(suite: Gisa, question: Question, scratchpad: Mapping[str, Sequence[str]], counts: Counter[str]) -> Script:
    """Return what is to be acted out for a question.

    Lines on a page are said right after it, before the next call or the answer, and those under no address before the
    first call; see ``TrainingAids``.

    Raises:
        NotLearnableError: there is nothing.
    """
    answer = exact_answer(suite, question)
    if not suite.has_trace(question):
        raise NotLearnableError("no trace")
    trajectory = human_trajectory(suite.trace(question))
    counts.update("searches" if step.kind == "search" else f"visits_{step.evidence}" for step in trajectory.steps)
    counts.update({"orphans": len(trajectory.orphans), **trajectory.left_out})
    if not trajectory.steps:
        raise NotLearnableError("no step")
    pages = ["", *(step.what if step.kind == "visit" else None for step in trajectory.steps)]
    *said, last = ([] if page is None else scratchpad.get(page, ()) for page in pages)
    before = {number: "\n".join(lines) for number, lines in enumerate(said) if lines}
    return Script(Attempt.at(question), list(calls_of(trajectory)), "\n".join([*last, answer]), before)


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
    for (attempt, _), recalled in zip(
        kept, rollout.recall(tracked(kept, "Going through episodes", len(kept))), strict=True
    ):
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

    Returns:
        What was asked and the record, at most so many of a question, in the order of the questions.
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
            f"  {resume_command(folder)}"
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
