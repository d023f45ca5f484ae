"""The ReAct loop: the policy reasons and calls tools until it answers or its budget ends."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from src.gisa.agent.compaction import Compaction
from src.gisa.agent.completions import Reply, refusal_in, text_of
from src.gisa.agent.cost import CeilingReachedError, Step
from src.gisa.agent.dialects import Ending, ending_of
from src.gisa.agent.fetch import RequestError
from src.gisa.agent.policy import ContextOverflowError, Policy, Request
from src.gisa.agent.prompts import MALFORMED_CALL, NO_ROOM, OUT_OF_BUDGET, Instructions, opening
from src.gisa.agent.tools import CallError, Search, Toolbox, Visit, bare_name, specs
from src.gisa.agent.trajectory import Episode, Verdict
from src.gisa.chat.format import Message
from src.launch.errors import InputError
from src.launch.values import Whole

_CODE_BLOCK = re.compile(r"```(.*?)```", re.DOTALL)
_FULL_REPLIES = 3  # that end for lack of room before one is taken as it is
_TAG_LINE = re.compile(r"\A[\w-]*\s*\n")


@dataclass(frozen=True)
class Budget:
    """When the model is told to answer.

    Attributes:
        semantics: ``strict_calls`` ends after ``max_calls`` carried out calls, as the paper says; ``official_turns``
            after ``max_turns`` replies with calls, as the official code does, however many calls each makes.
        max_calls: For ``strict_calls``.
        max_turns: For ``official_turns``.
        max_invalid_calls: Malformed calls after which the model is told to answer under ``strict_calls``; they are not
            carried out and so do not count as calls, but must not go on for ever.
        parallel_calls: Whether all calls of a reply are carried out; otherwise the first valid one.
    """

    semantics: Literal["strict_calls", "official_turns"] = "strict_calls"
    max_calls: Whole = 30
    max_turns: Whole = 28
    max_invalid_calls: Whole = 10
    parallel_calls: bool = False

    def is_used_up(self, counts: Mapping[str, int]) -> bool:
        """Tell whether no further call may be made."""
        if self.semantics == "official_turns":
            return counts["turns"] >= self.max_turns
        return counts["calls"] >= self.max_calls or counts["invalid_calls"] >= self.max_invalid_calls

    def calls_left(self, counts: Mapping[str, int], asked: int) -> int:
        """Return how many calls of one reply may be carried out."""
        if not self.parallel_calls:
            asked = min(asked, 1)
        return min(asked, self.max_calls - counts["calls"]) if self.semantics == "strict_calls" else asked

    def in_words(self) -> str:
        """Say it to the model."""
        if self.semantics == "official_turns":
            return f"{self.max_turns} turns with tool calls"
        return f"{self.max_calls} tool calls"


@dataclass(frozen=True)
class ReActAgent:
    """A policy with tools and a budget; without tools, it answers at once (the single-shot mode).

    Attributes:
        policy: Decides.
        toolbox: Carries out calls; None for the single-shot mode.
        budget: When to answer.
        today: The day the run stands for, ``YYYY-MM-DD``; part of the prompt.
        instructions: How much else the prompt says; see ``opening`` and ``specs``.
        episode_timeout_s: Seconds for one question, in one go.
        compaction: What is done with a conversation that outgrows the model.
    """

    policy: Policy
    toolbox: Toolbox | None
    budget: Budget
    today: str
    instructions: Instructions = "full"
    episode_timeout_s: float = 3600.0
    compaction: Compaction = Compaction()

    @property
    def specs(self) -> tuple[Mapping[str, Any], ...]:
        """The tools as the policy is told of them."""
        return specs(self.instructions) if self.toolbox else ()

    async def answer(self, episode: Episode) -> Verdict:
        """Answer a question, or say why there is no answer; an episode taken up again goes on where it was.

        The verdict is noted in the episode, too.

        Raises:
            InputError: something the user gave is wrong, which no other question will change.
            CeilingReachedError: the run's money is spent.
        """
        episode.verdict = await self._verdict(episode)
        return episode.verdict

    async def _verdict(self, episode: Episode) -> Verdict:
        try:
            async with asyncio.timeout(self.episode_timeout_s):
                return await self._converse(episode)
        except CeilingReachedError as error:
            if error.account == "run":
                raise
            return Verdict("budget", str(error))
        except ContextOverflowError as error:
            return Verdict("truncated", f"the conversation no longer fits into the model: {error}")
        except RequestError as error:
            return Verdict("infra_error", str(error))
        except TimeoutError:
            return Verdict("infra_error", f"no end within {self.episode_timeout_s:g} s")
        except (InputError, MemoryError):
            raise
        except Exception as error:  # a defect; it must not take the other questions with it, nor count as an answer
            return Verdict("infra_error", f"defect: {type(error).__name__}: {error}")

    async def _converse(self, episode: Episode) -> Verdict:
        limit = self.budget.in_words() if self.toolbox else None
        episode.messages[:] = opening(episode.attempt, today=self.today, limit=limit, instructions=self.instructions)
        used_ids: set[str] = set()
        full = 0  # replies that ended as there was no room left
        overflow: ContextOverflowError | None = None
        for turn in itertools.count():
            may_call = self.toolbox is not None and not self.budget.is_used_up(episode.counts)
            if self.toolbox and not may_call:
                episode.messages.append({"role": "user", "content": OUT_OF_BUDGET})
            reply, may_call = await self._fitting_reply(episode, turn, may_call, overflow)
            calls, ending = with_unique_ids(reply.message.get("tool_calls"), turn, used_ids), ending_of_reply(reply)
            overflow = None
            if calls:
                episode.messages.append({**reply.message, "tool_calls": [sendable(call) for call in calls]})
                episode.messages += await self._results(episode, turn, calls, may_call)
                if not may_call:
                    return Verdict(
                        "budget", "tool calls instead of the answer that was asked for", text_of(reply.message)
                    )
            elif may_call and ending == "malformed":
                episode.counts["turns"] += 1
                episode.counts["invalid_calls"] += 1
                episode.messages.append({"role": "user", "content": MALFORMED_CALL})
            elif may_call and ending == "overflow" and full < _FULL_REPLIES:
                full += 1
                overflow = ContextOverflowError(f"the reply ended for lack of room ({reply.finish_reason})")
            else:
                return verdict_on(reply)
        raise AssertionError("turns do not end")

    async def _fitting_reply(
        self, episode: Episode, turn: int, may_call: bool, overflow: ContextOverflowError | None
    ) -> tuple[Reply, bool]:
        """Ask for a reply, and make room for it until the conversation fits; also return whether it may call."""
        key, number, must_answer = f"reply/{turn}", 0, False
        while True:
            is_due = number == 0 and not episode.journal.holds(key) and self.compaction.is_due(episode, turn)
            if overflow or is_due or episode.journal.holds(f"compaction/{turn}/{number}"):
                must_answer = await self.compaction.make_room(self.policy, episode, turn, number, overflow)
                if must_answer and may_call:
                    episode.messages.append({"role": "user", "content": NO_ROOM})
                    may_call = False
                overflow, number = None, number + 1
                continue
            try:
                return await self._next_reply(episode, turn, may_call, is_short=must_answer), may_call
            except ContextOverflowError as error:
                overflow = error

    async def _next_reply(self, episode: Episode, turn: int, may_call: bool, *, is_short: bool) -> Reply:
        has_results = any(message["role"] == "tool" for message in episode.messages)
        tools = () if is_short and not has_results else self.specs  # they take room, too

        async def ask(step: Step) -> dict[str, Any]:
            reply = await self.policy.reply(Request(episode.messages, tools, step, episode.web, may_call))
            if reply.tokens:
                episode.tokens.append(reply.tokens)
            more = {name: list(told) for name in ("adapted", "cited") if (told := getattr(reply, name))}
            return {"message": reply.message, "finish_reason": reply.finish_reason, **more}

        return Reply(**await episode.journal.step(f"reply/{turn}", episode.account, ask))

    async def _results(self, episode: Episode, turn: int, calls: Sequence[Message], may_call: bool) -> list[Message]:
        """Carry out what is valid and within the budget, all at once, and give every call its one result."""
        counts = episode.counts
        counts["turns"] += may_call
        parsed = [self._parsed(call) for call in calls]
        valid = [index for index, call in enumerate(parsed) if not isinstance(call, str)]
        carried_out = valid[: self.budget.calls_left(counts, len(valid))] if may_call else []
        why_not = (
            "Not carried out: your tool calls are used up."
            if not may_call or self.budget.parallel_calls
            else "Not carried out: make one call at a time."
        )

        async def result(index: int) -> dict[str, Any]:
            async def make(step: Step) -> dict[str, Any]:
                call = parsed[index]
                if isinstance(call, str):
                    return {"error": "invalid", "content": call}
                if index not in carried_out:
                    return {"error": "skipped", "content": why_not}
                assert self.toolbox is not None
                result = await self.toolbox.run(call, step, episode.web)
                return {"tool": type(call).__name__.lower(), **vars(call), **vars(result)}

            return dict(await episode.journal.step(f"call/{turn}/{index}", episode.account, make))

        # All are awaited before one's failure is raised, so that those that succeeded are in the journal.
        results = await asyncio.gather(*map(result, range(len(calls))), return_exceptions=True)
        messages = []
        for call, made, outcome in zip(calls, parsed, results, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            _count(counts, made, outcome)
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": outcome["content"]})
        return messages

    def _parsed(self, call: Message) -> Search | Visit | str:
        """Read a call, or say what is wrong with it."""
        try:
            return self.toolbox.parse(call) if self.toolbox else "There are no tools."
        except CallError as error:
            return str(error)


def _count(counts: dict[str, int], call: Search | Visit | str, result: Mapping[str, Any]) -> None:
    """Count a call and what came of it."""
    if "error" in result:
        counts[f"{result['error']}_calls"] += 1
        return
    counts["calls"] += 1
    counts["cached"] += result["cached"]
    if isinstance(call, Visit):
        counts["visits"] += 1
        counts["urls"] += len(result["urls"])
        counts["failed_urls"] += result["failed"]
    else:
        counts["searches"] += 1


def with_unique_ids(calls: Any, turn: int, used: set[str]) -> list[Message]:
    """Return a reply's tool calls, in whatever state, with ids that occur once in the conversation.

    Missing ids and those that were used before are replaced; all are added to the used ones.
    """
    if not isinstance(calls, list):
        return []
    named = []
    for index, call in enumerate(calls):
        call = call if isinstance(call, dict) else {}
        name = call.get("id")
        if not isinstance(name, str) or not name or name in used:
            name = f"call_{turn}_{index}"
            while name in used:
                name += "_"
        used.add(name)
        named.append({**call, "id": name})
    return named


def sendable(call: Message) -> Message:
    """Return a tool call in a form that every server takes back: some parse the arguments and fail where it failed."""
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments if isinstance(arguments, dict) else {})
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        arguments = json.dumps({"unreadable": arguments})
    name = re.sub(r"[^\w-]", "_", bare_name(name))[:64] if isinstance(name, str) else ""  # OpenAI's, of all servers
    function = {**function, "name": name or "unknown", "arguments": arguments}
    return {**call, "type": "function", "function": function}


def verdict_on(reply: Reply) -> Verdict:
    """Judge a reply that calls no tool."""
    text = text_of(reply.message)
    refusal = refusal_in(reply.message)
    ending = ending_of_reply(reply)
    if refusal or ending == "refused":
        named = "" if reply.finish_reason == "content_filter" else f" ({reply.finish_reason})"
        return Verdict("refused", str(refusal or f"stopped by a content filter{named}")[:300], text)
    if ending in ("length", "overflow"):
        limit = "its limit of tokens" if ending == "length" else "the end of what the model can read and write"
        return Verdict("truncated", f"the reply reached {limit}", text)
    if ending == "malformed":
        return Verdict("format_error", "a tool call that could not be read, instead of an answer", text)
    if not text.strip():
        return Verdict("format_error", "an empty reply")
    if not any(_TAG_LINE.sub("", block).strip() for block in _CODE_BLOCK.findall(text)):
        return Verdict("format_error", "a reply without a code block", text)
    return Verdict("answered", prediction=text)


def ending_of_reply(reply: Reply) -> Ending:
    """Say how a reply without calls ended: one that is said to call, but does not and says nothing, is malformed."""
    ending = ending_of(reply.finish_reason)
    return "malformed" if ending == "calls" and not text_of(reply.message).strip() else ending
