"""Many episodes at once, a bounded number under way, stored as they end; Ctrl-C lets these end, twice stops all."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from src.gisa.agent.backends import PageSource, SearchEngine
from src.gisa.agent.cache import Cache
from src.gisa.agent.compaction import Compaction
from src.gisa.agent.cost import Account, CeilingReachedError, PriceList
from src.gisa.agent.policy import Policy, ScriptedPolicy
from src.gisa.agent.prompts import Instructions
from src.gisa.agent.react import Budget, ReActAgent
from src.gisa.agent.reader import OwnReader
from src.gisa.agent.tools import Toolbox
from src.gisa.agent.trajectory import (
    Attempt,
    Episode,
    Journal,
    MemoryStore,
    RunStore,
    Verdict,
    replies_of,
    tool_calls_of,
)
from src.gisa.agent.web import Web
from src.gisa.chat.format import Message
from src.gisa.metrics.behaviour import ToolCall
from src.launch.config import build
from src.launch.errors import InputError, resume_command
from src.launch.values import Count, Positive, Weight


class Pause:
    """Watches for Ctrl-C (SIGINT) while a rollout is at work; to be used as a context manager in its event loop.

    Outside the main thread, and where the signal is ignored, as for commands in the background of a script, it does
    nothing.

    Attributes:
        is_asked: Whether nothing new is to be begun.
    """

    def __init__(self, under_way: Callable[[], int]) -> None:
        """Take what tells how many episodes are under way."""
        self.is_asked = False
        self._under_way = under_way
        self._before: Any = None

    def __enter__(self) -> Pause:
        self._loop = asyncio.get_running_loop()
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(before):
            self._before = before
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None and signal.getsignal(signal.SIGINT) == self._on_signal:
            signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked:
            print("\nStopping at once.", file=sys.stderr, flush=True)
            signal.signal(signal.SIGINT, self._before)
            self._before(number, frame)  # that of asyncio cancels all that is under way
            return
        self.is_asked = True
        print(
            f"\nPausing: {self._under_way()} episodes under way end first, none is begun. Ctrl-C again stops at once.",
            file=sys.stderr,
            flush=True,
        )
        self._loop.call_soon_threadsafe(lambda: None)  # wakes the loop


@dataclass(frozen=True)
class Script:
    """What is to be done for a question.

    Attributes:
        attempt: At the question.
        calls: Name and arguments of each tool call, one a turn.
        answer: The text of the last turn.
        said: What is said before a call, by the call's number from 0.
    """

    attempt: Attempt
    calls: Sequence[tuple[str, Mapping[str, Any]]]
    answer: str
    said: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Replayed:
    """What came of a script, or of a record.

    Attributes:
        messages: The conversation, the answer last, in the form of the chat completions API.
        verdict: How it ended: anything but ``answered`` means that it could not be gone through to its end.
        counts: Calls, visits, pages that could not be read and so on, as in a record of an episode.
        tool_calls: What was done and read.
        tools: What could be called, as the policy is told.
    """

    messages: list[Message]
    verdict: Verdict
    counts: dict[str, int]
    tool_calls: list[ToolCall]
    tools: Sequence[Mapping[str, Any]]


@dataclass
class Rollout:
    """An agent, its connections, and how much of time and money it may take.

    Attributes:
        policy, budget, today, instructions, episode_timeout_s, compaction: See ``ReActAgent``.
        search, pages, extractor, cache, results, max_urls, page_chars: See ``Toolbox``; without the first two, the
            agent has no tools. The extractor may be the policy's own model, see ``OwnReader``.
        prices: Of models and services.
        web: The connections.
        concurrency: Most episodes under way at once.
        question_usd: Ceiling of one question; None for none.
        run_usd: Ceiling of the whole run, resumes included; None for none.

    Raises:
        InputError: there is a search without pages, or the other way round.
    """

    policy: Policy
    search: SearchEngine | None
    pages: PageSource | None
    prices: PriceList
    budget: Budget
    web: Web
    today: str
    extractor: Policy | OwnReader | None = None
    cache: Cache | None = None
    instructions: Instructions = "full"
    results: Count = 10
    max_urls: Count = 5
    page_chars: Count = 40_000
    episode_timeout_s: Positive = 3600.0
    concurrency: Count = 64
    question_usd: Weight | None = None
    run_usd: Weight | None = None
    compaction: Compaction = field(default_factory=Compaction)

    def __post_init__(self) -> None:
        """Put the agent together."""
        if (self.search is None) != (self.pages is None):
            raise InputError(
                "agent.search and agent.pages go together: give both for an agent with tools, as in\n"
                "  agent/search=serper agent/pages=direct\nor neither for one answer without tools:  agent=single_shot"
            )
        toolbox = None
        if self.search and self.pages:
            extractor = self.extractor.of(self.policy) if isinstance(self.extractor, OwnReader) else self.extractor
            backends = (self.search, self.pages, extractor, self.cache)
            toolbox = Toolbox(*backends, self.results, self.max_urls, self.page_chars)
        settings = (self.budget, self.today, self.instructions, self.episode_timeout_s, self.compaction)
        self.agent = ReActAgent(self.policy, toolbox, *settings)

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What the policy's weights have learnt from, where it knows; see ``LocalPolicy``."""
        manifest: dict[str, Any] | None = getattr(self.policy, "manifest", None)
        return manifest

    def run(self, attempts: Iterable[Attempt], store: RunStore | MemoryStore, *, processes: int = 1) -> Counter[str]:
        """Answer what the store does not hold yet; see ``roll_out``."""
        return asyncio.run(self.roll_out(attempts, store, processes=processes))

    async def roll_out(
        self, attempts: Iterable[Attempt], store: RunStore | MemoryStore, *, processes: int = 1
    ) -> Counter[str]:
        """Answer what the store does not hold yet.

        Attempts are read as needed. What is left of the run's ceiling is divided among the processes.

        Returns:
            How many episodes ended here, by outcome; under ``passed_over`` those that were complete, or elsewhere in
            work.

        Raises:
            InputError: the run's ceiling is reached, or something the user gave is wrong. Ended episodes are stored.
            KeyboardInterrupt: by Ctrl-C; see ``Pause``.
        """
        spent_usd = store.spent_usd() if self.run_usd is not None else 0.0
        run = Account("run", None if self.run_usd is None else max(0.0, self.run_usd - spent_usd) / processes)
        outcomes: Counter[str] = Counter()
        waiting = iter(attempts)
        short: list[CeilingReachedError] = []
        under_way: set[Attempt] = set()

        async def work(web: Web) -> None:
            while not (short or pause.is_asked) and (attempt := next(waiting, None)) is not None:
                journal = store.open_journal(attempt)
                if journal is None:
                    outcomes["passed_over"] += 1
                    continue
                with journal:
                    under_way.add(attempt)
                    account = Account("question", self.question_usd, run, spent_usd=journal.spent_usd)
                    episode = Episode(attempt, journal, account, web)
                    try:
                        verdict = await self.agent.answer(episode)
                    except CeilingReachedError as error:  # what is under way may still fit, and is paid already
                        short.append(error)
                        return
                    # The disk takes its time to confirm, in which the other episodes go on.
                    await asyncio.to_thread(store.finish, episode)
                outcomes[verdict.outcome] += 1
                under_way.discard(attempt)

        pause = Pause(lambda: len(under_way))
        async with self.web as web:
            await _finish([asyncio.create_task(work(web)) for _ in range(self.concurrency)], pause)
        if short:
            folder = store.folder.parent if isinstance(store, RunStore) else Path("<folder>")
            raise InputError(
                f"The run stops at its ceiling: {self.run_usd} USD, of which {spent_usd + run.spent_usd:.4f} are "
                f"spent.\n{sum(outcomes.values())} episodes are done. To go on, resume with a higher ceiling:\n"
                f"  {resume_command(folder)} agent.run_usd=<USD>"
            ) from short[0]
        if pause.is_asked and next(waiting, None) is not None:
            raise KeyboardInterrupt
        return outcomes

    def replay(self, scripts: Iterable[Script]) -> list[Replayed]:
        """Act out given conversations, one after the other, with the tools, prompts and budget of a rollout.

        The policy is not asked.
        """

        async def main() -> list[Replayed]:
            replayed = []
            async with self.web:
                for script in scripts:
                    said = iter(_messages(script))
                    policy = ScriptedPolicy(lambda _, said=said: next(said))  # type: ignore[misc]
                    replayed.append(await self._replay(policy, script.attempt, Journal.in_memory(script.attempt)))
            return replayed

        return asyncio.run(main())

    def recall(self, episodes: Iterable[tuple[Attempt, Mapping[str, Any]]]) -> list[Replayed]:
        """Go through recorded episodes again: replies and results are those recorded, and nothing is carried out.

        Returns:
            What came of each; its outcome is an ``infra_error`` if the agent would have gone on where the record ends.
        """

        async def main() -> list[Replayed]:
            return [
                await self._replay(ScriptedPolicy(_not_recorded), attempt, Journal.in_memory(attempt, record["steps"]))
                for attempt, record in episodes
            ]

        return asyncio.run(main())

    async def _replay(self, policy: Policy, attempt: Attempt, journal: Journal) -> Replayed:
        with journal:
            episode = Episode(attempt, journal, Account("question", None), self.web)
            verdict = await replace(self.agent, policy=policy).answer(episode)
        messages = [*episode.messages, *replies_of(journal.lines)[-1:]]
        return Replayed(messages, verdict, episode.counts, tool_calls_of(journal.lines), self.agent.specs)


async def _finish(workers: Sequence[asyncio.Task[None]], pause: Pause) -> None:
    """Wait for the workers; the first that fails, and Ctrl-C twice, end the others."""
    try:
        with pause:
            await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def rollout_with(policy: Policy, node: dict[str, Any]) -> Rollout:
    """Build the agent of a config with a policy that is there already."""
    rollout: Rollout = build({**node, "policy": None, "_partial_": True})(policy=policy)
    return rollout


def _messages(script: Script) -> list[Message]:
    """Return what the assistant says in each turn of a script."""
    turns: list[Message] = [
        {"content": script.said.get(number, ""), "tool_calls": [_call(number, name, arguments)]}
        for number, (name, arguments) in enumerate(script.calls)
    ]
    return [*turns, {"content": script.answer}]


def _call(number: int, name: str, arguments: Mapping[str, Any]) -> Message:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"{number:09}", "type": "function", "function": function}  # some templates want ids of this form


def _not_recorded(_: Sequence[Message]) -> Message:
    raise ValueError("the record ends before the episode does")
