"""States of episodes: numbers worked by hand, nothing of later moments, nothing of an answer that is not there."""

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.dataset.episode_states import ANSWERED, NAMES, states
from src.metrics.process import ToolCall

QUESTION = "What is the capital of Upper Volta and of Mali?"
CALLS = [
    ToolCall("1. Mali\nhttps://a.org/mali\n2. Togo", query="Mali capital"),
    ToolCall("Page https://a.org/mali\nCapital\nBamako\nPopulation: 23", urls=("https://a.org/mali",)),
    ToolCall("Nothing.", query="Mali money"),
    ToolCall("Page https://a.org/togo/x\nCapital: Lomé", urls=("https://a.org/togo/x", "https://a.org/mali/")),
]
ANSWER = "```tsv\nCountry\tCapital\nMali\tBamako\nMali\tOslo\n```"


def named(state):
    return dict(zip(NAMES, state.tolist(), strict=True))


def test_each_moment_is_told_in_the_numbers_worked_by_hand():
    made = states(QUESTION, "table", CALLS, ANSWER)
    assert made.shape == (6, len(NAMES))
    start, _, _, _, read, answered = map(named, made)
    # The other words are among the most common ones.
    asked = {"capital", "upper", "volta", "mali"}
    assert start == pytest.approx(dict.fromkeys(NAMES, 0.0) | {"table": 1, "question_words": log(1 + len(asked))})
    assert read["calls"] == pytest.approx(log(5))
    assert read["share_of_visits"] == 0.5
    assert (read["pages"], read["share_of_new_pages"]) == pytest.approx((log(3), 2 / 3))  # mali, togo/x, mali again
    assert read["characters"] == pytest.approx(log(1 + sum(len(call.text) for call in CALLS)))
    assert read["novelty"] == pytest.approx((1 + 2 / 3) / 2)  # the second query shares one of three terms
    assert read["question_in_queries"] == 0.5  # mali, capital of four
    assert read["queries_in_question"] == pytest.approx((1 + 0.5) / 2)
    assert read["question_in_results"] == 0.5
    assert read["names_in_pages"] == pytest.approx(1 / 3)  # of upper, volta, mali
    # Of the addresses mali, togo/x (x is no word) and mali, all, none and all words are asked for.
    assert (read["addresses_in_question"], read["worst_address_in_question"]) == pytest.approx((2 / 3, 0))
    assert {name: answered[name] for name in NAMES if name not in ANSWERED} == {
        name: read[name] for name in NAMES if name not in ANSWERED
    }
    assert {name: answered[name] for name in ANSWERED} == pytest.approx(
        {
            "answered": 1, "readable": 1, "fits_type": 1, "rows": log(3), "columns": log(3),
            "answer_characters": log(1 + len(ANSWER)), "distinct_rows": 1, "filled_cells": 1, "cells_with_digits": 0,
            "cells_shown": 2 / 3,  # Mali and Bamako, not Oslo
            "cells_in_question": 1 / 3,
            # Mali's best line shows 1 of 4 words (mali), Bamako's with the one above too (capital); Oslo has none.
            "question_beside_cells": (1 / 4 + 1 / 4 + 0) / 3,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer_type", "rows", "fits"),
    [
        ("item", ["a"], 1), ("item", ["a", "b"], 0), ("item", ["a\tb"], 0), ("set", ["a", "b"], 1), 
        ("list", ["a\tb"], 0), ("table", ["a\tb"], 1), ("table", ["a"], 0), ("table", [], 0), ("item", [], 0),
    ],
)  # fmt: skip
def test_an_answer_fits_its_type_by_rows_and_columns(answer_type, rows, fits):
    width = rows[0].count("\t") + 1 if rows else 2
    text = "\n".join(["\t".join(f"h{at}" for at in range(width)), *rows])
    assert named(states("Who?", answer_type, [], f"```tsv\n{text}\n```")[-1])["fits_type"] == fits


def test_no_answer_is_told_as_none():
    state = named(states("Who?", "item", [], "")[-1])
    assert {name for name in ANSWERED if state[name]} == {"answered"}


TEXTS = st.text("ab Z1\n\t`|", max_size=30)
ONE = st.builds(
    ToolCall, TEXTS, st.none() | TEXTS, st.lists(st.sampled_from(["http://[", "https://a.b/c%", "x"])).map(tuple)
)


@given(TEXTS, st.sampled_from(["item", "table"]), st.lists(ONE, max_size=4), TEXTS)
def test_a_state_knows_nothing_of_later_moments_and_is_finite(question, answer_type, calls, answer):
    made = states(question, answer_type, calls, answer)
    assert made.shape == (len(calls) + 2, len(NAMES))
    assert np.isfinite(made).all()
    for done in range(len(calls) + 1):
        assert np.array_equal(states(question, answer_type, calls[:done], "other")[done], made[done])
