import asyncio
import gc
import gzip
import itertools
import json
import logging
import multiprocessing
import os
import random
import signal
from collections import Counter
from dataclasses import replace

import pytest

from src.gisa.agent.backends import DirectPages, EmbeddedWeb, SerperSearch
from src.gisa.agent.cost import Charge, PriceList
from src.gisa.agent.fetch import FetchLimits
from src.gisa.agent.heuristic import HeuristicPolicy
from src.gisa.agent.policy import ChatEndpoint, ReplyTokens, ScriptedPolicy
from src.gisa.agent.react import Budget
from src.gisa.agent.rollout import Rollout, Script
from src.gisa.agent.trajectory import Attempt, MemoryStore, RunStore
from src.gisa.agent.web import Web
from src.gisa.dataset.factbook.corpus import Corpus, Document
from src.launch.errors import InputError
from tests.gisa.agent.servers import completion, model_server, reply, serve

CORPUS = Corpus([Document("https://atlas.example/peru", "<title>Peru</title><p>Capital: Lima")])
PRICES = PriceList(date="2026-01-31", models={"m": {"prompt": 10, "completion": 10}}, search=0.001)
OUTCOMES = {"answered", "format_error", "budget", "truncated", "refused", "infra_error"}


def attempts(count):
    return (Attempt(str(number), 0, f"Question {number}?", "item") for number in range(count))


