import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from src.launch.config import Config, Node, _misfits, as_typed, check, help_text, prepare_arguments, resolve
from src.launch.errors import InputError
from src.launch.values import Count

CONF = Path(__file__).parents[2] / "conf"


def target(alpha: float, beta: int = 1, *, kind: Literal["a", "b"] = "a", names: list[str] | None = None):
    return None


def half_hinted(alpha: Count, other: "NowhereToBeFound | None" = None):  # noqa: F821
    return None


def takes_anything(**settings):
    return None


@dataclass(frozen=True, kw_only=True)
class Settings:
    gamma: float
    layers: int | list[int]


class Stage:
    settings: Settings

    def __init__(self, model, **settings: Any):
        self.settings = Settings(**settings)


def plain_config(**changes):
    groups = {key: {} for key, kind in get_type_hints(Config).items() if kind == Node}
    values = {
        "name": "x",
        "seed": 1,
        "threads": 1,
        "matmul_precision": "highest",
        **dict.fromkeys(("resume", "checkpoint", "predictions")),
    }
    return {**values, **groups, **changes}


def node(**arguments):
    return {"_target_": f"{__name__}.target", **arguments}


def faults(multirun=False, **changes):
    with pytest.raises(InputError) as caught:
        check(plain_config(**changes), multirun=multirun)
    return str(caught.value)


def test_a_sound_config_passes():
    check(plain_config(model=node(alpha=1, beta=2, kind="b", names=["x"])))


def test_settings_without_a_name_are_refused_where_they_would_collide():
    check(plain_config(model={"_target_": f"{__name__}.target", "_args_": [1]}))
    told = f"model._args_: {__name__}.target cannot be given these; type model.<name>=... for each"
    assert told in faults(model={"_target_": f"{__name__}.target", "_args_": [1], "alpha": 2})
    assert told in faults(model={"_target_": f"{__name__}.target", "_args_": [1, 2.0, "a", ["x"], 5]})
    assert told in faults(model={"_target_": f"{__name__}.target", "_args_": [1], "_partial_": True})


def test_all_faults_are_listed_at_once():
    text = faults(modle={}, seed="one", stage=node(alfa=0.1), model=node(alpha=1, beta=1.5))
    assert text.splitlines() == [
        "The config has 5 fault(s):",
        "- modle: no such key; did you mean model?",
        "- seed='one': needed: whole number",
        "- model.beta=1.5: needed: whole number",
        f"- stage.alfa: {__name__}.target has no such setting; did you mean alpha?",
        "- stage.alpha: missing; type +stage.alpha=...",
    ]


def test_the_groups_that_the_task_needs_must_be_there():
    task = {"_target_": "src.ilrec.task.recommendation.RecommendationTask"}
    text = faults(task=task, model=node(alpha=1.0))
    assert "- tokenizer: missing; type tokenizer=<a file of conf/tokenizer>" in text
    assert "- model: " not in text
    assert "- logger: " not in text  # an empty logger means none


def test_a_value_that_the_task_needs_is_asked_for():
    text = faults(task={"_target_": "src.gisa.task.score.ScoreTask", "sample": 0}, evaluator=None)
    assert "- predictions: needs a value; type predictions=..." in text
    assert "- evaluator: missing; type evaluator=<a file of conf/evaluator>" in text


def test_a_missing_key_and_an_open_value_are_named():
    config = plain_config(name="???", model=node(alpha="???"))
    del config["seed"]
    with pytest.raises(InputError) as caught:
        check(config)
    for text in ("- seed: missing", "- name: needs a value; type name=...", "- model.alpha: needs a value"):
        assert text in str(caught.value)


def test_a_partial_node_may_lack_arguments():
    check(plain_config(model=node(_partial_=True)))


def test_nodes_are_checked_at_any_depth():
    assert "model.names[0].gamma: " in faults(model=node(alpha=1, names=[node(alpha=1, gamma=1)]))


def test_a_target_that_takes_anything_is_given_anything():
    check(plain_config(model={"_target_": f"{__name__}.takes_anything", "whatever": 1}))


def test_settings_that_a_class_takes_as_a_dataclass_stand_flatly_among_its_arguments():
    stage = {"_target_": f"{__name__}.Stage", "model": None}
    check(plain_config(stage={**stage, "gamma": 1.0, "layers": [1, 2]}))
    text = faults(stage={**stage, "gama": 1.0, "layers": "all"})
    assert text.splitlines()[1:] == [
        f"- stage.gama: {__name__}.Stage has no such setting; did you mean gamma?",
        "- stage.gamma: missing; type +stage.gamma=...",
        "- stage.layers='all': needed: whole number | [whole number, ...]",
    ]


