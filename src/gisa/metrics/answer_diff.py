"""An answer and its gold table cell by cell, as the robust scorer reads them; for people to look at, not for scores."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from src.gisa.metrics.answer_table import Table, TableError
from src.gisa.metrics.answer_text import robust_answer, robust_gold, robust_table
from src.gisa.metrics.answers import as_answered
from src.gisa.metrics.citations import plain_answer

Status = Literal["same", "moved", "changed", "missing", "extra", "blank"]
Key = tuple[str, ...]
_MOST_ROWS = 400  # of each side that are compared; more are no answer, and nobody reads them
_MOST_COLUMNS = 60
_MOST_LIKENED = 200  # rows of each side without an equal one among which the most similar are looked for


class Cell(NamedTuple):
    """A cell or the name of a column, of both sides.

    Attributes:
        status: ``moved`` is the same in another place of a list; ``missing`` is in the gold table only, ``extra`` in
            the answer only, ``blank`` in neither, where an extra row meets a missing column.
        given: As the answer has it; empty where it is missing.
        right: As the gold table has it; empty where it is extra.
    """

    status: Status
    given: str
    right: str


class Row(NamedTuple):
    """A row with its places in the answer and in the gold table, counted from 0; None where it is not there."""

    given: int | None
    right: int | None
    cells: list[Cell]


class Comparison(NamedTuple):
    """Both tables, one over the other.

    Attributes:
        columns: Their names; empty ones where there are none.
        rows: In the order of the gold table; an extra row follows the one it follows in the answer.
        left_out: How many rows of either side, and columns, are not compared.
    """

    columns: list[Cell]
    rows: list[Row]
    left_out: int


class _Side(NamedTuple):
    """A table as written and as compared."""

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    table: Table

    def cell(self, row: int | None, column: int | None) -> tuple[str, str] | None:
        """Return a cell as written and as compared; None where it is not there."""
        if row is None or column is None:
            return None
        cells = self.rows[row]
        return cells[column] if column < len(cells) else "", self.table.column(column)[row]

    def name(self, column: int | None) -> str:
        return "" if column is None or column >= len(self.names) else self.names[column]


def compare(prediction: object, gold: bytes, answer_type: str) -> Comparison:
    """Lay an answer over the gold table, both as in ``answers.robust_score``; never raises.

    Columns of a table are paired by name, others from the last one on, which is the one that counts. Rows are paired if
    they are equal; of what is left, rows of a table with the most equal cells, entries of a list that stand between the
    same neighbours.
    """
    kind, plain = answer_type.lower(), plain_answer(prediction, gold)
    try:
        gold_records = robust_gold(gold)
    except TableError:
        gold_records = []
    right = _side(gold_records, kind)
    records = robust_answer(plain, right.table, kind)[0]
    table, has_header = as_answered(records, right.table, kind)
    has_header &= table.height < len(records)
    given = _Side(records[0] if has_header else (), records[1:] if has_header else records, table)
    pairs = _paired_columns(given.table, right.table, kind)
    columns = pairs[:_MOST_COLUMNS] if kind == "table" else pairs[-_MOST_COLUMNS:]
    left_out = sum(max(0, side.table.height - _MOST_ROWS) for side in (given, right)) + len(pairs) - len(columns)
    both = [(mine, theirs) for mine, theirs in columns if mine is not None and theirs is not None]
    compared = both if kind == "table" else both[-1:]
    my_keys = _keys(given.table, [mine for mine, _ in compared])
    their_keys = _keys(right.table, [theirs for _, theirs in compared])
    partner, moved = _paired_rows(my_keys, their_keys, kind) if both else ({}, set())
    rows = [
        Row(
            mine,
            theirs,
            [
                _cell(given.cell(mine, column), right.cell(theirs, its), moved=theirs in moved)
                for column, its in columns
            ],
        )
        for mine, theirs in _in_order(partner, len(my_keys), len(their_keys))
    ]
    heads = [
        Cell("extra" if theirs is None else "missing" if mine is None else "same", given.name(mine), right.name(theirs))
        for mine, theirs in columns
    ]
    return Comparison(heads, rows, left_out)


def _side(records: list[list[str]], kind: str) -> _Side:
    header = kind == "table"
    return _Side(
        records[0] if header and records else (),
        records[1:] if header else records,
        robust_table(records, header=header),
    )


def _keys(table: Table, columns: Sequence[int]) -> list[Key]:
    cells = [table.column(column)[:_MOST_ROWS] for column in columns]
    return [tuple(column[row] for column in cells) for row in range(min(table.height, _MOST_ROWS))]


def _paired_columns(given: Table, right: Table, kind: str) -> list[tuple[int | None, int | None]]:
    """Return places in the answer and in the gold table, in the order of the latter; what is extra comes last."""
    mine, theirs = len(given.columns), len(right.columns)
    if kind != "table":
        shift = mine - theirs
        pairs = [(at + shift if at + shift >= 0 else None, at) for at in range(theirs)]
        return [*((at, None) for at in range(shift)), *pairs]
    partners = [given.columns.index(name) if name in given.columns else None for name in right.columns]
    return [*zip(partners, range(theirs), strict=True), *((at, None) for at in range(mine) if at not in partners)]


def _paired_rows(given: Sequence[Key], right: Sequence[Key], kind: str) -> tuple[dict[int, int], set[int]]:
    """Return the answer's row for rows of the gold table, and which of these stand elsewhere in a list."""
    if kind == "item":
        return ({0: 0} if given and right else {}), set()
    if kind != "list":
        partner = _equal(given, range(len(given)), right, range(len(right)))
        return partner | (_alike(given, right, partner) if kind == "table" else {}), set()
    operations = difflib.SequenceMatcher(None, right, given, autojunk=False).get_opcodes()
    partner = {
        theirs: mine
        for operation, start, end, at, to in operations
        if operation == "equal"
        for theirs, mine in zip(range(start, end), range(at, to), strict=True)
    }
    moved = _equal(given, _rest(given, partner.values()), right, _rest(right, partner))
    partner |= moved
    used = set(partner.values())
    for _, start, end, at, to in operations:
        free = [theirs for theirs in range(start, end) if theirs not in partner]
        partner |= dict(zip(free, [mine for mine in range(at, to) if mine not in used], strict=False))
    return partner, set(moved)


