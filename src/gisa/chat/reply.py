"""What a reply says: its thoughts, its calls in the notation that its family of models writes, and all the rest."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

Message = dict[str, Any]  # in the form of the chat completions API

THOUGHTS = (
    ("<think>", "</think>"),  # Qwen, DeepSeek, GLM, SmolLM3 and most others
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("[THINK]", "[/THINK]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command
    ("<|channel|>analysis<|message|>", "<|end|>"),  # gpt-oss
)
"""How thoughts begin and end."""

MARK = re.compile(r"think|tool|call|func|python_tag|args|action|escape|channel|message|constrain|\"", re.IGNORECASE)
"""Control tokens that hold one of these are part of calls and thoughts."""

_NAME = r"[\w.-]+"
_CLOSINGS = {begin: re.compile(re.escape(end)) for begin, end in THOUGHTS}
_CLOSINGS[THOUGHTS[-1][0]] = re.compile(r"(?:<\|end\|>)?(?:<\|start\|>)?(?:assistant)?(?=<\|channel\|>)|<\|end\|>")
_CLOSE = re.compile("|".join(re.escape(end) for _, end in THOUGHTS[:-1]))  # <|end|> ends other things, too
_THOUGHT = re.compile(rf"(?P<opens>{'|'.join(map(re.escape, _CLOSINGS))})|</(?:think|thinking|thought|seed:think)>")
_HEADING = re.compile(  # gpt-oss; Command
    r"(?:assistant)?<\|channel\|>\w+\s*(?:<\|constrain\|>\w+)?<\|message\|>|<\|(?:START|END)_RESPONSE\|>"
)

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)
_NAMED = re.compile(r'"name"\s*:\s*"([^"\\]*)"')
_FENCE = re.compile(r"```\w*\Z")  # of a code block that calls stand in
_FENCED = re.compile(r"\A```\w*\s*(.*?)\s*```\Z", re.DOTALL)
_SPACE = r"(?:[\s｜|‖]*DSML[\s｜|‖]*|\w+:)?"  # before the name of an element: DeepSeek's, in all that leaks; Step's
_ELEMENT = re.compile(rf"<{_SPACE}(?:function=|invoke name=)[\"']?([^\"'<>\s]+)[\"']?\s*>")
_PARAMETER = re.compile(
    rf"<{_SPACE}parameter(?:=|\s+name=)[\"']?(?P<key>[^\"'<>\s]+)[\"']?[^<>]*>\n?(?P<value>.*?)\n?"
    rf"(?:</{_SPACE}parameter>(?=\s*(?:<{_SPACE}parameter\b|</|\Z))|(?=<{_SPACE}parameter\b)|(?=</function>)|\Z)",
    re.DOTALL,
)
_MINIMAX = "]<]minimax[>["  # stands before every element of MiniMax M3, which names parameters by their elements
_NAMED_ELEMENT = re.compile(r"<(?P<key>[\w-]+)>(?P<value>.*?)</(?P=key)>", re.DOTALL)
_KEYED = re.compile(
    r"<arg_key>([^<]*)</arg_key>\s*<arg_value>(.*?)(?:</arg_value>(?=\s*(?:<arg_key>|\Z))|\Z)", re.DOTALL
)
_HEADED = re.compile(
    rf"\s*(?:function<[｜|]tool▁sep[｜|]>)?\s*(?:functions\.)?({_NAME}?)(?::\d+)?(?:[\s<\[｜`][^{{]*)?(\{{.*)",
    re.DOTALL,
)
_PYTHON = re.compile(rf"\s*\[?\s*{_NAME}\(")
_GEMMA = re.compile(rf"\s*call:({_NAME})\s*(\{{.*\}})", re.DOTALL)
_LAX = re.compile(r'(<escape>|<\|"\|>)(?P<text>.*?)\1|"(?:\\.|[^"\\])*"|(?<![\w-])(?P<key>[\w-]+)(?=\s*:)', re.DOTALL)
_MOST_ENDS = 50  # of a call in Python's notation that are tried


@dataclass(frozen=True)
class _Tools:
    """What can be called.

    Attributes:
        names: Of the tools.
        types: By tool and argument its type in the JSON schema, as far as it is known.
    """

    names: Collection[str]
    types: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_reply(
    text: str, names: Collection[str], *, tools: Sequence[Mapping[str, Any]] = (), thinking: bool = False
) -> Message:
    """Turn what a model wrote into an assistant's message, with its reasoning and its calls apart from the rest.

    Calls are found in the notation of any family: JSON, elements, keys and values, or Python's, behind the family's own
    mark, or bare where a tool's name comes first; see ``_NOTATIONS``. What follows a call is dropped: the model has not
    seen the result yet. A call that cannot be read is kept as it is, so that the model can be told. A thought that
    never ends is all that is left of the text, up to a call with a mark.

    Args:
        text: What was written, with the marks of calls and thoughts.
        names: Of the tools; without any, no call is wanted.
        tools: As the model was told of them, for notations that do not tell texts from numbers and lists.
        thinking: Whether a thought had begun before the text.

    Returns:
        ``content``, and where there are some, ``reasoning_content`` and ``tool_calls``, without ids.
    """
    text = text.replace(_MINIMAX, "")
    known = "|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)"
    notations = [*_NOTATIONS, *((re.compile(opening.format(known)), read) for opening, read in _BARE)]
    thought, said = _without_thoughts(text, thinking, [opening for opening, _ in notations])
    reasoning = {"reasoning_content": thought} if thought else {}
    calls: list[Message] = []
    if names:
        schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in tools}
        types = {name: schema.get("properties", {}) for name, schema in schemas.items()}
        calls, said = _with_calls(said, notations, _Tools(names, types))
    content = _HEADING.sub("", said).strip()
    return {"role": "assistant", "content": content, **reasoning, **({"tool_calls": calls} if calls else {})}


def begun_thought(prompt: str) -> tuple[str, str] | None:
    """Return the thought that stands at the end of a prompt, begun or empty, and what ends it, empty if it is ended."""
    bare = prompt.rstrip()
    for begin, end in THOUGHTS:
        if bare.endswith(begin):
            return prompt[len(bare) - len(begin) :], end
        if bare.endswith(end) and (before := bare.removesuffix(end).rstrip()).endswith(begin):
            return prompt[len(before) - len(begin) :], ""
    return None


def _without_thoughts(text: str, thinking: bool, openings: Sequence[re.Pattern[str]]) -> tuple[str, str]:
    """Part a reply into what was thought and what was said; within a call, nothing begins a thought."""
    thoughts: list[str] = []
    said: list[str] = []
    closing = _CLOSE if thinking else None
    while text:
        mark = (closing or _THOUGHT).search(text)
        if closing:
            end = mark or _MARKED.search(text)  # a call ends a thought that nothing else ends
            thoughts.append(text[: end.start()] if end else text)
            text = "" if end is None else text[(end.end() if mark else end.start()) :]
            closing = None
        elif mark is None or (mark["opens"] and any(call.search(text, 0, mark.start()) for call in openings)):
            said.append(text)
            break
        else:
            (said if mark["opens"] else thoughts).append(text[: mark.start()])
            if not mark["opens"]:  # it had begun before
                thoughts, said = [*said, *thoughts], []
            text, closing = text[mark.end() :], _CLOSINGS.get(mark["opens"])
    return "\n\n".join(filter(None, map(str.strip, thoughts))), "".join(said)


def _with_calls(said: str, notations: Sequence[_Notation], tools: _Tools) -> tuple[list[Message], str]:
    """Return the calls of what was said, and what comes before them."""
    found = [
        (begun.start(), order, read)
        for order, (opening, read) in enumerate(notations)
        if (begun := opening.search(said))
    ]
    for start, _, read in sorted(found, key=lambda one: one[:2]):
        if calls := read(said[start:], tools):
            return calls, _FENCE.sub("", said[:start].rstrip(" \t\r\n["))
    return [], said


def _tagged(text: str, tools: _Tools) -> list[Message]:
    """Read calls between ``<tool_call>`` and ``</tool_call>``: of Qwen, Hermes, GLM and many others."""
    return [call for part in _TAGGED.findall(text) for call in _block(part.strip(), tools)]


def _block(written: str, tools: _Tools) -> list[Message]:
    """Read what stands between tags: a call, a list of calls, or what was meant to be one."""
    written = _FENCED.sub(r"\1", written)
    if _ELEMENT.search(written):
        return _elements(written, tools)
    if "<arg_key>" in written or written in tools.names:
        name = written.partition("<arg_key>")[0].strip()
        return [_typed_call(name, _KEYED.findall(written), tools)]
    if _PYTHON.match(written):
        return _python(written, tools) or [_faulty(written)]
    return _objects(written) or _headed(r"\A", written, tools)


def _elements(text: str, tools: _Tools) -> list[Message]:
    """Read ``<function=name>`` with ``<parameter=key>`` or JSON in it, or the same as ``<invoke name="name">``."""
    calls = []
    for name, body in zip(*(iter(_ELEMENT.split(text)[1:]),) * 2, strict=True):
        if body.lstrip().startswith("{"):
            calls += _headed(r"\A", f"{name} {body}", tools)
        else:
            found = [*_PARAMETER.finditer(body)] or _NAMED_ELEMENT.finditer(body)
            calls.append(_typed_call(name, [(one["key"], one["value"]) for one in found], tools))
    return calls


def _marked(opening: str, closing: str, text: str, tools: _Tools) -> list[Message]:
    """Read JSON or Python's notation between two marks, as often as there is such a block."""
    calls = []
    for part in re.split(opening, text)[1:]:
        body = re.split(closing, part)[0].strip()
        calls += (_python(body, tools) if _PYTHON.match(body) else _objects(body)) or [_faulty(body)]
    return calls