def test_settings_beside_one_whose_type_is_imported_for_hints_alone_are_checked():
    text = faults(model={"_target_": f"{__name__}.half_hinted", "alpha": 0, "other": 3})
    assert text.endswith("has 1 fault(s):\n- model.alpha=0: I need a whole number of at least 1.")


def test_a_target_that_cannot_be_imported_is_named():
    assert "model._target_: cannot import src.nowhere.Thing" in faults(model={"_target_": "src.nowhere.Thing"})


@pytest.mark.parametrize(
    ("setting", "needed"),
    [({"kind": "c"}, "a | b"), ({"names": "x"}, "[text, ...] | null"), ({"alpha": True}, "number"),
     ({"alpha": "1e-3"}, "number"), ({"beta": None}, "whole number")],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_named_with_what_is_needed(setting, needed):
    name, value = next(iter(setting.items()))
    assert f"- model.{name}={value!r}: needed: {needed}" in faults(model=node(**{"alpha": 1.0, **setting}))


@pytest.mark.parametrize("devices", [{"devices": 2}, {"devices": 1, "strategy": "ddp"}])
def test_several_devices_in_a_multirun_are_refused_with_three_ways_out(devices):
    text = faults(multirun=True, trainer=devices)
    for way in ("trainer.devices=1 trainer.strategy=auto", "torchrun", "launcher plugins"):
        assert way in text
    check(plain_config(trainer=devices))


def test_cuda_asked_for_and_absent_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "there is no CUDA here; type trainer.accelerator=cpu" in faults(trainer={"accelerator": "cuda"})


@pytest.mark.parametrize(
    ("group", "key", "advice"),
    [("optimizer", "lr", "type stage.learning_rate=..."), ("optimizer", "weight_decay", "type stage.weight_decay=..."),
     ("scheduler", "num_warmup_steps", "type stage.warmup_ratio=<share of all steps>"),
     ("scheduler", "num_training_steps", "type trainer.max_epochs=... or trainer.max_steps=...")],
)  # fmt: skip
def test_what_every_stage_tells_optimiser_and_schedule_is_refused_of_them(group, key, advice):
    own = {"optimizer": {"_target_": "torch.optim.AdamW"}, "scheduler": {"_target_": "transformers.get_scheduler"}}
    text = faults(**{group: {**own[group], "_partial_": True, key: 2}})
    assert f"{group}.{key}=2: a run tells it that itself; {advice}, and leave this one out" in text


def test_a_start_from_a_missing_checkpoint_is_refused(tmp_path):
    assert "no such file; needed: checkpoints/best.ckpt of a run" in faults(stage={"init_from": str(tmp_path / "x")})


def test_where_a_run_was_never_validated_its_last_weights_are_offered(tmp_path):
    (tmp_path / "last.ckpt").touch()
    text = faults(stage={"reward_from": str(tmp_path / "best.ckpt")})
    assert "That run was never validated" in text
    assert text.rstrip().endswith(f"type stage.reward_from={tmp_path / 'last.ckpt'}")


def test_of_several_checkpoints_that_give_rewards_the_missing_one_is_named(tmp_path):
    (tmp_path / "a.ckpt").touch()
    text = faults(stage={"reward_from": [str(tmp_path / "a.ckpt"), str(tmp_path / "b.ckpt")]})
    assert f"stage.reward_from={tmp_path / 'b.ckpt'}: no such file" in text
    assert "a.ckpt" not in text


def test_weights_of_an_older_version_are_refused_but_those_that_give_rewards(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    record = {"commit": "5a71412", "config": {"task": {"_target_": "src.task.recommendation.Recommendation"}}}
    (tmp_path / "result.json").write_text(json.dumps(record))
    older = f"{checkpoint}: {tmp_path} is a run of an older version of this code"
    text = faults(checkpoint=str(checkpoint), stage={"init_from": str(checkpoint)})
    assert f"- checkpoint={older}" in text
    assert f"- stage.init_from={older}" in text
    assert "git checkout 5a71412" in text
    check(plain_config(stage={"reward_from": str(checkpoint)}))


def test_the_dashboard_online_needs_a_key(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "run `wandb login` once, or type logger.mode=offline" in faults(logger={"mode": "online"})
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    check(plain_config(logger={"mode": "online"}))
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    check(plain_config(logger={"mode": "online"}))


def test_an_interpolation_that_points_nowhere_is_an_input_error():
    with pytest.raises(InputError, match="refers to something that is not there"):
        resolve(OmegaConf.create({"a": "${b}"}))


@pytest.mark.parametrize(
    "argument",
    ["model=tiny_llama", "+experiment=sft", "~logger", "++seed=1", "hydra.run.dir=x", "hydra/launcher=joblib",
     "tokenizer/embedding=text", "dataset@other=ml_100k", "-m", "--multirun", "+trainer.limit_val_batches=3"],
)  # fmt: skip
def test_what_hydra_must_read_itself_is_left_alone(argument):
    assert prepare_arguments([argument], CONF) == [argument]


def test_plain_overrides_are_forced_so_that_typos_reach_the_check():
    assert prepare_arguments(["stage.lrr=1", "modle=x", "seed=1,2"], CONF) == [
        "++stage.lrr=1",
        "++modle=x",
        "++seed=1,2",
    ]


@pytest.mark.parametrize(
    ("typed", "prepared"),
    [
        ("seed=1 --cfg job", "seed=1 --cfg job"),
        ("--cfg job seed=1", "seed=1 --cfg job"),
        ("seed=1 -m --cfg job name=é,b", 'seed=1 name="é",b -m --cfg job'),
        ("name=é --info seed=1", 'name="é" seed=1 --info'),
        ("--info defaults seed=1", "seed=1 --info defaults"),
        ("-sc query=bash", "-sc query=bash"),
    ],
)
def test_commands_that_only_show_are_left_as_they_are_but_for_their_order_and_quotes(typed, prepared):
    assert prepare_arguments(typed.split(), CONF) == prepared.split()


@given(st.lists(st.sampled_from(["seed=3", "stage.lr=0.1", "model=tiny_llama", "+experiment=sft"]), unique=True))
def test_the_record_shows_what_was_typed(arguments):
    assert as_typed(prepare_arguments(arguments, CONF)) == arguments


def test_the_multirun_flag_may_stand_anywhere():
    assert prepare_arguments(["+experiment=sft", "-m", "seed=1,2"], CONF) == ["-m", "+experiment=sft", "++seed=1,2"]


def test_the_record_leaves_out_the_sweep_as_its_seed_is_listed():
    assert as_typed(["+experiment=sft", "++seed=2", "+sweep=seeds"]) == ["+experiment=sft", "seed=2"]


def test_resume_beside_other_overrides_is_refused(tmp_path):
    with pytest.raises(InputError, match="takes its whole config from the folder; remove: seed=3 -m"):
        prepare_arguments(["seed=3", f"resume={tmp_path}", "-m"], CONF)


def test_resume_of_something_else_than_a_run_is_refused(tmp_path):
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(InputError, match=r"I find no run there. I need a folder with config.yaml and result.json"):
        prepare_arguments([f"resume={tmp_path}"], CONF)


def test_resume_works_in_the_folder_even_if_its_name_is_odd(tmp_path):
    folder = tmp_path / "a, b=c"
    folder.mkdir()
    for name in ("config.yaml", "result.json"):
        (folder / name).write_text("{}")
    assert prepare_arguments([f"resume={folder}"], CONF) == [f'++resume="{folder}"', f'hydra.run.dir="{folder}"']


def test_later_processes_of_a_distributed_run_get_another_folder(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    seed, folder = prepare_arguments(["seed=1", "hydra.run.dir=mine"], CONF)
    assert seed == "++seed=1"
    assert folder.startswith("hydra.run.dir=")
    assert folder != "hydra.run.dir=mine"


def test_help_lists_every_choice_at_every_depth_as_it_is_typed_and_what_it_is():
    lines = [line.split(maxsplit=1) for line in help_text(CONF).splitlines() if "=" in line and line.startswith("  ")]
    said = {choice.removeprefix("+"): text for choice, text in lines}
    files = {f"{path.parent.relative_to(CONF)}={path.stem}": path.read_text() for path in CONF.glob("*/**/*.yaml")}
    assert said.keys() == files.keys()
    assert all(f"# {text}\n" in files[choice] for choice, text in said.items())
    added = {choice.partition("=")[0] for choice, _ in lines if choice.startswith("+")}
    assert added == {"+experiment", "+sweep", "+ablation"}


def test_the_shell_completes_choices_and_settings():
    """As bash asks, after ``eval "$(ilrec-gisa -sc install=bash)"``."""
    script = "import sys\nsys.argv = ['ilrec-gisa', '-sc', 'query=bash']\nfrom src.run import main\nmain()"
    for typed, choices in [
        ("agent/policy=", {f"agent/policy={path.stem}" for path in (CONF / "agent" / "policy").glob("*.yaml")}),
        ("trainer.max", {"trainer.max_epochs=", "trainer.max_steps="}),
    ]:
        line = f"ilrec-gisa +experiment=gisa_rollout {typed}"
        told = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}
        command = [sys.executable, "-c", script]
        ran = subprocess.run(command, cwd=CONF.parent, env=told, capture_output=True, text=True, check=True)
        assert set(ran.stdout.split()) == choices


def test_options_of_hydra_may_stand_anywhere_and_groups_of_the_users_own_are_groups(tmp_path):
    (tmp_path / "variant").mkdir()
    own = ["--config-dir", str(tmp_path)]
    typed = ["+experiment=sft", "variant=b", *own, "seed=3", "-m"]
    assert prepare_arguments(typed, CONF) == ["-m", *own, "+experiment=sft", "variant=b", "++seed=3"]
    assert prepare_arguments(["seed=3", f"--config-dir={tmp_path}", "variant=b"], CONF)[1:] == ["++seed=3", "variant=b"]
    for path in (f"file://{tmp_path}", str(tmp_path), f"pkg://other, {tmp_path}"):
        assert prepare_arguments(["variant=b", f"hydra.searchpath=[{path}]"], CONF)[0] == "variant=b"
    with pytest.raises(InputError, match="nowhere: no such folder of configs"):
        prepare_arguments(["seed=3", "--config-dir", "nowhere"], CONF)


@pytest.mark.parametrize("value", ["null", "7", "true", "{a: 1}"])
@pytest.mark.parametrize("group", ["optimizer", "+experiment", "agent/policy"])
def test_what_can_name_no_choice_is_answered_with_those_there_are(group, value):
    with pytest.raises(InputError) as caught:
        prepare_arguments([f"{group}={value}"], CONF)
    files = ", ".join(sorted(path.stem for path in (CONF / group.lstrip("+")).glob("*.yaml")))
    assert str(caught.value) == (
        f"{group}={value}: I need the name of a choice: {files}.\nTo do without:  '~{group.lstrip('+')}'"
    )


@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
def test_a_folder_without_a_name_is_refused_as_files_would_be_written_here(key):
    with pytest.raises(InputError, match=f"names no folder.\nType:  {key}=<a folder>"):
        prepare_arguments(["+experiment=sft", f"{key}="], CONF)


def test_a_target_in_a_package_of_the_users_own_belongs_to_neither_paper():
    mine = {"_target_": "mine.gisa.stage.Stage"}
    config = plain_config(task={"_target_": "src.ilrec.task.recommendation.RecommendationTask"}, stage=mine)
    assert not [fault for fault in _misfits(config) if "tasks of" in fault]


@pytest.mark.parametrize(
    ("room", "task", "given", "unread"),
    [("ilrec", "recommend.RecommendTask", {"predictions": "a"}, "predictions"),
     ("ilrec", "evaluate.EvaluateTask", {"predictions": "a"}, "predictions"),
     ("gisa", "traces.TracesTask", {"checkpoint": "a"}, "checkpoint"),
     ("gisa", "rollout.RolloutTask", {"predictions": "a"}, "predictions"),
     ("gisa", "rollout.RolloutTask", {"checkpoint": "a"}, "checkpoint"),
     ("gisa", "rollout.RolloutTask", {"checkpoint": "a", "agent": {"policy": {"checkpoint": "a"}}}, None),
     ("gisa", "score.ScoreTask", {"predictions": "a"}, None),
     ("gisa", "learning.GrpoTask", {"checkpoint": "a"}, None)],
    ids=str,
)  # fmt: skip
def test_a_file_that_nothing_in_the_run_reads_is_refused(room, task, given, unread):
    told = list(_misfits(plain_config(task={"_target_": f"src.{room}.task.{task}"}, **given)))
    assert told == ([f"{unread}=a: nothing in this run reads it; leave it out"] if unread else [])
