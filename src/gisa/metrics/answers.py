"""Scores of a GISA answer: bit for bit those of the official script, and those a careful reader would give."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from src.gisa.metrics.answer_phrase import is_spaced_number, without_cell_marks
from src.gisa.metrics.answer_table import MISSING, Table, TableError, normalised
from src.gisa.metrics.answer_text import (
    decode_gold,
    folded,
    is_beyond_script,
    official_content,
    official_gold,
    official_table,
    robust_answer,
    robust_content,
    robust_gold,
    robust_records,
    robust_table,
)
from src.gisa.metrics.citations import plain_answer

Score = dict[str, Any]
METRICS = {
    "item": ("item_em",),
    "set": ("set_precision", "set_recall", "set_f1"),
    "list": ("list_content_f1", "list_order_score"),
    "table": tuple(f"table_{part}_{name}" for part in ("row", "item") for name in ("f1", "precision", "recall")),
}
F1 = {"item": "item_em", "set": "set_f1", "list": "list_content_f1", "table": "table_item_f1"}
"""The one figure a question that stands for its F1 where questions of all types are averaged."""
# Why the official and the robust score of an answer may differ.
PARITY_FLAGS = {
    "csv_path": "the official scorer takes a text that ends in .csv for the path of a file",
    "gold_unreadable": "the official scorer cannot read the gold file",
    "length": "only the official scorer reads more than the last 300,000 characters",
    "thinking": "only the robust scorer passes over what stands before the end of thinking",
    "answer_block": "only the robust scorer looks for the last <answer> block",
    "fence": "the official scorer reads the first closed fence, and a tag other than tsv as part of the answer",
    "prose": "only the robust scorer passes over words before and behind a table that no fence holds",
    "boxed": "only the robust scorer looks into \\boxed{}",
    "lead_in": "only the robust scorer looks behind a phrase such as `The answer is`",
    "json": "only the robust scorer reads JSON",
    "markdown_table": "only the robust scorer reads Markdown tables",
    "commas": "only the robust scorer parts cells at commas or semicolons where the gold answer has several",
    "unreadable": "the official scorer finds no table in the text",
    "ragged_rows": "the official scorer gives up, or loses the first columns, where rows are longer than the header",
    "list_marks": "only the robust scorer takes bullets and numbers off the lines of a list",
    "no_header": "the official scorer takes the first line for a header, which here is part of the answer",
    "citations": "only the robust scorer leaves marks and addresses of citations out of cells",
    "names": "only the robust scorer compares the names of several columns for an exact match, and drops asterisks",
    "repeated_names": "the official scorer mixes up columns that share a name",
    "row_order": "only the official scorer wants a table's rows in the order of the gold answer",
    "column_order": "only the official scorer wants a table's columns in the order of the gold answer",
    "columns": "the official exact match is one of all columns, or of a set's first, and the robust one of the last",
    "folding": "only the robust scorer folds Unicode's variants of characters, and spaces within numbers",
    "cell_marks": "only the robust scorer leaves out full stops, and asterisks and quotation marks around cells",
    "autojunk": "the official scorer drops frequent elements of lists from 200 on, the robust one rows from 10,000 on",
    "gold_encoding": "the official scorer reads a gold file that is not UTF-8 as GBK, the robust one as Windows-1252",
    "missing_values": "in some columns of numbers, the official scorer does not take N/A for an empty cell",
}
_OTHER_PARTS = frozenset(("thinking", "answer_block", "length", "prose", "boxed", "lead_in"))
_KEPT = frozenset(map(normalised, MISSING)) - {""}  # forms of missing values that were not taken for such
_ROWS_IN_ORDER = 10_000  # of a list, for the robust scorer; more are no answer, and matching them takes seconds


class Fault(StrEnum):
    """Why the official script stops at a question; here the question scores 0."""

    NOT_TEXT = "not_text"
    CSV_PATH = "csv_path"
    GOLD_UNREADABLE = "gold_unreadable"


class AnswerScore(NamedTuple):
    """Both scores of one answer.

    Attributes:
        official: See :func:`official_score`.
        robust: See :func:`robust_score`.
        fault: Why the official script could not have scored it, if so.
        parity_flags: Why the two scores differ, see ``PARITY_FLAGS``; where they do not, empty, or that the official
            script cannot read the gold file.
    """

    official: Score
    robust: Score
    fault: Fault | None
    parity_flags: list[str]


class _Reading(NamedTuple):
    """A score and what it was computed from."""

    score: Score
    given: Table | None
    right: Table | None
    fault: Fault | None = None
    traits: Sequence[str] = ()


def official_score(prediction: object, gold: bytes, answer_type: str) -> Score:
    """Score an answer as the official script does, its quirks included; never raises.

    Where that script stops, see ``Fault``, the score is 0.

    Source: GISA (arXiv 2602.08543); the official script (RUC-NLPIR/GISA, commit 12f6150).

    Args:
        prediction: Text of the answer; whatever else it is scores 0.
        gold: Content of the gold CSV file; only that of a table has a header row.
        answer_type: ``item``, ``set``, ``list`` or ``table``, in any case; others are scored as items.

    Returns:
        The metrics of the type (see ``METRICS``) and ``global_em``, all in [0, 1], and the type as ``question_type``.
    """
    return _official(prediction, gold, answer_type).score


def robust_score(prediction: object, gold: bytes, answer_type: str) -> Score:
    """Score an answer as a careful reader would; never raises.

    Arguments and keys are those of :func:`official_score`; ``PARITY_FLAGS`` lists the differences.
    """
    return _robust(prediction, gold, answer_type).score


def score_answer(prediction: object, gold: bytes, answer_type: str) -> AnswerScore:
    """Score an answer both ways and say why the scores differ; arguments as in :func:`official_score`."""
    official, robust = _official(prediction, gold, answer_type), _robust(prediction, gold, answer_type)
    flags = [] if official.score == robust.score else _parity_flags(prediction, gold, official, robust)
    if "gold_unreadable" not in flags and (official.fault == Fault.GOLD_UNREADABLE or is_beyond_script(gold)):
        flags.append("gold_unreadable")
    return AnswerScore(official.score, robust.score, official.fault, flags)


def official_summary(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Average scores as the official script does.

    Args:
        rows: One result of :func:`official_score` a question; those without a prediction are zeros, not left out.

    Returns:
        ``overall_global_em``, not rounded; for each type, the most frequent first, ``num_samples`` and
        ``overall_<metric>``, rounded to 4 decimals.

    Raises:
        ValueError: there are no rows.
    """
    scores = list(rows)
    if not scores:
        raise ValueError("there are no rows; a mean needs at least one question")
    summary: dict[str, Any] = {"overall_global_em": sum(score["global_em"] for score in scores) / len(scores)}
    for answer_type, count in Counter(score["question_type"] for score in scores).most_common():
        same = [score for score in scores if score["question_type"] == answer_type]
        names = [name for name in same[0] if name != "question_type"]
        means = {f"overall_{name}": _rounded_mean([score[name] for score in same]) for name in names}
        summary[answer_type] = {"num_samples": count, **means}
    return summary


