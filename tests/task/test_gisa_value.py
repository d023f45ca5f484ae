"""The recipe as a whole run on rollouts that were made up: files, resume, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.report.answered_runs import episode, write_answered_run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")
RIGHT = {"1": "x\namber", "2": "x\na\nb", "3": "x\nx\ny\nz", "4": "A\tB\n1\t2\n3\t4"}


def attempt(name, sample, *, right, **changes):
    """Whoever reads the page is right; whoever searches on is wrong."""
    value = {"tool": "visit", "urls": [f"https://example.org/{name}"], "content": RIGHT[name]}
    if not right:
        value = {"tool": "search", "query": "other", "content": "Nothing.", "urls": []}
    answer = RIGHT[name] if right else f"x\nwrong {sample}"
    steps = [{"key": "call/0/0", "value": value}]
    return episode(name, f"```tsv\n{answer}\n```", sample=sample, **{"steps": steps, **changes})


def write_rollout(folder, samples=3, rights=1, **settings):
    records = [attempt(name, sample, right=sample < rights) for name in RIGHT for sample in range(samples)]
    return write_answered_run(folder, records, **settings)


def command(rollout, folder, *overrides):
    return [
        "+experiment=gisa_value", "logger=none", f"predictions={rollout}", "data.folds=2", "task.resamples=50",
        "trainer.max_epochs=60", f"hydra.run.dir={folder}", *overrides,
    ]  # fmt: skip


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a rollout of three attempts at each question, the first of them right."""
    folder = tmp_path_factory.mktemp("value")
    write_rollout(folder / "rollout")
    return folder


def test_values_of_held_out_questions_choose_the_attempt_that_read_the_page(run, place, capsys):
    folder = place / "run"
    assert run(*command(place / "rollout", folder)) == 0
    assert "| k=3 |" in capsys.readouterr().out
    result, content = read(folder / "result.json"), read(folder / "value.json")
    assert (result["status"], result["steps"], result["evaluated_questions"]) == ("finished", 60, 4)
    assert (result["outcomes"], result["protocol"]["attempts"]) == ({"answered": 12}, 3)
    last = content["chosen"][-1]
    # Three different answers: a vote is a lot, and the right one is in three.
    assert [last[by]["mean"] for by in ("by_value", "majority", "random", "best")] == pytest.approx(
        [1, 1 / 3, 1 / 3, 1]
    )
    assert last["over_majority"] == pytest.approx({"mean": 2 / 3, "low": 2 / 3, "high": 2 / 3})
    assert result["metrics"]["exact@3/by_value"] == 1
    assert result["metrics"]["answered/order/value_model"] > 0.5
    assert [len(json.loads(line)["values"]) for line in (folder / "episodes.jsonl").open()] == [3] * 12
    assert ",train/held_out_loss," in (folder / "metrics.csv").read_text()
    assert "\n60," in (folder / "metrics.csv").read_text()  # the comparison
    assert "nan" not in (folder / "value.md").read_text()
    for ending in ("png", "svg"):
        assert (folder / f"value.{ending}").stat().st_size > 1000


def test_attempts_of_several_runs_are_taken_together(run, place):
    write_rollout(place / "two" / "a", samples=1)
    write_rollout(place / "two" / "b", samples=2, rights=0, seed=2)
    assert run(*command(place / "two", place / "together")) == 0
    result = read(place / "together" / "result.json")
    assert result["protocol"]["attempts"] == 3
    assert [Path(one).name for one in result["rollouts"]] == ["a", "b"]


def test_a_run_killed_from_outside_resumes_to_the_bit(run, place, tmp_path):
    long = ("trainer.max_epochs=150", "trainer.log_every_n_steps=1")
    assert run(*command(place / "rollout", tmp_path / "whole", *long)) == 0
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "src.run", *command(place / "rollout", folder, *long)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    while not (folder / "metrics.csv").is_file() or "\n5," not in (folder / "metrics.csv").read_text():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert read(folder / "result.json")["status"] == "running"
    assert run(f"resume={folder}") == 0
    expected, found = (
        torch.load(one / "checkpoints" / "last.ckpt", weights_only=True) for one in (tmp_path / "whole", folder)
    )
    assert expected["stage"] == found["stage"] == "GisaValue"
    assert all(torch.equal(weight, found["state_dict"][name]) for name, weight in expected["state_dict"].items())
    for name in ("metrics.csv", "value.json", "value.md", "episodes.jsonl"):
        assert (tmp_path / "whole" / name).read_text() == (folder / name).read_text()


@pytest.fixture
def said(run, tmp_path, capsys):
    """Run on a folder that is refused; return what is said."""

    def call(rollout, *overrides):
        assert run(*command(rollout, tmp_path / "refused", *overrides)) == 2
        return capsys.readouterr().out

    return call


def test_one_attempt_at_each_question_leaves_nothing_to_choose(tmp_path, said):
    write_rollout(tmp_path / "one", samples=1)
    text = said(tmp_path / "one")
    assert "has one attempt at each of 4 questions; to choose, I need at least two" in text
    assert "+experiment=gisa_rollout task.samples=8" in text


def test_rollouts_of_other_questions_or_answers_are_not_mixed(tmp_path, said):
    for name in "ab":
        write_rollout(tmp_path / "both" / name)
    result = read(tmp_path / "both" / "b" / "result.json")
    result["protocol"]["dataset"] = "gisa (0123456789ab)"
    (tmp_path / "both" / "b" / "result.json").write_text(json.dumps(result))
    text = said(tmp_path / "both")
    assert f"{tmp_path / 'both' / 'b'} and {tmp_path / 'both' / 'a'} are of different questions or answers" in text
    assert "task.max_questions" in text


def test_a_rollout_that_is_not_finished_is_refused(tmp_path, said):
    write_rollout(tmp_path / "run")
    result = read(tmp_path / "run" / "result.json") | {"status": "failed"}
    (tmp_path / "run" / "result.json").write_text(json.dumps(result))
    assert f"is failed, and I need finished rollouts.\nGo on with it:  python -m src.run resume={tmp_path}" in said(
        tmp_path
    )


def test_missing_records_are_told(tmp_path, said):
    write_rollout(tmp_path / "run")
    (tmp_path / "run" / "episodes" / "2.1.json").unlink()
    assert "Some questions have 3 attempts, and others fewer, such as 2: records are missing" in said(tmp_path)


def test_a_record_that_is_cut_short_is_named(tmp_path, said):
    write_rollout(tmp_path / "run")
    (tmp_path / "run" / "episodes" / "2.1.json").write_text('{"question_id": "2"')
    assert "2.1.json is not the record of an episode: JSONDecodeError" in said(tmp_path)


def test_runs_without_episodes_are_no_rollouts(place, said):
    folder = place / "other"
    folder.mkdir()
    result = read(place / "rollout" / "result.json")
    (folder / "result.json").write_text(json.dumps(result))
    assert "none of the runs there has episodes/" in said(folder)


def test_folds_are_counted(place, said):
    assert "data.folds=5, and there are 4 questions" in said(place / "rollout", "data.folds=5")
