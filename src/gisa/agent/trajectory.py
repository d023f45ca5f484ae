"""The course of an episode: question, journal, outcome, record; and where episodes are kept, resumable and shared."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal
from urllib.parse import quote

from src.gisa.agent.cost import Account, Step
from src.gisa.agent.policy import ReplyTokens
from src.gisa.agent.web import Web
from src.gisa.chat.format import Message
from src.gisa.dataset.gisa import Question
from src.gisa.metrics.behaviour import ToolCall
from src.launch.errors import InputError
from src.launch.storage import write_atomic

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
    survives a kill of the process at any moment; a line cut short or damaged is dropped, and all behind it. The stream
    is the file, open for reading and writing, locked by the caller.
    """

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self.path = path
        self._stream = stream
        self.lines, length = whole_lines(stream.read())
        stream.truncate(length)
        stream.seek(length)
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

    def holds(self, key: str) -> bool:
        """Whether a step was carried out."""
        return key in self._results

    def charges(self, key: str) -> list[dict[str, Any]]:
        """Return the charges of a step that was carried out."""
        return list(self._results[key].get("charges", [])) if key in self._results else []

    async def step(self, key: str, account: Account, make: Callable[[Step], Awaitable[Any]]) -> Any:
        """Carry out a step, or return what it gave before: plain JSON.

        Its key names it within its episode, the same after a restart.
        """
        if key in self._results:
            return self._results[key]["value"]
        step, began = Step(account, name=f"{self.path.name}/{key}"), time.monotonic()
        try:
            value = await make(step)
        except BaseException as error:  # by a timeout or the end of the run; it has been paid all the same
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


