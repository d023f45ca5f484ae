import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.metrics.stats import bootstrap_interval, paired_bootstrap, seed_interval


def test_seed_interval_of_three_values_agrees_with_hand_arithmetic():
    # Mean 0.2; standard deviation sqrt((0.01 + 0 + 0.01) / 2) = 0.1; t(0.975, 2) = 4.302653;
    # half width 4.302653 * 0.1 / sqrt(3) = 0.248414.
    interval = seed_interval([0.1, 0.2, 0.3])
    assert interval.mean == pytest.approx(0.2)
    assert interval.half_width == pytest.approx(0.248414, abs=1e-6)
    assert (interval.low, interval.high) == pytest.approx((-0.048414, 0.448414), abs=1e-6)


def test_a_single_seed_has_a_mean_and_no_interval():
    interval = seed_interval([0.25])
    assert interval.mean == 0.25
    assert math.isnan(interval.half_width)


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        seed_interval([])


def test_bootstrap_over_two_users_has_the_exact_quantiles():
    # Scores 0 and 1: a resample of two users has mean 0, 1/2 or 1 with probability 1/4, 1/2, 1/4.
    interval = bootstrap_interval([0.0, 1.0])
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.0, 1.0)


def test_bootstrap_width_agrees_with_the_binomial_standard_error():
    # 1,000 users, 200 hits: standard error sqrt(0.2 * 0.8 / 1000) = 0.012649; 1.96 of them are 0.02479.
    interval = bootstrap_interval(np.repeat([1.0, 0.0], [200, 800]))
    assert interval.half_width == pytest.approx(0.02479, rel=0.03)


def test_paired_difference_of_constant_gains_has_no_width():
    # Every user gains exactly 0.25 over 0.5, so every resample does.
    result = paired_bootstrap(np.full(10, 0.75), np.full(10, 0.5), samples=100)
    assert (result.difference.mean, result.difference.low, result.difference.high) == (0.25, 0.25, 0.25)
    assert result.share_above_zero == 1.0
    assert result.relative == pytest.approx(0.5)


def test_equal_methods_have_no_resample_above_zero():
    scores = np.array([0.0, 1.0, 0.5])
    assert paired_bootstrap(scores, scores, samples=50).share_above_zero == 0.0


def test_relative_change_from_zero_is_nan():
    assert math.isnan(paired_bootstrap([1.0], [0.0], samples=10).relative)


def test_a_difference_between_seeds_widens_the_interval():
    # Users agree exactly; the seeds differ by -0.1, 0 and +0.1: users alone would give width 0. A resample of three
    # seeds draws the same extreme seed three times in 1 of 27 cases (3.7% > 2.5%): the ends are -0.1 and +0.1.
    gains = np.array([[-0.1], [0.0], [0.1]]).repeat(5, axis=1)
    interval = paired_bootstrap(gains, np.zeros_like(gains)).difference
    assert (interval.low, interval.high) == pytest.approx((-0.1, 0.1))
    assert paired_bootstrap(gains.mean(axis=0), np.zeros(5)).difference.half_width == pytest.approx(0)


def test_grouping_equal_users_leaves_the_distribution_of_resamples_unchanged():
    # The slow reference draws users and seeds by index.
    random = np.random.default_rng(3)
    scores = random.choice([0.0, 0.0, 0.0, 0.5, 1.0], size=(3, 40))
    means = [scores[random.integers(3, size=3)][:, random.integers(40, size=40)].mean() for _ in range(20_000)]
    interval = bootstrap_interval(scores, samples=20_000)
    assert (interval.low, interval.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)


def test_the_interval_covers_the_true_difference_where_seeds_differ():
    # 120 repetitions, true difference 0, with user, seed and joint noise: nominal coverage is 95%. Averaging over the
    # seeds first leaves their noise out and covers far less.
    random = np.random.default_rng(0)
    covered = averaged_covered = 0
    for seed in range(120):
        gains = random.normal(0, 0.3, (3, 1)) + random.normal(0, 2, (1, 100)) + random.normal(0, 1, (3, 100))
        both = paired_bootstrap(gains, np.zeros_like(gains), seed=seed, samples=300).difference
        users = paired_bootstrap(gains.mean(axis=0), np.zeros(100), seed=seed, samples=300).difference
        covered += both.low <= 0 <= both.high
        averaged_covered += users.low <= 0 <= users.high
    assert covered / 120 > 0.9 > averaged_covered / 120


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 3))
def test_an_interval_holds_its_mean_range_and_repeats_exactly(values, seeds):
    scores = np.tile(values, (seeds, 1))
    interval = bootstrap_interval(scores, samples=50)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert interval == bootstrap_interval(scores, samples=50)


def test_swapping_the_methods_turns_the_sign_of_the_difference():
    random = np.random.default_rng(1)
    a, b = random.random(50), random.random(50)
    forward, backward = paired_bootstrap(a, b).difference, paired_bootstrap(b, a).difference
    assert forward.mean == pytest.approx(-backward.mean)
    assert forward.low == pytest.approx(-backward.high, abs=0.01)


@pytest.mark.parametrize("scores", [[], [math.nan, 1.0], np.zeros((1, 2, 3))])
def test_scores_without_users_with_nan_or_three_dimensions_are_refused(scores):
    with pytest.raises(ValueError, match="scores must have shape"):
        bootstrap_interval(scores)


def test_unequal_numbers_of_users_are_refused():
    with pytest.raises(ValueError, match=r"equal shapes; got \(1, 2\) and \(1, 3\)"):
        paired_bootstrap([1.0, 0.0], [1.0, 0.0, 0.0])
