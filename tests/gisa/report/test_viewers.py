"""Logs of inspect-ai, read by its own reader."""

import pytest

from src.gisa.dataset.gisa import Gisa
from src.gisa.report.viewers import write_log
from src.gisa.report.wing import write_files
from src.launch.errors import InputError
from src.report.comparison import build_report
from tests.gisa.gisa_files import question, write_suite
from tests.gisa.report.page_run import episode, reply, search, visit, write_run

TEXT = "Which rivers are long?"
QUESTIONS = [
    question(1, "table", text=TEXT, answer=[["River", "Length"], ["Amber", "10"]]),
    question(2, "item", text="Which one is lost?", answer=[["Biela"]]),
]
EPISODES = [
    episode(1, [reply(0, f"I am asked: {TEXT}", ("search", '{"query": "long rivers"}')),
                search(0, "long rivers", "1. Rivers\nhttps://example.org/1", ["https://example.org/1"]),
                reply(1, "", ("visit", "no JSON"), reasoning_content="It must be there."),
                visit(1, "https://example.org/1/", "Amber is 10 long."),
                reply(2, "Done.")],
            "```tsv\nRiver\tLength\nAmber\t10\n```", opened=["2026-01-01T00:00:00+00:00"]),
    episode(2, [reply(0, "")], "", "infra_error", reason="HTTP 500", opened=["2026-01-01T00:00:00+00:00"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    suite = Gisa(str(write_suite(folder / "suite", QUESTIONS)))
    write_run(folder / "run", suite, EPISODES)
    (run,) = build_report([folder / "run"]).collection.runs
    return run, suite, folder


def test_the_own_reader_of_inspect_ai_reads_a_run(scored):
    read_eval_log = pytest.importorskip("inspect_ai.log").read_eval_log
    run, suite, folder = scored
    log = read_eval_log(str(write_log(run, suite, folder / "logs")))
    assert [path.suffix for path in (folder / "logs").iterdir()] == [".eval"]
    assert (log.status, log.eval.task, log.eval.dataset.samples) == ("success", run.name, 2)
    assert {score.name: score.metrics["mean"].value for score in log.results.scores} == {
        "exact_match": 0.5, "robust_exact_match": 0.5, "f1": 0.5
    }  # fmt: skip
    first, second = log.samples
    assert (first.id, first.epoch, first.scores["exact_match"].value) == ("1", 1, 1)
    assert first.target == "River,Length\nAmber,10\n"
    roles = [message.role for message in first.messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "tool", "assistant"]
    call, odd = first.messages[2].tool_calls[0], first.messages[4].tool_calls[0]
    assert (call.function, call.arguments, call.parse_error) == ("search", {"query": "long rivers"}, None)
    assert first.messages[3].tool_call_id == call.id
    assert first.messages[3].text.startswith("1. Rivers")
    assert (odd.function, odd.arguments) == ("visit", {"unreadable": "no JSON"})
    assert odd.parse_error
    assert first.output.completion == EPISODES[0]["prediction"]
    assert (second.error.message, second.scores["exact_match"].value) == ("HTTP 500", 0)


def test_questions_stay_out_of_it_unless_they_may_be_shown(scored):
    read_eval_log = pytest.importorskip("inspect_ai.log").read_eval_log
    run, suite, folder = scored
    log = read_eval_log(str(write_log(run, suite, folder / "hidden")))
    assert TEXT not in log.model_dump_json()
    assert log.samples[0].messages[2].text == "I am asked: [the question]"
    shown = Gisa(str(suite.root), show_questions=True)
    log = read_eval_log(str(write_log(run, shown, folder / "shown")))
    assert log.samples[0].input == TEXT


def test_without_the_package_the_report_ends_before_it_begins(monkeypatch, tmp_path):
    monkeypatch.setattr("src.gisa.report.viewers.find_spec", lambda name: None)
    options = {"weave": False, "inspect": True, "leaderboard": False, "show_questions": False}
    with pytest.raises(
        InputError, match=r'--inspect needs the package inspect-ai.\nType:  pip install -e "\.\[inspect\]"'
    ):
        next(write_files([], tmp_path, options), None)
