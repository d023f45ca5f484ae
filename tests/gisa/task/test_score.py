import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gisa.gisa_files import question, write_csv, write_suite
from tests.gisa.pages import read_page

ROOT = Path(__file__).parents[3]
QUESTIONS = [
    question(3, "item", topic="rivers", text="Where does it spring?", answer=[["Amber Hill"]]),
    question(5, "set", topic="comets", answer=[["a"], ["b"]]),
    question(8, "table", topic="comets", stable=False, answer=[["Name", "Year"], ["Encke", "1786"]]),
]
ANSWERS = {3: "Amber Hill", 5: "```tsv\nx\nb\na\n```", 8: "```tsv\nName\tYear\nEncke\t1786\n```"}


@pytest.fixture
def suite(tmp_path):
    return write_suite(tmp_path / "suite", QUESTIONS)


@pytest.fixture
def answers(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps({"id": name, "prediction": text}) + "\n" for name, text in ANSWERS.items()))
    return path


@pytest.fixture
def score(run, tmp_path, suite, answers):
    def call(name, *overrides):
        folder = tmp_path / name
        arguments = ["+experiment=gisa_score", f"dataset.root={suite}", f"predictions={answers}"]
        return run(*arguments, "evaluator.resamples=50", f"hydra.run.dir={folder}", *overrides), folder

    return call


def read(path):
    return json.loads(path.read_text())


def squeezed(text):
    """A text without the spaces that line its tables up."""
    return re.sub(" +", " ", text)


def test_a_run_writes_scores_summaries_and_the_official_files(score, capsys):
    status, folder = score("run")
    assert status == 0
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "result.json", "run.log", "questions.jsonl", "summary.json", "summary.md",
        "_all_evaluation_results.json", "_final_scores.json", "page.html",
    }  # fmt: skip
    # Officially the item's one line is its header, so that 2 of 3 are right; a careful reader takes all 3.
    assert read(folder / "_final_scores.json") == {
        "overall_global_em": 2 / 3,
        "item": {"num_samples": 1, "overall_item_em": 0.0, "overall_global_em": 0.0},
        "set": {
            "num_samples": 1, "overall_set_precision": 1.0, "overall_set_recall": 1.0, "overall_set_f1": 1.0,
            "overall_global_em": 1.0,
        },
        "table": {
            "num_samples": 1, "overall_table_row_f1": 1.0, "overall_table_row_precision": 1.0,
            "overall_table_row_recall": 1.0, "overall_table_item_f1": 1.0, "overall_table_item_precision": 1.0,
            "overall_table_item_recall": 1.0, "overall_global_em": 1.0,
        },
    }  # fmt: skip
    every = read(folder / "_all_evaluation_results.json")
    assert every["3"] == {
        "q_item": {"id": "3", "answer_type": "item", "question_type": "stable", "topic": "rivers"},
        "pred_item": {"prediction": "Amber Hill"},
        "metrics": {"item_em": 0.0, "global_em": 0, "question_type": "item"},
    }
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["3", "5", "8"]
    assert (rows[0]["parity_flags"], rows[0]["robust"]["item_em"]) == (["no_header"], 1)
    summary = read(folder / "summary.json")
    assert summary["robust"]["overall_global_em"] == 1.0
    assert summary["parity_flags"] == {"no_header": 1}
    result = read(folder / "result.json")
    assert (result["status"], result["evaluated_questions"], result["errors"]) == ("finished", 3, {})
    assert result["metrics"]["test/global_em"] == 2 / 3
    assert result["metrics"]["test/robust_global_em/item"] == 1.0
    assert result["metrics"]["test/table_row_f1"] == 1.0
    assert result["protocol"]["dataset"].startswith("gisa (")
    printed = squeezed(capsys.readouterr().out)
    assert "| all | 3 | 0 | global_em | 66.67 [" in (folder / "summary.md").read_text()
    assert "| all | 3 | 0 | 66.67 [" in printed
    rest = [line for line in (folder / "summary.md").read_text().splitlines() if not line.startswith("|")]
    assert squeezed(" ".join(rest)).strip() in squeezed(printed.replace("\n", " "))
    assert f"All measures: {folder / 'summary.md'}" in printed
    assert f"Next: python -m src.report {folder}" in printed


