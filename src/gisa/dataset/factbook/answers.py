"""How the questions about the embedded web are answered: procedures from facts to rows, each for several families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

Slots = Mapping[str, str]
Rows = list[list[str]]


class Reader(Protocol):
    """Gives facts: out of the records, or by way of the pages that show them."""

    def values(self, name: str, key: str) -> tuple[str, ...]:
        """Return the values of an entity's field, from the entity's page of that section.

        Raises:
            NoAnswerError: there are none.
        """

    def members(self, group: str) -> tuple[str, ...]:
        """Return the entities of a group, from the page that lists them."""


class NoAnswerError(Exception):
    """The facts give no answer, or more than one."""


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
    one, other = (read.values(name, slots["field"]) for name in asked_about(read, slots))
    return _rows([value for value in other if value in one])


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
    found = [name for name, size in sizes.items() if sign_between(size, slots["limit"]) == sign]
    if len(found) == len(sizes):
        raise NoAnswerError
    return _rows(found)


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
