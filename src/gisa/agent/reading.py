"""Pages are parsed in processes of their own: a hostile one costs its own time, not that of the other episodes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass
from pathlib import Path

from src.gisa.agent.fetch import Page, RequestError
from src.gisa.dataset.factbook.page_body import Extractor, is_html, is_pdf
from src.gisa.dataset.factbook.page_text import ReadablePage
from src.launch.values import Count, Positive

_ROOT = Path(__file__).parents[3]
_LARGE_BYTES = 200_000
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "VIRTUAL_ENV")


@dataclass(frozen=True)
class ReadingLimits:
    """What the parsing of one page may take.

    Attributes:
        processes: Most pages parsed at once; a process starts when it is first needed, and takes 40 MB. Pages above
            200 KB, which alone can take long, have half as many of their own, and these yield to everything else.
        cpu_s: Seconds of processor time.
        total_s: Seconds on the clock, once its turn has come.
        memory_mb: Address space of a process.
    """

    processes: Count = 4
    cpu_s: Positive = 10.0
    total_s: Positive = 60.0
    memory_mb: Count = 2_000


class _Lane:
    """Processes of one niceness: those that wait for a page, and turns to use one."""

    def __init__(self, processes: int, niceness: int) -> None:
        self.turns = asyncio.Semaphore(processes)
        self.niceness = niceness
        self.idle: list[Process] = []


class PageReader:
    """Parses pages in processes of its own, which end with it; to be used as an async context manager."""

    def __init__(self, limits: ReadingLimits | None = None) -> None:
        self._limits = limits or ReadingLimits()

    async def __aenter__(self) -> PageReader:
        self._small, self._large = _Lane(self._limits.processes, 0), _Lane(max(1, self._limits.processes // 2), 19)
        self._working: set[Process] = set()
        return self

    async def __aexit__(self, *exception: object) -> None:
        for worker in [*self._small.idle, *self._large.idle, *self._working]:
            await _end(worker)

    async def read(self, page: Page, text_by: Extractor = "built_in") -> ReadablePage:
        """Return what a page says.

        Raises:
            RequestError: it takes more than the limits, or cannot be parsed; the process that did is replaced.
        """
        if not is_html(page.content_type) and not is_pdf(page.body):
            return ReadablePage("", page.text)
        lane = self._large if len(page.body) > _LARGE_BYTES else self._small
        async with lane.turns:
            worker = lane.idle.pop() if lane.idle else await self._start(lane.niceness)
            self._working.add(worker)
            try:
                async with asyncio.timeout(self._limits.total_s):
                    reply = await _exchange(worker, page, text_by)
                lane.idle.append(worker)
            except TimeoutError as error:
                raise RequestError("too_large", f"it takes more than {self._limits.total_s:g} s to read") from error
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                ended = await worker.wait()
                over = ended in (-signal.SIGPROF, -signal.SIGXCPU)
                what = f"it takes more than {self._limits.cpu_s:g} s of processor time" if over else "its parser failed"
                raise RequestError("too_large" if over else "unreadable", what) from error
            finally:
                self._working.discard(worker)
                if worker not in lane.idle:  # also when the episode's time is up
                    await _end(worker)
        if "error" in reply:
            raise RequestError("unreadable", reply["error"])
        return ReadablePage(reply["title"], reply["text"])

    async def _start(self, niceness: int) -> Process:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, sys.path)])
        limits = [str(self._limits.cpu_s), str(self._limits.memory_mb * 1_000_000), str(niceness)]
        command = [sys.executable, "-m", "src.gisa.agent.page_worker", *limits]
        return await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, env=environment, start_new_session=True
        )


async def _exchange(worker: Process, page: Page, text_by: Extractor) -> dict[str, str]:
    assert worker.stdin
    assert worker.stdout
    request = {"content_type": page.content_type, "charset": page.charset, "url": page.url, "text_by": text_by}
    worker.stdin.write(json.dumps({**request, "bytes": len(page.body)}).encode() + b"\n" + page.body)
    await worker.stdin.drain()
    size = int.from_bytes(await worker.stdout.readexactly(8))
    reply: dict[str, str] = json.loads(await worker.stdout.readexactly(size))
    return reply


async def _end(worker: Process) -> None:
    """End a process and wait for it, so that it leaves nothing behind."""
    if worker.returncode is None:
        worker.kill()
    await asyncio.shield(worker.wait())
    worker._transport.close()  # type: ignore[attr-defined]