def whole_lines(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """Read a journal up to the first line that is cut short or damaged; also return of how many bytes that is."""
    lines: list[dict[str, Any]] = []
    length = 0
    for written in content.split(b"\n")[:-1]:
        try:
            line = json.loads(written)
        except ValueError:
            break
        if not isinstance(line, dict):
            break
        lines.append(line)
        length += len(written) + 1
    return lines, length


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
        left_out_turns: How many turns are no longer among the messages; see ``Compaction``.
        notes: What stands for them; None for nothing.
    """

    attempt: Attempt
    journal: Journal
    account: Account
    web: Web
    messages: list[Message] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTED, 0))
    tokens: list[ReplyTokens] = field(default_factory=list)
    verdict: Verdict | None = None
    left_out_turns: int = 0
    notes: str | None = None

    def record(self) -> dict[str, Any]:
        """Return what is kept of it; the question's text is left out, as questions may not be published."""
        steps = [line for line in self.journal.lines if "key" in line]
        values = [line["value"] for line in steps if isinstance(line.get("value"), dict)]
        return {
            "question_id": self.attempt.question_id,
            "sample": self.attempt.sample,
            "answer_type": self.attempt.answer_type,
            **vars(self.verdict),
            "counts": self.counts,
            "contaminated": sorted({url for value in values for url in value.get("contaminated", [])}),
            "spent": _spent(steps),
            "seconds": round(sum(line["seconds"] for line in steps), 3),
            "opened": [line["opened"] for line in self.journal.lines if "opened" in line],
            "steps": steps,
        }


def tool_calls_of(steps: Iterable[Mapping[str, Any]]) -> list[ToolCall]:
    """Return the calls that were carried out, in their order; the steps are those of a record, or a journal's lines."""
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


_ADVICE = {
    "truncated": "Give replies room (agent.policy.max_output_tokens) and results less of it (agent.page_chars, "
    "agent.results), or take a model that reads more.",
    "format_error": "Look in page.html at what it writes for a ```tsv block; agent.instructions=full shows one.",
    "budget": "Look in page.html at what it does with its calls; agent.budget says how many it has.",
    "refused": "Look in page.html at what was refused.",
}


def all_alike(ends: Iterable[tuple[str | None, str]]) -> list[str]:
    """Say so, and what to do, where several episodes, given by outcome and reason, all ended in one way, unanswered."""
    counted = Counter(ends)
    outcomes = {outcome for outcome, _ in counted}
    advice = _ADVICE.get(str(*outcomes)) if len(outcomes) == 1 and counted.total() > 1 else None
    if advice is None:
        return []
    ((outcome, reason), _), *_ = counted.most_common(1)
    such = f", such as: {reason}" if reason else ""
    return [f"All {counted.total()} episodes ended as {outcome}{such}. The scores say no more than that. {advice}"]


def _spent(steps: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Sum tokens and price by part; one unknown price makes its part's sum unknown.

    ``estimated_calls`` is there if tokens of some were counted here, as the server told none, ``reused_calls`` if
    replies kept from before were used, ``model_calls`` if another model stood in.
    """
    parts: dict[str, dict[str, Any]] = {}
    for charge in (charge for line in steps for charge in line["charges"]):
        nothing = {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "usd": 0}
        spent = parts.setdefault(charge["part"], nothing)
        spent["calls"] += 1
        spent["prompt_tokens"] += charge["prompt_tokens"]
        spent["completion_tokens"] += charge["completion_tokens"]
        for special in ("estimated", "reused", "model"):
            if charge.get(special):
                spent[f"{special}_calls"] = spent.get(f"{special}_calls", 0) + 1
        spent["usd"] = None if None in (spent["usd"], charge["usd"]) else spent["usd"] + charge["usd"]
    return parts


class RunStore:
    """The episodes of one run.

    ``episodes/<id>.<sample>.json`` is the record of an ended episode; ``episodes/<id>.<sample>.events.jsonl`` is the
    journal of one under way, or of one that an infrastructure failure ended. Several processes may work in one folder:
    who holds a journal's lock works on that episode, and a killed process holds none.

    Args:
        folder: The run folder.
        settings: Everything that changes an answer: questions, policy, tools, prompts, budget. What does not
            (concurrency, ceilings) stays out, and may differ between resumes. Of one ``suite``, the ``questions`` may.

    Raises:
        InputError: the folder holds a run with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder / "episodes"
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = folder / "agent.json"
        wanted = json.loads(json.dumps(settings, sort_keys=True, default=str))
        if not manifest.is_file():
            write_atomic(manifest, json.dumps(wanted, indent=1))
        kept = json.loads(manifest.read_bytes())
        grows = kept.get("suite") is not None and {**kept, "questions": None} == {**wanted, "questions": None}
        if grows and kept != wanted:
            write_atomic(manifest, json.dumps(wanted, indent=1))
        elif kept != wanted:
            changed = sorted(key for key in kept.keys() | wanted.keys() if kept.get(key) != wanted.get(key))
            raise InputError(
                f"{folder} holds a run with other settings; these differ: {', '.join(changed)}.\n"
                "Answers of two settings may not be mixed. Give the same settings again, or start in a new folder."
            )

    def is_complete(self, attempt: Attempt) -> bool:
        """Tell whether an episode has ended other than by an infrastructure failure, and its record is whole."""
        try:
            return bool(json.loads(self._record(attempt).read_bytes())["outcome"] != "infra_error")
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False

    def open_journal(self, attempt: Attempt) -> Journal | None:
        """Open the journal of an episode that is still to be done; None if it is complete or another process has it."""
        path = self._path(attempt, "events.jsonl")
        if self.is_complete(attempt):
            self._discard(path)  # a kill may have come between the record and this
            return None
        stream = path.open("a+b")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            return None
        if self.is_complete(attempt):  # ended by another process between the look and the lock
            stream.close()
            self._discard(path)
            return None
        stream.seek(0)
        return Journal(path, stream)

    def finish(self, episode: Episode) -> None:
        """Write the record of an ended episode; its journal is kept only if the episode is to be retried."""
        record = episode.record()
        write_atomic(self._record(episode.attempt), json.dumps(record))
        if record["outcome"] != "infra_error":
            self._discard(self._path(episode.attempt, "events.jsonl"))

    def records(self) -> Iterator[dict[str, Any]]:
        """Read the records one by one, by file name."""
        for path in sorted(self.folder.glob("*.json")):
            yield json.loads(path.read_bytes())

    def spent_usd(self) -> float:
        """Return what the whole run has cost so far, episodes under way included."""
        charges = 0.0
        for path in self.folder.glob("*.json"):
            with suppress(ValueError, KeyError, TypeError):  # a torn record; its episode is done again
                if not path.with_suffix(".events.jsonl").is_file():
                    spent = json.loads(path.read_bytes())["spent"]
                    charges += sum(part["usd"] or 0.0 for part in spent.values())
        for path in self.folder.glob("*.events.jsonl"):
            for line in whole_lines(path.read_bytes())[0]:
                charges += sum(charge["usd"] or 0.0 for charge in line.get("charges", []))
        return charges

    def _record(self, attempt: Attempt) -> Path:
        return self._path(attempt, "json")

    def _path(self, attempt: Attempt, ending: str) -> Path:
        name = quote(attempt.question_id, safe="")
        if len(name) > 150 or name.startswith("."):  # no file system takes more than 255 bytes
            name = hashlib.sha256(attempt.question_id.encode("utf-8", "replace")).hexdigest()
        return self.folder / f"{name}.{attempt.sample}.{ending}"

    @staticmethod
    def _discard(path: Path) -> None:
        with suppress(FileNotFoundError):
            path.unlink()


class MemoryStore:
    """Episodes that are kept nowhere else, by attempt, for a policy that learns from them at once."""

    def __init__(self) -> None:
        self.ended: dict[Attempt, Episode] = {}

    def open_journal(self, attempt: Attempt) -> Journal:
        """Begin the journal of an episode."""
        return Journal.in_memory(attempt)

    def finish(self, episode: Episode) -> None:
        """Keep an ended episode, with the tokens of its replies."""
        self.ended[episode.attempt] = episode

    def spent_usd(self) -> float:
        """Return 0: nothing was spent before."""
        return 0.0
