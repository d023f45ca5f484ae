"""The questions about the embedded web: drawn at random, answered from the records, with human-style traces."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal
from urllib.parse import quote_plus

from src.gisa.dataset.factbook.answers import NoAnswerError, Rows, Slots, word_in
from src.gisa.dataset.factbook.corpus import Corpus
from src.gisa.dataset.factbook.families import ELEMENT_FACTS, FORMS, LIMITS, Form
from src.gisa.dataset.factbook.more_families import ALL_FORMS, WORDINGS
from src.gisa.dataset.factbook.names import invented_for, is_for_training, name_parts
from src.gisa.dataset.factbook.pages import address_of, group_title, section_title
from src.gisa.dataset.factbook.records import BY_KEY, FIELDS, ONE_NAME, Entity

Split = Literal["train", "entities", "forms"]
_PER_FORM = {"train": 12, "test": 6}
_TRIES = 400
START = "", ""  # kind and title before the first page


@dataclass(frozen=True)
class Draft:
    """A question before it has an id.

    Attributes:
        form: What kind of question it is.
        slots: What it is about; ``field``, ``other`` and ``third`` hold keys of fields.
        text: The question.
        word: Which word of it says what comes first or what passes a limit; see ``factbook_answers.word_in``.
    """

    form: Form
    slots: Slots
    text: str
    word: str = ""


@dataclass(frozen=True)
class Answer:
    """What the facts of one day say to a question.

    Attributes:
        rows: Of the answer.
        pages: Kind and title of the pages it takes, in order.
        notes: What is jotted down after a page, in lines, where an answer takes more than copying one; under no title
            what is jotted down before the first. Where a question names all that it takes several pages about, that is
            the plan of the searches, and every page is followed by what is left of it.
    """

    rows: Rows
    pages: list[tuple[str, str]]
    notes: dict[tuple[str, str], list[str]]


class Records:
    """Gives facts from the records, and notes which pages show them.

    Attributes:
        pages: Kind and title of each page that was needed, once, in the order of the first need.
        notes: What was jotted down after a page.
    """

    def __init__(self, entities: Sequence[Entity]) -> None:
        """Take the facts of one day."""
        self.by_name = {entity.name: entity for entity in entities}
        self.groups: dict[str, list[str]] = {}
        for entity in entities:
            self.groups.setdefault(entity.group, []).append(entity.name)
        self.pages: dict[tuple[str, str], None] = {}
        self.notes: dict[tuple[str, str], list[str]] = {}
        self._page = START

    def values(self, name: str, key: str) -> tuple[str, ...]:
        """See ``factbook_answers.Reader``."""
        entity = self.by_name[name]
        self._page = entity.kind, section_title(name, BY_KEY[key].section)
        self.pages[self._page] = None
        if not entity.values(key):
            raise NoAnswerError
        return entity.values(key)

    def members(self, group: str) -> tuple[str, ...]:
        """See ``factbook_answers.Reader``."""
        names = sorted(self.groups[group])
        kind = self.by_name[names[0]].kind
        self.pages[kind, group_title(kind, group)] = None
        return tuple(names)

    def note(self, line: str) -> None:
        """See ``factbook_answers.Reader``."""
        self.notes.setdefault(self._page, []).append(f"- {line}")  # a name is copied best after a space: query_for

    def answer(self, draft: Draft) -> Answer | None:
        """Answer a question, None if there is no one answer."""
        self.pages, self.notes, self._page = {}, {}, START
        try:
            rows = draft.form.answer(self, {**draft.slots, "word": draft.word})
        except NoAnswerError:
            return None
        pages = list(self.pages)
        named = {draft.slots.get("a"), *draft.slots.get("all", "").split(", ")}
        if len(pages) > 1 and named.issuperset(title.partition(": ")[0] for _, title in pages):
            for number, page in enumerate([START, *pages]):
                self.notes.setdefault(page, []).append(f"left: {', '.join(map(query_for, pages[number:])) or 'none'}")
        return Answer(rows, pages, self.notes)


@dataclass(frozen=True)
class Question:
    """A question of the suite.

    Attributes:
        draft: What is asked.
        split: ``train``; ``entities`` for known forms about unseen entities; ``forms`` for unseen forms.
        gold: Rows of the answer on the first day.
        later: Rows on the later day; the same ones unless the question is live.
        pages: Kind and title of the pages it takes, in order.
        notes: See ``Answer``; those of the first day.
        renamed: Entities to the invented names that a demonstration calls them by: who has to copy names that nobody
            has seen before learns no names by heart.
    """

    draft: Draft
    split: Split
    gold: Rows
    later: Rows
    pages: list[tuple[str, str]]
    notes: dict[tuple[str, str], list[str]]
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def entities(self) -> list[str]:
        """The countries and elements whose pages it takes; those that it is about are among them."""
        return list(
            dict.fromkeys(name for _, title in self.pages for name, colon, _ in [title.partition(": ")] if colon)
        )

    @property
    def is_live(self) -> bool:
        """Whether the answer changes."""
        return BY_KEY[self.draft.slots["field"]].is_live

    @property
    def topic(self) -> str:
        """What it is about."""
        field = BY_KEY[self.draft.slots["field"]]
        by_key = {"borders": "borders", "partners": "trade", "life": "health"}
        by_section = {"Society": "population", "Properties": "chemistry", "History": "chemistry"}
        return by_key.get(field.key) or by_section.get(field.section, field.section.lower())


def make_suite(now: Records, later: Records, seed: int) -> list[Question]:
    """Draw the questions of every form; forms with few possibilities give what they have.

    Args:
        now: The facts of the first day.
        later: The facts of the later day.
        seed: Of all choices.
    """
    rng = random.Random(seed)
    suite: list[Question] = []
    for form in FORMS:
        for side, wanted in _PER_FORM.items():
            found: dict[str, Question] = {}
            for _ in range(_TRIES):
                draft = draw(form, now, side, rng)
                split: Split = "forms" if form.held_out else "train" if side == "train" else "entities"
                if question := _answered(draft, split, now, later):
                    found.setdefault(repr(sorted(draft.slots.items())), question)
                if len(found) == wanted:
                    break
            suite += found.values()
    return suite


def make_set(split: Split, now: Records, later: Records, *, per_type: int, max_pages: int, seed: int) -> list[Question]:
    """Draw questions to learn from or to be tested on, in all wordings, with any number of entities from two on.

    Forms about whole regions are left out, as their pages show entities of both sides. The forms of a type take
    turns, each going through its numbers of entities; a number that gives nothing new in many draws drops out. Every
    second question of ``train`` is learnt from under invented names.

    Args:
        split: ``train`` and ``entities`` need pages of entities of their own side only; ``forms`` are forms that are
            never learnt, about entities that are never asked about or read of in ``train``.
        now: The facts of the first day.
        later: The facts of the later day.
        per_type: Questions of each type of answer; fewer where there are no more.
        max_pages: Most pages that a question takes.
        seed: Of all choices.
    """
    rng = random.Random(f"{split} {seed}")
    side = "train" if split == "train" else "test"
    forms = [form for form in ALL_FORMS if form.held_out == (split == "forms") and "{group}" not in form.wordings[0]]
    drawn: list[Question] = []
    for answer_type in dict.fromkeys(form.answer_type for form in forms):
        found: dict[str, Question] = {}
        turns = [
            (form, list(range(2, max(form.count, 2) + 1)))  # of no matter where a form has no ``{all}``
            for form in forms
            if form.answer_type == answer_type
        ]
        while turns and len(found) < per_type:
            form, (count, *others) = turns.pop(0)
            for _ in range(_TRIES):
                draft = draw(form, now, side, rng, count=count, wordings=len(WORDINGS[form.name]))
                key = f"{form.name} {sorted(draft.slots.items())}"
                question = None if key in found else _answered(draft, split, now, later)
                if question and len(question.pages) <= max_pages and (split == "forms" or _on_side(question, side)):
                    found[key] = question
                    others.append(count)
                    break
            if others:
                turns.append((form, others))
        drawn += found.values()
    return _with_invented_names(drawn, now, rng) if split == "train" else drawn


def _with_invented_names(questions: Sequence[Question], now: Records, rng: random.Random) -> list[Question]:
    """Invent names for the entities of every second question, but for those that pages abbreviate."""
    parts, made = name_parts(now.by_name), list(questions)
    for place, question in enumerate(questions):
        if place % 2:
            names = [name for name in question.entities if name not in ONE_NAME.values()]
            made[place] = replace(question, renamed=invented_for(names, parts, now.by_name, rng))
    return made


def _answered(draft: Draft, split: Split, now: Records, later: Records) -> Question | None:
    """Answer a draft; None where there is no one answer, or a live one stays the same, or another changes."""
    if not (first := now.answer(draft)) or not (second := later.answer(draft)):
        return None
    question = Question(draft, split, first.rows, second.rows, first.pages, first.notes)
    return question if question.is_live == (question.gold != question.later) else None


def _on_side(question: Question, side: str) -> bool:
    return all(is_for_training(name) == (side == "train") for name in question.entities)


def draw(
    form: Form, records: Records, side: str, rng: random.Random, *, count: int | None = None, wordings: int = 4
) -> Draft:
    """Draw a question at random; whether it has an answer remains to be seen.

    Args:
        form: Its form.
        records: The facts.
        side: Of the entities, ``train`` or ``test``.
        rng: Source of chance.
        count: How many entities ``{all}`` has; None for as many as the suite's questions have.
        wordings: Draw from the first so many of the form's wordings.
    """
    asked = " ".join(form.wordings)
    key = rng.choice(form.fields)
    kind = "element" if key in ELEMENT_FACTS else "country"
    names = [
        name
        for name, entity in records.by_name.items()
        if entity.kind == kind and is_for_training(name) == (side == "train")
    ]
    slots = {"field": key}
    if "{a}" in asked:
        slots["a"] = rng.choice(names)
    if "{all}" in asked:
        slots["all"] = ", ".join(rng.sample(names, count or form.count))
    if "{group}" in asked:
        groups = [group for group, members in records.groups.items() if records.by_name[members[0]].kind == kind]
        slots["group"] = rng.choice([group for group in groups if is_for_training(group) == (side == "train")])
    if "{n}" in asked:
        slots["n"] = rng.choice(("3", "5"))
    if "{limit}" in asked:
        slots["limit"] = LIMITS[key]
    if "{other}" in asked:
        slots["other"] = rng.choice([other for other in form.others if BY_KEY[other].label != BY_KEY[key].label])
    if "{third}" in asked:
        taken = {BY_KEY[slots[slot]].label for slot in ("field", "other")}
        slots["third"] = rng.choice([third for third in form.others if BY_KEY[third].label not in taken])
    wording = rng.randrange(wordings)
    return Draft(form, slots, worded(form, slots, wording), word_in(WORDINGS[form.name][wording]))


def worded(form: Form, slots: Slots, wording: int) -> str:
    """Return the text of a question."""
    phrases = {slot: BY_KEY[key].phrase for slot, key in slots.items() if slot in ("field", "other", "third")}
    columns = ", ".join(form.columns(slots)[1:])
    return WORDINGS[form.name][wording].format(**{**slots, **phrases, "columns": columns})


def understand(text: str) -> Draft | None:
    """Find the form and slots of a question by the words of its form, None if it has none of them.

    Where several wordings fit, the one with the most words of its own is meant.
    """
    fits = []
    for form in ALL_FORMS:
        for wording in WORDINGS[form.name]:
            found = re.fullmatch(_pattern(form, wording), text)
            if found:
                slots = {slot: _KEYS.get(value, value) for slot, value in found.groupdict().items()}
                slots = {"field": form.fields[0], **slots}
                fits.append((re.sub(r"\{\w+\}", "", wording), Draft(form, slots, text, word_in(wording))))
    return max(fits, key=lambda fit: len(fit[0]))[1] if fits else None


_KEYS = {field.phrase: field.key for field in FIELDS}


@cache
def _pattern(form: Form, wording: str) -> str:
    """Return the wording as a regular expression with a group for each slot."""
    pattern = re.escape(wording).replace(r"\{columns\}", ".+")
    for slot, keys in (("field", form.fields), ("other", form.others), ("third", form.others)):
        phrases = "|".join(re.escape(BY_KEY[key].phrase) for key in keys)
        pattern = pattern.replace(rf"\{{{slot}\}}", f"(?P<{slot}>{phrases})")
    return re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+?)", pattern)


def query_for(page: tuple[str, str]) -> str:
    """Return what is searched for to find a page, given by kind and title.

    What the page is of comes last: after a space a name has the same tokens as in a question, while at the beginning of
    a query it has to be spelled ("Nepal" as N, ep, al), from memory.
    """
    name, _, section = page[1].partition(": ")
    return f"{section} of {name}" if section else name


def trace_of(pages: Sequence[tuple[str, str]], corpus: Corpus) -> Mapping[str, Any]:
    """Return what a careful human would do to see some pages, in the form of the benchmark's traces.

    Each page is searched for by its title and clicked where the results show it; where they don't, the human goes by
    way of the page above it.

    Args:
        pages: Kind and title, in order.
        corpus: The web that is searched.
    """
    queries, results, clicks = [], {}, []
    for kind, title in pages:
        query, url = query_for((kind, title)), address_of(kind, title)
        hits = corpus.search(query, 10)
        queries.append(query)
        found = [{"snippet": hit.snippet, "title": hit.title, "url": hit.url} for hit in hits]
        results[query] = [{"page": 1, "results": found}]
        origin = f"https://www.google.com/search?q={quote_plus(query)}"
        above = url.rpartition("/")[0]
        above += "/" if above.count("/") == 2 else ""  # the contents page of the site
        steps = [origin, url] if url in [hit.url for hit in hits] else [origin, above, url]
        clicks += [{"from": start, "to": end} for start, end in itertools.pairwise(steps)]
    return {"search": queries, "result": results, "click": clicks}
