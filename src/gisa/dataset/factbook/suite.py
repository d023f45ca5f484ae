"""The embedded benchmark: questions, answers and traces in GISA's layout, over a web of facts that needs no network."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import itertools
import json
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote_plus

from src.gisa.dataset.factbook.corpus import Corpus
from src.gisa.dataset.factbook.families import Draft, Family, Rows, catalogue, worded
from src.gisa.dataset.factbook.pages import Page, factbook_web, page_listing, page_with
from src.gisa.dataset.factbook.records import BY_KEY, FIRST, LATER, Facts, NoAnswerError, facts_of, is_for_training
from src.gisa.dataset.gisa import Gisa
from src.launch.errors import InputError
from src.launch.storage import cache_folder, locked, write_atomic, writing_to_cache
from src.launch.values import Count

Split = Literal["train", "entities", "families"]
_SEED = 1
_LAYOUT = "35"  # to be raised with every change of pages, families or draws: the cache then makes a new folder
_PER_FAMILY = {"train": 12, "test": 6}
_TRIES = 400
# Ids and draws go by the names that the splits had at first: so questions and ids are those of older runs.
_FIRST_NAMES = {"train": "train", "entities": "entities", "families": "forms"}


def factbook(snapshot: str | None = None) -> Factbook:
    """Return the suite; the first call makes it in the cache folder.

    Args:
        snapshot: ``2025-07-01`` for the later answers of live questions, None for those of 2024-07-01.

    Raises:
        InputError: the packages with the facts cannot be fetched, or there is no such snapshot.
    """
    return Factbook(None, 0, 0, snapshot)


def factbook_set(split: Split, per_type: Count = 420, max_pages: Count = 4, snapshot: str | None = None) -> Factbook:
    """Return a set of further questions in more wordings; the first call makes it in the cache folder.

    Args:
        split: ``train`` to learn from; ``entities``, known families about unseen entities; ``families``, unseen ones.
        per_type: Questions of each type of answer, as far as there are so many.
        max_pages: Most pages that a question takes.
        snapshot: As of the suite.

    Raises:
        InputError: as for the suite, or there is no such split.
    """
    if split not in _FIRST_NAMES:
        raise InputError(f"dataset.split={split}: the embedded web has the splits {', '.join(_FIRST_NAMES)}.")
    return Factbook(split, per_type, max_pages, snapshot)


class Factbook(Gisa):
    """The suite or a set, as it lies in the cache folder.

    Attributes:
        split: Of a set; None for the suite.
        per_type: Of a set: questions of each type of answer.
        max_pages: Of a set: most pages that a question takes.
    """

    def __init__(self, split: Split | None, per_type: int, max_pages: int, snapshot: str | None) -> None:
        """Write the files, unless they are there, and read them."""
        self.split, self.per_type, self.max_pages = split, per_type, max_pages
        self.prefix = f"{_FIRST_NAMES[split]}-" if split else ""
        folder = cache_folder() / "factbook" / _LAYOUT / (f"{split}_{per_type}_{max_pages}" if split else "suite")
        with locked(folder.parent), writing_to_cache():
            if not (folder / "suite.json").is_file():
                shutil.rmtree(folder, ignore_errors=True)
                write_suite(folder, self.draw()[0], factbook_web(FIRST), self.prefix)
        super().__init__(str(folder), snapshot, show_questions=True)

    def draw(self) -> tuple[list[Question], random.Random]:
        """Draw the questions, always the same ones, in the order of their ids; return the source of chance as well."""
        now, later = facts_of(FIRST), facts_of(LATER)
        if self.split is None:
            rng = random.Random(_SEED)
            return make_suite(now, later, rng), rng
        rng = random.Random(f"{_FIRST_NAMES[self.split]} {_SEED}")
        return make_set(self.split, now, later, rng, per_type=self.per_type, max_pages=self.max_pages), rng


class Answer(NamedTuple):
    """What the facts of one day say to a question.

    Attributes:
        rows: Of the answer.
        pages: That it takes, each once, in the order of the first need.
    """

    rows: Rows
    pages: list[Page]


class _NotingPages:
    """Gives facts, and notes which pages show them; a ``Reader``."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.pages = dict[Page, None]()

    def values(self, name: str, key: str) -> tuple[str, ...]:
        self.pages[page_with(name, key)] = None
        return self._facts.values(name, key)

    def members(self, group: str) -> tuple[str, ...]:
        members = self._facts.members(group)
        self.pages[page_listing(self._facts.by_name[members[0]].kind, group)] = None
        return members


