import itertools
import re

import pytest

from src.gisa.dataset.factbook import answers
from src.gisa.dataset.factbook.answers import NoAnswerError, sign_between
from src.gisa.dataset.factbook.pages import factbook_web, page_listing, page_with
from src.gisa.dataset.factbook.records import BY_KEY, FIRST, LATER


class PagesOnly:
    """Gives facts from the text of the pages and nothing else; slow, obvious, and independent of the records."""

    def __init__(self, corpus):
        self.corpus = corpus

    def values(self, name, key):
        field = BY_KEY[key]
        text = self.corpus.read(page_with(name, key).address).text
        for line in re.sub(rf"{field.label}\n", f"{field.label}: ", text).split("\n"):
            found = re.fullmatch(rf"(?:- )?{field.label}(?: \||:) (.*)|For .* {field.label} is given as (.*)\.", line)
            if found:
                return field.values(found[1] or found[2])
        raise AssertionError((name, key))

    def members(self, group):
        return tuple(re.findall(r"\[(.*?)\]", self.corpus.read(page_listing("country", group).address).text))


class Listed:
    """Gives the values of the one field that there is."""

    def __init__(self, **values):
        self._values = {name: (value,) if isinstance(value, str) else value for name, value in values.items()}

    def values(self, name, key):
        return self._values[name]

    def members(self, group):
        return tuple(name for name in self._values if name != group)


def test_every_gold_answer_follows_from_the_pages_of_its_day(suite):
    first, later = PagesOnly(factbook_web(FIRST)), PagesOnly(factbook_web(LATER))
    for question in suite:
        assert question.draft.answer(first) == question.gold
        assert question.draft.answer(later) == question.later


def test_answers_of_sets_follow_from_the_pages(sets):
    pages = PagesOnly(factbook_web(FIRST))
    for question in itertools.chain(*sets.values()):
        assert question.draft.answer(pages) == question.gold


@pytest.mark.parametrize(
    ("value", "other", "sign"),
    [("1,000", "20", ">"), ("9", "20", "<"), ("9", "9.0", "="), ("4.1%", "4%", ">"), ("-0.1%", "0%", "<")],
)
def test_values_are_compared_as_numbers(value, other, sign):
    assert sign_between(value, other) == sign


def test_entities_are_sorted_from_either_end_and_never_where_two_are_equal():
    read, asked = Listed(A="1,000", B="20", C="300"), {"all": "A, B, C", "field": "area"}
    assert answers.ranking(read, asked, ">") == [["A"], ["C"], ["B"]]
    assert answers.ranking(read, asked, "<") == [["B"], ["C"], ["A"]]
    assert answers.first(read, asked, ">") == [["A"]]
    assert answers.first(read, asked, "<") == [["B"]]
    assert answers.ranked_profile(read, asked, "<") == [["B", "20"], ["C", "300"], ["A", "1,000"]]
    for tied in (Listed(A="9", B="20", C="9.0"), Listed(A="30", B="20", C="20.0")):
        for procedure in (answers.ranking, answers.first, answers.ranked_profile):
            with pytest.raises(NoAnswerError):
                procedure(tied, asked, ">")


def test_the_largest_neighbour_is_one_of_several():
    """The field of ``a`` holds its neighbours, as ``Listed`` has but one."""
    read = Listed(a=("A", "B"), b=("A",), A="3", B="5")
    assert answers.first(read, {"a": "a", "field": "area"}, ">") == [["B"]]
    assert answers.profile(read, {"a": "a", "field": "area"}, "") == [["A", "3"], ["B", "5"]]
    with pytest.raises(NoAnswerError):
        answers.first(read, {"a": "b", "field": "area"}, ">")


def test_some_entities_must_pass_a_limit_and_some_not():
    asked = {"all": "A, B", "field": "inflation", "limit": "4%"}
    assert answers.passing(Listed(A="4%", B="4.1%"), asked, ">") == [["B"]]
    assert answers.passing(Listed(A="3%", B="4%"), asked, "<") == [["A"]]
    for all_or_none in ({"A": "5%", "B": "6%"}, {"A": "3%", "B": "4%"}):
        with pytest.raises(NoAnswerError):
            answers.passing(Listed(**all_or_none), asked, ">")


def test_an_answer_about_a_group_is_not_most_of_it():
    read = Listed(A="1", B="0", C="3", D="2")
    assert answers.landlocked(read, {"group": "x"}, "") == [["B"]]
    assert answers.top(read, {"group": "x", "field": "area", "n": "2"}, ">") == [["C"], ["D"]]
    assert answers.first(read, {"group": "x", "field": "area"}, ">") == [["C"]]
    asked = {"group": "x", "field": "area", "other": "area", "n": "2"}
    assert answers.top_profile(read, asked, ">") == [["C", "3"], ["D", "2"]]
    with pytest.raises(NoAnswerError):
        answers.top(read, {"group": "x", "field": "area", "n": "3"}, ">")
    with pytest.raises(NoAnswerError):
        answers.landlocked(Listed(A="1"), {"group": "x"}, "")
    with pytest.raises(NoAnswerError):
        answers.landlocked(Listed(A="0", B="1", C="0"), {"group": "x"}, "")


def test_lists_are_copied_joined_and_searched_for_what_they_share():
    read, asked = Listed(A=("X", "Y", "Z"), B=("Z", "U", "X"), C=("U",)), {"all": "A, B", "field": "borders"}
    assert answers.lookup(read, {"a": "A", "field": "borders"}, "") == [["X"]]
    assert answers.lookup_all(read, {"a": "A", "field": "borders"}, "") == [["X"], ["Y"], ["Z"]]
    assert answers.common(read, asked, "") == [["Z"], ["X"]]  # in the order of the second
    assert answers.either(read, asked, "") == [["X"], ["Y"], ["Z"], ["U"]]
    with pytest.raises(NoAnswerError):
        answers.common(read, {"all": "A, C", "field": "borders"}, "")


def test_a_table_has_the_fields_that_are_asked_for():
    read = Listed(A="4", B="5")
    assert answers.profile(read, {"all": "A, B", "field": "area"}, "") == [["A", "4"], ["B", "5"]]
    asked = {"all": "B, A", "field": "area", "other": "life", "third": "age"}
    assert answers.profile(read, asked, "") == [["B", "5", "5", "5"], ["A", "4", "4", "4"]]
