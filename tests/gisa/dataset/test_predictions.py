import json

import pytest

from src.gisa.dataset.predictions import read_predictions
from src.launch.errors import InputError


def write(folder, **contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_a_folder_holds_a_file_a_question(tmp_path):
    folder = write(tmp_path / "a", **{"7": {"prediction": "x", "messages": []}, "12": {"prediction": None}})
    write(folder, _final_scores={"prediction": "no answer"})
    (folder / "7.csv").write_text("x")
    assert read_predictions(folder).values == {"7": "x", "12": None}


def test_a_file_holds_a_line_a_question_and_ids_become_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 7, "prediction": "x"}\n\n{"id": "12", "prediction": ["y"]}\n')
    assert read_predictions(path).values == {"7": "x", "12": ["y"]}


def test_a_run_folder_holds_episodes_of_several_samples(tmp_path):
    episodes = {
        "7.0": {"question_id": "7", "sample": 0, "outcome": "answered", "prediction": "x", "contaminated": ["u"]},
        "7.1": {"question_id": "7", "sample": 1, "outcome": "answered", "prediction": "y", "contaminated": []},
        "12.0": {"question_id": "12", "sample": 0, "outcome": "infra_error", "prediction": ""},
    }
    write(tmp_path / "run" / "episodes", **episodes)
    first, second = read_predictions(tmp_path / "run"), read_predictions(tmp_path / "run", sample=1)
    assert (first.values, first.outcomes) == ({"7": "x", "12": ""}, {"7": "answered", "12": "infra_error"})
    assert second.values == {"7": "y"}
    assert (first.contaminated, second.contaminated) == ({"7"}, set())
    assert first.remarks == []


def test_what_cannot_be_used_costs_its_question_only_and_is_named(tmp_path):
    folder = write(
        tmp_path / "a", **{"1": '{"prediction": "x', "2": [1], "3": {"answer": "x"}, "4": {}, "5": {"prediction": ""}}
    )
    found = read_predictions(folder)
    assert found.values == {"5": ""}
    assert found.remarks == [
        "1.json: damaged or truncated JSON", "2.json: a JSON object is needed, got a list",
        "3.json: no prediction in it", "4.json: no prediction in it",
    ]  # fmt: skip
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"id": 1, "prediction": "x"}\n\xff\xfe\n{"prediction": "y"}\n{"id": 1, "prediction": "z"}\n{"id"'
    )
    found = read_predictions(path)
    assert found.values == {"1": "z"}
    assert found.remarks == [
        "a.jsonl, line 2: damaged or truncated JSON", "a.jsonl, line 3: no id in it",
        "a.jsonl, line 4: another answer to question 1; it replaces the one before",
        "a.jsonl, line 5: damaged or truncated JSON",
    ]  # fmt: skip


def test_a_file_nested_too_deeply_is_damaged(tmp_path):
    folder = write(tmp_path / "a", **{"1": "[" * 100_000, "2": {"prediction": "x"}})
    assert read_predictions(folder).remarks == ["1.json: damaged or truncated JSON"]


def test_nothing_at_the_path_is_answered_with_what_is_needed(tmp_path):
    with pytest.raises(InputError, match="there is no such folder or file"):
        read_predictions(tmp_path / "absent")
    with pytest.raises(InputError, match="I find no answer there"):
        read_predictions(write(tmp_path / "empty"))