def _rest(rows: Sequence[Key], used: Iterable[int]) -> list[int]:
    taken = set(used)
    return [row for row in range(len(rows)) if row not in taken]


def _equal(given: Sequence[Key], mine: Sequence[int], right: Sequence[Key], theirs: Sequence[int]) -> dict[int, int]:
    """Pair equal rows among some of both sides, each once, the first ones first."""
    waiting: dict[Key, list[int]] = {}
    for row in reversed(mine):
        waiting.setdefault(given[row], []).append(row)
    return {row: waiting[right[row]].pop() for row in theirs if waiting.get(right[row])}


def _alike(given: Sequence[Key], right: Sequence[Key], partner: dict[int, int]) -> dict[int, int]:
    """Pair rows that have cells in common, the most similar first."""
    mine, theirs = _rest(given, partner.values())[:_MOST_LIKENED], _rest(right, partner)[:_MOST_LIKENED]
    # A first cell mostly names the row, but so may any other.
    scores = [(-sum(map(str.__eq__, given[row], right[other])), other, row) for other in theirs for row in mine]
    pairs: dict[int, int] = {}
    for score, other, row in sorted(scores):
        if score and other not in pairs and row not in pairs.values():
            pairs[other] = row
    return pairs


def _in_order(partner: dict[int, int], mine: int, theirs: int) -> list[tuple[int | None, int | None]]:
    """Return pairs of places: the gold table's rows in order, extra ones behind the row they follow in the answer."""
    partner_of = {given: right for right, given in partner.items()}
    order: list[tuple[float, int, int | None, int | None]] = [
        (right, -1, partner.get(right), right) for right in range(theirs)
    ]
    anchor = -1
    for given in range(mine):
        anchor = partner_of.get(given, anchor)
        if given not in partner_of:
            order.append((anchor, given, given, None))
    return [(given, right) for *_, given, right in sorted(order, key=lambda entry: entry[:2])]


def _cell(given: tuple[str, str] | None, right: tuple[str, str] | None, *, moved: bool) -> Cell:
    """Compare two cells, each as written and as compared."""
    status: Status
    if given is None or right is None:
        status = "extra" if given else "missing" if right else "blank"
    elif given[1] == right[1]:
        status = "moved" if moved else "same"
    else:
        status = "changed"
    return Cell(status, given[0] if given else "", right[0] if right else "")
