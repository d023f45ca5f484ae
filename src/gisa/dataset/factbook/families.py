"""The template families of ``factbook.yaml``: how questions are worded, understood again and answered from facts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, model_validator

from src.gisa.dataset.factbook.records import BY_KEY, FIELDS, NoAnswerError, definitions

Slots = Mapping[str, str]
Rows = list[list[str]]
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
        word = re.search(rf"\b({'|'.join(self.signs)})\b", text)
        return word[0] if word else ""


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
        if match := pattern.fullmatch(text):
            slots = {slot: _KEYS.get(value, value) for slot, value in match.groupdict().items()}
            return Draft(family, {"field": family.fields[0], **slots}, text, _word(family, wording))
    return None


_KEYS = {field.phrase: field.key for field in FIELDS}


def _word(family: Family, wording: str) -> str:
    return (catalogue().word_in(wording) if family.word else "") or family.word


class Reader(Protocol):
    """Gives facts: out of the records, or by way of the pages that show them."""

    def values(self, name: str, key: str) -> tuple[str, ...]:
        """Return the values of an entity's field, from the entity's page of that section.

        Raises:
            NoAnswerError: there are none.
        """

    def members(self, group: str) -> tuple[str, ...]:
        """Return the entities of a group, from the page that lists them."""


def number(value: str) -> float:
    """Read a value as a number."""
    return float(value.replace(",", "").rstrip("%"))


def sign_between(value: str, other: str) -> str:
    """Return ``>``, ``<`` or ``=``, as the first value is to the second."""
    size, limit = number(value), number(other)
    return ">" if size > limit else "<" if size < limit else "="


def asked_about(read: Reader, slots: Slots) -> Sequence[str]:
    """Return the entities that a question compares: those it names, a group's members or an entity's neighbours."""
    if "all" in slots:
        return slots["all"].split(", ")
    return read.members(slots["group"]) if "group" in slots else read.values(slots["a"], "borders")


def lookup(read: Reader, slots: Slots, sign: str) -> Rows:
    """Look up a field of an entity."""
    return [[_value(read, slots["a"], slots["field"])]]


def lookup_all(read: Reader, slots: Slots, sign: str) -> Rows:
    """Look up all values of a field of an entity."""
    return _rows(read.values(slots["a"], slots["field"]))


def first(read: Reader, slots: Slots, sign: str) -> Rows:
    """Find which of several entities comes first by a field."""
    names = asked_about(read, slots)
    if len(names) < 2:
        raise NoAnswerError
    return _names(_ranked(read, names, slots, sign)[:1])


def common(read: Reader, slots: Slots, sign: str) -> Rows:
    """Find the values of a field that two entities share, in the order of the second."""
    first_values, second_values = (read.values(name, slots["field"]) for name in asked_about(read, slots))
    return _rows([value for value in second_values if value in first_values])


def either(read: Reader, slots: Slots, sign: str) -> Rows:
    """Find the values of a field that one or more of some entities have."""
    lists = [read.values(name, slots["field"]) for name in asked_about(read, slots)]
    return _rows(list(dict.fromkeys(value for values in lists for value in values)))


def landlocked(read: Reader, slots: Slots, sign: str) -> Rows:
    """Find the members of a group that have no coast."""
    members = read.members(slots["group"])
    return _few([[name] for name in members if number(_value(read, name, "coastline")) == 0], members)


def passing(read: Reader, slots: Slots, sign: str) -> Rows:
    """Find the entities whose field passes a limit: some, but not all."""
    sizes = {name: _value(read, name, slots["field"]) for name in asked_about(read, slots)}
    passed = [name for name, size in sizes.items() if sign_between(size, slots["limit"]) == sign]
    if len(passed) == len(sizes):
        raise NoAnswerError
    return _rows(passed)


def ranking(read: Reader, slots: Slots, sign: str) -> Rows:
    """Sort entities by a field."""
    return _names(_ranked(read, asked_about(read, slots), slots, sign))


def top(read: Reader, slots: Slots, sign: str) -> Rows:
    """Find the first members of a group by a field, in order."""
    members = read.members(slots["group"])
    return _few(_names(_ranked(read, members, slots, sign)[: int(slots["n"])]), members)


def profile(read: Reader, slots: Slots, sign: str) -> Rows:
    """Look up one to three fields of some entities."""
    keys = [slots[slot] for slot in ("field", "other", "third") if slot in slots]
    return [[name, *(_value(read, name, key) for key in keys)] for name in asked_about(read, slots)]


def ranked_profile(read: Reader, slots: Slots, sign: str) -> Rows:
    """Look up a field of some entities, sorted by it."""
    return [[name, size] for name, size in _ranked(read, asked_about(read, slots), slots, sign)]


def top_profile(read: Reader, slots: Slots, sign: str) -> Rows:
    """Look up another field of the first members of a group by a field."""
    return [[name, _value(read, name, slots["other"])] for (name,) in top(read, slots, sign)]


PROCEDURES = {
    procedure.__name__: procedure
    for procedure in (
        *(lookup, lookup_all, first, common, either, landlocked, passing),
        *(ranking, top, profile, ranked_profile, top_profile),
    )
}


def _value(read: Reader, name: str, key: str) -> str:
    return read.values(name, key)[0]


def _ranked(read: Reader, names: Sequence[str], slots: Slots, sign: str) -> list[tuple[str, str]]:
    """Sort entities, with their values, so that each has the sign against those that come after it; no ties."""
    sizes = dict[str, str]()
    for name in names:
        size = _value(read, name, slots["field"])
        if number(size) in map(number, sizes.values()):
            raise NoAnswerError
        sizes[name] = size
    return sorted(sizes.items(), key=lambda pair: number(pair[1]), reverse=sign == ">")


def _names(pairs: Sequence[tuple[str, str]]) -> Rows:
    return [[name] for name, _ in pairs]


def _rows(values: Sequence[str]) -> Rows:
    if not values:
        raise NoAnswerError
    return [[value] for value in values]


def _few(rows: Rows, members: Sequence[str]) -> Rows:
    """Return an answer unless it is most of the group, as the group's list would then give it away; or nothing."""
    if not rows or 2 * len(rows) > len(members):
        raise NoAnswerError
    return rows
