"""The recipes around the rollout as whole runs: many attempts, live services, one shot, a model in the process."""

import json

import pytest

from tests.gisa.agent.servers import completion, model_server, reply
from tests.gisa.chat_models import write_folder
from tests.gisa.gisa_files import question, write_suite

QUESTIONS = [question(7, "item", text="Where does the Amber spring?", answer=[["Amber Hill"]])]
ANSWER = "```tsv\nPlace\nAmber Hill\n```"
KEYS = {name: f"planted-{name.lower()}-0123456789" for name in ("OPENAI_API_KEY", "SERPER_API_KEY", "JINA_API_KEY")}


def read(path):
    return json.loads(path.read_text())


def records(folder):
    return [read(path) for path in sorted((folder / "episodes").glob("*.json"))]


def written(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def call(name, **arguments):
    return completion("", tool_calls=[{"id": "", "function": {"name": name, "arguments": json.dumps(arguments)}}])


class Services:
    """A chat endpoint, a search service, a reader and a page, told apart by path; keeps every request."""

    def __init__(self):
        self.seen = []

    async def __call__(self, request, writer):
        self.seen.append(request)
        here = f"http://{request.headers['host']}"
        if request.path == "/search":
            return reply(json.dumps({"organic": [{"title": "Amber", "link": f"{here}/amber", "snippet": "A river."}]}))
        if request.path == "/reader":
            return reply(json.dumps({"data": {"title": "Amber", "url": "", "content": "It springs at Amber Hill."}}))
        if request.path == "/amber":
            return reply("<title>Amber</title><p>It springs at Amber Hill.")
        messages = json.loads(request.body)["messages"]
        if "text of a web page" in messages[0]["content"]:
            return completion("Evidence: It springs at Amber Hill.")
        results = [message["content"] for message in messages if message["role"] == "tool"]
        if not results:
            return call("search", query="Amber spring")
        if len(results) == 1:
            return call("visit", url=[f"{here}/amber"], goal="where it springs")
        return completion(ANSWER)

    def paths(self):
        return [request.path for request in self.seen]


@pytest.fixture
def start(run, tmp_path):
    """Start a recipe in a folder of its own, and return its exit status and the folder."""

    def begin(recipe, *overrides):
        folder = tmp_path / recipe
        arguments = [f"hydra.run.dir={folder}", "logger=none", "evaluator.resamples=50"]
        return run(f"+experiment={recipe}", *arguments, *overrides), folder

    return begin


@pytest.fixture
def live(start, tmp_path, monkeypatch):
    """Start the live recipe against local services."""
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    suite = write_suite(tmp_path / "suite", QUESTIONS)

    def begin(url, *overrides):
        port = url.rpartition(":")[2].partition("/")[0]
        return start(
            "gisa_live", f"dataset.root={suite}", f"agent.policy.base_url={url}", "agent.policy.model=m",
            "agent.extractor.model=m", "agent.prices.models={m: {prompt: 1.0, completion: 2.0}}",
            f"agent.search.url=http://127.0.0.1:{port}/search", f"agent.cache.folder={tmp_path / 'cache'}",
            "agent.web.base_delay_s=0.001", "agent.web.attempts=2", *overrides,
        )  # fmt: skip

    return begin


@pytest.mark.parametrize("pages", ["direct", "jina"])
def test_the_live_recipe_searches_visits_extracts_and_answers(live, tmp_path, pages):
    services = Services()
    with model_server(services) as url:
        port = url.rpartition(":")[2].partition("/")[0]
        reader = ["agent/pages=jina", f"agent.pages.url=http://127.0.0.1:{port}/reader"] if pages == "jina" else []
        status, folder = live(url, f"agent.web.test_only_loopback_ports=[{port}]", *reader)
    assert status == 0
    (record,) = records(folder)
    assert record["outcome"] == "answered"
    assert read(folder / "result.json")["metrics"]["test/global_em"] == 1
    # Three replies of the chain, one of the extractor, a search; tokens as the server counts them, 10 and 5 a reply.
    assert {part: spent["calls"] for part, spent in record["spent"].items() if part != "page"} == {
        "chain": 3,
        "extractor": 1,
        "search": 1,
    }
    assert record["spent"]["chain"]["usd"] == pytest.approx(3 * (10 * 1 + 5 * 2) / 1e6)
    keys = {
        request.path: request.headers.get("authorization") or request.headers.get("x-api-key")
        for request in services.seen
    }
    assert keys["/search"] == KEYS["SERPER_API_KEY"]
    assert keys["/v1/chat/completions"] == f"Bearer {KEYS['OPENAI_API_KEY']}"
    assert keys["/reader" if pages == "jina" else "/amber"] == (
        f"Bearer {KEYS['JINA_API_KEY']}" if pages == "jina" else None
    )
    assert not any(key.encode() in written(tmp_path) for key in KEYS.values())


def test_a_page_on_this_machine_is_refused_and_the_live_run_goes_on(live):
    services = Services()
    with model_server(services) as url:
        status, folder = live(url)
    assert "/amber" not in services.paths()
    assert status == 0
    assert records(folder)[0]["counts"]["failed_urls"] == 1


def test_results_of_live_searches_and_pages_are_kept_for_the_day(live, tmp_path):
    services = Services()
    with model_server(services) as url:
        port = url.rpartition(":")[2].partition("/")[0]
        status, _ = live(url, f"agent.web.test_only_loopback_ports=[{port}]", "task.samples=2", "agent.concurrency=1")
    assert status == 0
    assert services.paths().count("/search") == services.paths().count("/amber") == 1


def test_the_live_recipe_names_all_missing_keys_at_once_before_anything_starts(start, monkeypatch, capsys):
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "  ")
    status, folder = start("gisa_live", "agent/pages=jina", "dataset.root=x", "agent.policy.model=m")
    said = capsys.readouterr().out
    assert status == 2
    assert "The config has 3 fault(s):" in said
    assert "agent.extractor" not in said  # it is the policy's own model
    for part, name in (("policy", "OPENAI"), ("search", "SERPER"), ("pages", "JINA")):
        assert f"- agent.{part}.key_env: the environment variable {name}_API_KEY holds no API key; type  export" in said
    assert not (folder / "episodes").exists()