def test_neither_questions_nor_canaries_reach_a_file_or_the_console(score, capsys):
    _, folder = score("run")
    written = "".join(path.read_text() for path in folder.iterdir()) + capsys.readouterr().out
    written += json.dumps(read_page((folder / "page.html").read_bytes()))
    for secret in ("Where does it spring?", "canary of 3"):
        assert secret not in written


def test_an_old_run_is_scored_again_by_the_answers_of_another_day(score, suite):
    write_csv(suite / "snapshot" / "2026-06-01" / "8.csv", [["Name", "Year"], ["Halley", "1758"]])
    (_, before), (status, after) = score("before"), score("after", "dataset.snapshot=2026-06-01")
    assert status == 0
    assert read(before / "result.json")["metrics"]["test/global_em/live"] == 1.0
    assert read(after / "result.json")["metrics"]["test/global_em/live"] == 0.0
    assert read(after / "result.json")["metrics"]["test/global_em/stable"] == 0.5
    assert read(before / "result.json")["protocol"] != read(after / "result.json")["protocol"]


def test_what_is_odd_costs_single_questions_and_is_told(score, suite, answers, capsys):
    with answers.open("a") as stream:
        stream.write('{"id": 5, "prediction": null}\n{"id": 99, "prediction": "\\ud83d"}\n{"id": 8, "pred')
    (suite / "answer" / "8.csv").write_bytes(b"\x81\xff")
    status, folder = score("run")
    assert status == 0
    assert read(folder / "result.json")["errors"] == {"not_text": 1, "gold_unreadable": 1}
    assert read(folder / "summary.json")["remarks"] == [
        "answer/8.csv: the bytes are not text in any of utf-8-sig, cp1252, gbk",
        "answers.jsonl, line 4: another answer to question 5; it replaces the one before",
        "answers.jsonl, line 6: damaged or truncated JSON (Unterminated string starting at at character 11)",
        "answers.jsonl, line 5: answer to question 99, which there is not",
    ]
    printed = squeezed(capsys.readouterr().out)
    assert "| all | 3 | 2 | 0.00 [0.00, 0.00] |" in printed
    assert "Errors: not_text 1, gold_unreadable 1." in printed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("predictions=null", "predictions: needs a value; type predictions=..."),
        ("dataset.root=nowhere", "No file nowhere/encrypted_question.jsonl"),
        ("predictions=nowhere", "there is no such folder or file"),
        ("task.samples=1", "task.samples: src.gisa.task.score.ScoreTask has no such setting; did you mean sample?"),
    ],
)
def test_faults_of_the_command_end_in_a_message(score, override, message):
    status, folder = score("run", override)
    assert status == 2
    assert message in read(folder / "result.json")["error"]["message"]


def test_the_recipe_alone_names_what_is_to_be_typed(run, tmp_path):
    assert run("+experiment=gisa_score", f"hydra.run.dir={tmp_path / 'run'}") == 2
    message = read(tmp_path / "run" / "result.json")["error"]["message"]
    for text in ("predictions: needs a value; type predictions=...", "dataset.root: needs a value; type dataset.root="):
        assert text in message


def test_answers_to_other_questions_are_refused(score, answers):
    answers.write_text('{"id": 99, "prediction": "x"}\n')
    status, folder = score("run")
    assert status == 2
    assert "none of its 1 answers has the id of one of the 3 questions" in (folder / "run.log").read_text()


def test_scoring_needs_no_torch(suite, answers, tmp_path):
    program = "import sys, src.run\nassert src.run.main() == 0\nassert not {'torch', 'pandas'} & {*sys.modules}"
    arguments = ["+experiment=gisa_score", f"dataset.root={suite}", f"predictions={answers}", "evaluator.resamples=50"]
    command = [sys.executable, "-c", program, *arguments, f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
