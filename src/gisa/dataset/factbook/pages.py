"""The embedded web: the facts as HTML pages with links, four layouts, older editions and pages that say nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from urllib.parse import quote

from src.gisa.dataset.factbook.corpus import Document
from src.gisa.dataset.factbook.records import BY_KEY, FIELDS, Entity

_SITES = {"country": "https://atlas.example", "element": "https://elements.example"}
_MAX_BACKGROUND_CHARS = 1500


def group_title(kind: str, group: str) -> str:
    """Return the title of the page that lists a region's countries, or a period's elements."""
    return f"{'Countries' if kind == 'country' else 'Chemical elements'} of {group}"


def section_title(name: str, section: str) -> str:
    """Return the title of one page of an entity."""
    return f"{name}: {section}"


def address_of(kind: str, title: str) -> str:
    """Return where a page is."""
    return f"{_SITES[kind]}/{quote(title.lower().replace(': ', '/').replace(' ', '-'))}"


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
            yield _page(entity.kind, section_title(entity.name, section), _layout(entity, section), date)
        yield _postcard(entity, date)
    for (kind, group), names in groups.items():
        links = "".join(f"<li>{_link(kind, name)}</li>" for name in sorted(names))
        yield _page(kind, group_title(kind, group), f"<p>In alphabetical order.</p><ul>{links}</ul>", date)
    for kind, site in _SITES.items():
        links = "".join(f"<li>{_link(kind, group_title(kind, group))}</li>" for of, group in groups if of == kind)
        yield Document(f"{site}/", f"<title>Contents</title><h1>Contents</h1><ul>{links}</ul>", date)
    for entity in older:
        if "Economy" in sections_of(entity):
            title = section_title(f"{entity.name} in the {older_year} edition", "Economy")
            note = f"<p>This is the edition of {older_year}. The figures have been revised since.</p>"
            yield _page(entity.kind, title, note + _layout(entity, "Economy"), f"{older_year}-07-01")


def sections_of(entity: Entity) -> list[str]:
    """Return the sections an entity has something to show in."""
    return list(dict.fromkeys(field.section for field in FIELDS if field.key in entity.shown))


def _home(entity: Entity, date: str) -> Document:
    pages = "".join(
        f"<li>{_link(entity.kind, section_title(entity.name, section), section)}</li>"
        for section in sections_of(entity)
    )
    listed = _link(entity.kind, group_title(entity.kind, entity.group))
    background = escape(entity.background[:_MAX_BACKGROUND_CHARS])
    return _page(entity.kind, entity.name, f"<p>{background}</p><ul>{pages}</ul><p>See also: {listed}</p>", date)


def _postcard(entity: Entity, date: str) -> Document:
    """Render a page that mentions an entity and tells nothing of use."""
    words = " ".join(entity.background.split()[:25])
    text = f"<p>I always wanted to know more about {escape(entity.name)}. {escape(words)} ...</p><p>More next time!</p>"
    return _page(entity.kind, f"Notes on {entity.name}", text, date)


def _page(kind: str, title: str, body: str, date: str) -> Document:
    head = f"<html><head><title>{escape(title)}</title></head><body><nav>{_link(kind, '', 'Contents')}</nav>"
    return Document(
        address_of(kind, title),
        f"{head}<h1>{escape(title)}</h1>{body}<footer>As of {date}</footer></body></html>",
        date,
    )


def _link(kind: str, title: str, text: str | None = None) -> str:
    return f'<a href="{address_of(kind, title)}">{escape(text or title)}</a>'


def _layout(entity: Entity, section: str) -> str:
    """Show a section's facts in one of four layouts, always the same one for the same page."""
    facts = {BY_KEY[key].label: text for key, text in entity.shown.items() if BY_KEY[key].section == section}
    layouts: tuple[Callable[[Entity, Mapping[str, str]], str], ...] = (_as_table, _as_terms, _as_bullets, _as_prose)
    digest = hashlib.sha256(f"{entity.name} {section}".encode()).digest()
    return layouts[digest[0] % len(layouts)](entity, facts)


def _as_table(entity: Entity, facts: Mapping[str, str]) -> str:
    return (
        f"<table>{''.join(f'<tr><th>{name}</th><td>{escape(text)}</td></tr>' for name, text in facts.items())}</table>"
    )


def _as_terms(entity: Entity, facts: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{escape(text)}</dd>' for name, text in facts.items())}</dl>"


def _as_bullets(entity: Entity, facts: Mapping[str, str]) -> str:
    return f"<ul>{''.join(f'<li><b>{name}:</b> {escape(text)}</li>' for name, text in facts.items())}</ul>"


def _as_prose(entity: Entity, facts: Mapping[str, str]) -> str:
    about = escape(entity.name)
    return "".join(f"<p>For {about}, the {name} is given as {escape(text)}.</p>" for name, text in facts.items())
