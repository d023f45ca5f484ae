"""Official scores of a suite of the published size against the same rules written with pandas."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from src.gisa.metrics.answers import official_score
from tests.benchmarks.comparison import Row, interleaved, show_seconds
from tests.gisa.gisa_files import TYPES, answer_of, gold_of, made_up
from tests.gisa.metrics.pandas_answers import reference_score


def rows(*, quick: bool) -> Iterator[Row]:
    questions, source = made_up(counts=dict.fromkeys(TYPES, 2) if quick else TYPES), random.Random(0)
    cases = [(answer_of(one, source) or "", gold_of(one), one["answer_type"]) for one in questions]
    found: dict[str, list[dict[str, Any]]] = {}

    def run(name: str, score: Callable[[str, bytes, str], dict[str, Any]]) -> None:
        found[name] = [score(*case) for case in cases]

    ours, pandas = partial(run, "ours", official_score), partial(run, "pandas", reference_score)
    pairs = interleaved(ours, pandas, 2 if quick else 9)
    equal = sum(a == b for a, b in zip(*found.values(), strict=True))
    yield Row(
        f"Official scores of {len(cases)} answers",
        ("src.gisa.metrics.answers", "the rules with pandas"),
        pairs,
        show_seconds,
        ">= 1",
        f"{equal} of {len(cases)} scores equal" if equal == len(cases) else f"{len(cases) - equal} scores NOT EQUAL",
    )
