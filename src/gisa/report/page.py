"""One run on GISA as one HTML file: scores, plots, and every question with its trajectory, answer and human trace."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from src.gisa.dataset.gisa import Gisa, Question, human_trajectory
from src.gisa.metrics.answer_diff import compare
from src.gisa.metrics.answers import PARITY_FLAGS
from src.gisa.metrics.behaviour import canonical_url
from src.gisa.metrics.errors import CAUSES, MEANINGS, PUBLISHED_SHARES
from src.gisa.report.answered import episodes_of
from src.launch.errors import InputError
from src.launch.lines import existing_file
from src.launch.storage import write_atomic

MOST_BYTES = 5_000_000
_MOST_CHARS, _FEWEST_CHARS = 8_000, 100  # of one text
_MOST_CELL_CHARS = 300
# Nothing is loaded, sent or run but the two parts whose hashes stand here, whatever a text of the run holds.
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; script-src '{js}'; style-src '{css}'"


def write_page(folder: Path, result: Mapping[str, Any], suite: Gisa, path: Path | None = None) -> Path:
    """Write ``page.html`` into a run folder that holds its scores, or elsewhere.

    Where ``suite.show_questions`` is false, the questions are left out, and where a text quotes one word for word, the
    quotation; a paraphrase stays, as it does in the run's records.

    Args:
        folder: Of a scored run, of ``gisa_rollout`` or ``gisa_score``.
        result: Content of its ``result.json``.
        suite: The questions.
        path: Of the page; None for that of the run.

    Raises:
        InputError: the folder holds no scores.
    """
    path = path or folder / "page.html"
    write_atomic(path, page_of(page_data(folder, result, suite)))
    return path


def page_of(data: dict[str, Any]) -> bytes:
    """Put the page together of :func:`page_data`, with texts cut until it is no larger than ``MOST_BYTES``."""
    names = ("page.html", "page.css", "page_scores.js", "page_questions.js")
    html, css, *scripts = (Path(__file__).with_name(name).read_text() for name in names)
    js = "".join(scripts)
    page = html.replace("{{policy}}", _POLICY.format(js=_source(js), css=_source(css)))
    page = page.replace("{{style}}", css).replace("{{script}}", js)
    limit = _MOST_CHARS
    while True:
        content = page.replace("{{data}}", _packed({**data, "most_chars": limit})).encode()
        if len(content) <= MOST_BYTES or limit <= _FEWEST_CHARS:
            return content
        limit = max(_FEWEST_CHARS, limit_for(data["questions"], 0.97 * MOST_BYTES / len(content)))
        data = {**data, "questions": [shortened(entry, limit) for entry in data["questions"]]}


def _packed(data: dict[str, Any]) -> str:
    """Write data as base64 of deflated ASCII JSON, in which no text can end the element or break the encoding."""
    return base64.b64encode(zlib.compress(json.dumps(data, separators=(",", ":")).encode())).decode()


def _source(text: str) -> str:
    """Name an inline script or style for the policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class Cut(NamedTuple):
    """The beginning of a text, and how many characters are left out."""

    text: str
    left_out: int


def shortened(value: Any, limit: int) -> Any:
    """Cut every text within plain containers to a number of characters, those that were cut before included."""

    def cut(text: str, left_out: int = 0) -> Any:
        rest = left_out + max(0, len(text) - limit)
        return Cut(text[:limit], rest) if rest else text

    return _each_text(value, cut)


def limit_for(value: Any, share: float) -> int:
    """Return the length that all texts are to be cut to for a share of their characters, below 1, to be left."""
    lengths: list[int] = []
    _each_text(value, lambda text, left_out=0: lengths.append(len(text)))
    room = share * sum(lengths)
    for left, length in zip(range(len(lengths), 0, -1), sorted(lengths), strict=True):
        if length * left >= room:
            return int(room / left)
        room -= length
    return 0


def _each_text(value: Any, change: Callable[..., Any]) -> Any:
    match value:
        case str():
            return change(value)
        case Cut():
            return change(*value)
        case dict():
            return {key: _each_text(inner, change) for key, inner in value.items()}
        case list() | tuple():
            return [_each_text(inner, change) for inner in value]
    return value


def without_question(question: Question | None, value: Any) -> Any:
    """Replace a question wherever a text quotes it, in clear or within JSON, whatever its case and white space."""
    if question is None or not question.text.split():
        return value
    forms = {question.text, *(json.dumps(question.text, ensure_ascii=ascii)[1:-1] for ascii in (True, False))}
    pattern = re.compile("|".join(r"\s+".join(map(re.escape, form.split())) for form in forms), re.IGNORECASE)
    return _each_text(value, lambda text: pattern.sub("[the question]", text))


