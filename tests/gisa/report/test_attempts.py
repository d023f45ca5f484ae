import itertools
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.metrics.answer_text import official_table
from src.gisa.metrics.answers import official_score
from src.gisa.report import attempts as module
from src.gisa.report.attempts import Vote, best_at_k, majority, mean_vote, subsets

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=7)
TEXTS = st.lists(st.text('ab1%\t\n"` ', max_size=12), min_size=1, max_size=5)


def ballot(text, answer_type):
    return module.ballot(official_table(text), answer_type)


def cell_vote(texts):
    return module.cell_vote(list(map(official_table, texts)))


def test_pass_at_k_by_hand():
    # 4 attempts, 1 right: of the 6 pairs, 3 hold it.
    assert best_at_k([1, 0, 0, 0], 2) == pytest.approx(0.5)
    assert best_at_k([1, 0, 0, 0], 1) == pytest.approx(0.25)
    assert best_at_k([1, 1, 1, 0], 2) == 1  # two wrong ones there are not
    assert best_at_k([0, 0, 0, 0], 4) == 0


def test_the_best_of_two_by_hand():
    # Pairs of 0.2, 0.5, 0.5, 0.9: best 0.5 (three times: 0.2 with either 0.5, both 0.5), 0.9 (three times).
    assert best_at_k([0.9, 0.2, 0.5, 0.5], 2) == pytest.approx((3 * 0.5 + 3 * 0.9) / 6)


@given(SCORES, st.data())
def test_the_best_of_k_is_the_mean_over_all_choices(scores, data):
    k = data.draw(st.integers(1, len(scores)))
    choices = list(itertools.combinations(scores, k))
    assert best_at_k(scores, k) == pytest.approx(sum(map(max, choices)) / len(choices))


@given(st.lists(st.booleans(), min_size=1, max_size=16), st.data())
def test_pass_at_k_is_the_best_of_k_rights_and_wrongs(rights, data):
    k = data.draw(st.integers(1, len(rights)))
    pass_at_k = 1 - comb(len(rights) - sum(rights), k) / comb(len(rights), k)
    assert best_at_k(rights, k) == pytest.approx(pass_at_k)


@given(SCORES)
def test_of_one_attempt_the_best_is_the_mean_and_of_all_the_highest(scores):
    assert best_at_k(scores, 1) == pytest.approx(sum(scores) / len(scores))
    assert best_at_k(scores, len(scores)) == pytest.approx(max(scores))


@pytest.mark.parametrize("k", [0, 3])
def test_more_attempts_than_there_are_cannot_be_chosen(k):
    with pytest.raises(ValueError, match=f"k={k} of 2 attempts; it must be from 1"):
        best_at_k([0, 1], k)
    with pytest.raises(ValueError, match=f"k={k} of 2"):
        next(subsets(2, k))


def test_the_most_frequent_answer_wins_and_unreadable_attempts_only_lower_its_confidence():
    assert majority(["x", "y", "x", None], [1.0, 0.0, 1.0, 0.0]) == Vote(score=1.0, confidence=2 / 4)
    assert majority([None, None], [0.0, 0.0]) == Vote(0.0, 0.0)


def test_tied_answers_share_the_score():
    # x and y twice each, z once: the lot gives 1 or 0.5.
    assert majority(["x", "y", "z", "y", "x"], [1, 0.5, 0, 0.5, 1]) == Vote(score=0.75, confidence=2 / 5)


@given(st.lists(st.sampled_from("xyz") | st.none(), min_size=1, max_size=8))
def test_a_vote_lies_between_the_scores_and_ignores_the_order_of_attempts(answers):
    scores = [{"x": 1.0, "y": 0.25, "z": 0.0, None: 0.0}[answer] for answer in answers]
    vote = majority(answers, scores)
    assert min(scores) <= vote.score <= max(scores)
    assert 0 <= vote.confidence <= 1
    backwards = majority(answers[::-1], scores[::-1])
    assert (backwards.score, backwards.confidence) == (pytest.approx(vote.score), vote.confidence)


