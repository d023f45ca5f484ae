"""From the text of a prediction, or the bytes of a gold file, to a table: as the official script, and with care."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from src.gisa.metrics.answer_json import json_records
from src.gisa.metrics.answer_phrase import (
    tab_separated,
    unwrapped,
    without_cell_marks,
    without_list_marks,
    without_prose,
    without_spaces_in_number,
)
from src.gisa.metrics.answer_table import (
    MISSING,
    Table,
    TableError,
    distinct,
    filled_columns,
    normalised,
    read_table,
    split_records,
)

_FENCE = re.compile(
    r"(?P<mark>`{3,8}+|^~{3,8}+)(?:[ \t]*+(?P<tag>[\w.+-]*+)[ \t]*+\r?\n|tsv\s)?+"
    r"(?P<body>.*?)(?:(?P<close>(?P=mark))|\Z)",
    re.DOTALL | re.MULTILINE,
)
_THOUGHT = re.compile(r".*(?:</think(?:ing)?>|\[/THINK\]|◁/think▷)", re.DOTALL | re.IGNORECASE)
_ANSWER = re.compile(r"<(?:final[ _-]?)?answer>(.*?)(?=</?(?:final[ _-]?)?answer>|\Z)", re.DOTALL | re.IGNORECASE)
# Unicode's normal forms sort the marks above and below a letter, in a time that grows with the square of their number.
_MANY_MARKS = re.compile(r"([^\w\s\0-\x7f]{30})[^\w\s\0-\x7f]+")
_MOST_CHARS = 300_000  # that the robust scorer reads, from the end; more are no answer, and would take seconds
_WITHOUT_WIDTH = dict.fromkeys(
    [*map(ord, "\u00ad\u061c\u2060\ufeff"), *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)  # the last three: marks of the direction of writing
_FOLDED = str.maketrans(dict.fromkeys("‐‑‒–—―−", "-") | dict.fromkeys("‘’‚‛′", "'") | dict.fromkeys("“”„‟«»", '"'))


class Content(NamedTuple):
    """The part of a prediction that holds the answer.

    Attributes:
        text: What is to be read as a table.
        passed: What the official script does not look for and was found on the way: ``length`` (more than
            300,000 characters, of which the last count), ``thinking``, ``answer_block``, ``fence``, ``prose`` (around
            a table without a fence), ``boxed``, ``lead_in``.
    """

    text: str
    passed: list[str]


def official_content(prediction: str) -> str:
    """Return what the official script takes for the answer: the first fence that is closed, or else the whole text.

    A tag ``tsv`` is passed over; any other stays, as the table's first line. Blank lines are dropped.
    """
    _, _, rest = prediction.partition("```")
    body, close, _ = rest.removeprefix("tsv").lstrip().partition("```")
    return _without_blank_lines(body if close else prediction)


def official_table(prediction: str) -> Table | None:
    """Return the table of a prediction as the official script reads it; None where it finds none."""
    try:
        return read_table(official_content(prediction), "\t", header=True)
    except TableError:
        return None


def official_gold(gold: bytes, *, header: bool) -> Table:
    """Return the table of a gold file as the official script reads it: in UTF-8, or else in GBK.

    A file in neither stops that script; it is read as :func:`decode_gold` does.

    Raises:
        TableError: the bytes are no text, or are no table.
    """
    return read_table(_decoded(gold, ("utf-8", "gbk", "cp1252"))[0], ",", header=header)


def is_beyond_script(gold: bytes) -> bool:
    """Tell whether the official script cannot decode a gold file, and stops."""
    try:
        _decoded(gold, ("utf-8", "gbk"))
    except TableError:
        return True
    return False


def decode_gold(gold: bytes) -> tuple[str, str]:
    """Return the text of a gold file and its encoding: the first of UTF-8, Windows-1252 and GBK that fits.

    Raises:
        TableError: none of them does.
    """
    return _decoded(gold, ("utf-8-sig", "cp1252", "gbk"))


def _decoded(content: bytes, encodings: Sequence[str]) -> tuple[str, str]:
    for encoding in encodings:
        with suppress(UnicodeDecodeError):
            return content.decode(encoding), encoding
    raise TableError(f"the bytes are not text in any of {', '.join(encodings)}")


def robust_content(prediction: str) -> Content:
    """Return what a careful reader takes for the answer.

    That is the last ``<answer>`` block with something in it (or all that follows thinking), and in it the last fence
    with something in it, whatever its tag; one that is never closed counts where none is. Within, see ``unwrapped``.
    """
    text, passed = prediction[-_MOST_CHARS:], ["length"] if len(prediction) > _MOST_CHARS else []
    if (thought := _THOUGHT.match(text)) and text[thought.end() :].strip():
        text = text[thought.end() :]
        passed.append("thinking")
    if filled := [block for block in _ANSWER.findall(text) if block.strip()]:
        text = filled[-1]
        passed.append("answer_block")
    while fences := [fence for fence in _FENCE.finditer(text) if fence["body"].strip()]:
        last = ([fence for fence in fences if fence["close"]] or fences)[-1]
        text = last["body"]
        if (last["tag"] or "").lower() == "csv" and "\t" not in text:
            text = tab_separated(text)
        passed.append("fence")
    if "fence" not in passed and (table := without_prose(text)) != text:
        text = table
        passed.append("prose")
    text, wording = unwrapped(text, fenced="fence" in passed)
    return Content(_without_blank_lines(text), passed + wording)


def robust_answer(prediction: object, right: Table, kind: str) -> tuple[list[list[str]], list[str]]:
    """Return the records of an answer as a careful reader takes them, folded, and what was passed on the way.

    Args:
        prediction: Text of the answer; whatever else it is holds no records.
        right: The gold table, which tells where a comma parts cells.
        kind: ``item``, ``set``, ``list`` or ``table``.

    Returns:
        The records; ``Content.passed``, ``json`` or ``markdown_table`` if it is one, ``commas`` if these or semicolons
        part its cells, ``list_marks`` if its lines had any.
    """
    content = robust_content(prediction if isinstance(prediction, str) else "")
    text = folded(content.text)
    if parsed := json_records(content.text):
        return [[folded(cell) for cell in record] for record in parsed], [*content.passed, "json"]
    if markdown := markdown_records(text):
        return markdown, [*content.passed, "markdown_table"]
    if parted := _parted_by_commas(text, right, kind):
        return parted, [*content.passed, "commas"]
    records = robust_records(text, "\t")
    bare = without_list_marks(records)
    return bare, content.passed if bare == records else [*content.passed, "list_marks"]


def _parted_by_commas(text: str, right: Table, kind: str) -> list[list[str]]:
    """Return the records of a table without tabs, or of a set or list on one line, whose cells commas must part."""
    if "\t" in text:
        return []
    if kind == "table" and len(right.columns) > 1:
        records = robust_records(tab_separated(text), "\t")
        return records if all(len(record) == len(right.columns) for record in records) else []
    if kind in ("set", "list") and right.height > 1 and "\n" not in text:
        for sign in ",;":
            cells = re.split(rf"{sign}\s+(?:and\s+)?", text)
            if len(cells) > 1 and not any(sign in cell for cell in right.column(-1)):
                return [[""], *([cell] for cell in cells)]
    return []


def robust_gold(gold: bytes) -> list[list[str]]:
    """Return the records of a gold file, folded.

    Raises:
        TableError: the bytes are no text.
    """
    return robust_records(folded(decode_gold(gold)[0]), ",")


def robust_records(content: str, delimiter: str) -> list[list[str]]:
    """Split delimited text into records; where a quotation mark is never closed, all are characters like others."""
    try:
        return list(split_records(content.removeprefix("\ufeff"), delimiter))
    except TableError:
        return [line.split(delimiter) for line in content.splitlines() if line.strip()]


def markdown_records(content: str) -> list[list[str]]:
    """Return the last Markdown table as records; an empty list where there is none."""
    lines = content.split("\n")
    for number in range(len(lines) - 1, 0, -1):
        rule, head = lines[number].strip(), lines[number - 1]
        if "-" in rule and "|" in rule and "|" in head and set(rule) <= set("|-: \t"):
            end = next((at for at in range(number + 1, len(lines)) if "|" not in lines[at]), len(lines))
            return [_markdown_cells(line) for line in [head, *lines[number + 1 : end]]]
    return []


def robust_table(records: Sequence[Sequence[str]], *, header: bool) -> Table:
    """Make a table of records; short ones are filled up with empty cells, and every column has a name of its own."""
    width = max(map(len, records), default=0)
    try:
        columns = filled_columns(records, width)
    except TableError:  # too many cells
        return Table([], [], _robust_cells)
    names = [cells[0] for cells in columns] if header else [""] * width
    rows = [cells[1:] for cells in columns] if header else columns
    return Table(distinct(_robust_cells(names, width)), rows, _robust_cells)


def _robust_cells(cells: Sequence[str], count: int) -> list[str]:
    bare = map(without_cell_marks, cells[:count])
    return ["" if cell in MISSING else normalised(without_spaces_in_number(cell)) for cell in bare]


def folded(text: str) -> str:
    """Return the text in Unicode's NFKC with all dashes as ``-`` and all quotation marks straight.

    Characters without width are dropped. Of symbols or marks of other scripts than ASCII, no more than 30 in a row are
    kept.
    """
    text = text.translate(_WITHOUT_WIDTH)
    return unicodedata.normalize("NFKC", _MANY_MARKS.sub(r"\1", text)).translate(_FOLDED)


def _markdown_cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line.strip().removeprefix("|"))
    if not cells[-1].strip() and len(cells) > 1:
        cells.pop()  # behind the last bar
    return [cell.replace(r"\|", "|").strip() for cell in cells]


def _without_blank_lines(text: str) -> str:
    return "\n".join(line for line in text.split("\n") if line.strip())
