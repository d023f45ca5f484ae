import json

import pytest

from src.launch.errors import InputError
from src.launch.record import Record, older_version, require_resumable


def run_folder(folder, task, **content):
    """A finished run with a task of that name, as older versions of the code have written it, too."""
    config = {"name": "sft", "task": {"_target_": task}, "trainer": {"plugins": [{"_target_": "lightning.Trainer"}]}}
    folder.mkdir(exist_ok=True)
    record = {"status": "finished", "commit": "5a71412", "config": config, **content}
    (folder / "result.json").write_text(json.dumps(record))
    return folder


def test_a_run_whose_code_is_gone_says_which_commit_can_use_it(tmp_path):
    folder = run_folder(tmp_path, "src.task.recommendation.Recommendation")
    assert older_version(folder) == (
        f"{folder} is a run of an older version of this code, whose src.task.recommendation.Recommendation is gone.\n"
        "Use it as it was:  git checkout 5a71412\n"
        "or train it again with the code as it is."
    )


def test_a_run_from_outside_a_checkout_names_no_commit(tmp_path):
    folder = run_folder(tmp_path, "src.task.recommendation.Recommendation", commit=None)
    assert "git checkout <the commit of that time>" in older_version(folder)


@pytest.mark.parametrize("task", ["src.ilrec.task.recommendation.RecommendationTask", "stand_in_parts.Task"])
def test_a_run_whose_code_is_there_can_be_used(tmp_path, task):
    assert older_version(run_folder(tmp_path, task)) is None


def test_what_is_no_run_folder_or_a_damaged_one_is_left_to_those_who_need_it(tmp_path):
    assert older_version(tmp_path) is None
    (tmp_path / "result.json").write_text("{")
    assert older_version(tmp_path) is None


@pytest.mark.parametrize("status", ["finished", "running"])
def test_an_older_run_is_not_resumed_and_stays_as_it_is(tmp_path, status):
    folder = run_folder(tmp_path, "src.task.recommendation.Recommendation", status=status)
    before = (folder / "result.json").read_bytes()
    with pytest.raises(InputError, match="git checkout 5a71412"):
        Record.resume(folder)
    assert (folder / "result.json").read_bytes() == before


def write_run(folder, **content):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: x\n")
    (folder / "result.json").write_text(json.dumps({"status": "running", "config": {}, **content}))
    return folder


def refused(folder):
    with pytest.raises(InputError) as caught:
        require_resumable(folder)
    return str(caught.value)


def test_a_sweep_is_no_run_and_its_open_jobs_are_named(tmp_path):
    write_run(tmp_path / "0", status="finished")
    write_run(tmp_path / "1 b")
    message = refused(tmp_path)
    assert "Below it there are runs that are not finished. Type:\n  python -m src.run 'resume=" in message
    assert f"{tmp_path / '1 b'}" in message
    assert f"{tmp_path / '0'}" not in message
    assert "hydra.sweep.dir=" in message


def test_a_finished_sweep_has_nothing_to_go_on_with(tmp_path):
    write_run(tmp_path / "0", status="finished")
    assert refused(tmp_path).endswith("Below it there are 1 run(s), each finished or refused.")


@pytest.mark.parametrize("inner", ["checkpoints", "checkpoints/last.ckpt", "config.yaml"])
def test_a_file_or_folder_of_a_run_leads_to_the_run(tmp_path, inner):
    write_run(tmp_path / "run")
    assert refused(tmp_path / "run" / inner).endswith(f"Type:  python -m src.run resume={tmp_path / 'run'}")


@pytest.mark.parametrize("text", ["a: [1", "- a list", "\xff"], ids=["torn", "no settings", "Latin-1"])
def test_a_damaged_config_is_told_with_what_else_holds_it(tmp_path, text):
    (write_run(tmp_path / "run") / "config.yaml").write_bytes(text.encode("latin-1"))
    message = refused(tmp_path / "run")
    assert message.startswith(f"{tmp_path / 'run' / 'config.yaml'} is damaged: ")
    assert "result.json beside it holds the config" in message


def test_a_damaged_result_says_to_type_the_command_again(tmp_path):
    (write_run(tmp_path / "run") / "result.json").write_text('{"status": "runn')
    assert "is damaged, so I cannot tell what that run was.\nType its command again" in refused(tmp_path / "run")


def test_a_refused_run_keeps_no_config_and_is_not_gone_on_with(tmp_path):
    record = Record.start(tmp_path / "run", {"name": "x", "seed": "one"}, ["+experiment=sft", "name=a b"])
    record.refuse(InputError("The seed is no number."))
    assert not (tmp_path / "run" / "config.yaml").exists()
    message = refused(tmp_path / "run")
    assert "refused before it began, so there is nothing to go on with. The seed is no number." in message
    assert message.endswith("type the command again:\n  python -m src.run +experiment=sft 'name=a b'")
    assert not Record.began(tmp_path / "run", {"name": "x", "seed": "one"})


@pytest.mark.parametrize(
    ("status", "error", "made", "free"),
    [("failed", "InputError", None, True), ("failed", "InputError", "recommendations.jsonl", False),
     ("failed", "ValueError", None, False), ("running", None, None, False), ("finished", None, None, False)],
)  # fmt: skip
def test_only_a_run_that_made_nothing_by_its_users_fault_makes_room_for_the_mended_one(
    tmp_path, status, error, made, free
):
    folder = write_run(tmp_path / "run", status=status, error=error and {"type": error, "message": "x"})
    if made:
        (folder / made).touch()
    if free:
        assert Record.start(folder, {"name": "y", "seed": 1}, []).content["name"] == "y"
    else:
        with pytest.raises(InputError, match="already holds a run"):
            Record.start(folder, {"name": "y", "seed": 1}, [])
