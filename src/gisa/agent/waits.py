"""How long a service asks to wait before the next try, wherever it says so."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from src.gisa.agent.fetch import retry_after_s

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(\d+(?:\.\d+)?) ?(ms|s|m|h)(?:illis|ec|in|our)?(?:onds?|utes?|econds?|s)?(?![a-z])"
_SPAN = re.compile(rf"(?:{_PART}\s?)+", re.IGNORECASE)
# OpenAI and Groq: "try again in 1m2.5s"; Azure: "retry after 20 seconds"; Gemini: "retry in 20.04466179s" and, beside
# it, a "retryDelay" (continuedev/continue#10062).
_SAID = re.compile(
    r"(?:(?:try again|retry) (?:in|after)|retry_?delay|retry_?after)\W{1,4}(\d[^\s\"',}]*(?: ?[a-z]+)?)", re.I
)
_EPOCH_S, _EPOCH_MS = 1e9, 1e12  # a number above is a point in time


def asked_wait_s(headers: Mapping[str, str], said: str = "") -> float | None:
    """Return the seconds that a refusal asks to wait; None if it names none.

    Args:
        headers: Of the reply: ``retry-after-ms``, ``Retry-After``, and ``x-ratelimit-reset``, of requests, tokens or
            both, where none of them remain.
        said: Its body, which counts if the first two headers say nothing.
    """
    given = {name.lower(): value for name, value in headers.items()}
    if re.fullmatch(r"\d+(\.\d+)?", given.get("retry-after-ms", "")):
        return float(given["retry-after-ms"]) / 1000
    if (asked_s := retry_after_s(given.get("retry-after"))) is not None:
        return asked_s
    if (found := _SAID.search(said)) and (asked_s := _seconds(found[1])) is not None:
        return asked_s
    spent = [kind for kind in ("-requests", "-tokens", "") if given.get(f"x-ratelimit-remaining{kind}") == "0"]
    resets = [_seconds(given.get(f"x-ratelimit-reset{kind}", "")) for kind in spent]
    return max((reset for reset in resets if reset is not None), default=None)


def _seconds(text: str) -> float | None:
    """Read a span such as ``1m2.5s``, a number of seconds, or a point in time in seconds or milliseconds."""
    if span := _SPAN.match(text):
        return sum(float(number) * _UNITS_S[unit.lower()] for number, unit in re.findall(_PART, span[0], re.IGNORECASE))
    if number := re.fullmatch(r"\d+(\.\d+)?", text.rstrip(" .")):
        value = float(number[0])
        value = value / 1000 if value >= _EPOCH_MS else value
        return max(0.0, value - time.time()) if value >= _EPOCH_S else value
    return None
