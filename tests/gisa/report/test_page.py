import json
import re

import pytest

from src.gisa.dataset.gisa import Gisa
from src.gisa.report import page as page_module
from src.gisa.report.page import MOST_BYTES, limit_for, page_data, page_of, shortened, write_page
from src.launch.errors import InputError
from src.report.__main__ import main
from tests.gisa.gisa_files import question, write_suite
from tests.gisa.pages import read_page
from tests.gisa.report.page_run import episode, line, reply, search, visit, write_long_run, write_run

TEXT = 'Which "Ämber" bridge is\nthe oldest?'
ANSWER = "```tsv\nBridge\nOld\n```"


def small_run(folder, episodes, *, show_questions=True, **changes):
    questions = [question(1, text=TEXT, answer=[["Old"]], **changes)]
    suite = Gisa(str(write_suite(folder / "suite", questions)), show_questions=show_questions)
    return suite, write_run(folder / "run", suite, episodes)


def data_of(folder, *arguments, **changes):
    suite, result = small_run(folder, *arguments, **changes)
    return read_page(write_page(folder / "run", result, suite).read_bytes())


def test_a_page_of_373_questions_is_below_5_mb_and_says_what_is_left_out(tmp_path):
    suite, result = write_long_run(tmp_path, calls=12, page_chars=6000)
    path = write_page(tmp_path / "run", result, suite)
    assert 0.8 * MOST_BYTES < path.stat().st_size < MOST_BYTES
    data = read_page(path.read_bytes())
    assert len(data["questions"]) == 373
    limit = data["most_chars"]
    texts = [step["content"] for one in data["questions"] for step in one["steps"] if step.get("tool") == "visit"]
    assert texts
    assert all(len(text) == limit and limit + left_out == 6000 for text, left_out in texts)


def test_texts_are_shortened_to_one_length_and_count_what_is_gone():
    once = shortened(["abcdef", {"x": ("ab", "abc")}], 3)
    assert json.loads(json.dumps(once)) == [["abc", 3], {"x": ["ab", "abc"]}]
    assert json.loads(json.dumps(shortened(once, 1))) == [["a", 5], {"x": [["a", 1], ["a", 2]]}]
    assert shortened(None, 1) is None


def test_the_length_to_cut_to_leaves_the_share():
    # Of 2 + 4 + 10 characters half are 8: 2 + 3 + 3.
    assert limit_for(["a" * 4, "a" * 10, "a" * 2], 0.5) == 3
    assert limit_for([], 0.5) == 0


def test_a_page_that_cannot_be_small_is_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "MOST_BYTES", 1000)
    data = data_of(tmp_path, [episode(1, [reply(0, "a" * 9000)], ANSWER)])
    assert data["questions"][0]["steps"][0]["content"] == ["a" * 100, 8900]


def test_the_questions_of_a_benchmark_stay_out_also_where_they_are_quoted(tmp_path):
    shouted = TEXT.upper().replace(" ", "  ")
    steps = [
        reply(0, f"I am asked: {TEXT}", ("search", json.dumps({"query": TEXT})), reasoning=shouted),
        search(0, TEXT, f"found {TEXT}"),
        line("call/1/0", None, error=f"no such thing as {TEXT}", failures=[TEXT]),
    ]
    episodes = [episode(1, steps, f"{TEXT} {ANSWER}", reason=TEXT)]
    data = data_of(tmp_path, episodes, show_questions=False)
    shown = data["questions"][0]
    assert shown["question"] is None
    assert not re.search("bridge is|bridge  is", json.dumps(data), re.IGNORECASE)
    assert shown["steps"][0]["content"] == "I am asked: [the question]"
    assert shown["steps"][0]["calls"] == [["search", '{"query": "[the question]"}']]
    assert shown["prediction"] == f"[the question] {ANSWER}"
    shown = data_of(tmp_path / "shown", episodes)["questions"][0]
    assert shown["question"] == TEXT
    assert shown["prediction"].startswith(TEXT)


def test_the_default_of_the_benchmark_is_not_to_show_questions(tmp_path):
    suite = write_suite(tmp_path, [question(1)])
    assert not Gisa(str(suite)).show_questions


