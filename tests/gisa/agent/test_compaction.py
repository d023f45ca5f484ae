"""Conversations that outgrow a model: over HTTP with a server that counts tokens, and by hand."""

import asyncio
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.agent.backends import EmbeddedWeb
from src.gisa.agent.compaction import Compaction, clip, cut_down, parts
from src.gisa.agent.cost import Account, PriceList
from src.gisa.agent.policy import ChatEndpoint, ContextOverflowError
from src.gisa.agent.prompts import untrusted
from src.gisa.agent.react import Budget, ReActAgent
from src.gisa.agent.tools import Toolbox
from src.gisa.agent.trajectory import Attempt, Episode, Journal
from src.gisa.agent.web import Web
from src.gisa.dataset.factbook.corpus import Corpus, Document
from tests.gisa.agent.quirks import ANSWER, error
from tests.gisa.agent.servers import completion, model_server, reply

CONTEXT_TOKENS = 8192
FILLER = "<p>The country lies between the sea and the mountains, and has many rivers." * 12
PAGES = [
    Document(f"https://atlas.example/{number}", f"<title>Page {number}</title>{FILLER}<p>Town {number} is small.")
    for number in range(40)
] + [Document("https://atlas.example/peru", f"<title>Peru</title>{FILLER}<p>Capital: Lima")]
TOOLBOX = Toolbox(search=EmbeddedWeb(Corpus(PAGES)), pages=EmbeddedWeb(Corpus(PAGES)))
PRICES = PriceList(date="2026-01-31", models={"m": {"prompt": 1, "completion": 2}})
ATTEMPT = Attempt("7", 0, "What is the capital of Peru?", "item")


