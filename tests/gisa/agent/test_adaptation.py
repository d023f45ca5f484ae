"""What an endpoint teaches: once, in any order, and without losing what was said."""

import asyncio
import json

import pytest

from src.gisa.agent.adaptation import _APPLIED, PLAINER, Adaptation
from src.gisa.agent.complaints import Complaint
from src.gisa.agent.cost import Account, PriceList, Step
from src.gisa.agent.dialects import CHANGES
from src.gisa.agent.policy import ChatEndpoint, Request
from src.gisa.agent.tools import specs
from src.gisa.agent.web import Web
from src.launch.errors import InputError
from tests.gisa.agent.quirks import error, has, openai, plain
from tests.gisa.agent.servers import completion, serve

SIGNED = {"extra_content": {"google": {"thought_signature": "abc"}}}
CALL = {"id": "functions.search:0", "type": "function", "function": {"name": "search", "arguments": '{"query": "x"}'}}
MESSAGES = [
    {"role": "system", "content": "Be exact."},
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL | SIGNED], "thinking_blocks": [{"signature": "s"}]},
    {"role": "tool", "tool_call_id": CALL["id"], "content": "1. Lima"},
    {"role": "user", "content": "Answer now."},
]
BODY = {
    "model": "m",
    "max_tokens": 8192,
    "temperature": 0.0,
    "messages": MESSAGES,
    "tools": list(specs()),
    "tool_choice": "none",
    "parallel_tool_calls": False,
}


def test_every_change_of_the_table_is_there_and_leaves_the_words():
    assert {change.means for change in CHANGES} | set(PLAINER) == _APPLIED.keys()
    before = json.dumps(BODY)
    for name, change in _APPLIED.items():
        text = json.dumps(change(BODY))
        assert all(word in text for word in ("Be exact.", "Who?", "1. Lima", "Answer now.")), name
    assert json.dumps(BODY) == before


def learned(text, body=BODY, status=400):
    adaptation = Adaptation()
    return adaptation.learn(Complaint(status, text.lower()), body), adaptation


@pytest.mark.parametrize(
    ("text", "lesson"),
    [
        ("Unrecognized request argument supplied: parallel_tool_calls", "no parallel_tool_calls"),
        ("tool_choice: Input should be 'auto'", "no tool_choice"),
        ("`temperature` and `top_p` cannot both be specified", "no temperature"),
        ('messages: Unexpected role "system"', "the system message as the user's"),
        ("system prompt is unsupported for this model", "the system message as the user's"),
        ("Unknown parameter: 'max_tokens'", "max_completion_tokens instead of max_tokens"),
        ("messages.2.thinking_blocks: Extra inputs are not permitted", "no thinking_blocks"),
        ("the model does not support function calling", "tools as text"),
        ("Function calling is not enabled for models/gemma-3", "tools as text"),
        ("no such model", None),
    ],
)
def test_wordings_that_nobody_listed_are_read_by_the_field_they_name(text, lesson):
    assert learned(text)[0] == lesson


def test_keys_and_rates_teach_nothing():
    assert all(
        learned("temperature is not supported", status=status)[0] is None for status in (401, 402, 403, 429, 502, 503)
    )


def test_the_system_message_and_the_last_words_find_another_speaker():
    _, adaptation = learned("System role not supported")
    assert adaptation.learn(Complaint(400, "unexpected role 'user' after role 'tool'"), BODY)
    messages = adaptation.adapted(BODY)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert (messages[0]["content"], messages[2]["content"]) == ("Be exact.\n\nWho?", "1. Lima\n\nAnswer now.")


def test_ids_are_changed_alike_in_calls_and_results():
    _, adaptation = learned("Tool call id was functions.search:0 but must be a-z, A-Z, 0-9, with a length of 9.")
    asked, result = adaptation.adapted(BODY)["messages"][2:4]
    assert asked["tool_calls"][0]["id"] == result["tool_call_id"]
    assert result["tool_call_id"].isalnum()
    assert len(result["tool_call_id"]) == 9
    assert asked["tool_calls"][0]["extra_content"] == SIGNED["extra_content"]


