import asyncio
import json
import re
import socket

import pytest

from src.gisa.agent.cost import Account, CeilingReachedError, Charge, PriceList, Step, Usage
from src.gisa.agent.fetch import RequestError
from src.gisa.agent.metering import usage_of
from src.gisa.agent.policy import ChatEndpoint, ContextOverflowError, Request, ScriptedPolicy, text_of
from src.gisa.agent.web import Web
from src.launch.errors import InputError
from tests.gisa.agent.servers import completion, reply, serve

PRICES = PriceList(date="2026-01-31", models={"m": {"prompt": 1, "completion": 2}})
ASKED = [{"role": "user", "content": "Zoë?"}]
TOOLS = [{"type": "function", "function": {"name": "search"}}]


def port_of(settings, ports={}):  # noqa: B006 - the same server for the same folder
    """A free port, the same for all requests that share a cache, as the address is part of what is kept."""
    folder = settings.get("reply_cache")
    if folder not in ports:
        with socket.create_server(("127.0.0.1", 0)) as server:
            ports[folder] = server.getsockname()[1]
    return ports[folder] if folder else 0


def ask(replies, *, tools=(), account=None, **settings):
    """Ask an endpoint once; return its reply, the body of the first request and the step's books."""
    seen = []
    step = Step(account or Account("question", None))
    call = {name: settings.pop(name) for name in ("may_call", "part") if name in settings}

    async def respond(request, writer):
        seen.append(request)
        return replies[min(len(seen), len(replies)) - 1]

    async def main():
        async with serve(respond, port=port_of(settings)) as port, Web(base_delay_s=0.001) as web:
            settings.setdefault("key_env", None)
            endpoint = ChatEndpoint(base_url=f"http://127.0.0.1:{port}/v1/", model="m", prices=PRICES, **settings)
            return await endpoint.reply(Request(ASKED, tools, step, web, **call))

    answer = asyncio.run(main())
    assert all(request.path == "/v1/chat/completions" for request in seen)
    return answer, json.loads(seen[0].body) if seen else None, step


def test_a_plain_request_holds_only_what_every_server_knows():
    answer, body, step = ask([completion("Lima")])
    assert body == {"model": "m", "max_tokens": 8192, "messages": ASKED}
    assert (answer.message, answer.finish_reason) == ({"role": "assistant", "content": "Lima"}, "stop")
    # 10 tokens read at 1 USD and 5 written at 2 USD per million: 2e-5
    assert step.charges == [Charge("chain", 10, 5, pytest.approx(2e-5))]


def test_settings_reach_the_request():
    _, body, step = ask(
        [completion("x")],
        tools=TOOLS,
        temperature=0.0,
        max_output_tokens=100,
        max_tokens_field="max_completion_tokens",
        parallel_calls=False,
        extra_body={"thinking": {"type": "enabled"}},
        reasoning_effort="high",
        part="extractor",
    )
    assert body == {
        "model": "m",
        "max_completion_tokens": 100,
        "messages": ASKED,
        "temperature": 0.0,
        "tools": TOOLS,
        "parallel_tool_calls": False,
        "thinking": {"type": "enabled"},
        "reasoning_effort": "high",
    }
    assert step.charges[0].part == "extractor"


def test_where_no_call_is_wanted_the_tools_stay_and_the_choice_is_none():
    _, body, _ = ask([completion("x")], tools=TOOLS, may_call=False, parallel_calls=False)
    assert (body["tools"], body["tool_choice"]) == (TOOLS, "none")
    assert "parallel_tool_calls" not in body


def test_calls_and_reasoning_are_kept_for_the_next_request_and_other_fields_are_not():
    calls = [{"id": "1", "type": "function", "function": {"name": "search", "arguments": "{}"}}]
    data = completion(
        None, tool_calls=calls, reasoning_content="hm", reasoning_details=[{"text": "hm"}], annotations=[1]
    )
    answer, _, _ = ask([data])
    assert answer.message == {
        "role": "assistant",
        "content": None,
        "tool_calls": calls,
        "reasoning_content": "hm",
        "reasoning_details": [{"text": "hm"}],
    }


@pytest.mark.parametrize(
    "body", ["{}", "[]", '{"choices": []}', '{"choices": [{"message": null}]}', '{"choices": [{}]}', "7"]
)
def test_a_reply_without_a_message_is_tried_again(body):
    answer, _, step = ask([reply(body), completion("Lima")])
    assert answer.message["content"] == "Lima"
    assert step.failures == ["127.0.0.1: a reply without a message"]


def test_an_error_with_status_200_counts_as_the_error_it_is():
    answer, _, step = ask([reply('{"error": {"code": 429, "message": "busy"}}'), completion("Lima")])
    assert answer.message["content"] == "Lima"
    assert step.failures == ["127.0.0.1: HTTP 429: busy"]
    with pytest.raises(RequestError, match="in 5m") as caught:
        ask([reply('{"error": {"code": 429, "message": "Please try again in 5m"}}')])
    assert caught.value.retry_after_s == 300
    with pytest.raises(InputError, match="HTTP 401: who are you"):
        ask([reply('{"error": {"code": 401, "message": "who are you"}}')])


