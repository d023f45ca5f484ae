"""Ctrl-C while a rollout is at work, and the records of its episodes beside their committed schema."""

import asyncio
import json
import os
import signal
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from src.gisa.agent.backends import EmbeddedWeb
from src.gisa.agent.cost import Charge, PriceList
from src.gisa.agent.fetch import RequestError
from src.gisa.agent.policy import Reply
from src.gisa.agent.react import Budget
from src.gisa.agent.rollout import Rollout
from src.gisa.agent.trajectory import Attempt, RunStore
from src.gisa.agent.web import Web
from src.gisa.dataset.factbook.corpus import Corpus

SCHEMA = json.loads(Path("src/gisa/agent/trajectory.schema.json").read_text())
ATTEMPTS = [Attempt(str(number), 0, "Which?", "item") for number in range(8)]
ANSWER = "```tsv\nx\n1\n```"


class Sender:
    """Sends this process the signals of a person's Ctrl-C when a number of questions have been asked."""

    def __init__(self, after, times=1):
        self.asked, self._after, self._times = [], after, times

    async def reply(self, request):
        self.asked.append(request.messages[1]["content"])
        request.step.charge(Charge(request.part, 10, 5, 0.01))
        if len(self.asked) == self._after:
            for _ in range(self._times):
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        return Reply({"role": "assistant", "content": ANSWER}, "stop")


def rollout(policy, corpus=(), **changes):
    web = EmbeddedWeb(Corpus.from_jsonl(corpus)) if corpus else None
    return Rollout(
        policy=policy, search=web, pages=web, prices=PriceList("2026-01-01"), budget=Budget(), web=Web(),
        today="2026-01-01", **{"concurrency": 2} | changes,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def ours():
    """As where a person started it: Ctrl-C is not ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a rollout leaves it as it was
    signal.signal(signal.SIGINT, before)


def test_once_lets_what_is_under_way_end_and_a_resume_does_the_rest(tmp_path, capsys):
    policy = Sender(after=3)
    with pytest.raises(KeyboardInterrupt):
        rollout(policy).run(ATTEMPTS, RunStore(tmp_path, {}))
    assert {path.suffix for path in (tmp_path / "episodes").iterdir()} == {".json"}  # no journal is left
    assert 3 <= len(list((tmp_path / "episodes").iterdir())) == len(policy.asked) <= 4
    assert "Pausing: 2 episodes under way end first, none is begun." in capsys.readouterr().err
    later = Sender(after=99)
    assert rollout(later).run(ATTEMPTS, RunStore(tmp_path, {})) == Counter(
        answered=8 - len(policy.asked), passed_over=len(policy.asked)
    )
    assert len(policy.asked) + len(later.asked) == 8  # nothing is asked, nor paid, twice


def test_twice_stops_at_once(tmp_path, capsys):
    policy = Sender(after=3, times=2)
    with pytest.raises(KeyboardInterrupt):
        rollout(policy).run(ATTEMPTS, RunStore(tmp_path, {}))
    ended = [path for path in (tmp_path / "episodes").iterdir() if path.suffix == ".json"]
    assert len(ended) < len(policy.asked)  # what was under way is cut short
    assert list((tmp_path / "episodes").glob("*.events.jsonl"))
    assert "Stopping at once." in capsys.readouterr().err
    assert rollout(Sender(after=99)).run(ATTEMPTS, RunStore(tmp_path, {}))["answered"] == 8 - len(ended)


def test_a_pause_in_the_last_episodes_ends_the_run_as_usual(tmp_path):
    assert rollout(Sender(after=8)).run(ATTEMPTS, RunStore(tmp_path, {})) == {"answered": 8}


class Wayward:
    """Calls tools well and badly, then answers, or fails."""

    def __init__(self):
        self.turn = Counter()

    async def reply(self, request):
        question = request.messages[1]["content"]
        self.turn[question] += 1
        calls = [
            [("search", {"query": "amber"})],
            [("visit", {"url": ["https://atlas.example/amber", "https://atlas.example/none"], "goal": "x"})],
            [("find", {}), ("search", "no JSON")],
            [("search", {"query": "a"}), ("search", {"query": "b"})],
        ]
        request.step.charge(Charge(request.part, 10, 5, None if question == "1?" else 0.01))
        if self.turn[question] > len(calls):
            if question == "2?":
                raise RequestError("status", "HTTP 500", status=500)
            return Reply({"role": "assistant", "content": ANSWER if question == "0?" else "I give up"}, "stop")
        made = [
            {"id": "", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for name, arguments in calls[self.turn[question] - 1]
        ]
        return Reply({"role": "assistant", "content": None, "tool_calls": made}, "tool_calls")


def test_real_trajectories_are_as_their_schema_says(tmp_path):
    corpus = tmp_path / "pages.jsonl"
    corpus.write_text(json.dumps({"url": "https://atlas.example/amber", "html": "<title>Amber</title><p>amber"}) + "\n")
    attempts = [Attempt(str(number), 0, f"{number}?", "item") for number in range(3)]
    outcomes = rollout(Wayward(), corpus).run(attempts, RunStore(tmp_path, {}))
    assert outcomes == {"answered": 1, "format_error": 1, "infra_error": 1}
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.check_schema(SCHEMA)
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "episodes").glob("*.json"))]
    for record in records:
        validator.validate(record)
    kinds = {step["value"].get("error", step["value"].get("tool")) for step in records[0]["steps"] if "value" in step}
    assert kinds >= {"search", "visit", "invalid", "skipped"}  # every branch of the schema is met
    assert any("error" in step for step in records[2]["steps"])
    for broken in (
        {"outcome": "won"},
        {"sample": -1},
        {"steps": [{"key": "call/0/0", "value": {}}]},
        {"spent": {"x": {}}},
    ):
        assert not validator.is_valid({**records[0], **broken})