def _rounded_mean(values: Sequence[float]) -> float:
    """Round a mean to 4 decimals, with pandas' compensated sum and NumPy's rounding, which decide ties.

    Since 3.1 pandas compensates no more where rows come sorted by group; scores stay those of all versions before.
    """
    total = compensation = 0.0
    for value in values:
        corrected = value - compensation
        raised = total + corrected
        compensation = raised - total - corrected
        total = raised
    return float(np.round(total / len(values), 4))


def _zeros(answer_type: str) -> Score:
    names = METRICS.get(answer_type.lower(), METRICS["item"])
    return dict.fromkeys((*names, "global_em"), 0.0) | {"question_type": answer_type}


def _official(prediction: object, gold: bytes, answer_type: str) -> _Reading:
    zeros, kind = _zeros(answer_type), answer_type.lower()
    if not isinstance(prediction, str):
        return _Reading(zeros, None, None, Fault.NOT_TEXT)
    if prediction.endswith(".csv"):
        return _Reading(zeros, None, None, Fault.CSV_PATH)
    try:
        right = official_gold(gold, header=kind == "table")
    except TableError:
        return _Reading(zeros, None, None, Fault.GOLD_UNREADABLE)
    given = official_table(prediction)
    if given is None:
        return _Reading(zeros, None, right)
    exact = set(given.column(0)) == set(right.column(0)) if kind == "set" else given.has_cells_of(right)
    metrics = _metrics(given, right, kind, autojunk=True) if given.height else {}
    return _Reading(zeros | metrics | {"global_em": int(exact)}, given, right)


