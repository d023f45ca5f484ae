import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.metrics.ranking import per_user_metric, ranking_metrics


def test_metrics_of_four_users_agree_with_hand_arithmetic():
    # ranks 1, 3, 7 and not decoded; the denominator is 4.
    # Hit@5 = 2/4; Hit@10 = 3/4.
    # NDCG@5 = (1/log2(2) + 1/log2(4)) / 4 = (1 + 1/2) / 4 = 0.375; NDCG@10 adds 1/log2(8) = 1/3: (11/6)/4 = 11/24.
    metrics = ranking_metrics(np.array([1.0, 3.0, 7.0, np.nan]), cutoffs=(5, 10))
    assert metrics == pytest.approx({"hit@5": 0.5, "ndcg@5": 0.375, "hit@10": 0.75, "ndcg@10": 11 / 24})


def test_default_cutoffs_are_5_10_and_20_in_order():
    assert list(ranking_metrics(np.array([1.0]))) == ["hit@5", "ndcg@5", "hit@10", "ndcg@10", "hit@20", "ndcg@20"]


def test_a_fractional_rank_counts_as_it_is():
    # Two items share an ID at places 10 and 11: expected rank 10.5 is outside the first 10, inside the first 20.
    ranks = np.array([10.5])
    assert per_user_metric(ranks, "hit@10").tolist() == [0.0]
    assert per_user_metric(ranks, "ndcg@20").tolist() == [pytest.approx(1 / math.log2(11.5))]


def test_targets_never_decoded_give_zero_and_not_nan():
    assert set(ranking_metrics(np.array([np.nan, np.nan])).values()) == {0.0}


@given(st.lists(st.one_of(st.just(math.nan), st.floats(1, 50)), min_size=1), st.integers(1, 30))
def test_metrics_equal_a_plain_loop(ranks, k):
    hits = [1.0 if rank <= k else 0.0 for rank in ranks]
    gains = [1 / math.log2(rank + 1) if rank <= k else 0.0 for rank in ranks]
    expected = {f"hit@{k}": sum(hits) / len(ranks), f"ndcg@{k}": sum(gains) / len(ranks)}
    assert ranking_metrics(np.array(ranks), cutoffs=(k,)) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["recall@10", "hit@0", "hit@", "hit", "ndcg@ten", "ndcg@1.5"])
def test_a_metric_name_that_cannot_be_read_is_refused(metric):
    with pytest.raises(ValueError, match="it must be 'hit@k' or 'ndcg@k'"):
        per_user_metric(np.array([1.0]), metric)


def test_a_rank_of_zero_is_refused():
    with pytest.raises(ValueError, match="start at 1"):
        per_user_metric(np.array([1.0, 0.0]), "hit@5")


def test_an_empty_list_of_users_is_refused():
    with pytest.raises(ValueError, match="at least one user"):
        ranking_metrics(np.array([]))