def call(name, **arguments):
    return {"id": f"{name}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def say(messages, page="https://atlas.example/peru", query="peru"):
    """Search, visit, answer with the number of the question."""
    turn = sum(message["role"] == "assistant" for message in messages)
    number = messages[1]["content"].split()[1].rstrip("?")
    if turn == 0:
        return {"content": "", "tool_calls": [call("search", query=query)]}
    if turn == 1:
        return {"content": "", "tool_calls": [call("visit", url=[page], goal="capital")]}
    return {"content": f"```tsv\nNumber\n{number}\n```"}


def rollout(policy, **parts):
    settings = {
        "search": EmbeddedWeb(CORPUS), "pages": EmbeddedWeb(CORPUS), "prices": PRICES,
        "budget": Budget(max_calls=6), "web": Web(), "today": "2026-01-31",
    }  # fmt: skip
    return Rollout(policy=policy, **{**settings, **parts})


def work(folder, count, policy=None, concurrency=8, **ceilings):
    """Roll a scripted policy out over a folder and return the outcomes."""
    store = RunStore(folder, {"policy": "scripted"})
    return rollout(policy or ScriptedPolicy(say), concurrency=concurrency, **ceilings).run(attempts(count), store)


def predictions(folder):
    records = RunStore(folder, {"policy": "scripted"}).records()
    return {record["question_id"]: (record["outcome"], record["prediction"]) for record in records}


EXPECTED = {str(n): ("answered", f"```tsv\nNumber\n{n}\n```") for n in range(100)}


def test_every_question_is_answered_once_and_a_second_run_has_nothing_to_do(tmp_path):
    assert work(tmp_path, 20) == {"answered": 20}
    assert work(tmp_path, 20) == {"passed_over": 20}
    assert predictions(tmp_path) == {name: EXPECTED[name] for name in map(str, range(20))}


def test_no_more_episodes_are_under_way_than_allowed_and_attempts_are_read_as_needed(tmp_path):
    under_way, most, read = set(), [], []

    class Slow:
        async def reply(self, request):
            under_way.add(request.messages[1]["content"])
            most.append(len(under_way))
            assert len(read) <= 20
            await asyncio.sleep(0.001)
            said = await ScriptedPolicy(say).reply(request)
            if not said.message.get("tool_calls"):
                under_way.remove(request.messages[1]["content"])
            return said

    def reading():
        for attempt in attempts(12):
            read.append(attempt)
            assert len(read) - len(list((tmp_path / "episodes").glob("*.json"))) <= 3 + 1
            yield attempt

    assert rollout(Slow(), concurrency=3).run(reading(), RunStore(tmp_path, {})) == {"answered": 12}
    assert max(most) == 3


def test_the_run_stops_at_its_ceiling_and_goes_on_with_a_higher_one(tmp_path):
    class Costly(ScriptedPolicy):
        async def reply(self, request):
            with request.step.account.reserve(1.0):
                request.step.charge(Charge("chain", usd=1.0))
                return await super().reply(request)

    # Three calls of 1 USD a question: 7 USD last for two questions and a third of the next.
    with pytest.raises(InputError, match=r"ceiling: 7\.0 USD, of which 7\.0000 are spent\.\n2 episodes are done"):
        work(tmp_path, 4, Costly(say), concurrency=1, run_usd=7.0)
    with pytest.raises(InputError, match=r"7\.0000 are spent"):
        work(tmp_path, 4, Costly(say), concurrency=1, run_usd=7.0)
    assert work(tmp_path, 4, Costly(say), concurrency=1, run_usd=12.0) == {"passed_over": 2, "answered": 2}
    assert RunStore(tmp_path, {"policy": "scripted"}).spent_usd() == 12


class Till:
    """A model behind a server that keeps books of its own: each call is 300 tokens read at 3 USD and 100 at 15."""

    usd_per_call = (300 * 3 + 100 * 15) / 1e6

    def __init__(self, *, tells=True):
        self.usage = {"prompt_tokens": 300, "completion_tokens": 100} if tells else {"prompt_tokens": 0}
        self.calls = 0

    async def __call__(self, request, writer):
        self.calls += 1
        said = say(json.loads(request.body)["messages"])
        await asyncio.sleep(0.005)
        return completion(said.pop("content"), usage=self.usage, **said)

    def work(self, folder, count, **settings):
        prices = PriceList(date="2026-01-31", models={"m": {"prompt": 3, "completion": 15}})
        with model_server(self) as url:
            policy = ChatEndpoint(base_url=url, model="m", prices=prices, key_env=None)
            return rollout(policy, concurrency=64, **settings).run(attempts(count), RunStore(folder, {}))


def test_a_ceiling_stops_a_run_where_it_is_nearly_spent_and_not_before(tmp_path):
    """80 questions of 3 calls at 0.0024 USD are 0.576 USD; 64 replies of 8192 tokens would be 7.9 USD."""
    plenty, short, blind = Till(), Till(), Till(tells=False)
    assert plenty.work(tmp_path / "plenty", 80, run_usd=0.7) == {"answered": 80}
    assert RunStore(tmp_path / "plenty", {}).spent_usd() == pytest.approx(0.576)
    with pytest.raises(InputError, match=r"ceiling: 0\.3 USD, of which 0\.2\d+ are spent"):
        short.work(tmp_path / "short", 80, run_usd=0.3)
    spent = RunStore(tmp_path / "short", {}).spent_usd()
    assert spent == pytest.approx(short.calls * short.usd_per_call)
    assert 0.9 * 0.3 <= spent <= 0.3
    done = len(list((tmp_path / "short/episodes").glob("*.json")))
    assert short.work(tmp_path / "short", 80, run_usd=0.7) == Counter(passed_over=done, answered=80 - done)
    assert short.calls == 240  # nothing twice
    with pytest.raises(InputError, match=r"ceiling: 0\.1 USD"):  # nobody tells the tokens
        blind.work(tmp_path / "blind", 80, run_usd=0.1)
    assert 0.9 * 0.1 <= RunStore(tmp_path / "blind", {}).spent_usd() <= 0.1


def test_what_was_paid_is_booked_though_its_step_is_cancelled(tmp_path):
    """The page behind the second visit never comes: the first one's extraction is paid when the episode times out."""

    class Extractor:
        async def reply(self, request):
            request.step.charge(Charge("extractor", 100, 10, 0.5))
            return await ScriptedPolicy(lambda _: {"content": "Lima"}).reply(request)

    class Pages:
        name = ""

        async def read(self, url, step, web):
            if url.endswith("stuck"):
                await asyncio.sleep(60)
            return await EmbeddedWeb(CORPUS).read(url, step, web)

    urls = ["https://atlas.example/peru", "https://atlas.example/stuck"]
    visit = ScriptedPolicy(lambda _: {"content": "", "tool_calls": [call("visit", url=urls, goal="capital")]})
    agent = rollout(visit, pages=Pages(), extractor=Extractor(), episode_timeout_s=0.2)
    store = RunStore(tmp_path, {})
    assert agent.run(attempts(1), store) == {"infra_error": 1}
    assert store.spent_usd() == 0.5
    assert [record["spent"]["extractor"]["usd"] for record in store.records()] == [0.5]


def test_a_questions_ceiling_ends_that_question_only(tmp_path):
    class Costly(ScriptedPolicy):
        async def reply(self, request):
            with request.step.account.reserve(3.0 if "Question 1?" in request.messages[1]["content"] else 1.0):
                return await super().reply(request)

    assert work(tmp_path, 4, Costly(say), question_usd=2.0) == {"answered": 3, "budget": 1}


def test_a_defect_met_by_one_question_leaves_the_others_alone(tmp_path):
    def defective(messages):
        if "Question 2?" in messages[1]["content"]:
            raise ZeroDivisionError("x")
        return say(messages)

    assert work(tmp_path, 5, ScriptedPolicy(defective)) == {"answered": 4, "infra_error": 1}
    assert work(tmp_path, 5) == {"answered": 1, "passed_over": 4}


def _work_slowly(folder, count, pause_s):
    class Paced(ScriptedPolicy):
        async def reply(self, request):
            await asyncio.sleep(pause_s)
            return await super().reply(request)

    work(folder, count, Paced(say), concurrency=4)


def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one(tmp_path):
    """Twenty kills; every reply of the 100 questions is in the records once, and paid once."""
    context = multiprocessing.get_context("fork")
    randomness = random.Random(1)
    for _ in range(20):
        process = context.Process(target=_work_slowly, args=(tmp_path, 100, 0.002))
        process.start()
        process.join(randomness.uniform(0.05, 0.4))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
    work(tmp_path, 100)
    assert predictions(tmp_path) == EXPECTED
    for record in RunStore(tmp_path, {"policy": "scripted"}).records():
        keys = [step["key"] for step in record["steps"]]
        assert keys == ["reply/0", "call/0/0", "reply/1", "call/1/0", "reply/2"]
        assert record["spent"]["chain"]["calls"] == 3
    assert {path.suffix for path in (tmp_path / "episodes").iterdir() if not path.name.startswith(".")} == {".json"}


STORM, ASKED = Counter(), Counter()


def _faulty(good, kind, question):
    """Return a good reply, or in three of ten cases one of the faults of a bad day.

    A question's own requests come one after the other, so that the n-th of a kind has its fault in every run, however
    the episodes of one run overlap.
    """
    ASKED[kind, question] += 1
    rng = random.Random(f"{kind} {question} {ASKED[kind, question]}")
    if rng.random() > 0.3:
        return good
    faults = {
        "429": reply("slow", status="429 Slow", Retry_After="0.01"),
        "500": reply("oops", status="500 Oops"),
        "reset": b"",
        "stall": None,
        "truncated": reply(b'{"choices": [{"mess', content_type="application/json"),
        "cut": reply(b"<p>half", Content_Length=1000),
        "non-utf8": reply(b"\xff\xfe\xfd<p>\x80\x81"),
    }
    if kind == "llm":
        faults["empty"] = completion("")
        faults["wrong ids"] = completion("", tool_calls=[call("search", query=f"peru {question}") | {"id": None}] * 2)
        faults["broken call"] = completion("", tool_calls=[call("search") | {"id": 7}])
    if kind == "page":
        faults["huge"] = reply(b"<p>x</p>" * 100_000)
        faults["bomb"] = reply(gzip.compress(bytes(3_000_000)), Content_Encoding="gzip")
        faults["loop"] = reply(status="302 Found", Location="/again")
        faults["inward"] = reply(status="302 Found", Location="http://169.254.169.254/")
    name = rng.choice(sorted(faults))
    STORM[f"{kind} {name}"] += 1
    return faults[name]


def test_in_a_storm_of_faults_every_episode_ends_in_a_typed_outcome_and_none_is_lost(tmp_path, monkeypatch, caplog):
    """LLM, search and pages fail three times in ten; what fails for good is tried again on resume, and is no answer."""
    monkeypatch.setenv("PLANTED_KEY", "sk-planted-0123456789")
    caplog.set_level(logging.DEBUG)
    STORM.clear()
    ASKED.clear()

    async def stalling(data):
        if data is None:
            await asyncio.sleep(30)
        return data

    async def llm(request, writer):
        messages = json.loads(request.body)["messages"]
        question = messages[1]["content"].split()[1].rstrip("?")
        said = say(messages, page=f"{page_url}?{question}", query=f"peru {question}")
        good = completion(said["content"], **{key: value for key, value in said.items() if key != "content"})
        if ASKED["llm", question] == 1 and int(question) % 20 == 19:  # of a server that took the key before
            ASKED["llm", question] += 1
            return reply(f"wrong key {request.headers['authorization']}", status="401 Who")
        return await stalling(_faulty(good, "llm", question))

    async def searching(request, writer):
        question = json.loads(request.body)["q"].split()[1]
        hit = {"title": "Peru", "link": f"{page_url}?{question}", "snippet": request.headers["x-api-key"]}
        return await stalling(_faulty(reply(json.dumps({"organic": [hit]})), "search", question))

    async def page(request, writer):
        return await stalling(_faulty(reply("<p>Capital: Lima"), "page", request.path.partition("?")[2]))

    async def main():
        nonlocal page_url
        async with serve(llm) as llm_port, serve(searching) as search_port, serve(page) as page_port:
            page_url = f"http://127.0.0.1:{page_port}/"
            limits = FetchLimits(wire_bytes=500_000, decoded_bytes=1_000_000, total_s=0.5)
            settings = {"base_delay_s": 0.001, "max_delay_s": 1.0, "attempts": 3, "limits": limits}
            endpoint = ChatEndpoint(
                base_url=f"http://127.0.0.1:{llm_port}", model="m", prices=PRICES, key_env="PLANTED_KEY", timeout_s=0.5
            )
            search = SerperSearch(
                prices=PRICES, key_env="PLANTED_KEY", url=f"http://127.0.0.1:{search_port}/", timeout_s=0.5
            )
            web = Web(**settings, test_only_loopback_ports=[page_port])
            limits = {"concurrency": 16, "question_usd": 5.0, "run_usd": 100.0}
            agent = rollout(endpoint, search=search, pages=DirectPages(), web=web, **limits)
            store = RunStore(tmp_path, {"policy": "scripted"})
            return store, [await agent.roll_out(attempts(60), store) for _ in range(6)]

    page_url = ""
    store, totals = asyncio.run(main())
    records = list(store.records())
    assert len(records) == 60
    assert all(total.keys() <= OUTCOMES | {"passed_over"} and total.total() == 60 for total in totals)
    assert totals[0]["infra_error"] > 0
    outcomes = Counter(record["outcome"] for record in records)
    assert outcomes["infra_error"] < totals[0]["infra_error"]
    for record in records:
        if record["outcome"] == "answered":
            assert record["prediction"] == EXPECTED[record["question_id"]][1]
        if record["outcome"] == "infra_error":
            assert record["prediction"] == ""
            assert record["reason"]
    assert outcomes.keys() <= {"answered", "format_error", "infra_error"}
    assert store.spent_usd() < 100
    assert len(STORM) >= 20
    written = caplog.text.encode() + b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"[key]" in written
    assert b"planted" not in written


def test_more_questions_take_no_more_memory(tmp_path):
    """What is left after garbage collection; a record is 2 kB. A leak grows in every stretch, a cache in one."""
    import tracemalloc

    held = []

    def measured():
        for attempt in attempts(310):
            if int(attempt.question_id) % 100 == 9:
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
            yield attempt

    tracemalloc.start()
    agent = rollout(ScriptedPolicy(say), concurrency=4)
    assert agent.run(measured(), RunStore(tmp_path, {})) == {"answered": 310}
    tracemalloc.stop()
    assert len(held) == 4
    assert min(after - before for before, after in itertools.pairwise(held)) < 30_000


def test_two_processes_share_a_run(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_work_slowly, args=(tmp_path, 40, 0.001)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert predictions(tmp_path) == {name: EXPECTED[name] for name in map(str, range(40))}
    opened = [record["opened"] for record in RunStore(tmp_path, {"policy": "scripted"}).records()]
    assert all(len(times) == 1 for times in opened)


PERU = Attempt("1", 0, "What is the capital of Peru?", "item")
CALLS = [("search", {"query": "Peru Government"}), ("visit", {"url": ["https://a.example/peru"], "goal": "Zoë"})]
ANSWER = "```tsv\nAnswer\nLima\n```"


@pytest.fixture
def rules():
    """An agent of rules on two pages."""
    facts = "<title>Peru: Government</title><table><tr><th>Capital</th><td>Lima</td></tr></table>"
    pages = [
        Document("https://a.example/peru", facts),
        Document("https://a.example/chile", "<title>Chile: Government</title><p>Santiago"),
    ]
    return on_pages(*pages)


def on_pages(*pages):
    web = Corpus(pages)
    backends = {"search": EmbeddedWeb(web), "pages": EmbeddedWeb(web)}
    return rollout(HeuristicPolicy(), **backends, results=2, budget=Budget(max_calls=3), today="2024-07-01")


def answered(agent):
    """The one episode about Peru."""
    store = MemoryStore()
    assert agent.run([PERU], store) == {"answered": 1}
    return store.ended[PERU]


def without_ids(messages):
    text = json.dumps(messages)
    for message in messages:
        for call in message.get("tool_calls", []):
            text = text.replace(json.dumps(call["id"]), '"id"')
    return json.loads(text)


def test_tokens_travel_with_the_episode_and_are_in_no_record(tmp_path):
    class Telling(ScriptedPolicy):
        async def reply(self, request):
            said = await super().reply(request)
            return replace(said, tokens=ReplyTokens([len(request.messages)], [7_777_777]))

    store = MemoryStore()
    assert rollout(Telling(say)).run(attempts(2), store) == {"answered": 2}
    for episode in store.ended.values():
        assert episode.tokens == [([2], [7_777_777]), ([4], [7_777_777]), ([6], [7_777_777])]
        assert "7777777" not in json.dumps(episode.record())
    assert work(tmp_path, 2, Telling(say)) == {"answered": 2}
    assert not any(b"7777777" in path.read_bytes() for path in tmp_path.rglob("*.json"))


def test_what_a_policy_did_is_acted_out_word_for_word(rules):
    episode = answered(rules)
    calls = [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for message in episode.messages
        for call in message.get("tool_calls", [])
    ]
    assert [name for name, _ in calls] == ["search", "visit"]
    (replayed,) = rules.replay([Script(PERU, calls, episode.verdict.prediction)])
    assert replayed.verdict == episode.verdict
    assert replayed.counts == episode.counts
    assert without_ids(replayed.messages[:-1]) == without_ids(episode.messages)
    assert replayed.messages[-1] == {"role": "assistant", "content": episode.verdict.prediction}


def test_a_recorded_episode_is_recalled_word_for_word_and_nothing_is_carried_out(rules):
    episode = answered(rules)
    record = json.loads(json.dumps(episode.record()))  # as it comes from the disk
    record["steps"][1]["value"]["content"] = "what was really read"
    elsewhere = on_pages(Document("https://b.example/", "<p>Nothing"))
    (recalled,) = elsewhere.recall([(PERU, record)])
    assert recalled.messages[3]["content"] == "what was really read"
    episode.messages[3]["content"] = "what was really read"
    assert recalled.messages[:-1] == episode.messages
    assert recalled.messages[-1]["content"] == recalled.verdict.prediction == record["prediction"]
    assert recalled.counts == episode.counts

    record["steps"] = record["steps"][:-1]  # the answer is missing
    (cut,) = elsewhere.recall([(PERU, record)])
    assert cut.verdict.outcome == "infra_error"
    assert "the record ends before the episode does" in cut.verdict.reason


def test_a_script_beyond_the_budget_ends_as_a_rollout_would(rules):
    scripts = [Script(PERU, [*CALLS, *CALLS], ANSWER), Script(PERU, [*CALLS, CALLS[0]], ANSWER)]
    replayed, exact = rules.replay(scripts)
    assert (replayed.verdict.outcome, replayed.counts["calls"]) == ("budget", 3)
    assert exact.verdict.outcome == "answered"
    assert "You have used up your tool calls" in exact.messages[-2]["content"]


def test_pages_that_are_not_there_and_malformed_calls_are_counted(rules):
    calls = [("visit", {"url": ["https://a.example/none"], "goal": "x"}), ("visit", {"url": []})]
    (replayed,) = rules.replay([Script(PERU, calls, ANSWER)])
    assert (replayed.counts["failed_urls"], replayed.counts["invalid_calls"]) == (1, 1)
    (done,) = replayed.tool_calls  # the other was not carried out
    assert done.urls == ("https://a.example/none",)


def test_what_was_done_and_read_comes_in_order(rules):
    (replayed,) = rules.replay([Script(PERU, CALLS, ANSWER)])
    searched, visited = replayed.tool_calls
    assert (searched.query, searched.urls) == ("Peru Government", ())
    assert (visited.query, visited.urls) == (None, ("https://a.example/peru",))
    assert "Capital | Lima" in visited.text
    assert [searched.text, visited.text] == [one["content"] for one in replayed.messages if one["role"] == "tool"]