def answer(draft: Draft, facts: Facts) -> Answer | None:
    """Answer a question from the facts of one day, None if there is no one answer."""
    read = _NotingPages(facts)
    try:
        rows = draft.answer(read)
    except NoAnswerError:
        return None
    return Answer(rows, list(read.pages))


@dataclass(frozen=True)
class Question:
    """A question of the suite.

    Attributes:
        draft: What is asked.
        split: ``train``; ``entities`` for known families about unseen entities; ``families`` for unseen families.
        gold: Rows of the answer on the first day.
        later: Rows on the later day; the same ones unless the question is live.
        pages: See ``Answer``; those of the first day.
    """

    draft: Draft
    split: Split
    gold: Rows
    later: Rows
    pages: list[Page]

    @property
    def entities(self) -> list[str]:
        """The countries and elements whose pages it takes; those that it is about are among them."""
        return list(dict.fromkeys(page.name for page in self.pages if page.section))

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


def make_suite(now: Facts, later: Facts, rng: random.Random) -> list[Question]:
    """Draw the questions of every family of the suite from the facts of both days.

    Families with few possibilities give what they have.
    """
    suite: list[Question] = []
    for family in catalogue().families.values():
        for side, wanted in _PER_FAMILY.items() if family.suite_wordings else ():
            drawn: dict[str, Question] = {}
            split: Split = "families" if family.held_out else "train" if side == "train" else "entities"
            for _ in range(_TRIES):
                draft = draw(family, now, side, rng, count=family.count, wordings=family.suite_wordings)
                if question := _answered(draft, split, now, later):
                    drawn.setdefault(repr(sorted(draft.slots.items())), question)
                if len(drawn) == wanted:
                    break
            suite += drawn.values()
    return suite


def make_set(
    split: Split, now: Facts, later: Facts, rng: random.Random, *, per_type: int, max_pages: int
) -> list[Question]:
    """Draw questions to learn from or to be tested on, in all wordings, with any number of entities from two on.

    Families about whole regions are left out, as their pages show entities of both sides. The families of a type take
    turns, each going through its numbers of entities; a number that gives nothing new in many draws drops out.

    Args:
        split: ``train`` and ``entities`` need pages of entities of their own side only; ``families`` are those that are
            never learnt, about entities that are never asked about or read of in ``train``.
        now: The facts of the first day.
        later: Those of the later day.
        rng: Source of chance.
        per_type: Questions of each type of answer; fewer where there are no more.
        max_pages: Most pages that a question takes.
    """
    side = "train" if split == "train" else "test"
    families = [
        family
        for family in catalogue().families.values()
        if family.held_out == (split == "families") and "group" not in family.slots
    ]
    questions: list[Question] = []
    for answer_type in dict.fromkeys(family.answer_type for family in families):
        drawn: dict[str, Question] = {}
        turns = [
            (family, list(range(2, max(family.count, 2) + 1)))  # of no matter where a family has no ``{all}``
            for family in families
            if family.answer_type == answer_type
        ]
        while turns and len(drawn) < per_type:
            family, (count, *others) = turns.pop(0)
            for _ in range(_TRIES):
                draft = draw(family, now, side, rng, count=count)
                key = f"{family.name} {sorted(draft.slots.items())}"
                question = None if key in drawn else _answered(draft, split, now, later)
                if question and len(question.pages) <= max_pages and (split == "families" or _on_side(question, side)):
                    drawn[key] = question
                    others.append(count)
                    break
            if others:
                turns.append((family, others))
        questions += drawn.values()
    return questions


def draw(
    family: Family, facts: Facts, side: str, rng: random.Random, *, count: int, wordings: Sequence[str] = ()
) -> Draft:
    """Draw a question at random; whether it has an answer remains to be seen.

    Args:
        family: Its family.
        facts: Whose entities it is about.
        side: Of the entities, ``train`` or ``test``.
        rng: Source of chance.
        count: How many entities ``{all}`` has.
        wordings: Which ones to draw from; all of the family's without any.
    """

    def on_side(names: Iterable[str]) -> list[str]:
        return [name for name in names if is_for_training(name) == (side == "train")]

    key = rng.choice(family.fields)
    kind = BY_KEY[key].kind
    names = on_side(name for name, entity in facts.by_name.items() if entity.kind == kind)
    groups = (group for group, members in facts.groups.items() if facts.by_name[members[0]].kind == kind)
    slots = {"field": key}
    if "a" in family.slots:
        slots["a"] = rng.choice(names)
    if "all" in family.slots:
        slots["all"] = ", ".join(rng.sample(names, count))
    if "group" in family.slots:
        slots["group"] = rng.choice(on_side(groups))
    if "n" in family.slots:
        slots["n"] = rng.choice(("3", "5"))
    if "limit" in family.slots:
        slots["limit"] = catalogue().limits[key]
    for slot in ("other", "third"):
        if slot in family.slots:
            taken = {BY_KEY[slots[known]].label for known in ("field", "other") if known in slots}
            slots[slot] = rng.choice([other for other in family.others if BY_KEY[other].label not in taken])
    return worded(family, slots, rng.choice(wordings or family.wordings))


