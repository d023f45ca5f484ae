"""What an endpoint has taught by its refusals: the changes that its requests need, learned once and kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from src.gisa.agent.complaints import Complaint
from src.gisa.agent.dialects import CHANGES, UNKNOWN_FIELD
from src.gisa.chat.format import Message, in_plain_text

Body = dict[str, Any]
_PLAIN_FIELDS = {"role", "content", "tool_calls", "tool_call_id", "name", "id", "type", "function", "arguments"}
LIMIT_FIELDS = ("max_tokens", "max_completion_tokens")
FORM_STATUS = (400, 404, 405, 413, 415, 422, 500, 501)  # of refusals that may be for the form of a request
_SIGNATURE = "skip_thought_signature_validator"  # as Gemini's documentation says for calls of other origin


class Adaptation:
    """The changes that one endpoint's requests need.

    Attributes:
        learned: Names of the changes, in the order in which they were learned.
    """

    def __init__(self) -> None:
        self.learned: list[str] = []
        self._fields: set[str] = set()
        self._most_output: int | None = None

    def adapted(self, body: Body, plainness: int = 0) -> Body:
        """Return a request with all that was learned, and in plainer forms for refusals that say nothing helpful.

        The first leaves out what is optional, the second also writes tools, calls and results as text.
        """
        for name, change in _APPLIED.items():
            if name in self.learned or name in PLAINER[:plainness]:
                body = change(body)
        if self._fields:
            body = _without_fields(body, self._fields)
        return with_most_output(body, self._most_output) if self._most_output else body

    def learn(self, complaint: Complaint, sent: Body) -> str | None:
        """Find what helps against a refusal of a request, and keep it; return its name, None if nothing helps."""
        if complaint.status not in FORM_STATUS:
            return None
        most = complaint.most_output(most_output_of(sent) or 0)
        if most:
            return self.limit_output(most)
        named = [name for name in _fields_of(sent) if re.search(rf"(?<![a-z_]){re.escape(name)}\b", complaint.text)]
        if named and re.search(UNKNOWN_FIELD, complaint.text):
            return self._drop(named)
        for change in CHANGES:
            helps = change.means not in self.learned and re.search(change.pattern, complaint.text)
            if helps and _APPLIED[change.means](sent) != sent:
                return self._keep(change.means)
        return self._drop(named) if named else None

    def keep_plain(self, plainness: int) -> None:
        """Stay with a plainer form from now on, as it was taken."""
        self.learned += [name for name in PLAINER[:plainness] if name not in self.learned]

    def limit_output(self, most: int) -> str:
        """Ask for at most so many tokens from now on."""
        self._most_output = most
        return self._keep(f"at most {most} tokens of output")

    def _drop(self, fields: list[str]) -> str:
        self._fields.update(fields)
        return self._keep(f"no {', '.join(fields)}")

    def _keep(self, name: str) -> str:
        self.learned.append(name)
        return name


def most_output_of(body: Body) -> int | None:
    """Return how many tokens a request asks for at most."""
    most: int | None = body.get("max_tokens", body.get("max_completion_tokens"))
    return most


def with_most_output(body: Body, most: int) -> Body:
    """Return a request that asks for at most so many tokens."""
    limited = {name: min(body[name], most) for name in LIMIT_FIELDS if name in body}
    return body | limited


def _without(*names: str) -> Callable[[Body], Body]:
    return lambda body: {name: value for name, value in body.items() if name not in names}


def _renamed(old: str, new: str) -> Callable[[Body], Body]:
    return lambda body: {new if name == old else name: value for name, value in body.items()}


def _with_messages(change: Callable[[Message], Message]) -> Callable[[Body], Body]:
    return lambda body: {**body, "messages": [change(dict(message)) for message in body["messages"]]}


def _open_schemas(body: Body) -> Body:
    """Leave out what says that no other argument is allowed."""

    def opened(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {key: opened(part) for key, part in node.items() if key not in ("additionalProperties", "strict")}
        return [opened(part) for part in node] if isinstance(node, list | tuple) else node

    return {**body, "tools": opened(body["tools"])} if "tools" in body else body


def _system_as_user(body: Body) -> Body:
    first, *rest = body["messages"]
    if first["role"] != "system":
        return body
    if rest and rest[0]["role"] == "user":
        rest[0] = {**rest[0], "content": f"{first['content']}\n\n{rest[0]['content']}"}
        return {**body, "messages": rest}
    return {**body, "messages": [{**first, "role": "user"}, *rest]}


def _user_within_tool(body: Body) -> Body:
    """Append what the user says to what came right before, of a tool or the user."""
    messages: list[Message] = []
    for message in body["messages"]:
        if message["role"] == "user" and messages and messages[-1]["role"] in ("tool", "user"):
            messages[-1] = {**messages[-1], "content": f"{messages[-1]['content']}\n\n{message['content']}"}
        else:
            messages.append(message)
    return {**body, "messages": messages}


def _with_reasoning(message: Message) -> Message:
    # A space, as one of them takes an empty text for a missing one.
    return {"reasoning_content": " ", **message} if message["role"] == "assistant" else message


def _with_signature(message: Message) -> Message:
    calls = message.get("tool_calls") or []
    if not calls or "thought_signature" in str(calls):
        return message
    extra = {"extra_content": {"google": {"thought_signature": _SIGNATURE}}}
    return {**message, "tool_calls": [{**calls[0], **extra}, *calls[1:]]}


def _with_short_ids(message: Message) -> Message:
    calls = [{**call, "id": _short(call["id"])} for call in message.get("tool_calls") or []]
    named = {"tool_call_id": _short(message["tool_call_id"])} if "tool_call_id" in message else {}
    return {**message, **named, **({"tool_calls": calls} if calls else {})}


def _short(name: str) -> str:
    return name if re.fullmatch(r"[a-zA-Z0-9]{9}", name) else hashlib.sha256(name.encode()).hexdigest()[:9]


def _with_names(body: Body) -> Body:
    names: dict[str, str] = {}
    messages = []
    for message in body["messages"]:
        names |= {call["id"]: call["function"]["name"] for call in message.get("tool_calls") or []}
        named = {"name": names.get(message["tool_call_id"], "unknown")} if message["role"] == "tool" else {}
        messages.append({**message, **named})
    return {**body, "messages": messages}


def _text_for_null(message: Message) -> Message:
    return {**message, "content": ""} if message.get("content") is None else message


def _null_for_text(message: Message) -> Message:
    return {**message, "content": None} if message["content"] == "" else message


def _stand_in(message: Message) -> Message:
    return message if message.get("content") else {**message, "content": "."}


def _tools_as_text(body: Body) -> Body:
    if "tools" not in body:
        return body
    plain = {**body, "messages": in_plain_text(body["messages"], body["tools"])}
    return _without("tools", "tool_choice", "parallel_tool_calls")(plain)


def _only_needed(body: Body) -> Body:
    unknown = set(_fields_of(body))
    return _open_schemas(_without_fields(_without("temperature", "parallel_tool_calls", "tool_choice")(body), unknown))


PLAINER = ("nothing optional", "tools as text and no system message")
# By their names in the table; in the order in which several are applied.
_APPLIED: dict[str, Callable[[Body], Body]] = {
    "max_completion_tokens instead of max_tokens": _renamed("max_tokens", "max_completion_tokens"),
    "max_tokens instead of max_completion_tokens": _renamed("max_completion_tokens", "max_tokens"),
    "no limit of output tokens": _without(*LIMIT_FIELDS),
    "nothing optional": _only_needed,
    "no temperature": _without("temperature"),
    "no parallel_tool_calls": _without("parallel_tool_calls"),
    "no tool_choice": _without("tool_choice"),
    "no additionalProperties": _open_schemas,
    "streamed": lambda body: {**body, "stream": True, "stream_options": {"include_usage": True}},
    "tools as text": _tools_as_text,
    "the system message as the user's": _system_as_user,
    "tools as text and no system message": lambda body: _user_within_tool(_system_as_user(_tools_as_text(body))),
    "the user's words with the tool's": _user_within_tool,
    "an empty reasoning_content where there is none": _with_messages(_with_reasoning),
    "a stand-in where a thought signature is missing": _with_messages(_with_signature),
    "ids of calls in nine letters and digits": _with_messages(_with_short_ids),
    "names of tools with their results": _with_names,
    "empty text instead of null": _with_messages(_text_for_null),
    "null instead of empty text": _with_messages(_null_for_text),
    "a stand-in for empty content": _with_messages(_stand_in),
}


def _fields_of(body: Body) -> list[str]:
    """Return the fields of messages and calls that are not in everybody's form of them, as they came from a server."""
    seen: set[str] = set()
    for message in body["messages"]:
        nodes = [message, *(message.get("tool_calls") or [])]
        nodes += [node["function"] for node in nodes if isinstance(node.get("function"), dict)]
        seen |= {name for node in nodes for name in node if name not in _PLAIN_FIELDS}
    return sorted(seen)


def _without_fields(body: Body, names: set[str]) -> Body:
    def reduced(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {key: reduced(part) for key, part in node.items() if key not in names or key in _PLAIN_FIELDS}
        return [reduced(part) for part in node] if isinstance(node, list) else node

    return {**body, "messages": reduced(body["messages"])}
