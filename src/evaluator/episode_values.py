"""How well values of episodes foretell what they come to, and what choosing one of several attempts by them gains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from src.dataset.scored_episodes import ScoredEpisode
from src.metrics.sampling import SIZES, Vote, best_at_k, majority, mean_vote
from src.metrics.stats import Interval, bootstrap_interval, paired_bootstrap

Values = NDArray[np.float64]
MOMENTS: dict[str, Callable[[int], int]] = {
    "start": lambda calls: 0,
    "half": lambda calls: calls // 2,
    "read": lambda calls: calls,
    "answered": lambda calls: calls + 1,
}
"""The moments that values are compared at: before any call, with half of them made, with all, and with the answer.

Each gives the place of its state among those of an episode of so many calls."""


@dataclass(frozen=True)
class Foretold:
    """How well one way to value episodes does at one moment; every question weighs the same.

    Attributes:
        moment: See ``MOMENTS``.
        by: ``value_model``, or what it is compared with.
        error: Mean squared error as a forecast of F1.
        explained: R2, the share of the constant's error that is gone; None where the constant makes no error.
        gain: The constant's squared error less this one, paired by question.
        order: Kendall's tau-b of values and F1 among the attempts at a question, averaged over the questions whose
            attempts differ in F1; equal values give 0. None where there are no such questions.
        ordered: How many of these there are.
    """

    moment: str
    by: str
    error: Interval
    explained: float | None
    gain: Interval
    order: Interval | None
    ordered: int


@dataclass(frozen=True)
class Chosen:
    """Exact match of one answer out of k attempts, in [0, 1], by how it is chosen.

    Attributes:
        k: Attempts.
        by_value: The one of highest value; of several, the first.
        majority: The most frequent one; see :func:`~src.metrics.sampling.majority`.
        random: Any.
        best: The best one, which nothing can beat.
        over_majority: ``by_value`` less ``majority``, paired by question.
        over_random: ``by_value`` less ``random``, paired by question.
    """

    k: int
    by_value: Interval
    majority: Interval
    random: Interval
    best: Interval
    over_majority: Interval
    over_random: Interval


def baselines(
    episodes: Sequence[ScoredEpisode], fold: NDArray[np.int64], weight: Values, *, seed: int
) -> dict[str, Values]:
    """Forecast F1 at every moment without a model: a line through one number, drawn on the other folds.

    The numbers: none, which leaves their mean F1 (``constant``); how many calls have been made (``order``); BM25 of the
    question and the best result so far (``bm25``); a random one (``random``).

    Args:
        episodes: What is valued.
        fold: Of each moment, shape ``(N,)``.
        weight: Of each moment for each fold's line, shape ``(K, N)``, 0 within the fold.
        seed: Of the random numbers.

    Returns:
        Values of all moments, shape ``(N,)``, by name.
    """
    target = np.repeat([one.f1 for one in episodes], [len(one.states) for one in episodes])
    numbers = {
        "constant": np.zeros(len(target)),
        "random": np.random.default_rng(seed).random(len(target)),
        "order": np.concatenate([np.arange(len(one.states), dtype=np.float64) for one in episodes]),
        "bm25": np.concatenate([one.relevance for one in episodes]),
    }
    found = {}
    for name, number in numbers.items():
        lines = np.array([_line(number, target, one) for one in weight])
        found[name] = lines[fold, 0] + lines[fold, 1] * number
    return found


def _line(number: Values, target: Values, weight: Values) -> tuple[float, float]:
    """Return height and slope of the line with the least weighted squared error; flat where the number is the same."""
    center, height = np.average(number, weights=weight), np.average(target, weights=weight)
    spread = np.average((number - center) ** 2, weights=weight)
    slope = np.average((number - center) * (target - height), weights=weight) / spread if spread > 0 else 0.0
    return height - slope * center, slope


def foretold(
    episodes: Sequence[ScoredEpisode], values: dict[str, Values], *, seed: int, resamples: int
) -> list[Foretold]:
    """Compare ways to value episodes at each of ``MOMENTS``.

    Args:
        episodes: What is valued; attempts at a question stand together.
        values: Of all moments, by name; ``constant`` must be there.
        seed: Of the bootstrap over questions.
        resamples: Of the bootstrap.
    """
    starts = np.cumsum([0, *(len(one.states) for one in episodes)])[:-1]
    questions = attempts_of(episodes)
    f1 = np.array([one.f1 for one in episodes])
    found = []
    for moment, place in MOMENTS.items():
        places = starts + [place(len(one.states) - 2) for one in episodes]
        errors = {
            name: [float(((one[places[them]] - f1[them]) ** 2).mean()) for them in questions]
            for name, one in values.items()
        }
        for name, one in values.items():
            taus = [_tau(one[places[them]], f1[them]) for them in questions if np.ptp(f1[them]) > 0]
            gain = paired_bootstrap(errors["constant"], errors[name], seed=seed, samples=resamples).difference
            worst = float(np.mean(errors["constant"]))
            found.append(
                Foretold(
                    moment=moment,
                    by=name,
                    error=bootstrap_interval(errors[name], seed=seed, samples=resamples),
                    explained=gain.mean / worst if worst > 0 else None,
                    gain=gain,
                    order=bootstrap_interval(taus, seed=seed, samples=resamples) if taus else None,
                    ordered=len(taus),
                )
            )
    return found


def _tau(values: Values, f1: Values) -> float:
    return float(kendalltau(values, f1).statistic) if np.ptp(values) > 0 else 0.0


def chosen(episodes: Sequence[ScoredEpisode], values: Values, *, seed: int, resamples: int) -> list[Chosen]:
    """Choose one of k answers to each question, for each k up to the number of attempts.

    Each figure of a question is the mean over all choices of k attempts, or over 20 random ones, the same for all.

    Args:
        episodes: As many attempts at each question, standing together.
        values: Of the episodes, shape ``(E,)``.
        seed: Of the bootstrap over questions.
        resamples: Of the bootstrap.
    """
    questions = attempts_of(episodes)
    attempts = len(questions[0])
    found = []
    for k in sorted({*(k for k in SIZES if k < attempts), attempts}):
        rows = [
            _choices([episodes[at] for at in them], values[them], k, seed=place) for place, them in enumerate(questions)
        ]
        by_value, vote, lot, best = (list(column) for column in zip(*rows, strict=True))
        means = [bootstrap_interval(one, seed=seed, samples=resamples) for one in (by_value, vote, lot, best)]
        gains = [paired_bootstrap(by_value, other, seed=seed, samples=resamples).difference for other in (vote, lot)]
        found.append(Chosen(k, *means, *gains))
    return found


def _choices(
    attempts: Sequence[ScoredEpisode], values: Values, k: int, *, seed: int
) -> tuple[float, float, float, float]:
    """Return what choosing by value, by majority, by lot and the best one come to on one question."""
    exact, votes, count = [one.exact for one in attempts], [one.vote for one in attempts], len(attempts)

    def by_value(some: tuple[int, ...]) -> Vote:
        return pick(values, exact, some)

    def vote(some: tuple[int, ...]) -> Vote:
        return majority([votes[at] for at in some], [exact[at] for at in some])

    return (
        mean_vote(count, k, by_value, seed=seed).score,
        mean_vote(count, k, vote, seed=seed).score,
        sum(exact) / count,
        best_at_k(exact, k),
    )


def pick(values: Values, scores: Sequence[float], some: Sequence[int]) -> Vote:
    """Return the score of the attempt of highest value among some; of equal ones, that of the first."""
    return Vote(scores[max(some, key=lambda at: (values[at], -at))], 1 / len(some))


def attempts_of(episodes: Sequence[ScoredEpisode]) -> list[list[int]]:
    """Return the places of the attempts at each question."""
    places: dict[str, list[int]] = {}
    for place, episode in enumerate(episodes):
        places.setdefault(episode.question_id, []).append(place)
    return list(places.values())
