"""The embedded web: the facts as HTML pages with links, four layouts, older editions and pages that say nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from html import escape
from typing import NamedTuple
from urllib.parse import quote

from src.gisa.dataset.factbook.corpus import Corpus, Document
from src.gisa.dataset.factbook.records import BY_KEY, FIELDS, FIRST, Entity, facts_of, read_countries

_SITES = {"country": "https://atlas.example", "element": "https://elements.example"}
_OLDER_YEAR = 2022
_MAX_BACKGROUND_CHARS = 1500


class Page(NamedTuple):
    """A page of the web.

    Attributes:
        kind: Of what it is about, ``country`` or ``element``.
        name: Of the entity that it is about; the whole title of a page about several.
        section: Which of the entity's pages it is; empty for its home page.
    """

    kind: str
    name: str
    section: str = ""

    @property
    def title(self) -> str:
        """As the page and the search results show it."""
        return f"{self.name}: {self.section}" if self.section else self.name

    @property
    def address(self) -> str:
        """Where it is."""
        return f"{_SITES[self.kind]}/{in_address(f'{self.name}/{self.section}' if self.section else self.name)}"

    @property
    def query(self) -> str:
        """What is searched for to find it.

        What the page is of comes last: after a space a name has the same tokens as in a question, while at the
        beginning of a query it has to be spelled ("Nepal" as N, ep, al), from memory.
        """
        return f"{self.section} of {self.name}" if self.section else self.name


def in_address(name: str) -> str:
    """Spell a name as addresses do."""
    return quote(name.lower().replace(" ", "-"))


def page_with(name: str, key: str) -> Page:
    """Return the page of an entity that shows a field."""
    return Page(BY_KEY[key].kind, name, BY_KEY[key].section)


def page_listing(kind: str, group: str) -> Page:
    """Return the page that lists a region's countries, or a period's elements."""
    return Page(kind, f"{'Countries' if kind == 'country' else 'Chemical elements'} of {group}")


@cache
def factbook_web(day: str = FIRST) -> Corpus:
    """Return the pages as of a day.

    Raises:
        InputError: there is no snapshot of that day, or the packages with the facts cannot be fetched.
    """
    entities = [*facts_of(day).by_name.values()]
    return Corpus(render(entities, read_countries(_OLDER_YEAR), date=day, older_year=_OLDER_YEAR))


def render(entities: Sequence[Entity], older: Sequence[Entity], *, date: str, older_year: int) -> Iterator[Document]:
    """Render the whole web of one day.

    Args:
        entities: What the pages show.
        older: The same entities as an older edition had them; near-duplicates that a careful reader tells apart.
        date: The day, ``YYYY-MM-DD``.
        older_year: Year of the older edition.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for entity in entities:
        groups.setdefault((entity.kind, entity.group), []).append(entity.name)
        yield _home(entity, date)
        for section in sections_of(entity):
            yield _document(Page(entity.kind, entity.name, section), _layout(entity, section), date)
        yield _postcard(entity, date)
    for (kind, group), names in groups.items():
        links = "".join(f"<li>{_link(Page(kind, name))}</li>" for name in sorted(names))
        yield _document(page_listing(kind, group), f"<p>In alphabetical order.</p><ul>{links}</ul>", date)
    for kind, site in _SITES.items():
        links = "".join(f"<li>{_link(page_listing(kind, group))}</li>" for of, group in groups if of == kind)
        yield Document(f"{site}/", f"<title>Contents</title><h1>Contents</h1><ul>{links}</ul>", date)
    for entity in older:
        if "Economy" in sections_of(entity):
            page = Page(entity.kind, f"{entity.name} in the {older_year} edition", "Economy")
            note = f"<p>This is the edition of {older_year}. The figures have been revised since.</p>"
            yield _document(page, note + _layout(entity, "Economy"), f"{older_year}-07-01")


def sections_of(entity: Entity) -> list[str]:
    """Return the sections an entity has something to show in."""
    return list(dict.fromkeys(field.section for field in FIELDS if field.key in entity.shown))


def _home(entity: Entity, date: str) -> Document:
    pages = "".join(
        f"<li>{_link(Page(entity.kind, entity.name, section), section)}</li>" for section in sections_of(entity)
    )
    listed = _link(page_listing(entity.kind, entity.group))
    background = escape(entity.background[:_MAX_BACKGROUND_CHARS])
    body = f"<p>{background}</p><ul>{pages}</ul><p>See also: {listed}</p>"
    return _document(Page(entity.kind, entity.name), body, date)


def _postcard(entity: Entity, date: str) -> Document:
    """Render a page that mentions an entity and tells nothing of use."""
    words = " ".join(entity.background.split()[:25])
    text = f"<p>I always wanted to know more about {escape(entity.name)}. {escape(words)} ...</p><p>More next time!</p>"
    return _document(Page(entity.kind, f"Notes on {entity.name}"), text, date)


def _document(page: Page, body: str, date: str) -> Document:
    contents, title = _link(Page(page.kind, ""), "Contents"), escape(page.title)
    head = f"<html><head><title>{title}</title></head><body><nav>{contents}</nav><h1>{title}</h1>"
    return Document(page.address, f"{head}{body}<footer>As of {date}</footer></body></html>", date)


def _link(page: Page, text: str | None = None) -> str:
    return f'<a href="{page.address}">{escape(text or page.title)}</a>'


def _layout(entity: Entity, section: str) -> str:
    """Show a section's facts in one of four layouts, always the same one for the same page."""
    facts = {BY_KEY[key].label: text for key, text in entity.shown.items() if BY_KEY[key].section == section}
    layouts: tuple[Callable[[Entity, Mapping[str, str]], str], ...] = (_as_table, _as_terms, _as_bullets, _as_prose)
    digest = hashlib.sha256(f"{entity.name} {section}".encode()).digest()
    return layouts[digest[0] % len(layouts)](entity, facts)


def _as_table(entity: Entity, facts: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in facts.items())
    return f"<table>{rows}</table>"


def _as_terms(entity: Entity, facts: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{escape(text)}</dd>' for name, text in facts.items())}</dl>"


def _as_bullets(entity: Entity, facts: Mapping[str, str]) -> str:
    return f"<ul>{''.join(f'<li><b>{name}:</b> {escape(text)}</li>' for name, text in facts.items())}</ul>"


def _as_prose(entity: Entity, facts: Mapping[str, str]) -> str:
    about = escape(entity.name)
    return "".join(f"<p>For {about}, the {name} is given as {escape(text)}.</p>" for name, text in facts.items())