def _headed(opening: str, text: str, tools: _Tools) -> list[Message]:
    """Read calls of a name, something in between and a JSON object, each behind a mark; or else JSON alone."""
    calls: list[Message] = []
    for part in re.split(opening, text)[1:]:
        if part.lstrip().startswith(("[{", "{", "[ {")):
            calls += _objects(part)
        elif headed := _HEADED.match(part):
            calls.append(_call(headed[1], _first_object(headed[2])))
        else:
            calls.append(_faulty(part.strip()))
    return calls


def _gemma(text: str, tools: _Tools) -> list[Message]:
    """Read calls of FunctionGemma and Gemma 4: ``call:name{key:<escape>text<escape>}`` between marks."""
    calls = []
    for part in re.split(r"<start_function_call>|<\|tool_call>", text)[1:]:
        body = re.split(r"<end_function_call>|<tool_call\|>", part)[0]
        if written := _GEMMA.match(body):
            calls.append(_call(written[1], _LAX.sub(_in_json, written[2])))
        else:
            calls.append(_faulty(body.strip()))
    return calls


def _in_json(part: re.Match[str]) -> str:
    if part["text"] is not None:
        return json.dumps(part["text"], ensure_ascii=False)
    return part[0] if part["key"] is None else json.dumps(part["key"])


