"""The agent's rollout against the mere waiting for its model."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from aiohttp import web as server

from src.agent.corpus import Corpus, Document
from src.agent.cost import PriceList
from src.agent.pages import EmbeddedPages
from src.agent.policy import ChatEndpoint
from src.agent.react import Budget, ReActAgent
from src.agent.rollout import roll_out
from src.agent.search import EmbeddedSearch
from src.agent.store import RunStore
from src.agent.tools import Toolbox
from src.agent.trajectory import Task
from src.agent.web import Web
from tests.benchmarks.comparison import Row, interleaved, show_seconds

REPLIES, CONCURRENCY = 6, 64


def rows(*, quick: bool) -> Iterator[Row]:
    questions, latency_s = (8, 0.01) if quick else (200, 0.1)
    corpus = Corpus(
        Document(f"https://atlas.example/{number}", f"<title>Place {number}</title><p>Capital: Town {number}")
        for number in range(300)
    )
    corpus.search("town", 1)  # builds the index, once a run
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    model = context.Process(target=_serve, args=(latency_s, theirs), daemon=True)
    model.start()
    url = f"http://127.0.0.1:{ours.recv()}/v1"
    answered: list[int] = []
    try:
        pairs = interleaved(
            lambda: asyncio.run(_wait_only(questions, latency_s)),
            lambda: answered.append(asyncio.run(_roll_out(url, questions, corpus))),
            1 if quick else 5,
        )
    finally:
        model.terminate()
    yield Row(
        f"Rollout, {questions} questions x {REPLIES} replies of {1000 * latency_s:g} ms, {CONCURRENCY} at once",
        ("waiting", "roll_out"),
        pairs,
        show_seconds,
        "<= 1.25",
        f"{min(answered)} of {questions} answered{'' if min(answered) == questions else ', NOT all'}",
    )


async def _wait_only(questions: int, latency_s: float) -> None:
    """Wait as long as the model takes, as many questions at once, and do nothing else."""
    waiting = iter(range(questions))

    async def work() -> None:
        for _ in waiting:
            for _ in range(REPLIES):
                await asyncio.sleep(latency_s)

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))


async def _roll_out(url: str, questions: int, corpus: Corpus) -> int:
    endpoint = ChatEndpoint(base_url=url, model="m", prices=PriceList(date="2026-01-31"), key_env=None)
    toolbox = Toolbox(search=EmbeddedSearch(corpus), pages=EmbeddedPages(corpus))
    agent = ReActAgent(policy=endpoint, toolbox=toolbox, budget=Budget(), today="2026-01-31")
    tasks = (Task(str(number), 0, f"What is the capital of place {number}?", "item") for number in range(questions))
    with tempfile.TemporaryDirectory() as folder:
        async with Web(concurrency_per_host=CONCURRENCY) as web:
            outcomes = await roll_out(agent, tasks, RunStore(Path(folder), {}), web, concurrency=CONCURRENCY)
    return outcomes["answered"]


def _serve(latency_s: float, port: Connection) -> None:
    """Be the model: search until the last reply, then answer."""

    async def reply(request: server.Request) -> server.Response:
        messages = (await request.json())["messages"]
        await asyncio.sleep(latency_s)
        said = sum(message["role"] == "assistant" for message in messages)
        arguments = json.dumps({"query": f"capital town {said}"})
        message = {"role": "assistant", "content": "```tsv\nCapital\nTown\n```"}
        if said < REPLIES - 1:
            call = {"id": f"c{said}", "type": "function", "function": {"name": "search", "arguments": arguments}}
            message = {"role": "assistant", "content": "", "tool_calls": [call]}
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        return server.json_response({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})

    async def main() -> None:
        app = server.Application()
        app.router.add_post("/v1/chat/completions", reply)
        runner = server.AppRunner(app)
        await runner.setup()
        await server.TCPSite(runner, "127.0.0.1", 0).start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())
