from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.launch.command_line import as_typed, help_text, prepare_arguments
from src.launch.errors import InputError

CONF = Path(__file__).parents[2] / "conf"


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


def test_commands_that_only_show_are_left_alone():
    assert prepare_arguments(["seed=1", "--cfg", "job"], CONF) == ["seed=1", "--cfg", "job"]


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


def test_help_lists_every_choice_of_every_group():
    text = help_text(CONF)
    for path in CONF.glob("*/*.yaml"):
        assert path.stem in next(
            line for line in text.splitlines() if line.strip(" +").startswith(f"{path.parent.name}=")
        )
