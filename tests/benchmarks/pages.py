"""What extractors keep of real pages, and what a hostile page costs the other episodes.

`python -m tests.benchmarks.pages words PAGE[#SELECTOR] ...` compares the built-in text with trafilatura's and
resiliparse's; a selector names the element that holds what the page has to say. `... latency` needs no pages.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import sys
import time
import unicodedata
from collections import Counter
from pathlib import Path

from src.gisa.agent.backends import DirectPages, EmbeddedWeb
from src.gisa.agent.cost import PriceList
from src.gisa.agent.policy import ScriptedPolicy
from src.gisa.agent.react import Budget
from src.gisa.agent.rollout import Rollout
from src.gisa.agent.trajectory import Attempt, MemoryStore
from src.gisa.agent.web import Web
from src.gisa.dataset.factbook.corpus import Corpus, Document
from tests.gisa.agent.servers import reply, serve

EXTRACTORS = ("built_in", "trafilatura", "resiliparse")
UNREAD = "script, style, noscript, template, nav, footer, svg, button, select, sup.footnote-reference, sup.fr-label"
ATTRIBUTES = "<p " + " ".join(f"a{number}=1" for number in range(60_000)) + ">hello"
EPISODES, VISITS, PAIRS = 24, 6, 7


def words_of(text):
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", re.sub(r"\]\([^)]*\)", " ", text)).lower())


def reference(html, selector):
    """Words, and rows of cells as words, that an independent parser finds; marks of footnotes are left out."""
    from resiliparse.parse.html import HTMLTree

    root = HTMLTree.parse(html).document.query_selector(selector)
    for node in list(root.query_selector_all(UNREAD)):
        node.decompose()
    words = Counter(word for node in _texts(root) for word in words_of(node))
    rows = [[words_of(cell.text) for cell in row.query_selector_all("td, th")] for row in root.query_selector_all("tr")]
    return words, [row for row in rows if any(row)]


def _texts(node):
    if node.tag == "#text":
        yield node.value or ""
    child = node.first_child
    while child:
        yield from _texts(child)
        child = child.next


def kept(text, words, rows):
    """Shares: of the words, of the cells, of the rows whose cells stand in order on one line."""
    given = Counter(words_of(text))
    lines = [f" {' '.join(words_of(line))} " for line in text.split("\n")]
    whole = " ".join(lines)
    cells = [cell for row in rows for cell in row if cell]
    found = sum(f" {' '.join(cell)} " in whole for cell in cells)
    in_order = [re.compile(".*?".join(re.escape(f" {' '.join(cell)}") for cell in row if cell) + " ") for row in rows]
    together = sum(any(pattern.search(line) for line in lines) for pattern in in_order)
    return (
        (words & given).total() / words.total(),
        found / len(cells) if cells else None,
        together / len(rows) if rows else None,
        (given - words).total() / max(1, given.total()),
    )


def compare(pages):
    from src.gisa.dataset.factbook.page_body import read_body

    print("| page | KB | words, cells | " + " | ".join(f"{name}: words, cells, rows, s" for name in EXTRACTORS) + " |")
    totals = {name: [] for name in EXTRACTORS}
    for page in pages:
        path, _, selector = page.partition("#")
        body = Path(path).read_bytes()
        words, rows = reference(body.decode("utf-8", "replace"), selector or "body")
        columns = []
        for name in EXTRACTORS:
            times = []
            for _ in range(3):
                began = time.process_time()
                text = read_body(body, "text/html", None, "https://example.org/", name).text
                times.append(time.process_time() - began)
            shares = kept(text, words, rows)
            totals[name].append((*shares, min(times)))
            shown = ["–" if share is None else f"{share:.1%}" for share in shares[:3]]
            columns.append(", ".join([*shown, f"{min(times):.3f}"]))
        cells = sum(bool(cell) for row in rows for cell in row)
        print(
            f"| {Path(path).name} | {len(body) / 1000:.0f} | {words.total():,}, {cells:,} | {' | '.join(columns)} |",
            flush=True,
        )
    for name, shares in totals.items():
        means = [
            statistics.mean(share for share in column if share is not None) for column in zip(*shares, strict=True)
        ]
        print(name, " ".join(f"{mean:.4f}" for mean in means), f"total {sum(share[4] for share in shares):.3f} s")


async def episodes(hostile, text_by):
    """Seconds of each ordinary episode beside hostile ones, which visit the page with 60,000 attributes."""
    ordinary = "<title>T</title>" + "<p>word <a href='/x'>link</a> more</p><table><tr><td>a<td>b</table>" * 300
    took = []

    async def respond(request, writer):
        return reply(ATTRIBUTES if request.path.startswith("/bad") else ordinary)

    async with serve(respond) as port:
        began = {}

        def say(messages):
            question = messages[1]["content"]
            name = "bad" if "hostile" in question else "good"
            began.setdefault(question, time.perf_counter())
            turn = sum(message["role"] == "assistant" for message in messages)
            if turn < (1 if name == "bad" else VISITS):
                url = f"http://127.0.0.1:{port}/{name}{turn}"
                call = {"name": "visit", "arguments": json.dumps({"url": [url], "goal": "g"})}
                return {"content": "", "tool_calls": [{"id": f"c{turn}", "type": "function", "function": call}]}
            if name == "good":
                took.append(time.perf_counter() - began[question])
            return {"content": "```tsv\nx\n1\n```"}

        class Paced:
            """Takes a model's time to reply, as servers do."""

            async def reply(self, request):
                await asyncio.sleep(0.05)
                return await ScriptedPolicy(say).reply(request)

        corpus = EmbeddedWeb(Corpus([Document("https://a.example/", "<p>a")]))
        rollout = Rollout(
            policy=Paced(), search=corpus, pages=DirectPages(text_by) if text_by else DirectPages(),
            prices=PriceList(date="2026-01-31"), budget=Budget(max_calls=VISITS + 1), today="2026-01-31", concurrency=8,
            web=Web(test_only_loopback_ports=[port]), page_chars=2_000,
        )  # fmt: skip
        names = [f"ordinary {number}" for number in range(EPISODES)]
        for number in range(hostile):
            names.insert(1 + 8 * number, f"hostile {number}")
        outcomes = await rollout.roll_out(
            (Attempt(name, 0, f"Question {name}?", "item") for name in names), MemoryStore()
        )
        assert outcomes["answered"] == len(names), outcomes
    return took


def latency():
    for text_by in sys.argv[2:] or ["built_in", "resiliparse"]:
        pairs = []
        for _ in range(PAIRS):
            quiet, beside = (asyncio.run(episodes(count, None if text_by == "-" else text_by)) for count in (0, 3))
            pairs.append((statistics.median(quiet), statistics.median(beside), max(quiet), max(beside)))
        ratios = [beside / quiet for quiet, beside, *_ in pairs]
        slowest = [beside / quiet for *_, quiet, beside in pairs]
        print(
            f"{text_by}: median episode {statistics.median(pair[0] for pair in pairs):.3f} s, beside 3 hostile pages "
            f"{statistics.median(pair[1] for pair in pairs):.3f} s; ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}), of the slowest {statistics.median(slowest):.2f} "
            f"({min(slowest):.2f} to {max(slowest):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    compare(sys.argv[2:]) if sys.argv[1] == "words" else latency()
