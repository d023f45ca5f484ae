import copy
import itertools
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from src.gisa.dataset.factbook import families
from src.gisa.dataset.factbook.families import Catalogue, catalogue, sign_between, understand, worded
from src.gisa.dataset.factbook.pages import factbook_web, page_listing, page_with
from src.gisa.dataset.factbook.records import BY_KEY, FIRST, LATER, NoAnswerError, definitions, facts_of
from src.gisa.dataset.factbook.suite import draw

FAMILIES = catalogue().families
EACH_FAMILY = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def slots_of(wording):
    return set(re.findall(r"\{(\w+)\}", wording))


@EACH_FAMILY
def test_every_family_can_be_asked_and_answered(family):
    keys = {*family.fields, *family.others}
    assert len({BY_KEY[key].kind for key in keys}) == (2 if family.name == "lookup" else 1)
    assert ("other" in family.slots) == bool(family.others)
    assert ("all" in family.slots) == (family.count > 1)
    assert ("columns" in family.slots) == (family.answer_type == "table")
    assert len({"a", "all", "group"} & family.slots) == 1
    assert {column for column in family.columns if column.islower()} <= {"field", "other", "third"}
    assert "limit" not in family.slots or set(family.fields) <= catalogue().limits.keys()
    for wording in family.wordings:
        left_out = family.slots - slots_of(wording)
        assert left_out <= ({"field"} if len(family.fields) == 1 else set()), wording  # it may use other words for it


@EACH_FAMILY
def test_the_word_of_every_wording_means_what_its_family_does(family):
    if family.word:
        words = {catalogue().word_in(wording) or family.word for wording in family.wordings}
        assert {catalogue().signs[word] for word in words} == {catalogue().signs[family.word]}


def test_families_do_not_share_a_wording():
    """Not even with the field filled in, as one of them could not be told from the other then."""
    asked = {}
    for family in FAMILIES.values():
        for wording in family.wordings:
            for key in family.fields:
                text = wording.replace("{field}", BY_KEY[key].phrase)
                assert asked.setdefault(text, family.name) == family.name
            assert family.wordings.count(wording) == 1


@EACH_FAMILY
def test_all_wordings_of_a_family_are_different_and_complete(family):
    assert len(family.suite_wordings) in (0, 4)
    assert len(family.wordings) >= (4 if family.held_out or "group" in family.slots else 8)
    slots = {"a": "Peru", "all": "Peru, Chile", "group": "Africa", "n": "3", "limit": "5", "field": family.fields[0]}
    slots["other"], slots["third"] = [other for other in (*family.others, "age", "tld") if other != family.fields[0]][
        :2
    ]
    texts = {worded(family, slots, wording).text for wording in family.wordings}
    assert len(texts) == len(family.wordings)
    assert not [text for text in texts if "{" in text]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("procedure", "guess", "family lookup: there is no guess"),
        ("fields", ["facts", "colour"], "family lookup: there is no colour"),
        ("further_wordings", ["What of {b}?"], "family lookup: there is no b"),
        ("answer_type", "essay", "Input should be 'item', 'set', 'list' or 'table'"),
        ("colour", "red", "Extra inputs are not permitted"),
    ],
)
def test_what_no_code_knows_is_refused_when_the_data_are_read(key, value, message):
    source = copy.deepcopy(definitions())
    source["families"]["lookup"][key] = value
    with pytest.raises(ValidationError, match=message):
        Catalogue.model_validate(source)


def test_the_word_that_says_what_is_wanted_is_the_first_of_its_kind():
    assert catalogue().word_in("Sort {all} from the smallest {field} to the greatest.") == "smallest"
    assert catalogue().word_in("Which have a {field} of more than {limit}?") == "more than"
    assert catalogue().word_in("How do {all} rank by {field}? Begin with the first.") == ""
    signs = {"largest": ">", "ranking": ">", "above": ">", "smallest": "<", "chronology": "<", "ascending": "<"}
    signs |= {"earliest": "<", "found_before": "<", "ascending_table": "<"}
    signs |= {"above_live": ">", "ranking_live": ">", "profile_sorted": ">", "below": "<"}
    assert {family: catalogue().signs[FAMILIES[family].word] for family in signs} == signs


