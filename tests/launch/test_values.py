import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest
from annotated_types import Ge, Lt

from src.launch.values import Count, Cutoffs, Dropout, Positive, Seed, Share, Weight, faults_of, is_plain


class Adapters(TypedDict):
    rank: Count
    alpha: float
    kind: NotRequired[Literal["a", "b"]]


class Box:
    pass


def fault(value, hint, path="a.b"):
    """The only fault of a value, without its path."""
    (text,) = faults_of(path, value, hint)
    return text.removeprefix(path)


def test_hints_made_of_other_types_are_not_plain():
    assert not is_plain(types.ModuleType)
    assert not is_plain(int | types.ModuleType)


@pytest.mark.parametrize(
    ("value", "hint", "needed"),
    [
        (0, Count, "whole number of at least 1"), (-1, Seed, "whole number from 0 to 4294967295"),
        (0.0, Positive, "number above 0"), (-0.1, Weight, "number of at least 0"), (1.5, Share, "number from 0 to 1"),
        (1, Dropout, "number from 0 to below 1"), ([], Cutoffs, "[whole number of at least 1, ...], at least one"),
        ([0], Cutoffs, "[whole number of at least 1, ...], at least one"),
        (-2, Count | None, "whole number of at least 1"),
        (4, Annotated[int, Ge(1), Lt(4)], "whole number from 1 to below 4"),
    ],
)  # fmt: skip
def test_a_number_out_of_its_range_is_named_with_the_range(value, hint, needed):
    article = "" if needed.startswith("[") else "a "
    assert fault(value, hint) == f"={value!r}: I need {article}{needed}."


@pytest.mark.parametrize(
    ("value", "hint", "needed"),
    [("abc", Count, "whole number"), (float("nan"), Weight, "number"), (float("inf"), float, "number"),
     (True, Count, "whole number"), ("x", bool | Literal["both"], "true | false | both"),
     (3, dict[str, Any], "a group of settings"),
     ({"a": "x"}, dict[str, int], "a group of settings"), ("x", Box, "a group of settings with a _target_"),
     ({"x": 1}, Box, "a group of settings with a _target_"), ([1], Box, "a group of settings with a _target_"),
     (None, Box, "a group of settings with a _target_"), (3, Adapters | None, "a group of settings | null")],
)  # fmt: skip
def test_a_value_of_another_type_is_named_with_the_type(value, hint, needed):
    assert fault(value, hint) == f"={value!r}: needed: {needed}"


def test_a_number_that_is_meant_as_text_is_told_its_quotes():
    assert fault(7, str) == "=7: needed: text; type 'a.b=\"7\"'"


@pytest.mark.parametrize("hint", [Any, Box, int | Box, Adapters])
def test_what_a_node_becomes_is_known_only_once_it_is_built(hint):
    assert not list(faults_of("a", {"_target_": "anything"}, hint))


@pytest.mark.parametrize(
    ("value", "hint"),
    [([1], int | list[Box]), ([{"x": 1}], list[Box]), ({"x": 1}, Mapping), (1.0, Share), (0, Share), (2, float),
     ("5", str | Box), (None, Count | None),
     ({"rank": 8, "alpha": 1}, Adapters), ({"x": {"rank": 8, "alpha": 1.5, "kind": "b"}}, dict[str, Adapters] | None)],
)  # fmt: skip
def test_what_fits_is_let_pass(value, hint):
    assert not list(faults_of("a", value, hint))


def test_all_faults_of_a_group_of_settings_are_named():
    assert list(faults_of("lora", {"rnak": 8, "rank": 0, "kind": "c"}, Adapters | None)) == [
        "lora.rnak: no such setting; did you mean rank?",
        "lora.rank=0: I need a whole number of at least 1.",
        "lora.alpha: missing; type +lora.alpha=...",
        "lora.kind='c': needed: a | b",
    ]


def test_an_open_value_within_a_group_is_asked_for():
    text = "lora.rank: needs a value; type lora.rank=..."
    assert list(faults_of("lora", {"rank": "???", "alpha": 1.0}, Adapters)) == [text]


def test_lists_and_mappings_of_groups_are_looked_through():
    assert list(faults_of("x", [{"rank": 1, "alpha": 2.0}, 3], list[Adapters])) == [
        "x[1]=3: needed: a group of settings"
    ]
    assert list(faults_of("x", {"m": {"rank": 1}}, dict[str, Adapters])) == ["x.m.alpha: missing; type +x.m.alpha=..."]
    assert list(faults_of("x", {"m": 1}, list[Adapters])) == ["x: needed: a list of groups of settings"]
