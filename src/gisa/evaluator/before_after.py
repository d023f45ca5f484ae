"""Two policies on the same questions, before and after training: exact match by kind of question, valid calls."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.gisa.dataset.gisa import Gisa
from src.gisa.metrics.answer_table import TableError, split_records
from src.gisa.metrics.answer_text import decode_gold
from src.metrics.stats import Interval, bootstrap_interval, paired_bootstrap

_LARGE = 3  # rows and columns of a table that counts as large


@dataclass(frozen=True)
class Compared:
    """A metric over one kind of question.

    Attributes:
        part: Such as ``all``, ``set``, ``2 pages`` or ``family: smallest``.
        metric: ``global_em`` or, over tables, ``table_item_f1``; both of the official scorer, in [0, 1].
        questions: How many the policy afterwards was asked.
        after: Its mean with the 95% interval.
        common: How many of these the policy before was asked as well.
        before: Its mean over the common ones, with its 95% interval; None without any.
        gain: After less before, paired by question, over the common ones; None without any.
    """

    part: str
    metric: str
    questions: int
    after: Interval
    common: int
    before: Interval | None
    gain: Interval | None


def compare(suite: Gisa, before: Path | None, after: Path, *, seed: int, resamples: int) -> list[Compared]:
    """Compare two rollouts on a suite.

    Args:
        suite: The questions.
        before: Run folder of ``task=gisa_rollout``; it may be of fewer questions; None for none.
        after: The same of the other policy.
        seed: Of the bootstrap.
        resamples: Of the bootstrap.
    """

    def interval(values: list[float]) -> Interval:
        return bootstrap_interval(values, seed=seed, samples=resamples)

    first, second = _scores(before) if before else {}, _scores(after)
    found = []
    for part, ids in _parts(suite, second.keys()).items():
        both = [name for name in ids if name in first]
        for metric in ("global_em", *(["table_item_f1"] if part.startswith("table") else [])):
            old, new = ([scores[name][metric] for name in both] for scores in (first, second))
            gain = paired_bootstrap(new, old, seed=seed, samples=resamples).difference if both else None
            reached = interval([second[name][metric] for name in ids])
            found.append(Compared(part, metric, len(ids), reached, len(both), interval(old) if both else None, gain))
    return found


def valid_calls(records: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Count tool calls, over records of episodes: those that are well-formed, carried out or not; and all."""
    valid = invalid = 0
    for record in records:
        valid += record["counts"]["calls"] + record["counts"]["skipped_calls"]
        invalid += record["counts"]["invalid_calls"]
    return valid, valid + invalid


def markdown(compared: Sequence[Compared]) -> str:
    """Write the comparison as a table, in percent."""
    lines = ["| part | metric | questions | after | also before | before | gain |", "|---|---|---|---|---|---|---|"]
    for one in compared:
        after, before, gain = map(_percent, (one.after, one.before, one.gain))
        lines.append(f"| {one.part} | {one.metric} | {one.questions} | {after} | {one.common} | {before} | {gain} |")
    return "\n".join(lines)


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{100 * interval.mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _scores(folder: Path) -> dict[str, dict[str, float]]:
    lines = (folder / "questions.jsonl").read_text().splitlines()
    return {one["id"]: one["official"] for one in map(json.loads, lines)}


def _parts(suite: Gisa, asked: Collection[str]) -> dict[str, list[str]]:
    """Return the ids of each kind of question that was asked: all, types, large tables, pages, families."""
    parts: dict[str, list[str]] = {"all": [], "item": [], "set": [], "list": [], "table": []}
    hops: dict[int, list[str]] = {}
    families: dict[str, list[str]] = {}
    large = []
    for question in (one for one in suite.questions if one.id in asked):
        parts["all"].append(question.id)
        parts[question.answer_type].append(question.id)
        if question.answer_type == "table" and _is_large(suite.gold(question)):
            large.append(question.id)
        if known := suite.metadata.get(question.id):
            hops.setdefault(known["hops"], []).append(question.id)
            families.setdefault(f"family: {known['family']}", []).append(question.id)
    parts[f"table, {_LARGE} x {_LARGE} and larger"] = large
    parts |= {f"{count} page{'s' if count > 1 else ''}": hops[count] for count in sorted(hops)}
    return {part: ids for part, ids in {**parts, **dict(sorted(families.items()))}.items() if ids}


def _is_large(gold: bytes) -> bool:
    """Tell whether a table has at least so many rows and columns, that of the names among them."""
    try:
        header, *rows = split_records(decode_gold(gold)[0], ",")
    except (TableError, ValueError):
        return False
    return len(rows) >= _LARGE and len(header) >= _LARGE
