import json
from pathlib import Path

import pytest
import yaml

from src.launch.errors import InputError
from src.launch.record import Record, change
from src.launch.trusted import VARIABLE, named_in_conf, require_trusted, untrusted

PLANTED = ["os.system", "src.launch.storage.write_atomic", "src.ilrec.dataset.records.write_atomic", "src.run.main"]


@pytest.mark.parametrize("target", PLANTED)
@pytest.mark.parametrize("place", ["task", "dataset", "dataset.source", "trainer", "trainer.callbacks", "logger", "x"])
def test_a_target_that_the_files_of_its_group_do_not_name_is_told(place, target):
    config = {"_target_": target, "path": "x"}
    for key in reversed(place.split(".")):
        config = {key: config}
    assert list(untrusted(config)) == [f"{place}._target_={target}"]
    assert list(untrusted({"a": [{"b": config}]})) == [f"a.b.{place}._target_={target}"]


@pytest.mark.parametrize("key", ["..", "*", "**", "dataset/../..", "/tmp", ""])
def test_a_key_that_leads_out_of_conf_allows_nothing(key):
    assert not named_in_conf(key)
    assert list(untrusted({"dataset": {key: {"_target_": "os.system"}}}))


def test_what_one_group_may_build_another_may_not():
    task = "src.ilrec.task.recommendation.RecommendationTask"
    assert not list(untrusted({"task": {"_target_": task}}))
    assert list(untrusted({"stage": {"_target_": task}}))
    assert "src.training.checkpoint.Checkpoints" in named_in_conf("checkpointing")


@pytest.mark.parametrize(
    ("place", "target"),
    [("callbacks", "lightning.pytorch.callbacks.EarlyStopping"), ("trainer", "lightning.Trainer"),
     ("logger", "lightning.pytorch.loggers.CSVLogger"), ("trainer", "lightning.pytorch.profilers.SimpleProfiler"),
     ("optimizer", "torch.optim.SGD"), ("scheduler", "torch.optim.lr_scheduler.StepLR")],
)  # fmt: skip
def test_classes_of_lightning_and_torch_may_stand_where_they_belong(place, target):
    assert not list(untrusted({place: {"x": {"_target_": target}}}))
    assert list(untrusted({"dataset": {"x": {"_target_": target}}}))
    assert list(untrusted({place: {"_target_": f"{target.rpartition('.')[0]}.os.system"}}))


def test_an_interpolation_could_read_a_key_and_is_told():
    assert list(untrusted({"agent": {"url": "http://x/${oc.env:SECRET}"}})) == [
        "agent.url='http://x/${oc.env:SECRET}': a config that is written down refers to nothing"
    ]


def test_code_of_the_users_own_is_built_once_it_is_named(monkeypatch, tmp_path):
    config = {"stage": {"_target_": "mine.stage.Stage"}, "model": {"_target_": "minerva.Model"}}
    assert list(untrusted(config)) == ["stage._target_=mine.stage.Stage", "model._target_=minerva.Model"]
    monkeypatch.setenv(VARIABLE, "other, mine")
    assert list(untrusted(config)) == ["model._target_=minerva.Model"]
    with pytest.raises(InputError, match=rf"type before the command:  {VARIABLE}=<its package>"):
        require_trusted(config, tmp_path / "config.yaml")
    require_trusted(config, tmp_path / "config.yaml", typed={"other": config["model"]})  # by the user, just now


def planted(folder: Path, status: str, target: str) -> Path:
    """A run folder whose config calls something with the path of a file that is not there."""
    config = {"name": "x", "seed": 1, "task": {"_target_": target, "path": str(folder / "made"), "write": "x"}}
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    content = {"status": status, "name": "x", "seed": 1, "started_at": "2026-01-01T00:00:00+00:00", "overrides": []}
    (folder / "result.json").write_text(json.dumps({**content, "config": config, "metrics": {}, "resumed": 0}))
    return folder


@pytest.mark.parametrize("target", ["os.system", "src.launch.storage.write_atomic"])
@pytest.mark.parametrize("status", ["running", "failed", "finished"])
def test_a_planted_run_folder_is_refused_and_does_nothing(run, tmp_path, capsys, monkeypatch, status, target):
    monkeypatch.chdir(tmp_path)
    folder = planted(tmp_path / "run", status, target)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert run(f"resume={folder}") == 2
    log = folder / "run.log"
    assert f"- task._target_={target}" in "".join(capsys.readouterr()) + (log.read_text() if log.is_file() else "")
    assert {path: path.read_bytes() for path in folder.iterdir() if path.name != "run.log"} == before


def test_a_sweep_that_is_typed_again_needs_no_further_trust_in_the_users_own_code(tmp_path):
    config = {"name": "x", "seed": 1, "task": {"_target_": "mine.Task"}}
    Record.start(tmp_path, config, [])
    assert Record.resume(tmp_path, config).content["resumed"] == 1
    with pytest.raises(InputError, match="may be somebody else's"):
        Record.resume(tmp_path)


OUTWARD = {
    "programs": ({"command": ["touch", "made"]}, "- agent.search.command=touch"),
    "secrets of the environment": ({"command": ["x"], "env": ["SECRET"]}, "- agent.search.env=SECRET"),
    "keys": ({"key_env": "SECRET", "url": "http://x"}, "- agent.search.key_env=SECRET\n- agent.search.url=http://x"),
}


def rollout_with(**settings):
    task = {"_target_": "src.gisa.task.rollout.RolloutTask"}
    search = {"_target_": "src.gisa.agent.mcp_tools.McpSearch", "command": None, "key_env": None, "env": [], **settings}
    return {"name": "x", "seed": 1, "task": task, "agent": {"search": search, "run_usd": 1}}


@pytest.mark.parametrize(("settings", "said"), OUTWARD.values(), ids=OUTWARD)
def test_what_a_folder_would_start_and_send_is_asked_of_the_user_unless_it_was_begun_here(
    settings, said, tmp_path, monkeypatch
):
    monkeypatch.setenv("ILREC_GISA_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    Record.start(folder, rollout_with(**settings), [])
    change(folder, {"agent.run_usd": 2})
    assert Record.resume(folder).content["resumed"] == 1
    monkeypatch.setenv("ILREC_GISA_CACHE", str(tmp_path / "elsewhere"))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for refused in (lambda: Record.resume(folder), lambda: change(folder, {"agent.run_usd": 3})):
        with pytest.raises(InputError, match=rf"(?s){said}.*type before the command:  {VARIABLE}={folder}$"):
            refused()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert Record.resume(folder, typed=rollout_with(**settings)).content["resumed"] == 2
    monkeypatch.setenv(VARIABLE, f"mine, {folder}")
    assert Record.resume(folder).content["resumed"] == 3


def test_a_run_that_starts_no_program_and_sends_no_key_goes_on_anywhere(tmp_path, monkeypatch):
    Record.start(tmp_path / "run", rollout_with(url="http://x"), [])
    monkeypatch.setenv("ILREC_GISA_CACHE", str(tmp_path / "elsewhere"))
    assert Record.resume(tmp_path / "run").content["resumed"] == 1
    assert not (tmp_path / "elsewhere").exists()


def test_a_planted_program_is_not_started(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = rollout_with(command=["touch", str(tmp_path / "made")])
    folder = planted(tmp_path / "run", "running", "src.gisa.task.rollout.RolloutTask")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert run(f"resume={folder}") == 2
    assert f"- agent.search.command={tmp_path / 'made'}" in "".join(capsys.readouterr())
    assert not (tmp_path / "made").exists()
