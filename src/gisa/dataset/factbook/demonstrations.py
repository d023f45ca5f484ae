"""What only learners need of the embedded web: scratchpads, invented names and drills, none known to the benchmark."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from src.gisa.dataset.factbook.families import Draft, asked_about, catalogue, sign_between
from src.gisa.dataset.factbook.pages import Page, in_address, page_with
from src.gisa.dataset.factbook.records import BY_KEY, FIRST, ONE_NAME, Facts, facts_of, is_for_training
from src.gisa.dataset.factbook.suite import Answer, Factbook, answer, draw
from src.gisa.dataset.gisa import Gisa
from src.gisa.metrics.answer_table import tsv_block
from src.launch.storage import locked, write_atomic, writing_to_cache

T = TypeVar("T")
Drill = tuple[str, str]  # the beginning of a line, and the end that is to be told
START = Page("", "")  # before the first page
# Kind of drill to its lines for each question of a type, and to those in a block: as many tokens as a demonstration.
_DRILLS = {
    **{"comparisons": (9, 48), "names": (1, 48), "shared": (1, 10), "last_notes": (1, 10), "signs": (2, 48)},
    **{"plans": (2, 24), "tables": (1, 10)},
}
_PAGES = 4  # most that the plan of a drill has, as in the sets of questions


class TrainingAids(NamedTuple):
    """What demonstrations of a suite's questions take beside its traces, and what is learnt beside them.

    Attributes:
        scratchpads: Id of a question to the address of a page, empty before the first, to the lines jotted down then.
        renamed: Id of a question to its entities and the invented names that its demonstration calls them by: who has
            to copy names that nobody has seen before learns no names by heart.
        drills: In blocks of a kind.
    """

    scratchpads: Mapping[str, Mapping[str, list[str]]]
    renamed: Mapping[str, Mapping[str, str]]
    drills: Sequence[Sequence[Drill]]


def training_aids(suite: Gisa) -> TrainingAids:
    """Return the aids of an embedded suite, none of any other; the first call writes them beside its questions.

    Every second question of ``train``, and no other, is learnt from under invented names, and ``train`` alone has
    drills.
    """
    aids, drills = suite.root / "demonstrations.json", suite.root / "drills.json"
    if isinstance(suite, Factbook):
        with locked(suite.root.parent), writing_to_cache():
            if not aids.is_file():  # it comes last
                if suite.split == "train":
                    write_atomic(drills, json.dumps(_blocks(suite.per_type), indent=1))
                write_atomic(aids, json.dumps(_by_question(suite), indent=1))
    by_id = json.loads(aids.read_bytes()) if aids.is_file() else {}
    return TrainingAids(
        {name: aid["scratchpad"] for name, aid in by_id.items()},
        {name: aid["renamed"] for name, aid in by_id.items()},
        json.loads(drills.read_bytes()) if drills.is_file() else [],
    )


def _by_question(suite: Factbook) -> dict[str, dict[str, Any]]:
    """Return the scratchpad and the invented names of each question, by its id."""
    facts, (questions, rng) = facts_of(FIRST), suite.draw()
    parts, aids = name_parts(facts.by_name), {}
    for number, question in enumerate(questions, 1):
        names = question.entities if suite.split == "train" and number % 2 == 0 else []
        names = [name for name in names if name not in ONE_NAME.values()]  # pages show these by other names, too
        pad = scratchpad(question.draft, question.pages, facts)
        aids[f"{suite.prefix}{number}"] = {
            "scratchpad": {page.address if page != START else "": lines for page, lines in pad.items()},
            "renamed": invented_for(names, parts, facts.by_name, rng),
        }
    return aids


def _blocks(per_type: int) -> list[list[Drill]]:
    """Draw drills for so many questions of each type, in blocks of a kind."""
    drills = make_drills(facts_of(FIRST), {kind: count * per_type for kind, (count, _) in _DRILLS.items()})
    return [
        lines[start : start + size]
        for lines, (_, size) in zip(drills.values(), _DRILLS.values(), strict=True)
        for start in range(0, len(lines), size)
    ]


class Note(NamedTuple):
    """What is jotted down about one value.

    Attributes:
        about: What has it.
        value: As the page shows it.
        wanted: What is wanted of it, and the sign that it takes; empty where nothing is compared.
        follows: What follows from it, step by step.
    """

    about: str
    value: str
    wanted: str = ""
    follows: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The line."""
        return "; ".join([", ".join(filter(None, [f"{self.about}: {self.value}", self.wanted])), *self.follows])


