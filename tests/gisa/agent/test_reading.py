import asyncio
import os
import time

import pytest

from src.gisa.agent.fetch import Page, RequestError
from src.gisa.agent.reading import PageReader, ReadingLimits
from tests.gisa.dataset.factbook.pdf_file import pdf

URL = "https://example.org/"
# Its attributes take resiliparse the square of their number: about a second; it is small enough not to yield.
HOSTILE = ("<p " + " ".join(f"a{number}=1" for number in range(20_000)) + ">hello").encode()


def html(text):
    return Page(URL, "text/html", text.encode() if isinstance(text, str) else text)


def run(test, **limits):
    async def main():
        async with PageReader(ReadingLimits(**limits)) as reader:
            return await test(reader)

    return asyncio.run(main())


def test_pages_are_parsed_and_their_processes_serve_again():
    async def test(reader):
        pages = [await reader.read(html(f"<title>T</title><p>Zoë {number}")) for number in range(3)]
        assert len(reader._small.idle) == 1
        pages += await asyncio.gather(*(reader.read(html(f"<p>{number}")) for number in range(9)))
        assert len(reader._small.idle) == 2
        return [page.text for page in pages]

    assert run(test, processes=2) == ["Zoë 0", "Zoë 1", "Zoë 2", *map(str, range(9))]


def test_plain_text_takes_no_process_and_a_pdf_does():
    async def test(reader):
        assert (await reader.read(Page(URL, "text/plain", b"<p>"))).text == "<p>"
        assert not reader._small.idle
        return await reader.read(Page(URL, "application/pdf", pdf(["Huascaran"])))

    assert run(test).text == "Huascaran"


def test_a_page_over_its_time_is_ended_and_costs_the_others_nothing():
    async def test(reader):
        hostile = asyncio.create_task(reader.read(html(HOSTILE), "resiliparse"))
        while not hostile.done():
            assert (await reader.read(html("<p>quick"))).text == "quick"
            await asyncio.sleep(0.02)
        with pytest.raises(RequestError, match=r"takes more than 0\.3 s of processor time") as caught:
            await hostile
        assert caught.value.kind == "too_large"
        assert not caught.value.retryable
        return await reader.read(html("<p>next"))

    pytest.importorskip("resiliparse")
    assert run(test, cpu_s=0.3, processes=2).text == "next"


def test_the_clock_ends_a_page_too_and_so_does_the_end_of_its_episode():
    async def test(reader):
        with pytest.raises(RequestError, match=r"takes more than 0\.05 s to read"):
            await reader.read(html(HOSTILE), "resiliparse")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await reader.read(html(HOSTILE), "resiliparse")
        assert not reader._small.idle
        assert not reader._working

    pytest.importorskip("resiliparse")
    run(test, total_s=0.05)


def test_memory_has_a_cap():
    async def test(reader):
        await reader.read(html("<p>" + "word " * 20_000_000))

    with pytest.raises(RequestError, match="memory|parser failed"):
        run(test, memory_mb=150)


def test_a_damaged_pdf_is_named():
    with pytest.raises(RequestError, match="cannot be read: no PDF that can be read"):
        run(lambda reader: reader.read(Page(URL, "application/pdf", b"%PDF-1.4 nonsense")))


def test_a_process_that_dies_is_replaced():
    async def test(reader):
        await reader.read(html("<p>a"))
        os.kill(reader._small.idle[0].pid, 9)
        with pytest.raises(RequestError, match="its parser failed"):
            await reader.read(html("<p>b"))
        return await reader.read(html("<p>c"))

    assert run(test).text == "c"


def test_no_process_outlives_its_reader_and_none_holds_a_secret(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")

    async def test(reader):
        await reader.read(html("<p>a"))
        process = reader._small.idle[0].pid
        with open(f"/proc/{process}/environ") as environment:
            assert "secret" not in environment.read()
        with open(f"/proc/{process}/maps") as maps:
            assert "torch" not in maps.read()
        return process

    process = run(test)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_reader_in_a_forked_process_has_its_own_processes():
    async def parse(reader):
        return (await reader.read(html("<p>a"))).text

    async def test(reader):
        await parse(reader)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio.events._set_running_loop(None)
                code = 0 if run(parse) == "a" else 2
            finally:
                os._exit(code)
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
            await asyncio.sleep(0.01)
        assert ended[1] == 0
        return await parse(reader)

    assert run(test) == "a"


def test_the_processes_end_with_a_parent_that_is_killed():
    """The child that owns the reader is killed; what it started ends by itself, as its input does."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:

        async def test(reader):
            await reader.read(html("<p>a"))
            os.write(write, str(reader._small.idle[0].pid).encode())
            await asyncio.sleep(60)

        try:
            run(test)
        finally:
            os._exit(1)
    process = int(os.read(read, 20))
    os.kill(child, 9)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _lives(process):
        time.sleep(0.02)
    assert not _lives(process)


def _lives(process):
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
