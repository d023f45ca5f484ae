import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.metrics.process import StepValue, ToolCall, Weights, potentials, rewards, shaping, step_values


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
    # The potential rises by 0.1, 0.2, 0 and 0.3, without novelty and cost.
    assert potentials(values, weights) == pytest.approx([0, 0.1, 0.3, 0.3, 0.6])


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


def test_shaping_is_worked_by_hand():
    # 0.5 * 0.2 - 0, 0.5 * 0.6 - 0.2, and 0.5 * 0 - 0.6 for the answer.
    assert shaping([0, 0.2, 0.6], 0.5) == pytest.approx([0.1, 0.1, -0.6])


CALLS = st.builds(ToolCall, text=st.text("ab ", max_size=6), query=st.none() | st.text("ab ", max_size=5),
                  urls=st.lists(st.sampled_from(["u", "v"]), max_size=2).map(tuple))  # fmt: skip


@given(st.lists(CALLS, max_size=6), st.lists(st.sampled_from(["a", "b", "a b", ""])), st.sampled_from([1.0, 0.9, 0.3]))
def test_shaping_telescopes_to_nothing_and_shares_sum_to_at_most_one(calls, gold, discount):
    values = step_values(calls, gold, ["u", "v"])
    assert sum(value.new_cells for value in values) <= 1 + 1e-9
    assert sum(value.human_urls for value in values) <= 1 + 1e-9
    states = potentials(values, Weights())
    assert states == sorted(states)
    added = shaping(states, discount)
    assert sum(discount**time * one for time, one in enumerate(added)) == pytest.approx(-states[0], abs=1e-9)


def test_shaping_changes_no_choice_between_ways():
    """Two pages to visit or leave, in whatever order, then the answer; 1 for it if "right" was read, 0.1 a visit."""
    pages = {"right": ToolCall("Lima", urls=("r",)), "wrong": ToolCall("nothing", urls=("w",))}
    plain, shaped = {}, {}
    for way in itertools.chain.from_iterable(itertools.permutations(pages, count) for count in range(3)):
        reward = [-0.1] * len(way) + [1.0 * ("right" in way)]
        values = step_values([pages[page] for page in way], ["Lima"], ["r"])
        states = potentials(values, Weights(cells=5, human_urls=7))  # far more than the answer itself
        added = shaping(states, 0.9)
        plain[way] = sum(0.9**time * one for time, one in enumerate(reward))
        shaped[way] = sum(0.9**time * (one + more) for time, (one, more) in enumerate(zip(reward, added, strict=True)))
    assert shaped == pytest.approx(plain)
    # By hand: "right" alone gives -0.1 + 0.9; first the wrong one -0.1 - 0.09 + 0.81, in whatever order; none 0.
    assert plain[("right",)] == pytest.approx(0.8)
    assert plain[("wrong", "right")] == plain[("right", "wrong")] == pytest.approx(0.62)
    assert max(shaped, key=shaped.get) == ("right",)
