"""How a conversation is written for a chat model, which of its tokens the assistant wrote, and its calls as text."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from src.launch.errors import InputError

Message = dict[str, Any]  # in the form of the chat completions API

_PROBE = [{"role": "user", "content": "?"}]
_PROBE_TOOL = {"type": "function", "function": {"name": "probe", "description": "", "parameters": {"type": "object"}}}
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


@dataclass(frozen=True)
class Marked:
    """A conversation in tokens.

    Attributes:
        text: What the tokens say, control tokens included.
        tokens: The ids.
        trained: Whether each token is the assistant's own: what it writes in its turns, up to and with the control
            token that ends a turn.
        actions: The text of each such turn, without that control token.
    """

    text: str
    tokens: list[int]
    trained: list[bool]
    actions: list[str]


class ChatFormat:
    """A tokenizer's chat template.

    A template with a place for tools is given them; for any other they are described in the system message, and calls
    and results are written as plain text.

    Args:
        tokenizer: As transformers loads it.
        ends: Ids of tokens that end a reply, beside the tokenizer's own.

    Attributes:
        knows_tools: Whether the template has a place for tools.
        ends: Ids of all tokens that end a reply.

    Raises:
        InputError: there is no chat template, or no token that ends a reply.
    """

    def __init__(self, tokenizer: Any, ends: Collection[int] = ()) -> None:
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise InputError(
                "The model's tokenizer has no chat template, so I cannot write a conversation for it.\n"
                "Use a model made for chats; their names mostly end in -Instruct, -Chat or -it."
            )
        self.ends = {*ends, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])}
        if not self.ends:
            raise InputError("The model has no token that ends a reply (eos_token); its replies would never end.")
        self.knows_tools = self._rendered(_PROBE, [_PROBE_TOOL], True) != self._rendered(_PROBE, [], True)
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")

    def text(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[Mapping[str, Any]], *, reply_follows: bool = True
    ) -> str:
        """Write a conversation in the form of the chat completions API, up to where a reply begins if one follows.

        Control tokens within the messages are broken by a space: pages must not be able to forge a speaker.
        """
        shown = with_parsed_arguments(messages) if self.knows_tools else in_plain_text(messages, tools)
        written = json.dumps(shown, ensure_ascii=False).encode("utf-8", "replace").decode()
        safe = json.loads(self._special.sub(lambda token: f"{token[0][0]} {token[0][1:]}", written))
        return self._rendered(safe, tools if self.knows_tools else (), reply_follows)

    def tokens_of(self, messages: Sequence[dict[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the tokens of ``text``, up to where the next reply begins."""
        return list(self.tokenizer(self.text(messages, tools), add_special_tokens=False).input_ids)

    def text_of(self, tokens: Sequence[int]) -> str:
        """Return what tokens say, without control tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def marked(self, messages: Sequence[dict[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[Marked]:
        """Return a finished conversation with the assistant's own tokens marked.

        Every turn of the assistant begins after exactly the tokens that it is given in a rollout. One sequence holds
        all turns, unless the template writes earlier turns in another way once they are past: then a new sequence
        begins, and none is marked twice.

        Raises:
            InputError: the template does not show a turn as the continuation of what comes before it, or does not end
                it; or the tokenizer joins the beginning of a turn with what comes before it.
        """
        texts: list[tuple[str, list[int]]] = []
        for at, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self.text(messages[:at], tools)
            after = self.text(messages[: at + 1], tools, reply_follows=False)
            if not after.startswith(before):
                raise InputError(
                    "The model's chat template writes a turn of the assistant in another place than where its reply "
                    "begins, so what it would learn is not what it is asked for. Use a model with another template."
                )
            if texts and before.startswith(texts[-1][0]):
                texts[-1] = after, [*texts[-1][1], len(before), len(after)]
            else:
                texts.append((after, [len(before), len(after)]))
        return [self._marked(text, list(zip(bounds[::2], bounds[1::2], strict=True))) for text, bounds in texts]

    def endings(self, lines: Sequence[tuple[str, str]]) -> Marked:
        """Return plain lines, each of two parts, the second marked as what the first tells.

        The end of a line is marked with a second part that holds it. A space joins the two, unless a line ends there.
        """
        text, marks = "", ""
        for shown, told in lines:
            start = shown if shown.endswith("\n") else f"{shown} "
            text += f"{start}{told}".rstrip("\n") + "\n"
            marks += "." * len(start) + "x" * len(told)
            marks = marks.ljust(len(text), ".")
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        trained = ["x" in marks[first:last] for first, last in encoded.offset_mapping]
        return Marked(text, list(encoded.input_ids), trained, [told for _, told in lines])

    def _marked(self, text: str, turns: Sequence[tuple[int, int]]) -> Marked:
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens, offsets = list(encoded.input_ids), encoded.offset_mapping
        trained = [False] * len(tokens)
        actions = []
        for begin, end in turns:
            inside = [at for at, (first, last) in enumerate(offsets) if begin <= first and last <= end]
            last = max((at for at in inside if tokens[at] in self.ends), default=None)
            if last is None:
                raise InputError(
                    "The model's chat template ends a turn of the assistant with none of the tokens that end a reply "
                    f"({self.tokenizer.convert_ids_to_tokens(sorted(self.ends))}), so the model would never learn to "
                    "stop. Use a model with another template, or set its eos_token."
                )
            own = inside[: inside.index(last) + 1]
            action = text[begin : offsets[last][0]]
            if self.tokenizer.decode([tokens[at] for at in own[:-1]]) != action:
                raise InputError(
                    f"The model's tokenizer joins a turn of the assistant, {action[:40]!r}, with what comes before it, "
                    "so that no tokens are just the turn. Use a model with another tokenizer or template."
                )
            actions.append(action)
            for at in own:
                trained[at] = True
        return Marked(text, tokens, trained, actions)

    def _rendered(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], reply_follows: bool
    ) -> str:
        written = self.tokenizer.apply_chat_template(
            list(messages), tools=list(tools) or None, add_generation_prompt=reply_follows, tokenize=False
        )
        return str(written)


def load_chat_format(name: str) -> ChatFormat:
    """Load the tokenizer of a model, a hub name or a folder written by ``save_pretrained``, without the model.

    Raises:
        InputError: there is no tokenizer by that name; or see ``ChatFormat``.
    """
    from transformers import AutoTokenizer  # seconds of imports that --help must not wait for

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # unknown names and torn files end in errors of a dozen types
        raise InputError(
            f"agent.policy.name={name!r}: no tokenizer could be loaded by that name:\n{error}\n"
            "Type a hub name or a folder written by save_pretrained:  agent.policy.name=path/to/folder"
        ) from error
    return ChatFormat(tokenizer)


def read_reply(text: str, names: Collection[str]) -> Message:
    """Turn what a model wrote into an assistant's message, with its reasoning and its calls apart from the rest.

    Calls stand between ``<tool_call>`` and ``</tool_call>``, or bare: alone, in a list or in a code block, as JSON with
    a tool's ``name`` and ``arguments`` (or ``parameters``). What follows a call is dropped: the model has not seen the
    result yet. A call that is no JSON is kept as it is, so that the model can be told. Without names of tools, none is
    wanted.
    """
    thought, marker, said = text.rpartition("</think>")
    reasoning = {"reasoning_content": thought.replace("<think>", "", 1).strip()} if marker else {}
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
    """
    roles = ["user" if message["role"] == "tool" else message["role"] for message in messages]
    plain = [{"role": role, "content": _written(said)} for role, said in zip(roles, messages, strict=True)]
    if tools:
        described = _HOW_TO_CALL.format(tools="\n".join(_signature(tool["function"]) for tool in tools))
        if plain[0]["role"] != "system":
            plain.insert(0, {"role": "system", "content": described})
        else:
            plain[0]["content"] += f"\n\n{described}"
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
    return [_call_of(call) for call in (read if isinstance(read, list) else [read])]


def _first_bare_call(text: str, names: Collection[str]) -> int | None:
    """Return where the first object begins that names a tool first."""
    known = "|".join(map(re.escape, names))
    begun = re.search(rf'\{{\s*"name"\s*:\s*"(?:{known})"\s*,', text) if names else None
    return begun.start() if begun else None


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
