"""Episodes of rollouts for a model of their value: their states, what they were worth, and what else ranks them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.agent.corpus import word_index, words_of
from src.agent.trajectory import tool_calls_of
from src.dataset.episode_states import states
from src.dataset.gisa import Gisa
from src.metrics.answer_text import official_table
from src.metrics.answers import F1, official_score
from src.metrics.sampling import ballot


@dataclass(frozen=True)
class ScoredEpisode:
    """One attempt at a question.

    Attributes:
        question_id: Of the question.
        states: Before the first call, after each, and with the answer, shape ``(T + 2, F)``; see ``episode_states``.
        relevance: BM25 of the question and the best result so far, shape ``(T + 2,)``; the answer counts as a result.
        f1: Of the answer, by the official scorer, in [0, 1]; an item's is its exact match.
        exact: Exact match of the answer, 0 or 1.
        vote: See :func:`~src.metrics.sampling.ballot`.
    """

    question_id: str
    states: NDArray[np.float32]
    relevance: NDArray[np.float64]
    f1: float
    exact: float
    vote: Hashable | None


def score_episodes(suite: Gisa, records: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[ScoredEpisode]:
    """Describe and score the attempts at the questions of a suite.

    Args:
        suite: With the gold answers, which are read for scores alone.
        records: Of the episodes, by question id; see ``src.agent.trajectory.record_of``.

    Returns:
        Question by question in the suite's order, the attempts of each in the order given.
    """
    questions = [question for question in suite.questions if question.id in records]
    texts = {question.id: [_texts(record) for record in records[question.id]] for question in questions}
    rank = _Bm25(text for attempts in texts.values() for attempt in attempts for text in attempt)
    episodes = []
    for question in questions:
        relevance = rank.scores(question.text)
        gold, kind = suite.gold(question), question.answer_type
        for record, read in zip(records[question.id], texts[question.id], strict=True):
            answer = read[-1]
            score = official_score(answer, gold, kind)
            episodes.append(
                ScoredEpisode(
                    question_id=question.id,
                    states=states(question.text, kind, tool_calls_of(record["steps"]), answer),
                    relevance=np.maximum.accumulate([0.0, *(relevance[text] for text in read)]),
                    f1=float(score[F1[kind]]),
                    exact=float(score["global_em"]),
                    vote=ballot(official_table(answer), kind),
                )
            )
    return episodes


def _texts(record: Mapping[str, Any]) -> list[str]:
    """Return the results of an episode's calls and, last, its answer."""
    answer = record["prediction"]
    return [*(call.text for call in tool_calls_of(record["steps"])), answer if isinstance(answer, str) else ""]


class _Bm25:
    """BM25 over texts, each of which counts once."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = sorted(set(texts))
        self._index = word_index(self._texts)

    def scores(self, query: str) -> dict[str, float]:
        words = [word for word in words_of(query) if word in self._index.vocab_dict]
        values = self._index.get_scores(words).tolist() if words else [0.0] * len(self._texts)
        return dict(zip(self._texts, values, strict=True))