def _robust(prediction: object, gold: bytes, answer_type: str) -> _Reading:
    zeros, kind = _zeros(answer_type), answer_type.lower()
    plain = plain_answer(prediction, gold)
    try:
        right = robust_table(robust_gold(gold), header=kind == "table")
    except TableError:
        right = robust_table([], header=False)
    records, traits = robust_answer(plain, right, kind)
    traits = traits if plain == prediction else [*traits, "citations"]
    given, has_header = as_answered(records, right, kind)
    if not given.columns or not right.columns:
        return _Reading(zeros, given, right, None, traits)
    traits = traits if has_header else [*traits, "no_header"]
    if kind == "table":
        comparable = given.height == right.height and sorted(given.columns) == sorted(right.columns)
        exact = comparable and Counter(_rows_by_name(given)) == Counter(_rows_by_name(right))
    elif kind == "set":
        exact = set(given.column(-1)) == set(right.column(-1))
    elif kind == "list":
        exact = given.column(-1) == right.column(-1)
    else:
        exact = given.height == right.height and list(map("".join, given.rows)) == list(map("".join, right.rows))
    metrics = _metrics(given, right, kind, autojunk=False) if given.height and right.height else {}
    return _Reading(zeros | metrics | {"global_em": int(exact)}, given, right, None, traits)


def as_answered(records: Sequence[Sequence[str]], right: Table, kind: str) -> tuple[Table, bool]:
    """Return the table that a careful reader takes records for, and whether their first one is a header.

    The names of a table without a header, and of one of a single column, are those of the gold table.
    """
    table = robust_table(records, header=kind == "table")
    if not table.columns or not right.columns:
        return table, True
    if kind != "table":
        has_header = not has_no_header(table, right)
        return table.without_first_row() if has_header else table, has_header
    if len(table.columns) != len(right.columns):
        return table, True
    bare = robust_table(records, header=False)
    is_row = not set(table.columns) & set(right.columns) and tuple(bare.first_row()) in set(right.rows)
    if is_row or len(table.columns) == 1:
        table = (bare if is_row else table).renamed(right.columns)
    return table, not is_row


def has_no_header(given: Table, right: Table) -> bool:
    """Tell whether the first line of an answer that is no table is part of the answer, for a careful reader.

    An answer of one line has no header; nor has one whose first line is a right answer that the others lack.
    """
    first, cells = given.first_row()[-1], right.column(-1)
    return given.height == 1 or given.column(-1)[1:].count(first) < cells.count(first)


def _metrics(given: Table, right: Table, kind: str, *, autojunk: bool) -> dict[str, float]:
    """Return all metrics but ``global_em`` of two tables; ``given`` has rows."""
    if kind == "set":
        parts = _precision_recall_f1(Counter(set(given.column(-1))), Counter(set(right.column(-1))))
        return {f"set_{name}": value for name, value in parts.items()}
    if kind == "list":
        mine, theirs = given.column(-1), right.column(-1)
        content = _precision_recall_f1(Counter(mine), Counter(theirs))["f1"]
        matcher = difflib.SequenceMatcher(None, theirs, mine if autojunk else mine[:_ROWS_IN_ORDER], autojunk)
        order = 2.0 * sum(block.size for block in matcher.get_matching_blocks()) / (len(mine) + len(theirs))
        return {"list_content_f1": round(content, 4), "list_order_score": round(order, 4)}
    if kind == "table":
        names = set(given.columns)
        common = [name for name in right.columns if name in names]
        rows = [Counter(_distinct_rows(table, common)) if common else Counter() for table in (given, right)]
        items = [_items(table, set(common)) for table in (given, right)]
        scores = {"row": _precision_recall_f1(*rows), "item": _precision_recall_f1(*items)}
        return {f"table_{part}_{name}": value for part, values in scores.items() for name, value in values.items()}
    return {"item_em": int("".join(given.first_row()) == "".join(right.first_row()))}


