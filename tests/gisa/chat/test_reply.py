"""What replies say: calls in the notations of all families, thoughts, and what is neither."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.agent.tools import specs
from src.gisa.chat.format import in_plain_text
from src.gisa.chat.reply import begun_thought, read_reply

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


HARMONY = "<|channel|>analysis<|message|>"
TABLE = "```tsv\nCapital\nLima\n```"
QUERY = {"query": "Zoë's “7.5%”\nper </b> [year]"}
VISIT = {"url": ["https://a.org/x?y=1&z=%20", "https://b.org"], "goal": "2024"}
SAID = [("search", QUERY), ("visit", VISIT)]


def objects(key="arguments", **more):
    return [json.dumps({"name": name, key: arguments, **more}, ensure_ascii=False) for name, arguments in SAID]


def elements(function, parameter, close_function, close_parameter):
    """Both calls as elements, lists as JSON and texts as they are."""
    return "\n".join(
        function.format(name)
        + "".join(
            parameter.format(key) + (value if isinstance(value, str) else json.dumps(value)) + close_parameter
            for key, value in arguments.items()
        )
        + close_function
        for name, arguments in SAID
    )


def python(call="{}"):
    return ", ".join(
        f"{call.format(name)}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
        for name, arguments in SAID
    )


def gemma(quote):
    lists = ",".join(f"{quote}{url}{quote}" for url in VISIT["url"])
    return (
        f"call:search{{query:{quote}{QUERY['query']}{quote}}}",
        f"call:visit{{goal:{quote}2024{quote},url:[{lists}]}}",
    )


ELEMENTS = ("<function={}>\n", "<parameter={}>\n", "</function>", "\n</parameter>\n")
NOTATIONS = {
    "Qwen3.5": elements(f"<tool_call>\n{ELEMENTS[0]}", ELEMENTS[1], "</function>\n</tool_call>", ELEMENTS[3]),
    "Qwen3-Coder without tags": elements(*ELEMENTS),
    "MiniMax": "<minimax:tool_call>\n"
    + elements('<invoke name="{}">\n', '<parameter name="{}">', "</invoke>", "</parameter>\n"),
    "DeepSeek V3.2": elements(
        '<｜DSML｜invoke name="{}">\n', '<｜DSML｜parameter name="{}" string="true">', "</｜DSML｜invoke>",
        "</｜DSML｜parameter>\n",
    ),
    **{
        f"DeepSeek V4, leaked as {space}": f"<{space}tool_calls>\n"
        + elements(
            f'<{space}invoke name="{{}}">\n', f'<{space}parameter name="{{}}" string="true">', f"</{space}invoke>",
            f"</{space}parameter>\n",
        )
        for space in ("｜DSML｜", "|DSML|", " | DSML | ", "‖DSML‖", "｜｜DSML｜｜")
    },
    "MiniMax M3": "]<]minimax[>[<tool_call>\n" + "\n".join(
        f']<]minimax[>[<invoke name="{name}">' + "".join(
            f"]<]minimax[>[<{key}>{value if isinstance(value, str) else json.dumps(value)}]<]minimax[>[</{key}>"
            for key, value in arguments.items()
        ) + "]<]minimax[>[</invoke>"
        for name, arguments in SAID
    ) + "\n]<]minimax[>[</tool_call>",
    "Llama 4": f"<|python_start|>[{python()}]<|python_end|>",
    "GLM 4.5": elements("<tool_call>{}\n", "<arg_key>{}</arg_key>\n<arg_value>", "</tool_call>", "</arg_value>\n"),
    "GLM 4.7": elements("<tool_call>{}", "<arg_key>{}</arg_key><arg_value>", "</tool_call>", "</arg_value>"),
    "Llama's python tag": "<|python_tag|>" + "; ".join(objects("parameters")) + "<|eom_id|>",
    "Llama's python tag, typed": "<|python_tag|>" + "; ".join(
        json.dumps({"type": "function", "name": name, "parameters": arguments}) for name, arguments in SAID
    ),
    "Llama's python tag, in Python": f"<|python_tag|>[{python('{}.call')}]",
    "Llama 3.1's own": "".join(f"<function={name}>{json.dumps(arguments)}</function>" for name, arguments in SAID),
    "Llama 3.2, in Python": f"[{python()}]",
    "Llama 3, bare": "\n".join(objects("parameters")),
    "Mistral": "[TOOL_CALLS] [" + ", ".join(objects(id="abcdef123")) + "]",
    "Mistral, of now": "".join(f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments)}" for name, arguments in SAID),
    "Mistral, with ids": "".join(
        f"[TOOL_CALLS]{name}[CALL_ID]abcdef123[ARGS]{json.dumps(arguments)}" for name, arguments in SAID
    ),
    "LFM2": f"<|tool_call_start|>[{python()}]<|tool_call_end|>and so on",
    "LFM2, JSON": f"<|tool_call_start|>[{', '.join(objects())}]<|tool_call_end|>",
    "Phi-4-mini": "".join(f"<|tool_call|>{one}<|/tool_call|>" for one in objects()),
    "Phi-4-mini, list": f"functools[{', '.join(objects())}]",
    "Granite": f"<|tool_call|>[{', '.join(objects())}]",
    "Gemma 3": f"```tool_code\n{python().replace(', visit', chr(10) + 'visit')}\n```",
    "Gemma 3, printed": f"```tool_code\nprint({python().replace(', visit', ')' + chr(10) + 'print(visit')})\n```",
    "FunctionGemma": "".join(f"<start_function_call>{one}<end_function_call>" for one in gemma("<escape>")),
    "Gemma 4": "".join(f"<|tool_call>{one}<tool_call|>" for one in gemma('<|"|>')),
    "DeepSeek R1": "<｜tool▁calls▁begin｜>" + "\n".join(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{json.dumps(arguments)}\n```<｜tool▁call▁end｜>"
        for name, arguments in SAID
    ) + "<｜tool▁calls▁end｜>",
    "DeepSeek V3.1": "<｜tool▁calls▁begin｜>" + "".join(
        f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{json.dumps(arguments)}<｜tool▁call▁end｜>"
        for name, arguments in SAID
    ),
    "Kimi": "<|tool_calls_section_begin|>" + "".join(
        f"<|tool_call_begin|>functions.{name}:{at}<|tool_call_argument_begin|>{json.dumps(arguments)}<|tool_call_end|>"
        for at, (name, arguments) in enumerate(SAID)
    ),
    "Command": "<|START_ACTION|>[\n" + ",\n".join(
        json.dumps({"tool_call_id": "0", "tool_name": name, "parameters": arguments}) for name, arguments in SAID
    ) + "]<|END_ACTION|>",
    "gpt-oss": "".join(
        f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{json.dumps(arguments)}"
        for name, arguments in SAID
    ),
    "DeepSeek V3.1, leaked in ASCII": "<|tool▁calls▁begin|>" + "".join(
        f"<|tool▁call▁begin|>{name}<|tool▁sep|>{json.dumps(arguments)}<|tool▁call▁end|>" for name, arguments in SAID
    ) + "<|tool▁calls▁end|>",
    "Nemotron": f"<TOOLCALL>[{', '.join(objects())}]</TOOLCALL>",
    "Apriel": f"<tool_calls>[{', '.join(objects(id='0'))}]</tool_calls>",
    "Jamba, arguments first": "<tool_calls>[\n" + ",\n".join(
        json.dumps({"arguments": arguments, "name": name}) for name, arguments in SAID
    ) + "\n]</tool_calls>",
    "OLMo 3": f"<function_calls>{python().replace(', visit', chr(10) + 'visit')}</function_calls>",
    "Hunyuan": "<tool_calls>\n" + "\n".join(
        f"<tool_call>{name}\n```json\n{json.dumps(arguments)}\n```\n</tool_call>" for name, arguments in SAID
    ) + "\n</tool_calls>",
    "a code block in tags": "".join(f"<tool_call>\n```json\n{one}\n```\n</tool_call>" for one in objects()),
    "several in one pair of tags": "<tool_call>\n" + "\n".join(objects()) + "\n</tool_call>",
    "Python between tags": f"<tool_call>[{python()}]</tool_call>",
}  # fmt: skip


@pytest.mark.parametrize("notation", NOTATIONS)
def test_calls_are_read_in_the_notation_of_every_family(notation):
    """By the tools' schemas, and without them: then only what looks like a list or an object is one."""
    for tools in (specs(), ()):
        message = read_reply(f"Let me look.\n{NOTATIONS[notation]}\n", NAMES, tools=tools)
        read = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message["tool_calls"]]
        assert read == SAID
        assert message["content"] == "Let me look."


