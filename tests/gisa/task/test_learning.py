"""Imitation and GRPO as whole runs: learnt by heart and answered, killed and resumed to the bit, refused."""

import json
import shutil
import signal
import time

import pytest
import torch

from src.gisa.stage.grpo import GrpoStage
from tests.gisa.demonstrations import AGENT, command, rollout
from tests.gisa.gisa_files import question, write_suite
from tests.processes import fork

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
    assert "- The model's chat template drops the tools" in (folder / "summary.md").read_text()
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
    process = fork(*arguments, f"hydra.run.dir={folder}")
    while not (folder / "metrics.csv").is_file() or "\n6,2,train/loss" not in (folder / "metrics.csv").read_text():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.001)
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


def grpo(place, checkpoint, folder, *overrides):
    return [
        "+experiment=gisa_grpo", "logger=none", "dataset=gisa", f"dataset.root={place / 'train'}", *AGENT,
        f"checkpoint={checkpoint}", "agent.policy.temperature=0.3",
        "model.dtype=float32", "model.lora.rank=2", "batches.validation_questions=1", "batches.batch_size=1",
        "stage.group_size=2", "stage.learning_rate=1e-2", "trainer.precision=32-true", "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false", "trainer.max_epochs=2", "trainer.max_steps=4",
        "trainer.val_check_interval=1.0", "checkpointing.every_steps=1", f"hydra.run.dir={folder}", *overrides,
    ]  # fmt: skip


def curves(folder):
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    found = {}
    for number, _, name, value in rows:
        found.setdefault(name, {})[int(number)] = float(value)
    return found


def test_a_policy_learns_from_real_rollouts_resumes_to_the_bit_and_answers(run, place, learnt, tmp_path, monkeypatch):
    checkpoint = learnt / "checkpoints" / "best.ckpt"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(*grpo(place, checkpoint, whole)) == 0
    found = curves(whole)
    for name in ("reward", "em", "valid_calls", "calls", "tokens", "process", "answered", "mixed_groups", "loss"):
        assert sorted(found[f"train/{name}"]) == [0, 1, 2, 3], name
    # It begins with questions learnt by heart.
    assert max(found["train/em"].values()) > 0
    assert all(0 <= value <= 8 for value in found["train/calls"].values())
    assert set(found["train/em"].values()) <= {0.0, 0.5, 1.0}
    result = read(whole / "result.json")
    assert (result["status"], result["steps"]) == ("finished", 4)
    assert {"val/em", "val/reward", "val/valid_calls"} <= result["metrics"].keys()
    assert result["lineage"]["checkpoint_from"]["name"] == "gisa_imitation"
    before, after = (read(one / "model" / "manifest.json") for one in (learnt, whole))
    assert before == after  # the same four questions
    assert torch.load(whole / "checkpoints" / "best.ckpt", weights_only=True)["manifest"] == after

    step = GrpoStage.training_step

    def stopped(self, batch, batch_idx):
        if self.global_step == 2:
            raise RuntimeError("pulled plug")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(GrpoStage, "training_step", stopped)
        assert run(*grpo(place, checkpoint, cut)) == 1
    assert run(f"resume={cut}") == 0
    first, second = weights(whole), weights(cut)
    assert all("lora" in name for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert curves(cut) == found

    # It is loaded as any trained policy is, and is not tested on what it has learnt from.
    folder = tmp_path / "answers"
    best = f"checkpoint={whole / 'checkpoints' / 'best.ckpt'}"
    limits = (*AGENT, "agent.policy.dtype=float32", "agent.policy.max_output_tokens=12", "agent.budget.max_calls=1")
    arguments = rollout(place, "agent/policy=imitation", *limits, best, f"hydra.run.dir={folder}")
    assert run(*arguments, f"dataset.root={place / 'families'}") == 0
    assert sum(read(folder / "result.json")["outcomes"].values()) == 4
    assert run(*arguments, f"hydra.run.dir={tmp_path / 'refused'}") == 2


def test_what_it_cannot_begin_with_is_refused(run, place, learnt, tmp_path, capsys):
    def said(checkpoint, *overrides):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        arguments = [one for one in grpo(place, checkpoint, folder) if checkpoint or "checkpoint=" not in one]
        assert run(*arguments, *overrides) == 2
        return capsys.readouterr().out

    assert "checkpoint: needs a value; type checkpoint=..." in said(None)
    assert "and name them: checkpoint=outputs/gisa_imitation/" in said(tmp_path / "none.ckpt")
    other = tmp_path / "other" / "checkpoints" / "best.ckpt"
    other.parent.mkdir(parents=True)
    other.touch()
    assert "holds no model/ with manifest.json" in said(other)
    checkpoint = learnt / "checkpoints" / "best.ckpt"
    assert "4 of the 4 questions below" in said(checkpoint, f"dataset.root={place / 'families'}")
    assert "batches.validation_questions=4, and 4 question(s) have an answer" in said(
        checkpoint, "batches.validation_questions=4"
    )
    assert "batches.batch_size=0: I need a whole number of at least 1" in said(checkpoint, "batches.batch_size=0")


def test_every_question_of_training_and_validation_is_in_the_manifest_and_no_other(place):
    from src.gisa.batches.data import QuestionData
    from src.gisa.dataset.gisa import Gisa

    data = QuestionData(
        suite=Gisa(str(place / "train")), seed=1, batch_size=2, training_questions=2, validation_questions=1,
        allow_train_on_benchmark=False,
    )  # fmt: skip
    assert data.manifest["questions"].keys() == {one.question.id for one in data.questions}
    assert sorted(data.training + data.validation) == [0, 1, 2]
    assert [sorted(batch.tolist()) for batch in data.train_dataloader()] == [sorted(data.training)]
    assert all(one.cells and one.human_urls for one in data.questions)
    notes = json.loads((place / "train" / "suite.json").read_text())
    entities = {name for one in data.questions for name in notes[one.question.id]["entities"]}
    assert data.manifest["entities"] == sorted(entities)
