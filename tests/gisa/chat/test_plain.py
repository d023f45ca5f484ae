"""Conversations with tools as plain text."""

import re

from src.gisa.agent.tools import specs
from src.gisa.chat.plain import in_plain_text, with_parsed_arguments


def test_plain_text_describes_tools_and_lets_speakers_take_turns():
    call = {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"query": "x"}'}}
    plain = in_plain_text(
        [
            {"role": "system", "content": "Be good."},
            {"role": "user", "content": "Where?"},
            {"role": "assistant", "content": "Hm.", "tool_calls": [call, call]},
            {"role": "tool", "tool_call_id": "1", "content": "a"},
            {"role": "tool", "tool_call_id": "2", "content": "b"},
            {"role": "user", "content": "Answer now."},
        ],
        specs(),
    )
    assert [one["role"] for one in plain] == ["system", "user", "assistant", "user"]
    assert plain[0]["content"].startswith("Be good.\n\nYou have these tools:")
    assert (
        "\nvisit(url: list of string, goal: string)\n  Read web pages and bring back what serves a goal.\n"
        "  url: Addresses of the pages.\n  goal: What to look for on them.\n"
    ) in plain[0]["content"]
    one_call = '<tool_call>\n{"name": "search", "arguments": {"query": "x"}}\n</tool_call>'
    assert plain[2]["content"] == f"Hm.\n{one_call}\n{one_call}"
    assert plain[3]["content"] == "a\n\nb\n\nAnswer now."


def test_tools_find_a_place_without_a_system_message():
    plain = in_plain_text([{"role": "user", "content": "?"}], [{"function": {"name": "search"}}])
    assert [one["role"] for one in plain] == ["system", "user"]
    assert "\n\nsearch()\n\n" in plain[0]["content"]  # nothing is known but its name


def test_arguments_become_objects_for_templates_and_the_rest_stays():
    call = {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"query": "x"}'}}
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    first, second = with_parsed_arguments(messages)
    assert first == messages[0]
    assert second["tool_calls"][0]["function"]["arguments"] == {"query": "x"}
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == '{"query": "x"}'


def test_without_a_system_message_its_text_begins_the_first_question():
    said = [{"role": "system", "content": "Be good."}, {"role": "user", "content": "Where?"}]
    (only,) = in_plain_text(said, specs()[:1], system=False)
    assert only["role"] == "user"
    assert re.match(
        r"(?s)Be good\.\n\nYou have these tools:\n\nsearch\(query.*</tool_call>\n\nWhere\?\Z", only["content"]
    )
    assert in_plain_text(said[1:], (), system=False) == said[1:]


def test_arguments_that_are_no_object_are_kept_as_text_in_one():
    function = {"name": "search", "arguments": "[1]"}
    (said,) = with_parsed_arguments([{"role": "assistant", "content": "", "tool_calls": [{"function": function}]}])
    assert said["tool_calls"][0]["function"]["arguments"] == {"unreadable": '"[1]"'}
