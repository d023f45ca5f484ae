"""Residual k-means: codes by hand, uniqueness, determinism, messages."""

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from src.ilrec.tokenizer.embeddings import CollaborativeEmbedding, JointEmbedding, TextEmbedding
from src.ilrec.tokenizer.index_file import IndexFile
from src.ilrec.tokenizer.semantic_id import ResidualKMeans, balanced_log_plan, exact_assignment, greedy_assignment
from src.launch.errors import InputError

INDUSTRIAL = Path(__file__).parents[4] / "shared" / "data" / "amazon_industrial"


class Given:
    """Vectors chosen by the test."""

    def __init__(self, vectors):
        self.vectors = np.asarray(vectors, dtype=np.float32)

    def embed(self, interactions):
        return self.vectors


@pytest.fixture
def fit(make_interactions):
    def fit(vectors, **settings):
        vectors = np.asarray(vectors, dtype=np.float32).reshape(len(vectors), -1)
        return tokenizer(Given(vectors), **settings).fit(make_interactions([[0, 0, 0]], items=len(vectors)))

    return fit


def tokenizer(embedding, **settings):
    defaults = {
        "levels": 2,
        "codebook_size": 2,
        "last_level": "greedy",
        "restarts": 2,
        "sinkhorn_epsilon": 0.05,
        "sinkhorn_iterations": 50,
        "seed": 1,
    }
    return ResidualKMeans(embedding=embedding, **{**defaults, **settings})


@pytest.mark.parametrize("last_level", ["greedy", "sinkhorn", "none"])
def test_four_points_on_a_line_by_hand(fit, last_level):
    # Points 0, 1, 10, 11. Level 1: centroids 0.5 and 10.5; residuals -.5, .5, -.5, .5. Level 2: centroids -.5 and .5.
    tokens = fit([0, 1, 10, 11], last_level=last_level)
    (a, c), (a2, d), (b, c2), (b2, d2) = tokens.tokens.tolist()
    assert (a, b, c, d) == (a2, b2, c2, d2)
    assert {a, b} == {0, 1}
    assert {c, d} == {2, 3}
    # Variance around the mean 5.5: 2 * (5.5 ** 2 + 4.5 ** 2) = 101. Left: 4 * .5 ** 2 = 1, then 0.
    assert tokens.report["unexplained"] == pytest.approx([1 / 101, 0])


def test_a_group_larger_than_the_last_codebook_spills_into_the_nearest_other_group(fit):
    # Plain k-means puts 0, 1 and 2 together, but two codes below can tell only two of them apart. The pairs of item
    # and code nearest to each other are placed first, so the outlier of the three, the one nearest to 9, moves.
    tokens = fit([0, 1, 2, 9])
    first = tokens.tokens[:, 0]
    assert first[0] == first[1] != first[2] == first[3]
    assert tokens.report["distinct_ids"] == 4


@pytest.mark.parametrize("last_level", ["greedy", "sinkhorn"])
def test_more_items_than_ids_share_as_few_as_possible(fit, last_level):
    # 9 items, 2 ** 2 = 4 IDs: ceil(9 / 4) = 3 items under one ID at most.
    tokens = fit(np.arange(9) ** 2, last_level=last_level)
    assert tokens.report["largest_group"] <= 3
    assert tokens.report["collision_rate"] > 0


@settings(max_examples=40)
@given(
    st.integers(2, 4).flatmap(
        lambda size: st.tuples(st.just(size), st.lists(st.integers(0, 6), min_size=size, max_size=size**2))
    ),
    st.sampled_from(["greedy", "sinkhorn"]),
)
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_ids_are_unique_whenever_there_are_enough_of_them(fit, sized_points, last_level):
    size, points = sized_points
    assert fit(points, codebook_size=size, last_level=last_level).report["collision_rate"] == 0


def test_none_is_the_nearest_centroid_of_each_residual(fit):
    vectors = np.random.default_rng(3).normal(size=(60, 3)).astype(np.float32)
    residual = (vectors - vectors.mean(axis=0)).astype(np.float64)
    codes = []
    for level in range(3):
        model = KMeans(4, n_init=2, random_state=1 + level).fit(residual)
        nearest = [min(range(4), key=lambda k: ((row - model.cluster_centers_[k]) ** 2).sum()) for row in residual]
        residual = np.array([row - model.cluster_centers_[k] for row, k in zip(residual, nearest, strict=True)])
        codes.append([4 * level + k for k in nearest])
    tokens = fit(vectors, levels=3, codebook_size=4, last_level="none")
    assert tokens.tokens.T.tolist() == codes


