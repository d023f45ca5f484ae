"""Assignments with room for only so many per column, against slow and exact references."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from src.ilrec.tokenizer.residual_codes import balanced_log_plan, exact_assignment, greedy_assignment


@st.composite
def crowds(draw):
    """A cost matrix with many ties and a capacity that just suffices or more."""
    columns = draw(st.integers(1, 5))
    capacity = draw(st.integers(1, 3))
    rows = draw(st.integers(1, columns * capacity))
    return draw(arrays(np.float64, (rows, columns), elements=st.integers(0, 4))), capacity


def greedy_by_repeated_minimum(cost, capacity):
    """Take the cheapest open pair, again and again."""
    cost = cost.copy()
    chosen = np.full(len(cost), -1)
    for _ in range(len(cost)):
        row, column = np.unravel_index(cost.argmin(), cost.shape)
        chosen[row] = column
        cost[row] = np.inf
        if (chosen == column).sum() == capacity:
            cost[:, column] = np.inf
    return chosen


def test_the_closest_pair_goes_first_and_the_loser_takes_the_nearest_free_column():
    # Both rows like column 0 best. Row 1 is closer (1 < 2), so row 0 takes its second choice, column 2.
    assert greedy_assignment(np.array([[2.0, 9, 4], [1, 3, 5]]), 1).tolist() == [2, 0]


def test_the_exact_assignment_pays_less_where_greed_misleads():
    # Greedy: row 1 takes column 0 (1), row 0 is left with column 1 (9): 10. Exact: row 0 -> 0 (2), row 1 -> 1 (3): 5.
    cost = np.array([[2.0, 9], [1, 3]])
    assert greedy_assignment(cost, 1).tolist() == [1, 0]
    assert exact_assignment(cost, 1).tolist() == [0, 1]


@given(crowds())
def test_greedy_equals_taking_the_cheapest_open_pair_again_and_again(crowd):
    assert greedy_assignment(*crowd).tolist() == greedy_by_repeated_minimum(*crowd).tolist()


@given(crowds())
def test_no_column_is_over_capacity_and_exact_never_costs_more_than_greedy(crowd):
    cost, capacity = crowd
    greedy, exact = greedy_assignment(cost, capacity), exact_assignment(cost, capacity)
    for chosen in (greedy, exact):
        assert np.bincount(chosen).max() <= capacity
    rows = np.arange(len(cost))
    assert cost[rows, exact].sum() <= cost[rows, greedy].sum()


@given(arrays(np.float64, (4, 5), elements=st.integers(0, 9)))
def test_exact_equals_the_best_of_all_permutations(cost):
    best = min(sum(cost[row, column] for row, column in enumerate(order)) for order in permutations(range(5), 4))
    assert cost[np.arange(4), exact_assignment(cost, 1)].sum() == best


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_the_log_domain_plan_equals_plain_sinkhorn(seed):
    distances = np.random.default_rng(seed).random((7, 3))
    plan = np.exp(-distances / (0.5 * distances.mean()))
    for _ in range(30):
        plan /= plan.sum(axis=0)
        plan /= plan.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(balanced_log_plan(distances, 0.5, 30)), plan, rtol=1e-9)


def test_the_balanced_plan_fills_all_columns_alike_even_when_all_rows_prefer_one():
    distances = np.random.default_rng(0).random((40, 4)) + np.array([0, 1, 1, 1])
    plan = np.exp(balanced_log_plan(distances, 0.2, 200))
    np.testing.assert_allclose(plan.sum(axis=1), 1)
    np.testing.assert_allclose(plan.sum(axis=0), 10, rtol=1e-3)


def test_tiny_regularisation_stays_finite():
    # exp(-1 / 1e-4) is 0 in float64: outside the log domain every row would divide 0 by 0.
    assert np.isfinite(balanced_log_plan(np.random.default_rng(1).random((20, 5)), 1e-4, 50)).all()


@pytest.mark.parametrize("assign", [greedy_assignment, exact_assignment])
def test_everyone_gets_the_nearest_column_when_there_is_room(assign):
    cost = np.random.default_rng(2).random((30, 4))
    assert assign(cost, 30).tolist() == cost.argmin(axis=1).tolist()