@given(st.lists(st.sampled_from("xyz"), min_size=2, max_size=6))
def test_one_vote_is_the_mean_and_two_decide_nothing_more(answers):
    scores = [float(answer == "x") for answer in answers]
    mean = sum(scores) / len(scores)
    for k in (1, 2):  # two different answers tie; two equal ones are one
        vote = mean_vote(len(answers), k, lambda at: majority([answers[i] for i in at], [scores[i] for i in at]))
        assert vote.score == pytest.approx(mean)


def test_answers_that_look_different_and_score_alike_are_one_vote():
    assert ballot("```tsv\nCity\n**Lima**\n```", "item") == ballot("Place\nlima", "item")
    assert ballot("x\n1,000\n50%", "list") == ballot("y\n1000\n0.5", "list")
    assert ballot("x\na\nb", "set") == ballot("x\nb\na\na", "set")
    assert ballot("x\na\nb", "list") != ballot("x\nb\na", "list")
    assert ballot("A\tB\n1\t2", "table") != ballot("A\tC\n1\t2", "table")  # names count for the rows' F1
    assert ballot("", "item") is None
    assert ballot("only a header", "item") is None


@given(TEXTS, st.sampled_from(["item", "set", "list", "table"]))
def test_equal_votes_have_equal_official_scores(texts, answer_type):
    gold = b"a,b\na,1\nb,2\n" if answer_type == "table" else b"a\nb\n"
    scores = {}
    for text in [*texts, *(text.upper() for text in texts)]:
        if (key := ballot(text, answer_type)) is not None:
            score = official_score(text, gold, answer_type)
            assert scores.setdefault(key, score) == score


def test_a_table_is_voted_together_from_attempts_none_of_which_is_right():
    # Each attempt has one fault: a cell, a row too many, a row too few, with the columns the other way round.
    first = "City\tPop\nLima\t99\nCusco\t2\nPiura\t3"
    second = "City\tPop\nLima\t1\nCusco\t2\nPiura\t3\nAtlantis\t7"
    third = "Pop\tCity\n1\tLima\n2\tCusco"
    voted = cell_vote([first, second, third])
    assert voted == "city\tpop\nlima\t1\ncusco\t2\npiura\t3\n"
    gold = b"City,Pop\nLima,1\nCusco,2\nPiura,3\n"
    assert official_score(voted, gold, "table")["global_em"] == 1
    assert [official_score(text, gold, "table")["global_em"] for text in (first, second, third)] == [0, 0, 0]


def test_columns_and_rows_of_half_of_the_attempts_do_not_stay():
    assert cell_vote(["A\tB\n1\t2", "A\n3"]) == "a\n"
    assert cell_vote(["A\n1", "B\n1"]) == ""
    assert cell_vote(["", "no table"]) == ""


def test_a_column_that_one_attempt_lacks_takes_its_cells_from_the_others():
    assert cell_vote(["A\tB\nx\t1", "A\nx", "A\tB\nx\t1"]) == "a\tb\nx\t1\n"


@given(TEXTS)
def test_a_vote_over_anything_is_a_table_or_nothing(texts):
    text = cell_vote(texts)
    assert isinstance(text, str)
    assert cell_vote(texts) == text


CELLS = st.lists(st.sampled_from(["a", "b", "1", "20%"]), min_size=2, max_size=2)


@given(st.lists(CELLS, min_size=1, max_size=5), st.integers(1, 3))
def test_copies_of_one_table_vote_for_it_even_if_first_cells_repeat(rows, copies):
    text = "\n".join(["A\tB", *("\t".join(row) for row in rows)])
    gold = text.replace("\t", ",").encode()
    assert official_score(cell_vote([text] * copies), gold, "table") == official_score(text, gold, "table")


@given(st.integers(1, 16), st.data())
def test_choices_are_all_there_are_or_as_many_as_asked_for(attempts, data):
    k = data.draw(st.integers(1, attempts))
    chosen = list(subsets(attempts, k, most=20))
    assert len(chosen) == min(20, comb(attempts, k))
    assert all(len(set(one)) == k and set(one) <= set(range(attempts)) for one in chosen)
    assert chosen == list(subsets(attempts, k, most=20))
