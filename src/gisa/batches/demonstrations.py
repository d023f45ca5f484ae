"""Human traces as demonstrations for the agent's model: acted out with its own tools, in the model's own tokens."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from src.gisa.agent.replay import Replayed, Script
from src.gisa.agent.rollout import Rollout
from src.gisa.agent.trajectory import Attempt
from src.gisa.chat.format import ChatFormat, Marked
from src.gisa.dataset.factbook.demonstrations import renamed, training_aids
from src.gisa.dataset.gisa import Gisa, HumanTrajectory, Question, human_trajectory
from src.gisa.metrics.answer_table import TableError, split_records, tsv_block
from src.gisa.metrics.answer_text import decode_gold
from src.gisa.metrics.answers import official_score
from src.gisa.metrics.behaviour import step_values
from src.launch.errors import InputError


@dataclass(frozen=True)
class Demonstration:
    """One sequence to learn from.

    Attributes:
        question_id: Of the question that it answers; a few templates need several sequences for one. Empty for
            drills, which answer none.
        entities: What its pages are about, as far as the suite says so.
        shown: Share of the answer's cells that its tool results show: what is missing cannot be learnt from reading.
        marked: Its tokens, and which of them are to be learnt.
    """

    question_id: str
    entities: tuple[str, ...]
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
            clicks that are no step; tokens and trained tokens; of a policy's own episodes, see ``gisa_episodes``.
        own: Those of a policy's own episodes, in the order of their questions.
        drills: What is learnt beside questions, of embedded suites; see ``training_aids``.
    """

    demonstrations: list[Demonstration]
    suite: Gisa
    dropped: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    own: list[Demonstration] = field(default_factory=list)
    drills: list[Demonstration] = field(default_factory=list)

    def manifest(self) -> dict[str, Any]:
        """Return what a checkpoint that learns from them has to carry; see ``manifest_of``."""
        return manifest_of(self.suite, {one.question_id: one.entities for one in [*self.demonstrations, *self.own]})

    def drop(self, reason: str, question_id: str) -> None:
        """Note why a question, or one more episode of it, has no demonstration."""
        self.dropped.setdefault(reason, []).append(question_id)


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
    drills = [Demonstration("", (), 1.0, chat.endings(block)) for block in aids.drills]
    made = Demonstrations([], suite, drills=drills)
    scripts: list[Script] = []
    for question in suite.questions:
        found = _script(suite, question, aids.scratchpads.get(question.id, {}), made.counts)
        if isinstance(found, str):
            made.drop(found, question.id)
        else:
            scripts.append(found)
    for script, replayed in zip(scripts, rollout.replay(scripts), strict=True):
        invented = aids.renamed.get(script.task.question_id, {})
        acted = replace(replayed, messages=renamed(replayed.messages, invented))
        demonstrations = demonstrations_of(suite, script.task.question_id, acted, script.answer, chat, max_tokens)
        if isinstance(demonstrations, str):
            made.drop(demonstrations, script.task.question_id)
            continue
        made.demonstrations += demonstrations
        made.counts["episodes"] += 1
        made.counts["tokens"] += sum(len(demonstration.marked.tokens) for demonstration in demonstrations)
        made.counts["trained_tokens"] += sum(sum(demonstration.marked.trained) for demonstration in demonstrations)
    return made


def demonstrations_of(
    suite: Gisa, question_id: str, replayed: Replayed, answer: str, chat: ChatFormat, max_tokens: int
) -> list[Demonstration] | str:
    """Turn an episode into demonstrations, or say why it is none.

    Args:
        suite: Where its question comes from.
        question_id: Of its question.
        replayed: The episode, acted out or recalled.
        answer: The right one, as ``answer_text`` writes it; the scratchpad may come first.
        chat: How conversations are written for the model.
        max_tokens: Most tokens of a sequence.

    Raises:
        InputError: the template does not do; see ``ChatFormat``.
    """
    sequences = chat.marked(replayed.messages, replayed.tools)
    if reason := _fault(replayed, sequences, max_tokens):
        return reason
    entities = tuple(suite.metadata.get(question_id, {}).get("entities", ()))
    values = step_values(replayed.tool_calls, cells_of(answer), ())
    shown = sum(value.new_cells for value in values)
    return [Demonstration(question_id, entities, shown, one) for one in sequences]


