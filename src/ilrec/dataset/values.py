"""What a cell of a user's file says: an id, a title, a text, a timestamp, or nothing."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from src.launch.lines import whole_number

# Spellings of absence that programs leave in text files; a cell of spaces is absent, too.
ABSENT = frozenset({"", "nan", "NaN", "None", "null", "NULL", "<NA>"})
# Neighbouring whole numbers beyond this are one and the same binary float.
_EXACT = 2**53
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(Z|[+-]\d\d:?\d\d)?)?")
_NUMBERS = "numbers"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_ENTITY = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|\w+);")
_ELEMENTS = (
    "a|abbr|address|article|aside|b|big|blockquote|body|br|button|center|cite|code|col|colgroup|dd|del|div|dl|dt|em|"
    "figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|label|li|link|map|meta|nobr|noscript|"
    "object|ol|option|p|param|pre|q|s|script|section|select|small|span|strike|strong|style|sub|sup|table|tbody|td|"
    "textarea|tfoot|th|thead|title|tr|tt|u|ul|video|wbr"
)
_TAG = re.compile(
    rf"""<!--.*?-->|</?(?:{_ELEMENTS})(?:\s+[\w:-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+))*\s*/?>""",
    re.IGNORECASE | re.DOTALL,
)


def identifier(value: Any, what: str, absent: Collection[str] = ABSENT) -> str:
    """Return the id of a user or an item, one spelling for each.

    Spaces around it do not count, and 5, 5.0 and "5.0" are one: a column with gaps is written as floats.

    Args:
        value: The cell.
        what: ``user`` or ``item``, for the message.
        absent: Spellings that stand for no value.

    Raises:
        ValueError: there is no value, or none that can be an id.
    """
    if type(value) is str and value.isalnum() and value not in absent:
        return value  # most of them, and there may be millions
    if isinstance(value, bytes):
        value = value.decode(errors="surrogateescape")
    if isinstance(value, str):
        text = value.strip()
        if not text or text in absent:
            raise ValueError(f"no {what} ({what}={value!r})")
        if text.endswith(".0") and text[:-2].lstrip("-").isdecimal():
            return text[:-2]
        if not text.isprintable() and _CONTROL.search(text):
            raise ValueError(f"{what}={text[:60]!r} holds control characters")
        return text
    if value is None or value != value:
        raise ValueError(f"no {what} ({what}={value})")
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        if isinstance(value, (float, Decimal)) and not -_EXACT <= value <= _EXACT:
            raise ValueError(f"{what}={value} is a float that stands for several whole numbers; write it as text")
        return str(int(value)) if value == int(value) else str(value)
    raise ValueError(f"{what}={str(value)[:60]!r} is a {type(value).__name__}, no text and no number")


def title_of(value: Any) -> str:
    """Return a title on one line; "" where there is none.

    Raises:
        ValueError: the value is neither a text nor a number nor absent, but, for example, a list.
    """
    if isinstance(value, (list, tuple, dict, bool)):
        raise ValueError(f"the title {str(value)[:60]!r} is a {type(value).__name__}, no text")
    return next(_texts(value), "")


def text_of(value: Any) -> str:
    """Return a text, or a list of texts as one, on one line; "" where there is none."""
    return " ".join(_texts(value))


def decoded(text: str) -> str:
    """Return a text with the characters that its HTML entities stand for; only those that end in a semicolon are."""
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)


def without_tags(text: str) -> str:
    """Return a text without HTML's own tags and comments; "I <3 NY > LA" has none."""
    return _TAG.sub(" ", text)


class Clock:
    """Reads the timestamps of one source: whole numbers, or dates, which become microseconds since 1970 (UTC)."""

    def __init__(self) -> None:
        """Start with no row read: the first one decides."""
        self._kind = ""

    def read(self, value: Any) -> int:
        """Return a timestamp, exactly.

        Raises:
            ValueError: the value is no timestamp, cannot be read exactly, or is of another kind than those before it.
        """
        text = value if isinstance(value, str) else _written(value)
        if self._kind == _NUMBERS and text.isdecimal():
            return whole_number(text)
        date = text[4:5] == "-" and _DATE.fullmatch(text.strip())
        kind = _NUMBERS if not date else "dates with a time zone" if date[1] else "dates without a time zone"
        if kind != (self._kind or kind):
            raise ValueError(f"timestamp {text[:60]!r} is not one of {self._kind}, as those before it are")
        self._kind = kind
        if not date:
            return whole_number(text)
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError as error:
            raise ValueError(f"timestamp {text[:60]!r} is no date ({error})") from None
        return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)


def _written(value: Any) -> str:
    """Return how a number is written.

    Raises:
        ValueError: it is a float that stands for several whole numbers, or no number.
    """
    if isinstance(value, float) and abs(value) > _EXACT and value not in (float("inf"), float("-inf")):
        raise ValueError(f"timestamp {value} is a float that stands for several whole numbers; write it as one")
    if isinstance(value, (bool, list, dict)):
        raise ValueError(f"timestamp {str(value)[:60]!r} is not a number")
    return str(value)


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts of a value that are not absent, each on one line."""
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)
    elif value is not None and value == value:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        line = " ".join(_CONTROL.sub(" ", text).split())
        if line not in ABSENT:
            yield line
