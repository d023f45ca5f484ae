"""What runs on a suite left behind, means over its questions, and two policies side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from hydra.errors import InstantiationException

from src.gisa.agent.trajectory import all_alike, tool_calls_of
from src.gisa.dataset.gisa import AnswerType, Gisa, Trace, is_id
from src.gisa.evaluator.answers import ScoredQuestion, error_of
from src.gisa.metrics.answer_table import TableError, split_records
from src.gisa.metrics.answer_text import decode_gold
from src.gisa.metrics.behaviour import browsing_similarity, search_similarity
from src.launch.config import build
from src.launch.errors import InputError
from src.launch.nodes import faults_of_nodes
from src.launch.trusted import untrusted
from src.metrics.stats import Interval, bootstrap_interval, paired_bootstrap
from src.report.comparison import Summary
from src.report.runs import Run
from src.report.tables import Estimate

_PAGES = ((1, 1), (2, 2), (3, 5), (6, 10), (11, 20))  # from, to
_LARGE = 3  # rows and columns of a table that counts as large
_LARGE_TABLE = f"table, {_LARGE} x {_LARGE} and larger"


@dataclass(frozen=True)
class EpisodeSummary:
    """An episode without the texts that the agent read.

    Attributes:
        question_id: Of the question.
        sample: Number of the attempt at it.
        prediction: The text that is scored; empty where there is none.
        queries: Of the searches that were carried out, in their order.
        visited: Addresses of the pages that it visited, or tried to, in their order.
        counts: Searches, visits and the like, by name.
        spent: Tokens and price of each part, see ``src.gisa.agent.cost``.
    """

    question_id: str
    sample: int
    prediction: str
    queries: list[str]
    visited: list[str]
    counts: Mapping[str, int]
    spent: Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Answer:
    """A question of a run with its scores.

    Attributes:
        episode: The one that is scored; None without its record.
        trace: What a human did; None where that is missing or damaged.
        pages: In which range the number of pages lies that it needs, in words; None where the suite does not say.
    """

    question: ScoredQuestion
    episode: EpisodeSummary | None
    trace: Trace | None
    pages: str | None

    @property
    def parts(self) -> list[str]:
        """The parts of the suite that it belongs to, the number of pages among them."""
        return [*self.question.parts, *([self.pages] if self.pages else [])]


@dataclass(frozen=True)
class AnsweredRun:
    """A finished run on a suite.

    Attributes:
        answers: By the ids of the questions.
        attempts: What was answered to each question at all attempts; empty without records.
        suite: With the run's questions and answers; None where it is not here.
        warnings: What is missing, in sentences.
    """

    answers: list[Answer]
    attempts: dict[str, list[str]]
    suite: Gisa | None
    warnings: list[str]


def _read_run(run: Run, label: str) -> AnsweredRun:
    questions, warnings = {question.id: question for question in read_questions(run.folder)}, []
    folder = episodes_of(run.folder, run.config)
    if not folder.is_dir():
        warnings.append(f"{label}: no records of episodes in {folder}, so nothing about calls, tokens and behaviour.")
    episodes = [_read_episode(path) for path in sorted(folder.glob("*.json"))]
    attempts: dict[str, list[str]] = {}
    for episode in sorted(episodes, key=lambda episode: episode.sample):
        attempts.setdefault(episode.question_id, []).append(episode.prediction)
    suite, traces = None, {}
    try:
        suite = suite_of(run)
        suite.questions = [question for question in suite.questions if question.id in questions]
        if suite.fingerprint[:12] not in str(run.protocol.get("dataset")):
            raise InputError(f"the answers below {suite.root} are not those that {run.folder} was scored by")
        for question in suite.questions:
            with suppress(InputError):
                traces[question.id] = suite.trace(question)
    except InputError as error:
        suite = None
        warnings.append(f"{label}: nothing beside humans, and no votes: {str(error).partition(chr(10))[0]}")
    sample = run.protocol.get("sample", 0)
    scored = {episode.question_id: episode for episode in episodes if episode.sample == sample}
    metadata = suite.metadata if suite else {}
    pages = {key: pages_binned(known["hops"]) for key, known in metadata.items() if "hops" in known}
    answers = [
        Answer(question, scored.get(key), traces.get(key), pages.get(key)) for key, question in questions.items()
    ]
    warnings += [f"{label}: {text}" for text in all_alike((answer.question.outcome, "") for answer in answers)]
    return AnsweredRun(answers, attempts, suite, warnings)


def _read_episode(path: Path) -> EpisodeSummary:
    """Take what is needed out of a record; see ``src.gisa.agent.trajectory.Episode``.

    Raises:
        InputError: it is damaged.
    """
    try:
        record = json.loads(path.read_bytes())
        prediction, calls = record["prediction"], tool_calls_of(record["steps"])
        return EpisodeSummary(
            question_id=record["question_id"],
            sample=record["sample"],
            prediction=prediction if isinstance(prediction, str) else "",
            queries=[call.query for call in calls if call.query is not None],
            visited=[url for call in calls for url in call.urls],
            counts=record["counts"],
            spent=record["spent"],
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path} is not the record of an episode: {type(error).__name__}: {error}.\n"
            f"Report without this episode:  rm '{path}'"
        ) from error


class AnsweredCell:
    """A cell of runs on a suite, with all that they left behind.

    Raises:
        InputError: a file is damaged.
    """

    def __init__(self, summary: Summary) -> None:
        self.summary, self.label = summary, summary.cell.label
        self.runs = [_read_run(run, self.label) for run in summary.cell.runs]
        self.answers = [answer for run in self.runs for answer in run.answers]

    def counts(self, part: str = "all") -> dict[str, int]:
        """Count the questions of a part, and how often one scores 0 for another reason than a wrong answer."""
        questions = [answer.question for answer in self.answers if part in answer.parts]
        errors = sum(error_of(question) is not None for question in questions)
        return {"questions": len({question.id for question in questions}), "errors": errors}

    def by_run(self, value: Callable[[Answer], float | None]) -> dict[str, list[float]]:
        """Return what each question has in every run, by its id; None, of all runs, leaves it out."""
        values: dict[str, list[float]] = {}
        for answer in self.answers:
            if (figure := value(answer)) is not None:
                values.setdefault(answer.question.id, []).append(figure)
        return values

    def by_question(self, value: Callable[[Answer], float | None]) -> dict[str, float]:
        """Return what each question has in the mean over the runs; see ``by_run``."""
        return {key: sum(figures) / len(figures) for key, figures in self.by_run(value).items()}

    def exact(self, scorer: str, part: str = "all") -> dict[str, list[float]]:
        """Return the exact match of each question of a part, in every run."""
        return self.by_run(
            lambda answer: float(getattr(answer.question, scorer)["global_em"]) if part in answer.parts else None
        )

    def over_episodes(self, value: Callable[[EpisodeSummary], float | None], scale: float = 1.0) -> Estimate | None:
        """Average over the episodes that are scored."""
        return estimate(self.by_question(lambda answer: value(answer.episode) if answer.episode else None), scale)

    @cached_property
    def similarities(self) -> dict[str, dict[str, float]]:
        """How like a human the agent searched and browsed on each question that defines it, by id."""

        def measured(measure: Callable[[Trace, EpisodeSummary], float | None]) -> dict[str, float]:
            return self.by_question(
                lambda answer: measure(answer.trace, answer.episode) if answer.trace and answer.episode else None
            )

        return {
            "search": measured(lambda human, episode: search_similarity(human.searches, episode.queries)),
            "browsing": measured(
                lambda human, episode: browsing_similarity([click.target for click in human.clicks], episode.visited)
            ),
        }


def estimate(values: Mapping[str, float | Sequence[float]], scale: float = 100.0) -> Estimate | None:
    """Average the questions' values, in percent; None where there are none.

    The interval is that of all tables, plots and pages: a bootstrap over questions, and over runs where there are
    values of several runs.

    Args:
        values: By question, one value, or one of every run.
        scale: What they are multiplied by.
    """
    if not values:
        return None
    rows = [list(value) if isinstance(value, Sequence) else [value] for value in values.values()]
    if len({len(row) for row in rows}) > 1:  # a question that some runs were not asked
        rows = [[sum(row) / len(row)] for row in rows]
    return scaled(bootstrap_interval(np.array(rows, dtype=np.float64).T), len(values), scale)


def scaled(interval: Interval, questions: int, scale: float = 100.0) -> Estimate:
    """Write an interval in percent, with the number of questions that it is over."""
    return Estimate(scale * interval.mean, scale * interval.low, scale * interval.high, questions)


def read_questions(folder: Path) -> list[ScoredQuestion]:
    """Return the questions of a run with their scores, by their ids.

    Raises:
        InputError: the file is absent, or holds something else.
    """
    path = folder / "questions.jsonl"
    try:
        with path.open("rb") as stream:
            questions = [ScoredQuestion(**json.loads(line)) for line in stream]
        if odd := [one.id for one in questions if not isinstance(one.id, str) or not is_id(one.id)]:
            raise ValueError(f"id={odd[0]!r} must be text of letters, digits, - and _")
    except (OSError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as the scores of questions: {error}.\n"
            f"Score the answers again:  python -m src.run +experiment=gisa_score predictions={folder} dataset=..."
        ) from error
    return sorted(questions, key=lambda question: question.id)


def pages_needed(count: int) -> str:
    """Return a number of pages in words."""
    return f"{count} page{'s' if count > 1 else ''}"


def pages_binned(count: int) -> str:
    """Return the range that a number of pages lies in, in words: suites have dozens of numbers, and few questions each.

    The ranges are 1, 2, 3 to 5, 6 to 10, 11 to 20, and more.
    """
    low, high = next(((low, high) for low, high in _PAGES if count <= high), (_PAGES[-1][1] + 1, None))
    return pages_needed(low) if low == high else f"{low}+ pages" if high is None else f"{low}-{high} pages"


def episodes_of(folder: Path, config: Mapping[str, Any]) -> Path:
    """Return where the records lie: in the run's folder, or in that of the run whose answers it scored."""
    own, scored = folder / "episodes", config.get("predictions")
    return own if own.is_dir() or not scored else Path(scored) / "episodes"


