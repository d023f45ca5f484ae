"""What comes of each quirk of a server, over HTTP: none is an infrastructure failure, none is scored wrong."""

import asyncio
import json
import random
import re

import pytest

from src.gisa.agent.backends import EmbeddedWeb
from src.gisa.agent.cost import Account, PriceList
from src.gisa.agent.dialects import CHANGES, GUESSES, KINDS, ending_of
from src.gisa.agent.policy import ChatEndpoint
from src.gisa.agent.react import Budget, ReActAgent
from src.gisa.agent.tools import Toolbox
from src.gisa.agent.trajectory import Attempt, Episode, Journal
from src.gisa.agent.web import Web
from src.gisa.dataset.factbook.corpus import Corpus, Document
from tests.gisa.agent.quirks import ANSWER, FORCED, combined, quirks
from tests.gisa.agent.servers import model_server

CORPUS = Corpus([Document("https://atlas.example/peru", "<title>Peru</title><p>Capital: Lima")])
TOOLBOX = Toolbox(search=EmbeddedWeb(CORPUS), pages=EmbeddedWeb(CORPUS))
QUIRKS = list(quirks())
COMBINED = [combined(random.Random(seed)) for seed in range(16)]


@pytest.fixture(scope="module")
def server():
    """One server for all quirks, each at an address of its own, and the requests that each has seen."""
    seen = {}

    async def respond(request, writer):
        number = int(re.match(r"/v1/(\d+)/", request.path)[1])
        bodies = seen.setdefault(number, [])
        bodies.append(json.loads(request.body))
        return [*QUIRKS, *COMBINED][number].says(bodies[-1], len(bodies) - 1)

    with model_server(respond) as url:
        yield url, seen


def episodes(url, quirk, count=1):
    """Have an agent answer at an endpoint; return the records."""

    async def main():
        async with Web(base_delay_s=0.001) as web:
            endpoint = ChatEndpoint(
                base_url=url, model="m", prices=PriceList(date="2026-01-31"), key_env=None, **quirk.settings
            )
            budget = Budget(max_calls=1 if quirk in (*FORCED, *COMBINED) else 30, max_invalid_calls=3)
            agent = ReActAgent(endpoint, TOOLBOX, budget, "2026-01-31")
            records = []
            for sample in range(count):
                attempt = Attempt("7", sample, "What is the capital of Peru?", "item")
                episode = Episode(attempt, Journal.in_memory(attempt), Account("question", None), web)
                await agent.answer(episode)
                records.append(episode.record())
            return records

    return asyncio.run(main())


@pytest.mark.parametrize("number", range(len(QUIRKS)), ids=[quirk.name for quirk in QUIRKS])
def test_every_quirk_ends_as_what_it_is(server, number):
    (url, _), quirk = server, QUIRKS[number]
    (record,) = episodes(f"{url}/{number}", quirk)
    steps = record["steps"]
    assert record["outcome"] == quirk.outcome, record["reason"]
    assert quirk.outcome != "answered" or record["prediction"].strip() == ANSWER
    assert ANSWER not in record["prediction"] or quirk.outcome == "answered"
    assert record["counts"]["calls"] == quirk.calls
    assert sum(step["key"].startswith("compaction/") for step in steps) == quirk.compactions
    lessons = [lesson for step in steps for lesson in (step.get("value") or {}).get("adapted", [])]
    assert (quirk.lesson in lessons) if quirk.lesson else not lessons


@pytest.mark.parametrize("number", range(len(COMBINED)))
def test_a_server_that_refuses_many_things_is_answered_too(server, number):
    (url, seen), quirk = server, COMBINED[number]
    (record,) = episodes(f"{url}/{len(QUIRKS) + number}", quirk)
    assert (record["outcome"], record["prediction"]) == ("answered", ANSWER), f"{quirk.name}: {record['reason']}"
    assert len(seen[len(QUIRKS) + number]) <= 16


def test_there_are_enough_of_them():
    assert len(QUIRKS) >= 60
    assert len({quirk.name for quirk in QUIRKS}) == len(QUIRKS)


def test_every_wording_has_a_pattern_and_a_source_and_no_change_stands_twice():
    for wording in (*KINDS, *GUESSES, *CHANGES):
        re.compile(wording.pattern)
        assert wording.servers
        assert wording.source
    assert len({change.means for change in CHANGES}) == len(CHANGES)


@pytest.mark.parametrize(
    ("reason", "ending"),
    [
        *((reason, "end") for reason in ("stop", "end_turn", "eos", None, "", "FinishReason.STOP", "unheard_of", 7)),
        *((reason, "calls") for reason in ("tool_calls", "function_call", "tool_use")),
        *((reason, "length") for reason in ("length", "max_tokens", "MAX_TOKENS")),
        *((reason, "refused") for reason in ("refusal", "content_filter", "SAFETY", "RECITATION", "sensitive")),
        *((reason, "overflow") for reason in ("model_context_window_exceeded", "model_length")),
        *((reason, "malformed") for reason in ("MALFORMED_FUNCTION_CALL", "unexpected_tool_call")),
        *((reason, "failed") for reason in ("error", "network_error", "insufficient_system_resource")),
    ],
)
def test_finish_reasons_of_all_servers_are_seven_endings(reason, ending):
    assert ending_of(reason) == ending
