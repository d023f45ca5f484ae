"""How far a run is, from its folder, by hand."""

import json
import os
import time

import pytest

from src.gisa.report.status import Watched, as_text
from src.report.__main__ import main
from tests.gisa.report.answered_runs import EPISODES, episode, write_answered_run

STEP = {"charges": [{"part": "chain", "prompt_tokens": 1, "completion_tokens": 1, "usd": 0.25}], "failures": [],
        "seconds": 4.0}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Four questions: one right, one wrong, one failed, one under way; each step of the record takes 0.1 s."""
    lost = episode(3, "", outcome="infra_error", reason="HTTP 500: out of order", usd=0.5)
    agent = {"policy": {"base_url": "https://model.example/v1"}}
    write_answered_run(tmp_path / "run", [*EPISODES[:2], lost], agent=agent, task={"samples": 1, "sample": 0})
    run = tmp_path / "run"
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"status": "running"}))
    steps = [
        {"opened": "2026-01-01T00:00:00+00:00"},
        {"key": "reply/0", "value": {"message": {}, "finish_reason": "stop"}, **STEP},
        {"key": "call/0/0", "value": {"tool": "visit", "urls": ["https://slow.example/x"], "content": ""}, **STEP,
         "failures": ["slow.example: HTTP 503"], "seconds": 20.0},
    ]  # fmt: skip
    lines = [*(json.dumps(step) for step in steps), '{"torn": ']
    (run / "episodes/4.0.events.jsonl").write_text("\n".join(lines))
    (run / "episodes/3.0.events.jsonl").write_text(json.dumps({"opened": "x"}) + "\n")
    return run


def test_done_running_failed_exact_match_cost_and_slow_hosts_by_hand(folder):
    status = Watched(folder).look()
    assert (status.total, status.outcomes.total(), status.running, status.failed.total()) == (4, 2, 1, 1)
    assert status.exact == [1, 0]
    # Episodes charge nothing in their steps; the one under way twice a quarter.
    assert status.usd == 0.5
    hosts = {name: (round(host.mean_s, 2), len(host.seconds), host.failures) for name, host in status.hosts.items()}
    assert hosts["slow.example"] == (20.0, 1, 1)
    assert hosts["model.example"][1] == 3  # a reply in each of two records, and in the journal under way
    text = as_text(folder, status)
    assert "done 2 of 4 | running 1 | failed 1 | waiting 0" in text
    assert "EM so far 50.0% [0.0, 100.0] of 2 questions" in text
    assert "cost 0.5000 USD" in text
    assert text.index("slow.example: 20.00, 20.00, 1, 1") < text.index("model.example: 1.40")  # the slowest first
    assert "failed 1 times: HTTP 500: out of order" in text


def test_a_second_look_sees_what_has_changed(folder):
    watched = Watched(folder)
    watched.look()
    (folder / "episodes/4.0.events.jsonl").unlink()
    (folder / "episodes/4.0.json").write_text(json.dumps(EPISODES[3]))
    with (folder / "episodes/3.0.events.jsonl").open("a") as stream:
        stream.write(json.dumps({"opened": "again"}) + "\n")
    status = watched.look()
    assert (status.outcomes, status.running, status.failed) == ({"answered": 2, "budget": 1}, 1, {})
    os.utime(folder / "episodes/4.0.json", (time.time() - 300,) * 2)
    assert watched.look().per_minute == pytest.approx(3 / 5, rel=0.05)


@pytest.mark.parametrize("content", ["", "null", "[]", "5", "{}", '{"steps": null}', '{"steps": []}', '{"name": "x"}'])
def test_files_that_are_no_records_are_passed_over(folder, content):
    (folder / "episodes/3.0.json").write_text(content)
    (folder / "episodes/4.0.events.jsonl").write_text(f"{content}\n")
    status = Watched(folder).look()
    assert (status.outcomes.total(), status.running, status.failed) == (2, 2, {})
    assert "done 2 of 4 | running 2" in as_text(folder, status)


def test_the_command_shows_it_once_where_no_terminal_reads(folder, capsys):
    assert main(["--live", str(folder)]) == 0
    assert "waiting 0" in capsys.readouterr().out
    assert not (folder / "report").exists()
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"status": "interrupted"}))
    assert main(["--live", str(folder)]) == 0
    assert f"go on:  python -m src.run resume={folder}" in capsys.readouterr().out


def test_a_folder_without_a_rollout_is_refused(tmp_path, capsys):
    assert main(["--live", str(tmp_path)]) == 1
    assert "holds no run that can be read" in capsys.readouterr().err
    (tmp_path / "result.json").write_text(json.dumps({
        "status": "running", "name": "sft", "seed": 1, "started_at": "2026-01-01T00:00:00+00:00", "overrides": [],
    }))  # fmt: skip
    assert main(["--live", str(tmp_path)]) == 1
    assert "holds no rollout, so there is nothing to watch" in capsys.readouterr().err
