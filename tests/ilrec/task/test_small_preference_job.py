"""The preference recipes as real jobs on a small data set: lineage, kills, several processes."""

from pathlib import Path

import pytest
import torch

from src.ilrec.task.assemble import load_trained
from src.launch.storage import sha256_of
from tests.processes import finish, fork, fork_two
from tests.test_small_job import TWO, kill_at, ranks, result, weights

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = {
    "dpo": [],
    "sdpo": [],
    "rosepo": [],
    "sprec": ["batches.prompts_per_epoch=24", "trainer.max_epochs=4"],
    "grpo": ["batches.prompts_per_epoch=24", "stage.group_size=4"],
}


@pytest.fixture(scope="module")
def recipe(run, small_arguments, tmp_path_factory):
    """Return the command line of a recipe that goes on from a small supervised model."""
    folder = tmp_path_factory.mktemp("upstream")
    shared = [text for text in small_arguments[1:] if not text.startswith(("stage.layers=", "trainer.max_epochs="))]
    collaborative = [text for text in shared if not text.startswith(("tokenizer.", "model.", "prompt."))]
    sizes = ["model.hidden_size=8", "model.inner_size=8", "prompt.max_history=4", "prompt.stride=3"]
    assert run("+experiment=sft", *shared, "trainer.max_epochs=2", f"hydra.run.dir={folder / 'sft'}") == 0
    collaborative += [*sizes, "trainer.max_epochs=1"]
    assert run("+experiment=sasrec", *collaborative, f"hydra.run.dir={folder / 'sasrec'}") == 0
    upstream = [f"upstream.{name}={folder / name / 'checkpoints' / 'best.ckpt'}" for name in ("sft", "sasrec")]
    return lambda name: [f"+experiment={name}", *shared, "trainer.max_epochs=2", *upstream, *SMALL[name]]


@pytest.mark.parametrize("name", SMALL)
def test_every_recipe_runs_and_says_what_it_goes_on_from(run, recipe, tmp_path, name):
    arguments = recipe(name)
    assert run(*arguments, f"hydra.run.dir={tmp_path / name}") == 0
    content = result(tmp_path / name)
    assert (content["status"], content["evaluated_users"]) == ("finished", 24)
    upstream = dict(text.removeprefix("upstream.").split("=") for text in arguments if text.startswith("upstream."))
    expected = {"init_from": upstream["sft"]} | ({"reward_from": upstream["sasrec"]} if name == "rosepo" else {})
    assert {key: origin["path"] for key, origin in content["lineage"].items()} == expected
    for origin in content["lineage"].values():
        assert origin["sha256"] == sha256_of(Path(origin["path"]))
    assert load_trained(str(tmp_path / name / "checkpoints" / "best.ckpt")).stage.settings.seed == 1


def test_a_start_that_is_not_there_is_named_before_anything_is_built(run, recipe, tmp_path):
    assert run(*recipe("dpo"), "upstream.sft=nowhere.ckpt", f"hydra.run.dir={tmp_path / 'a'}") == 2
    assert "stage.init_from=nowhere.ckpt: no such file" in result(tmp_path / "a")["error"]["message"]


def test_rounds_of_self_play_killed_from_outside_resume_to_the_same_ranks_and_weights(run, recipe, tmp_path):
    arguments = [*recipe("sprec"), "checkpointing.every_steps=1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(*arguments, f"hydra.run.dir={whole}") == 0
    process = fork(*arguments, f"hydra.run.dir={killed}")
    log = killed / "metrics.csv"
    kill_at(process, lambda: log.is_file() and b"train/margin" in log.read_bytes())  # in the DPO epoch of a round
    assert result(killed)["status"] == "running"
    assert run(f"resume={killed}") == 0
    assert result(killed)["metrics"] == result(whole)["metrics"]
    assert ranks(killed) == ranks(whole)
    assert all(torch.equal(weight, weights(whole)[name]) for name, weight in weights(killed).items())


def test_two_processes_score_and_train_what_one_does(run, recipe, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = [*recipe("rosepo"), "trainer.max_epochs=1"]
    assert run(*arguments, f"hydra.run.dir={one}") == 0
    finish(*fork_two(*arguments, *TWO, f"hydra.run.dir={two}"))
    draws = [torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["draw"] for folder in (one, two)]
    assert draws[0]["key"] == draws[1]["key"]
    assert torch.equal(draws[0]["answers"], draws[1]["answers"])
    for name in ("reference", "smoothing"):
        torch.testing.assert_close(draws[0][name], draws[1][name], rtol=1e-4, atol=1e-4)
    for name, weight in weights(two).items():
        torch.testing.assert_close(weight, weights(one)[name], rtol=1e-3, atol=1e-4)
