"""The template families of ``factbook.yaml``: how questions are worded, and understood again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from src.gisa.dataset.factbook.answers import PROCEDURES, Reader, Rows, Slots
from src.gisa.dataset.factbook.records import BY_KEY, FIELDS, definitions

_FIELD_SLOTS = ("field", "other", "third")
_SLOTS = frozenset({*_FIELD_SLOTS, "a", "all", "group", "n", "limit", "columns"})


class Family(BaseModel):
    """A template family; what its attributes mean stands where they are set, in ``factbook.yaml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    answer_type: Literal["item", "set", "list", "table"]
    procedure: str
    fields: tuple[str, ...]
    columns: tuple[str, ...]
    word: str = ""
    others: tuple[str, ...] = ()
    count: int = 0
    held_out: bool = False
    suite_wordings: tuple[str, ...] = ()
    further_wordings: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_known(self) -> Family:
        """Refuse what no code knows."""
        fields, procedure = {*self.fields, *self.others}, {self.procedure}
        if unknown := (fields - BY_KEY.keys()) | (procedure - PROCEDURES.keys()) | (self.slots - _SLOTS):
            raise ValueError(f"family {self.name}: there is no {', '.join(sorted(unknown))}")
        return self

    @cached_property
    def wordings(self) -> tuple[str, ...]:
        """All, those of the suite first."""
        return self.suite_wordings + self.further_wordings

    @cached_property
    def slots(self) -> frozenset[str]:
        """Of any wording."""
        return frozenset(re.findall(r"\{(\w+)\}", " ".join(self.wordings)))

    def header(self, slots: Slots) -> list[str]:
        """Return the names of an answer's columns."""
        return [BY_KEY[slots[column]].label if column in slots else column for column in self.columns]

    def pattern(self, wording: str) -> re.Pattern[str]:
        """Return a wording as a regular expression with a group for each slot."""
        pattern = re.escape(wording).replace(r"\{columns\}", ".+")
        for slot, keys in zip(_FIELD_SLOTS, (self.fields, self.others, self.others), strict=True):
            phrases = "|".join(re.escape(BY_KEY[key].phrase) for key in keys)
            pattern = pattern.replace(rf"\{{{slot}\}}", f"(?P<{slot}>{phrases})")
        return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+?)", pattern))


class Catalogue(BaseModel):
    """All families, and what their words mean.

    Attributes:
        field_groups: Fields by the name of their group.
        limits: What ``{limit}`` is for a field.
        order_words: Word to the sign of a value against one that comes after it.
        limit_words: Word to the sign of a value that passes against the limit.
        families: By name, in the order that questions are drawn by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    field_groups: dict[str, tuple[str, ...]]
    limits: dict[str, str]
    order_words: dict[str, Literal["<", ">"]]
    limit_words: dict[str, Literal["<", ">"]]
    families: dict[str, Family]

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, source: Mapping[str, Any]) -> dict[str, Any]:
        """Put the fields in for the names of groups, and give every word its sign and every family its name."""
        groups = source["field_groups"]

        def fields(names: Iterable[str]) -> list[str]:
            return [key for name in names for key in groups.get(name, [name])]

        return {
            **{key: source[key] for key in ("field_groups", "limits")},
            **{
                kind: {word: sign for sign, words in source[kind].items() for word in words}
                for kind in ("order_words", "limit_words")
            },
            "families": {
                name: {**family, "name": name, **{key: fields(family.get(key, ())) for key in ("fields", "others")}}
                for name, family in source["families"].items()
            },
        }

    @cached_property
    def signs(self) -> dict[str, str]:
        """Of all words."""
        return {**self.order_words, **self.limit_words}

    @cached_property
    def patterns(self) -> list[tuple[re.Pattern[str], Family, str]]:
        """Of all wordings, those with the most words of their own first, with the family and the wording."""
        asked = [(family, wording) for family in self.families.values() for wording in family.wordings]
        asked.sort(key=lambda pair: len(re.sub(r"\{\w+\}", "", pair[1])), reverse=True)
        return [(family.pattern(wording), family, wording) for family, wording in asked]

    def word_in(self, text: str) -> str:
        """Return the first word of a text that has a sign, empty if it has none."""
        found = re.search(rf"\b({'|'.join(self.signs)})\b", text)
        return found[0] if found else ""


@cache
def catalogue() -> Catalogue:
    """Return all that ``factbook.yaml`` says of families."""
    return Catalogue.model_validate(definitions())


@dataclass(frozen=True)
class Draft:
    """A question before it has an id.

    Attributes:
        family: What kind of question it is.
        slots: What it is about; ``field``, ``other`` and ``third`` hold keys of fields.
        text: The question.
        word: Which word says what comes first or what passes a limit: the question's own, or else the family's.
    """

    family: Family
    slots: Slots
    text: str
    word: str = ""

    @property
    def header(self) -> list[str]:
        """Names of the answer's columns."""
        return self.family.header(self.slots)

    def answer(self, read: Reader) -> Rows:
        """Find the rows of the answer.

        Raises:
            NoAnswerError: there is no one answer.
        """
        return PROCEDURES[self.family.procedure](read, self.slots, catalogue().signs.get(self.word, ""))


def worded(family: Family, slots: Slots, wording: str) -> Draft:
    """Put a question in one of the wordings of its family."""
    phrases = {slot: BY_KEY[slots[slot]].phrase for slot in _FIELD_SLOTS if slot in slots}
    columns = ", ".join(family.header(slots)[1:])
    return Draft(family, slots, wording.format(**{**slots, **phrases, "columns": columns}), _word(family, wording))


def understand(text: str) -> Draft | None:
    """Find the family and slots of a question by the words of its wording, None if it has none of them.

    Where several wordings fit, the one with the most words of its own is meant.
    """
    for pattern, family, wording in catalogue().patterns:
        if found := pattern.fullmatch(text):
            slots = {slot: _KEYS.get(value, value) for slot, value in found.groupdict().items()}
            return Draft(family, {"field": family.fields[0], **slots}, text, _word(family, wording))
    return None


_KEYS = {field.phrase: field.key for field in FIELDS}


def _word(family: Family, wording: str) -> str:
    return (catalogue().word_in(wording) if family.word else "") or family.word
