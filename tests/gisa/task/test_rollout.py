import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path
from urllib.parse import quote

import pytest

from src.gisa.report.answered import _read_run
from src.launch.trusted import VARIABLE
from src.report.runs import find_runs
from tests.gisa.agent.servers import completion, model_server, reply
from tests.gisa.gisa_files import question, write_suite
from tests.gisa.pages import read_page
from tests.processes import fork

ROOT = Path(__file__).parents[3]
QUESTIONS = [
    question(3, "item", topic="rivers", text="Where does the Amber spring?", answer=[["Amber Hill"]]),
    question(5, "set", topic="comets", text="Which comets are known?", answer=[["Encke"], ["Halley"]]),
]
ANSWERS = {"Where": "```tsv\nPlace\nAmber Hill\n```", "Which": "```tsv\nComet\nHalley\nEncke\n```"}
KEY = "sk-planted-0123456789"


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "pages.jsonl"
    pages = [
        {"url": f"https://atlas.example/{name}", "html": f"<title>{name}</title><p>{name}"}
        for name in ("amber", "comets")
    ]
    path.write_text("".join(json.dumps(page) + "\n" for page in pages))
    return path


@pytest.fixture
def answer(run, tmp_path, corpus, monkeypatch):
    """Roll a model behind a server out over a suite of two questions."""
    monkeypatch.setenv("PLANTED_KEY", KEY)
    suite = write_suite(tmp_path / "suite", QUESTIONS)

    with_tools = (
        *("agent/search=corpus", f"agent.search.corpus.path={corpus}"),
        *("agent/pages=corpus", f"agent.pages.corpus.path={corpus}", "agent/policy=endpoint"),
    )

    def call(url, *overrides, tools=with_tools, logger="none"):
        folder = tmp_path / "run"
        status = run(
            "+experiment=gisa_rollout", f"logger={logger}", f"hydra.run.dir={folder}",
            "dataset=gisa", f"dataset.root={suite}",
            *tools, f"agent.policy.base_url={url}", "agent.policy.model=m", "agent.policy.key_env=PLANTED_KEY",
            "agent.web.base_delay_s=0.001", "agent.web.attempts=2", "evaluator.resamples=50", *overrides,
        )  # fmt: skip
        return status, folder

    return call


async def healthy(request, writer):
    """Search once, then answer."""
    messages = json.loads(request.body)["messages"]
    if messages[-1]["role"] == "user":
        function = {"name": "search", "arguments": '{"query": "amber comets"}'}
        return completion("", tool_calls=[{"id": "a", "type": "function", "function": function}])
    return completion(ANSWERS[messages[1]["content"].split()[0]])


def small(most_chars):
    """Search for ever, and answer when asked to; refuse conversations that are longer."""

    async def respond(request, writer):
        body = json.loads(request.body)
        if len(request.body) > most_chars:
            return reply('{"error": {"code": "context_length_exceeded", "message": "too long"}}', status="400 No")
        if "tools" not in body:
            return completion("Evidence: Amber Hill.")
        if body.get("tool_choice") == "none":
            return completion(ANSWERS[body["messages"][1]["content"].split()[0]])
        function = {"name": "search", "arguments": '{"query": "amber comets"}'}
        return completion(None, tool_calls=[{"id": "", "type": "function", "function": function}])

    return respond


async def broken(request, writer):
    return reply(f"out of order {request.headers['authorization']}", status="500 Oops")


async def locked(request, writer):
    return reply(f"wrong key {request.headers['authorization']}", status="401 Unauthorized")


async def telltale(request, writer):
    """Fail and give the key away, as it is and in every encoding."""
    sent = request.headers["authorization"]
    encoded = [b64encode(text.encode()).decode() for text in (KEY, sent, f"Authorization: {sent}")]
    return reply(json.dumps({"error": {"message": [sent, quote(sent), KEY.upper(), *encoded]}}), status="403 Forbidden")


def traces_of_the_key(folder):
    """Return the files that hold the key, in any case, or a good part of it in base64."""
    inner = [b64encode(bytes(shift) + KEY.encode())[4:-4] for shift in range(3)]
    return [
        path
        for path, content in contents(folder)
        if KEY.encode() in content.lower() or any(part in content for part in inner)
    ]


def read(path):
    return json.loads(path.read_text())


