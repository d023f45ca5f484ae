"""Why an answer is wrong (Figure 6 of the GISA paper, arXiv 2602.08543): one cause a question, where rules can tell."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from src.gisa.metrics.answer_diff import Cell, Comparison, compare
from src.gisa.metrics.behaviour import canonical_url, holds, searchable

Cause = Literal[
    "instruction_following", "link_use", "conflict_resolution", "extraction", "query_formulation", "misunderstanding"
]
CAUSES: tuple[Cause, ...] = get_args(Cause)
PUBLISHED_SHARES: dict[Cause, float] = {
    "instruction_following": 31.7,
    "link_use": 17.5,
    "conflict_resolution": 17.5,
    "extraction": 15.9,
    "query_formulation": 14.3,
    "misunderstanding": 3.2,
}
"""Percent of the paper's sample of errors, its Figure 6; all are multiples of 1/63."""
MEANINGS: dict[Cause, str] = {
    "instruction_following": "the content is there, and not in the form, unit, order or columns that were asked for",
    "link_use": "a page that holds it was listed, and not opened or not readable",
    "conflict_resolution": "pages said different things, and the wrong one was taken",
    "extraction": "it stood in what was read, and is not in the answer",
    "query_formulation": "no query brought up a page that holds it",
    "misunderstanding": "the answer is of another kind than what was asked for",
}
# Of causes that explain as many wrong cells, the one that comes first on the way to the answer counts.
_ON_THE_WAY: tuple[Cause, ...] = (
    *("query_formulation", "link_use", "extraction", "conflict_resolution"),
    *("instruction_following", "misunderstanding"),
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_MOST_CELLS = 400  # of an answer that are looked for


@dataclass(frozen=True)
class Way:
    """How an agent came to its answer, as far as it concerns what it could know.

    Attributes:
        queries: Of its searches.
        listed: Addresses in the results of its searches.
        snippets: Texts of these results, one a search, in the form that ``searchable`` gives.
        opened: Addresses of each visit that brought something.
        pages: What it read there, one a visit, in the same form.
    """

    queries: Sequence[str] = ()
    listed: Sequence[str] = ()
    snippets: Sequence[str] = ()
    opened: Sequence[Sequence[str]] = ()
    pages: Sequence[str] = ()


class ErrorLabel(NamedTuple):
    """Why a question was not answered rightly.

    Attributes:
        cause: One of ``CAUSES``; None where rules cannot tell.
        why: What tells so, in a sentence without the answer.
    """

    cause: Cause | None
    why: str


@dataclass(frozen=True)
class WrongAnswer:
    """An answer whose official exact match is 0.

    Attributes:
        prediction: Its text; anything else is no answer.
        gold: Content of the gold file.
        answer_type: ``item``, ``set``, ``list`` or ``table``.
        robust_match: Whether a careful reader would call it right.
        outcome: How the episode ended, where that is known.
        way: None for an answer without a record of how it came about.
        human_urls: Pages that a human visited for it; empty where that is not known.
    """

    prediction: object
    gold: bytes
    answer_type: str
    robust_match: bool = False
    outcome: str | None = None
    way: Way | None = None
    human_urls: Collection[str] = field(default=())


def label_error(wrong: WrongAnswer) -> ErrorLabel:
    """Tell why an answer is wrong.

    The form is judged first: an answer that a careful reader would call right, or that has all cells in another order
    or shape. Else each cell that the answer lacks has a cause by where it can be found: in the answer in another form;
    in what the agent read, beside what it took instead, or not; on a page that was listed; nowhere. The most frequent
    cause counts. A short cell such as ``7`` may be found by chance.

    Source: names of the causes by GISA (arXiv 2602.08543), Figure 6, which people assigned; the rules are ours.
    """
    if wrong.robust_match:
        return ErrorLabel("instruction_following", "right in content, and not in the form that was asked for")
    if wrong.outcome in ("infra_error", "refused", "truncated"):
        return ErrorLabel(None, f"the episode ended without an answer: {wrong.outcome}")
    if wrong.outcome == "format_error":
        return ErrorLabel("instruction_following", "an answer in no form that can be read")
    compared = compare(wrong.prediction, wrong.gold, wrong.answer_type)
    cells = [cell for row in compared.rows for cell in row.cells if cell.right.strip()]
    lacking = [cell for cell in cells if cell.status in ("missing", "changed")][:_MOST_CELLS]
    answered = isinstance(wrong.prediction, str) and any(row.given is not None for row in compared.rows)
    if answered and (label := _by_shape(compared, cells, lacking)):
        return label
    if not lacking:
        return ErrorLabel(None, "all is there, and more than was asked for" if answered else "nothing to compare with")
    causes = Counter(found for cell in lacking if (found := _cause(cell, wrong)))
    if not answered and not causes.keys() - {"extraction"} and causes:
        return ErrorLabel("instruction_following", "no answer, though all of it stood in what was read")
    if not causes:
        return ErrorLabel(None, "nothing is known of what could have been read")
    cause = min(_ON_THE_WAY, key=lambda cause: (-causes[cause], _ON_THE_WAY.index(cause)))
    return ErrorLabel(cause, f"{causes[cause]} of {len(lacking)} wrong cells: {MEANINGS[cause]}")


def _by_shape(compared: Comparison, cells: Sequence[Cell], lacking: Sequence[Cell]) -> ErrorLabel | None:
    """Judge the form of an answer by itself."""
    given = {_plain(cell.given) for row in compared.rows for cell in row.cells if cell.status in ("extra", "changed")}
    if any(cell.status == "moved" for cell in cells) and not lacking:
        return ErrorLabel("instruction_following", "all entries, in another order")
    if lacking and all(_plain(cell.right) in given for cell in lacking):
        return ErrorLabel("instruction_following", "all cells, in other rows or columns")
    changed = [cell for cell in lacking if cell.status == "changed" and cell.given.strip()]
    other_kind = all(_is_number(cell.given) != _is_number(cell.right) for cell in changed)
    alike = any(_is_same_otherwise(cell.given, cell.right) for cell in changed)
    if len(changed) == len(cells) and other_kind and not alike:
        return ErrorLabel("misunderstanding", "words where numbers are asked for, or the other way round")
    return None


def _cause(cell: Cell, wrong: WrongAnswer) -> Cause | None:
    """Tell why an answer lacks a cell."""
    if cell.status == "changed" and _is_same_otherwise(cell.given, cell.right):
        return "instruction_following"
    if wrong.way is None:
        return None
    way, right, taken = wrong.way, searchable(cell.right), searchable(cell.given)
    texts = [*way.pages, *way.snippets]
    with_right = [at for at, text in enumerate(texts) if holds(text, right)]
    if with_right:
        elsewhere = taken and any(holds(text, taken) for at, text in enumerate(texts) if at not in with_right)
        return "conflict_resolution" if elsewhere else "extraction"
    human, listed = ({canonical_url(url) for url in urls} for urls in (wrong.human_urls, way.listed))
    opened = {canonical_url(url) for urls in way.opened for url in urls}
    if human & listed - opened:
        return "link_use"
    if human and human <= opened:
        return "extraction"  # of pages that hold it, the wrong part was read
    if not way.queries or human:
        return "query_formulation"
    return "link_use" if listed and not opened else None


def _plain(text: str) -> str:
    return searchable(text).replace(" ", "")


def _is_number(text: str) -> bool:
    return re.search(r"[^\W\d_]{2}", text) is None and _NUMBER.search(text) is not None


def _is_same_otherwise(given: str, right: str) -> bool:
    """Tell whether two cells say the same in other words: one holds the other, or all their numbers are equal."""
    mine, theirs = searchable(given), searchable(right)
    if not mine or not theirs:
        return False
    numbers = [sorted(map(float, _NUMBER.findall(text))) for text in (mine, theirs)]
    return holds(mine, theirs) or holds(theirs, mine) or (bool(numbers[0]) and numbers[0] == numbers[1])
