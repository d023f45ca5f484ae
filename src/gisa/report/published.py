"""What the GISA paper reports, from ``gisa_published.csv`` beside this module."""

from __future__ import annotations

import csv
from importlib.resources import files

SOURCE = "GISA (arXiv 2602.08543, v2)"
QUESTIONS = 373
# What a reader of the paper may stumble over.
SLIPS = (
    "its conclusion gives 18.23 for the best exact match, its Table 3 gives 19.30",
    "the values in its Figure 5 are multiples of 1/45, and not of 1/40",
)


def published() -> list[dict[str, str | float | None]]:
    """Return the rows of Tables 3, 4 and 5, a model or service each.

    Returns:
        By row: ``model``, ``org``, ``framework`` and ``date`` as text; the other columns as numbers, None where the
        paper has none. Scores and similarities are percent, calls and tokens are means a question, prices USD per
        million tokens, ``cost_usd`` USD a question: both sorts of tokens at these prices, of the agent and of the model
        that reads pages, without searches and pages. Columns up to ``browse_calls`` are of Table 3, up to ``cost_usd``
        of Table 4, the last three of Table 5.
    """
    text = (files("src.gisa.report") / "published.csv").read_text(encoding="utf-8")
    words = ("model", "org", "framework", "date")
    return [
        {key: value if key in words else float(value) if value else None for key, value in row.items()}
        for row in csv.DictReader(text.splitlines())
    ]