def _objects(text: str) -> list[Message]:
    """Read JSON objects that follow each other; a faulty one is the last."""
    calls: list[Message] = []
    text = text.lstrip(" \t\r\n[")
    while text.startswith("{"):
        try:
            read, end = json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError):
            return [*calls, _faulty(text)]
        calls.append(_call_of(read))
        text = text[end:].lstrip(" \t\r\n,;")
    return calls


def _bare_objects(text: str, tools: _Tools) -> list[Message]:
    """Read JSON objects as long as they name tools."""
    calls = _objects(text)
    named = [call["function"]["name"] in tools.names for call in calls]
    return calls[: named.index(False)] if False in named else calls


def _bare_python(text: str, tools: _Tools) -> list[Message]:
    """Read calls in Python's notation that nothing encloses: up to where they can be read."""
    ends = [end.end() for end in re.finditer(r"\)\s*\]|\)", text)][:_MOST_ENDS]
    return next((calls for end in ends if (calls := _python(text[:end], tools))), [])


def _python(text: str, tools: _Tools) -> list[Message]:
    """Read calls in Python's notation, a list or a line each; none where it is not Python's."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes
            tree = ast.parse(text.strip())
        values = [getattr(statement, "value", None) for statement in tree.body]
        nodes = [node for value in values for node in (value.elts if isinstance(value, ast.List) else [value])]
        return [_python_call(node, tools) for node in nodes]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return []


def _python_call(node: Any, tools: _Tools) -> Message:
    if not isinstance(node, ast.Call):
        raise ValueError("no call")
    name = ast.unparse(node.func)
    if name == "print" and len(node.args) == 1:
        return _python_call(node.args[0], tools)
    name = name.removesuffix(".call").removeprefix("functions.")
    keys = [*tools.types.get(name, {})][: len(node.args)]
    given = dict(zip(keys, node.args, strict=True)) | {str(word.arg): word.value for word in node.keywords}
    return _call(name, json.dumps({key: _literal(value) for key, value in given.items()}, ensure_ascii=False))


def _literal(node: ast.expr) -> Any:
    """Return the value of a literal, of JSON's words, too."""
    words = {"true": True, "false": False, "null": None}
    for part in ast.walk(node):
        for name, child in ast.iter_fields(part):
            if isinstance(child, list):
                child[:] = [_constant(one, words) for one in child]
            else:
                setattr(part, name, _constant(child, words))
    return ast.literal_eval(_constant(node, words))


def _constant(node: Any, words: Mapping[str, Any]) -> Any:
    return ast.Constant(words[node.id]) if isinstance(node, ast.Name) and node.id in words else node


