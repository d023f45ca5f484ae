"""The agent's rollout against the mere waiting for its model, in one process and in two; its memory."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import resource
import tempfile
from collections.abc import Iterator
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.pool import Pool
from pathlib import Path

from aiohttp import web as server

from src.gisa.agent.backends import EmbeddedWeb
from src.gisa.agent.cost import PriceList
from src.gisa.agent.policy import ChatEndpoint
from src.gisa.agent.react import Budget
from src.gisa.agent.rollout import Rollout
from src.gisa.agent.trajectory import Attempt, RunStore
from src.gisa.agent.web import Web
from src.gisa.dataset.factbook.corpus import Corpus, Document
from tests.benchmarks.comparison import Row, interleaved, show_seconds

REPLIES, CONCURRENCY = 6, 64


def rows(*, quick: bool) -> Iterator[Row]:
    questions, latency_s, pairs = (8, 0.01, 1) if quick else (200, 0.1, 3)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    model = context.Process(target=_serve, args=(latency_s, theirs), daemon=True)
    model.start()
    url = f"http://127.0.0.1:{ours.recv()}/v1"
    try:
        for processes in (1, 2):
            with context.Pool(processes, _corpus) as pool:  # which builds the index, once a process
                yield _time_row(pool, processes, url, questions, latency_s, pairs)
        with context.Pool(1, _corpus, maxtasksperchild=1) as pool:
            sizes = (questions, 4 * questions)
            peaks = [pool.apply(_peak_mb, (url, size)) for size in sizes]
    finally:
        model.terminate()
    yield Row(
        f"Peak memory of a rollout, {CONCURRENCY} at once",
        (f"{sizes[0]} questions", f"{sizes[1]} questions"),
        [(peaks[0], peaks[1])],
        lambda value: f"{value:,.0f} MB",
        "<= 1.05",
        "each in a fresh process",
    )


def _time_row(pool: Pool, processes: int, url: str, questions: int, latency_s: float, pairs: int) -> Row:
    answered: list[int] = []

    def roll_out_all() -> None:
        with tempfile.TemporaryDirectory() as folder:
            shares = [(url, questions, folder, rank, processes) for rank in range(processes)]
            answered.append(sum(pool.starmap(_answered, shares, chunksize=1)))

    taken = interleaved(lambda: asyncio.run(_wait_only(questions, latency_s)), roll_out_all, pairs)
    size = f"{questions} questions x {REPLIES} replies of {1000 * latency_s:g} ms, {CONCURRENCY} at once"
    return Row(
        f"Rollout, {size}, {processes} process{'es' if processes > 1 else ''}",
        ("waiting", "roll_out"),
        taken,
        show_seconds,
        "<= 1.25",
        f"{min(answered)} of {questions} answered{'' if min(answered) == questions else ', NOT all'}",
    )


@cache
def _corpus() -> Corpus:
    corpus = Corpus(
        Document(f"https://atlas.example/{number}", f"<title>Place {number}</title><p>Capital: Town {number}")
        for number in range(300)
    )
    corpus.search("town", 1)
    return corpus


def _peak_mb(url: str, questions: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        assert _answered(url, questions, folder, 0, 1) == questions
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux


def _answered(url: str, questions: int, folder: str, rank: int, processes: int) -> int:
    """Answer one process's share and return how many it answered."""
    return _roll_out(url, range(rank, questions, processes), Path(folder), CONCURRENCY // processes)


async def _wait_only(questions: int, latency_s: float) -> None:
    """Wait as long as the model takes, as many questions at once, and do nothing else."""
    waiting = iter(range(questions))

    async def work() -> None:
        for _ in waiting:
            for _ in range(REPLIES):
                await asyncio.sleep(latency_s)

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))


def _roll_out(url: str, numbers: range, folder: Path, concurrency: int) -> int:
    prices = PriceList(date="2026-01-31")
    rollout = Rollout(
        policy=ChatEndpoint(base_url=url, model="m", prices=prices, key_env=None),
        search=EmbeddedWeb(_corpus()), pages=EmbeddedWeb(_corpus()), prices=prices, budget=Budget(),
        web=Web(concurrency_per_host=concurrency), today="2026-01-31", concurrency=concurrency,
    )  # fmt: skip
    attempts = (Attempt(str(number), 0, f"What is the capital of place {number}?", "item") for number in numbers)
    return rollout.run(attempts, RunStore(folder, {}))["answered"]


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