class SmallModel:
    """A chat model that reads and writes 8,192 tokens, of four characters each, and says what it is asked to.

    It visits a page after the other, Peru third; takes down capitals where it is asked for notes; and answers with the
    capital that it can still read.
    """

    def __init__(self):
        self.visits = self.refused = self.prompt_tokens = self.notes_tokens = 0
        self.most_tokens = 0

    async def respond(self, request, writer):
        body = json.loads(request.body)
        text = json.dumps(body["messages"])
        tokens = len(text) // 4 + len(json.dumps(body.get("tools", []))) // 4
        if tokens + body["max_tokens"] > CONTEXT_TOKENS:
            self.refused += 1
            said = (
                f"This model's maximum context length is {CONTEXT_TOKENS} tokens. However, you requested "
                f"{tokens + body['max_tokens']} tokens ({tokens} in the messages, {body['max_tokens']} in the "
                "completion). Please reduce the length of the messages or completion."
            )
            return error(400, {"object": "error", "message": said, "code": 400})
        self.prompt_tokens += tokens
        self.most_tokens = max(self.most_tokens, tokens)
        capital = re.search(r"Capital: (\w+)", text)
        if "tools" not in body:
            self.notes_tokens += tokens + 100
            message = {"content": f"Evidence: Capital: {capital[1]}." if capital else "Evidence: none yet."}
        elif body.get("tool_choice") == "none":
            message = {"content": ANSWER.replace("Lima", capital[1] if capital else "unknown")}
        else:
            page = "peru" if self.visits == 2 else self.visits % 40
            self.visits += 1
            arguments = json.dumps({"url": [f"https://atlas.example/{page}"], "goal": "capital"})
            call = {"id": f"c{self.visits}", "type": "function", "function": {"name": "visit", "arguments": arguments}}
            message = {"content": None, "tool_calls": [call]}
        body = {
            "choices": [{"message": {"role": "assistant", **message}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": tokens, "completion_tokens": 100},
        }
        return reply(json.dumps(body), content_type="application/json")


def answered(compaction, *, calls=200, toolbox=TOOLBOX, steps=(), model=None, attempt=ATTEMPT, **settings):
    """Have an agent answer with a small model; return the episode, its record and the model."""
    model = model or SmallModel()
    budget = Budget(max_calls=calls)

    async def main(url):
        async with Web(base_delay_s=0.001) as web:
            endpoint = ChatEndpoint(base_url=url, model="m", prices=PRICES, key_env=None, **settings)
            agent = ReActAgent(endpoint, toolbox, budget, "2026-01-31", compaction=compaction)
            account = Account("question", None)
            episode = Episode(attempt, Journal.in_memory(attempt, steps), account, web)
            await agent.answer(episode)
            return episode

    with model_server(model.respond) as url:
        episode = asyncio.run(main(url))
    return episode, episode.record(), model


def compactions(record):
    return [step["value"] for step in record["steps"] if step["key"].startswith("compaction/") and "value" in step]


def test_two_hundred_turns_in_8k_tokens_end_with_the_answer_and_the_notes_are_in_the_books():
    episode, record, model = answered(Compaction("summarise"))
    assert (record["outcome"], record["counts"]["calls"]) == ("answered", 200)
    assert "Lima" in record["prediction"]  # read in the third turn of 200: it is in the notes
    made = compactions(record)
    assert {value["method"] for value in made} == {"summarise"}
    assert sum(value["left_out_turns"] for value in made) == episode.left_out_turns > 150
    assert all(value["notes"].startswith("Evidence:") for value in made)
    # The books: every token that the server has counted, those for notes by themselves; 1 and 2 USD per million.
    spent = record["spent"]
    assert spent["compaction"]["calls"] == len(made)
    assert spent["compaction"]["prompt_tokens"] + spent["compaction"]["completion_tokens"] == model.notes_tokens
    assert spent["chain"]["prompt_tokens"] + spent["compaction"]["prompt_tokens"] == model.prompt_tokens
    assert spent["compaction"]["usd"] == pytest.approx(
        spent["compaction"]["prompt_tokens"] / 1e6 + spent["compaction"]["completion_tokens"] * 2 / 1e6
    )
    assert "earlier steps are left out" in episode.messages[1]["content"]
    assert model.most_tokens > CONTEXT_TOKENS / 2  # the room is used


def test_trimming_goes_on_without_notes_and_without_cost():
    episode, record, _ = answered(Compaction("trim"), calls=60)
    assert (record["outcome"], record["counts"]["calls"]) == ("answered", 60)
    assert {value["method"] for value in compactions(record)} == {"trim"}
    assert "compaction" not in record["spent"]
    assert "unknown" in record["prediction"]  # what was read in the third turn is gone
    assert episode.notes is None


def test_without_either_the_answer_is_asked_for_from_what_fits():
    _, record, model = answered(Compaction())
    assert record["outcome"] == "answered"
    assert [value["method"] for value in compactions(record)] == ["forced"]
    assert record["counts"]["calls"] == model.visits < 30


def test_a_known_context_is_kept_to_before_the_server_refuses():
    _, record, model = answered(Compaction("trim", context_tokens=6000, at_share=0.8), calls=60, max_output_tokens=1000)
    assert record["outcome"] == "answered"
    assert (model.refused, bool(compactions(record))) == (0, True)
    assert model.most_tokens < 6000


def test_one_page_that_does_not_fit_is_cut_short():
    page = Document("https://atlas.example/0", "<title>Long</title>" + FILLER * 60 + "<p>Capital: Lima")
    web = EmbeddedWeb(Corpus([page]))
    for method in ("none", "trim", "summarise"):
        episode, record, _ = answered(Compaction(method), calls=1, toolbox=Toolbox(search=web, pages=web))
        assert record["outcome"] == "answered", method
        (result,) = [message for message in episode.messages if message["role"] == "tool"]
        assert result["content"].count("</untrusted>") == 1
        assert "characters are left out.]" in result["content"]


def test_where_the_tools_leave_no_room_for_the_question_it_is_answered_without_them():
    class Tiny(SmallModel):
        async def respond(self, request, writer):
            body = json.loads(request.body)
            if "tools" in body:
                return error(400, {"error": {"code": "context_length_exceeded", "message": "no"}})
            assert "final answer now" in body["messages"][-1]["content"]
            return completion(ANSWER)

    for method in ("none", "trim", "summarise"):
        _, record, _ = answered(Compaction(method), model=Tiny())
        assert (record["outcome"], record["prediction"]) == ("answered", ANSWER)


def test_a_question_that_is_itself_too_long_is_truncated():
    _, record, _ = answered(Compaction("summarise"), attempt=Attempt("7", 0, "why? " * 8000, "item"))
    assert record["outcome"] == "truncated"


@pytest.mark.parametrize("method", ["none", "trim", "summarise"])
def test_a_resumed_episode_sees_the_conversation_that_it_had(method):
    episode, record, _ = answered(Compaction(method), calls=25)
    again, repeated, model = answered(Compaction(method), calls=25, steps=record["steps"])
    assert (again.messages, again.verdict) == (episode.messages, episode.verdict)
    assert repeated["spent"] == record["spent"]
    assert model.prompt_tokens == 0
    # Cut off in the middle, it goes on from there.
    half = record["steps"][: len(record["steps"]) // 2]
    model = SmallModel()
    model.visits = sum(step["key"].startswith("reply/") and "value" in step for step in half)
    other, other_record, _ = answered(Compaction(method), calls=25, steps=half, model=model)
    assert other.messages == episode.messages
    assert other_record["prediction"] == record["prediction"]


def conversation(*sizes):
    """A question and turns with results of so many characters."""
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    for number, size in enumerate(sizes):
        call = {"id": f"c{number}", "type": "function", "function": {"name": "search", "arguments": "{}"}}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": "x" * size})
    return messages


def test_a_conversation_is_split_into_opening_turns_and_last_words():
    messages = [*conversation(1, 2), {"role": "user", "content": "answer!"}]
    opening, turns, closing = parts(messages)
    assert (opening, [len(turn) for turn in turns], closing) == (messages[:2], [2, 2], messages[-1:])
    assert parts(messages[:2]) == (messages[:2], [], [])


@given(
    st.lists(st.integers(0, 3000), max_size=8),
    st.integers(0, 9),
    st.integers(0, 9000),
    st.none() | st.text(max_size=20),
)
def test_whatever_is_taken_out_every_call_keeps_its_result_and_the_question_stays(sizes, left_out, room, notes):
    episode = Episode(
        ATTEMPT, None, None, None, messages=[*conversation(*sizes), {"role": "user", "content": "answer!"}]
    )
    messages = cut_down(episode, {"left_out_turns": min(left_out, len(sizes)), "room_chars": room, "notes": notes})
    roles = [message["role"] for message in messages]
    assert roles == ["system", "user", *["assistant", "tool"] * max(0, len(sizes) - left_out), "user"]
    assert messages[1]["content"].startswith(ATTEMPT.question if left_out and sizes else "q")
    for asked, result in zip(messages[2:-1:2], messages[3:-1:2], strict=True):
        assert asked["tool_calls"][0]["id"] == result["tool_call_id"]


@given(st.text(max_size=400), st.integers(0, 500))
def test_a_clipped_result_is_no_longer_than_asked_and_closes_its_enclosure(text, most):
    result = untrusted(text)
    clipped = clip(result, most)
    assert len(clipped) <= max(most, 100)
    assert clipped.count("<untrusted>") == clipped.count("</untrusted>")


def test_a_model_that_refuses_its_notes_too_is_trimmed():
    class NoNotes(SmallModel):
        async def respond(self, request, writer):
            if "tools" not in json.loads(request.body):
                return error(400, {"message": "prompt is too long: 9 tokens > 8 maximum"})
            return await super().respond(request, writer)

    _, record, _ = answered(Compaction("summarise"), calls=25, model=NoNotes())
    assert record["outcome"] == "answered"
    assert {value["notes"] for value in compactions(record)} == {None}


def test_overflow_of_unknown_size_halves_what_is_shown_until_it_fits():
    class Silent(SmallModel):
        async def respond(self, request, writer):
            if len(request.body) > 9000:
                return error(400, {"error": {"code": "context_length_exceeded", "message": "no"}})
            return await super().respond(request, writer)

    for method in ("none", "trim"):
        _, record, _ = answered(Compaction(method), calls=12, model=Silent(), max_output_tokens=500)
        assert record["outcome"] == "answered", record["reason"]


def test_the_error_tells_its_sizes():
    error = ContextOverflowError("9 > 8", limit=8, used=9)
    assert (str(error), error.limit, error.used) == ("9 > 8", 8, 9)