def contents(folder):
    """Everything a run wrote, the packed data of its page included."""
    for path in filter(Path.is_file, folder.rglob("*")):
        yield path, path.read_bytes()
        if path.name == "page.html":
            yield path, json.dumps(read_page(path.read_bytes())).encode()


def written(folder):
    return b"".join(content for _, content in contents(folder))


def test_a_long_conversation_is_compacted_and_its_cost_and_its_mark_are_kept(answer):
    with model_server(small(most_chars=6000)) as url:
        status, folder = answer(url, "agent/compaction=summarise", "agent.policy.parallel_calls=false")
    assert status == 0
    result = read(folder / "result.json")
    assert (result["outcomes"], result["metrics"]["test/global_em"]) == ({"answered": 2}, 1)
    assert result["metrics"]["test/calls_per_question"] == 30
    assert result["protocol"]["compaction"] == "summarise"
    record = read(folder / "episodes" / "3.0.json")
    made = [step for step in record["steps"] if step["key"].startswith("compaction/")]
    assert result["metrics"]["test/compaction_prompt_tokens_per_question"] == 10 * len(made) > 0
    assert record["spent"]["compaction"]["calls"] == len(made)
    (shown,) = [one for one in read_page((folder / "page.html").read_bytes())["questions"] if one["id"] == "3"]
    marks = [step["content"] for step in shown["steps"] if step["kind"] == "compaction"]
    assert len(marks) == len(made)
    assert "steps are left out (summarise). Notes on them:\nEvidence: Amber Hill." in str(marks[0])


def test_a_model_answers_a_suite_and_its_answers_are_scored(answer, capsys):
    with model_server(healthy) as url:
        status, folder = answer(url)
    assert status == 0
    result = read(folder / "result.json")
    assert (result["status"], result["outcomes"], result["evaluated_questions"]) == ("finished", {"answered": 2}, 2)
    metrics = result["metrics"]
    assert metrics["test/global_em"] == 1
    # Two questions of two replies and one search each; a reply is 10 tokens read and 5 written.
    assert metrics["test/turns_per_question"] == 1
    assert metrics["test/searches_per_question"] == 1
    assert metrics["test/visits_per_question"] == 0
    assert (metrics["test/chain_prompt_tokens_per_question"], metrics["test/chain_completion_tokens_per_question"]) == (
        20,
        10,
    )
    assert "test/chain_usd_per_question" not in metrics  # the price list does not know the model
    assert {path.name for path in (folder / "episodes").iterdir()} == {"3.0.json", "5.0.json"}
    said = capsys.readouterr().out
    assert re.search(r"\| all +\| +2 \| +0 \| 100.00", said)
    table = [line for line in said.splitlines() if line.startswith("| ")]
    assert max(map(len, table)) <= 79, table  # with the widest intervals, a terminal of 80 columns wraps nothing
    assert b"spring?" not in written(folder)  # questions stay out of what a run writes
    assert b"amber comets" in json.dumps(read_page((folder / "page.html").read_bytes())).encode()  # the rest is there
    assert KEY.encode() not in written(folder)


def test_failures_of_the_infrastructure_are_not_scored_but_named_and_tried_again(answer, run, capsys, monkeypatch):
    with model_server(broken) as url:
        status, folder = answer(url)
    said = capsys.readouterr().out
    assert status == 2
    assert "2 of 2 episodes have no answer for reasons of infrastructure:" in said
    assert "- 2 times: HTTP 500: out of order Bearer [key]" in said
    assert f"python -m src.run resume={folder}" in said
    assert read(folder / "result.json")["status"] == "failed"
    assert not (folder / "summary.json").exists()
    assert KEY.encode() not in written(folder)
    config = (folder / "config.yaml").read_text()
    with model_server(healthy) as other:
        (folder / "config.yaml").write_text(config.replace(f"base_url: {url}", f"base_url: {other}"))
        assert run(f"resume={folder}") == 2  # which would send the key where nobody has typed it to go
        assert f"- agent.policy.base_url={other}" in capsys.readouterr().err
        monkeypatch.setenv(VARIABLE, str(folder))
        assert run(f"resume={folder}") == 2  # another address is another run, as it may be another model
        assert "these differ: agent" in capsys.readouterr().out
    (folder / "config.yaml").write_text(config.replace("max_infra_errors: 0", "max_infra_errors: 2"))
    assert run(f"resume={folder}") == 0
    result = read(folder / "result.json")
    assert result["outcomes"] == {"infra_error": 2}
    assert result["metrics"]["test/global_em"] == 0
    assert sum(result["errors"].values()) == 2


