"""The course of an episode: the question it answers, the journal of its steps, its outcome and its record."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from src.gisa.agent.cost import Account, Charge, Step
from src.gisa.agent.policy import ReplyTokens
from src.gisa.agent.web import Web
from src.gisa.chat.format import Message
from src.gisa.dataset.gisa import Question
from src.gisa.metrics.behaviour import ToolCall

Outcome = Literal["answered", "format_error", "budget", "truncated", "refused", "infra_error"]
_COUNTED = ("turns", "calls", "searches", "visits", "urls", "failed_urls", "invalid_calls", "skipped_calls", "cached")


@dataclass(frozen=True)
class Attempt:
    """One question to be answered once.

    Attributes:
        question_id: Id of the question, always as text.
        sample: Which of its independent attempts, from 0.
        question: The question as shown to the model.
        answer_type: ``item``, ``set``, ``list`` or ``table``.
    """

    question_id: str
    sample: int
    question: str
    answer_type: str

    @classmethod
    def at(cls, question: Question, sample: int = 0) -> Attempt:
        """Return an attempt at a question of a suite."""
        return cls(question.id, sample, question.text, question.answer_type)


@dataclass(frozen=True)
class Verdict:
    """How an episode ended.

    Attributes:
        outcome: Its kind; an ``infra_error`` is tried again on resume and is never a wrong answer.
        reason: Why, in a few words; empty for a plain answer.
        prediction: The text to be scored; empty without one.
    """

    outcome: Outcome
    reason: str = ""
    prediction: str = ""


class Journal:
    """The steps of one episode in a file that only grows, so that a killed episode goes on where it was.

    A step is asked for by its key. The first time it is carried out and its result appended; after a restart the
    result is read from the file, and nothing is called or paid again. Lines reach the operating system at once, which
    survives a kill of the process at any moment; a line cut short is dropped.
    """

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        """Read what an earlier process left.

        Args:
            path: The file.
            stream: The same file, open for reading and writing, locked by the caller.
        """
        self.path = path
        self._stream = stream
        content = stream.read()
        whole = content[: content.rfind(b"\n") + 1]
        stream.truncate(len(whole))
        stream.seek(len(whole))
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
        self._results = {line["key"]: line for line in self.lines if "value" in line}
        self._append({"opened": datetime.now(UTC).isoformat(timespec="seconds")})

    @classmethod
    def in_memory(cls, attempt: Attempt, steps: Iterable[Mapping[str, Any]] = ()) -> Journal:
        """Return a journal without a file, with the steps of a record if there is one."""
        content = b"".join(json.dumps(step).encode() + b"\n" for step in steps)
        return cls(Path(f"{attempt.question_id}.{attempt.sample}"), io.BytesIO(content))

    @property
    def spent_usd(self) -> float:
        """What the episode has cost so far, as far as prices are known."""
        return sum(charge["usd"] or 0.0 for line in self.lines for charge in line.get("charges", []))

    async def step(self, key: str, account: Account, make: Callable[[Step], Awaitable[Any]]) -> Any:
        """Carry out a step, or return what it gave before.

        Args:
            key: Names the step within its episode, the same after a restart.
            account: The episode's account.
            make: Carries it out; what it returns must be plain JSON.
        """
        if key in self._results:
            return self._results[key]["value"]
        step, began = Step(account, name=f"{self.path.name}/{key}"), time.monotonic()
        try:
            value = await make(step)
        except Exception as error:
            self._append({"key": key, "error": f"{type(error).__name__}: {error}", **_books(step, began)})
            raise
        line = {"key": key, "value": value, **_books(step, began)}
        self._append(line)
        self._results[key] = line
        return value

    def _append(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        # ASCII: no text of a page, a lone surrogate included, can break the file.
        self._stream.write(json.dumps(line).encode() + b"\n")
        self._stream.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def _books(step: Step, began: float) -> dict[str, Any]:
    return {
        "charges": [dict(vars(charge)) for charge in step.charges],
        "failures": step.failures,
        "seconds": round(time.monotonic() - began, 3),
    }


@dataclass
class Episode:
    """One question being answered.

    Attributes:
        attempt: The question.
        journal: Where its steps are kept.
        account: Where its charges are booked.
        web: The connections.
        messages: The conversation so far.
        counts: Turns (replies with calls), calls carried out, searches, visits, urls (visited), failed_urls,
            invalid_calls (malformed), skipped_calls (well-formed, but beyond what a turn or the budget allows), cached.
        tokens: Of each reply so far, where the policy tells them; those of an earlier process are not known.
        verdict: How it ended; None before.
    """

    attempt: Attempt
    journal: Journal
    account: Account
    web: Web
    messages: list[Message] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTED, 0))
    tokens: list[ReplyTokens] = field(default_factory=list)
    verdict: Verdict | None = None

    def record(self) -> dict[str, Any]:
        """Return what is kept of it; the question's text is left out, as questions may not be published."""
        steps = [line for line in self.journal.lines if "key" in line]
        return {
            "question_id": self.attempt.question_id,
            "sample": self.attempt.sample,
            "answer_type": self.attempt.answer_type,
            **vars(self.verdict),
            "counts": self.counts,
            "contaminated": sorted({url for line in steps for url in _contaminated(line)}),
            "spent": _spent(steps),
            "seconds": round(sum(line["seconds"] for line in steps), 3),
            "opened": [line["opened"] for line in self.journal.lines if "opened" in line],
            "steps": steps,
        }


def tool_calls_of(steps: Iterable[Mapping[str, Any]]) -> list[ToolCall]:
    """Return the calls that were carried out, in their order.

    Args:
        steps: ``steps`` of a record, or the lines of a journal.
    """
    values = [step["value"] for step in steps if step.get("key", "").startswith("call/") and "value" in step]
    return [
        ToolCall(value["content"], value.get("query"), () if "query" in value else tuple(value["urls"]))
        for value in values
        if "error" not in value
    ]


def replies_of(steps: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages of the policy, in their order; ``steps`` as for ``tool_calls_of``."""
    return [step["value"]["message"] for step in steps if step.get("key", "").startswith("reply/") and "value" in step]


def infra_failures(records: Iterable[Mapping[str, Any]]) -> str:
    """Say of how many episodes, given by their records, failures of the infrastructure were the end, and which."""
    reasons = [record["reason"] if record["outcome"] == "infra_error" else None for record in records]
    counted = Counter(reason for reason in reasons if reason is not None)
    return "\n".join(
        [
            f"{counted.total()} of {len(reasons)} episodes have no answer for reasons of infrastructure:",
            *(f"- {count} times: {reason}" for reason, count in counted.most_common(5)),
        ]
    )


def _contaminated(line: dict[str, Any]) -> list[str]:
    """Return the benchmark's own pages that a tool call came upon."""
    value = line.get("value")
    return list(value.get("contaminated", [])) if isinstance(value, dict) else []


def _spent(steps: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Sum tokens and price by part; one unknown price makes its part's sum unknown."""
    parts: dict[str, list[Charge]] = {}
    for line in steps:
        for charge in line["charges"]:
            parts.setdefault(charge["part"], []).append(Charge(**charge))
    return {
        part: {
            "calls": len(charges),
            "prompt_tokens": sum(charge.prompt_tokens for charge in charges),
            "completion_tokens": sum(charge.completion_tokens for charge in charges),
            "usd": None
            if any(charge.usd is None for charge in charges)
            else sum(charge.usd or 0 for charge in charges),
        }
        for part, charges in parts.items()
    }
