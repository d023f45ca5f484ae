import json

import pytest

from src.launch.errors import InputError
from src.launch.record import Record, older_version


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
