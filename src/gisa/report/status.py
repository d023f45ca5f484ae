"""How far a rollout is, from its folder while it runs: episodes by state, exact match so far, cost, slowest hosts."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from src.gisa.agent.trajectory import whole_lines
from src.gisa.dataset.gisa import Gisa
from src.gisa.metrics.answers import official_score
from src.gisa.report.answered import suite_of
from src.launch.errors import InputError, resume_command
from src.metrics.stats import bootstrap_interval
from src.report.runs import Run

_SHOWN_HOSTS, _SHOWN_REASONS = 5, 3
_NEEDED = {"question_id", "sample", "outcome", "reason", "prediction", "opened", "steps"}  # of a record


@dataclass
class Host:
    """What the steps say of one host: seconds of each step that asked it, waiting and failed attempts included."""

    seconds: list[float] = field(default_factory=list)
    failures: int = 0

    @property
    def mean_s(self) -> float:
        """Mean time of a step."""
        return sum(self.seconds) / len(self.seconds) if self.seconds else 0.0


@dataclass
class Status:
    """A run at one moment.

    Attributes:
        state: ``status`` of its ``result.json``.
        total: Episodes that there will be; None where the suite is not here.
        outcomes: Of the episodes that are done.
        running: Episodes under way, or cut short where the run is not at work.
        failed: Why episodes failed that a resume tries again, by reason.
        exact: Official exact match of the scored attempts that are done, 0 or 1 each.
        usd: Spent so far, as far as prices are known.
        unpriced: Parts with a charge of unknown price.
        hosts: By name.
        last_s: Seconds since anything was written.
        per_minute: Episodes done in the last ten minutes, by minute; None before any.
    """

    state: str
    total: int | None
    outcomes: Counter[str] = field(default_factory=Counter)
    running: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    exact: list[float] = field(default_factory=list)
    usd: float = 0.0
    unpriced: set[str] = field(default_factory=set)
    hosts: dict[str, Host] = field(default_factory=lambda: defaultdict(Host))
    last_s: float | None = None
    per_minute: float | None = None


class Watched:
    """A run folder that is looked at again and again; records that have not changed are not read again.

    Raises:
        InputError: the folder holds no run of an agent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        run = self._run()
        if not (folder / "episodes").is_dir() and not (run.config.get("agent") and run.config.get("task")):
            raise InputError(
                f"{folder} holds no rollout, so there is nothing to watch.\nGive the folder of a run of "
                "+experiment=gisa_rollout (or gisa_live ...):  python -m src.report --live outputs/gisa_rollout/<run>"
            )
        self._suite: Gisa | None = None
        with suppress(InputError):
            self._suite = suite_of(run)
            self._suite.keep_spread((run.config.get("task") or {}).get("max_questions"))
        self._questions = {question.id: question for question in (self._suite.questions if self._suite else ())}
        self._known: dict[Path, tuple[int, dict[str, Any]]] = {}
        self._exact: dict[Path, float] = {}

    def _run(self) -> Run:
        try:
            content = json.loads((self.folder / "result.json").read_bytes())
            return Run(folder=self.folder, source=self.folder, **content)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{self.folder} holds no run that can be read: {error}.\nGive the folder with its result.json."
            ) from error

    def look(self) -> Status:
        """Return how things stand now."""
        run = self._run()
        task = run.config.get("task") or {}
        total = None if self._suite is None else len(self._suite.questions) * int(task.get("samples") or 1)
        status, ends, written = Status(run.status, total), [], []
        policy_host = urlsplit(str(((run.config.get("agent") or {}).get("policy") or {}).get("base_url"))).hostname
        folder = self.folder / "episodes"
        journals = {path.name.removesuffix(".events.jsonl"): path for path in folder.glob("*.events.jsonl")}
        for path in sorted(folder.glob("*.json")):
            changed, record = self._record(path)
            if record is None:
                continue
            written.append(changed)
            journal = journals.pop(path.stem, None)
            steps = _lines(journal) if journal else record["steps"]
            if journal and sum("opened" in line for line in steps) > len(record["opened"]):
                status.running += 1
            elif record["outcome"] == "infra_error":
                status.failed[record["reason"]] += 1
            else:
                status.outcomes[record["outcome"]] += 1
                ends.append(changed)
                self._score(path, record, status, int(task.get("sample") or 0))
            _count(status, steps, policy_host)
        for path in journals.values():
            status.running += 1
            with suppress(OSError):
                written.append(path.stat().st_mtime)
            _count(status, _lines(path), policy_host)
        now = time.time()
        status.last_s = now - max(written) if written else None
        recent = [end for end in ends if now - end < 600]
        if recent:
            status.per_minute = len(recent) / max(1.0, (now - min(recent)) / 60)
        return status

    def _record(self, path: Path) -> tuple[float, dict[str, Any] | None]:
        try:
            changed = path.stat()
            if self._known.get(path, (0, {}))[0] != changed.st_mtime_ns:
                record = json.loads(path.read_bytes())
                if not record.keys() >= _NEEDED:
                    return 0.0, None
                # Texts of pages are not needed again; all that is kept of a long run would be gigabytes.
                record["steps"] = [_slim(step) for step in record["steps"]]
                self._known[path] = (changed.st_mtime_ns, record)
                self._exact.pop(path, None)
            return changed.st_mtime, self._known[path][1]
        except (OSError, ValueError, AttributeError, TypeError):  # torn, or just replaced: the next look finds it
            return 0.0, None

    def _score(self, path: Path, record: Mapping[str, Any], status: Status, sample: int) -> None:
        question = self._questions.get(record["question_id"])
        if question is None or self._suite is None or record["sample"] != sample:
            return
        if path not in self._exact:
            score = official_score(record["prediction"], self._suite.gold(question), question.answer_type)
            self._exact[path] = float(score["global_em"])
        status.exact.append(self._exact[path])


