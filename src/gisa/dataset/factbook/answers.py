"""How the questions about the embedded web are answered: one procedure a form, on nothing but pages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from src.gisa.dataset.factbook.records import BY_KEY

Slots = Mapping[str, str]
Rows = list[list[str]]


# Words of questions that say what comes first or what passes a limit, to the sign of a value that does.
ORDER_WORDS = {
    **dict.fromkeys(("largest", "greatest", "highest", "descending"), ">"),
    **dict.fromkeys(("smallest", "lowest", "least", "earliest", "oldest", "ascending"), "<"),
}
LIMIT_WORDS = {
    **dict.fromkeys(("above", "over", "more than", "greater than", "higher than", "exceeds"), ">"),
    **dict.fromkeys(("below", "under", "less than", "smaller than", "before", "earlier than"), "<"),
}


class Reader(Protocol):
    """Gives facts by way of the pages that show them."""

    def values(self, name: str, key: str) -> tuple[str, ...]:
        """Return the values of an entity's field, from the entity's page of that section.

        Raises:
            NoAnswerError: there are none.
        """

    def members(self, group: str) -> tuple[str, ...]:
        """Return the entities of a group, from the page that lists them."""

    def note(self, line: str) -> None:
        """Jot down what comes of the page that was read last, where an answer takes several pages."""


class NoAnswerError(Exception):
    """The facts give no answer, or more than one."""


class Listed:
    """Gives values by name, and keeps the notes; a reader without pages.

    Args:
        values: Name to the values of the one field that there is.
    """

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        self._values, self.notes = values, list[str]()

    def values(self, name: str, key: str) -> tuple[str, ...]:
        """See ``Reader``."""
        return tuple(self._values[name])

    def members(self, group: str) -> tuple[str, ...]:
        """See ``Reader``."""
        return tuple(self._values)

    def note(self, line: str) -> None:
        """See ``Reader``."""
        self.notes.append(line)


def number(value: str) -> float:
    """Read a value as a number."""
    return float(value.replace(",", "").rstrip("%"))


def comparison(value: str, other: str) -> str:
    """Compare two values in writing, the sign last: who has read both can tell it."""
    sign = ">" if number(value) > number(other) else "<" if number(value) < number(other) else "="
    return f"{value} and {other}: {sign}"


def placed(value: str, other: str, word: str) -> str:
    """Compare two values and say what follows for the first one: its place in an order, or whether it passes a limit.

    Args:
        value: The value.
        other: What it is compared with.
        word: One of ``ORDER_WORDS`` or ``LIMIT_WORDS``.
    """
    compared = comparison(value, other)
    good = compared.endswith(ORDER_WORDS.get(word) or LIMIT_WORDS[word])
    yes, no = ("yes", "no") if word in LIMIT_WORDS else ("before", "after")
    return f"{compared}, {yes if good else no}"


def word_in(wording: str) -> str:
    """Return the first of ``ORDER_WORDS`` and ``LIMIT_WORDS`` in the wording of a question, empty if it has none."""
    found = re.search(rf"\b({'|'.join([*ORDER_WORDS, *LIMIT_WORDS])})\b", wording)
    return found[0] if found else ""


def signed(wanted: str, word: str) -> str:
    """Say what is wanted, and the sign that it takes of the first of two values."""
    return f"{wanted} ({ORDER_WORDS.get(word) or LIMIT_WORDS[word]})"


def first_of(word: str) -> str:
    """Say that a list begins with what one of ``ORDER_WORDS`` names."""
    return word if word.endswith("cending") else f"{word} first"


def _one(read: Reader, name: str, key: str) -> str:
    return read.values(name, key)[0]


def _ranked(read: Reader, names: Sequence[str], slots: Slots, default: str) -> list[str]:
    """Sort entities by a field, in the order that the question's own word or else the default names; no ties.

    Each is noted with what is wanted, with what it is compared with, from the first of the order so far on, with the
    place that follows, and with the order then.
    """
    word, order = slots.get("word") or default, list[tuple[str, str]]()
    for name in names:
        value, place, steps = _one(read, name, slots["field"]), 0, []
        for one, other in order:
            steps.append(f"{placed(value, other, word)} {one}")
            if number(value) == number(other):
                raise NoAnswerError
            if " before " in steps[-1]:
                break
            place += 1
        order.insert(place, (name, value))
        if steps:
            steps.append(f"order: {', '.join(f'{one} {size}' for one, size in order)}")
        read.note("; ".join([f"{name}: {value}, {signed(first_of(word), word)}", *steps]))
    return [name for name, _ in order]


def _first(read: Reader, names: Sequence[str], slots: Slots, default: str) -> Rows:
    """Find the entity that comes first by a field, in the order that the question's word or the default names; no ties.

    Each is noted with what is wanted, with how it compares with the first so far, and with the first then.
    """
    word, sizes = slots.get("word") or default, dict[str, str]()
    first = ""
    for name in names:
        value, steps = _one(read, name, slots["field"]), []
        if number(value) in map(number, sizes.values()):
            raise NoAnswerError
        sizes[name] = value
        if first:
            steps.append(f"{placed(value, sizes[first], word)} {first}")
        if not first or " before " in steps[-1]:
            first = name
        if steps:
            steps.append(f"first: {first} {sizes[first]}")
        read.note("; ".join([f"{name}: {value}, {signed(f'the {word}', word)}", *steps]))
    return [[first]]


def _names(slots: Slots) -> list[str]:
    return slots["all"].split(", ")


def _rows(values: Sequence[str]) -> Rows:
    if not values:
        raise NoAnswerError
    return [[value] for value in values]


def _few(values: Sequence[str], members: Sequence[str]) -> Rows:
    """Return an answer unless it is most of the group, as the group's list would then give it away."""
    if 2 * len(values) > len(members):
        raise NoAnswerError
    return _rows(values)