@pytest.mark.parametrize("respond", [healthy, telltale])
def test_a_key_is_in_nothing_that_a_run_writes_or_says(answer, capsys, respond, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_SILENT", "true")
    with model_server(respond) as url:
        status, folder = answer(url, "task.max_infra_errors=2", logger="wandb")
    assert status == 0
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))
    assert traces_of_the_key(tmp_path) == []
    said = "".join(capsys.readouterr()).encode()
    assert KEY.encode() not in said.lower()
    (folder / "said.txt").write_bytes(b64encode(b"x" + KEY.encode()) + said)
    assert traces_of_the_key(tmp_path) == [folder / "said.txt"]  # so it would have been found
    assert (b"[key]" in written(folder)) == (respond is telltale)


def test_a_run_goes_on_after_an_outage(answer, run):
    sick = True

    async def recovering(request, writer):
        return await (broken if sick else healthy)(request, writer)

    with model_server(recovering) as url:
        status, folder = answer(url)
        assert status == 2
        sick = False
        assert run(f"resume={folder}") == 0
    assert read(folder / "result.json")["outcomes"] == {"answered": 2}
    assert [len(read(path)["opened"]) for path in (folder / "episodes").glob("*.json")] == [2, 2]


def test_a_wrong_key_ends_the_run_at_the_first_reply_and_its_resume_goes_on(answer, run, capsys):
    asked = []

    async def recovering(request, writer):
        asked.append(request)
        return await (locked if len(asked) <= 2 else healthy)(request, writer)

    with model_server(recovering) as url:
        status, folder = answer(url, "agent.concurrency=1")
        said = capsys.readouterr().out
        assert (status, len(asked)) == (2, 1)
        assert "says HTTP 401: wrong key Bearer [key]" in said
        assert "export PLANTED_KEY=<your key>" in said
        assert run(f"resume={folder}") == 2
        assert run(f"resume={folder}") == 0
    assert read(folder / "result.json")["outcomes"] == {"answered": 2}
    assert KEY.encode() not in written(folder)


def test_the_single_shot_mode_has_no_tools(answer):
    seen = []

    async def direct(request, writer):
        seen.append(json.loads(request.body))
        return completion(ANSWERS[seen[-1]["messages"][1]["content"].split()[0]])

    with model_server(direct) as url:
        status, folder = answer(url, tools=["agent=single_shot"])
    assert status == 0
    assert read(folder / "result.json")["metrics"]["test/global_em"] == 1
    assert len(seen) == 2
    assert not any("tools" in body for body in seen)


def test_a_run_whose_episodes_all_end_alike_says_so_in_its_summary_and_report(answer, capsys):
    async def chatty(request, writer):
        return completion("It springs somewhere.")

    with model_server(chatty) as url:
        status, folder = answer(url)
    assert status == 0
    said = "All 2 episodes ended as format_error, such as: a reply without a code block. The scores say no more"
    assert said in " ".join(capsys.readouterr().out.split())  # it is wrapped for a terminal
    assert said in (folder / "summary.md").read_text()
    (recorded,) = find_runs([folder])
    assert "m: All 2 episodes ended as format_error. The scores" in _read_run(recorded, "m").warnings[-1]


def test_several_samples_are_independent_attempts_and_the_first_is_scored(answer):
    with model_server(healthy) as url:
        _, folder = answer(url, "task.samples=3")
    assert len(list((folder / "episodes").glob("*.json"))) == 6
    assert read(folder / "result.json")["evaluated_questions"] == 2


def test_the_default_recipe_runs_on_a_part_of_the_embedded_suite(run, tmp_path):
    folder = tmp_path / "run"
    arguments = ["task.max_questions=12", "logger=none", "evaluator.resamples=50", f"hydra.run.dir={folder}"]
    assert run("+experiment=gisa_rollout", *arguments) == 0
    result = read(folder / "result.json")
    assert result["evaluated_questions"] == 12
    assert result["metrics"]["test/global_em"] >= 0.5
    page = read_page((folder / "page.html").read_bytes())
    assert all(one["question"] and one["steps"] and one["human"] for one in page["questions"])
    assert {record["answer_type"] for record in map(read, (folder / "episodes").glob("*.json"))} == {
        *("item", "set", "list", "table")
    }