@settings(deadline=None)  # the first question waits for the facts
@given(st.sampled_from([*FAMILIES.values()]), st.integers(2, 5), st.sampled_from(["train", "test"]), st.integers(0))
def test_a_question_is_understood_as_it_was_meant(family, count, side, seed):
    draft = draw(family, facts_of(FIRST), side, random.Random(seed), count=count)
    assert understand(draft.text) == draft


def test_questions_of_the_suite_are_understood_as_they_were_meant_and_no_others(suite, sets):
    for question in [*suite, *sets["train"], *sets["entities"], *sets["families"]]:
        assert understand(question.draft.text) == question.draft
    assert understand("How are you?") is None


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
    assert families.ranking(read, asked, ">") == [["A"], ["C"], ["B"]]
    assert families.ranking(read, asked, "<") == [["B"], ["C"], ["A"]]
    assert families.first(read, asked, ">") == [["A"]]
    assert families.first(read, asked, "<") == [["B"]]
    assert families.ranked_profile(read, asked, "<") == [["B", "20"], ["C", "300"], ["A", "1,000"]]
    for tied in (Listed(A="9", B="20", C="9.0"), Listed(A="30", B="20", C="20.0")):
        for procedure in (families.ranking, families.first, families.ranked_profile):
            with pytest.raises(NoAnswerError):
                procedure(tied, asked, ">")


def test_the_largest_neighbour_is_one_of_several():
    """The field of ``a`` holds its neighbours, as ``Listed`` has but one."""
    read = Listed(a=("A", "B"), b=("A",), A="3", B="5")
    assert families.first(read, {"a": "a", "field": "area"}, ">") == [["B"]]
    assert families.profile(read, {"a": "a", "field": "area"}, "") == [["A", "3"], ["B", "5"]]
    with pytest.raises(NoAnswerError):
        families.first(read, {"a": "b", "field": "area"}, ">")


def test_some_entities_must_pass_a_limit_and_some_not():
    asked = {"all": "A, B", "field": "inflation", "limit": "4%"}
    assert families.passing(Listed(A="4%", B="4.1%"), asked, ">") == [["B"]]
    assert families.passing(Listed(A="3%", B="4%"), asked, "<") == [["A"]]
    for all_or_none in ({"A": "5%", "B": "6%"}, {"A": "3%", "B": "4%"}):
        with pytest.raises(NoAnswerError):
            families.passing(Listed(**all_or_none), asked, ">")


def test_an_answer_about_a_group_is_not_most_of_it():
    read = Listed(A="1", B="0", C="3", D="2")
    assert families.landlocked(read, {"group": "x"}, "") == [["B"]]
    assert families.top(read, {"group": "x", "field": "area", "n": "2"}, ">") == [["C"], ["D"]]
    assert families.first(read, {"group": "x", "field": "area"}, ">") == [["C"]]
    asked = {"group": "x", "field": "area", "other": "area", "n": "2"}
    assert families.top_profile(read, asked, ">") == [["C", "3"], ["D", "2"]]
    with pytest.raises(NoAnswerError):
        families.top(read, {"group": "x", "field": "area", "n": "3"}, ">")
    with pytest.raises(NoAnswerError):
        families.landlocked(Listed(A="1"), {"group": "x"}, "")
    with pytest.raises(NoAnswerError):
        families.landlocked(Listed(A="0", B="1", C="0"), {"group": "x"}, "")


def test_lists_are_copied_joined_and_searched_for_what_they_share():
    read, asked = Listed(A=("X", "Y", "Z"), B=("Z", "U", "X"), C=("U",)), {"all": "A, B", "field": "borders"}
    assert families.lookup(read, {"a": "A", "field": "borders"}, "") == [["X"]]
    assert families.lookup_all(read, {"a": "A", "field": "borders"}, "") == [["X"], ["Y"], ["Z"]]
    assert families.common(read, asked, "") == [["Z"], ["X"]]  # in the order of the second
    assert families.either(read, asked, "") == [["X"], ["Y"], ["Z"], ["U"]]
    with pytest.raises(NoAnswerError):
        families.common(read, {"all": "A, C", "field": "borders"}, "")


def test_a_table_has_the_fields_that_are_asked_for():
    read = Listed(A="4", B="5")
    assert families.profile(read, {"all": "A, B", "field": "area"}, "") == [["A", "4"], ["B", "5"]]
    asked = {"all": "B, A", "field": "area", "other": "life", "third": "age"}
    assert families.profile(read, asked, "") == [["B", "5", "5", "5"], ["A", "4", "4", "4"]]
