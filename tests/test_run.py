import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.report.runs import find_runs

ROOT = Path(__file__).parents[1]
# Lightning warns of short epochs, of batches without workers and the like.
pytestmark = pytest.mark.filterwarnings("ignore")


def result(folder):
    return json.loads((folder / "result.json").read_text())


def outcome(folder):
    """Everything about a finished run that must not depend on whether it was killed and resumed."""
    import pandas as pd

    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    weights = {name: value.tolist() for name, value in last["state_dict"].items()}
    ranks = pd.read_parquet(folder / "ranks.parquet").to_dict("list")
    return result(folder)["status"], result(folder)["metrics"], ranks, last["global_step"], weights


def test_a_run_leaves_a_whole_folder(run, toy_arguments, tmp_path, capsys):
    folder = tmp_path / "a"
    assert run(*toy_arguments, "seed=3", f"hydra.run.dir={folder}") == 0
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {
        "config.yaml", "result.json", "metrics.csv", "run.log", "ranks.parquet", "best.ckpt", "last.ckpt",
        "items.index.json",
    }  # fmt: skip
    content = result(folder)
    assert content.keys() == {
        "status", "name", "seed", "metrics", "error", "config", "overrides", "versions", "commit", "dirty",
        "started_at", "finished_at", "timings_s", "steps", "peak_memory_mib", "evaluated_users", "protocol",
        "lineage", "resumed",
    }  # fmt: skip
    assert content["overrides"] == ["+experiment=toy", "seed=3"]
    assert content["protocol"] == {
        "exclude_history": False, "dataset": "toy (ffffffffffff)", "max_users": None,
    }  # fmt: skip
    assert (content["status"], content["seed"], content["evaluated_users"]) == ("finished", 3, 24)
    timings = content["timings_s"]
    assert timings["total"] == pytest.approx(timings["prepare"] + timings["fit"] + timings["test"], abs=0.002)
    assert find_runs([folder])[0].label == "toy"
    printed = capsys.readouterr().out
    assert f"{content['metrics']['test/ndcg@10']:.4f}" in printed
    assert "toy (ffffffffffff)" in printed


def test_the_same_seed_gives_the_same_result(run, toy_arguments, tmp_path):
    for name in "ab":
        assert run(*toy_arguments, f"hydra.run.dir={tmp_path / name}") == 0
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")


def test_all_faults_of_the_command_line_end_in_one_list(run, toy_arguments, tmp_path, caplog):
    assert run(*toy_arguments, f"hydra.run.dir={tmp_path / 'a'}", "stage.lrr=1", "sed=3", "trainer.max_epoch=2") == 2
    message = result(tmp_path / "a")["error"]["message"]
    for text in ("did you mean lr?", "did you mean seed?", "did you mean max_epochs?"):
        assert text in message
    assert result(tmp_path / "a")["status"] == "failed"


def test_a_typo_in_a_recipe_is_found_too(run, toy_arguments, tmp_path):
    recipe = Path(toy_arguments[1]) / "experiment" / "toy.yaml"
    recipe.write_text(recipe.read_text() + "stage: {lrr: 0.2}\n")
    assert run(*toy_arguments, f"hydra.run.dir={tmp_path / 'a'}") == 2
    assert "stage.lrr: stand_in_parts.Stage has no such setting" in result(tmp_path / "a")["error"]["message"]


def test_an_unknown_experiment_is_answered_with_those_there_are(run, capsys):
    assert run("+experiment=unknown") == 2
    message = capsys.readouterr().err
    assert "Could not find 'experiment/unknown'" in message
    for recipe in (ROOT / "conf" / "experiment").glob("*.yaml"):
        assert recipe.stem in message


def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_is(run, toy_arguments, tmp_path, capsys):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "result.json").write_text("mine")
    assert run(*toy_arguments, f"hydra.run.dir={folder}") == 2
    assert f"python -m src.run resume={folder}" in (folder / "run.log").read_text()
    assert (folder / "result.json").read_text() == "mine"


def test_one_failing_job_is_recorded_and_the_others_finish(run, toy_arguments, tmp_path):
    sweep = tmp_path / "sweep"
    assert run(*toy_arguments, "-m", f"hydra.sweep.dir={sweep}", "stage.fail_in_epoch=1,null", "+sweep=seeds") == 1
    runs = find_runs([sweep])
    assert [(one.seed, one.status) for one in runs] == [
        (1, "failed"), (1, "finished"), (2, "failed"), (2, "finished"), (3, "failed"), (3, "finished"),
    ]  # fmt: skip
    assert str(runs[0].error) == "FloatingPointError: loss is NaN"
    assert {one.label for one in runs} == {"toy stage.fail_in_epoch=1", "toy stage.fail_in_epoch=null"}


