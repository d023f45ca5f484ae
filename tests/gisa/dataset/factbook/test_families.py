import copy
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from src.gisa.dataset.factbook.families import Catalogue, catalogue, understand, worded
from src.gisa.dataset.factbook.records import BY_KEY, FIRST, definitions, facts_of
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