def ask(respond, count=1, **settings):
    """Ask an endpoint so many times at once; return the replies, the bodies it has seen and the steps' books."""
    seen, steps = [], [Step(Account("question", None)) for _ in range(count)]

    async def answer(request, writer):
        seen.append(json.loads(request.body))
        await asyncio.sleep(0.01)
        return respond(seen[-1], len(seen) - 1)

    async def main():
        async with serve(answer) as port, Web(base_delay_s=0.001) as web:
            settings.setdefault("prices", PriceList(date="2026-01-31"))
            endpoint = ChatEndpoint(base_url=f"http://127.0.0.1:{port}", model="m", key_env=None, **settings)
            once = [await endpoint.reply(Request(MESSAGES[:2], specs(), steps[0], web))]
            more = (endpoint.reply(Request(MESSAGES, specs(), step, web, may_call=False)) for step in steps[1:])
            return [*once, *await asyncio.gather(*more)]

    return asyncio.run(main()), seen, steps


def strict(sent, number):
    """Refuses three fields, one after the other."""
    for name in ("max_tokens", "temperature", "tool_choice"):
        if name in sent:
            return error(400, openai(f"Unsupported parameter: '{name}' is not supported with this model.", param=name))
    return plain(sent)


def test_an_endpoint_is_refused_once_for_each_field_and_the_record_says_so():
    replies, seen, steps = ask(strict, count=4, temperature=0.0)
    # Two refusals of the first request; tool_choice comes with the next three, which are under way together.
    assert len([sent for sent in seen if "max_tokens" in sent]) == 1
    assert len([sent for sent in seen if "temperature" in sent]) == 2
    assert len([sent for sent in seen if "tool_choice" in sent]) == 3
    changes = ("max_completion_tokens instead of max_tokens", "no temperature", "no tool_choice")
    assert replies[0].adapted == changes[:2]
    assert all(reply.adapted == changes for reply in replies[1:])
    assert [line.partition("; ")[2] for line in steps[0].failures] == [
        f"from now on {change}" for change in changes[:2]
    ]


def test_requests_that_learn_together_learn_the_same_once():
    def refuses(sent, number):
        refused = "max_tokens" in sent
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        return error(400, openai(message)) if refused else plain(sent)

    replies, _, _ = ask(lambda sent, number: refuses(sent, number) if number else plain(sent), count=8)
    assert {reply.adapted for reply in replies[1:]} == {("max_completion_tokens instead of max_tokens",)}


def test_what_a_server_sends_with_a_message_goes_back_as_it_came():
    extras = {
        "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "x=="}],
        "reasoning_details": [{"type": "reasoning.encrypted", "data": "y=="}],
        "provider_specific_fields": {"thought_signatures": ["z=="]},
        "reasoning": "hm",
        "unheard_of": {"a": [1, None]},
    }
    calls = [CALL | SIGNED | {"index": 0}]
    (reply,), _, _ = ask(lambda sent, number: completion(None, tool_calls=calls, audio=None, refusal=None, **extras))
    assert reply.message == {"role": "assistant", "content": None, "tool_calls": calls, **extras}


def test_reasoning_before_a_call_in_the_text_stays_where_it_was():
    text = "<think>Peru?</think>I look.\n<tool_call>" + json.dumps({"name": "search", "arguments": {"query": "x"}})
    (reply,), _, _ = ask(lambda sent, number: completion(text))
    assert reply.message["content"] == "<think>Peru?</think>I look."
    assert reply.message["tool_calls"][0]["function"]["name"] == "search"


def test_a_field_that_the_user_gave_stops_the_run_with_what_to_type():
    def refuses(sent, number):
        return error(400, openai("Unknown name: reasoning_effort")) if has("reasoning_effort")(sent) else plain(sent)

    with pytest.raises(InputError, match=r"refuses reasoning_effort: Unknown name.*\n.*~agent\.policy"):
        ask(refuses, extra_body={"reasoning_effort": "high"})
    with pytest.raises(InputError, match=r"refuses reasoning_effort: .*\n.*agent\.policy\.reasoning_effort=null"):
        ask(refuses, reasoning_effort="high")


def test_a_plainer_form_is_kept_only_if_it_was_taken():
    replies, seen, _ = ask(lambda sent, number: error(400, openai("Bad")) if "tools" in sent else plain(sent), count=2)
    assert [reply.adapted for reply in replies] == [PLAINER, PLAINER]
    assert len(seen) == 4
