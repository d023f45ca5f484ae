"""Tool calls as text: reading them from what a model writes, and writing them for a model whose template knows none."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

Message = dict[str, Any]  # in the form of the chat completions API

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)
_NAMED = re.compile(r'"name"\s*:\s*"([^"\\]*)"')
_FENCE = re.compile(r"```\w*\Z")  # of a code block that calls stand in

_HOW_TO_CALL = """\
You have these tools:

{tools}

To call one, end your reply with its name and arguments as JSON between tags, and wait for the result:
<tool_call>
{{"name": "...", "arguments": {{...}}}}
</tool_call>"""


def read_reply(text: str, names: Collection[str]) -> Message:
    """Turn what a model wrote into an assistant's message, with its reasoning and its calls apart from the rest.

    Calls stand between ``<tool_call>`` and ``</tool_call>``, or bare: alone, in a list or in a code block, as JSON with
    a tool's ``name`` and ``arguments`` (or ``parameters``). What follows a call is dropped: the model has not seen the
    result yet. A call that is no JSON is kept as it is, so that the model can be told.

    Args:
        text: The reply, without the control tokens of the model.
        names: Tools that may be called without tags; none where no call is wanted.
    """
    thought, found, said = text.rpartition("</think>")
    reasoning = {"reasoning_content": thought.replace("<think>", "", 1).strip()} if found else {}
    if names and "<tool_call>" in said:
        calls = [call for part in _TAGGED.findall(said) for call in _calls(part.strip())]
        said = said.partition("<tool_call>")[0]
    else:
        start = _first_bare_call(said, names)
        calls = [] if start is None else _bare_calls(said[start:], names)
        said = said if start is None else _FENCE.sub("", said[:start].rstrip(" \t\r\n["))
    return {"role": "assistant", "content": said.strip(), **reasoning, **({"tool_calls": calls} if calls else {})}


def in_plain_text(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Rewrite a conversation for a template that knows neither tools nor their results.

    The tools are described in the system message, calls are put between tags, results come from the user, and messages
    of one speaker that follow each other become one, as many templates want speakers to take turns.

    Args:
        messages: In the form of the chat completions API.
        tools: In the same form; empty for none.
    """
    plain = [{"role": "user" if one["role"] == "tool" else one["role"], "content": _written(one)} for one in messages]
    if tools:
        described = _HOW_TO_CALL.format(tools="\n".join(_signature(tool["function"]) for tool in tools))
        if plain[0]["role"] != "system":
            plain.insert(0, {"role": "system", "content": described})
        else:
            plain[0]["content"] += f"\n\n{described}"
    turns = [(role, list(turn)) for role, turn in groupby(plain, key=lambda one: one["role"])]
    return [{"role": role, "content": "\n\n".join(one["content"] for one in turn)} for role, turn in turns]


def with_parsed_arguments(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation with the arguments of calls as objects, which templates want, and not as JSON text."""
    return [
        {**one, "tool_calls": [{**call, "function": _as_object(call["function"])} for call in one["tool_calls"]]}
        if one.get("tool_calls")
        else one
        for one in messages
    ]


def _signature(tool: Mapping[str, Any]) -> str:
    """Describe a tool in less than half of the tokens of its JSON schema, as they are read in every conversation."""
    arguments = tool.get("parameters", {}).get("properties", {})
    typed = ", ".join(f"{name}: {_type_of(schema)}" for name, schema in arguments.items())
    meanings = [f"{name}: {schema['description']}" for name, schema in arguments.items() if schema.get("description")]
    return "\n  ".join([f"{tool['name']}({typed})", *filter(None, [tool.get("description")]), *meanings])


def _type_of(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "any")
    return f"list of {_type_of(schema['items'])}" if kind == "array" and "items" in schema else str(kind)


def _written(message: Message) -> str:
    content = str(message.get("content") or "")
    calls = [_as_object(call["function"]) for call in message.get("tool_calls") or []]
    blocks = [f"<tool_call>\n{json.dumps(_name_first(call), ensure_ascii=False)}\n</tool_call>" for call in calls]
    return "\n".join(filter(None, [content, *blocks]))


def _name_first(function: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": function["name"], "arguments": function["arguments"]}


def _as_object(function: Mapping[str, Any]) -> dict[str, Any]:
    return {**function, "arguments": json.loads(function["arguments"])}


def _calls(written: str) -> list[Message]:
    """Read what stands between tags: a call, a list of calls, or what was meant to be one."""
    try:
        read = json.loads(written)
    except (ValueError, RecursionError):
        named = _NAMED.search(written)
        return [_call(named[1] if named else None, written)]
    return [_call_of(one) for one in (read if isinstance(read, list) else [read])]


def _first_bare_call(text: str, names: Collection[str]) -> int | None:
    """Return where the first object begins that names a tool first."""
    known = "|".join(map(re.escape, names))
    found = re.search(rf'\{{\s*"name"\s*:\s*"(?:{known})"\s*,', text) if names else None
    return found.start() if found else None


def _bare_calls(text: str, names: Collection[str]) -> list[Message]:
    """Read the objects that a text begins with, as long as they name tools; a faulty one is the last."""
    calls: list[Message] = []
    while _first_bare_call(text, names) == 0:
        try:
            read, end = json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError):
            return [*calls, *_calls(text)]
        calls.append(_call_of(read))
        text = text[end:].lstrip(" \t\r\n,;")
    return calls


def _call_of(read: Any) -> Message:
    """Bring a decoded call into the form of the chat completions API."""
    function = read.get("function", read) if isinstance(read, dict) else {}
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments", function.get("parameters"))
    return _call(function.get("name"), arguments if isinstance(arguments, str) else json.dumps(arguments))


def _call(name: Any, arguments: str) -> Message:
    return {"id": "", "type": "function", "function": {"name": name, "arguments": arguments}}