def scratchpad(draft: Draft, pages: Sequence[Page], facts: Facts) -> dict[Page, list[str]]:
    """Return what is jotted down after each page, where an answer takes more than copying one.

    Before the first page, of a table it is noted, in the question's words, which section has each field. Where a
    question names all that it takes several pages about, there follows the plan of the searches, and after every page
    what is left of it.
    """
    pad: dict[Page, list[str]] = {page: [] for page in (START, *pages)}
    if draft.family.procedure == "profile" and "all" in draft.slots:
        pad[START].append(f"- {', '.join(f'{BY_KEY[key].phrase}: {BY_KEY[key].section}' for key in _keys(draft))}")
    for page, note in notes_of(draft, facts):
        pad[page].append(f"- {note.text}")  # a name is copied best after a space: see ``Page.query``
    about = {draft.slots.get("a"), *draft.slots.get("all", "").split(", ")}
    if len(pages) > 1 and about.issuperset(page.name for page in pages):
        for number, page in enumerate(pad):
            pad[page].append(f"left: {', '.join(left.query for left in pages[number:]) or 'none'}")
    return {page: lines for page, lines in pad.items() if lines}


def notes_of(draft: Draft, facts: Facts) -> Iterator[tuple[Page, Note]]:
    """Yield what follows from each value that is compared, or that a question names for a table, with its page."""
    slots, key, procedure = draft.slots, draft.slots["field"], draft.family.procedure
    notes: Iterable[Note] = ()
    if procedure == "profile" and "all" in slots:
        for name, key in itertools.product(asked_about(facts, slots), _keys(draft)):
            yield page_with(name, key), Note(f"{name}, {BY_KEY[key].phrase}", facts.values(name, key)[0])
    elif procedure in ("common", "either"):
        lists = {name: facts.values(name, key) for name in asked_about(facts, slots)}
        notes = common_notes(lists) if procedure == "common" else either_notes(lists)
    elif draft.word:
        sizes = {name: facts.values(name, key)[0] for name in asked_about(facts, slots)}
        in_order = order_notes(sizes, draft.word, only_first=procedure == "first")
        notes = passing_notes(sizes, slots["limit"], draft.word) if procedure == "passing" else in_order
    for note in notes:
        yield page_with(note.about, key), note


def _keys(draft: Draft) -> list[str]:
    return [draft.slots[slot] for slot in ("field", "other", "third") if slot in draft.slots]


def order_notes(sizes: Mapping[str, str], word: str, *, only_first: bool) -> Iterator[Note]:
    """Yield how entities with values are sorted, or the first one found, in the order that a word names.

    Each is compared with the order so far, from the first on, up to its place; or with the first so far alone.
    """
    wanted, order = f"the {word}" if only_first else first_of(word), list[tuple[str, str]]()
    for name, size in sizes.items():
        before = sum(not _passes(size, other, word) for _, other in order)  # sorted, so these are the first ones
        follows = [f"{placed(size, other, word)} {entity}" for entity, other in order[: before + 1]]
        order.insert(before, (name, size))
        if only_first:
            del order[1:]
        if follows:
            follows.append(f"{'first' if only_first else 'order'}: {', '.join(' '.join(pair) for pair in order)}")
        yield Note(name, size, signed(wanted, word), tuple(follows))


def passing_notes(sizes: Mapping[str, str], limit: str, word: str) -> Iterator[Note]:
    """Yield which entities have a value that passes a limit, each with those found so far."""
    passed = list[str]()
    for name, size in sizes.items():
        passed += [name] * _passes(size, limit, word)
        follows = (placed(size, limit, word), f"found: {', '.join(passed) or 'none'}")
        yield Note(name, size, signed(f"{word} {limit}", word), follows)


def common_notes(lists: Mapping[str, Sequence[str]]) -> Iterator[Note]:
    """Yield what two lists have in common."""
    (one, first), (other, second) = lists.items()
    yield Note(one, ", ".join(first))
    checked = ", ".join(f"{name} {'yes' if name in first else 'no'}" for name in second)
    yield Note(other, checked, "", (f"both: {', '.join(name for name in second if name in first) or 'none'}",))


def either_notes(lists: Mapping[str, Sequence[str]]) -> Iterator[Note]:
    """Yield what one or more of some lists have, as far as they are read."""
    joined = dict[str, None]()
    for name, values in lists.items():
        is_first = not joined
        joined |= dict.fromkeys(values)
        yield Note(name, ", ".join(values), "", () if is_first else (f"any: {', '.join(joined)}",))


def _passes(value: str, other: str, word: str) -> bool:
    return sign_between(value, other) == catalogue().signs[word]


def comparison(value: str, other: str) -> str:
    """Compare two values in writing, the sign last: who has read both can tell it."""
    return f"{value} and {other}: {sign_between(value, other)}"


def verdict(value: str, other: str, word: str) -> str:
    """Say what follows for the first of two values: its place in an order, or whether it passes a limit."""
    verdicts = ("no", "yes") if word in catalogue().limit_words else ("after", "before")
    return verdicts[_passes(value, other, word)]