def test_a_sweep_that_is_typed_once_more_does_what_is_left_of_it(run, toy_arguments, tmp_path):
    sweep, whole = tmp_path / "sweep", tmp_path / "whole"
    assert run(*toy_arguments, "-m", "seed=1", f"hydra.sweep.dir={sweep}") == 0
    (first,) = sweep.glob("*/result.json")
    before = first.read_bytes()
    # The second one was killed before its first checkpoint.
    assert run(*toy_arguments, "-m", "seed=1,2", f"hydra.sweep.dir={whole}") == 0
    (second,) = whole.glob("*seed2")
    shutil.copytree(second, sweep / second.name)
    shutil.rmtree(sweep / second.name / "checkpoints")
    killed = result(second) | {"status": "running", "metrics": {}}
    killed = json.loads(json.dumps(killed).replace(str(whole), str(sweep)))
    (sweep / second.name / "result.json").write_text(json.dumps(killed))
    config = (second / "config.yaml").read_text().replace(str(whole), str(sweep))
    (sweep / second.name / "config.yaml").write_text(config)
    assert run(*toy_arguments, "-m", "seed=1,2", f"hydra.sweep.dir={sweep}") == 0
    assert first.read_bytes() == before
    assert outcome(sweep / second.name) == outcome(second)
    assert result(sweep / second.name)["resumed"] == 1
    # Another config is another run, for which there is no room.
    assert run(*toy_arguments, "-m", "seed=1", "trainer.max_epochs=1", f"hydra.sweep.dir={sweep}") == 2
    assert first.read_bytes() == before