def test_sinkhorn_uses_the_last_codebook_more_evenly_than_greedy(fit):
    vectors = np.random.default_rng(4).normal(size=(200, 4))
    greedy, sinkhorn = (fit(vectors, codebook_size=32, last_level=last) for last in ("greedy", "sinkhorn"))
    assert sinkhorn.report["perplexity"][-1] > 31 > 27 > greedy.report["perplexity"][-1]
    assert sinkhorn.report["collision_rate"] == greedy.report["collision_rate"] == 0
    # Only the last level differs.
    assert sinkhorn.tokens[:, 0].tolist() == greedy.tokens[:, 0].tolist()


@pytest.mark.parametrize("last_level", ["greedy", "sinkhorn"])
def test_two_fits_agree_to_the_bit_whatever_the_number_of_threads(fit, last_level):
    vectors = np.random.default_rng(5).normal(size=(1500, 16))
    fits = []
    for threads in (1, 2, 2):
        with threadpool_limits(limits=threads):
            fits.append(fit(vectors, levels=3, codebook_size=16, last_level=last_level))
    for other in fits[1:]:
        assert other.tokens.tolist() == fits[0].tokens.tolist()
        assert other.report == fits[0].report


def test_another_seed_gives_other_codes(fit):
    vectors = np.random.default_rng(6).normal(size=(100, 8))
    assert (
        fit(vectors, codebook_size=10, seed=1).tokens.tolist() != fit(vectors, codebook_size=10, seed=2).tokens.tolist()
    )


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_items_without_training_interactions_are_counted(make_interactions):
    # Item 3 is only a test target, item 2 only a validation target.
    shop = make_interactions([[0, 1, 2, 3], [1, 0, 2, 0]])
    tokens = tokenizer(CollaborativeEmbedding(dimensions=2, seed=1)).fit(shop)
    assert tokens.report["items_without_training"] == 2
    assert tokens.report["distinct_ids"] == 4


def test_a_saved_index_gives_the_same_ids_when_read_back(fit, make_interactions, tmp_path):
    tokens = fit([0, 1, 10, 11])
    shop = make_interactions([[0, 1, 2, 3]])
    tokens.save_index(tmp_path / "x.index.json", shop.item_ids)
    again = IndexFile(path=str(tmp_path / "x.index.json")).fit(shop)
    assert again.vocabulary == tokens.vocabulary
    assert again.tokens.tolist() == tokens.tokens.tolist()


@pytest.mark.parametrize("levels", [0, 27])
def test_levels_without_a_letter_are_refused(levels):
    with pytest.raises(InputError, match=rf"tokenizer.levels={levels}, but levels are named .*: give 1 to 26"):
        tokenizer(Given([[0]]), levels=levels)


def test_an_unknown_last_level_is_refused():
    with pytest.raises(InputError, match=r"tokenizer.last_level=best is unknown: give greedy, sinkhorn, none"):
        tokenizer(Given([[0]]), last_level="best")


@pytest.mark.parametrize("setting", ["codebook_size", "restarts", "sinkhorn_epsilon", "sinkhorn_iterations"])
def test_settings_that_must_be_positive_are_refused_at_zero(setting):
    with pytest.raises(InputError, match=rf"tokenizer.{setting}=0: give a number above 0"):
        tokenizer(Given([[0]]), **{setting: 0})


def test_more_codes_than_items_are_refused_with_a_size_that_suffices(fit):
    # 10 items at 3 levels: 3 ** 3 = 27 IDs are enough, 2 ** 3 = 8 are not.
    with pytest.raises(InputError, match=r"codebook_size=64 is more than the 10 items of 'shop'.*codebook_size=3$"):
        fit(np.arange(10), levels=3, codebook_size=64)


@pytest.mark.skipif(not INDUSTRIAL.exists(), reason="../shared/data/amazon_industrial is absent")
def test_real_titles_and_sequences_give_unique_ids_that_follow_the_users(make_interactions):
    sequences = list(json.loads((INDUSTRIAL / "Industrial.inter.json").read_text()).values())
    titles = [item["title"] for item in json.loads((INDUSTRIAL / "Industrial.item.json").read_text()).values()]
    shop = make_interactions(sequences, titles=titles)
    embedding = JointEmbedding(
        text=TextEmbedding(dimensions=16, terms=5000, seed=1),
        collaborative=CollaborativeEmbedding(dimensions=16, seed=1),
        text_weight=0.3,
    )
    tokens = tokenizer(embedding, levels=3, codebook_size=32, restarts=1).fit(shop)
    assert tokens.report["collision_rate"] == 0
    first = tokens.tokens[:, 0]
    pairs = [(first[one], first[two]) for row in sequences for one, two in zip(row[:-2], row[1:-2], strict=False)]
    by_chance = ((np.bincount(first[[two for row in sequences for two in row[1:-2]]]) / len(pairs)) ** 2).sum()
    assert np.mean([one == two for one, two in pairs]) > 3 * by_chance


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
