"""What models practise beside the questions about the embedded web: comparing, copying, finding, placing."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence

from src.gisa.dataset.factbook.answers import (
    LIMIT_WORDS,
    ORDER_WORDS,
    Listed,
    common,
    comparison,
    first_of,
    placed,
    signed,
)
from src.gisa.dataset.factbook.families import FORMS, LIMITS, SIZES
from src.gisa.dataset.factbook.more_families import ALL_FORMS, WORDINGS
from src.gisa.dataset.factbook.names import invented, invented_for, is_for_training, name_parts, renamed
from src.gisa.dataset.factbook.questions import START, Answer, Draft, Records, draw
from src.gisa.dataset.factbook.records import BY_KEY, Entity
from src.gisa.metrics.answer_table import tsv_block

Practice = list[tuple[str, str]]

_PAGES = 4  # most that a plan has, as in the sets of questions


def make_practice(
    now: Records,
    *,
    comparisons: int,
    names: int,
    shared: int,
    notes: int,
    signs: int,
    plans: int,
    tables: int,
    seed: int,
) -> list[Practice]:
    """Draw what answers take of skill, without their pages: of each line the beginning is given, the end to be told.

    The first kind compares two values in the words of notes, one in three with what follows for an order or a limit.
    The second lists a few names and tells the one that comes after another, at the beginning of a line and so letter by
    letter; see ``query_for``: half are words that begin with a capital letter, half invented, put together from two
    names. The third finds what two lists of names have in common, the fourth places a value among others as notes do,
    the fifth tells which sign a value that is wanted has: a form of question has but one of them, so that
    demonstrations alone do not tell that it follows from the word. The sixth tells the notes before the first page of a
    question, and in every second line what its first value is compared with; so does the seventh, of questions whose
    answer is a table, with that table after all notes. Values and names are of entities that models may learn from; the
    last two kinds are about invented ones by turns.

    Args:
        now: The facts.
        comparisons: Lines of the first kind.
        names: Lines of the second kind.
        shared: Lines of the third kind.
        notes: Lines of the fourth kind.
        signs: Lines of the fifth kind.
        plans: Lines of the sixth kind, an even number.
        tables: Lines of the seventh kind, an even number.
        seed: Of all choices.

    Returns:
        The lines of each kind, as pairs.
    """
    rng = random.Random(f"practice {seed}")
    known = [entity for name, entity in now.by_name.items() if is_for_training(name)]
    values = [
        sorted({value for entity in known for value in entity.values(key)}) for key in dict.fromkeys([*SIZES, *LIMITS])
    ]
    pairs = [rng.sample(rng.choice(values), 2) for _ in range(comparisons)]
    phrases = [(word, phrase) for word in ORDER_WORDS for phrase in (f"the {word}", first_of(word))]
    phrases += [(word, word) for word in LIMIT_WORDS]
    wanted = itertools.cycle(one for phrase in phrases for one in (("", ""), ("", ""), phrase))
    compared = [
        f"{signed(phrase, word)}; {placed(one, other, word)}" if word else comparison(one, other)
        for (word, phrase), (one, other) in zip(wanted, pairs, strict=False)
    ]
    parts = name_parts(now.by_name)
    text = " ".join(entity.background for entity in known)
    common_words = sorted({*re.findall(r"\b[A-Z][a-z]{3,}\b", text)} - now.by_name.keys())
    listed = []
    for number in range(names):
        some = rng.randint(2, 4)
        made = [invented(parts, now.by_name, rng) for _ in range(some)]
        told = rng.sample(common_words, some) if number % 2 else made
        place = rng.randrange(some - 1)
        listed.append((f"{', '.join(told)}; after {told[place]}:\n", told[place + 1]))
    words = [(before, last) for before, _, last in (line.rpartition(" ") for line in compared)]
    countries = [entity.name for entity in known if entity.kind == "country"]
    return [
        words,
        listed,
        [_with_shared(countries, rng) for _ in range(shared)],
        [_last_note(now, known, rng) for _ in range(notes)],
        [_sign(known, word, phrase, rng) for word, phrase in itertools.islice(itertools.cycle(phrases), signs)],
        list(itertools.islice(_planned(now, parts, False, rng), plans)),
        list(itertools.islice(_planned(now, parts, True, rng), tables)),
    ]


def _with_shared(names: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """Draw two lists of neighbours, in truth none, and tell what they share as the notes on them do."""
    one, other, *rest = rng.sample(names, 13)
    both, first, second = rest[: rng.randint(1, 3)], rest[3 : 3 + rng.randint(1, 4)], rest[7 : 7 + rng.randint(1, 4)]
    lists = Listed({one: sorted([*both, *first]), other: sorted([*both, *second])})
    common(lists, {"all": f"{one}, {other}", "field": "borders"})
    known, last = lists.notes
    page = "; ".join(f"{name} {rng.randint(10, 2_000):,} km" for name in lists.values(other, "borders"))
    return f"- {known}\n{BY_KEY['borders'].label}: {page}\n- {other}:", f"{last.removeprefix(f'{other}: ')}\n"


def _last_note(now: Records, known: Sequence[Entity], rng: random.Random) -> tuple[str, str]:
    """Draw a few entities and what is wanted of them, and tell what the note on the last one does."""
    of_one = [word for word in ORDER_WORDS if first_of(word) != word]
    words = {"largest": of_one, "ranking": [*ORDER_WORDS], "above": [*LIMIT_WORDS]}
    while True:
        name = rng.choice(("largest", "ranking", "ranking", "above"))
        form = next(form for form in FORMS if form.name == name)
        word, key = rng.choice(words[name]), rng.choice(form.fields)
        able = [entity.name for entity in known if entity.values(key)]
        slots = {"all": ", ".join(rng.sample(able, rng.randint(2, 4))), "field": key, "limit": LIMITS.get(key, "")}
        if answer := now.answer(Draft(form, slots, "", word)):
            *before, last = [lines[0] for page, lines in answer.notes.items() if page != START]
            shown, sign, told = last.partition("); ")
            return "\n".join([*before, f"{shown}{sign}".rstrip()]), f"{told}\n"


def _sign(known: Sequence[Entity], word: str, phrase: str, rng: random.Random) -> tuple[str, str]:
    """Draw a value, and tell the sign of what is wanted as the first note does."""
    key = rng.choice([*LIMITS] if word in LIMIT_WORDS else [*SIZES, "found"])
    entity = rng.choice([entity for entity in known if entity.values(key)])
    wanted = f"{phrase} {LIMITS[key]}" if word in LIMIT_WORDS else phrase
    shown, _, sign = signed(wanted, word).rpartition(" ")
    return f"- {entity.name}: {entity.values(key)[0]}, {shown}", f"{sign}\n"


def _planned(now: Records, parts: Sequence[str], is_table: bool, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Draw questions and tell the plan, and then the first note that compares, or of tables the answer after all notes.

    The forms that name all that they are about take turns; every second question is about invented names.
    """
    forms = [form for form in ALL_FORMS if not form.held_out and "{all}" in form.wordings[0]]
    forms = [form for form in forms if form.answer_type == "table" or not is_table]
    for number, form in enumerate(itertools.cycle(forms)):
        answer: Answer | None = None
        while not answer or len(answer.pages) > _PAGES:
            some = rng.randint(2, max(form.count, 2))
            draft = draw(form, now, "train", rng, count=some, wordings=len(WORDINGS[form.name]))
            answer = now.answer(draft)
        plan, *notes = [answer.notes[page] for page in (START, *answer.pages)]
        if is_table:
            found = [line for lines in notes for line in lines[:-1]]  # without what is left
            given, told = [*found, notes[-1][-1]], tsv_block([form.columns(draft.slots), *answer.rows])
        elif wanted := re.fullmatch(r"(- .+: \S+,) (.+ \([<>]\).*)", notes[0][0]):
            given, told = [wanted[1]], wanted[2]
        else:
            continue
        named = [] if number // len(forms) % 2 else draft.slots["all"].split(", ")
        texts = [draft.text, "\n".join(plan), "\n".join(given), told]
        question, planned, given_text, told = renamed(texts, invented_for(named, parts, now.by_name, rng))
        yield f"{question}\n", f"{planned}\n"
        yield f"{given_text}\n" if is_table else given_text, f"{told}\n"
