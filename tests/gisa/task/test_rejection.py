"""Rounds of rejection sampling: one whole round on a small model, what a second one is given, what is refused."""

import json

import pytest

from src.gisa.task.rejection import RejectionTask
from tests.gisa.demonstrations import AGENT
from tests.gisa.task.test_imitation_eval import on_suites
from tests.gisa.task.test_learning import read

pytestmark = pytest.mark.filterwarnings("ignore")
PARTS = ("entities_round0", "families_round0", "round1_sample", "round1_train", "entities_round1", "families_round1")


def rejection(place, checkpoint, folder, *overrides):
    rollouts = (*AGENT, "agent.policy.dtype=float32", "evaluator.resamples=50")
    short = ("agent.policy.max_output_tokens=12", "agent.budget.max_calls=1")
    return [
        "+experiment=gisa_rejection", "logger=none", f"checkpoint={checkpoint}", "task.resamples=50",
        "task.temperature=0.05", "task.samples=2", "task.questions=3", *on_suites(place),
        *(f"task.tests.{name}.{one}" for name in ("entities", "families") for one in short),
        *(f"task.rollout.{one}" for one in rollouts),
        "task.train.trainer.max_epochs=1", "task.train.trainer.check_val_every_n_epoch=1",
        f"hydra.run.dir={folder}", *overrides,
    ]  # fmt: skip


def test_a_round_keeps_exact_episodes_trains_and_tests_and_goes_on_where_it_was(run, place, learnt, tmp_path, capsys):
    folder = tmp_path / "rejection"
    checkpoint = learnt / "checkpoints" / "best.ckpt"
    assert run(*rejection(place, checkpoint, folder)) == 0
    assert "# Rounds of rejection sampling" in capsys.readouterr().out
    results = {name: read(folder / name / "result.json") for name in PARTS}
    assert {one["status"] for one in results.values()} == {"finished"}
    assert results["round1_sample"]["protocol"]["questions"] == "learnt from, perhaps"
    # Two of the three that are asked have been learnt by heart; nearly greedy attempts at them are the traces again.
    metrics = results["round1_train"]["metrics"]
    assert (metrics["demonstrations/own_sampled"], metrics["demonstrations/own_questions"]) == (6, 2)
    assert metrics["demonstrations/own_episodes"] <= metrics["demonstrations/own_exact"] <= 4
    manifest = read(folder / "round1_train" / "model" / "manifest.json")
    assert list(manifest["questions"]) == [f"train-{number}" for number in range(1, 5)]  # no test question
    assert results["families_round1"]["lineage"]["checkpoint_from"]["path"] == str(
        folder / "round1_train" / "checkpoints" / "best.ckpt"
    )
    assert read(folder / "result.json")["lineage"]["checkpoint_from"]["path"] == str(checkpoint)
    assert read(folder / "report.json").keys() == {"entities", "families"}
    assert "families/global_em/all/round1" in read(folder / "result.json")["metrics"]

    # As if it had been killed within its last part: that one alone is done again.
    for path in (folder / "families_round1", folder):
        (path / "result.json").write_text(json.dumps(read(path / "result.json") | {"status": "running"}))
    assert run(f"resume={folder}") == 0
    again = {name: read(folder / name / "result.json")["resumed"] for name in PARTS}
    assert again == dict.fromkeys(PARTS, 0) | {"families_round1": 1}


def task(**changes):
    settings = {
        "checkpoint": "a/checkpoints/best.ckpt", "rounds": 2, "samples": 4, "temperature": 0.7, "questions": 240,
        "keep": 2, "train": {"x": 1}, "rollout": {"experiment": "gisa_rollout", "y": 1},
        "sample": {"choices": {"dataset": "factbook_set"}}, "tests": {"entities": {"dataset": {"split": "entities"}}},
        "resamples": 50,
    }  # fmt: skip
    return RejectionTask(**{**settings, **changes})


def test_a_second_round_asks_the_first_rounds_policy_and_learns_from_the_episodes_of_both(tmp_path):
    trained = {
        "overrides": ["+experiment=gisa_imitation", "dataset=gisa", "dataset.root=r", "model.lora.rank=8"],
        "config": {"task": {"episodes_from": ["earlier"]}},
    }
    two = task()
    children = two._children(tmp_path, trained)
    assert list(children) == [
        "entities_round0", "round1_sample", "round1_train", "entities_round1", "round2_sample", "round2_train",
        "entities_round2",
    ]  # fmt: skip
    policy = ["+experiment=gisa_rollout", "agent/policy=imitation"]
    first = str(tmp_path / "round1_train" / "checkpoints" / "best.ckpt")
    assert children["round1_sample"].settings["checkpoint"] == "a/checkpoints/best.ckpt"
    assert children["entities_round1"].recipe == policy
    test = {"checkpoint": first, "dataset": {"split": "entities"}, "y": 1}
    assert children["entities_round1"].settings == test
    sample = children["round2_sample"]
    assert sample.recipe == [*policy, "dataset=factbook_set", "dataset=gisa", "dataset.root=r"]
    assert sample.settings == {
        "checkpoint": first, "y": 1, "agent": {"policy": {"temperature": 0.7}},
        "task": {"samples": 4, "max_questions": 240, "allow_contaminated": True},
    }  # fmt: skip
    episodes = ["earlier", str(tmp_path / "round1_sample"), str(tmp_path / "round2_sample")]
    train = children["round2_train"]
    assert train.recipe == trained["overrides"]
    # A report tells policies apart by the name.
    assert train.settings == {
        "x": 1, "task": {"episodes_from": episodes, "keep": 2}, "name": "gisa_round2_train",
    }  # fmt: skip
    assert children["round1_train"].settings["task"]["episodes_from"] == episodes[:2]
    assert two.pairs == [("round0", "round1"), ("round1", "round2"), ("round0", "round2")]
    assert task(rounds=1).pairs == [("round0", "round1")]


def test_what_cannot_be_sampled_or_trained_again_is_refused(run, tmp_path, capsys):
    def said(*overrides):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        assert run("+experiment=gisa_rejection", "logger=none", *overrides, f"hydra.run.dir={folder}") == 2
        assert not (folder / "entities_round0").exists()
        return capsys.readouterr().out

    assert "python -m src.run +experiment=gisa_imitation\nand name them: checkpoint=outputs/gisa_imitation/" in said()
    for name in ("rounds", "samples", "keep", "questions"):
        assert f"task.{name}=0: I need a whole number of at least 1." in said(f"task.{name}=0")
    assert "task.temperature=0.0: I need a number above 0" in said("task.temperature=0.0")
    other = tmp_path / "other"
    for name in ("checkpoints/best.ckpt", "model/manifest.json"):
        (other / name).parent.mkdir(parents=True)
        (other / name).touch()
    (other / "result.json").write_text(json.dumps({"name": "gisa_grpo", "config": {"task": {"_target_": "other"}}}))
    told = said(f"checkpoint={other / 'checkpoints' / 'best.ckpt'}")
    assert "was trained by gisa_grpo" in told
    assert "Type:  checkpoint=outputs/gisa_imitation/<run>/checkpoints/best.ckpt" in told
