import gzip
import json
import re
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.gisa.evaluator.predictions import Predictions, read_predictions, unknown
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


def test_where_all_answers_are_of_other_attempts_they_are_named(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps({"id": 7, "sample": sample, "prediction": "x"}) + "\n" for sample in (1, 2)))
    with pytest.raises(InputError, match=r"all others are attempts 1, 2; you asked for  task\.sample=0"):
        read_predictions(path)


def test_what_cannot_be_used_costs_its_question_only_and_is_named(tmp_path):
    folder = write(
        tmp_path / "a", **{"1": '{"prediction": "x', "2": [1], "3": {"text": "x"}, "4": {}, "5": {"prediction": ""}}
    )
    found = read_predictions(folder)
    assert found.values == {"5": ""}
    assert found.remarks == [
        "1.json: damaged or truncated JSON (Unterminated string starting at at character 16)",
        "2.json: a JSON object is needed, got a list",
        "3.json: no prediction in it; I need one of prediction, answer, response, and it has text",
        "4.json: no prediction in it; I need one of prediction, answer, response, and it has nothing",
    ]  # fmt: skip
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"id": 1, "prediction": "x"}\n\xff\xfe\n{"prediction": "y"}\n{"id": 1, "prediction": "z"}\n{"id"'
    )
    found = read_predictions(path)
    assert found.values == {"1": "z"}
    assert found.remarks == [
        "a.jsonl, line 2: damaged or truncated JSON (not UTF-8 at character 1)",
        "a.jsonl, line 3: no id in it; I need one of id, question_id, qid, and it has prediction",
        "a.jsonl, line 4: another answer to question 1; it replaces the one before",
        "a.jsonl, line 5: damaged or truncated JSON (Expecting ':' delimiter at character 6)",
    ]  # fmt: skip


def test_a_file_nested_too_deeply_is_damaged(tmp_path):
    folder = write(tmp_path / "a", **{"1": "[" * 100_000, "2": {"prediction": "x"}})
    assert read_predictions(folder).remarks == ["1.json: damaged or truncated JSON (nested too deeply)"]


def test_nothing_at_the_path_is_answered_with_what_is_needed(tmp_path):
    with pytest.raises(InputError, match="there is no such folder or file"):
        read_predictions(tmp_path / "absent")
    with pytest.raises(InputError, match="I find no answer there"):
        read_predictions(write(tmp_path / "empty"))


RECORDS = [{"id": 7, "prediction": "x\ty"}, {"id": "12", "prediction": 'a "b"\nc, d'}]
VALUES = {"7": "x\ty", "12": 'a "b"\nc, d'}
TABLE = 'id,prediction\n7,"x\ty"\n12,"a ""b""\nc, d"\n'


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2),
        "\n".join(json.dumps(record) for record in RECORDS),
        "\r\n\r\n".join(json.dumps(record) for record in RECORDS),
        json.dumps(VALUES),
        json.dumps({name: {"prediction": value} for name, value in VALUES.items()}, indent=1),
        json.dumps({"model": "m", "predictions": RECORDS}),
        json.dumps({"answers": VALUES}),
        json.dumps({name: {"q_item": {}, "pred_item": {"prediction": value}} for name, value in VALUES.items()}),
        "\ufeff" + json.dumps(RECORDS),
        json.dumps([{"question_id": record["id"], "answer": record["prediction"]} for record in RECORDS]),
        json.dumps([{**record, "sample": None} for record in RECORDS]),
        TABLE.replace("prediction", "prediction,sample").replace('\ty"', '\ty",').replace('d"\n', 'd",\n'),
        json.dumps([{"id": " 7 ", "answer": "x\ty"}, {"id": 12.0, "answer": VALUES["12"]}]),
        json.dumps({"7.0": VALUES["7"], " 12": VALUES["12"]}),
        TABLE,
        "\ufeff" + TABLE.replace("\n", "\r\n").replace('b"""\r\nc', 'b"""\nc').replace('""\r\nc', '""\nc'),
        TABLE.replace("id,prediction", " Question_ID , Answer ").replace("7,", "7.0,").replace("12,", " 12 ,"),
        'answer\tid\n"x\ty"\t7\n"a ""b""\nc, d"\t12',
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_answers_are_read_in_the_forms_that_people_keep_them_in(tmp_path, content, packed):
    path = tmp_path / ("answers.txt.gz" if packed else "answers.txt")
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    found = read_predictions(path)
    assert (found.values, found.remarks) == (VALUES, [])