def suite_of(run: Run) -> Gisa:
    """Return the suite that a run was asked.

    Raises:
        InputError: it is not where the run found it, or the run is of a time when the code had other names.
    """
    node = run.config.get("dataset") or {}
    target = str(node.get("_target_"))
    try:
        # The run may be somebody else's: settings of the wrong type could lead out of a folder.
        refused = next(untrusted({"dataset": node}), None) or next(faults_of_nodes(node, "dataset"), None)
        suite = build(node) if target.startswith("src.gisa.dataset.") and not refused else None
    except (ImportError, InstantiationException):  # of a module or function that is gone
        suite = None
    if suite is None:
        raise InputError(
            f"{run.folder / 'result.json'} names no data set that this code has ({refused or target}). A run of "
            "commit 5a71412 or before is reported on at its own commit, or is to be run again."
        )
    if not isinstance(suite, Gisa):
        raise InputError(f"dataset is {target}, and not a suite of questions")
    return suite


@dataclass(frozen=True)
class Compared:
    """A metric over one kind of question.

    Attributes:
        part: Such as ``all``, ``set``, ``2 pages`` or ``family: smallest``.
        metric: ``global_em`` or, over tables, ``table_item_f1``; both of the official scorer, in [0, 1].
        questions: How many the policy afterwards was asked.
        after: Its mean with the 95% interval.
        common: How many of these the policy before was asked as well.
        before: Its mean over the common ones, with its 95% interval; None without any.
        gain: After less before, paired by question, over the common ones; None without any.
    """

    part: str
    metric: str
    questions: int
    after: Interval
    common: int
    before: Interval | None
    gain: Interval | None


