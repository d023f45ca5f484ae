"""The real job on a small data set: kills, sweeps, several processes, and what a user sees."""

import json
import os
import random
import signal
import time
from unittest.mock import ANY

import pytest
import torch

from src.report.__main__ import main as report
from src.report.runs import find_runs
from tests.processes import finish, fork, fork_two, start, torchrun_two

pytestmark = pytest.mark.filterwarnings("ignore")


def result(folder):
    return json.loads((folder / "result.json").read_text())


def ranks(folder):
    import pandas as pd

    return pd.read_parquet(folder / "ranks.parquet").to_dict("list")


def weights(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def whole(run, small_arguments, tmp_path_factory):
    """Folder of the run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert run(*small_arguments, f"hydra.run.dir={folder}") == 0
    return folder


def kill_at(process, moment):
    """Kill a process for which ``moment()`` holds; it is halted first, so that it cannot slip away from it."""
    while not moment() or not halted_at(process, moment):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.0005)  # of CPU time that the process needs; a write takes longer
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def halted_at(process, moment):
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    if moment():
        return True
    process.send_signal(signal.SIGCONT)
    return False


def in_training(folder):
    """Somewhere between the first and the last of 28 steps, each of which logs about ten figures."""
    rows, log = random.randrange(2, 200), folder / "metrics.csv"
    print(f"to be killed behind row {rows} of metrics.csv")
    return lambda: log.is_file() and log.read_bytes().count(b"\n") > rows


def in_a_write(folder):
    """Between the first bytes of a later checkpoint and its renaming."""
    return lambda: (folder / "checkpoints" / "last.ckpt").is_file() and any(folder.glob("checkpoints/.last.ckpt.*.tmp"))


def a_process(*arguments):
    return start("src.run", *arguments)


@pytest.mark.parametrize(("begin", "moment"), [(a_process, in_training), (fork, in_a_write)])
def test_a_job_killed_from_outside_resumes_to_the_same_ranks_and_weights(
    run, small_arguments, whole, tmp_path, begin, moment
):
    folder = tmp_path / "killed"
    process = begin(*small_arguments, "checkpointing.every_steps=2", f"hydra.run.dir={folder}")
    kill_at(process, moment(folder))
    assert result(folder)["status"] == "running"
    assert any(folder.glob("checkpoints/.*.tmp")) or moment is in_training
    assert run(f"resume={folder}") == 0
    assert result(folder)["status"] == "finished"
    assert result(folder)["metrics"] == result(whole)["metrics"]
    assert ranks(folder) == ranks(whole)
    assert all(torch.equal(weight, weights(whole)[name]) for name, weight in weights(folder).items())
    assert not list(folder.rglob("*.tmp"))


def test_stage_two_killed_from_outside_resumes_to_the_same_ranks_and_weights(run, small_arguments, whole, tmp_path):
    model = ("tokenizer.", "model.", "stage.", "prompt.")
    collaborative = [text for text in small_arguments[1:] if not text.startswith(model)]
    sizes = ["model.hidden_size=8", "model.inner_size=8", "prompt.max_history=4", "prompt.stride=3"]
    reward_model = tmp_path / "sasrec"
    assert run("+experiment=sasrec", *collaborative, *sizes, f"hydra.run.dir={reward_model}") == 0
    upstream = {"ilrec_stage1": whole, "sasrec": reward_model}
    paths = {name: str(folder / "checkpoints" / "best.ckpt") for name, folder in upstream.items()}
    arguments = ["+experiment=ilrec_stage2", *small_arguments[1:], "checkpointing.every_steps=2"]
    arguments += [f"upstream.{name}={path}" for name, path in paths.items()]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert run(*arguments, f"hydra.run.dir={undisturbed}") == 0
    kill_at(fork(*arguments, f"hydra.run.dir={killed}"), in_training(killed))
    assert run(f"resume={killed}") == 0
    assert result(killed)["metrics"] == result(undisturbed)["metrics"]
    assert ranks(killed) == ranks(undisturbed)
    assert all(torch.equal(weight, weights(undisturbed)[name]) for name, weight in weights(killed).items())
    assert result(killed)["config"]["stage"]["reward_excludes_history"] is None  # to be decided by the data
    assert result(killed)["reward_excludes_history"] is False
    origins = {key: (origin["path"], origin["name"]) for key, origin in result(killed)["lineage"].items()}
    assert origins == {
        "init_from": (paths["ilrec_stage1"], "ilrec_stage1"),
        "reward_from": (paths["sasrec"], "sasrec"),
    }


def test_of_three_seeds_one_job_fails_and_the_report_counts_it_beside_the_mean_of_the_others(
    run, small_arguments, tmp_path, capsys
):
    # Seed 3 asks for 3 intermediate blocks, of which a model of 3 blocks has 2.
    sweep = tmp_path / "sweep"
    changes = ["model.num_layers=3", "stage.layers=${seed}", "trainer.max_epochs=1"]
    assert run(*small_arguments, *changes, "-m", "seed=1,2,3", f"hydra.sweep.dir={sweep}") == 1
    runs = find_runs([sweep])
    assert [(one.seed, one.status) for one in runs] == [(1, "finished"), (2, "finished"), (3, "failed")]
    assert "InputError: stage.layers=3: a model of 3 blocks has 2 intermediate ones" in str(runs[2].error)
    capsys.readouterr()
    assert report([str(sweep)]) == 0
    text = capsys.readouterr().out
    assert "Runs: 2 finished, 1 failed" in text
    assert f"{(runs[0].metrics['test/ndcg@10'] + runs[1].metrics['test/ndcg@10']) / 2:.4f} ± " in text


TWO = ["trainer.strategy=ddp", "trainer.devices=2"]


def test_two_processes_evaluate_a_checkpoint_as_one_does(run, small_arguments, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    only_evaluate = [
        *small_arguments,
        f"stage.init_from={whole / 'checkpoints' / 'best.ckpt'}",
        "trainer.max_epochs=0",
        "batches.evaluation_batch_size=5",
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(*only_evaluate, f"hydra.run.dir={one}") == 0
    output = finish(torchrun_two(*only_evaluate, *TWO, f"hydra.run.dir={two}"))
    assert output.count("test metrics") == 1
    for folder in (one, two):
        assert result(folder)["evaluated_users"] == 24
        assert sorted(ranks(folder)["user"]) == sorted(f"u{user}" for user in range(24))
        assert ranks(folder) == ranks(whole)
        # Nothing was trained here, so there is no validation to tell of.
        assert result(whole)["metrics"] == {**result(folder)["metrics"], "val/ndcg@10": ANY}
    assert not list(tmp_path.glob("rank-*"))


def test_two_processes_train_what_one_trains(run, small_arguments, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    alike = [*small_arguments, "model.dropout=0.0", "trainer.max_epochs=1"]  # dropout differs by process
    assert run(*alike, f"hydra.run.dir={one}") == 0
    finish(*fork_two(*alike, *TWO, f"hydra.run.dir={two}"))
    assert result(two)["evaluated_users"] == 24
    for name, weight in weights(two).items():
        # Sums in another order; AdamW's steps of 2e-3 hardly enlarge the difference in 7 steps.
        torch.testing.assert_close(weight, weights(one)[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_a_job_trains_in_lower_precision(run, small_arguments, tmp_path, precision):
    import pandas as pd

    job = [*small_arguments, f"trainer.precision={precision}", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}"]
    assert run(*job) == 0
    rows = pd.read_csv(tmp_path / "metrics.csv")
    losses = rows[rows["metric"] == "train/loss"]["value"]
    assert len(losses) == 7
    assert losses.iloc[-1] < losses.iloc[0]
