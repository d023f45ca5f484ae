import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from src.gisa.metrics.behaviour import (
    adjacent_query_jaccard,
    browsing_similarity,
    canonical_url,
    high_and_low,
    jaccard,
    search_similarity,
)

QUERIES = st.lists(st.text("abc XY-", max_size=8), max_size=4)
URLS = st.lists(st.sampled_from(["https://a.org", "https://a.org/", "https://b.org/x", "http://b.org/x"]), max_size=4)


def test_each_human_query_counts_with_the_closest_one_of_the_model():
    # "population of peru": {peru, area} shares 1 of 4 terms, {population, peru, 2020} 2 of 4. "capital": none.
    human = ["Population of Peru", "capital"]
    model = ["peru area", "population Peru 2020"]
    assert search_similarity(human, model) == pytest.approx((2 / 4 + 0) / 2)


def test_search_similarity_is_one_sided():
    # A model that makes the human's one query and two others misses nothing; the other way round, two find nothing.
    assert search_similarity(["a"], ["a", "b", "c"]) == 1
    assert search_similarity(["a", "b", "c"], ["a"]) == pytest.approx(1 / 3)


def test_without_queries_of_the_model_nothing_is_similar_and_without_those_of_the_human_nothing_is_known():
    assert search_similarity(["a"], []) == 0
    assert search_similarity([], ["a"]) is None


def test_neighbouring_queries_are_compared_in_their_order():
    # {gdp, of, peru} and {gdp, of, chile} share 2 of 4; {gdp, of, chile} and {chile} 1 of 3.
    assert adjacent_query_jaccard(["GDP of Peru", "GDP of Chile", "Chile"]) == pytest.approx((2 / 4 + 1 / 3) / 2)
    assert adjacent_query_jaccard(["only one"]) is None


def test_visited_pages_are_compared_as_sets_in_their_canonical_form():
    # Human: a, b. Model: a (twice, in other writings), c. One of three.
    human = ["https://a.org/", "https://b.org/x"]
    model = ["HTTPS://A.org#top", "https://a.org/?utm_source=x", "https://c.org"]
    assert browsing_similarity(human, model) == pytest.approx(1 / 3)
    assert browsing_similarity([], []) is None
    assert browsing_similarity([], ["https://a.org"]) == 0


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("HTTPS://Example.ORG/Path/?b=1&utm_campaign=z&a=2&GCLID=3#part", "https://example.org/Path?b=1&a=2"),
        (" https://example.org/ ", "https://example.org"),
        ("https://example.org/?utm=1", "https://example.org?utm=1"),  # not one of the tracking parameters
        ("0 /", "0"),
        (
            "https://www.google.com/url?sa=t&url=https%3A%2F%2FExample.org%2Fa%2F%3Futm_source%3Dx",
            "https://example.org/a",
        ),
        ("https://google.co.uk/url/?q=https://duckduckgo.com/l/?uddg=https://example.org/a", "https://example.org/a"),
        ("https://l.facebook.com/l.php?u=https://example.org/a&h=1", "https://example.org/a"),
        ("https://google.org/url?q=javascript:x", "https://google.org/url?q=javascript:x"),
        ("https://google.com/url?q=https://google.com/url", "https://google.com/url"),
        (
            "https://google.com.evil.org/url?q=https://example.org",
            "https://google.com.evil.org/url?q=https://example.org",
        ),
        ("http://[broken", "http://[broken"),
        ("", ""),
    ],
)
def test_addresses_of_one_page_become_equal(url, canonical):
    assert canonical_url(url) == canonical


@given(st.text() | st.text("htps:/?#&=[]@.utm_a ", max_size=30))
@example("http:////#")
@example("//a//?#")
def test_a_canonical_address_is_its_own(url):
    assert canonical_url(canonical_url(url)) == canonical_url(url)


@given(QUERIES, QUERIES, URLS, URLS)
def test_similarities_lie_between_none_and_all_and_agree_with_oneself(human, model, first, second):
    for value in (search_similarity(human, model), adjacent_query_jaccard(model), browsing_similarity(first, second)):
        assert value is None or 0 <= value <= 1
    assert browsing_similarity(first, second) == browsing_similarity(second, first)
    assert browsing_similarity(first, reversed(first)) in (None, 1)
    if all(query.strip(" -") for query in human):
        assert search_similarity(human, human[::-1]) in (None, 1)
    if human and model:  # further queries can only bring the model closer
        assert search_similarity(human, model + human) >= search_similarity(human, model)


def test_the_halves_lie_above_the_median_and_not_above_it():
    high, low = high_and_low([0.1, 0.4, 0.2, 0.3])  # median 0.25
    assert high.tolist() == [False, True, False, True]
    assert low.tolist() == [True, False, True, False]


def test_questions_as_similar_as_the_median_stay_together():
    assert high_and_low([0.0, 0.0, 0.0, 0.5])[0].tolist() == [False, False, False, True]
    assert high_and_low([1.0, 1.0, 1.0, 0.5])[0].tolist() == [True, True, True, False]
    assert high_and_low([0.2, 0.2])[0].tolist() == [False, False]
    assert high_and_low([])[0].tolist() == []


@given(st.lists(st.integers(0, 5), max_size=9))
def test_the_halves_are_as_equal_as_any_cut_makes_them(values):
    high, low = high_and_low(values)
    assert (high ^ low).all()
    assert not high.any() or not low.any() or np.asarray(values)[high].min() > np.asarray(values)[low].max()
    cuts = [sum(value > cut for value in values) for cut in values]
    assert abs(len(values) - 2 * high.sum()) <= min((abs(len(values) - 2 * cut) for cut in cuts), default=0)


def test_nothing_has_nothing_in_common_with_nothing():
    assert jaccard(frozenset(), frozenset()) == 0
