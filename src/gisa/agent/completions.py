"""What a chat model says: read from a completion, in whatever form a server sends it, without its reasoning."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from src.gisa.agent.dialects import ending_of
from src.gisa.agent.fetch import RequestError
from src.gisa.chat.format import Message
from src.gisa.chat.plain import joined
from src.gisa.chat.reply import read_reply

# What a server sends beside a message and never wants back; all else it may want, and some do: thinking blocks,
# signatures, reasoning in a dozen spellings.
_NOT_RETURNED = {"role", "annotations", "audio", "images", "citations", "search_results", "function_call", "parsed"}
# Reasoning within the text: Qwen, DeepSeek, GLM, MiniMax, Seed, LongCat and others; Mistral; Kimi-VL; Gemma 4; Command;
# gpt-oss, whose calls are none, and whose marks are lost where a server leaves out special tokens.
_THINKING = (
    (r"<(?:\w+[:_])?think(?:ing)?>", r"</(?:\w+[:_])?think(?:ing)?>"),
    (r"<(?:thought|reasoning)>", r"</(?:thought|reasoning)>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"◁think▷", r"◁/think▷"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"<\|channel>thought", r"<channel\|>"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    (
        r"<\|channel\|>(?:analysis|commentary)<\|message\|>",
        r"(?:<\|channel\|>final(?: [^<]*)?<\|message\|>|assistantfinal"
        r"|(?=(?:<\|channel\|>\w+|<\|start\|>assistant) to=functions\.))",
    ),
)
_LEFT_OVER = re.compile(
    r"<\|(?:start\|>assistant|end\|>|return\|>|channel\|>final<\|message\|>|(?:START|END)_RESPONSE\|>)"
)


class ReplyTokens(NamedTuple):
    """Tokens of one reply: those that were read, and those that were written, the one that ends it included."""

    read: list[int]
    written: list[int]


@dataclass(frozen=True)
class Reply:
    """What a policy says next.

    Attributes:
        message: The assistant's message, to be sent back as it is.
        finish_reason: Why it ended: ``stop``, ``tool_calls``, ``length``, ``content_filter`` or whatever a server says.
        tokens: Those of a model in this process.
        adapted: What was changed in the request, as the server had refused it; see ``Adaptation``.
        cited: Addresses that a service which searches by itself names beside its reply.
    """

    message: Message
    finish_reason: str
    tokens: ReplyTokens | None = None
    adapted: Sequence[str] = ()
    cited: Sequence[str] = ()


def first_choice(body: Any) -> Reply:
    """Read a chat completion: its first choice."""
    try:
        choice = body["choices"][0]
        reason = str(choice.get("finish_reason") or "stop")
        says_why = ending_of(reason) in ("refused", "malformed", "length", "overflow")
        said = choice.get("message") or ({} if says_why else choice["message"])  # of what is filtered, none may be left
        kept = {name: value for name, value in said.items() if name not in _NOT_RETURNED and value is not None}
        message = {"role": "assistant", "content": None, **kept}
        if said.get("function_call") and not kept.get("tool_calls"):  # the form of before there were several
            message["tool_calls"] = [{"id": "", "type": "function", "function": said["function_call"]}]
        usage = body.get("usage") or {}
        if ending_of(reason) == "length" and usage.get("completion_tokens") == 0 and not said.get("content"):
            reason += ": context_window_exceeded"  # the prompt was cut to fit, without room for a reply: MiMo
        return Reply(message, reason, cited=_cited(body, said))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise RequestError("unreadable", "a reply without a message", retryable=True) from error


def _cited(body: Mapping[str, Any], said: Mapping[str, Any]) -> list[str]:
    """Return the addresses beside a reply: OpenAI's annotations, Perplexity's citations and results, each once."""
    notes = [note.get("url_citation") or note for note in _list(said.get("annotations")) if isinstance(note, dict)]
    listed = [one for where in (said, body) for key in ("citations", "search_results") for one in _list(where.get(key))]
    urls = [one.get("url") if isinstance(one, dict) else one for one in (*notes, *listed)]
    return list(dict.fromkeys(url for url in urls if isinstance(url, str) and url.startswith(("http://", "https://"))))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def with_calls_read(reply: Reply, tools: Sequence[Mapping[str, Any]]) -> Reply:
    """Read calls that stand in the text, as a server does not for every model; reasoning before them stays.

    Where nothing else was said, they may stand at the end of the reasoning: vllm-project/vllm#39056.
    """
    text, thought = joined(reply.message), _thought(reply.message)
    is_thought = not text.strip() and ending_of(reply.finish_reason) in ("end", "calls")
    if not tools or reply.message.get("tool_calls") or not (text.strip() or (is_thought and thought)):
        return reply
    said = thought if is_thought else without_thinking(text)
    names = [tool["function"]["name"] for tool in tools]
    read = read_reply(said, names, tools=tools, thinking=is_thought)
    if not read.get("tool_calls"):
        return reply
    before = text[: len(text) - len(said)] if text.endswith(said) else ""
    message = {**reply.message, "content": before + read["content"], "tool_calls": read["tool_calls"]}
    return replace(reply, message=message, finish_reason="tool_calls")


def text_of(message: Message) -> str:
    """Return what a message says, without its reasoning; some servers send it in parts."""
    return without_thinking(joined(message))


def refusal_in(message: Message) -> str:
    """Return a refusal that a server marks as one, empty if there is none."""
    parts = message["content"] if isinstance(message.get("content"), list) else []
    marked = [part.get("refusal") for part in parts if isinstance(part, dict) and part.get("type") == "refusal"]
    return str(message.get("refusal") or " ".join(filter(None, marked)))


def _thought(message: Message) -> str:
    told = (message.get(name) for name in ("reasoning_content", "reasoning"))
    return next((thought for thought in told if isinstance(thought, str) and thought), "")


def without_thinking(text: str) -> str:
    """Return what a text says beside its reasoning.

    Closed blocks are taken out; what stands before an end without beginning, and after a beginning without end, is
    reasoning too.
    """
    if not re.search(r"[<\[◁]|assistantfinal", text):
        return text
    for begin, end in _THINKING:
        text = re.sub(f"{begin}.*?{end}", "", text, flags=re.DOTALL | re.IGNORECASE)
        text = re.split(end, text, flags=re.IGNORECASE)[-1]
        text = re.split(begin, text, maxsplit=1, flags=re.IGNORECASE)[0]
    return _LEFT_OVER.sub("", text)