def test_odd_messages_of_models_are_shown_as_they_are(tmp_path):
    odd = [
        reply(0, [{"type": "text", "text": "in parts"}], reasoning_details=[{"text": "why"}]),
        line("reply/1", {"message": {"content": None, "tool_calls": "none"}, "finish_reason": None}),
        line("reply/2", {"message": {"tool_calls": [7, {"function": 7}, {}]}, "finish_reason": "length"}),
        line("call/2/0", {"error": "invalid", "content": "There is no tool."}),
        line("reply/3", None, error="RequestError: HTTP 500", failures=["HTTP 500"]),
    ]
    steps = data_of(tmp_path, [episode(1, odd, ANSWER)])["questions"][0]["steps"]
    assert "in parts" in steps[0]["content"]
    assert "why" in steps[0]["thought"]
    assert (steps[1]["content"], steps[1]["calls"]) == ("", [])
    assert steps[2]["calls"] == [["?", ""], ["?", ""]]
    assert (steps[3]["error"], steps[3]["content"]) == ("invalid", "There is no tool.")
    assert (steps[4]["failed"], steps[4]["failures"]) == ("RequestError: HTTP 500", ["HTTP 500"])


def test_an_unknown_price_is_unknown_and_not_nothing(tmp_path):
    unknown = reply(0)
    unknown["charges"][0]["usd"] = None
    assert data_of(tmp_path, [episode(1, [unknown, reply(1)], ANSWER)])["questions"][0]["steps"][0]["usd"] is None


def test_pages_that_both_visited_are_marked_whatever_the_form_of_their_address(tmp_path):
    steps = [visit(0, "HTTPS://Example.org/1/#part", "x"), visit(1, "https://example.org/2", "x")]
    shown = data_of(tmp_path, [episode(1, steps, ANSWER)])["questions"][0]
    assert shown["shared"] == ["HTTPS://Example.org/1/#part", "https://example.org/1"]


def test_only_the_sample_that_was_scored_is_shown(tmp_path):
    first, second = episode(1, [reply(0, "first")], ANSWER), episode(1, [reply(0, "second")], ANSWER, sample=1)
    shown = data_of(tmp_path, [first, second])["questions"]
    assert [one["steps"][0]["content"] for one in shown] == ["first"]


def test_a_question_without_answer_and_trace_is_there(tmp_path):
    shown = data_of(tmp_path, [episode(2, [], "")], trace=False)["questions"][0]
    assert (shown["outcome"], shown["prediction"], shown["human"]) == ("missing", None, [])
    assert "steps" not in shown


def test_a_run_that_scores_the_answers_of_another_shows_its_trajectories(tmp_path):
    suite, result = small_run(tmp_path, [episode(1, [reply(0, "words")], ANSWER)])
    (tmp_path / "run" / "episodes").rename(tmp_path / "episodes")
    result["config"]["predictions"] = str(tmp_path)
    assert page_data(tmp_path / "run", result, suite)["questions"][0]["steps"][0]["content"] == "words"
    result["config"]["predictions"] = str(tmp_path / "answers.jsonl")
    assert "steps" not in page_data(tmp_path / "run", result, suite)["questions"][0]


def test_a_folder_without_scores_is_told(tmp_path):
    suite, result = small_run(tmp_path, [episode(1, [], ANSWER)])
    with pytest.raises(InputError, match="No file .*questions.jsonl.*\n.*scores of a run"):
        write_page(tmp_path / "suite", result, suite)


def test_the_page_runs_nothing_but_its_own_script_and_loads_nothing(tmp_path):
    suite, result = small_run(tmp_path, [episode(1, [reply(0, "</script><script>x</script>")], ANSWER)])
    text = page_of(page_data(tmp_path / "run", result, suite)).decode("ascii", "replace")
    assert "default-src 'none'" in text
    assert "unsafe" not in text
    assert text.count("<script") == text.count("</script>") == 2
    assert not re.search(r"""(src|href)=["']?(?!#)\w""", text.partition("<script")[0])


def test_the_report_writes_the_pages_of_runs_on_a_suite(tmp_path, capsys):
    small_run(tmp_path, [episode(1, [reply(0)], ANSWER)], show_questions=False)
    own, path = tmp_path / "run" / "page.html", tmp_path / "run" / "report" / "pages" / "run" / "page.html"
    main([str(tmp_path / "run")])
    assert f"Page of gisa_rollout: {path}" in capsys.readouterr().out
    assert read_page(path.read_bytes())["questions"][0]["question"] is None
    main([str(tmp_path / "run"), "--show-questions"])
    assert read_page(path.read_bytes())["questions"][0]["question"] == TEXT
    own.write_text("as the run has left it")
    main([str(tmp_path / "run")])
    assert f"Page of gisa_rollout: {own}" in capsys.readouterr().out
    main([str(tmp_path / "run"), "--show-questions"])
    assert own.read_text() == "as the run has left it"
    own.unlink()
    (tmp_path / "suite" / "encrypted_question.jsonl").unlink()
    main([str(tmp_path / "run")])
    assert "No page of gisa_rollout: No file" in capsys.readouterr().out