@pytest.mark.parametrize(
    "text",
    [
        'functions.search:0{"query": "Zoë"}',  # Kimi
        'search[ARGS]{"query": "Zoë"}',  # Mistral
        'search{"query": "Zoë"}',
        'tool_code\nprint(default_api.search(query="Zoë"))',  # Gemini
        'Action: ```json\n[\n  {\n    "tool_name": "search",\n    "parameters": {"query": "Zoë"}\n  }\n]\n```',
    ],
)
def test_a_call_whose_marks_a_server_has_left_out_is_found(text):
    ((name, arguments),) = functions(text)
    assert name.rpartition(".")[2] == "search"
    assert json.loads(arguments) == {"query": "Zoë"}


def test_glm_4_writes_a_name_and_an_object():
    assert functions('I look.\nsearch\n{"query": "Zoë"}') == [("search", '{"query": "Zoë"}')]
    assert functions('{"Lima": 1}\nsearch\nthe web') == []


@pytest.mark.parametrize(
    "query", ["7", "[1]", "true", "null", '{"a": 1}', "", " two  spaces ", "a\n\nb", "</parameter>x"]
)
def test_what_is_a_text_by_its_schema_stays_one(query):
    for text in (
        f"<tool_call>\n<function=search>\n<parameter=query>\n{query}\n</parameter>\n</function>\n</tool_call>",
        f"<tool_call>search\n<arg_key>query</arg_key>\n<arg_value>{query}</arg_value>\n</tool_call>",
    ):
        (call,) = read_reply(text, NAMES, tools=specs())["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"query": query}


def test_arguments_by_place_have_the_names_of_the_schema():
    (call,) = read_reply('```tool_code\nvisit(["u"], "g")\n```', NAMES, tools=specs())["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"url": ["u"], "goal": "g"}


@pytest.mark.parametrize(
    "text",
    [
        "[TOOL_CALLS]search for Zoë",
        "<|python_tag|>search for Zoë",
        "<|tool_call_start|>search for Zoë<|tool_call_end|>",
        "<|tool_call>search for Zoë<tool_call|>",
        "```tool_code\nsearch for Zoë\n```",
    ],
)
def test_behind_a_mark_everything_is_a_call_however_faulty(text):
    ((name, arguments),) = functions(text)
    assert name is None
    assert arguments == "search for Zoë"


@pytest.mark.parametrize(
    ("text", "thinking", "thought", "said"),
    [
        ("<think>\nHm.\n</think>\n\nLima", False, "Hm.", "Lima"),
        ("<think>\n\n</think>\n\nLima", False, None, "Lima"),
        ("Hm.\n</think>\n\nLima", True, "Hm.", "Lima"),  # the prompt has begun the thought
        ("Hm.\n</think>\n\nLima", False, "Hm.", "Lima"),  # whoever has
        ("Hm. ```tsv\nA\n1\n```", True, "Hm. ```tsv\nA\n1\n```", ""),  # it never ends: nothing is said
        ("<think>Hm. Lima", False, "Hm. Lima", ""),
        ("<think>a</think>So:\n<think>b</think>Lima", False, "a\n\nb", "So:\nLima"),
        ("<think>a</think>Lima<think>b", False, "a\n\nb", "Lima"),
        ("[THINK]Hm.[/THINK]Lima", False, "Hm.", "Lima"),
        ("◁think▷Hm.◁/think▷Lima", False, "Hm.", "Lima"),
        ("<|channel>thought\nHm.\n<channel|>Lima", False, "Hm.", "Lima"),
        ("<|START_THINKING|>Hm.<|END_THINKING|>Lima", False, "Hm.", "Lima"),
        (f"{HARMONY}Hm.<|end|><|start|>assistant<|channel|>final<|message|>Lima", False, "Hm.", "Lima"),
        (f"{HARMONY}Hm.assistant<|channel|>final<|message|>Lima", False, "Hm.", "Lima"),
        ("<|START_RESPONSE|>Lima<|END_RESPONSE|>", False, None, "Lima"),  # Command
        ("Lima<|end|>", False, None, "Lima<|end|>"),  # of a server that leaves Phi's end in
        (TABLE, False, None, TABLE),
    ],
)  # fmt: skip
def test_no_thought_is_part_of_what_is_said(text, thinking, thought, said):
    message = read_reply(text, NAMES, thinking=thinking)
    assert (message.get("reasoning_content"), message["content"]) == (thought, said)
    assert "tool_calls" not in message


@pytest.mark.parametrize("begin", ["", "<think>"])
def test_a_call_ends_a_thought_that_nothing_else_ends(begin):
    message = read_reply(f"{begin}I look.\n<tool_call>{CALL}</tool_call>", NAMES, thinking=not begin)
    assert (message["reasoning_content"], message["content"]) == ("I look.", "")
    assert message["tool_calls"][0]["function"]["name"] == "search"


def test_a_mark_of_thoughts_within_a_call_is_none():
    ((_, arguments),) = functions('<tool_call>{"name": "search", "arguments": {"query": "<think> tag"}}</tool_call>')
    assert json.loads(arguments) == {"query": "<think> tag"}


@pytest.mark.parametrize(
    ("prompt", "begun"),
    [
        ("assistant\n<think>\n", ("<think>\n", "</think>")),
        ("assistant\n<think>\n\n</think>\n\n", ("<think>\n\n</think>\n\n", "")),
        ("model\n<|channel>thought\n<channel|>", ("<|channel>thought\n<channel|>", "")),
        ("What is <think> for?\nassistant\n", None),
    ],
)
def test_a_thought_that_a_prompt_begins_is_seen(prompt, begun):
    assert begun_thought(prompt) == begun


MARKS = [
    *NOTATIONS.values(),
    "<think>",
    "</think>",
    "[TOOL_CALLS]",
    "<tool_call>",
    "<function=search>",
    "search(",
    "{",
    '"',
]


@given(st.lists(st.sampled_from(MARKS) | st.text(max_size=5), max_size=6), st.integers(0, 99), st.booleans())
def test_no_mixture_of_notations_makes_the_reading_fail(parts, cut, thinking):
    text = "".join(parts)
    message = read_reply(text[: len(text) - cut], NAMES, tools=specs(), thinking=thinking)
    assert isinstance(message["content"], str)
    for call in message.get("tool_calls", []):
        assert isinstance(call["function"]["arguments"], str)