def test_the_live_recipe_stops_at_its_ceiling(live, capsys):
    with model_server(Services()) as url:
        status, _ = live(url, "agent.run_usd=0.001")
    assert status == 2
    assert "The run stops at its ceiling: 0.001 USD" in capsys.readouterr().out


def test_one_shot_asks_once_and_without_tools(start, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEYS["OPENAI_API_KEY"])
    seen = []

    async def direct(request, writer):
        seen.append(json.loads(request.body))
        return completion("```tsv\nName\nnobody\n```")

    with model_server(direct) as url:
        changes = [f"agent.policy.base_url={url}", "agent.policy.model=m", "task.max_questions=4"]
        status, folder = start("gisa_singleshot", *changes)
    assert status == 0
    assert len(seen) == 4
    assert not any("tools" in body for body in seen)
    assert all("tab-separated" in body["messages"][0]["content"] for body in seen)
    assert read(folder / "result.json")["outcomes"] == {"answered": 4}


def test_scaling_makes_attempts_that_differ(start, tmp_path):
    folder = write_folder(tmp_path / "model")
    changes = ["agent/policy=local", f"agent.policy.name={folder}", "agent.policy.max_output_tokens=12"]
    status, folder = start(
        "gisa_scaling", *changes, "task.samples=4", "task.max_questions=2", "agent.budget.max_calls=1"
    )
    assert status == 0
    found = records(folder)
    assert sorted((record["question_id"], record["sample"]) for record in found) == [
        (question, sample) for question in ("1", "173") for sample in range(4)
    ]
    said = [record["steps"][0]["value"]["message"]["content"] for record in found]
    assert len(set(said)) > 4
    assert read(folder / "result.json")["evaluated_questions"] == 2


def test_a_model_in_this_process_ends_every_episode_in_a_typed_outcome(start, tmp_path):
    folder = write_folder(tmp_path / "model")
    changes = ["agent/policy=local", f"agent.policy.name={folder}", "agent.policy.max_output_tokens=12"]
    status, folder = start("gisa_rollout", *changes, "task.max_questions=6")
    assert status == 0
    result = read(folder / "result.json")
    assert sum(result["outcomes"].values()) == 6
    assert set(result["outcomes"]) <= {"truncated", "format_error"}  # random weights make no sense
    assert result["metrics"]["test/chain_completion_tokens_per_question"] > 0


@pytest.mark.slow
def test_smollm2_calls_tools_after_worked_examples(start):
    status, folder = start("gisa_rollout", "agent/policy=smollm2", "task.max_questions=4", "agent.budget.max_calls=2")
    assert status == 0
    found = records(folder)
    assert len(found) == 4
    assert sum(record["counts"]["calls"] for record in found) >= 2
    assert not any(record["outcome"] == "infra_error" for record in found)