def compare_rollouts(suite: Gisa, before: Path | None, after: Path, *, seed: int, resamples: int) -> list[Compared]:
    """Compare two rollouts on a suite.

    Args:
        suite: The questions.
        before: Run folder of ``task=gisa_rollout``; it may be of fewer questions; None for none.
        after: The same of the other policy.
        seed: Of the bootstrap.
        resamples: Of the bootstrap.
    """
    bootstrap: dict[str, Any] = {"seed": seed, "samples": resamples}
    first = {question.id: question.official for question in (read_questions(before) if before else [])}
    second = {question.id: question.official for question in read_questions(after)}
    compared = []
    for part, ids in _parts(suite, second.keys()).items():
        common = [name for name in ids if name in first]
        for metric in ("global_em", "table_item_f1") if part in ("table", _LARGE_TABLE) else ("global_em",):
            reached = bootstrap_interval([second[name][metric] for name in ids], **bootstrap)
            old, new = ([float(scores[name][metric]) for name in common] for scores in (first, second))
            earlier = bootstrap_interval(old, **bootstrap) if common else None
            gain = paired_bootstrap(new, old, **bootstrap).difference if common else None
            compared.append(Compared(part, metric, len(ids), reached, len(common), earlier, gain))
    return compared


def valid_calls(records: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Count tool calls, over records of episodes: those that are well-formed, carried out or not; and all."""
    valid = invalid = 0
    for record in records:
        valid += record["counts"]["calls"] + record["counts"]["skipped_calls"]
        invalid += record["counts"]["invalid_calls"]
    return valid, valid + invalid


def comparison_table(compared: Sequence[Compared]) -> str:
    """Write the comparison as a table, in percent."""
    lines = ["| part | metric | questions | after | also before | before | gain |", "|---|---|---|---|---|---|---|"]
    for row in compared:
        after, before, gain = map(_percent, (row.after, row.before, row.gain))
        lines.append(f"| {row.part} | {row.metric} | {row.questions} | {after} | {row.common} | {before} | {gain} |")
    return "\n".join(lines)


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{100 * interval.mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _parts(suite: Gisa, asked: Collection[str]) -> dict[str, list[str]]:
    """Return the ids of each kind of question that was asked: all, types, large tables, numbers of pages, families."""
    types = get_args(AnswerType)
    parts: dict[tuple[int, int, str], list[str]] = {}  # with two numbers to be sorted by
    for question in (question for question in suite.questions if question.id in asked):
        names = [(0, 0, "all"), (1, types.index(question.answer_type), question.answer_type)]
        if question.answer_type == "table" and _is_large(suite.gold(question)):
            names.append((2, 0, _LARGE_TABLE))
        if known := suite.metadata.get(question.id):
            names += [(3, known["hops"], pages_needed(known["hops"])), (4, 0, f"family: {known['family']}")]
        for name in names:
            parts.setdefault(name, []).append(question.id)
    return {name[-1]: parts[name] for name in sorted(parts)}


def _is_large(gold: bytes) -> bool:
    """Tell whether a table has at least so many rows and columns, that of the names among them."""
    try:
        header, *rows = split_records(decode_gold(gold)[0], ",")
    except (TableError, ValueError):
        return False
    return len(rows) >= _LARGE and len(header) >= _LARGE