def placed(value: str, other: str, word: str) -> str:
    """Compare two values, and say what follows for the first one."""
    return f"{comparison(value, other)}, {verdict(value, other, word)}"


def signed(wanted: str, word: str) -> str:
    """Say what is wanted, and the sign that it takes of the first of two values."""
    return f"{wanted} ({catalogue().signs[word]})"


def first_of(word: str) -> str:
    """Say that a list begins with what a word of order names."""
    return word if word in ("descending", "ascending") else f"{word} first"


def name_parts(names: Iterable[str]) -> list[str]:
    """Return those of one word that models may learn from."""
    return [name for name in names if is_for_training(name) and re.fullmatch(r"[A-Z][a-z]{4,}", name)]


def invented(names: Sequence[str], taken: Collection[str], rng: random.Random) -> str:
    """Put a name together from the beginning of one and the end of another."""
    while True:
        first, second = rng.sample(names, 2)
        name = first[: rng.randint(2, len(first) - 2)] + second[-rng.randint(2, len(second) - 2) :]
        if name not in taken:
            return name


def invented_for(
    names: Iterable[str], parts: Sequence[str], taken: Iterable[str], rng: random.Random
) -> dict[str, str]:
    """Invent a name of one or two words for each, of which none is taken."""
    known, made = {*taken}, {}
    for name in names:
        words = [invented(parts, known, rng) for _ in range(rng.choice((1, 1, 1, 2)))]
        known.update(words)
        made[name] = rng.choice("- ").join(words)
    return made


def renamed(texts: Sequence[T], names: Mapping[str, str]) -> list[T]:
    """Write texts with other names, in addresses, too; parts of longer names stay as they are.

    Args:
        texts: Strings, or what has strings in it: the messages of a conversation, say.
        names: Every name to the one that takes its place.
    """
    if not names:
        return list(texts)
    new = {spelling(old): spelling(name) for old, name in names.items() for spelling in (str, in_address)}
    spellings = "|".join(map(re.escape, sorted(new, key=len, reverse=True)))
    pattern = re.compile(rf"(?<![\w%-])(?:{spellings})(?![\w%]|-\w)")

    def rewritten(node: Any) -> Any:
        if isinstance(node, str):
            return pattern.sub(lambda found: new[found[0]], node)
        if isinstance(node, Mapping):
            return {key: rewritten(value) for key, value in node.items()}
        return [rewritten(value) for value in node] if isinstance(node, list) else node

    return [rewritten(text) for text in texts]


def make_drills(facts: Facts, counts: Mapping[str, int], seed: int = 1) -> dict[str, list[Drill]]:
    """Draw what answers take of skill, without their pages: the kinds are the methods of ``_Drills``.

    Values and names are of entities that models may learn from; plans and tables are about invented ones by turns.

    Args:
        facts: The facts.
        counts: Lines of each kind; of ``plans`` and ``tables`` an even number.
        seed: Of all choices.
    """
    source = _Drills(facts, random.Random(f"practice {seed}"))  # the name that the first ones were drawn by
    return {kind: list(itertools.islice(getattr(source, kind)(), counts[kind])) for kind in _DRILLS}