@pytest.mark.parametrize(
    "message",
    ["This model's maximum context length is 8192 tokens", "context_length_exceeded", "prompt is too long: 9 > 8"],
)
def test_a_conversation_that_is_too_long_is_told_apart_from_other_bad_requests(message):
    with pytest.raises(ContextOverflowError):
        ask([reply(json.dumps({"error": {"message": message}}), status="400 Bad Request")])
    with pytest.raises(RequestError, match="HTTP 400"):
        ask([reply('{"error": {"message": "no such field"}}', status="400 Bad Request")])


def test_where_the_server_tells_no_tokens_they_are_counted_and_said_to_be(caplog):
    _, _, step = ask([reply(json.dumps({"choices": [{"message": {"content": "Lima, of course"}}]}))])
    # o200k_base: "Zo", "ë", "?" and 4 tokens for each message and once more; "L", "ima", ",", " of", " course".
    assert step.charges == [Charge("chain", 3 + 8, 5, pytest.approx(2.1e-5), estimated=True)]
    assert "counted here, by o200k_base" in caplog.text


def test_no_request_is_sent_that_could_break_the_ceiling():
    # The request is at most 46 bytes, and so tokens; with 8192 tokens of reply at 2 USD per million its price is at
    # most 0.01643 USD. With less, the reply is allowed fewer: 0.0163 - 0.000046 USD are 8127 tokens.
    assert ask([completion("x")], account=Account("question", 0.02))[1]["max_tokens"] == 8192
    assert ask([completion("x")], account=Account("question", 0.0163))[1]["max_tokens"] == pytest.approx(8127, abs=20)
    with pytest.raises(CeilingReachedError, match=r"does not cover the next call, of up to 0\.0021 USD"):
        ask([completion("x")], account=Account("question", 0.002))  # 1024 tokens are the least for a first reply


def test_a_reply_cut_short_by_the_ceiling_is_asked_for_again_with_what_it_may_have():
    half = completion("half", "length", usage={"prompt_tokens": 10, "completion_tokens": 1024})
    _, _, step = ask([half, completion("whole")], account=Account("question", 0.0075), max_output_tokens=4096)
    # 4096 tokens would be 0.0082 USD: 0.0075 are 3700. After 0.0021 of them are gone, twice what was seen still fits.
    assert re.fullmatch(r"m: cut at the 37\d\d tokens that the ceiling left", step.failures[0])
    assert [charge.completion_tokens for charge in step.charges] == [1024, 5]
    with pytest.raises(CeilingReachedError):
        ask([half], account=Account("question", 0.006), max_output_tokens=4096)


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 5}, Usage(9, 5)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(9, 5, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "prompt_cache_hit_tokens": 4}, Usage(9, 5, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "cached_tokens": 4}, Usage(9, 5, 4)),
        (
            {"prompt_tokens": 9, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 3}},
            Usage(9, 5, reasoning=3),
        ),
        ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 20}, Usage(9, 11, reasoning=6)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}, Usage(9, 5)),
        (
            {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 99}},
            Usage(108, 5, 99),
        ),
        ({"prompt_tokens": 9, "completion_tokens": None, "prompt_tokens_details": None}, Usage(9, 0)),
        ({"prompt_tokens": "9", "completion_tokens": "5"}, Usage(9, 5)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "reasoning_tokens": 3}, Usage(9, 5, reasoning=3)),  # SGLang
        (
            {
                "prompt_tokens": 0,
                "completion_tokens": 0,
                "input_tokens": 9,
                "input_tokens_details": {"cached_tokens": 4},
                "output_tokens": 5,
                "output_tokens_details": {"reasoning_tokens": 3},
            },
            Usage(9, 5, 4, reasoning=3),
        ),
        (
            {"input_tokens": 9, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2, "output_tokens": 5},
            Usage(15, 5, 4, 2),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 0, "cache_creation_input_tokens": 4},  # Qwen/DashScope
            },
            Usage(9, 5, cache_write=4),
        ),
        (
            {"promptTokenCount": 9, "candidatesTokenCount": 5, "thoughtsTokenCount": 6, "totalTokenCount": 20},
            Usage(9, 11, reasoning=6),
        ),
        ({"prompt_tokens": 0, "completion_tokens": 0}, None),
        ({"prompt_tokens": "many"}, None),
        (None, None),
        ([], None),
    ],
)
def test_the_tokens_of_a_reply_are_read_as_each_server_tells_them(usage, told):
    assert usage_of({"usage": usage}) == told
    assert usage_of({"choices": [{"usage": usage}]}) == told  # the end of a stream of Moonshot's
    assert usage_of([usage]) is None