def _slim(step: Mapping[str, Any]) -> dict[str, Any]:
    value = step.get("value")
    kept = {key: value[key] for key in ("tool", "urls") if key in value} if isinstance(value, dict) else {}
    return {**{key: step.get(key) for key in ("key", "charges", "failures", "seconds")}, "value": kept}


def _lines(path: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a journal that another process writes."""
    with suppress(OSError):
        return whole_lines(path.read_bytes())[0]
    return []


def _count(status: Status, steps: Iterable[Mapping[str, Any]], policy_host: str | None) -> None:
    """Add what steps cost, and what they say of the hosts they asked."""
    for step in steps:
        for charge in step.get("charges") or ():
            status.usd += charge["usd"] or 0.0
            if charge["usd"] is None:
                status.unpriced.add(charge["part"])
        for failure in step.get("failures") or ():
            status.hosts[str(failure).partition(":")[0]].failures += 1
        for host in _hosts_of(step, policy_host):
            status.hosts[host].seconds.append(float(step.get("seconds") or 0.0))


def _hosts_of(step: Mapping[str, Any], policy_host: str | None) -> Iterator[str]:
    value = step.get("value") if isinstance(step.get("value"), dict) else {}
    assert isinstance(value, dict)
    if str(step.get("key")).startswith("reply/"):
        yield from (policy_host,) if policy_host else ()
    elif value.get("tool") == "visit":
        for url in value.get("urls") or ():
            with suppress(ValueError):
                yield urlsplit(str(url)).hostname or "no host"
    elif value.get("tool") == "search":
        yield "search"


def as_text(folder: Path, status: Status) -> str:
    """Write a status for a terminal."""
    done, failed = status.outcomes.total(), status.failed.total()
    waiting = "?" if status.total is None else max(0, status.total - done - failed - status.running)
    lines = [
        f"{folder}: {status.state}" + (f", last step {status.last_s:.0f} s ago" if status.last_s is not None else ""),
        f"done {done} of {status.total or '?'} | running {status.running} | failed {failed} | waiting {waiting}",
        "outcomes: " + (", ".join(f"{name} {count}" for name, count in status.outcomes.most_common()) or "none yet"),
    ]
    if status.exact:
        interval = bootstrap_interval(status.exact, samples=2000)
        lines.append(
            f"EM so far {100 * interval.mean:.1f}% [{100 * interval.low:.1f}, {100 * interval.high:.1f}] "
            f"of {len(status.exact)} questions"
        )
    unknown = f"; price unknown: {', '.join(sorted(status.unpriced))}" if status.unpriced else ""
    lines.append(f"cost {status.usd:.4f} USD{f', {status.usd / done:.4f} a done episode' if done else ''}{unknown}")
    if status.per_minute and isinstance(waiting, int) and status.state == "running":
        minutes = (waiting + status.running) / status.per_minute
        lines.append(f"pace {status.per_minute:.1f} episodes a minute; about {minutes:.0f} min to go")
    slowest = sorted(status.hosts.items(), key=lambda host: -host[1].mean_s)[:_SHOWN_HOSTS]
    lines += ["slowest hosts: mean s, max s, steps, failed attempts"] if slowest else []
    lines += [
        f"  {name}: {host.mean_s:.2f}, {max(host.seconds, default=0.0):.2f}, {len(host.seconds)}, {host.failures}"
        for name, host in slowest
    ]
    lines += [f"failed {count} times: {reason[:160]}" for reason, count in status.failed.most_common(_SHOWN_REASONS)]
    if status.state == "running":
        lines.append("Ctrl-C where it runs: once lets running episodes end and stops, twice stops at once.")
    elif status.state != "finished":
        lines.append(f"go on:  {resume_command(folder)}")
    return "\n".join(lines)


def watch(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield what is to be shown of a run, and whether it is still at work, as often as it is asked for.

    Raises:
        InputError: the folder holds no run of an agent.
    """
    watched = Watched(folder)
    while True:
        status = watched.look()
        yield as_text(folder, status), status.state == "running"
