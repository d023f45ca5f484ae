"""What the text of a page is put together from: lines under way, lists with their numbers, formulas and tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# Elements that say nothing to a reader of text, or only lead around the site.
_SKIPPED = frozenset(
    re.findall(
        r"\w+",
        "script style noscript template svg canvas iframe object video audio nav footer select textarea dialog "
        "datalist",
    )
)
# Elements that begin and end a line.
BLOCKS = frozenset(
    re.findall(
        r"\w+",
        "address article aside blockquote body br caption center dd details dir div dl dt fieldset figcaption figure "
        "footer form h1 h2 h3 h4 h5 h6 header hgroup hr legend li main menu nav ol p pre search section summary table "
        "tbody tfoot thead tr ul xmp",
    )
)
# Elements of a table that is built of others, by the role that these are given for screen readers (WAI-ARIA).
ROLES = dict(table="table", grid="table", rowgroup="tbody", row="tr", cell="td", gridcell="td", columnheader="th",
             rowheader="th")  # fmt: skip
_ROMAN = [(1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"),
          (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")]  # fmt: skip
_NOTE_CLASS = re.compile(r"\b(reference|footnote|noteref|fn-?ref|cite_ref|inline-template)", re.IGNORECASE)
_NOTE_MARK = re.compile(r"\[[^\[\]]{1,40}\]|[*†‡§¶#]+|\(\d{1,3}\)|\[[^\[\]]{1,12}\](?:\s*\[[^\[\]]{1,12}\])+")
_ORDINAL = re.compile(r"st|nd|rd|th|er|re|ère|ème|º|ª|TM|SM|®|™|℠")
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_SOURCE_CLASS = re.compile(r"mwe-math-mathml|katex-mathml|mjx_assistive", re.IGNORECASE)
_DRAWN_CLASS = re.compile(
    r"katex-html|mwe-math-fallback|mathjax_(preview|svg|chtml|display)\b|(?<!\S)mathjax(?!\S)|mjx-math", re.IGNORECASE
)
_DISPLAY = re.compile(r"\{\\(?:displaystyle|textstyle)\s+(.*)\}", re.DOTALL)
_MOST_COLUMNS, _MOST_ROWS = 1_000, 65_534  # that a cell may span, as the HTML standard has it


@dataclass
class Sink:
    """Text under way: whole lines, the pieces of the next one, and what is to stand before it.

    Attributes:
        drops_marks: Whether a line of nothing but dashes, bars and number signs says nothing, as around a page's texts.
        has_blocks: Whether it holds what one row of a table cannot: a heading or a table.
        has_note_link: Whether it holds a link to another place of the page.
        link_chars: How much of it is links.
    """

    lines: list[str] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    prefix: str = ""
    drops_marks: bool = False
    has_blocks: bool = False
    has_note_link: bool = False
    link_chars: int = 0

    def strike(self) -> None:
        """Begin or end what a page has struck out: between tildes, so that it does not read as valid."""
        if self.pieces[-1:] == ["~~"]:
            self.pieces.pop()
        else:
            self.pieces.append("~~")

    def end_line(self) -> None:
        """Make a line of the pieces, if there is something in them."""
        line = " ".join("".join(self.pieces).split())
        self.pieces.clear()
        if line.strip("-# |") if self.drops_marks else line:
            self.lines.append(self.prefix + line)
            self.prefix = ""

    def end_verbatim_line(self) -> None:
        """Make a line of the pieces with its spaces as they are."""
        line = self.prefix + "".join(self.pieces).rstrip()
        self.pieces.clear()
        if line.strip():
            self.lines.append(line)
            self.prefix = ""

    def joined(self) -> str:
        """Return everything on one line: with ``; `` where a new line begins something of its own."""
        self.end_line()
        text = ""
        for line in self.lines:
            line = " ".join(line.removeprefix("- ").split())
            bare = not text or text[-1] in ":;,.([-–/" or line[0] in "([.,;:)–/"
            text += f"{' ' if text else ''}{line}" if bare else f"; {line}"
        return text


@dataclass
class Listing:
    """A list of a page: whether its items are numbered, how, the next one's number and how many there were.

    Attributes:
        countdown: Of a list that counts down to 1, its place among these: its items' numbers are known at its end.
    """

    style: str = ""
    number: int = 1
    step: int = 1
    items: int = 0
    countdown: int | None = None

    def mark(self, value: int | None) -> str:
        """Return what stands before the next item, given the number that it names for itself, if any."""
        if value is not None:
            self.number, self.countdown = value, None
        number, self.number, self.items = self.number, self.number + self.step, self.items + 1
        if self.countdown is not None:
            return f"\0{self.countdown}:{self.items}\0. "
        return f"{numbered(number, self.style)}. " if self.style else "- "

    def counted_down(self, item: int) -> str:
        """Return the number of an item, counted from 1, of a list that has ended and counted down to 1."""
        return numbered(self.items + 1 - item, self.style)


def whole(text: str | None) -> int | None:
    """Read a whole number as HTML does: what follows the digits does not count."""
    digits = re.match(r"\s*([+-]?\d{1,9})", text or "")
    return int(digits[1]) if digits else None


def numbered(number: int, style: str) -> str:
    """Write the number of an item in the style of its list."""
    if style in ("a", "A") and number > 0:
        letters = ""
        while number:
            number, rest = divmod(number - 1, 26)
            letters = chr(ord(style) + rest) + letters
        return letters
    if style in ("i", "I") and 0 < number < 4000:
        roman = ""
        for value, sign in _ROMAN:
            roman += sign * (number // value)
            number %= value
        return roman if style == "I" else roman.lower()
    return str(number)


def is_note(text: str, hints: str, *, is_linked: bool) -> bool:
    """Tell whether a superscript is the mark of a footnote.

    Args:
        text: What it says.
        hints: Its class, role and id.
        is_linked: Whether it leads to another place of the page.
    """
    return is_linked or bool(_NOTE_CLASS.search(hints) or _NOTE_MARK.fullmatch(text))


def raised(tag: str, text: str, before: str) -> str:
    """Write a superscript or subscript such that it does not run into the character before it: ``10^6``, ``x_1``."""
    if not text or (tag == "sup" and _ORDINAL.fullmatch(text) and (before.isdigit() or not text[0].islower())):
        return text
    return ("^" if tag == "sup" else "_") + (f"({text})" if " " in text else text)


def is_skipped(name: str, attributes: Mapping[str, str], *, in_heading: bool) -> bool:
    """Tell whether an element, by its name and attributes, is not read: it is hidden, or says nothing.

    The source of a formula is read though it is hidden, and what shows the formula beside it is not.
    """
    kind = attributes.get("class", "")
    if name == "script" and attributes.get("type", "").startswith("math/tex"):
        return False
    if name == "button":
        return not in_heading
    if name in _SKIPPED or is_drawn(name, kind):
        return name != "img"
    hidden = attributes.get("hidden", "until-found").lower() != "until-found"
    return (hidden or bool(_HIDDEN.search(attributes.get("style", "")))) and not _SOURCE_CLASS.search(kind)


def is_drawn(name: str, kind: str) -> bool:
    """Tell whether an element, by its name and class, shows a formula whose source stands beside it.

    MathJax 3 draws in ``mjx-math``, and has the source beside it in the element of the class that its second version
    draws in.
    """
    return name == "mjx-math" or (name != "mjx-container" and _DRAWN_CLASS.search(kind) is not None)


def of_tex(tex: str) -> str:
    """Write TeX as text."""
    tex = " ".join(tex.split())
    display = _DISPLAY.fullmatch(tex)
    return f"${(display[1] if display else tex).strip()}$"


class Formula:
    """Takes the events of a parser within a ``math`` element."""

    def __init__(self, attributes: Mapping[str, str]) -> None:
        """Begin; ``alttext`` of its attributes holds TeX, too."""
        self._tex = attributes.get("alttext", "").strip()
        self._open: list[tuple[str, Mapping[str, str], list[str]]] = [("math", attributes, [])]

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """Begin an element."""
        self._open.append((tag, attributes, []))

    def data(self, text: str) -> None:
        """Take text."""
        if text.strip():
            self._open[-1][2].append(" ".join(text.split()))

    def end(self) -> None:
        """End the innermost element."""
        tag, attributes, parts = self._open.pop()
        if tag == "annotation" and "tex" in attributes.get("encoding", "").lower():
            self._tex = "".join(parts) or self._tex
        elif tag not in ("annotation", "annotation-xml"):
            self._open[-1][2].append(_on_one_line(tag, parts))

    def text(self) -> str:
        """Return all of it, once every element within has ended."""
        return of_tex(self._tex) if self._tex else _on_one_line("math", self._open[0][2])


def _on_one_line(tag: str, parts: Sequence[str]) -> str:
    """Write an element of MathML, given its parts."""
    group = [part if len(part) < 2 or part.isalnum() else f"({part})" for part in parts]
    if tag in ("msup", "mover") and len(parts) == 2:
        return f"{group[0]}^{group[1]}"
    if tag in ("msub", "munder") and len(parts) == 2:
        return f"{parts[0]}_{group[1]}"
    if tag in ("msubsup", "munderover") and len(parts) == 3:
        return f"{parts[0]}_{group[1]}^{group[2]}"
    if tag == "mfrac" and len(parts) == 2:
        return f"{group[0]}/{group[1]}"
    if tag == "mroot" and len(parts) == 2:
        return f"root({parts[1]}, {parts[0]})"
    if tag == "msqrt":
        return f"sqrt({''.join(parts)})"
    if tag in ("mtable", "mtr", "mlabeledtr"):
        return ("; " if tag == "mtable" else ", ").join(parts)
    return "".join(parts)


class _Cell(NamedTuple):
    """A cell: its text on one line, or the lines that cannot be one; the columns and rows that it spans."""

    text: str
    lines: Sequence[str] | None
    columns: int
    rows: int


class PageTable:
    """Cells as they come.

    Attributes:
        chars: How much text they hold.
    """

    def __init__(self) -> None:
        self.chars = 0
        self._rows: list[list[_Cell]] = []
        self._groups: set[int] = set()  # rows that begin a group; no cell reaches across

    def begin_row(self) -> None:
        """Let the next cells be a new row."""
        self._rows.append([])

    def end_group(self) -> None:
        """Let the next row begin a new group, as ``thead`` and ``tbody`` are."""
        self._groups.add(len(self._rows))

    def add(self, text: str, lines: Sequence[str] | None, columns: int | None, rows: int | None) -> None:
        """Append a cell to the row.

        Args:
            text: What it says, on one line.
            lines: The same as lines, where it holds headings or tables, and so is no cell but a part of the page.
            columns: How many it spans; None for one.
            rows: Likewise; 0 is all that are left of the group.
        """
        if not self._rows:
            self.begin_row()
        self.chars += len(text)
        span = _MOST_ROWS if rows == 0 else rows or 1
        self._rows[-1].append(
            _Cell(text, lines, min(max(columns or 1, 1), _MOST_COLUMNS), min(max(span, 1), _MOST_ROWS))
        )

    def lines(self, max_chars: int) -> Iterator[str]:
        """Yield the rows that say something; a row with a part of the page is laid out line by line.

        Args:
            max_chars: Where to stop, roughly: a few cells that span many rows and columns can ask for gigabytes.
        """
        # A row of one cell often spans more columns than there are.
        width = max((sum(cell.columns for cell in row) for row in self._rows if len(row) > 1), default=1)
        above: dict[int, list[tuple[int, str]]] = {}  # by column, where cells from above end, and what they say
        for number, row in enumerate(self._rows):
            if number in self._groups:
                above.clear()
            texts: list[str] = []
            for cell in row:
                _take(above, number, texts)
                text = "" if cell.lines else cell.text
                for _ in range(cell.columns if len(row) > 1 else min(cell.columns, width)):
                    if cell.rows > 1:
                        above.setdefault(len(texts), []).append((number + cell.rows, text))
                    texts.append(text)
            reached = [place for place in [*above] if _at(above, number, place) is not None]
            _take(above, number, texts, until=max(reached, default=0))
            if any(cell.lines for cell in row):
                for cell in row:
                    yield from cell.lines or [cell.text]
                continue
            line = " ".join(" | ".join(texts).split())
            max_chars -= len(line)
            if line.strip("| "):
                yield line
            if max_chars < 0:
                return


def _take(above: dict[int, list[tuple[int, str]]], row: int, texts: list[str], *, until: int = -1) -> None:
    """Put the cells from above into the places that they reach down to, and nothing into those between."""
    while (text := _at(above, row, len(texts))) is not None or len(texts) < until:
        texts.append(text or "")


def _at(above: dict[int, list[tuple[int, str]]], row: int, place: int) -> str | None:
    """Return what stands in a place from above: of two that overlap, the later one."""
    if place not in above:
        return None
    above[place] = reaching = [(end, text) for end, text in above[place] if end > row]
    if not reaching:
        del above[place]
        return None
    return reaching[-1][1]
