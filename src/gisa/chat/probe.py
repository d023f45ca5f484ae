"""A conversation with all that happens to an agent, which shows what a chat template makes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from src.gisa.chat.reply import Message


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


_TEXT = {"type": "string", "description": "probe-text"}
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
PROBED = re.compile(r"probe-\w+")
"""Words of it that have to be found again."""
