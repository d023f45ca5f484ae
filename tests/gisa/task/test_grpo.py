"""GRPO for the agent as whole runs: real rollouts on the embedded web, resumed to the bit, loaded again, refused."""

import json

import pytest
import torch

from src.gisa.stage.grpo import GrpoStage
from tests.gisa.demonstrations import AGENT, rollout
from tests.gisa.task.test_imitation import read, weights

pytestmark = pytest.mark.filterwarnings("ignore")


def command(place, checkpoint, folder, *overrides):
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
    assert run(*command(place, checkpoint, whole)) == 0
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
        assert run(*command(place, checkpoint, cut)) == 1
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
        arguments = [one for one in command(place, checkpoint, folder) if checkpoint or "checkpoint=" not in one]
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
