"""A run on a suite for other people's viewers: a log of inspect-ai (``.eval``), and a tree of calls in Weave."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.gisa.agent.prompts import opening
from src.gisa.agent.trajectory import Attempt
from src.gisa.dataset.gisa import Gisa, Question
from src.gisa.evaluator.answers import ScoredQuestion
from src.gisa.metrics.answer_table import TableError
from src.gisa.metrics.answer_text import decode_gold
from src.gisa.metrics.answers import F1, score_answer
from src.gisa.report.answered import episodes_of, read_questions
from src.gisa.report.page import page_data, without_question
from src.launch.account import has_key, host, mode_of
from src.launch.errors import InputError
from src.metrics.stats import bootstrap_interval
from src.report.runs import Run

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample


_SCORES = ("exact_match", "robust_exact_match", "f1")
_DEFAULT_PROJECT = "ilrec-gisa"
_QUIET = {"print_call_link": False, "capture_code": False, "implicitly_patch_integrations": False, "log_level": "ERROR"}


def require_inspect() -> None:
    """Refuse to go on where there is nothing to write logs with.

    Raises:
        InputError: inspect-ai is not installed.
    """
    if find_spec("inspect_ai") is None:
        raise InputError('--inspect needs the package inspect-ai.\nType:  pip install -e ".[inspect]"')


def write_log(run: Run, suite: Gisa, folder: Path) -> Path:
    """Write a scored run as a log of inspect-ai: a sample an episode, with its messages, calls, scores and tokens.

    Where ``suite.show_questions`` is false, the questions are left out, as in the run's page.

    Args:
        run: The run.
        suite: Its questions.
        folder: Where the log goes, by time and name as inspect-ai does it.

    Returns:
        The file.

    Raises:
        InputError: the run has no scores.
    """
    from inspect_ai.log import write_eval_log

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{run.started_at:%Y-%m-%dT%H-%M-%S}_{run.name}_seed{run.seed}.eval"
    partial = folder / f".{path.name}.partial"
    write_eval_log(log_of(run, suite), partial, format="eval")
    partial.replace(path)
    return path


def log_of(run: Run, suite: Gisa) -> EvalLog:
    """Put a log together; arguments and errors as in :func:`write_log`."""
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSpec, EvalStats
    from inspect_ai.model import ModelUsage

    agent = run.config.get("agent") or {}
    policy = agent.get("policy") or {}
    scored = {question.id: question for question in read_questions(run.folder)}
    questions = {question.id: question for question in suite.questions}
    samples = [
        _sample(record, questions[record["question_id"]], scored[record["question_id"]], suite, agent)
        for record in _records(run)
        if record["question_id"] in scored.keys() & questions.keys()
    ]
    if not samples:
        raise InputError(f"{run.folder} has no records of episodes, of which a log of inspect-ai consists.")
    usage: dict[str, Any] = {}
    for name, one in ((name, one) for sample in samples for name, one in sample.model_usage.items()):
        usage[name] = usage.get(name, ModelUsage()) + one
    created = run.started_at.isoformat()
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=created,
            task=run.name,
            dataset=EvalDataset(name=str(run.protocol.get("dataset")), samples=len(scored), sample_ids=[*scored]),
            model=str(policy.get("model") or policy.get("_target_", "").rpartition(".")[2] or "none"),
            config=EvalConfig(epochs=max(sample.epoch for sample in samples)),
            task_args={"overrides": run.overrides, "seed": run.seed},
            metadata={"protocol": run.protocol, "commit": run.commit, "budget": agent.get("budget")},
        ),
        results=_results(samples),
        stats=EvalStats(started_at=created, model_usage=usage),
        samples=samples,
    )


def _records(run: Run) -> Iterator[dict[str, Any]]:
    for path in sorted(episodes_of(run.folder, run.config).glob("*.*.json")):
        yield json.loads(path.read_bytes())


def _results(samples: Sequence[EvalSample]) -> Any:
    """Average the scores over questions, with their intervals; attempts at one question are averaged first."""
    from inspect_ai.log import EvalMetric, EvalResults, EvalScore

    scores = []
    for name in _SCORES:
        values: dict[Any, list[float]] = {}
        for sample in samples:
            values.setdefault(sample.id, []).append(float((sample.scores or {})[name].value))
        interval = bootstrap_interval([sum(of) / len(of) for of in values.values()], samples=2000)
        metrics = {key: EvalMetric(name=key, value=value) for key, value in vars(interval).items()}
        scores.append(EvalScore(name=name, scorer=name, metrics=metrics))
    return EvalResults(total_samples=len(samples), completed_samples=len(samples), scores=scores)


def _sample(
    record: Mapping[str, Any], question: Question, scored: ScoredQuestion, suite: Gisa, agent: Mapping[str, Any]
) -> EvalSample:
    from inspect_ai._util.error import EvalError
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, ModelOutput
    from inspect_ai.scorer import Score

    hidden = None if suite.show_questions else question
    record = without_question(hidden, record)
    gold = suite.gold(question)
    score = score_answer(record["prediction"], gold, question.answer_type)
    error = scored.error if score.official == scored.official else None
    about = {key: record[key] for key in ("outcome", "reason", "counts", "contaminated")}
    about |= {"answer_type": question.answer_type, "question_type": question.question_type, "topic": question.topic}
    values = (
        score.official["global_em"],
        score.robust["global_em"],
        score.official[F1[question.answer_type]],
    )
    answer = str(record["prediction"])
    messages = _messages(record, question, hidden, agent)
    last = ChatMessageAssistant(content=answer)
    is_lost = record["outcome"] == "infra_error"
    fault = EvalError(message=record["reason"], traceback="", traceback_ansi="") if is_lost else None
    return EvalSample(
        id=question.id,
        epoch=record["sample"] + 1,
        input="[the question]" if hidden else question.text,
        target=_text_of(gold),
        messages=messages,
        output=ModelOutput(model=_model(agent), choices=[ChatCompletionChoice(message=last)], completion=answer),
        scores={
            name: Score(
                value=float(value),
                answer=answer,
                explanation=(error or {}).get("why"),
                metadata={**score.official, "parity_flags": score.parity_flags, "error": error}
                if name == "exact_match"
                else None,
            )
            for name, value in zip(_SCORES, values, strict=True)
        },
        metadata=about | {"evidence": scored.evidence},
        model_usage=_usage(record, agent),
        started_at=record["opened"][0] if record["opened"] else None,
        total_time=record["seconds"],
        working_time=record["seconds"],
        error=fault,
    )


def _model(agent: Mapping[str, Any]) -> str:
    policy = agent.get("policy") or {}
    return str(policy.get("model") or policy.get("_target_", "").rpartition(".")[2] or "none")


def _text_of(gold: bytes) -> str:
    try:
        return decode_gold(gold)[0]
    except TableError:
        return ""


def _usage(record: Mapping[str, Any], agent: Mapping[str, Any]) -> dict[str, Any]:
    from inspect_ai.model import ModelUsage

    reader = agent.get("extractor")
    names = {"chain": _model(agent)}
    names["extractor"] = str((reader or {}).get("model") or f"{_model(agent)} (pages)")
    usage: dict[str, Any] = {}
    for part, spent in record["spent"].items():
        if spent["prompt_tokens"] or spent["completion_tokens"]:
            read, written = spent["prompt_tokens"], spent["completion_tokens"]
            one = ModelUsage(
                input_tokens=read, output_tokens=written, total_tokens=read + written, total_cost=spent["usd"]
            )
            name = names.get(part, part)
            usage[name] = usage[name] + one if name in usage else one
    return usage


def _messages(
    record: Mapping[str, Any], question: Question, hidden: Question | None, agent: Mapping[str, Any]
) -> list[Any]:
    """Return the conversation of an episode: prompt, replies with their calls, results; failed steps are left out."""
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageTool, ChatMessageUser
    from inspect_ai.tool import ToolCall

    budget = agent.get("budget") or {}
    limit = f"{budget.get('max_calls')} tool calls" if agent.get("search") else None
    attempt = Attempt(
        question.id, record["sample"], "[the question]" if hidden else question.text, question.answer_type
    )
    today, brief = str(agent.get("today", "")), agent.get("instructions", "full")
    system, user = opening(attempt, today=today, limit=limit, instructions=brief)
    messages: list[Any] = [ChatMessageSystem(content=system["content"]), ChatMessageUser(content=user["content"])]
    calls: list[ToolCall] = []
    for step in record["steps"]:
        value = step.get("value")
        if not isinstance(value, dict):
            continue
        kind, _, place = step["key"].partition("/")
        if kind == "reply" and isinstance(value.get("message"), dict):
            said = value["message"]
            given = said.get("tool_calls") if isinstance(said.get("tool_calls"), list) else []
            calls = [
                ToolCall(id=f"{place}/{at}", **_call(call))
                for at, call in enumerate(given or [])
                if isinstance(call, dict)
            ]
            messages.append(ChatMessageAssistant(content=_said(said.get("content")), tool_calls=calls or None))
        elif kind == "call":
            at = int(place.rpartition("/")[2]) if place.rpartition("/")[2].isdigit() else 0
            function = calls[at].function if at < len(calls) else None
            messages.append(ChatMessageTool(content=_said(value.get("content")), tool_call_id=place, function=function))
    return messages


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    arguments, fault = function.get("arguments"), None
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            arguments, fault = {"unreadable": arguments}, str(error)
    arguments = arguments if isinstance(arguments, dict) else {"value": arguments}
    return {"function": str(function.get("name") or "unknown"), "arguments": arguments, "parse_error": fault}


def _said(content: Any) -> str:
    return content if isinstance(content, str) else "" if content is None else json.dumps(content)


def require_weave() -> None:
    """Refuse to go on where there is nothing to send with, or nowhere to send to.

    Raises:
        InputError: Weave is not installed, W&B is not online, or there is no key.
    """
    if find_spec("weave") is None:
        raise InputError("--weave needs Weave.\nInstall it:  pip install 'ilrec-gisa[dashboards]'")
    if mode_of(None) != "online":
        raise InputError("--weave: W&B is not online here.\nType:  export WANDB_MODE=online")
    if not has_key():
        raise InputError(f"--weave: there is no key for {host()}.\nType:  export WANDB_API_KEY=<your key>")


def send_traces(run: Run, suite: Gisa) -> str:
    """Send every scored episode of a run: question, replies, tool calls, tokens, cost, answer and scores.

    The times are those of the journal laid end to end from the start of the run, as it keeps durations. Questions of
    the benchmark that change with time stay out of it, and the text of all, unless ``suite.show_questions``. What is
    sent twice is there twice: traces are only ever added.

    Args:
        run: A finished run with the scores of its questions.
        suite: The questions.

    Returns:
        Where they are, in words.

    Raises:
        InputError: as :func:`require_weave`; a file of the run is absent; the server takes nothing.
    """
    require_weave()
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # whose reports could quote a question
    os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")  # a W&B run would start it anew, and it trace other libraries
    import weave

    result = run.model_dump(mode="json")
    data = page_data(run.folder, result, suite)
    shown = [entry for entry in data["questions"] if suite.show_questions or entry["question_type"] != "live"]
    logger = run.config.get("logger") or {}
    project = "/".join(filter(None, (logger.get("entity"), logger.get("project") or _DEFAULT_PROJECT)))
    model = str(data["run"]["facts"].get("policy") or run.name)
    try:
        client = weave.init(project, settings=_QUIET)
    except Exception as error:  # its own, wandb's and those of the connection
        raise InputError(f"--weave: {host()} did not let me in: {error}\nType:  wandb login --verify") from error
    try:
        for entry in shown:
            _send(client, entry, model, datetime.fromisoformat(result["started_at"]), {"run": str(run.label)})
    finally:
        weave.finish()  # waits for what is under way
    return f"{len(shown)} traces of {run.label}: {client.entity}/{client.project} in Weave"


def _send(client: Any, entry: Mapping[str, Any], model: str, began: datetime, about: dict[str, Any]) -> None:
    """Send an episode: its steps are calls below its own."""
    asked = {"question_id": entry["id"], "question": entry["question"], "answer_type": entry["answer_type"]}
    episode = client.create_call("episode", asked, attributes=about, use_stack=False, started_at=began)
    for step in entry.get("steps", ()):
        name = str(step.get("tool") or step["kind"])
        inputs = {key: step[key] for key in ("query", "urls", "goal") if key in step}
        call = client.create_call(name, inputs, parent=episode, use_stack=False, started_at=began)
        read, written = step["tokens"]
        if read or written:
            usage = {"prompt_tokens": read, "completion_tokens": written, "requests": 1}
            call.summary = {"usage": {model if name == "reply" else name: usage}, "usd": step["usd"]}
        began += timedelta(seconds=step["seconds"])
        told = {
            key: step[key] for key in ("thought", "content", "calls", "finish", "error", "failures") if step.get(key)
        }
        failed = RuntimeError(step["failed"]) if step.get("failed") else None
        client.finish_call(call, told, exception=failed, ended_at=began)
    ended = {key: entry.get(key) for key in ("prediction", "outcome", "official", "robust", "counts")}
    client.finish_call(episode, ended, ended_at=began)
