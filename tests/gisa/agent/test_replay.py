import asyncio
import copy
import io
import json
from pathlib import Path

import pytest

from src.gisa.agent.cost import Account
from src.gisa.agent.heuristic import HeuristicPolicy
from src.gisa.agent.pages import EmbeddedPages
from src.gisa.agent.react import Budget, Episode, ReActAgent
from src.gisa.agent.replay import Script, recall, replay
from src.gisa.agent.search import EmbeddedSearch, RecordedSearch
from src.gisa.agent.tools import Toolbox
from src.gisa.agent.trajectory import Attempt, Journal, record_of
from src.gisa.agent.web import Web
from src.gisa.dataset.factbook.corpus import Corpus, Document

TASK = Attempt("1", 0, "What is the capital of Peru?", "item")
CALLS = [("search", {"query": "Peru Government"}), ("visit", {"url": ["https://a.example/peru"], "goal": "Zoë"})]
ANSWER = "```tsv\nAnswer\nLima\n```"


@pytest.fixture
def agent():
    facts = "<title>Peru: Government</title><table><tr><th>Capital</th><td>Lima</td></tr></table>"
    pages = [
        Document("https://a.example/peru", facts),
        Document("https://a.example/chile", "<title>Chile: Government</title><p>Santiago"),
    ]
    web = Corpus(pages)
    toolbox = Toolbox(search=EmbeddedSearch(web), pages=EmbeddedPages(web), results=2)
    return ReActAgent(policy=HeuristicPolicy(), toolbox=toolbox, budget=Budget(max_calls=3), today="2024-07-01")


def without_ids(messages):
    text = json.dumps(messages)
    for message in messages:
        for call in message.get("tool_calls", []):
            text = text.replace(json.dumps(call["id"]), '"id"')
    return json.loads(text)


def test_what_a_policy_did_is_acted_out_word_for_word(agent):
    async def roll_out():
        with Journal(Path("a"), io.BytesIO()) as journal:
            episode = Episode(TASK, journal, Account("question", None), Web())
            return await agent.answer(episode), episode

    verdict, episode = asyncio.run(roll_out())
    assert verdict.outcome == "answered"
    calls = [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for message in episode.messages
        for call in message.get("tool_calls", [])
    ]
    assert [name for name, _ in calls] == ["search", "visit"]
    replayed = asyncio.run(replay(agent, Script(TASK, calls, verdict.prediction), Web()))
    assert replayed.verdict == verdict
    assert replayed.counts == episode.counts
    assert without_ids(replayed.messages[:-1]) == without_ids(episode.messages)
    assert replayed.messages[-1] == {"role": "assistant", "content": verdict.prediction}


def test_a_recorded_episode_is_recalled_word_for_word_and_nothing_is_carried_out(agent):
    async def roll_out():
        with Journal(Path("a"), io.BytesIO()) as journal:
            episode = Episode(TASK, journal, Account("question", None), Web())
            return record_of(TASK, await agent.answer(episode), journal, episode.counts), episode

    record, episode = asyncio.run(roll_out())
    record = json.loads(json.dumps(record))  # as it comes from the disk
    record["steps"][1]["value"]["content"] = "what was really read"
    elsewhere = copy.copy(agent)
    other = Corpus([Document("https://b.example/", "<p>Nothing")])
    elsewhere._toolbox = Toolbox(search=EmbeddedSearch(other), pages=EmbeddedPages(other), results=2)
    recalled = asyncio.run(recall(elsewhere, TASK, record, Web()))
    assert recalled.messages[3]["content"] == "what was really read"
    episode.messages[3]["content"] = "what was really read"
    assert recalled.messages[:-1] == episode.messages
    assert recalled.messages[-1]["content"] == recalled.verdict.prediction == record["prediction"]
    assert recalled.counts == episode.counts

    record["steps"] = record["steps"][:-1]  # the answer is missing
    cut = asyncio.run(recall(elsewhere, TASK, record, Web()))
    assert cut.verdict.outcome == "infra_error"
    assert "the record ends before the episode does" in cut.verdict.reason


def test_a_script_beyond_the_budget_ends_as_a_rollout_would(agent):
    replayed = asyncio.run(replay(agent, Script(TASK, [*CALLS, *CALLS], ANSWER), Web()))
    assert (replayed.verdict.outcome, replayed.counts["calls"]) == ("budget", 3)
    exact = asyncio.run(replay(agent, Script(TASK, [*CALLS, CALLS[0]], ANSWER), Web()))
    assert exact.verdict.outcome == "answered"
    assert "You have used up your tool calls" in exact.messages[-2]["content"]


def test_pages_that_are_not_there_and_malformed_calls_are_counted(agent):
    calls = [("visit", {"url": ["https://a.example/none"], "goal": "x"}), ("visit", {"url": []})]
    replayed = asyncio.run(replay(agent, Script(TASK, calls, ANSWER), Web()))
    assert (replayed.counts["failed_urls"], replayed.counts["invalid_calls"]) == (1, 1)
    (done,) = replayed.tool_calls  # the other was not carried out
    assert done.urls == ("https://a.example/none",)


def test_what_was_done_and_read_comes_in_order(agent):
    replayed = asyncio.run(replay(agent, Script(TASK, CALLS, ANSWER), Web()))
    searched, visited = replayed.tool_calls
    assert (searched.query, searched.urls) == ("Peru Government", ())
    assert (visited.query, visited.urls) == (None, ("https://a.example/peru",))
    assert "Capital | Lima" in visited.text
    assert [searched.text, visited.text] == [one["content"] for one in replayed.messages if one["role"] == "tool"]


def test_recorded_results_are_those_of_their_query_and_no_other():
    engine = RecordedSearch({"Peru  peaks": ["first", "second", "third"]})
    assert asyncio.run(engine.search(" peru peaks", 2, None, None)) == ["first", "second"]
    assert asyncio.run(engine.search("chile", 2, None, None)) == []
