"""The course of an episode: the question it answers, the journal of its steps, its outcome and its record."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from src.gisa.agent.cost import Account, Charge, Step
from src.gisa.metrics.behaviour import ToolCall

Outcome = Literal["answered", "format_error", "budget", "truncated", "refused", "infra_error"]


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

    @property
    def name(self) -> str:
        """Id and sample, as in messages."""
        return f"{self.question_id}/{self.sample}"


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
        """Keep the file open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file, which frees its lock."""
        self._stream.close()


def _books(step: Step, began: float) -> dict[str, Any]:
    return {
        "charges": [dict(vars(charge)) for charge in step.charges],
        "failures": step.failures,
        "seconds": round(time.monotonic() - began, 3),
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


def record_of(task: Attempt, verdict: Verdict, journal: Journal, counts: dict[str, int]) -> dict[str, Any]:
    """Put together the record of an episode; the question's text is left out, as questions may not be published.

    Args:
        task: What was asked.
        verdict: How it ended.
        journal: What happened.
        counts: Turns, calls and the like, by name.
    """
    steps = [line for line in journal.lines if "key" in line]
    return {
        "question_id": task.question_id,
        "sample": task.sample,
        "answer_type": task.answer_type,
        **vars(verdict),
        "counts": counts,
        "contaminated": sorted({url for line in steps for url in _contaminated(line)}),
        "spent": _spent(steps),
        "seconds": round(sum(line["seconds"] for line in steps), 3),
        "opened": [line["opened"] for line in journal.lines if "opened" in line],
        "steps": steps,
    }


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
