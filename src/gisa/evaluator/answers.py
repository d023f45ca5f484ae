"""The scores of answers to GISA's questions: every question both ways, means for every part."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from src.gisa.dataset.gisa import AnswerType, Gisa, Question, QuestionType
from src.gisa.evaluator.evidence import behind
from src.gisa.evaluator.predictions import Predictions
from src.gisa.evaluator.predictions import read_predictions as read_predictions
from src.gisa.metrics.answers import METRICS, Fault, Score, official_summary, score_answer
from src.launch.progress import Line, tracked
from src.launch.values import Count, Seed
from src.metrics.stats import bootstrap_interval

if TYPE_CHECKING:
    from src.gisa.evaluator.judge import ErrorJudge

Scorer = Literal["official", "robust"]


@dataclass(frozen=True)
class ScoredQuestion:
    """One question of a run.

    Attributes:
        id: Of the question, as text.
        answer_type: ``item``, ``set``, ``list`` or ``table``.
        question_type: ``stable`` or ``live``.
        topic: As the suite gives it.
        gold: The gold file, relative to the suite's folder.
        answered: Whether there is a prediction; a missing one scores 0.
        outcome: How the episode ended, where the run says so.
        contaminated: Whether the benchmark's own pages turned up on the way.
        fault: Why the official script could not have scored it, if so; it scores 0.
        parity_flags: Why the two scores differ.
        official: Official metrics.
        robust: Robust metrics.
        evidence: What the answer rests on, see ``Evidence``; None in runs that were scored before that was measured.
        error: Why it is wrong, see ``ErrorLabel``, and who says so (``rules`` or ``judge``); None where it is right.
    """

    id: str
    answer_type: str
    question_type: str
    topic: str
    gold: str
    answered: bool
    outcome: str | None
    contaminated: bool
    fault: Fault | None
    parity_flags: list[str]
    official: Score
    robust: Score
    evidence: dict[str, float | None] | None = None
    error: dict[str, Any] | None = None

    @property
    def parts(self) -> list[str]:
        """The parts of the suite that it belongs to: the whole, by type, change over time and topic."""
        return ["all", self.answer_type, self.question_type, f"topic: {self.topic}"]


@dataclass(frozen=True)
class Mean:
    """The mean of a metric over a part of the suite.

    Attributes:
        part: ``all``, an answer type, ``stable``, ``live``, ``topic: <name>``, or, where questions are contaminated,
            ``uncontaminated``: all the others.
        questions: How many it is a mean of.
        errors: How many of these have no prediction, or a fault; each is a 0 in the mean.
        scorer: ``official`` or ``robust``.
        metric: ``global_em``, or one of the answer type's own.
        mean: In [0, 1].
        low: Lower end of its 95% interval, by bootstrap over questions.
        high: Upper end.
    """

    part: str
    questions: int
    errors: int
    scorer: Scorer
    metric: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class AnswerScores:
    """All scores of a run."""

    questions: list[ScoredQuestion]
    means: list[Mean]

    def summary(self, scorer: Scorer) -> dict[str, Any]:
        """Return the means as the official script writes them."""
        return official_summary(getattr(question, scorer) for question in self.questions)

    def evidence(self) -> dict[str, dict[str, float]]:
        """Return, by attribute of ``Evidence``, mean, interval and number of the questions that define it."""
        known = [question.evidence for question in self.questions if question.evidence]
        found = {}
        for name in known[0] if known else ():
            if values := [float(value) for one in known if (value := one[name]) is not None]:
                found[name] = {**asdict(bootstrap_interval(values)), "questions": len(values)}
        return found

    def errors(self) -> dict[str, int]:
        """Count the questions that score 0 for another reason than a wrong answer."""
        return dict(Counter(reason for question in self.questions if (reason := error_of(question))))

    def parity_flags(self) -> dict[str, int]:
        """Count the reasons for a difference of the two scores, the most frequent first."""
        return dict(Counter(flag for question in self.questions for flag in question.parity_flags).most_common())


class AnswerEvaluator:
    """Scores the answers to a suite.

    Args:
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        judge: Labels errors, see ``src.gisa.evaluator.judge``; None leaves that to rules.
    """

    def __init__(self, *, resamples: Count, seed: Seed, judge: ErrorJudge | None = None) -> None:
        self.resamples, self.seed, self.judge = resamples, seed, judge

    def score(self, suite: Gisa, predictions: Predictions) -> AnswerScores:
        """Score every question of the suite, those without a prediction too, and average over its parts."""
        asked = tracked(suite.questions, "Scoring", len(suite.questions))
        questions = [self._question(suite, predictions, question) for question in asked]
        with Line("Intervals by bootstrap"):
            means = [
                self._mean(part, chosen, scorer, metric)
                for part, chosen in _parts(questions)
                for metric in ("global_em", *METRICS.get(part, ()))
                for scorer in get_args(Scorer)
            ]
        return AnswerScores(questions, means)

    def _question(self, suite: Gisa, predictions: Predictions, question: Question) -> ScoredQuestion:
        # The official script takes a missing prediction for an empty one.
        prediction, outcome = predictions.values.get(question.id, ""), predictions.outcomes.get(question.id)
        score = score_answer(prediction, suite.gold(question), question.answer_type)
        return ScoredQuestion(
            id=question.id,
            answer_type=question.answer_type,
            question_type=question.question_type,
            topic=question.topic,
            gold=suite.gold_path(question).relative_to(suite.root).as_posix(),
            answered=question.id in predictions.values,
            outcome=outcome,
            contaminated=question.id in predictions.contaminated,
            **score._asdict(),
            **behind(suite, question, prediction, score, outcome, predictions.files.get(question.id)),
        )

    def _mean(self, part: str, questions: Sequence[ScoredQuestion], scorer: Scorer, metric: str) -> Mean:
        values = [getattr(question, scorer)[metric] for question in questions]
        interval = bootstrap_interval(values, seed=self.seed, samples=self.resamples)
        errors = sum(error_of(question) is not None for question in questions)
        return Mean(part, len(questions), errors, scorer, metric, **asdict(interval))


def error_of(question: ScoredQuestion) -> str | None:
    """Return why a question scores 0 without a wrong answer, None where it does not."""
    if not question.answered:
        return "missing"
    return question.fault or ("infra_error" if question.outcome == "infra_error" else None)


def order_of_part(part: str) -> tuple[int, int, str]:
    """Return what parts of a suite are sorted by: the whole first, types, then numbers by size, then by name."""
    order = ("all", "uncontaminated", *get_args(AnswerType), *get_args(QuestionType))
    if part in order:
        return order.index(part), 0, part
    number = re.match(r"\d+", part)
    return len(order) + (number is None), int(number.group()) if number else 0, part


def _parts(questions: Sequence[ScoredQuestion]) -> list[tuple[str, list[ScoredQuestion]]]:
    """Return the parts of a suite that have questions, in order.

    Where the benchmark's own pages turned up, the questions without them are a part too.
    """
    parts: dict[str, list[ScoredQuestion]] = {}
    for question in questions:
        for part in question.parts:
            parts.setdefault(part, []).append(question)
    clean = [question for question in questions if not question.contaminated]
    if 0 < len(clean) < len(questions):
        parts["uncontaminated"] = clean
    return sorted(parts.items(), key=lambda part: order_of_part(part[0]))
