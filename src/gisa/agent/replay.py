"""Conversations that are given, acted out, and recorded ones, recalled: with the prompts and limits of a rollout."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.gisa.agent.cost import Account
from src.gisa.agent.policy import Message, ScriptedPolicy
from src.gisa.agent.react import Episode, ReActAgent
from src.gisa.agent.trajectory import Attempt, Journal, Verdict, replies_of, tool_calls_of
from src.gisa.agent.web import Web
from src.gisa.metrics.behaviour import ToolCall


@dataclass(frozen=True)
class Script:
    """What is to be done for a question.

    Attributes:
        task: The question.
        calls: Name and arguments of each tool call, one a turn.
        answer: The text of the last turn.
        said: What is said before a call, by the call's number from 0.
    """

    task: Attempt
    calls: Sequence[tuple[str, Mapping[str, Any]]]
    answer: str
    said: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Replayed:
    """What came of a script.

    Attributes:
        messages: The conversation, the answer last, in the form of the chat completions API.
        verdict: How it ended: anything but ``answered`` means that the script could not be acted out to its end.
        counts: Calls, visits, pages that could not be read and so on, as in a record of an episode.
        tool_calls: What was done and read.
        tools: What could be called, as the policy is told.
    """

    messages: list[Message]
    verdict: Verdict
    counts: dict[str, int]
    tool_calls: list[ToolCall]
    tools: Sequence[Mapping[str, Any]]


async def recall(agent: ReActAgent, task: Attempt, record: Mapping[str, Any], web: Web) -> Replayed:
    """Go through a recorded episode again: replies and results are those of the record, and nothing is carried out.

    Args:
        agent: Whose prompts and budget the episode had; its policy is not asked.
        task: What was asked.
        record: As ``RunStore`` keeps it, of an episode that ended with an answer.
        web: The connections.

    Returns:
        What came of it; its outcome is an ``infra_error`` if the agent would have gone on where the record ends.
    """
    steps = b"".join(json.dumps(step).encode() + b"\n" for step in record["steps"])
    with Journal(Path(task.name), io.BytesIO(steps)) as journal:
        episode = Episode(task, journal, Account("question", None), web)
        verdict = await agent.led_by(ScriptedPolicy(_not_recorded)).answer(episode)
    messages = [*episode.messages, replies_of(record["steps"])[-1]]
    return Replayed(messages, verdict, episode.counts, tool_calls_of(journal.lines), agent.specs)


def _not_recorded(_: Sequence[Message]) -> Message:
    raise ValueError("the record ends before the episode does")


async def replay(agent: ReActAgent, script: Script, web: Web) -> Replayed:
    """Act out a script with the tools, prompts and budget of an agent; its policy is not asked.

    Args:
        agent: Whose course it is to be.
        script: What to do.
        web: The connections, open.
    """
    turns: list[Message] = [
        {"content": script.said.get(number, ""), "tool_calls": [_call(number, name, arguments)]}
        for number, (name, arguments) in enumerate(script.calls)
    ]
    turns.append({"content": script.answer})
    said = iter(turns)
    with Journal(Path(script.task.name), io.BytesIO()) as journal:
        episode = Episode(script.task, journal, Account("question", None), web)
        verdict = await agent.led_by(ScriptedPolicy(lambda _: next(said))).answer(episode)
    messages = [*episode.messages, {"role": "assistant", "content": script.answer}]
    return Replayed(messages, verdict, episode.counts, tool_calls_of(journal.lines), agent.specs)


def _call(number: int, name: str, arguments: Mapping[str, Any]) -> Message:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"{number:09}", "type": "function", "function": function}  # some templates want ids of this form
