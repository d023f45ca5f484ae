import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.agent.tools import specs
from src.gisa.chat.tool_calls import in_plain_text, read_reply, with_parsed_arguments

NAMES = ["search", "visit"]
CALL = '{"name": "search", "arguments": {"query": "Zoë"}}'
WORDS = st.text(st.characters(exclude_characters="<"))  # tags within a call cannot be told from its own
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


def functions(text, names=NAMES):
    """Return names and arguments of the calls of a reply."""
    calls = read_reply(text, names).get("tool_calls", [])
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


@pytest.mark.parametrize(
    "text",
    [
        f"<tool_call>\n{CALL}\n</tool_call>",
        f"<tool_call>{CALL}",
        f"Let me look.\n<tool_call>[{CALL}]</tool_call>\n<tool_response>made up</tool_response>",
        CALL,
        f"[{CALL}]",
        f"Let me look.\n\n{CALL}",
        f"```json\n{CALL}\n```",
        CALL.replace("arguments", "parameters"),
        f'<tool_call>{{"type": "function", "function": {CALL}}}</tool_call>',
        CALL.replace('{"query": "Zoë"}', json.dumps('{"query": "Zoë"}')),  # arguments as JSON text
    ],
)
def test_a_call_is_found_in_every_form_that_models_write(text):
    ((name, arguments),) = functions(text)
    assert (name, json.loads(arguments)) == ("search", {"query": "Zoë"})
    assert read_reply(text, NAMES)["content"] in ("", "Let me look.")  # what follows a call is made up


@pytest.mark.parametrize("between", ["\n", ", ", "\n</tool_call>\n<tool_call>\n", "<tool_call>"])
def test_several_calls_are_all_found(between):
    other = '{"name": "visit", "arguments": {"url": ["u"], "goal": "g"}}'
    opening = "<tool_call>" if "<tool_call>" in between else ""
    assert [name for name, _ in functions(f"{opening}{CALL}{between}{other}")] == ["search", "visit"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('<tool_call>{"name": "search", "arguments": {"query": "x"</tool_call>', "search"),
        ('{"name": "search", "arguments": {"query": "x"', "search"),
        ("<tool_call>search for x</tool_call>", None),
    ],
)
def test_a_faulty_call_is_kept_with_its_text_so_that_the_model_can_be_told(text, name):
    ((found, arguments),) = functions(text)
    assert found == name
    assert arguments in text


@pytest.mark.parametrize(
    "text",
    [
        "```tsv\nCapital\nLima\n```",
        '{"name": "Lima", "population": 1}',
        'The page says {"name": "other", "arguments": {}}.',
        "",
    ],
)
def test_an_answer_is_no_call(text):
    assert read_reply(text, NAMES) == {"role": "assistant", "content": text}


def test_without_tools_nothing_is_a_call():
    assert functions(f"<tool_call>{CALL}</tool_call>", []) == functions(CALL, []) == []


def test_reasoning_is_kept_apart_and_calls_in_it_are_none():
    message = read_reply(f"<think>\nMaybe {CALL}?\n</think>\n\nLima", NAMES)
    assert message == {"role": "assistant", "content": "Lima", "reasoning_content": f"Maybe {CALL}?"}


@given(st.sampled_from(NAMES), st.dictionaries(WORDS, JSON, max_size=4), st.booleans())
def test_what_is_written_is_read_back(name, arguments, tagged):
    call = {"id": "1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    (written,) = in_plain_text([{"role": "assistant", "content": "", "tool_calls": [call]}], [])
    text = written["content"]
    if not tagged:
        text = text.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
    ((found, read),) = functions(text)
    assert (found, json.loads(read)) == (name, arguments)


@given(st.text(st.sampled_from('{}[]"`:,\\ \nae<>/_') | st.characters(), max_size=60), st.booleans())
def test_no_text_makes_the_reading_fail(text, begins_like_a_call):
    text = f'{{"name": "search", {text}' if begins_like_a_call else text
    for one in (text, f"<tool_call>{text}", f"{text}</think>{CALL}"):
        message = read_reply(one, NAMES)
        assert isinstance(message["content"], str)
        assert all(isinstance(call["function"]["arguments"], str) for call in message.get("tool_calls", []))


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
