"""Conversations with tools as plain text, for templates that know none, and one that probes what a template does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from src.gisa.chat.reply import Message

_HOW_TO_CALL = """\
You have these tools:

{tools}

To call one, end your reply with its name and arguments as JSON between tags, and wait for the result:
<tool_call>
{{"name": "...", "arguments": {{...}}}}
</tool_call>"""
_TEXT = {"type": "string", "description": "probe-text"}
PROBED = re.compile(r"probe-\w+")
"""Words of it that have to be found again."""


# Of a content that comes in parts: Mistral, Anthropic
_REASONING_PARTS = {"thinking", "redacted_thinking", "reasoning", "reasoning_content", "thought"}


def in_plain_text(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], *, system: bool = True
) -> list[Message]:
    """Rewrite a conversation for a template that knows neither tools nor their results.

    The tools are described in the system message, calls are put between tags, results come from the user, and messages
    of one speaker that follow each other become one, as many templates want speakers to take turns. Without a
    ``system`` message, its text begins the first question.
    """
    roles = ["user" if message["role"] == "tool" else message["role"] for message in messages]
    plain = [{"role": role, "content": _written(said)} for role, said in zip(roles, messages, strict=True)]
    if tools:
        described = _HOW_TO_CALL.format(tools="\n".join(_signature(tool["function"]) for tool in tools))
        if plain[0]["role"] != "system":
            plain.insert(0, {"role": "system", "content": described})
        else:
            plain[0]["content"] += f"\n\n{described}"
    if not system and plain[0]["role"] == "system":
        plain[0]["role"] = "user"
    turns = [(role, list(turn)) for role, turn in groupby(plain, key=lambda said: said["role"])]
    return [{"role": role, "content": "\n\n".join(said["content"] for said in turn)} for role, turn in turns]


def with_parsed_arguments(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation with the arguments of calls as objects, which templates want, and not as JSON text."""
    return [
        {**said, "tool_calls": [{**call, "function": _as_object(call["function"])} for call in said["tool_calls"]]}
        if said.get("tool_calls")
        else said
        for said in messages
    ]


def joined(message: Message) -> str:
    """Return a message's content as text; servers leave it out beside calls, or send it in parts."""
    content = message.get("content") or ""
    if isinstance(content, list | dict):
        listed = content if isinstance(content, list) else [content]
        parts = [part for part in listed if isinstance(part, dict) and part.get("type") not in _REASONING_PARTS]
        return "".join(str(part.get("text") or "") for part in parts)
    return str(content)


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
    content = joined(message)
    calls = [_as_object(call["function"]) for call in message.get("tool_calls") or []]
    blocks = [f"<tool_call>\n{json.dumps(_name_first(call), ensure_ascii=False)}\n</tool_call>" for call in calls]
    return "\n".join(filter(None, [content, *blocks]))


def _name_first(function: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": function["name"], "arguments": function["arguments"]}


def _as_object(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call with its arguments as an object, which templates go through by key: of others their JSON."""
    given = function["arguments"]
    arguments = json.loads(given) if isinstance(given, str) else given
    return {**function, "arguments": arguments if isinstance(arguments, Mapping) else {"unreadable": json.dumps(given)}}


def _probe_tool(name: str, **arguments: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": arguments, "required": [*arguments]}
    return {"type": "function", "function": {"name": name, "description": f"probe-{name}", "parameters": parameters}}


def _probe_call(number: int, name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": f"probe{number:04}", "type": "function", "function": function}


def _probe_result(number: int) -> Message:
    return {
        "role": "tool",
        "tool_call_id": f"probe{number:04}",
        "content": f"probe-result{number}\n\nprobe-line{number}",
    }


PROBE_TOOLS = (
    _probe_tool("search", query=_TEXT),
    _probe_tool("visit", url={"type": "array", "items": {"type": "string"}, "description": "probe-urls"}, goal=_TEXT),
)
_CALLS = (
    _probe_call(0, "search", query='probe-query "Zoë\'s" 7.5%'),
    _probe_call(1, "search", query="probe-other"),
    _probe_call(2, "visit", url=["https://probe-page.example/a?b=1&c=%20", "https://probe-two.example"], goal="2024"),
)
PROBE: tuple[tuple[str, list[Message]], ...] = (
    (
        "a system message",
        [{"role": "system", "content": "probe-system\n\nprobe-rules"}, {"role": "user", "content": "?"}],
    ),
    ("text before a call", [{"role": "assistant", "content": "probe-remark", "tool_calls": [*_CALLS[:1]]}]),
    ("a result", [_probe_result(0)]),
    ("several calls in a turn", [{"role": "assistant", "content": "", "tool_calls": [*_CALLS[1:]]}]),
    ("several results", [_probe_result(1), _probe_result(2)]),
    ("a message of the user behind a result", [{"role": "user", "content": "probe-order"}]),
    ("an answer", [{"role": "assistant", "content": "probe-note\n```tsv\nA\tB\n1\t2\n```"}]),
)