class _Drills:
    """Endless drills of each kind."""

    def __init__(self, facts: Facts, rng: random.Random) -> None:
        self.facts, self.rng, self.words = facts, rng, catalogue()
        self.known = [entity for name, entity in facts.by_name.items() if is_for_training(name)]
        self.parts = name_parts(facts.by_name)
        # Each word that has a sign, as notes say what is wanted.
        self.phrases = [(word, phrase) for word in self.words.order_words for phrase in (f"the {word}", first_of(word))]
        self.phrases += [(word, word) for word in self.words.limit_words]

    def comparisons(self) -> Iterator[Drill]:
        """Compare two values in the words of notes, one in three with what follows for an order or a limit."""
        keys = dict.fromkeys([*self.words.field_groups["sizes"], *self.words.limits])
        values = [sorted({value for entity in self.known for value in entity.values(key)}) for key in keys]
        for word, phrase in itertools.cycle(one for pair in self.phrases for one in (("", ""), ("", ""), pair)):
            one, other = self.rng.sample(self.rng.choice(values), 2)
            if word:
                yield f"{signed(phrase, word)}; {comparison(one, other)},", verdict(one, other, word)
            else:
                yield f"{one} and {other}:", sign_between(one, other)

    def names(self) -> Iterator[Drill]:
        """List a few names and tell the one after another, at the beginning of a line and so letter by letter.

        By turns they are invented, or words that begin with a capital letter.
        """
        text = " ".join(entity.background for entity in self.known)
        common_words = sorted({*re.findall(r"\b[A-Z][a-z]{3,}\b", text)} - self.facts.by_name.keys())
        for number in itertools.count():
            some = self.rng.randint(2, 4)
            made = [invented(self.parts, self.facts.by_name, self.rng) for _ in range(some)]
            told = self.rng.sample(common_words, some) if number % 2 else made
            place = self.rng.randrange(some - 1)
            yield f"{', '.join(told)}; after {told[place]}:\n", told[place + 1]

    def shared(self) -> Iterator[Drill]:
        """List neighbours of two countries, in truth none, and tell what they share as the notes on them do."""
        countries, rng = [entity.name for entity in self.known if entity.kind == "country"], self.rng
        while True:
            one, other, *rest = rng.sample(countries, 13)
            both, first, last = (rest[at : at + rng.randint(1, most)] for at, most in ((0, 3), (3, 4), (7, 4)))
            lists = {one: sorted([*both, *first]), other: sorted([*both, *last])}
            known, told = common_notes(lists)
            page = "; ".join(f"{name} {rng.randint(10, 2_000):,} km" for name in lists[other])
            shown = f"- {known.text}\n{BY_KEY['borders'].label}: {page}\n- {other}:"
            yield shown, "; ".join([told.value, *told.follows]) + "\n"

    def last_notes(self) -> Iterator[Drill]:
        """Say of a few values what is wanted, and tell what the note on the last one does."""
        of_one = [word for word in self.words.order_words if first_of(word) != word]
        words = {"largest": of_one, "ranking": [*self.words.order_words], "above": [*self.words.limit_words]}
        while True:
            family = self.words.families[self.rng.choice(("largest", "ranking", "ranking", "above"))]
            word, key = self.rng.choice(words[family.name]), self.rng.choice(family.fields)
            able = [entity.name for entity in self.known if entity.values(key)]
            names = ", ".join(self.rng.sample(able, self.rng.randint(2, 4)))
            draft = Draft(family, {"all": names, "field": key, "limit": self.words.limits.get(key, "")}, "", word)
            if answer(draft, self.facts):
                *before, last = [note for _, note in notes_of(draft, self.facts)]
                shown = [*(f"- {note.text}" for note in before), f"- {last._replace(follows=()).text};"]
                yield "\n".join(shown), "; ".join(last.follows) + "\n"

    def signs(self) -> Iterator[Drill]:
        """Say what is wanted of a value, and tell the sign that it takes.

        A family has but one of them, so that demonstrations alone do not tell that it follows from the word.
        """
        limits, ordered = self.words.limits, [*self.words.field_groups["sizes"], "found"]
        for word, phrase in itertools.cycle(self.phrases):
            is_limit = word in self.words.limit_words
            key = self.rng.choice([*limits] if is_limit else ordered)
            entity = self.rng.choice([entity for entity in self.known if entity.values(key)])
            wanted = f"{phrase} {limits[key]}" if is_limit else phrase
            yield f"- {entity.name}: {entity.values(key)[0]}, {wanted}", f"({self.words.signs[word]})\n"

    def tables(self) -> Iterator[Drill]:
        """Tell the plan of a question whose answer is a table, and then that table after all notes."""
        return self.plans(is_table=True)

    def plans(self, *, is_table: bool = False) -> Iterator[Drill]:
        """Tell the plan of a question, and then what its first value is compared with.

        The families that name all that they are about take turns; by turns, too, names are invented.
        """
        families = [
            family
            for family in self.words.families.values()
            if not family.held_out and "all" in family.slots and (family.answer_type == "table" or not is_table)
        ]
        for number, family in enumerate(itertools.cycle(families)):
            solved: Answer | None = None
            while not solved or len(solved.pages) > _PAGES:
                some = self.rng.randint(2, max(family.count, 2))
                draft = draw(family, self.facts, "train", self.rng, count=some)
                solved = answer(draft, self.facts)
            pad, (_, first) = scratchpad(draft, solved.pages, self.facts), next(notes_of(draft, self.facts))
            if is_table:
                noted = [line for page in solved.pages for line in pad[page][:-1]]  # without what is left
                given, told = "\n".join([*noted, pad[solved.pages[-1]][-1]]), tsv_block([draft.header, *solved.rows])
            elif first.wanted:
                given, told = f"- {first.about}: {first.value},", "; ".join([first.wanted, *first.follows])
            else:
                continue
            about = [] if number // len(families) % 2 else asked_about(self.facts, draft.slots)
            names = invented_for(about, self.parts, self.facts.by_name, self.rng)
            question, plan, given, told = renamed([draft.text, "\n".join(pad[START]), given, told], names)
            yield f"{question}\n", f"{plan}\n"
            yield f"{given}\n" if is_table else given, f"{told}\n"