def test_a_few_questions_are_asked_first_and_then_the_others_in_the_same_folder(answer, run, capsys):
    till = {"prompt_tokens": 100, "completion_tokens": 100}
    asked = []

    async def counting(request, writer):
        messages = json.loads(request.body)["messages"]
        asked.append(messages[1]["content"].split()[0])
        return completion(ANSWERS[asked[-1]], usage=till)

    with model_server(counting) as url:
        price = "++agent.prices.models.m={prompt: 10, completion: 90}"  # 0.01 USD a call
        ceiling = ("agent.policy.max_output_tokens=100", "agent.run_usd=0.012", price)
        status, folder = answer(url, "task.max_questions=1", *ceiling, tools=["agent=single_shot"])
        assert (status, len(asked)) == (0, 1)
        assert read(folder / "result.json")["evaluated_questions"] == 1
        assert run(f"resume={folder}", "agent.policy.model=n", "task.max_questions=null") == 2
        said = "".join(capsys.readouterr())
        assert "remove: agent.policy.model=n" in said
        assert "they may change: task.max_questions, " in said
        assert run(f"resume={folder}", "task.max_questions=null") == 2
        said = capsys.readouterr().out
        assert "The run stops at its ceiling: 0.012 USD, of which 0.0100 are spent" in said
        assert f"python -m src.run resume={folder} agent.run_usd=<USD>" in said
        assert run(f"resume={folder}", "agent.run_usd=0.03") == 0
    assert sorted(asked) == ["Where", "Which"]
    result = read(folder / "result.json")
    assert (result["evaluated_questions"], result["outcomes"]) == (2, {"answered": 2})
    assert result["metrics"]["test/chain_usd_per_question"] == pytest.approx(0.01)


def test_another_data_set_is_refused_with_what_to_type(run, tmp_path, capsys):
    assert run("+experiment=gisa_rollout", "dataset=ml_100k", "logger=none", f"hydra.run.dir={tmp_path / 'run'}") == 2
    assert "dataset=factbook, or dataset=gisa dataset.root=<folder>" in capsys.readouterr().out


def test_search_without_pages_is_refused(run, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run("+experiment=gisa_rollout", "~agent/pages", "logger=none", f"hydra.run.dir={folder}") == 2
    assert "agent.search and agent.pages go together" in capsys.readouterr().out


def test_the_signal_to_terminate_ends_a_run_in_the_middle_of_an_episode(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:  # a model that never answers
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        choices = [
            "task.max_questions=1",
            "agent/policy=endpoint",
            "agent.policy.model=m",
            f"agent.policy.base_url={url}",
        ]
        arguments = [*choices, "agent.policy.key_env=null", "logger=none", f"hydra.run.dir={tmp_path / 'run'}"]
        process = fork("+experiment=gisa_rollout", *arguments)
        server.settimeout(120)
        with server.accept()[0]:
            process.send_signal(signal.SIGTERM)
            latest = time.monotonic() + 120
            while process.poll() is None:
                assert time.monotonic() < latest
                time.sleep(0.01)
            assert process.returncode == -signal.SIGTERM


def test_two_processes_share_the_questions(tmp_path):
    folder = tmp_path / "run"
    arguments = ["logger=none", "trainer.devices=2", "trainer.strategy=ddp", f"hydra.run.dir={folder}"]
    command = [sys.executable, "-m", "src.run", "+experiment=gisa_rollout", "task.max_questions=20", *arguments]
    # On a fast machine it is over before a log file would hear of it.
    (tmp_path / "sitecustomize.py").write_text("from src.launch import progress\nprogress._LONG_S = 0.0\n")
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr  # of the second process, which has nothing to show
    records = [read(path) for path in (folder / "episodes").glob("*.json")]
    assert len(records) == 20
    assert "20/20" in done.stderr
    assert "EM 90%" in done.stderr  # of both processes
    assert all(len(record["opened"]) == 1 for record in records)
    assert read(folder / "result.json")["evaluated_questions"] == 20
