"""A reply in pieces is the reply."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.agent.streams import decoded
from tests.gisa.agent.quirks import CALL, pieces
from tests.gisa.agent.servers import completion


def body(data):
    return data.partition(b"\r\n\r\n")[2].decode()


@given(st.none() | st.text(max_size=60), st.integers(0, 3))
def test_whatever_is_cut_in_pieces_is_put_together_again(content, calls):
    tool_calls = [CALL | {"id": f"c{number}"} for number in range(calls)]
    whole = completion(content, **({"tool_calls": tool_calls} if calls else {}))
    found, expected = decoded(body(pieces(whole))), json.loads(body(whole))
    message = expected["choices"][0]["message"]
    assert found["choices"][0]["message"] == message | {"content": message["content"] or None}
    assert found["choices"][0]["finish_reason"] == expected["choices"][0]["finish_reason"]
    assert found["usage"] == expected["usage"]


def test_an_error_within_a_stream_is_found():
    stream = 'data: {"choices": [{"delta": {"content": "x"}}]}\n\ndata: {"error": {"code": 502, "message": "gone"}}\n\n'
    assert decoded(stream)["error"] == {"code": 502, "message": "gone"}


def test_plain_json_is_what_it_was_and_anything_else_is_refused():
    assert decoded(' \n{"a": [1]}') == {"a": [1]}
    for text in ("", "data: {", "<html>"):
        with pytest.raises(ValueError, match="Expecting"):
            decoded(text)


def test_a_stream_that_breaks_off_is_no_reply():
    begun = 'data: {"choices": [{"delta": {"content": "Li"}, "finish_reason": null}]}\n\n'
    for end in ("data: [DONE]", 'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}'):
        assert decoded(begun + end)["choices"][0]["message"] == {"content": "Li"}
    with pytest.raises(ValueError, match="the stream ends before the reply does"):
        decoded(begun)


def test_calls_of_one_index_are_told_apart_by_their_ids():
    stream = ""
    for name in ("a", "b"):
        begun = {**CALL, "id": name, "index": 0, "function": {"name": "search", "arguments": '{"query": '}}
        for piece in (begun, {"index": 0, "function": {"arguments": f'"{name}"}}'}}):
            stream += f"data: {json.dumps({'choices': [{'delta': {'tool_calls': [piece]}}]})}\n\n"
    calls = decoded(stream + "data: [DONE]")["choices"][0]["message"]["tool_calls"]
    assert [(call["id"], call["function"]["arguments"]) for call in calls] == [
        ("a", '{"query": "a"}'),
        ("b", '{"query": "b"}'),
    ]


@pytest.mark.parametrize(
    "event",
    ["7", "[]", '{"choices": 7}', '{"choices": [7]}', '{"choices": [{"delta": "x"}]}']
    + [
        json.dumps({"choices": [{"delta": {"tool_calls": calls}}]})
        for calls in (7, ["x"], [CALL, CALL | {"function": 7}])
    ],
)
def test_a_stream_of_another_form_is_refused(event):
    with pytest.raises(ValueError, match="no stream of a chat completion"):
        decoded(f"data: {event}\n\ndata: {event}\n\ndata: [DONE]")


def test_a_text_may_hold_what_separates_lines_elsewhere():
    delta = {"content": "Li\u2028ma\x85\x0b"}
    stream = f"data: {json.dumps({'choices': [{'delta': delta}]}, ensure_ascii=False)}\r\n\r\ndata: [DONE]\r\n"
    assert decoded(stream)["choices"][0]["message"] == delta
