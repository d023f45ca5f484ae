"""Forecasts and choices worked by hand, and their limits: one attempt, equal values, no difference to order."""

import numpy as np
import pytest

from src.dataset.scored_episodes import ScoredEpisode
from src.evaluator.episode_values import attempts_of, baselines, chosen, foretold, pick

FAST = {"seed": 1, "resamples": 50}


def episode(name, f1, vote=None, calls=0, relevance=None):
    size = calls + 2
    relevance = np.zeros(size) if relevance is None else np.array(relevance, dtype=float)
    return ScoredEpisode(name, np.zeros((size, 1), np.float32), relevance, f1, float(f1 == 1), vote)


def test_the_attempt_of_highest_value_is_taken_and_of_equal_ones_the_first():
    scores = [0.0, 1.0, 0.5]
    assert pick(np.array([0.1, 0.3, 0.2]), scores, (0, 1, 2)).score == 1
    assert pick(np.array([0.1, 0.3, 0.2]), scores, (0, 2)).score == 0.5
    assert pick(np.array([0.3, 0.3, 0.3]), scores, (1, 2)).score == 1
    assert pick(np.array([0.3, 0.3, 0.3]), scores, (2, 1)).score == 1


def test_choices_of_k_are_worked_by_hand():
    # One question: two attempts say "a", which is wrong, one "b", which is right. The other: two of three are right.
    made = [episode("p", f1, vote) for f1, vote in ((0, "a"), (1, "b"), (0, "a"))]
    made += [episode("q", f1, vote) for f1, vote in ((1, "c"), (0, "d"), (1, "c"))]
    values = np.array([0.2, 0.9, 0.1, 0.3, 0.8, 0.5])
    one, two, three = chosen(made, values, **FAST)
    assert [found.k for found in (one, two, three)] == [1, 2, 3]
    # k = 1: a third of the first question's attempts is right, two thirds of the other's, however they are chosen.
    for by in ("by_value", "majority", "random", "best"):
        assert getattr(one, by).mean == pytest.approx(0.5)
    assert (one.over_majority.low, one.over_majority.high, one.over_random.mean) == (0, 0, 0)
    # k = 2, pairs 01 02 12. By value 1 0 1 and 0 1 0; tied votes share: 1/2 0 1/2 and 1/2 1 1/2; best 1 0 1 and 1 1 1.
    assert two.by_value.mean == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert two.majority.mean == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert two.best.mean == pytest.approx((2 / 3 + 1) / 2)
    # k = 3: by value right and wrong, by majority wrong and right.
    assert (three.by_value.mean, three.majority.mean, three.best.mean) == (0.5, 0.5, 1)
    assert three.over_random.mean == pytest.approx(((1 - 1 / 3) + (0 - 2 / 3)) / 2)
    assert (three.over_majority.low, three.over_majority.high) == (-1, 1)


def test_equal_values_choose_the_first_attempt():
    made = [episode("p", f1, "a") for f1 in (1, 0, 0)] + [episode("q", f1, "b") for f1 in (0, 1, 1)]
    *_, last = chosen(made, np.full(6, 0.7), **FAST)
    assert last.by_value.mean == 0.5


def test_a_line_is_drawn_on_the_other_folds_alone():
    # Fold 0 learns from b and c: F1 0 where BM25 is 1, 1 where it is 3, so F1 = (BM25 - 1) / 2.
    made = [episode("a", 0.5, relevance=[2, 2]), episode("b", 0, relevance=[1, 1]), episode("c", 1, relevance=[3, 3])]
    fold = np.array([0, 0, 1, 1, 1, 1])
    weight = np.array([[0, 0, 0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0, 0, 0]])
    found = baselines(made, fold, weight, seed=1)
    assert found["bm25"] == pytest.approx([0.5, 0.5, *[0.5] * 4])  # fold 1 has one point, so its line is flat
    made[0].relevance[:] = 4
    assert baselines(made, fold, weight, seed=1)["bm25"][:2] == pytest.approx([1.5, 1.5])
    assert found["constant"] == pytest.approx([0.5] * 6)
    assert found["order"] == pytest.approx([0.5] * 6)  # the same F1 at either place
    assert list(found) == ["constant", "random", "order", "bm25"]


def test_forecasts_are_worked_by_hand_at_each_moment():
    # Attempts of two calls and of none; four and two states.
    made = [episode("p", 1, calls=2), episode("p", 0), episode("q", 1), episode("q", 1)]
    mine = np.array([0.5, 0.5, 0.75, 1.0, 0.5, 0.0, 0.5, 1.0, 0.5, 0.0])
    found = {(one.moment, one.by): one for one in foretold(made, {"constant": np.full(10, 0.5), "v": mine}, **FAST)}
    start, half, read, end = (found[moment, "v"] for moment in ("start", "half", "read", "answered"))
    assert (start.error.mean, start.explained, start.gain.mean) == (0.25, 0, 0)
    assert half.error.mean == 0.25  # one of two calls
    # p: 1/16 and 1/4; q: 1/4 twice.
    assert read.error.mean == pytest.approx(((1 / 16 + 1 / 4) / 2 + 1 / 4) / 2)
    assert end.error.mean == pytest.approx((0 + (0 + 1) / 2) / 2)
    assert end.explained == pytest.approx(0)
    assert read.explained == pytest.approx(1 - read.error.mean / 0.25)
    # Only p's attempts differ in F1: equal values, then the right order.
    assert [(one.order.mean, one.ordered) for one in (start, read, end)] == [(0, 1), (1, 1), (1, 1)]
    assert found["answered", "constant"].order.mean == 0


def test_nothing_to_order_and_nothing_to_explain_are_told_as_none():
    made = [episode("p", 1), episode("p", 1)]
    (one, *_) = foretold(made, {"constant": np.ones(4)}, **FAST)
    assert (one.order, one.ordered, one.explained) == (None, 0, None)


def test_attempts_are_found_by_question():
    assert attempts_of([episode("p", 1), episode("q", 1), episode("p", 0)]) == [[0, 2], [1]]
