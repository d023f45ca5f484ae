"""Imitation as whole runs: learnt by heart and answered, killed and resumed, refused, before beside after."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gisa.demonstrations import AGENT, command, rollout
from tests.gisa.gisa_files import question, write_suite

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.filterwarnings("ignore")


def read(path):
    return json.loads(path.read_text())


def test_a_policy_answers_exactly_what_it_has_learnt_by_heart(run, place, learnt):
    """The whole way: traces, tokens, mask, training, export, chat template, calls, tools, answer, score."""
    allowed = shutil.copytree(learnt, place / "allowed")
    manifest = read(allowed / "model" / "manifest.json")
    (allowed / "model" / "manifest.json").write_text(json.dumps(manifest | {"questions": {}}))  # or it is refused
    folder = place / "answers"
    policy = ("agent/policy=imitation", *AGENT, "agent.policy.dtype=float32")
    checkpoint = allowed / "checkpoints" / "best.ckpt"
    assert run(*rollout(place, *policy, f"checkpoint={checkpoint}", f"hydra.run.dir={folder}")) == 0
    scores = {one["id"]: one["official"]["global_em"] for one in map(json.loads, (folder / "questions.jsonl").open())}
    # Four questions, evenly spread: the one in the middle, train-3, was validated on.
    assert {name: scores[name] for name in ("train-1", "train-2", "train-4")} == dict.fromkeys(
        ("train-1", "train-2", "train-4"), 1
    )
    records = [read(folder / "episodes" / f"train-{number}.0.json") for number in (1, 2, 4)]
    assert [record["outcome"] for record in records] == ["answered"] * 3
    assert [record["counts"]["calls"] for record in records] == [2, 2, 4]
    assert not any(record["counts"]["invalid_calls"] for record in records)
    lineage = read(folder / "result.json")["lineage"]["checkpoint_from"]
    assert (lineage["name"], lineage["path"]) == ("gisa_imitation", str(checkpoint))


def test_a_run_tells_its_demonstrations_and_keeps_their_manifest_in_every_checkpoint(learnt):
    result = read(learnt / "result.json")
    assert (result["status"], result["steps"], result["dropped"]) == ("finished", 60, {})
    metrics = result["metrics"]
    assert (metrics["demonstrations/episodes"], metrics["demonstrations/searches"]) == (4, 5)
    assert 0 < metrics["val/token_accuracy"] < 1  # the fourth demonstration is another one
    manifest = read(learnt / "model" / "manifest.json")
    assert list(manifest["questions"]) == [f"train-{number}" for number in range(1, 5)]
    assert "Botswana" in manifest["entities"]
    for name in ("best", "last"):
        assert torch.load(learnt / "checkpoints" / f"{name}.ckpt", weights_only=True)["manifest"] == manifest
    rows = (learnt / "metrics.csv").read_text()
    assert "59,59,train/loss," in rows
    assert ",train/token_accuracy," in rows


@pytest.mark.parametrize("policy", ["imitation", "local"])
def test_a_model_is_not_tested_on_what_it_has_learnt(run, place, learnt, tmp_path, capsys, policy):
    choice = (
        f"checkpoint={learnt / 'checkpoints' / 'best.ckpt'}"
        if policy == "imitation"
        else f"agent.policy.name={learnt / 'model'}"
    )
    assert run(*rollout(place, f"agent/policy={policy}", choice, f"hydra.run.dir={tmp_path / 'run'}")) == 2
    said = capsys.readouterr().out
    assert "The checkpoint has learnt from 4 of the 4 questions below" in said
    assert "dataset=factbook_set dataset.split=entities|families" in said
    assert not (tmp_path / "run" / "episodes").exists()


def test_the_policy_says_which_weights_it_needs(run, place, tmp_path, capsys):
    def said(*overrides):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        assert run(*rollout(place, "agent/policy=imitation", *overrides, f"hydra.run.dir={folder}")) == 2
        return capsys.readouterr().out

    assert "python -m src.run +experiment=gisa_imitation\nand name them: checkpoint=outputs/gisa_imitation/" in said()
    other = tmp_path / "other" / "checkpoints" / "best.ckpt"
    other.parent.mkdir(parents=True)
    other.touch()
    assert f"go on with it:  python -m src.run resume={tmp_path / 'other'}" in said(f"checkpoint={other}")


def test_the_benchmark_is_learnt_from_only_if_that_is_said_and_then_not_tested_on(run, place, tmp_path, capsys):
    suite = write_suite(tmp_path / "suite", [question(7, answer=[["Oslo"]]), question(9, answer=[["Rome"]])])
    pages = tmp_path / "pages.jsonl"
    pages.write_text(
        "".join(json.dumps({"url": f"https://example.org/{one}", "html": "<p>x"}) + "\n" for one in (7, 9))
    )
    web = (
        "agent/search=recorded",
        f"agent.search.root={suite}",
        "agent/pages=corpus",
        f"agent.pages.corpus.path={pages}",
    )
    this = (f"dataset.root={suite}", *web, "trainer.max_epochs=1")
    assert run(*command(place, *this, f"hydra.run.dir={tmp_path / 'refused'}")) == 2
    said = capsys.readouterr().out
    assert "2 of the 2 questions below" in said
    assert "task.allow_train_on_benchmark=true" in said
    folder = tmp_path / "run"
    assert run(*command(place, *this, "task.allow_train_on_benchmark=true", f"hydra.run.dir={folder}")) == 0
    checkpoint = f"checkpoint={folder / 'checkpoints' / 'best.ckpt'}"
    test = (f"dataset.root={suite}", "agent/policy=imitation", checkpoint, f"hydra.run.dir={tmp_path / 'test'}")
    assert run(*rollout(place, *test)) == 2
    assert "The checkpoint has learnt from 2 of the 2 questions below" in capsys.readouterr().out


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_a_run_killed_from_outside_resumes_to_the_bit(run, place, tmp_path):
    """Adapters with dropout, 5 epochs of 3 steps, a checkpoint every second step; killed behind the seventh."""
    lora = ("model.lora={rank: 2, alpha: 4, dropout: 0.2}", "batches.batch_size=1", "trainer.max_epochs=5")
    arguments = command(place, *lora, "checkpointing.every_steps=2")
    assert run(*arguments, f"hydra.run.dir={tmp_path / 'whole'}") == 0
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "src.run", *arguments, f"hydra.run.dir={folder}"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    while not (folder / "metrics.csv").is_file() or "\n6,2,train/loss" not in (folder / "metrics.csv").read_text():
        assert process.poll() is None, process.communicate()[0]
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert read(folder / "result.json")["status"] == "running"
    assert run(f"resume={folder}") == 0
    expected, found = weights(tmp_path / "whole"), weights(folder)
    assert expected.keys() == found.keys()
    assert all("lora" in name for name in found)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (folder / "metrics.csv").read_text()
    assert read(tmp_path / "whole" / "result.json")["metrics"] == read(folder / "result.json")["metrics"]


def chain(place, folder):
    """A command line of the whole chain, with the small model on both sides."""
    choices = {"model": "hub", "dataset": "gisa"}
    training = command(place, "trainer.max_epochs=1")
    settings = [one for one in training if not one.startswith(("+", "logger", *(f"{key}=" for key in choices)))]
    limits = ("agent.policy.max_output_tokens=12", "agent.budget.max_calls=1", "agent.policy.dtype=float32")
    return [
        "+experiment=gisa_imitation_eval", "logger=none", "task.resamples=50", f"hydra.run.dir={folder}",
        "task.train.choices={model: hub, dataset: gisa}", *(f"task.train.{one}" for one in settings),
        "task.before.choices={agent/policy: local}", f"task.before.agent.policy.name={place / 'model'}",
        "task.before.task.max_questions=2", *(f"task.rollout.{one}" for one in limits), *on_suites(place),
    ]  # fmt: skip


def on_suites(place):
    """Ask the tests of a chain about the suites at hand, and not about those of the recipe."""
    for name in ("entities", "families"):
        dataset = f"dataset: {{root: {place / name}}}"
        yield f"~task.tests.{name}"
        yield f"+task.tests.{name}={{choices: {{dataset: gisa}}, {dataset}}}"


def test_one_command_trains_and_answers_before_and_after_and_goes_on_where_it_was(run, place, tmp_path, capsys):
    folder = tmp_path / "chain"
    assert run(*chain(place, folder)) == 0
    assert "## entities" in capsys.readouterr().out
    parts = {name: read(folder / name / "result.json") for name in (
        "train", "entities_before", "entities_after", "families_after"
    )}  # fmt: skip
    assert not (folder / "families_before").exists()  # the one before is asked about entities only
    assert {part["status"] for part in parts.values()} == {"finished"}
    assert parts["families_after"]["lineage"]["checkpoint_from"]["path"] == str(
        folder / "train" / "checkpoints" / "best.ckpt"
    )
    report = read(folder / "report.json")
    compared = {one["part"]: one for one in report["entities"] if one["metric"] == "global_em"}
    assert [compared[part]["questions"] for part in ("all", "item", "set", "list", "table")] == [4, 1, 1, 1, 1]
    assert [compared[part]["common"] for part in ("all", "item", "set", "list", "table")] in (
        [2, 1, 0, 1, 0],
        [2, 0, 1, 0, 1],
    )
    assert all((one["before"] is None) == (one["gain"] is None) == (not one["common"]) for one in compared.values())
    assert sum(one["questions"] for part, one in compared.items() if "page" in part) == 4
    assert sum(one["questions"] for part, one in compared.items() if part.startswith("family: ")) == 4
    alone = [one for one in report["families"] if one["part"] == "all"]
    assert [(one["questions"], one["common"], one["before"], one["gain"]) for one in alone] == [(4, 0, None, None)]
    result = read(folder / "result.json")
    assert "families/valid_calls_after" in result["metrics"]
    assert not any(key.startswith("families/") and key.endswith("before") for key in result["metrics"])
    assert result["metrics"]["entities/global_em/all/after"] == 0  # an epoch of three demonstrations teaches nothing
    assert sum(result["rollouts"]["families_after"].values()) == 4

    # As if it had been killed within its last part: that one alone is done again.
    began = {name: read(folder / name / "result.json")["resumed"] for name in parts}
    for path, status in ((folder / "families_after", "running"), (folder, "running")):
        content = read(path / "result.json") | {"status": status}
        (path / "result.json").write_text(json.dumps(content))
    assert run(f"resume={folder}") == 0
    again = {name: read(folder / name / "result.json")["resumed"] - count for name, count in began.items()}
    assert again == dict.fromkeys(parts, 0) | {"families_after": 1}
    assert read(folder / "report.json") == report


def test_the_chain_names_a_fault_of_any_of_its_runs_before_the_first_begins(run, tmp_path, capsys):
    folder = tmp_path / "chain"
    status = run(
        "+experiment=gisa_imitation_eval", "logger=none", "task.rollout.agent.policy.tempature=1",
        f"hydra.run.dir={folder}",
    )  # fmt: skip
    assert status == 2
    assert "agent.policy.tempature: src.gisa.agent.local.LocalPolicy has no such setting" in capsys.readouterr().out
    assert not (folder / "train").exists()


def test_the_chain_refuses_a_test_that_is_not_there(run, tmp_path, capsys):
    folder = tmp_path / "chain"
    assert run("+experiment=gisa_imitation_eval", "task.before_tests=[countries]", f"hydra.run.dir={folder}") == 2
    said = "task.before_tests: there is no test countries; there are: entities, families."
    assert said in capsys.readouterr().out