def _answered(draft: Draft, split: Split, now: Facts, later: Facts) -> Question | None:
    """Answer a draft; None where there is no one answer, or a live one stays the same, or another changes."""
    if not (first := answer(draft, now)) or not (second := answer(draft, later)):
        return None
    question = Question(draft, split, first.rows, second.rows, first.pages)
    return question if question.is_live == (question.gold != question.later) else None


def _on_side(question: Question, side: str) -> bool:
    return all(is_for_training(name) == (side == "train") for name in question.entities)


def trace_of(pages: Sequence[Page], corpus: Corpus) -> Mapping[str, Any]:
    """Return what a careful human would do to see some pages, in the form of the benchmark's traces.

    Each page is searched for and clicked where the results show it; where they don't, the human goes by way of the page
    above it.
    """
    queries, results, clicks = [], {}, []
    for page in pages:
        query, url = page.query, page.address
        hits = corpus.search(query, 10)
        queries.append(query)
        shown = [{"snippet": hit.snippet, "title": hit.title, "url": hit.url} for hit in hits]
        results[query] = [{"page": 1, "results": shown}]
        origin = f"https://www.google.com/search?q={quote_plus(query)}"
        above = url.rpartition("/")[0]
        above += "/" if above.count("/") == 2 else ""  # the contents page of the site
        steps = [origin, url] if url in [hit.url for hit in hits] else [origin, above, url]
        clicks += [{"from": start, "to": end} for start, end in itertools.pairwise(steps)]
    return {"search": queries, "result": results, "click": clicks}


def write_suite(folder: Path, suite: Iterable[Question], corpus: Corpus, prefix: str = "") -> None:
    """Write the questions in the layout that GISA is published in, and ``suite.json``, our addition.

    It says for every id its family, split, number of pages, the entities that they are about and what it asks for, and
    it comes last: a folder without it is not whole.

    The traces go through the corpus; ids are the prefix with a number, or plain numbers without one.
    """
    for part in ("answer", "trace", f"snapshot/{LATER}"):
        (folder / part).mkdir(parents=True)
    lines, metadata = [], {}
    for number, question in enumerate(suite, 1):
        name = f"{prefix}{number}"
        canary = hashlib.sha256(f"factbook {name}".encode()).hexdigest()[:16]
        line = {
            "id": name if prefix else number,
            "question": encrypt(question.draft.text, canary),
            "answer_type": question.draft.family.answer_type,
            "question_type": "live" if question.is_live else "stable",
            "topic": question.topic,
            "canary": canary,
        }
        lines.append(json.dumps(line))
        metadata[name] = {
            "family": question.draft.family.name,
            "split": question.split,
            "hops": len(question.pages),
            "entities": question.entities,
            "slots": dict(question.draft.slots),
        }
        header = question.draft.header if question.draft.family.answer_type == "table" else None
        (folder / "answer" / f"{name}.csv").write_text(_as_csv(header, question.gold), encoding="utf-8")
        if question.is_live:
            (folder / "snapshot" / LATER / f"{name}.csv").write_text(_as_csv(header, question.later), encoding="utf-8")
        (folder / "trace" / f"{name}.json").write_text(json.dumps(trace_of(question.pages, corpus)), encoding="utf-8")
    (folder / "encrypted_question.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_atomic(folder / "suite.json", json.dumps(metadata, indent=1))


def encrypt(text: str, password: str) -> str:
    """Encrypt a question as the published ones are; see ``gisa.decrypt``."""
    key = itertools.cycle(hashlib.sha256(password.encode()).digest())
    return base64.b64encode(bytes(byte ^ mask for byte, mask in zip(text.encode(), key, strict=False))).decode()


def _as_csv(header: list[str] | None, rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([*([header] if header else []), *rows])
    return text.getvalue()