def with_fallback(main, other, asked=1, **settings):
    """Ask an endpoint whose fallback is another server, some times; return texts, the other's requests, the books."""
    step, seen = Step(Account("question", None)), []

    async def first(request, writer):
        return main

    async def second(request, writer):
        seen.append(json.loads(request.body))
        return other

    async def ask():
        async with serve(first) as port, serve(second) as port_2, Web(base_delay_s=0.001, attempts=2) as web:
            urls = [f"http://127.0.0.1:{number}/v1" for number in (port, port_2)]
            fallback = ChatEndpoint(base_url=urls[1], model="n", prices=PRICES, key_env=None)
            policy = ChatEndpoint(base_url=urls[0], model="m", prices=PRICES, key_env=None, fallback=fallback)
            talk = [*ASKED, {"role": "assistant", "content": "Hm", "reasoning_details": [{"signature": "m's"}]}]
            return [(await policy.reply(Request(talk, (), step, web))).message["content"] for _ in range(asked)]

    return asyncio.run(ask()), seen, step


def test_where_a_model_fails_after_all_tries_another_is_asked_and_for_a_while_at_once():
    said, seen, step = with_fallback(reply("oops", status="500 Oops"), completion("Lima"), asked=2)
    assert said == ["Lima", "Lima"]
    assert [body["model"] for body in seen] == ["n", "n"]
    assert seen[0]["messages"][1] == {"role": "assistant", "content": "Hm"}  # thoughts are signed by who had them
    assert [charge.model for charge in step.charges] == ["n", "n"]
    assert step.failures == ["127.0.0.1: HTTP 500: oops"] * 2 + ["m fails; n is asked in its place"]
    said, seen, step = with_fallback(completion("Cusco"), completion("Lima"))
    assert (said, seen, step.charges[0].model) == (["Cusco"], [], "")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("403 No", {"error": {"message": "not today", "code": "insufficient_user_quota", "type": "new_api_error"}}),
        ("400 No", {"error": {"message": "Budget has been exceeded! Current cost: 10.1", "type": "budget_exceeded"}}),
        ("200 OK", {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}),
        ("429 No", {"error": {"code": "1113", "message": "您的账户已欠费，请充值后重试。"}}),  # in ASCII only
    ],
)
def test_an_empty_account_stops_the_run_whatever_status_says_so(status, body):
    with pytest.raises(InputError, match="The account has no credit left"):
        ask([reply(json.dumps(body), status=status)])


@pytest.mark.parametrize(
    "told",
    [(1004, "login fail: Please carry the API secret key in the 'Authorization' field"), (2049, "invalid api key")],
)
def test_a_wrong_key_within_a_reply_of_status_200_stops_the_run(told):
    body = {"choices": None, "base_resp": dict(zip(("status_code", "status_msg"), told, strict=True))}
    with pytest.raises(InputError, match="The service does not take the key"):
        ask([reply(json.dumps(body))])


@pytest.mark.parametrize(("status", "text"), [("401 Who", "no"), ("404 Where", "no"), ("400 No", "Model Not Exist")])
def test_no_other_model_hides_a_wrong_key_or_name(status, text):
    with pytest.raises(InputError, match=f"HTTP {status[:3]}"):
        with_fallback(reply(text, status=status), completion("Lima"))


def test_a_run_made_again_at_temperature_0_reads_its_replies_and_pays_nothing(tmp_path):
    kept = {"temperature": 0.0, "reply_cache": str(tmp_path)}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
    first, _, paid = ask([completion("Lima", usage=usage)], **kept)
    again, bodies, free = ask([completion("Cusco")], **kept)
    assert (first.message, bodies) == (again.message, None)
    assert paid.charges == [Charge("chain", 10, 5, pytest.approx(2e-5), cached_tokens=4)]
    assert free.charges == [Charge("chain", 10, 5, 0.0, cached_tokens=4, reused=True)]
    other, _, _ = ask([completion("Cusco")], reasoning_effort="low", **kept)
    assert other.message["content"] == "Cusco"
    with pytest.raises(InputError, match=r"agent\.policy\.temperature=0\.0  or  agent\.policy\.reply_cache=null"):
        ask([completion("x")], reply_cache=str(tmp_path))


def test_a_ceiling_needs_a_price():
    async def main():
        async with Web() as web:
            endpoint = ChatEndpoint(base_url="http://127.0.0.1:1", model="new", prices=PRICES, key_env=None)
            await endpoint.reply(Request(ASKED, (), Step(Account("question", 1.0)), web))

    with pytest.raises(InputError, match=r"2026-01-31 does not know 'new'.*\nAdd it:  agent\.prices\.models:  new:"):
        asyncio.run(main())


def test_a_missing_key_is_noticed_before_anything_is_sent(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(InputError, match="export NO_SUCH_KEY="):
        ChatEndpoint(base_url="http://127.0.0.1:1", model="m", prices=PRICES, key_env="NO_SUCH_KEY")


def test_a_script_sees_the_conversation():
    policy = ScriptedPolicy(lambda messages: {"content": messages[-1]["content"].upper()})
    answer = asyncio.run(policy.reply(Request(ASKED, (), Step(Account("question", None)), Web())))
    assert (answer.message["content"], answer.finish_reason) == ("ZOË?", "stop")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a", "a"),
        (None, ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, "c", {}], "ab"),
        ({"type": "text", "text": "a"}, "a"),
    ],
)
def test_the_text_of_a_message_is_found_in_all_of_its_forms(content, text):
    assert text_of({"content": content}) == text
