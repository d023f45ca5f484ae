"""What stands around and between the parts of an answer in a model's own words, for the robust scorer."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from contextlib import suppress

from src.gisa.metrics.answer_table import TableError, split_records

# "The answer is X", "Final answer: X", "**Answers** are:"
_LEAD_IN = re.compile(
    r"\b(?P<noun>answers?)\b(?: to (?:the|this|that|your) question)?[ *_]*+"
    r"(?:(?:is|are|would be)\b[ *_]*+:?|[:：])[ *_]*+",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[a-z\d)\]%\"'*]{2})(?<!Mrs)(?<!Prof)(?<!Gen)(?<!Capt)[.!]\s+(?=[\"'(A-Z])")
_ABBREVIATION = re.compile(r"(?:\b[^\W\d_]\.){2,9}\Z|\b(?:inc|ltd|co|corp|jr|sr|st|etc|bros|no)\.\Z", re.IGNORECASE)
_AROUND_TABLE = re.compile(
    r"(?:[^\t|\"]*?(?::[ *\r]*+\n|\n[ \r]*+\n))?(?P<table>(?:[^\n\t]*+\t[^\n]*+(?:\n|\Z))++)(?:[ \r]*+\n[^\t|]*+)?"
)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*+\{")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|operatorname|emph)\s*+\{([^{}]*+)\}")
_TEX_SPACE = re.compile(r"\\[,;:!> ]|\\q?quad\b|~")
_TEX_SIGN = re.compile(r"\\([%$&#_{}])")
_AROUND_CELL = "* \t\n\v\f\r"
_BULLET = re.compile(r"\s*+[-*•‣◦·+–]\s++")
_NUMBER = re.compile(r"\s*+\(?(\d{1,4})[.)]\s++")
_SPACED_NUMBER = re.compile(r"[+-]?[$€£]?\d{1,3}(?: \d{3})++(?:\.\d++)?\s*%?")


def unwrapped(text: str, *, fenced: bool) -> tuple[str, list[str]]:
    r"""Take an answer out of ``\boxed{}`` and from behind ``The answer is``.

    Args:
        text: The answer, with what a model says around it.
        fenced: Whether it stood in a fence, where several lines are a table and no sentence.

    Returns:
        What is left, and what it was taken out of: ``boxed``, ``lead_in``.
    """
    passed = []
    boxed = _boxed(text)
    if boxed is not None:
        text, passed = boxed, ["boxed"]
    if "\t" not in text and "|" not in text and not (fenced and "\n" in text.strip()):
        behind = _behind_lead_in(text)
        if behind is not None:
            text = behind
            passed.append("lead_in")
    return text, passed


def _boxed(text: str) -> str | None:
    r"""Return what the last ``\boxed{}`` with something in it holds, its TeX undone."""
    for start in reversed([box.end() for box in _BOXED.finditer(text)][-20:]):
        depth, end = 1, start
        for brace in re.finditer(r"(?<!\\)[{}]", text[start : start + 100_000]):
            depth += 1 if brace[0] == "{" else -1
            end = start + brace.start()
            if depth == 0:
                break
        inner = text[start : end if depth == 0 else len(text)].replace("{,}", ",")
        while (bare := _TEXT_COMMAND.sub(r"\1", inner)) != inner:
            inner = bare
        inner = _TEX_SIGN.sub(r"\1", _TEX_SPACE.sub(" ", inner)).strip().removeprefix("$").removesuffix("$")
        if inner.strip():
            return inner
    return None


def _behind_lead_in(text: str) -> str | None:
    """Return what stands behind the last ``The answer is`` that something stands behind."""
    for lead in reversed(list(_LEAD_IN.finditer(text))[-20:]):
        line, _, rest = text[lead.end() :].partition("\n")
        if line.strip() and (lead["noun"].lower() == "answer" or not rest.strip()):
            return _one_sentence(line)
        lines = f"{line}\n{rest}".strip()
        if lines:
            return re.split(r"\n[ \t]*\n", lines, maxsplit=1)[0]
    return None


def _one_sentence(line: str) -> str:
    """Return the first sentence of a line without what ends it and what sets it off."""
    sentence = _SENTENCE_END.split(line.strip(), maxsplit=1)[0].strip().strip("*").strip()
    if sentence.endswith(".") and not _ABBREVIATION.search(sentence):
        sentence = sentence[:-1]
    sentence = sentence.strip("* ")
    bare = sentence.strip("`")
    return sentence if "`" in bare else bare


def tab_separated(text: str) -> str:
    """Write values separated by commas, or else by semicolons, as tab-separated ones.

    One column, whose cells may hold commas, stays as it is.
    """
    for sign in ",;":
        with suppress(TableError):
            records = list(split_records(text.strip("\n"), sign))
            if records and len(records[0]) > 1:
                written = io.StringIO()
                csv.writer(written, delimiter="\t", lineterminator="\n").writerows(
                    [cell.strip() if '"' not in cell else cell for cell in record] for record in records
                )
                return written.getvalue()
    return text


def without_prose(text: str) -> str:
    """Return a table of lines with tabs without the words before it, that a colon or blank line ends, and behind it."""
    around = _AROUND_TABLE.fullmatch(text)
    return around["table"] if around else text


def without_list_marks(records: Sequence[Sequence[str]]) -> list[list[str]]:
    """Take bullets, or numbers from 1 on, off the lines of a list of one column; its first line may be a header."""
    lines = [record[0] for record in records if len(record) == 1]
    if len(lines) < len(records) or not lines:
        return [list(record) for record in records]
    for first in (0, 1):
        items = lines[first:]
        numbers = [mark[1] for line in items if (mark := _NUMBER.match(line))]
        if numbers == [str(number) for number in range(1, len(items) + 1)] and len(items) > 1:
            return [[line] for line in lines[:first]] + [[_NUMBER.sub("", line, count=1)] for line in items]
        if items and all(map(_BULLET.match, items)):
            return [[line] for line in lines[:first]] + [[_BULLET.sub("", line, count=1)] for line in items]
    return [list(record) for record in records]


def without_cell_marks(cell: str) -> str:
    """Return a cell without white space, asterisks and quotation marks around it, and a full stop at its end."""
    cell = cell.strip(_AROUND_CELL)
    if cell[-1:] == "." and cell[-2:] != "..":
        cell = cell[:-1].rstrip(_AROUND_CELL)
    if len(cell) > 2 and cell[0] == cell[-1] and cell[0] in "`'\"":
        cell = cell[1:-1].strip(_AROUND_CELL)
    return cell


def without_spaces_in_number(cell: str) -> str:
    """Return a cell without the spaces that part a number's thousands, as in ``1 234.50``."""
    return cell.replace(" ", "") if is_spaced_number(cell) else cell


def is_spaced_number(cell: str) -> bool:
    """Tell whether a cell is a number with spaces between its thousands."""
    return _SPACED_NUMBER.fullmatch(cell.strip()) is not None
