"""Two policies on the same questions, before and after training: exact match by kind of question, valid calls."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from src.gisa.dataset.gisa import AnswerType, Gisa
from src.gisa.metrics.answer_table import TableError, split_records
from src.gisa.metrics.answer_text import decode_gold
from src.gisa.report.answered import pages_needed, read_questions
from src.metrics.stats import Interval, bootstrap_interval, paired_bootstrap

_LARGE = 3  # rows and columns of a table that counts as large
_LARGE_TABLE = f"table, {_LARGE} x {_LARGE} and larger"


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
    bootstrap: dict[str, Any] = {"seed": seed, "samples": resamples}
    first = {question.id: question.official for question in (read_questions(before) if before else [])}
    second = {question.id: question.official for question in read_questions(after)}
    compared = []
    for part, ids in _parts(suite, second.keys()).items():
        common = [name for name in ids if name in first]
        for metric in ("global_em", "table_item_f1") if part in ("table", _LARGE_TABLE) else ("global_em",):
            reached = bootstrap_interval([second[name][metric] for name in ids], **bootstrap)
            old, new = ([float(scores[name][metric]) for name in common] for scores in (first, second))
            earlier = bootstrap_interval(old, **bootstrap) if common else None
            gain = paired_bootstrap(new, old, **bootstrap).difference if common else None
            compared.append(Compared(part, metric, len(ids), reached, len(common), earlier, gain))
    return compared


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
    for row in compared:
        after, before, gain = map(_percent, (row.after, row.before, row.gain))
        lines.append(f"| {row.part} | {row.metric} | {row.questions} | {after} | {row.common} | {before} | {gain} |")
    return "\n".join(lines)


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{100 * interval.mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _parts(suite: Gisa, asked: Collection[str]) -> dict[str, list[str]]:
    """Return the ids of each kind of question that was asked: all, types, large tables, numbers of pages, families."""
    types = get_args(AnswerType)
    parts: dict[tuple[int, int, str], list[str]] = {}  # with two numbers to be sorted by
    for question in (question for question in suite.questions if question.id in asked):
        names = [(0, 0, "all"), (1, types.index(question.answer_type), question.answer_type)]
        if question.answer_type == "table" and _is_large(suite.gold(question)):
            names.append((2, 0, _LARGE_TABLE))
        if known := suite.metadata.get(question.id):
            names += [(3, known["hops"], pages_needed(known["hops"])), (4, 0, f"family: {known['family']}")]
        for name in names:
            parts.setdefault(name, []).append(question.id)
    return {name[-1]: parts[name] for name in sorted(parts)}


def _is_large(gold: bytes) -> bool:
    """Tell whether a table has at least so many rows and columns, that of the names among them."""
    try:
        header, *rows = split_records(decode_gold(gold)[0], ",")
    except (TableError, ValueError):
        return False
    return len(rows) >= _LARGE and len(header) >= _LARGE
