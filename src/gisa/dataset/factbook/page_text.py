"""From HTML to the text that a model reads: what is visible, with its tables, lists, links and formulas in shape."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urldefrag, urljoin

from src.gisa.dataset.factbook.page_parts import (
    BLOCKS,
    ROLES,
    Formula,
    Listing,
    PageTable,
    Sink,
    is_drawn,
    is_note,
    is_skipped,
    of_tex,
    raised,
    whole,
)

_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_PLACE = re.compile("\0(\\d+):(\\d+)\0")  # of an item in a list that counts down, whose length is known at its end
_LINK_MARKS = re.compile(r"^- |\[|\]\([^)]*\)")
_WITHOUT_WIDTH = dict.fromkeys(  # where a word may be parted or must not be; marks of the direction of writing
    [*map(ord, "\u00ad\u061c\u200b\u200e\u200f\u2060\ufeff"), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)
_HEADING = re.compile(r"#{1,6} (.*)")
_MOST_NESTED = 8  # superscripts, tables or asides within one another; at every one their text is copied
_MOST_CELL_CHARS = 3_000  # of a table; what is longer lays out the page
_MOST_LINK_LINES = 4  # more are no link but a part of the page that somebody forgot to close


@dataclass(frozen=True)
class ReadablePage:
    """What a page says: its title, on one line and perhaps empty, and its visible text."""

    title: str
    text: str


def read_html(html: str, url: str, *, max_chars: int = 1_000_000) -> ReadablePage:
    """Turn HTML into text, without what is hidden or only leads around the site.

    A table becomes one line a row with `` | `` between the cells, a cell that spans several is repeated in each; links
    become ``[text](absolute address)``, superscripts ``10^6``, subscripts ``x_1``, formulas their TeX between ``$``,
    pictures ``[image: text in their place]``; marks of footnotes are dropped.

    Args:
        html: The page, of any quality.
        url: Its address, which its relative links start from.
        max_chars: Where to stop reading, roughly; bounds the time that a hostile page takes.
    """
    from lxml import etree  # 60 ms that --help must not wait for

    renderer = _Renderer(url, max_chars)
    # Events instead of a tree: a tree ends at a depth of 2,048, and its attributes take the square of their number.
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, target=renderer)
    try:
        etree.fromstring(html.replace("\0", "").encode("utf-8", "replace"), parser)
    except etree.LxmlError:  # what was read of it so far stands
        renderer.close()
    return renderer.page()


class _Renderer:
    """Takes the events of a parser: start and end of elements, and text."""

    def __init__(self, url: str, max_chars: int) -> None:
        self._url = self._base = url
        self._left = max_chars
        self._skipping = 0  # depth within an element that is not read
        self._ends: list[Callable[[], None]] = []  # what is to be done at the end of each open element
        self._sinks = [Sink(drops_marks=True)]
        self._lists: list[Listing] = []
        self._countdowns: list[Listing] = []
        self._tables: list[PageTable] = []
        self._formula: Formula | None = None
        self._formula_before = False  # the picture that follows shows it again
        self._verbatim = self._in_code = self._in_heading = self._superscripts = self._asides = 0
        self._links_made = self._note_links = 0
        self._title = ""

    @property
    def _sink(self) -> Sink:
        return self._sinks[-1]

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """See ``lxml``'s parser targets."""
        if self._skipping or self._left < 0:
            self._skipping += 1
            return
        name = tag.lower()
        name = name if name == "a" else ROLES.get(attributes.get("role", ""), name)
        if self._formula is not None:
            self._formula.start(name, attributes)
            self._ends.append(self._formula.end)
            return
        if name in BLOCKS:
            self._end_line()
        if is_skipped(name, attributes, in_heading=bool(self._in_heading)):
            self._skipping = 1
            return
        self._ends.append(self._opened(name, attributes))

    def end(self, tag: str) -> None:
        """See ``lxml``'s parser targets."""
        if self._skipping:
            self._skipping -= 1
        elif self._ends:
            self._ends.pop()()

    def data(self, text: str) -> None:
        """See ``lxml``'s parser targets."""
        if self._skipping or self._left < 0:
            return
        self._left -= len(text)
        text = text.translate(_WITHOUT_WIDTH)
        self._formula_before &= text.isspace()
        if self._formula is not None:
            self._formula.data(text)
        elif self._verbatim:
            for number, line in enumerate(text.split("\n")):
                if number:
                    self._sink.end_verbatim_line()
                self._sink.pieces.append(line)
        else:
            self._sink.pieces.append(text.replace("\n", " "))

    def close(self) -> None:
        """See ``lxml``'s parser targets; elements that are still open end here."""
        self._skipping = 0
        while self._ends:
            self._ends.pop()()

    def page(self) -> ReadablePage:
        """Return what was read."""
        sink = self._sinks[0]
        sink.end_line()
        return ReadablePage(self._title, _PLACE.sub(self._place, "\n".join(sink.lines)))

    def _opened(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        """Begin an element and return what is to be done at its end."""
        if opens := _OPENERS.get(name):
            return opens(self, name, attributes)
        return self._end_line if name in BLOCKS else _nothing

    def _end_line(self) -> None:
        if self._verbatim:
            self._sink.end_verbatim_line()
        else:
            self._sink.end_line()

    def _heading(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        sink = self._sink
        sink.prefix, sink.has_blocks = _HEADINGS[name], True
        self._in_heading += 1

        def end() -> None:
            self._end_line()
            self._in_heading -= 1
            sink.prefix = ""

        return end

    def _list(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        counts_down = name == "ol" and "reversed" in attributes
        style = (attributes.get("type") or "1") if name == "ol" else ""
        start = whole(attributes.get("start"))
        listing = Listing(style, 1 if start is None else start, -1 if counts_down else 1)
        if counts_down and start is None:
            listing.countdown = len(self._countdowns)
            self._countdowns.append(listing)
        self._lists.append(listing)

        def end() -> None:
            self._end_line()
            self._lists.pop()

        return end

    def _item(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        listing = self._lists[-1] if self._lists else Listing()
        sink = self._sink
        sink.prefix = listing.mark(whole(attributes.get("value")))

        def end() -> None:
            self._end_line()
            sink.prefix = ""

        return end

    def _place(self, mark: re.Match[str]) -> str:
        return self._countdowns[int(mark[1])].counted_down(int(mark[2]))

    def _pre(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        is_code = name == "code"
        self._verbatim, self._in_code = self._verbatim + (not is_code), self._in_code + is_code

        def end() -> None:
            if not is_code:
                self._end_line()
            self._verbatim, self._in_code = self._verbatim - (not is_code), self._in_code - is_code

        return end

    def _link(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        sink, made = self._sink, self._links_made
        lines, pieces, prefix = len(sink.lines), len(sink.pieces), sink.prefix
        href = attributes.get("href", "")
        leads_to_note = "#" in href and (href.startswith("#") or self._address(href) == urldefrag(self._url)[0])
        self._note_links += leads_to_note
        sink.has_note_link |= leads_to_note

        def end() -> None:
            self._note_links -= leads_to_note
            grown = len(sink.lines) > lines
            parts = [*sink.lines[lines:], "".join(sink.pieces[0 if grown else pieces :])]
            text = " ".join(" ".join(parts).removeprefix(prefix if grown else "").split())
            text = text or " ".join((attributes.get("aria-label") or attributes.get("title", "")).split())
            sink.link_chars += len(text)
            target = self._target(href)
            if not text or not target or made != self._links_made or (self._verbatim and (grown or self._in_code)):
                return  # leads nowhere, or there is a link in it already
            self._links_made += 1
            if grown and (pieces or len(parts) > _MOST_LINK_LINES):  # it is a part of the page rather than a link
                sink.pieces.append(f" ({target})")
                return
            del sink.lines[lines:], sink.pieces[0 if grown else pieces :]
            sink.prefix = prefix if grown else sink.prefix
            picture = re.fullmatch(r"\[image: ([^\]]*)\]", text)
            sink.pieces.append(f"[{picture[1] if picture else text}]({target})")

        return end

    def _address(self, href: str) -> str:
        """Return the address that a link leads to, without its fragment; empty for none."""
        with suppress(ValueError):
            return urldefrag(urljoin(self._base, href.strip()))[0].replace(" ", "%20")
        return ""

    def _target(self, href: str) -> str | None:
        """Return the address that a link to another page leads to."""
        target = self._address(href) if href else ""
        is_other = target.lower().startswith(("http://", "https://")) and target != urldefrag(self._url)[0]
        return target if is_other else None

    def _place_of_link(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        """Show a frame or a part of a picture, which have no text of their own, as a link."""
        keys = ("alt", "aria-label", "title", "name")
        text = next((text for key in keys if (text := " ".join(attributes.get(key, "").split()))), name)
        if target := self._target(attributes.get("src" if name == "frame" else "href", "")):
            self._sink.pieces.append(f"[{text}]({target})")
        return self._end_line

    def _raised(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        if self._superscripts == _MOST_NESTED:
            return _nothing
        self._superscripts += 1
        before = ("".join(self._sink.pieces[-1:]) or " ")[-1]
        hints = " ".join(attributes.get(key, "") for key in ("class", "role", "id"))

        def end(sink: Sink) -> None:
            self._superscripts -= 1
            text, is_linked = sink.joined(), sink.has_note_link or self._note_links > 0
            if name == "sub" or not is_note(text, hints, is_linked=is_linked):
                self._sink.pieces.append(raised(name, text, before))

        return self._in_sink(end)

    def _struck(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        self._sink.strike()
        return lambda: self._sink.strike()

    def _in_sink(self, end: Callable[[Sink], None]) -> Callable[[], None]:
        """Collect what is in an element apart, and hand it over at its end."""
        self._sinks.append(Sink())
        return lambda: end(self._sinks.pop())

    def _table(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        if len(self._tables) == _MOST_NESTED:
            return self._end_line
        table = PageTable()
        self._tables.append(table)

        def end() -> None:
            self._end_line()
            self._tables.pop()
            rows = list(table.lines(2 * table.chars + max(0, self._left)))
            self._left -= max(0, sum(map(len, rows)) - table.chars)
            self._sink.lines.extend(rows)
            self._sink.has_blocks = True

        return end

    def _row_or_group(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        if not self._tables:
            return self._end_line
        table = self._tables[-1]
        if name == "tr":
            table.begin_row()
            return self._end_line
        table.end_group()
        return table.end_group

    def _cell(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        if not self._tables:
            self._sink.pieces.extend([" | "] if self._sink.pieces else [])
            return _nothing
        table = self._tables[-1]
        columns, rows = (whole(attributes.get(key, attributes.get(f"aria-{key}"))) for key in ("colspan", "rowspan"))

        def end(sink: Sink) -> None:
            sink.end_line()
            if sink.has_blocks and len(sink.lines) == 1 and (heading := _HEADING.match(sink.lines[0])):
                sink.lines, sink.has_blocks = [heading[1]], False  # names a row or column
            lines = sink.lines if sink.has_blocks or sum(map(len, sink.lines)) > _MOST_CELL_CHARS else None
            table.add("" if lines else sink.joined(), lines, columns, rows)

        return self._in_sink(end)

    def _aside(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        if self._asides == _MOST_NESTED:
            return self._end_line
        self._asides += 1

        def end(sink: Sink) -> None:
            self._asides -= 1
            sink.end_line()
            visible = sum(len(_LINK_MARKS.sub("", line)) for line in sink.lines)
            is_infobox = "infobox" in f"{attributes.get('class', '')} {attributes.get('id', '')}".lower()
            if is_infobox or 2 * sink.link_chars <= visible:  # the rest leads around the site
                self._sink.lines.extend(sink.lines)

        return self._in_sink(end)

    def _image(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        text = " ".join(attributes.get("alt", "").split())
        if is_drawn(name, attributes.get("class", "")) or text.startswith("{\\displaystyle"):
            if text and not self._formula_before:
                self._sink.pieces.append(of_tex(text))
            self._formula_before = False
        elif text:
            self._sink.pieces.append(f"[image: {text}]")
        return _nothing

    def _math(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        formula = self._formula = Formula(attributes)

        def end() -> None:
            self._formula = None
            self._sink.pieces.append(formula.text())
            self._formula_before = True

        return end

    def _script(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        return self._in_sink(lambda sink: self._sink.pieces.append(of_tex("".join(sink.pieces))))

    def _page_title(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        def end(sink: Sink) -> None:
            self._title = self._title or sink.joined()

        return self._in_sink(end)

    def _base_address(self, name: str, attributes: Mapping[str, str]) -> Callable[[], None]:
        if self._base == self._url and attributes.get("href"):
            with suppress(ValueError):
                self._base = urljoin(self._url, attributes["href"].strip())
        return _nothing


_OPENERS: dict[str, Callable[[_Renderer, str, Mapping[str, str]], Callable[[], None]]] = {
    **dict.fromkeys(_HEADINGS, _Renderer._heading),
    **dict.fromkeys(("ul", "ol", "menu", "dir"), _Renderer._list),
    **dict.fromkeys(("pre", "xmp", "listing", "code"), _Renderer._pre),
    **dict.fromkeys(("sup", "sub"), _Renderer._raised),
    **dict.fromkeys(("del", "s", "strike"), _Renderer._struck),
    **dict.fromkeys(("tr", "thead", "tbody", "tfoot"), _Renderer._row_or_group),
    **dict.fromkeys(("td", "th"), _Renderer._cell),
    "li": _Renderer._item,
    "a": _Renderer._link,
    **dict.fromkeys(("frame", "area"), _Renderer._place_of_link),
    "table": _Renderer._table,
    "aside": _Renderer._aside,
    "img": _Renderer._image,
    "math": _Renderer._math,
    "script": _Renderer._script,
    "title": _Renderer._page_title,
    "base": _Renderer._base_address,
}


def _nothing() -> None:
    pass
