"""Tools of a real MCP server on this machine, and the forms in which servers return results."""

import asyncio
import json
import re
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.agent.backends import PageError
from src.gisa.agent.cost import Account, PriceList, Step
from src.gisa.agent.fetch import RequestError
from src.gisa.agent.policy import ScriptedPolicy
from src.gisa.agent.react import Budget
from src.gisa.agent.rollout import Rollout
from src.gisa.agent.trajectory import Attempt, MemoryStore
from src.gisa.agent.web import Web
from src.gisa.dataset.factbook.corpus import Hit
from src.launch.errors import InputError

pytest.importorskip("mcp")
from src.gisa.agent.mcp_tools import McpPages, McpSearch, hits_of  # noqa: E402

SERVER = [sys.executable, str(Path(__file__).with_name("mcp_server.py"))]
KEY = "planted-key-0123456789"


def search(**changes):
    return McpSearch(**{"command": SERVER, "tool": "web_search", "argument": "query"} | changes)


def pages(**changes):
    return McpPages(**{"command": SERVER, "tool": "fetch", "argument": "url"} | changes)


def step():
    return Step(Account("question", None))


async def alone(make, **web):
    async with Web(base_delay_s=0.001, **web) as connections:
        return await make(connections)


def say(messages):
    """Search, visit the first result, answer with the figure of the page."""
    said = messages[-1]["content"]
    if messages[-1]["role"] == "user":
        number = re.search(r"\d+", said)[0]
        return call("search", query=f"hill {number}")
    if said.startswith("Page "):
        return {"content": f"```tsv\nHeight\n{re.search(r'is (.*) m', said)[1]}\n```"}
    return call("visit", url=[re.search(r"https://\S+", said)[0]], goal="height")


def call(name, **arguments):
    return {"tool_calls": [{"id": "", "function": {"name": name, "arguments": json.dumps(arguments)}}]}


def test_a_server_over_its_standard_streams_drives_twenty_questions():
    rollout = Rollout(
        policy=ScriptedPolicy(say), search=search(), pages=pages(), prices=PriceList("2026-01-01"), budget=Budget(),
        web=Web(), today="2026-01-01", concurrency=8,
    )  # fmt: skip
    store = MemoryStore()
    attempts = [Attempt(str(number), 0, f"How high is hill {number}?", "item") for number in range(20)]
    assert rollout.run(attempts, store) == {"answered": 20}
    for number, attempt in enumerate(attempts):
        assert f"\n{100 + number}\n" in store.ended[attempt].verdict.prediction
        assert store.ended[attempt].counts["searches"] == store.ended[attempt].counts["visits"] == 1


def test_a_server_that_dies_is_started_again_and_its_errors_are_those_of_pages(monkeypatch):
    monkeypatch.setenv("PLANTED_KEY", KEY)

    async def go(web):
        engine, reader, taken = search(timeout_s=20), pages(env=["PLANTED_KEY"]), step()
        with pytest.raises(RequestError, match="web_search: "):
            await engine.search("die", 3, taken, web)
        assert len(taken.failures) == 2
        hits = await engine.search("hill 7", 3, step(), web)
        assert hits == [
            Hit("Page https://atlas.example/7", "https://atlas.example/7", "The height of hill 7 is 107 m.")
        ]
        assert (await reader.read("https://atlas.example/7", step(), web))[1].text == "The height of hill 7 is 107 m."
        with pytest.raises(PageError, match=r"no page there, says \[key\]"):
            await reader.read("https://atlas.example/none", step(), web)
        with pytest.raises(PageError, match="is not on the public internet"):
            await reader.read("http://127.0.0.1/", step(), web)
        with pytest.raises(InputError, match="has no tool 'find'; it has fetch, web_search"):
            await search(tool="find").search("x", 1, step(), web)
        with pytest.raises(InputError, match="takes count, query .* wrong or missing: q, query"):
            await search(argument="q").search("x", 1, step(), web)

    asyncio.run(alone(go, attempts=2))


def test_a_server_over_http():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    async def go(web):
        process = await asyncio.create_subprocess_exec(
            *SERVER, "--http", str(port), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            engine = search(command=None, url=f"http://127.0.0.1:{port}/mcp")
            return await engine.search("hill 7", 3, step(), web)  # it is tried until the server is up
        finally:
            process.kill()
            await process.wait()

    hits = asyncio.run(alone(go, attempts=40, max_delay_s=1.0))
    assert [hit.url for hit in hits] == ["https://atlas.example/7"]


def test_settings_that_cannot_work_are_told_at_once():
    with pytest.raises(InputError, match="a command or an address"):
        search(command=None)
    with pytest.raises(InputError, match="NOT_SET holds no API key"):
        search(env=["NOT_SET"])

    async def go(web):
        await search(command=["/no/such/program"]).search("x", 1, step(), web)

    with pytest.raises(InputError, match="cannot be started"):
        asyncio.run(alone(go))


A, B = "https://a.example/x", "https://b.example/y"


@pytest.mark.parametrize(
    ("structured", "texts"),
    [
        ({"results": [{"title": "T", "url": A, "content": "s"}, {"url": B}]}, []),
        ({"web": {"results": [{"title": "T", "url": A, "description": "s"}, {"url": B}]}}, ["ignored"]),
        ({"result": json.dumps([{"title": "T", "link": A, "snippet": "s"}, {"link": B}])}, []),
        (None, [json.dumps({"organic": [{"title": "T", "link": A, "snippet": "s"}, {"link": B}]})]),
        (None, [json.dumps({"title": "T", "url": A, "text": "s"}), json.dumps({"url": B})]),
        (None, [f"Title: T\nDescription: s\nURL: {A}\n\nURL: {B}"]),  # Brave
        (None, [f"Found 2 results:\n\n1. T\n   URL: {A}\n   Summary: s\n\n2. \n URL: {B}\n"]),  # DuckDuckGo
        (None, [f"1. [T]({A})\ns\n2. {B}"]),
    ],
)
def test_results_are_read_in_the_forms_that_servers_use(structured, texts):
    hits = hits_of(structured, texts)
    assert [hit.url for hit in hits] == [A, B]
    assert (hits[0].title, hits[0].snippet) == ("T", "s")


NODES = st.recursive(
    st.none() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["results", "url", "web"]), inner),
    max_leaves=6,
)


@given(NODES, st.lists(st.text(max_size=40), max_size=3))
def test_no_result_breaks_the_reading(structured, texts):
    assert all(hit.url.startswith("http") for hit in hits_of(structured, texts))
