"""The embedded benchmark: questions, answers and traces in GISA's layout, over a web of facts that needs no network."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

from src.gisa.dataset.factbook.corpus import Corpus
from src.gisa.dataset.factbook.drills import Practice, make_practice
from src.gisa.dataset.factbook.pages import address_of, render
from src.gisa.dataset.factbook.questions import (
    Question,
    Records,
    Split,
    make_set,
    make_suite,
    trace_of,
)
from src.gisa.dataset.factbook.records import Entity, read_countries, read_elements
from src.gisa.dataset.gisa import Gisa
from src.launch.errors import InputError
from src.launch.storage import cache_folder, locked, write_atomic, writing_to_cache

# Day of each snapshot, and the year whose figures are the newest ones then.
DAYS = {"2024-07-01": 2023, "2025-07-01": 2024}
FIRST, LATER = DAYS
_OLDER_YEAR = 2022
_SEED = 1
# Kind of practice to its lines for each question of a type, and to those in a block, which then has about as many
# tokens as the demonstration of a question.
_LINES = {
    **{"comparisons": (9, 48), "names": (1, 48), "shared": (1, 10), "notes": (1, 10), "signs": (2, 48)},
    **{"plans": (2, 24), "tables": (1, 10)},
}
_LAYOUT = "34"  # to be raised with every change of pages, forms or draws: the cache then makes a new folder


def factbook(snapshot: str | None = None) -> Gisa:
    """Return the suite; the first call makes it in the cache folder.

    Args:
        snapshot: ``2025-07-01`` for the later answers of live questions, None for those of 2024-07-01.

    Raises:
        InputError: the packages with the facts cannot be fetched, or there is no such snapshot.
    """
    return Gisa(str(_written("suite", lambda now, later: make_suite(now, later, _SEED))), snapshot, show_questions=True)


def factbook_set(split: Split, per_type: int = 420, max_pages: int = 4, snapshot: str | None = None) -> Gisa:
    """Return a set of further questions in more wordings; the first call makes it in the cache folder.

    Args:
        split: ``train`` to learn from; ``entities``, known forms about unseen entities; ``forms``, unseen forms.
        per_type: Questions of each type of answer, as far as there are so many.
        max_pages: Most pages that a question takes.
        snapshot: As of the suite.

    Raises:
        InputError: as for the suite.
    """

    def draw(now: Records, later: Records) -> list[Question]:
        return make_set(split, now, later, per_type=per_type, max_pages=max_pages, seed=_SEED)

    root = _written(f"{split}_{per_type}_{max_pages}", draw, f"{split}-", per_type if split == "train" else 0)
    return Gisa(str(root), snapshot, show_questions=True)


def _written(
    name: str, draw: Callable[[Records, Records], list[Question]], prefix: str = "", practised: int = 0
) -> Path:
    """Return a folder of the cache with the questions that are drawn, and practice for so many of each type."""
    folder = cache_folder() / "factbook" / _LAYOUT / name
    with locked(folder.parent), writing_to_cache():
        if not (folder / "suite.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            questions = draw(Records(_entities(FIRST)), Records(_entities(LATER)))
            write_suite(folder, questions, factbook_web(FIRST), prefix, _practice(practised))
    return folder


def _practice(per_type: int) -> list[Practice]:
    """Draw lines to practise, in blocks of a kind."""
    counts = {kind: count * per_type for kind, (count, _) in _LINES.items()}
    kinds = make_practice(Records(_entities(FIRST)), **counts, seed=_SEED)
    sizes = [size for _, size in _LINES.values()]
    return [
        kind[start : start + size]
        for kind, size in zip(kinds, sizes, strict=True)
        for start in range(0, len(kind), size)
    ]


@cache
def factbook_web(day: str = FIRST) -> Corpus:
    """Return the pages as of a day.

    Raises:
        InputError: there is no snapshot of that day, or the packages with the facts cannot be fetched.
    """
    if day not in DAYS:
        raise InputError(f"The embedded web has no snapshot of {day}; there are: {', '.join(DAYS)}.")
    older = read_countries(_OLDER_YEAR)
    return Corpus(render(_entities(day), older, date=day, older_year=_OLDER_YEAR))


@cache
def _entities(day: str) -> tuple[Entity, ...]:
    return (*read_countries(DAYS[day]), *read_elements())


def write_suite(
    folder: Path,
    suite: Iterable[Question],
    corpus: Corpus,
    prefix: str = "",
    practice: Sequence[Practice] = (),
) -> None:
    """Write the questions in the layout that GISA is published in, and ``suite.json``, our addition.

    It says for every id its form, split, number of pages, the entities that they are about, what a demonstration calls
    them instead, what it asks for and what to note after a page, by its address, or before the first, and it comes
    last: a folder without it is not whole.

    Args:
        folder: Is made.
        suite: The questions.
        corpus: The web that the traces go through.
        prefix: Of the ids, which are otherwise plain numbers.
        practice: Blocks of lines for ``practice.json``, without which there is no such file; see ``make_practice``.
    """
    for part in ("answer", "trace", f"snapshot/{LATER}"):
        (folder / part).mkdir(parents=True)
    lines, about = [], {}
    for number, question in enumerate(suite, 1):
        name = f"{prefix}{number}"
        canary = hashlib.sha256(f"factbook {name}".encode()).hexdigest()[:16]
        lines.append(
            json.dumps(
                {
                    "id": name if prefix else number,
                    "question": encrypt(question.draft.text, canary),
                    "answer_type": question.draft.form.answer_type,
                    "question_type": "live" if question.is_live else "stable",
                    "topic": question.topic,
                    "canary": canary,
                }
            )
        )
        about[name] = {
            "form": question.draft.form.name,
            "split": question.split,
            "hops": len(question.pages),
            "entities": question.entities,
            "slots": dict(question.draft.slots),
            "renamed": dict(question.renamed),
            "notes": {address_of(*page) if page[1] else "": lines for page, lines in question.notes.items()},
        }
        header = _header(question)
        (folder / "answer" / f"{name}.csv").write_text(_as_csv(header, question.gold), encoding="utf-8")
        if question.is_live:
            (folder / "snapshot" / LATER / f"{name}.csv").write_text(_as_csv(header, question.later), encoding="utf-8")
        (folder / "trace" / f"{name}.json").write_text(json.dumps(trace_of(question.pages, corpus)), encoding="utf-8")
    (folder / "encrypted_question.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if practice:
        write_atomic(folder / "practice.json", json.dumps(practice, indent=1))
    write_atomic(folder / "suite.json", json.dumps(about, indent=1))


def encrypt(text: str, password: str) -> str:
    """Encrypt a question as the published ones are; see ``gisa.decrypt``."""
    key = itertools.cycle(hashlib.sha256(password.encode()).digest())
    return base64.b64encode(bytes(byte ^ mask for byte, mask in zip(text.encode(), key, strict=False))).decode()


def _header(question: Question) -> list[str] | None:
    form = question.draft.form
    return form.columns(question.draft.slots) if form.answer_type == "table" else None


def _as_csv(header: list[str] | None, rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([*([header] if header else []), *rows])
    return text.getvalue()
