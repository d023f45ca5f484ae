"""The GISA benchmark on disk, as published: encrypted questions, gold answers, human traces step by step."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from src.gisa.metrics.answer_table import TableError
from src.gisa.metrics.answer_text import decode_gold
from src.gisa.metrics.behaviour import canonical_url, query_of, redirected
from src.launch.config import build
from src.launch.errors import InputError
from src.launch.lines import existing_file, fault, read_json_lines, read_json_object

AnswerType = Literal["item", "set", "list", "table"]
QuestionType = Literal["stable", "live"]
Evidence = Literal["typed", "results_page", "chain", "listed"]
_NAME = re.compile(r"[\w-]+")  # of a file, without its ending: an id must not lead out of the folder
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True)
class Question:
    """One question. Its text stays out of ``repr``, and so of logs and messages: published, it would spoil the test."""

    id: str
    text: str = field(repr=False)
    answer_type: AnswerType
    question_type: QuestionType
    topic: str


class SearchResult(BaseModel):
    """One hit of a search."""

    url: str
    title: str = ""
    snippet: str = ""


class ResultPage(BaseModel):
    """One page of hits."""

    page: int | str
    results: list[SearchResult]


class Click(BaseModel):
    """A step from one page to another, by their addresses."""

    model_config = ConfigDict(populate_by_name=True)

    source: str = Field(alias="from")
    target: str = Field(alias="to")


class Trace(BaseModel):
    """What a human did to answer a question: queries, pages of hits by query, and clicks in their order."""

    model_config = ConfigDict(populate_by_name=True)

    searches: list[str] = Field(alias="search")
    results: dict[str, list[ResultPage]] = Field(alias="result")
    clicks: list[Click] = Field(alias="click")


class Gisa:
    """Questions, gold answers and human traces of one folder.

    ``encrypted_question.jsonl`` (or ``question.jsonl`` with plain text), ``answer/<id>.csv``, ``trace/<id>.json``, as
    published on the HuggingFace hub. Our addition: ``snapshot/<YYYY-MM-DD>/<id>.csv`` holds the answer of a live
    question from that day on, so that an old run can be scored by answers of another day.

    Args:
        root: The folder.
        snapshot: A day that has a folder of its own in ``snapshot/``; answers come from the latest one up to it. None
            for the published ones.
        show_questions: Whether a report may hold the text of the questions; published, it would spoil the test.

    Attributes:
        questions: In the order of the file; answers and traces are read when asked for.

    Raises:
        InputError: the folder has no questions, a line of them is faulty, two share an id, or there is no such
            snapshot.
    """

    def __init__(self, root: str, snapshot: str | None = None, *, show_questions: bool = False) -> None:
        self.root, self.snapshot, self.show_questions = Path(root), snapshot, show_questions
        encrypted, plain = self.root / "encrypted_question.jsonl", self.root / "question.jsonl"
        path = plain if plain.is_file() and not encrypted.is_file() else encrypted
        existing_file(path, "the questions of GISA, encrypted_question.jsonl or question.jsonl, below dataset.root")
        self.questions = [_question(record, path, number) for number, record in read_json_lines(path)]
        met = Counter(question.id for question in self.questions)
        if repeated := [name for name, times in met.items() if times > 1]:
            raise InputError(f"{path} has several questions with the id {', '.join(repeated)}; I need each id once.")
        if snapshot is not None and snapshot not in self.snapshots:
            raise InputError(
                f"dataset.snapshot={snapshot}: {self.root / 'snapshot'} holds {', '.join(self.snapshots) or 'nothing'}."
                "\nGive one of these, or dataset.snapshot=null for the published answers."
            )

    @property
    def protocol(self) -> dict[str, str | None]:
        """What a run notes down of it, so that two runs can be told to be comparable."""
        return {"dataset": f"gisa ({self.fingerprint[:12]})", "snapshot": self.snapshot}

    @cached_property
    def snapshots(self) -> list[str]:
        """The days that have answers of their own, the earliest first."""
        days = (path.name for path in (self.root / "snapshot").glob("*") if path.is_dir())
        return sorted(day for day in days if _DAY.fullmatch(day))

    @cached_property
    def metadata(self) -> dict[str, dict[str, Any]]:
        """What ``suite.json`` of an embedded suite says about each question, by its id; empty for any other suite."""
        path = self.root / "suite.json"
        return dict(json.loads(path.read_bytes())) if path.is_file() else {}

    def gold_path(self, question: Question) -> Path:
        """Return where the answer of a question lies: in the latest snapshot that has it, or in ``answer/``."""
        if self.snapshot is not None and question.question_type == "live":
            for day in reversed([day for day in self.snapshots if day <= self.snapshot]):
                if (path := self.root / "snapshot" / day / f"{question.id}.csv").is_file():
                    return path
        return self.root / "answer" / f"{question.id}.csv"

    def gold(self, question: Question) -> bytes:
        """Return the content of the gold file; nothing where it is missing, which ``remarks`` tells."""
        path = self.gold_path(question)
        return path.read_bytes() if path.is_file() else b""

    def has_trace(self, question: Question) -> bool:
        """Tell whether the human trace of a question is there."""
        return (self.root / "trace" / f"{question.id}.json").is_file()

    def trace(self, question: Question) -> Trace:
        """Return the human trace of a question.

        Raises:
            InputError: there is no such file, or it is no trace.
        """
        path = existing_file(
            self.root / "trace" / f"{question.id}.json", f"the human trace of question {question.id} below dataset.root"
        )
        try:
            return Trace.model_validate(read_json_object(path))
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            location = ".".join(map(str, first["loc"]))
            raise InputError(
                f"{path}: {location}: {first['msg']} ({error.error_count()} fault(s)).\nI need search [query], result "
                "{query: [{page, results: [{url, title, snippet}]}]}, click [{from, to}]."
            ) from error

    @cached_property
    def fingerprint(self) -> str:
        """See ``fingerprint_of``, of all its questions; two runs with the same one are comparable."""
        return self.fingerprint_of(self.questions)

    def fingerprint_of(self, questions: Iterable[Question]) -> str:
        """Return the SHA-256 of the ids, types and gold answers that count of some of its questions."""
        digest = hashlib.sha256()
        for question in sorted(questions, key=lambda question: question.id):
            gold = hashlib.sha256(self.gold(question)).hexdigest()
            digest.update(f"{question.id} {question.answer_type} {question.question_type} {gold}\n".encode())
        return digest.hexdigest()

    def keep_spread(self, most: int | None) -> None:
        """Keep only so many questions, spread evenly over all of them; None keeps all."""
        count = len(self.questions)
        if most is not None and most < count:
            self.questions = [self.questions[at * count // most] for at in range(most)]

    def remarks(self) -> list[str]:
        """Return what is odd about the files: missing and extra ones, answers in no or in another encoding.

        A missing ``trace`` folder is one remark; nothing is wrong with a copy that is only scored.
        """
        ids = [question.id for question in self.questions]
        live = [question.id for question in self.questions if question.question_type == "live"]
        remarks = [
            *_compared(self.root / "answer", ".csv", ids, ids),
            *_compared(self.root / "trace", ".json", ids, ids),
        ]
        for day in self.snapshots:
            remarks += _compared(self.root / "snapshot" / day, ".csv", [], live)
        for question in self.questions:
            path = self.gold_path(question)
            try:
                encoding = decode_gold(self.gold(question))[1]
            except TableError as error:
                remarks.append(f"{path.relative_to(self.root)}: {error}")
            else:
                if encoding != "utf-8-sig":
                    remarks.append(f"{path.relative_to(self.root)}: read as {encoding}, as it is not UTF-8")
        return remarks


def load_suite(node: dict[str, Any], needed: str) -> Gisa:
    """Build the data set of a config.

    Raises:
        InputError: it is no suite of questions; the message ends with what is needed.
    """
    suite = build(node)
    if not isinstance(suite, Gisa):
        raise InputError(f"dataset is {node['_target_']}, and {needed}")
    return suite


def is_id(text: str) -> bool:
    """Whether a text can be the id of a question, and so the name of a file that leads out of no folder."""
    return _NAME.fullmatch(text) is not None


def decrypt(text: str, password: str) -> str:
    """Decrypt a question.

    Source: the scheme of BrowseComp: base64 of the bytes XOR the SHA-256 of the password, repeated.

    Raises:
        ValueError: the text is not base64, or the password is not its own.
    """
    encrypted = base64.b64decode(text, validate=True)
    key = itertools.cycle(hashlib.sha256(password.encode()).digest())
    return bytes(byte ^ mask for byte, mask in zip(encrypted, key, strict=False)).decode()


def _question(record: dict[str, Any], path: Path, line: int) -> Question:
    """Check one line; messages show neither question nor password."""
    name = record.get("id")
    if isinstance(name, bool) or not isinstance(name, int | str) or not is_id(str(name)):
        raise fault(path, line, f"id={name!r} must be a whole number, or text of letters, digits, - and _")
    for key, allowed in (("answer_type", get_args(AnswerType)), ("question_type", get_args(QuestionType))):
        if record.get(key) not in allowed:
            raise fault(path, line, f"{key}={record.get(key)!r} must be one of {', '.join(allowed)}")
    keys = ["question", "topic", *(["canary"] if path.name.startswith("encrypted") else [])]
    for key in keys:
        if not isinstance(record.get(key), str):
            raise fault(path, line, f"{key} must be text, and is {type(record.get(key)).__name__}")
    text = record["question"]
    if "canary" in keys:
        try:
            text = decrypt(text, record["canary"])
        except ValueError:
            raise fault(path, line, f"question {name} cannot be decrypted with the canary of its line") from None
    return Question(str(name), text, record["answer_type"], record["question_type"], record["topic"])


def _compared(folder: Path, ending: str, needed: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    """Name the files that a folder lacks, and those that belong to no question."""
    if not folder.is_dir():
        yield f"{folder.name}/ is missing"
        return
    present = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    yield from (f"{folder.name}/{name}{ending} is missing" for name in needed if f"{name}{ending}" not in present)
    yield from (f"{folder.name}/{name} is extra" for name in sorted(present - {f"{name}{ending}" for name in known}))


@dataclass(frozen=True)
class Step:
    """One step of a human.

    Attributes:
        kind: What was done.
        what: The query, or the address of the page, behind any redirect.
        evidence: What tells the search that a visit belongs to, from sure to less sure: it was clicked on a
            ``results_page``; on a page that the search had led to, by a ``chain`` of clicks; or it is just ``listed``
            in the results of the search. A search was ``typed``.
    """

    kind: Literal["search", "visit"]
    what: str
    evidence: Evidence


@dataclass(frozen=True)
class HumanTrajectory:
    """A human's way to an answer.

    Attributes:
        steps: Each search, followed by the visits that belong to it in the order of the clicks.
        orphans: Addresses of the visits that belong to no search.
        left_out: How many clicks are no step: to ``results_pages``, or ``repeats`` of a visit within one search.
    """

    steps: list[Step]
    orphans: list[str]
    left_out: Counter[str]


def human_trajectory(trace: Trace) -> HumanTrajectory:
    """Put the searches and clicks of a trace in order.

    A click belongs to the query whose results page it came from; else to the one of the page it came from; else to one
    whose results list it. Of several searches with that query, or that list it, the next one is meant, counted from the
    search of the click before; after the last, the last.
    """
    resolver = ClickResolver(trace)
    visits: list[list[Step]] = [[] for _ in trace.searches]
    trajectory = HumanTrajectory([], [], Counter())
    for click in trace.clicks:
        if query_of(click.target) is not None:
            trajectory.left_out["results_pages"] += 1
            continue
        address = redirected(click.target)
        resolved = resolver.search_of(click)
        if resolved is None:
            trajectory.orphans.append(address)
            continue
        search, evidence = resolved
        if canonical_url(address) in {canonical_url(step.what) for step in visits[search]}:
            trajectory.left_out["repeats"] += 1
        else:
            visits[search].append(Step("visit", address, evidence))
    for query, followed in zip(trace.searches, visits, strict=True):
        trajectory.steps.extend([Step("search", query, "typed"), *followed])
    return trajectory


class ClickResolver:
    """Where a human stands after some clicks."""

    def __init__(self, trace: Trace) -> None:
        self._queries = [folded(query) for query in trace.searches]
        listed: dict[str, set[str]] = {}
        for query, pages in trace.results.items():
            urls = {canonical_url(result.url) for page in pages for result in page.results}
            listed.setdefault(folded(query), set()).update(urls)
        self._listed = [listed.get(query, set()) for query in self._queries]
        self._reached: dict[str, int] = {}  # canonical address to the search that led there last
        self._last = 0

    def search_of(self, click: Click) -> tuple[int, Evidence] | None:
        """Return the number of the search that a click belongs to and what tells so; None for an orphan."""
        source, target = canonical_url(click.source), canonical_url(click.target)
        asked = query_of(click.source)
        resolved: tuple[int, Evidence] | None = None
        same = [at for at, query in enumerate(self._queries) if asked is not None and query == folded(asked)]
        listing = [at for at, urls in enumerate(self._listed) if target in urls]
        if same:
            resolved = self._next(same), "results_page"
        elif source in self._reached:
            resolved = self._reached[source], "chain"
        elif listing:
            resolved = self._next(listing), "listed"
        if resolved:
            self._last = self._reached[target] = resolved[0]
        else:  # what it leads to is an orphan again, wherever the same page had come from before
            self._reached.pop(target, None)
        return resolved

    def _next(self, searches: list[int]) -> int:
        return next((at for at in searches if at >= self._last), searches[-1])


def folded(query: str) -> str:
    """Return a query whatever its case and white space."""
    return " ".join(query.split()).casefold()