def _precision_recall_f1(given: Counter[Any], right: Counter[Any]) -> dict[str, float]:
    hits, answers, needed = (given & right).total(), given.total(), right.total()
    precision = hits / answers if answers else 0.0
    recall = hits / needed if needed else 0.0
    f1 = 2 * (precision * recall) / (precision + recall) if hits else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def _distinct_rows(table: Table, names: Sequence[str]) -> set[tuple[str, ...]]:
    """Return the rows of some columns; a name stands for all columns that bear it."""
    columns = [column for name in names for column, other in enumerate(table.columns) if other == name]
    return set(zip(*map(table.column, columns), strict=True))


def _items(table: Table, common: Collection[str]) -> Counter[tuple[str, str]]:
    """Count the pairs of column and cell; columns that share a name count with that name for each pair of them.

    Columns that the other table lacks have no pair in common with it: they count under one pair, for the total.
    """
    shared = Counter(table.columns)
    items: Counter[tuple[str, str]] = Counter()
    for column, name in enumerate(table.columns):
        if name not in common:
            items[name, ""] += table.height if shared[name] == 1 else shared[name]
        elif shared[name] == 1:
            items.update((name, cell) for cell in table.column(column))
        else:
            items[name, name] += shared[name]
    return items


def _rows_by_name(table: Table) -> list[tuple[str, ...]]:
    """Return the rows with their cells in the order of the columns' names."""
    columns = sorted(range(len(table.columns)), key=table.columns.__getitem__)
    return [tuple(row[column] for column in columns) for row in table.rows]


def _parity_flags(prediction: object, gold: bytes, official: _Reading, robust: _Reading) -> list[str]:
    """Return the keys of ``PARITY_FLAGS`` whose condition holds, given that the scores differ.

    Where the two scorers have read different parts of the prediction, nothing further can be told.
    """
    text = prediction if isinstance(prediction, str) else ""
    content = official_content(text)
    other_part = content.strip() != robust_content(text).text.strip()
    reading = {
        "csv_path": official.fault == Fault.CSV_PATH,
        "gold_unreadable": official.fault == Fault.GOLD_UNREADABLE,
        "length": "length" in robust.traits,
        "thinking": other_part and "thinking" in robust.traits,
        "answer_block": other_part and "answer_block" in robust.traits,
        "fence": other_part and ("fence" in robust.traits or not _OTHER_PARTS & set(robust.traits)),
        **{
            trait: trait in robust.traits for trait in ("prose", "boxed", "lead_in", "json", "markdown_table", "commas")
        },
        "unreadable": not official.fault and official.given is None,
    }
    if any(reading.values()):
        return [flag for flag, holds in reading.items() if holds]
    assert official.given
    assert official.right
    given, right, kind = official.given, official.right, official.score["question_type"].lower()
    mine, theirs = _rows_by_name(given), _rows_by_name(right)
    gold_text, encoding = decode_gold(gold)
    records = robust_records(content, "\t"), robust_records(gold_text, ",")
    scoring = {
        "ragged_rows": any(len(record) > len(lines[0]) for lines in records for record in lines),
        "list_marks": "list_marks" in robust.traits,
        "no_header": "no_header" in robust.traits,
        "citations": "citations" in robust.traits,
        "names": kind == "table" and sorted(given.columns) != sorted(right.columns),
        "repeated_names": any(len(set(table.columns)) < len(table.columns) for table in (given, right)),
        "row_order": kind == "table" and mine != theirs and Counter(mine) == Counter(theirs),
        "column_order": given.columns != right.columns and sorted(given.columns) == sorted(right.columns),
        "columns": kind != "table" and max(len(given.columns), len(right.columns)) > 1,
        "folding": any(folded(part) != part for part in (content, gold_text))
        or any(is_spaced_number(cell) for lines in records for record in lines for cell in record),
        "cell_marks": any(
            normalised(without_cell_marks(cell)) != normalised(cell)
            for lines in records
            for record in lines
            for cell in record
        ),
        "autojunk": kind == "list" and given.height >= 200,
        "gold_encoding": encoding != "utf-8-sig",
        "missing_values": not _KEPT.isdisjoint(cell for row in (*given.rows, *right.rows) for cell in row),
    }
    return [flag for flag, holds in scoring.items() if holds]