def test_a_sweep_over_recipes_runs_where_the_command_line_names_no_folder(run, toy_arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipes = Path(toy_arguments[1]) / "experiment"
    text = (recipes / "toy.yaml").read_text()
    (recipes / "other.yaml").write_text(text.replace("name: toy", "name: other"))
    assert run("-m", *toy_arguments[:2], "+experiment=toy,other") == 0
    runs = find_runs([tmp_path / "outputs" / "sweeps"])
    assert {one.label for one in runs} == {"toy", "other"}


@pytest.mark.parametrize(
    ("launcher", "options"),
    [("submitit_local", []), ("joblib", ["hydra.launcher.n_jobs=2"]), ("ray", ["+hydra.launcher.ray.init.num_cpus=2"])],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_launcher_plugin_runs_the_jobs_of_a_sweep_in_processes_of_their_own_and_tells_of_one_that_failed(
    run, toy_arguments, tmp_path, monkeypatch, launcher, options
):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
    sweep = tmp_path / "sweep"
    jobs = ["-m", "seed=5", "stage.fail_in_epoch=1,null", f"hydra/launcher={launcher}", *options]
    assert run(*toy_arguments, *jobs, f"hydra.sweep.dir={sweep}") == 1
    assert sorted((one.seed, one.status) for one in find_runs([sweep])) == [(5, "failed"), (5, "finished")]
    if launcher == "submitit_local":
        assert list((sweep / ".submitit").glob("*/*_submission.sh")) or list((sweep / ".submitit").glob("*/*.out"))


def test_several_devices_in_a_sweep_are_left_to_a_launcher_plugin_and_refused_without_one(run, toy_arguments, tmp_path):
    sweep = tmp_path / "sweep"
    assert run(*toy_arguments, "-m", "seed=5", "trainer.devices=2", f"hydra.sweep.dir={sweep}") == 2
    assert "would start its jobs over in every process" in str(find_runs([sweep])[0].error)


def test_a_folder_of_configs_of_the_users_own_adds_groups_recipes_and_targets(run, toy_arguments, tmp_path):
    option, conf, recipe = toy_arguments
    (Path(conf) / "variant").mkdir()
    for name, rate in (("a", 0.1), ("b", 0.25)):
        (Path(conf) / "variant" / f"{name}.yaml").write_text(f"rate: {rate}\n")
    text = (Path(conf) / "experiment" / "toy.yaml").read_text()
    text = text.replace("defaults:\n", "defaults:\n  - /variant: a\n") + "stage: {lr: '${variant.rate}'}\n"
    (Path(conf) / "experiment" / "toy.yaml").write_text(text)
    folder = tmp_path / "a"
    assert run(recipe, "variant=b", "trainer.max_epochs=1", option, conf, f"hydra.run.dir={folder}") == 0
    assert result(folder)["config"]["stage"]["lr"] == 0.25
    assert result(folder)["config"]["variant"] == {"rate": 0.25}


@pytest.mark.parametrize("sweep", [False, True], ids=["run", "sweep"])
def test_a_run_that_is_interrupted_says_how_to_go_on(run, toy_arguments, tmp_path, monkeypatch, capsys, sweep):
    import stand_in_parts

    step = stand_in_parts.Stage.training_step

    def interrupted(self, *arguments):
        if self.current_epoch == 2:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(stand_in_parts.Stage, "training_step", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    options = ["-m", "seed=1,2", f"hydra.sweep.dir={tmp_path}"] if sweep else [f"hydra.run.dir={tmp_path / 'a'}"]
    assert run(*toy_arguments, *options) == 130
    signal.signal(signal.SIGINT, handler)  # which Lightning has told to look away
    (one,) = find_runs([tmp_path])
    assert one.status == "interrupted"
    go_on = f'with  hydra.sweep.dir="{tmp_path}"' if sweep else f"python -m src.run resume={tmp_path / 'a'}"
    assert f"interrupted; go on:  {'type the command again ' if sweep else ''}{go_on}" in capsys.readouterr().err


def killed(run, arguments, *, at_write=None, at_step=None):
    """Run in a forked process that kills itself at its n-th call of fsync (two an atomic write) or training step."""
    pid = os.fork()
    if pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        return
    import stand_in_parts

    def killing(function, number):
        calls = iter(range(1, 10_000))

        def wrapped(*arguments):
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return wrapped

    try:
        os.fsync = killing(os.fsync, at_write)
        stand_in_parts.Stage.training_step = killing(stand_in_parts.Stage.training_step, at_step)
        run(*arguments)
    finally:
        os._exit(0)


# Writes: 2 fsyncs each of config.yaml, result.json, metrics.csv, result.json, then best.ckpt (9, 10), last.ckpt
# (11, 12) and so on. Patience 1 ends this run after 5 epochs of 6 steps: two writes of best.ckpt late in it.
@pytest.mark.parametrize(
    ("extra", "moment"),
    [
        ([], {"at_write": 9}),  # before the first checkpoint: starts over
        ([], {"at_write": 13}),  # best.ckpt half written
        ([], {"at_write": 15}),  # last.ckpt half written: it lags behind best.ckpt
        ([], {"at_step": 20}),
        (["checkpointing.every_steps=2"], {"at_step": 16}),  # within an epoch, between two checkpoints
        (["trainer.accumulate_grad_batches=4", "checkpointing.every_steps=1"], {"at_step": 18}),
        (["trainer.max_steps=15"], {"at_step": 14}),
        (["checkpointing.patience=1", "stage.lr=0.5", "trainer.max_epochs=20"], {"at_step": 22}),
        (["checkpointing.patience=1", "stage.lr=0.5", "trainer.max_epochs=20"], {"at_write": 33}),  # after training
    ],
    ids=str,
)
def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(run, toy_arguments, tmp_path, extra, moment):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(*toy_arguments, *extra, f"hydra.run.dir={whole}") == 0
    killed(run, [*toy_arguments, *extra, f"hydra.run.dir={broken}"], **moment)
    assert result(broken)["status"] == "running"
    assert run(f"resume={broken}") == 0
    assert outcome(broken) == outcome(whole)
    assert result(broken)["resumed"] == 1
    assert result(broken)["overrides"] == result(whole)["overrides"]
    assert not list(broken.rglob("*.tmp"))


def test_a_failed_run_resumes_once_its_config_is_mended(run, toy_arguments, tmp_path):
    folder = tmp_path / "a"
    assert run(*toy_arguments, "stage.fail_in_epoch=2", f"hydra.run.dir={folder}") == 1
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("fail_in_epoch: 2", "fail_in_epoch: null"))
    assert run(f"resume={folder}") == 0
    assert run(*toy_arguments, f"hydra.run.dir={tmp_path / 'b'}") == 0
    assert outcome(folder) == outcome(tmp_path / "b")
    assert result(folder)["error"] is None


def test_a_finished_run_is_shown_again_and_left_as_it_is(run, toy_arguments, tmp_path, capsys):
    folder = tmp_path / "a"
    assert run(*toy_arguments, f"hydra.run.dir={folder}") == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(f"resume={folder}") == 0
    assert "nothing to resume" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_start_from_a_checkpoint_is_traced_by_its_content(run, toy_arguments, tmp_path):
    start = tmp_path / "start.ckpt"
    start.write_bytes(b"abc")
    assert run(*toy_arguments, f"stage.init_from={start}", f"hydra.run.dir={tmp_path / 'a'}") == 0
    # SHA-256 of "abc", as in FIPS 180-2.
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert result(tmp_path / "a")["lineage"] == {"init_from": {"path": str(start), "sha256": sha256, "name": None}}


@pytest.mark.parametrize("arguments", [["--help"], ["+experiment=sft", "--cfg", "job"]])
def test_looking_around_imports_nothing_heavy(arguments):
    program = (
        "import sys, src.run\n"
        f"sys.argv = ['src.run', *{arguments!r}]\n"
        "try:\n    src.run.main()\n"
        "finally:\n"
        "    heavy = {'torch', 'lightning', 'transformers', 'pandas', 'wandb', 'numpy', 'pydantic'} & {*sys.modules}\n"
        "    assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "dataset" in done.stdout


def test_a_refused_command_can_be_typed_again_in_its_folder_and_nothing_leads_back_to_it(
    run, toy_arguments, tmp_path, capsys
):
    folder = tmp_path / "a"
    assert run(*toy_arguments, "stage.lrr=1", f"hydra.run.dir={folder}") == 2
    assert not (folder / "config.yaml").exists()
    assert run(f"resume={folder}") == 2
    message = capsys.readouterr().err
    assert "that run was refused before it began" in message
    assert "did you mean lr?" in message
    assert message.endswith("type the command again:\n  python -m src.run +experiment=toy stage.lrr=1\n")
    assert run(*toy_arguments, "trainer.max_epochs=1", f"hydra.run.dir={folder}") == 0
    assert result(folder)["status"] == "finished"


def test_a_sweep_with_a_refused_job_reports_it_and_does_it_once_more_when_mended(run, toy_arguments, tmp_path):
    sweep, short = tmp_path / "sweep", "trainer.max_epochs=1"
    assert run(*toy_arguments, "-m", short, "stage.lr=x,0.1", f"hydra.sweep.dir={sweep}") == 1
    assert [one.status for one in find_runs([sweep])] == ["failed", "finished"]
    assert "stage.lr='x': needed: number" in str(find_runs([sweep])[0].error)
    assert run(*toy_arguments, "-m", short, "stage.lr=0.2,0.1", f"hydra.sweep.dir={sweep}") == 0
    assert [one.status for one in find_runs([sweep])] == ["finished", "finished"]


@pytest.mark.parametrize("name", ["a b, c=d é 日本", """it's "so" (1)[2]{3} ~#&;"""])
def test_a_run_folder_may_have_any_name(run, toy_arguments, tmp_path, name):
    folder = tmp_path / name
    assert run(*toy_arguments, "trainer.max_epochs=1", f"hydra.run.dir={folder}") == 0
    start = f"stage.init_from={folder / 'checkpoints' / 'best.ckpt'}"
    assert run(*toy_arguments, "trainer.max_epochs=1", start, f"hydra.run.dir={folder / 'next'}") == 0
    (folder / "result.json").write_text(json.dumps(result(folder) | {"status": "running"}))
    assert run(f"resume={folder}") == 0
    assert result(folder)["resumed"] == 1


@pytest.mark.parametrize("inner", ["", "/below", "/sweep/deeper"])
def test_a_file_in_the_way_of_the_run_folder_ends_in_one_message(run, toy_arguments, tmp_path, capsys, inner):
    (tmp_path / "file").touch()
    setting = "hydra.sweep.dir" if "sweep" in inner else "hydra.run.dir"
    mode = ["-m"] if "sweep" in inner else []
    assert run(*toy_arguments, *mode, f"{setting}={tmp_path / 'file'}{inner}") == 2
    message = capsys.readouterr().err
    assert message.startswith("Cannot write the run's files: ")
    assert "Type  hydra.run.dir=<a folder that I may write to>" in message


@pytest.mark.parametrize("inner", ["config.yaml", "run.log", "metrics.csv"])
def test_a_folder_in_the_place_of_a_file_of_the_run_is_named(run, toy_arguments, tmp_path, capsys, inner):
    (tmp_path / "a" / inner).mkdir(parents=True)
    assert run(*toy_arguments, f"hydra.run.dir={tmp_path / 'a'}") == 2
    log = tmp_path / "a" / "run.log"
    assert str(tmp_path / "a" / inner) in capsys.readouterr().err + (log.read_text() if log.is_file() else "")


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe"])
def test_a_file_of_configs_that_is_no_yaml_is_told(run, toy_arguments, capsys, content):
    (Path(toy_arguments[1]) / "stage" / "toy.yaml").write_bytes(content)
    assert run(*toy_arguments) == 2
    assert "A file of configs is no YAML: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["sft"], "sft: I need KEY=VALUE or GROUP=CHOICE, such as  +experiment=sft"),
     (["+experiment=sft", "seed=1,2"], "Ambiguous value for argument 'seed=1,2'"),
     (["experiment=sft"], "To append to your default list use +experiment=sft"),
     (["+experiment=sft", "~trainer.nothing"], "Could not delete from config. 'trainer.nothing' does not exist."),
     (["-m", "model=hubb,tiny_llama"], "Could not find 'model/hubb'; did you mean hub?"),
     (["resume="], "resume= names no run."), (["wing=gisa"], "Type:  +experiment=<recipe>")],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_cannot_be_composed_ends_in_one_message(run, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    told = "".join(capsys.readouterr())
    assert message in told
    assert "Traceback" not in told