def manifest_of(suite: Gisa, learnt: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """Name the questions and entities that a model has seen.

    Questions are named by their ids, with a digest of the text, as other suites have the same ids.

    Args:
        suite: Where the questions come from.
        learnt: Their ids, and what each is about.
    """
    return {
        "suite": suite.fingerprint,
        "questions": {one.id: _digest(one) for one in suite.questions if one.id in learnt},
        "entities": sorted({name for names in learnt.values() for name in names}),
    }


def refuse_benchmark(suite: Gisa, allowed: bool) -> None:
    """Refuse questions that are there to test with; those of the split ``train`` of an embedded suite are not.

    Raises:
        InputError: there are such questions, and it is not allowed.
    """
    tested = [one.id for one in suite.questions if suite.metadata.get(one.id, {}).get("split") != "train"]
    if tested and not allowed:
        raise InputError(
            f"{len(tested)} of the {len(suite.questions)} questions below {suite.root} are there to test with "
            f"(ids such as {', '.join(tested[:3])}); a model that has learnt from them cannot be compared on them.\n"
            "Learn from others:  dataset=factbook_set dataset.split=train\n"
            "or, if that is what you want:  task.allow_train_on_benchmark=true"
        )


def joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of weights that have learnt from one manifest's demonstrations, then from a second one's."""
    questions = dict(second["questions"])
    for name, digest in first["questions"].items():
        free = name if questions.get(name, digest) == digest else f"{name} of {first['suite'][:12]}"
        questions[free] = digest
    return {**second, "questions": questions, "entities": sorted({*first["entities"], *second["entities"]})}


def refuse_contaminated(suite: Gisa, manifest: Mapping[str, Any]) -> None:
    """Refuse to test a model on questions that it has learnt from.

    Args:
        suite: The questions of the test.
        manifest: Of the model's checkpoint; see ``Demonstrations.manifest``.

    Raises:
        InputError: the model has seen one of them.
    """
    seen = set(manifest["questions"].values())
    if learnt := [question.id for question in suite.questions if _digest(question) in seen]:
        raise InputError(
            f"The checkpoint has learnt from {len(learnt)} of the {len(suite.questions)} questions below {suite.root} "
            f"(ids such as {', '.join(learnt[:3])}), so its score on them would say nothing.\n"
            "Test it on others:  dataset=factbook_set dataset.split=entities|families"
        )


def _digest(question: Question) -> str:
    return hashlib.sha256(question.text.encode()).hexdigest()[:16]


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


def calls_of(course: HumanTrajectory) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the tool calls of a human's steps; the goal of a visit is the query that led to it."""
    query = ""
    for step in course.steps:
        if step.kind == "search":
            query = step.what
            yield "search", {"query": query}
        else:
            yield "visit", {"url": [step.what], "goal": query}


def _script(
    suite: Gisa, question: Question, scratchpad: Mapping[str, Sequence[str]], counts: Counter[str]
) -> Script | str:
    """Return what is to be acted out for a question, or why there is nothing.

    Lines on a page are said right after it, before the next call or the answer, and those under no address before the
    first call; see ``TrainingAids``.
    """
    gold = suite.gold(question)
    if not gold:
        return "no answer"
    if not (suite.root / "trace" / f"{question.id}.json").is_file():
        return "no trace"
    try:
        answer = answer_text(gold, question.answer_type)
    except TableError as error:
        return f"unreadable answer: {error}"
    if official_score(answer, gold, question.answer_type)["global_em"] != 1:
        return "the official scorer reads the answer otherwise"
    course = human_trajectory(suite.trace(question))
    counts.update("searches" if step.kind == "search" else f"visits_{step.evidence}" for step in course.steps)
    counts.update({"orphans": len(course.orphans), **course.left_out})
    if not course.steps:
        return "no step"
    task = Attempt(question.id, 0, question.text, question.answer_type)
    read = ["", *(step.what if step.kind == "visit" else None for step in course.steps)]
    *said, last = ([] if page is None else scratchpad.get(page, ()) for page in read)
    before = {number: "\n".join(lines) for number, lines in enumerate(said) if lines}
    return Script(task, list(calls_of(course)), "\n".join([*last, answer]), before)


def _fault(replayed: Replayed, sequences: list[Marked], max_tokens: int) -> str | None:
    """Say why an episode that was acted out is no demonstration."""
    if replayed.verdict.outcome != "answered":
        return f"{replayed.verdict.outcome}: {replayed.verdict.reason}"
    if replayed.counts["failed_urls"]:
        return "a page could not be read"
    if replayed.counts["invalid_calls"]:
        return "a call is malformed"
    if max(len(one.tokens) for one in sequences) > max_tokens:
        return f"longer than {max_tokens} tokens"
    return None
