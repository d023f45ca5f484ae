"""What the text of a page is put together from: lines under way, and lists with their numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# Elements that say nothing to a reader of text, or only lead around the site.
SKIPPED = frozenset(
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
