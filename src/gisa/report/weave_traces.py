"""The episodes of a finished run as traces in Weave: a tree of calls each, beside its runs on W&B."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime, timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from src.gisa.report.page import page_data
from src.launch.account import has_key, host, mode_of
from src.launch.errors import InputError

if TYPE_CHECKING:
    from src.gisa.dataset.gisa import Gisa
    from src.report.runs import Run

_DEFAULT_PROJECT = "ilrec-gisa"
_QUIET = {"print_call_link": False, "capture_code": False, "implicitly_patch_integrations": False, "log_level": "ERROR"}


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
