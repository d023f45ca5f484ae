"""The forms of questions about the embedded web: twenty, with four wordings each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from src.gisa.dataset.factbook import answers
from src.gisa.dataset.factbook.answers import Reader, Rows, Slots
from src.gisa.dataset.factbook.records import BY_KEY


@dataclass(frozen=True)
class Form:
    """One form of question.

    Attributes:
        name: Its name.
        answer_type: ``item``, ``set``, ``list`` or ``table``.
        wordings: What is asked, with slots: ``{a}`` an entity, ``{all}`` several, ``{group}`` a region or period,
            ``{field}``, ``{other}`` and ``{third}`` the phrase of a field, ``{n}`` and ``{limit}`` numbers.
        fields: What ``{field}`` may be.
        count: How many entities ``{all}`` has.
        answer: Finds the rows of the answer.
        columns: Finds the names of the columns.
        held_out: Whether the whole form is kept from training.
        others: What ``{other}`` and ``{third}`` may be.
    """

    name: str
    answer_type: str
    wordings: tuple[str, ...]
    fields: tuple[str, ...]
    answer: Callable[[Reader, Slots], Rows]
    columns: Callable[[Slots], list[str]]
    count: int = 0
    held_out: bool = False
    others: tuple[str, ...] = ("capital", "tld")


def label(*slot: str) -> Callable[[Slots], list[str]]:
    """Name the columns after fields; a word in lower case is a slot, any other the name itself."""
    return lambda slots: [BY_KEY[slots[one]].label if one in slots else one for one in slot]


FACTS = (
    "capital",
    "area",
    "peak",
    "height",
    "coastline",
    "population",
    "life",
    "fertility",
    "tld",
    "online",
    "airports",
)
SIZES = ("area", "height", "coastline", "population", "life", "fertility", "age", "airports")
_LIVE = ("income", "inflation", "unemployment")
ELEMENT_FACTS = ("symbol", "number", "density", "found", "finder")

LIMITS = {
    **{"life": "75", "fertility": "2.5", "age": "30", "airports": "50", "height": "3,000"},
    **{"income": "20,000", "inflation": "4%", "unemployment": "6%", "found": "1850"},
}
_NAME, _FIELD = label("Country"), label("field")
FORMS = (
    Form(
        "lookup",
        "item",
        (
            "What is the {field} of {a}?",
            "Find the {field} of {a}.",
            "I need to know the {field} of {a}. What is it?",
            "Which {field} does the atlas give for {a}?",
        ),
        (*FACTS, *ELEMENT_FACTS),
        answers.lookup,
        _FIELD,
    ),
    Form(
        "lookup_live",
        "item",
        (
            "What is the most recent {field} of {a}?",
            "Find the latest {field} of {a}.",
            "As of the newest edition, what is the {field} of {a}?",
            "Give the current {field} of {a}.",
        ),
        _LIVE,
        answers.lookup,
        _FIELD,
    ),
    Form(
        "largest",
        "item",
        (
            "Which of these has the largest {field}: {all}?",
            "Of {all}, which one has the highest {field}?",
            "Compare {all}. Which has the greatest {field}?",
            "Name the one with the largest {field} among {all}.",
        ),
        SIZES,
        answers.largest,
        _NAME,
        3,
    ),
    Form(
        "largest_neighbour",
        "item",
        (
            "Which neighbour of {a} has the largest {field}?",
            "Among the countries that border {a}, which has the highest {field}?",
            "Look at the neighbours of {a}. Which has the greatest {field}?",
            "Of all countries bordering {a}, name the one with the largest {field}.",
        ),
        ("area", "population", "life"),
        answers.largest_neighbour,
        _NAME,
        held_out=True,
    ),
    Form(
        "largest_member",
        "item",
        (
            "Which country of {group} has the largest {field}?",
            "In {group}, which country has the highest {field}?",
            "Look at all countries of {group}. Which has the greatest {field}?",
            "Name the country with the largest {field} in {group}.",
        ),
        SIZES,
        answers.largest_member,
        _NAME,
    ),
    Form(
        "neighbours",
        "set",
        (
            "Which countries border {a}?",
            "List all neighbours of {a}.",
            "What are the {field} of {a}?",
            "With which countries does {a} share a land border?",
        ),
        ("borders",),
        answers.lookup_all,
        _NAME,
    ),
    Form(
        "common_neighbours",
        "set",
        (
            "Which countries border each of these: {all}?",
            "Name the countries that share a border with all of {all}.",
            "Which countries are neighbours of all of these: {all}?",
            "Find the common neighbours of {all}.",
        ),
        ("borders",),
        answers.common,
        _NAME,
        2,
    ),
    Form(
        "landlocked",
        "set",
        (
            "Which countries of {group} have no coast?",
            "Name the landlocked countries of {group}.",
            "Which countries in {group} are landlocked?",
            "Find all countries of {group} whose coastline is 0 km long.",
        ),
        ("coastline",),
        answers.landlocked,
        _NAME,
        held_out=True,
    ),
    Form(
        "above",
        "set",
        (
            "Which of these have a {field} above {limit}: {all}?",
            "Of {all}, which have a {field} of more than {limit}?",
            "Compare {all}. Which have a {field} greater than {limit}?",
            "Name those of {all} whose {field} exceeds {limit}.",
        ),
        ("life", "fertility", "age", "airports", "height"),
        answers.above,
        _NAME,
        4,
    ),
    Form(
        "above_live",
        "set",
        (
            "Which of these have a current {field} above {limit}: {all}?",
            "Of {all}, which have a latest {field} of more than {limit}?",
            "In the newest edition, which of {all} have a {field} greater than {limit}?",
            "Name those of {all} whose most recent {field} exceeds {limit}.",
        ),
        _LIVE,
        answers.above,
        _NAME,
        4,
    ),
    Form(
        "partners",
        "list",
        (
            "What are the {field} of {a}, the largest share first?",
            "List the {field} of {a} in descending order of their share.",
            "To which countries does {a} export most? Give the {field} in order.",
            "Name the {field} of {a}, ordered from the largest.",
        ),
        ("partners",),
        answers.lookup_all,
        _NAME,
    ),
    Form(
        "ranking",
        "list",
        (
            "Order these by {field}, the largest first: {all}.",
            "Rank {all} by {field} in descending order.",
            "Sort {all} from the greatest {field} to the smallest.",
            "Put {all} in order of {field}, starting with the highest.",
        ),
        SIZES,
        answers.ranking,
        _NAME,
        4,
    ),
    Form(
        "ranking_live",
        "list",
        (
            "Order these by their latest {field}, the largest first: {all}.",
            "Rank {all} by current {field} in descending order.",
            "In the newest edition, sort {all} from the greatest {field} to the smallest.",
            "Put {all} in order of most recent {field}, starting with the highest.",
        ),
        _LIVE,
        answers.ranking,
        _NAME,
        4,
    ),
    Form(
        "top",
        "list",
        (
            "What are the {n} countries of {group} with the largest {field}, in order?",
            "List the top {n} of {group} by {field}, the largest first.",
            "Of the countries of {group}, which {n} have the highest {field}? Start with the highest.",
            "Rank {group} by {field} and give the first {n}.",
        ),
        ("area", "population", "life", "airports"),
        answers.top,
        _NAME,
        held_out=True,
    ),
    Form(
        "chronology",
        "list",
        (
            "Order these elements by {field}, the earliest first: {all}.",
            "Sort the elements {all} by {field} in ascending order.",
            "In which order were these elements found: {all}? Use the {field}.",
            "Put the elements {all} in order of {field}, starting with the oldest.",
        ),
        ("found",),
        answers.chronology,
        label("Element"),
        4,
    ),
    Form(
        "profile",
        "table",
        (
            "For {all}: give the {field} and the {other}. Columns: Country, {columns}.",
            "Make a table of {all} with {field} and {other}. Columns: Country, {columns}.",
            "Compare {all} by {field} and {other}. Columns: Country, {columns}.",
            "I need {field} and {other} of each of {all}. Columns: Country, {columns}.",
        ),
        FACTS,
        answers.profile,
        label("Country", "field", "other"),
        3,
        others=FACTS,
    ),
    Form(
        "profile_live",
        "table",
        (
            "For {all}: give the latest {field} and {other}. Columns: Country, {columns}.",
            "Make a table of {all} with their current {field} and {other}. Columns: Country, {columns}.",
            "In the newest edition, compare {all} by {field} and {other}. Columns: Country, {columns}.",
            "I need the most recent {field} and {other} of each of {all}. Columns: Country, {columns}.",
        ),
        _LIVE,
        answers.profile,
        label("Country", "field", "other"),
        2,
        others=_LIVE,
    ),
    Form(
        "profile_elements",
        "table",
        (
            "For the elements {all}: give the {field} and the {other}. Columns: Element, {columns}.",
            "Make a table of the elements {all} with {field} and {other}. Columns: Element, {columns}.",
            "Compare the elements {all} by {field} and {other}. Columns: Element, {columns}.",
            "I need {field} and {other} of each of the elements {all}. Columns: Element, {columns}.",
        ),
        ELEMENT_FACTS,
        answers.profile,
        label("Element", "field", "other"),
        4,
        others=ELEMENT_FACTS,
    ),
    Form(
        "profile_neighbours",
        "table",
        (
            "For every neighbour of {a}: give the {field}. Columns: Country, {columns}.",
            "Make a table of the countries that border {a} with their {field}. Columns: Country, {columns}.",
            "List the neighbours of {a} and the {field} of each. Columns: Country, {columns}.",
            "What is the {field} of each country bordering {a}? Columns: Country, {columns}.",
        ),
        ("capital", "area", "population", "tld", "airports"),
        answers.neighbours_profile,
        label("Country", "field"),
        held_out=True,
    ),
    Form(
        "profile_top",
        "table",
        (
            "For the {n} countries of {group} with the largest {field}: give the {other}. Columns: Country, {columns}.",
            "Make a table of the top {n} of {group} by {field}, with their {other}. Columns: Country, {columns}.",
            "Which {n} of {group} have the highest {field}? Give the {other} of each. Columns: Country, {columns}.",
            "Take the first {n} of {group} by {field} and add the {other}. Columns: Country, {columns}.",
        ),
        ("area", "population"),
        answers.top_profile,
        label("Country", "other"),
    ),
)