def lookup(read: Reader, slots: Slots) -> Rows:
    """Look up a field of an entity."""
    return [[_one(read, slots["a"], slots["field"])]]


def lookup_all(read: Reader, slots: Slots) -> Rows:
    """Look up all values of a field of an entity."""
    return _rows(read.values(slots["a"], slots["field"]))


def largest(read: Reader, slots: Slots) -> Rows:
    """Find the largest of some entities."""
    return _first(read, _names(slots), slots, "largest")


def smallest(read: Reader, slots: Slots) -> Rows:
    """Find the smallest of some entities."""
    return _first(read, _names(slots), slots, "smallest")


def earliest(read: Reader, slots: Slots) -> Rows:
    """Find the earliest of some entities."""
    return _first(read, _names(slots), slots, "earliest")


def largest_neighbour(read: Reader, slots: Slots) -> Rows:
    """Find the largest neighbour of an entity."""
    neighbours = read.values(slots["a"], "borders")
    if len(neighbours) < 2:
        raise NoAnswerError
    return _first(read, neighbours, slots, "largest")


def largest_member(read: Reader, slots: Slots) -> Rows:
    """Find the largest member of a group."""
    return _first(read, read.members(slots["group"]), slots, "largest")


def common(read: Reader, slots: Slots) -> Rows:
    """Find the values of a field that two entities share."""
    one, other = _names(slots)
    first = read.values(one, slots["field"])
    read.note(f"{one}: {', '.join(first)}")
    second = read.values(other, slots["field"])
    both = [name for name in second if name in first]
    checked = ", ".join(f"{name} {'yes' if name in first else 'no'}" for name in second)
    read.note(f"{other}: {checked}; both: {', '.join(both) or 'none'}")
    return _rows(both)


def either(read: Reader, slots: Slots) -> Rows:
    """Find the values of a field that one or more of some entities have."""
    found = list[str]()
    for name in _names(slots):
        values = read.values(name, slots["field"])
        joined = list(dict.fromkeys([*found, *values]))
        read.note(f"{name}: {', '.join(values)}" + (f"; any: {', '.join(joined)}" if found else ""))
        found = joined
    return _rows(found)