def test_one_record_alone_and_packed_files_of_a_folder_are_read(tmp_path):
    (tmp_path / "a.json").write_text('{"id": 7, "prediction": "x"}')
    assert read_predictions(tmp_path / "a.json").values == {"7": "x"}
    folder = write(tmp_path / "folder", **{"7.0": {"answer": "x"}})
    (folder / "12.json.gz").write_bytes(gzip.compress(b'{"prediction": "y"}'))
    assert read_predictions(folder).values == {"7": "x", "12": "y"}


def test_a_table_of_a_spreadsheet_is_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("id;prediction;sample\r\n7;Zoë;0\r\n7;other;1\r\n".encode("cp1252"))
    assert read_predictions(path).values == {"7": "Zoë"}
    assert read_predictions(path, sample=1).values == {"7": "other"}


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        (
            '{"id": 1, "prediction": "y"}\n{"id": 2}',
            "line 2: no prediction in it; I need one of prediction, answer",
        ),
        ('{"id": 1, "prediction": "y"}\n{"Id": 2, "answer": ""}', "line 2: no id in it; I need one of id, question_id"),
        ('{"id": 1, "prediction": "y"}\n{"id": null, "answer": ""}', "line 2: id=None must be a whole number or text"),
        ('{"id": 1, "prediction": "y"}\n{"id": true, "answer": ""}', "line 2: id=True must be a whole number or text"),
        ('{"id": 1, "prediction": "y"}\n{"id": " ", "answer": ""}', "line 2: id=' ' must be a whole number or text"),
        ('{"id": 1, "prediction": "y"}\n\n[2, "z"]', "line 3: a JSON object is needed, got a list"),
        ('{"id": 1, "prediction": "y"}\n{"id": 2,', "line 2: damaged or truncated JSON (Expecting property name"),
        (
            '[{"id": 1, "prediction": "y"},\n{"id": 2, "predi',
            "entry 2, line 2: damaged or truncated JSON (Unter",
        ),
        (b'[{"id": 1, "prediction": "y"}, {"id": 2, "prediction": "caf\xe9"}]', "entry 2: not UTF-8"),
        (b'{"1": "y", "2": "caf\xe9"}', "key '2': not UTF-8"),
        (
            '{"id": 1, "prediction": "y"}\n{"id": 2, "pre'.encode("utf-16") + b"d",
            "line 2: damaged or truncated JSON (Unterminated string",
        ),
        ('[{"id": 1, "prediction": "y"}, "z"]', "entry 2: a JSON object is needed, got a str"),
        ('{"1": "y", "2": {"text": "z"}}', "key '2': no prediction in it"),
        ('{"1": "y", "": "z"}', "key '': id='' must be a whole number or text"),
        ("id,prediction\n1,y\n2,a,b\n", "line 3: 3 cells where the header has 2"),
        ("id,prediction\n1,y\n2\n", "line 3: 1 cells where the header has 2"),
        ('id,prediction\n1,y\n2,"z', "line 3: not a row of a CSV (unexpected end of data)"),
        ("id,prediction\n1,y\n,z\n", "line 3: id='' must be a whole number or text"),
    ],
)
def test_each_refused_line_is_named_with_what_is_wrong_with_it(tmp_path, content, remark):
    path = tmp_path / "a"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read_predictions(path)
    assert found.values == {"1": "y"}
    (said,) = found.remarks
    assert said.startswith(f"a, {remark}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,text\n1,y\n", "a, line 1: a header with id and prediction is needed, got id,text"),
        (b"\x1f\x8b\x08\x00cut", "damaged or truncated gzip"),
        (b"just words", "a, line 1: damaged or truncated JSON (Expecting value at character 1)"),
        (b"", "I find no answer there"),
        (b"x\n" * 30, "a, line 20: damaged or truncated JSON (Expecting value at character 1)\n  and 10 more"),
    ],
)
def test_a_file_without_any_answer_says_why_line_by_line(tmp_path, content, message):
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)):
        read_predictions(path)


@settings(max_examples=100)
@given(
    st.binary(max_size=60)
    | st.binary(max_size=20).map(b"\xff\xfe".__add__)
    | st.text('{}[]":,idanswerprediction 17\n\t', max_size=60).map(str.encode)
)
def test_no_file_makes_it_fail_otherwise(tmp_path, content):
    path = tmp_path / "a"
    path.write_bytes(content)
    with suppress(InputError):
        assert read_predictions(path).values


def test_answers_to_unknown_questions_are_named_with_their_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "prediction": "y"}\n{"id": 9, "prediction": "z"}')
    found = read_predictions(path)
    assert unknown(found, ["1"]) == ["a.jsonl, line 2: answer to question 9, which there is not"]
    assert unknown(Predictions({"9": ""}, {}, []), ["1"]) == ["answer to question 9, which there is not"]