def page_data(folder: Path, result: Mapping[str, Any], suite: Gisa) -> dict[str, Any]:
    """Gather what the page shows; arguments and errors as in :func:`write_page`."""
    for name in ("questions.jsonl", "_all_evaluation_results.json", "summary.json"):
        existing_file(folder / name, "the scores of a run that a page is to show")
    scores = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    answers = json.loads((folder / "_all_evaluation_results.json").read_bytes())
    questions = {question.id: question for question in suite.questions}
    summary = json.loads((folder / "summary.json").read_bytes())
    trajectories = dict(_trajectories(folder, result["config"], {} if suite.show_questions else questions))
    flags = sorted({flag for score in scores for flag in score["parity_flags"]})
    return {
        "run": _run(result, suite),
        "means": summary["means"],
        "flags": {flag: PARITY_FLAGS[flag] for flag in flags},
        "causes": {cause: (PUBLISHED_SHARES[cause], MEANINGS[cause]) for cause in CAUSES},
        "evidence": summary.get("evidence", {}),
        "questions": [
            _entry(
                score | {"outcome": score["outcome"] or ("answered" if score["answered"] else "missing")},
                answers[score["id"]].get("pred_item", {}).get("prediction"),
                trajectories.get(score["id"], {}),
                questions[score["id"]],
                suite,
            )
            for score in scores
            if score["id"] in questions
        ],
    }


def _run(result: Mapping[str, Any], suite: Gisa) -> dict[str, Any]:
    """Say what run it is."""
    agent = result["config"].get("agent") or {}
    policy = agent.get("policy") or {}
    commit = result.get("commit")
    facts = {
        "policy": f"{policy.get('_target_', '').rpartition('.')[2]} {policy.get('model', '')}".strip(),
        "budget": agent.get("budget", {}).get("semantics"),
        "answers as of": suite.snapshot or "published",
        "sample": result["config"]["task"].get("sample", 0),
        "seed": result.get("seed"),
        "started": result["started_at"][:16].replace("T", " ") + " UTC",
        "commit": commit and f"{commit[:12]}{', changed' if result.get('dirty') else ''}",
    }
    return {
        "name": result.get("name"),
        "overrides": result.get("overrides", []),
        "facts": {name: value for name, value in facts.items() if value not in (None, "")},
    }


def _entry(
    score: dict[str, Any], prediction: Any, episode: dict[str, Any], question: Question, suite: Gisa
) -> dict[str, Any]:
    """Return a question with its scores, answer, gold table, trajectory and human trace."""
    hidden = None if suite.show_questions else question
    prediction = without_question(hidden, prediction)
    try:
        trajectory = human_trajectory(suite.trace(question))
        human = [(step.kind, step.what) for step in trajectory.steps]
        human += [("visit", address) for address in trajectory.orphans]
    except InputError:  # a copy of the benchmark without traces is only scored; the run's remarks tell it
        human = []
    visited = {
        url for step in episode.get("steps", ()) if step.get("tool") == "visit" for url in map(str, step["urls"])
    }
    known = {url for kind, url in human if kind == "visit"}
    both = set(map(canonical_url, visited)) & set(map(canonical_url, known))
    return {
        **without_question(hidden, score),
        **episode,
        "question": question.text if suite.show_questions else None,
        "prediction": shortened(prediction if isinstance(prediction, str | None) else repr(prediction), _MOST_CHARS),
        "diff": shortened(compare(prediction, suite.gold(question), question.answer_type), _MOST_CELL_CHARS),
        "human": shortened(without_question(hidden, human), _MOST_CHARS),
        "shared": sorted(url for url in visited | known if canonical_url(url) in both),
    }


def _trajectories(folder: Path, config: Mapping[str, Any], hidden: Mapping[str, Question]) -> Iterator[tuple[str, Any]]:
    """Yield id and episode of what was scored; a run that scores the answers of another shows the other's episodes."""
    for path in sorted(episodes_of(folder, config).glob("*.*.json")):
        record = json.loads(path.read_bytes())
        if record["sample"] == config["task"].get("sample", 0):
            kept = {key: record[key] for key in ("reason", "counts", "spent", "seconds")}
            steps = list(map(_step, record["steps"]))
            episode = {**kept, "denied": record["contaminated"], "resumed": len(record["opened"]) - 1, "steps": steps}
            yield (
                record["question_id"],
                shortened(without_question(hidden.get(record["question_id"]), episode), _MOST_CHARS),
            )


def _step(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of the journal as the page shows it: a reply, a tool call's result, or a failure."""
    value, charges = line.get("value") or {}, line["charges"]
    step = {
        "kind": line["key"].partition("/")[0],
        "seconds": line["seconds"],
        "tokens": [sum(charge[key] for charge in charges) for key in ("prompt_tokens", "completion_tokens")],
        "usd": None if any(charge["usd"] is None for charge in charges) else sum(charge["usd"] for charge in charges),
        "failures": line["failures"],
        "failed": line.get("error"),
    }
    if "message" not in value:
        kept = ("tool", "query", "urls", "goal", "content", "error")
        return {**step, **{key: value[key] for key in kept if key in value}}
    message = value["message"]
    calls = message.get("tool_calls")
    thoughts = [message[key] for key in ("reasoning_content", "reasoning", "reasoning_details") if key in message]
    return {
        **step,
        "content": _text(message.get("content")),
        "thought": _text(next(iter(thoughts), "")),
        "calls": [_call(call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else [],
        "finish": value.get("finish_reason"),
    }


def _call(call: Mapping[str, Any]) -> list[str]:
    """Return name and arguments of a tool call, in whatever state a model left it."""
    function = call.get("function")
    return [_text(function.get(key)) for key in ("name", "arguments")] if isinstance(function, dict) else ["?", ""]


def _text(content: Any) -> str:
    """Return a text as it is and anything else as JSON; nothing for nothing."""
    return content if isinstance(content, str) else json.dumps(content, indent=1) if content else ""