def _typed_call(name: str, pairs: Sequence[tuple[str, str]], tools: _Tools) -> Message:
    """Return a call whose arguments were written as bare text: lists, numbers and so on are told by the tool's schema.

    Where it is not known, what looks like a JSON list or object is one.
    """
    arguments: dict[str, Any] = {}
    for key, value in pairs:
        kind = tools.types.get(name, {}).get(key, {}).get("type")
        arguments[key] = value
        if kind not in (None, "string") or (kind is None and value.lstrip().startswith(("[", "{"))):
            try:
                arguments[key] = json.loads(value)
            except (ValueError, RecursionError):
                continue
    return _call(name, json.dumps(arguments, ensure_ascii=False))


def _first_object(text: str) -> str:
    """Return the JSON object that a text begins with, the whole text where it is faulty."""
    try:
        return text[: json.JSONDecoder().raw_decode(text)[1]]
    except (ValueError, RecursionError):
        return text


def _call_of(read: Mapping[str, Any]) -> Message:
    """Bring a decoded call into the form of the chat completions API."""
    function = read["function"] if isinstance(read.get("function"), dict) else read
    arguments = function.get("arguments", function.get("parameters"))
    name = function.get("name", function.get("tool_name"))
    return _call(name, arguments if isinstance(arguments, str) else json.dumps(arguments))


def _faulty(written: str) -> Message:
    """Return what was meant to be a call."""
    named = _NAMED.search(written)
    return _call(named[1] if named else None, written)


def _call(name: Any, arguments: str) -> Message:
    return {"id": "", "type": "function", "function": {"name": name, "arguments": arguments}}


_Reader = Callable[[str, _Tools], list[Message]]
_Notation = tuple[re.Pattern[str], _Reader]
_MARKS: dict[str, _Reader] = {
    r"(?:<tool_calls>\s*)?<tool_call>": _tagged,
    # Qwen3-Coder without tags, Llama 3.1's own, MiniMax, DeepSeek V3.2:
    rf"(?:<[^<>\n]*(?:tool|function)_calls?>\s*)?{_ELEMENT.pattern}": _elements,
    # Nemotron; Apriel and Jamba; OLMo 3:
    rf"<(?:TOOLCALL|tool_calls|function_calls)>(?=\s*(?:[\[{{]|{_NAME}\())": partial(
        _marked, r"<(?:TOOLCALL|tool_calls|function_calls)>", r"</(?:TOOLCALL|tool_calls|function_calls)>"
    ),
    r"\[TOOL_CALLS\]": partial(_headed, r"\[TOOL_CALLS\]"),  # Mistral, of all versions
    r"<\|python_(?:tag|start)\|>": partial(  # Llama 3, Llama 4
        _marked, r"<\|python_(?:tag|start)\|>", r"<\|eo[mt]_id\|>|<\|python_end\|>"
    ),
    r"<\|tool_call_start\|>": partial(_marked, r"<\|tool_call_start\|>", r"<\|tool_call_end\|>"),  # LFM2
    r"<\|tool_call\|>|functools(?=\[)": partial(_marked, r"<\|tool_call\|>|functools(?=\[)", r"<\|/tool_call\|>"),
    r"<\|START_ACTION\|>": partial(_marked, r"<\|START_ACTION\|>", r"<\|END_ACTION\|>"),  # Command
    r"<start_function_call>|<\|tool_call>": _gemma,
    r"```tool_code\s": partial(_marked, r"```tool_code\s", "```"),  # Gemma 2 and 3
    r"<[｜|]tool▁calls?▁begin[｜|]>": partial(_headed, r"<[｜|]tool▁call▁begin[｜|]>"),  # DeepSeek
    r"<\|tool_calls?(?:_section)?_begin\|>": partial(_headed, r"<\|tool_call_begin\|>"),  # Kimi
    r"(?:assistant\s*)?(?:<\|channel\|>\w+\s+)?to=functions\.": partial(_headed, r"to=functions\."),  # gpt-oss
}
_NOTATIONS: tuple[_Notation, ...] = tuple((re.compile(opening), read) for opening, read in _MARKS.items())
_MARKED = re.compile("|".join(opening.pattern for opening, _ in _NOTATIONS))
_BARE: tuple[tuple[str, _Reader], ...] = (  # with the names of the tools
    (r'\{{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"(?:tool_)?name"\s*:\s*"(?:{})"\s*,', _bare_objects),
    # GLM-4; Mistral and Kimi where a server leaves out special tokens:
    (r"(?m:^)(?=(?:functions\.)?(?:{})(?::\d+)?(?:\[ARGS\])?\s*\{{)", partial(_headed, r"\A")),
    (r"(?m:^)\[?(?:print\()?(?:default_api\.)?(?:{})\(", _bare_python),
)