def landlocked(read: Reader, slots: Slots) -> Rows:
    """Find the members of a group that have no coast."""
    members = read.members(slots["group"])
    return _few([name for name in members if number(_one(read, name, "coastline")) == 0], members)


def above(read: Reader, slots: Slots) -> Rows:
    """Find the entities whose field exceeds a limit; some, but not all, must."""
    return _passing(read, slots, "above")


def below(read: Reader, slots: Slots) -> Rows:
    """Find the entities whose field stays under a limit; some, but not all, must."""
    return _passing(read, slots, "below")


def found_before(read: Reader, slots: Slots) -> Rows:
    """Find the entities whose field comes before a limit; some, but not all, must."""
    return _passing(read, slots, "before")


def _passing(read: Reader, slots: Slots, default: str) -> Rows:
    """Find the entities on the side of the limit that the question's own word or else the default names.

    Each is noted with those found so far.
    """
    word, found = slots.get("word") or default, list[str]()
    for name in _names(slots):
        value, limit = _one(read, name, slots["field"]), slots["limit"]
        verdict = placed(value, limit, word)
        found += [name] * verdict.endswith("yes")
        wanted = signed(f"{word} {limit}", word)
        read.note(f"{name}: {value}, {wanted}; {verdict}; found: {', '.join(found) or 'none'}")
    if len(found) == len(_names(slots)):
        raise NoAnswerError
    return _rows(found)


def ranking(read: Reader, slots: Slots) -> Rows:
    """Sort entities, the largest first."""
    return _rows(_ranked(read, _names(slots), slots, "largest"))


def chronology(read: Reader, slots: Slots) -> Rows:
    """Sort entities, the smallest first."""
    return _rows(_ranked(read, _names(slots), slots, "earliest"))


def top(read: Reader, slots: Slots) -> Rows:
    """Find the largest members of a group, in order."""
    members = read.members(slots["group"])
    return _few(_ranked(read, members, slots, "largest")[: int(slots["n"])], members)


def profile(read: Reader, slots: Slots) -> Rows:
    """Look up two fields of some entities."""
    return _profile(read, slots, "field", "other")


def profile_one(read: Reader, slots: Slots) -> Rows:
    """Look up a field of some entities."""
    return _profile(read, slots, "field")


def profile_wide(read: Reader, slots: Slots) -> Rows:
    """Look up three fields of some entities."""
    return _profile(read, slots, "field", "other", "third")


def _profile(read: Reader, slots: Slots, *fields: str) -> Rows:
    """Look up fields of some entities; at first it is noted, in the question's words, which section has each."""
    keys, rows = [slots[field] for field in fields], []
    read.note(", ".join(f"{BY_KEY[key].phrase}: {BY_KEY[key].section}" for key in keys))
    for name in _names(slots):
        rows.append([name])
        for key in keys:
            rows[-1].append(_one(read, name, key))
            read.note(f"{name}, {BY_KEY[key].phrase}: {rows[-1][-1]}")
    return rows


def profile_sorted(read: Reader, slots: Slots) -> Rows:
    """Look up a field of some entities, the largest first."""
    return _sorted_profile(read, slots, "largest")


def ascending_table(read: Reader, slots: Slots) -> Rows:
    """Look up a field of some entities, the smallest first."""
    return _sorted_profile(read, slots, "smallest")


def _sorted_profile(read: Reader, slots: Slots, default: str) -> Rows:
    names = _ranked(read, _names(slots), slots, default)
    return [[name, _one(read, name, slots["field"])] for name in names]


def neighbours_profile(read: Reader, slots: Slots) -> Rows:
    """Look up a field of every neighbour of an entity."""
    return [[name, _one(read, name, slots["field"])] for name in read.values(slots["a"], "borders")]


def top_profile(read: Reader, slots: Slots) -> Rows:
    """Look up a field of the largest members of a group."""
    return [[name, _one(read, name, slots["other"])] for (name,) in top(read, slots)]
