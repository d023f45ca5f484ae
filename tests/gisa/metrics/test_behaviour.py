import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from src.gisa.metrics.behaviour import (
    StepValue,
    ToolCall,
    Weights,
    adjacent_query_jaccard,
    browsing_similarity,
    canonical_url,
    high_and_low,
    jaccard,
    rewards,
    search_similarity,
    step_values,
)

QUERIES = st.lists(st.text("abc XY-", max_size=8), max_size=4)
URLS = st.lists(st.sampled_from(["https://a.org", "https://a.org/", "https://b.org/x", "http://b.org/x"]), max_size=4)
CALLS = st.builds(ToolCall, text=st.text("ab ", max_size=6), query=st.none() | st.text("ab ", max_size=5),
                  urls=st.lists(st.sampled_from(["u", "v"]), max_size=2).map(tuple))  # fmt: skip


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
        ("http://example.org:80/a", "https://example.org/a"),
        ("https://example.org:443/a", "https://example.org/a"),
        ("https://example.org.:8443/a", "https://example.org:8443/a"),
        ("https://example.org/%7euser/caf%c3%a9%2f%41", "https://example.org/~user/caf%C3%A9%2FA"),
        ("https://example.org/~user/café b", "https://example.org/~user/caf%C3%A9%20b"),
        ("https://example.org/a?q=S%C3%A3o+Paulo&r=%7E", "https://example.org/a?q=S%C3%A3o+Paulo&r=~"),
        ("https://example.org/a/./b/../c/", "https://example.org/a/c"),
        ("https://example.org/../a%", "https://example.org/a%"),
        ("http://BÜCHER.example/ä", "https://xn--bcher-kva.example/%C3%A4"),
        ("https://xn--bcher-kva.example/%c3%a4", "https://xn--bcher-kva.example/%C3%A4"),
        ("http://user@[2001:DB8::1]:80/", "https://user@[2001:db8::1]"),
        ("http://example.org:port/", "http://example.org:port/"),
        ("https://google.com/%75rl?q=https://example.org/a", "https://example.org/a"),
        ("http://b\u00fccher.example\u3002\u3002/", "https://xn--bcher-kva.example"),
        ("ftp://Example.org:21/%7e", "ftp://example.org:21/%7e"),
        ("", ""),
    ],
)
def test_addresses_of_one_page_become_equal(url, canonical):
    assert canonical_url(url) == canonical


@given(
    st.text()
    | st.text("htps:/?#&=[]@.utm_a ", max_size=30)
    | st.text("/?#&=%4aé.:@ 0\ud800", max_size=20).map("http://a.org".__add__)
)
@example("http://google.com/%75rl?q=http://a")
@example("http://\u3002/")
@example("http:////#")
@example("//a//?#")
@example("http://a.org..")
@example("HTTP://. #")
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


def test_each_step_gets_what_it_shows_first_as_worked_by_hand():
    calls = [
        ToolCall("1. Peru https://a.org/peru Area 1,285,216 sq km", query="peru area"),  # one of four cells: the area
        ToolCall("Capital: LIMA. Area: 1285216", urls=("https://a.org/peru/?utm_source=x",)),  # Lima; one of two pages
        ToolCall("Nothing.", query="Peru area Lima"),  # shares 2 of 3 terms with the first query
        ToolCall("Côte d’Ivoire: 7.5%", urls=("https://a.org/peru", "https://b.org")),  # two cells, the other page
    ]
    gold = ["Lima", "1,285,216", "Côte d'Ivoire", "7.5%", "Lima", " "]
    values = step_values(calls, gold, ["https://a.org/peru", "https://b.org/"])
    assert values == [
        StepValue(0.25, 0, 1), StepValue(0.25, 0.5, 0), StepValue(0, 0, pytest.approx(1 / 3)), StepValue(0.5, 0.5, 0),
    ]  # fmt: skip
    weights = Weights(cells=0.4, human_urls=0.2, novelty=0.3, cost=0.05)
    # 0.4 * 0.25 + 0.3 - 0.05; 0.4 * 0.25 + 0.2 * 0.5 - 0.05; 0.3 / 3 - 0.05; 0.4 * 0.5 + 0.2 * 0.5 - 0.05
    assert rewards(values, weights) == pytest.approx([0.35, 0.15, 0.05, 0.25])


@pytest.mark.parametrize(
    ("cell", "text", "seen"),
    [
        ("Niger", "Nigeria", False), ("Niger", "(Niger)", True), ("12", "3.12", False), ("12", "12.5", False),
        ("12", "12.", True), ("12", "112", False), ("12", "12%", True), (".pe", "Code .pe", True),
        ("1285216", "1,285,216", True), ("1,2", "1,2", True), ("216", "1,285,216", False), ("a - b", "A – B", True),
        ("two words", "two\n words", True), ("x (y)", "x (y)", True),
    ],
)  # fmt: skip
def test_a_cell_is_seen_as_words_of_its_own(cell, text, seen):
    (value,) = step_values([ToolCall(text)], [cell], [])
    assert value.new_cells == seen


def test_without_answer_pages_or_terms_nothing_is_gained():
    calls = [ToolCall("x", query=" - "), ToolCall("x", query="a"), ToolCall("x", query="a"), ToolCall("x", urls=("u",))]
    assert step_values(calls, [], []) == [StepValue(0, 0, novelty) for novelty in (0, 1, 0, 0)]
    assert step_values([], ["x"], ["u"]) == []
    assert rewards([], Weights()) == []


@given(st.lists(CALLS, max_size=6), st.lists(st.sampled_from(["a", "b", "a b", ""])))
def test_shares_of_an_episode_sum_to_at_most_one(calls, gold):
    values = step_values(calls, gold, ["u", "v"])
    assert sum(value.new_cells for value in values) <= 1 + 1e-9
    assert sum(value.human_urls for value in values) <= 1 + 1e-9
