"""Which code each item takes when a code has room for only so many: greedy, exact, and balanced by Sinkhorn."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp


def greedy_assignment(cost: np.ndarray, capacity: int) -> np.ndarray:
    """Give each row a column, cheapest pair first, no column more than ``capacity`` times.

    Args:
        cost: Shape ``(rows, columns)``, with ``rows <= columns * capacity``.
        capacity: Rows that one column may take.

    Returns:
        The column of each row, shape ``(rows,)``, int64. Equal costs go to the lower row, then the lower column.
    """
    nearest: np.ndarray = cost.argmin(axis=1)
    if np.bincount(nearest).max() <= capacity:
        return nearest
    chosen = np.full(len(cost), -1, dtype=np.int64)
    free = np.full(cost.shape[1], capacity)
    unplaced = len(cost)
    for pair in cost.argsort(axis=None, kind="stable"):
        row, column = divmod(int(pair), cost.shape[1])
        if chosen[row] < 0 and free[column] > 0:
            chosen[row] = column
            free[column] -= 1
            unplaced -= 1
            if unplaced == 0:
                break
    return chosen


def exact_assignment(cost: np.ndarray, capacity: int) -> np.ndarray:
    """Give each row a column at the least total cost, no column more than ``capacity`` times.

    Args and Returns as in ``greedy_assignment``.
    """
    _, seats = linear_sum_assignment(np.repeat(cost, min(capacity, len(cost)), axis=1))
    return np.asarray(seats // min(capacity, len(cost)), dtype=np.int64)


def balanced_log_plan(distances: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """Spread rows evenly over columns by entropic optimal transport (Sinkhorn), in the log domain.

    Source: the last level of LC-Rec's tokenizer; the regularisation relative to the mean distance is our choice.

    Args:
        distances: Shape ``(rows, columns)``, >= 0.
        epsilon: Regularisation in units of the mean distance, > 0.
        iterations: Rounds of row and column scaling.

    Returns:
        Log of a plan whose rows each sum to 1 and whose columns tend to equal sums, shape ``(rows, columns)``.
    """
    log_plan = -distances / (epsilon * (distances.mean() or 1.0))
    for _ in range(iterations):
        log_plan -= logsumexp(log_plan, axis=0, keepdims=True)
        log_plan -= logsumexp(log_plan, axis=1, keepdims=True)
    return log_plan
