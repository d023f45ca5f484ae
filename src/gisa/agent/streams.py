"""Chat completions that come in pieces, as some models are served in no other way."""

from __future__ import annotations

import json
import re
from typing import Any


def decoded(text: str) -> Any:
    """Decode the body of a reply: JSON, or the events of a stream put together.

    Raises:
        ValueError: it is neither, or the stream breaks off.
    """
    lines = re.split(r"[\r\n]+", text)  # not splitlines(), as a text may hold other separators
    events = [line.strip().removeprefix("data:").strip() for line in lines if line.startswith("data:")]
    if not events or text.lstrip().startswith(("{", "[")):
        return json.loads(text)
    try:
        return _joined([json.loads(event) for event in events if event != "[DONE]"], is_done="[DONE]" in events)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"no stream of a chat completion: {error}") from error


def _joined(chunks: list[Any], *, is_done: bool) -> dict[str, Any]:
    """Put the chunks of a stream together."""
    whole: dict[str, Any] = {}
    choice: dict[str, Any] = {"message": {}, "finish_reason": None}
    for chunk in chunks:
        for piece in (chunk.pop("choices", None) or [])[:1]:
            _add(choice["message"], piece.get("delta") or piece.get("message") or {})
            choice |= {name: value for name, value in piece.items() if name not in ("delta", "message") and value}
        whole |= {name: value for name, value in chunk.items() if value is not None}
    if not (choice["finish_reason"] or is_done or "error" in whole):
        raise ValueError("the stream ends before the reply does")
    for call in choice["message"].get("tool_calls") or []:
        call.pop("index", None)
    return {**whole, "choices": [choice]}


def _begins_another(piece: dict[str, Any], call: dict[str, Any]) -> bool:
    """Whether a piece is of another call than the one of its index: Gemini gives all calls of a reply the same."""
    named = (piece.get("function") or {}).get("name")
    return bool(named and piece.get("id")) and piece["id"] != call.get("id")


def _add(message: dict[str, Any], delta: dict[str, Any]) -> None:
    """Append the pieces of a message: texts and lists grow, calls by their index."""
    for name, value in delta.items():
        known = message.get(name)
        if name == "tool_calls":
            calls = message.setdefault("tool_calls", [])
            for position, piece in enumerate(value or []):
                index = piece.get("index", position)
                of_index = (call for call in reversed(calls) if call.get("index", calls.index(call)) == index)
                call = next(of_index, None)
                if call is None or _begins_another(piece, call):
                    calls.append({**piece, "index": index, "function": dict(piece.get("function") or {})})
                else:
                    function = piece.get("function") or {}
                    call["function"]["arguments"] = (call["function"].get("arguments") or "") + (
                        function.get("arguments") or ""
                    )
        elif isinstance(known, str) and isinstance(value, str) and name != "role":
            message[name] = known + value
        elif isinstance(known, list) and isinstance(value, list):
            message[name] = [*known, *value]
        elif value is not None or name not in message:
            message[name] = value
