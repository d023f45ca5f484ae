"""How many tokens a chat model's calls take: what it says, what is counted where it says nothing, and bounds before."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

from src.gisa.agent.cost import Usage
from src.launch.errors import InputError

_log = logging.getLogger(__name__)
_BYTES_PER_TOKEN = 3  # of UTF-8; English has 4 to 5, tables and other languages 2 to 4: our conservative choice
_PER_MESSAGE = 4  # tokens around a message in most chat templates
_STEP = math.log(1.25)  # prompts of sizes within 25% are of one class
_WORST = 2  # tokens that another tokenizer may make of one that is counted here
_SHORTEST_REPLY = 256  # tokens that a reply is always given
_FIRST_REPLY = 1024  # the same, before any reply has been seen
# What each server calls the tokens; of several names the most counts, as some send the others as 0.
_NAMES = {
    "read": ("prompt_tokens", "input_tokens", "promptTokenCount"),
    "written": ("completion_tokens", "output_tokens", "candidatesTokenCount"),
    "total": ("total_tokens", "totalTokenCount"),
    "cached": ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens", "cachedContentTokenCount"),
    "put": ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens"),
    "thought": ("reasoning_tokens", "thoughtsTokenCount"),
}


class Size(NamedTuple):
    """A prompt's size: tokens as counted here, and bytes."""

    tokens: int
    bytes: int


@dataclass
class Meter:
    """Counts, and learns from what a server says of the replies so far.

    Attributes:
        tokenizer: Hub name or folder of the model's own, its chat template included; None for ``o200k_base`` where the
            package ``bpe-openai`` is installed, else a third of the bytes.
    """

    tokenizer: str | None = None

    def __post_init__(self) -> None:
        """Have seen nothing."""
        self.longest_reply: int | None = None
        self._prompts: dict[int, int] = {}  # class of the size as counted here -> most tokens that the server counted
        self._told = self._counted = 0
        self._replies = self._written = 0
        self._warned = False

    @property
    def method(self) -> str:
        """How tokens are counted here, for the record."""
        return self.tokenizer or ("o200k_base" if _has_o200k() else f"a token for {_BYTES_PER_TOKEN} bytes")

    def size(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> Size:
        """Count a prompt: by the model's own template where there is one, else its texts and a little for each message.

        Raises:
            InputError: there is no such tokenizer.
        """
        text = json.dumps([*messages, *tools], ensure_ascii=False)
        length = len(text.encode("utf-8", "replace"))
        if self.tokenizer and (rendered := _rendered(self.tokenizer, messages, tools)) is not None:
            return Size(rendered, length)
        spoken = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        spoken += "\n".join(_texts(messages))
        return Size(self._count(spoken) + _PER_MESSAGE * (len(messages) + 1), length)

    def prompt_bound(self, size: Size) -> int:
        """Return the most tokens that a server may count for a prompt.

        Before it has said anything: twice what is counted here, and no more than the bytes, as no token is shorter.
        After that: what it said for the next larger prompts, or for smaller ones and what was added since.
        """
        if not self._prompts:
            return min(size.bytes, 2 * size.tokens + 64)
        own = _class_of(size.tokens)
        larger = [self._prompts[kind] for kind in sorted(self._prompts) if kind >= own][:1]
        smaller = [kind for kind in self._prompts if kind < own]
        bounds = [math.ceil(1.25 * tokens) for tokens in larger]
        if smaller:
            nearest = max(smaller)
            added = size.tokens - math.exp(nearest * _STEP)
            bounds.append(math.ceil(1.25 * self._prompts[nearest] + _WORST * added))
        return min(bounds)

    def reply_bound(self, most: int) -> int:
        """Return how many tokens of at most ``most`` a reply must be given, where money is short."""
        least = _FIRST_REPLY if self.longest_reply is None else max(_SHORTEST_REPLY, 2 * self.longest_reply)
        return min(most, least)

    def usage(self, told: Usage | None, size: Size, message: Mapping[str, Any] | None) -> tuple[Usage, bool]:
        """Return the tokens of a call, and whether they, or some, are estimated as the server did not tell them.

        Args:
            told: What the server said.
            size: Of the prompt.
            message: The reply; None if it never came, which is taken to have been as long as the others.
        """
        average = round(self._written / self._replies) if self._replies else 0
        written = average if message is None else self._count("\n".join(_texts([message])))
        estimated = told is None or not told.prompt or (not told.completion and written > 0)
        if told is None or not told.prompt:
            share = self._told / self._counted if self._counted else 1.0
            told = Usage(round(share * size.tokens), told.completion if told else 0)
        else:
            self._told, self._counted = self._told + told.prompt, self._counted + size.tokens
            kind = _class_of(size.tokens)
            self._prompts[kind] = max(told.prompt, self._prompts.get(kind, 0))
        if not told.completion:
            told = Usage(told.prompt, written, told.cached, told.cache_write)
        if message is not None:
            self._replies, self._written = self._replies + 1, self._written + told.completion
            self.longest_reply = max(self.longest_reply or 0, told.completion)
            if estimated and not self._warned:
                self._warned = True
                _log.warning("The server tells no tokens of a call; they are counted here, by %s.", self.method)
        return told, estimated

    def _count(self, text: str) -> int:
        if self.tokenizer:
            return len(_own(self.tokenizer).encode(text, add_special_tokens=False))
        if _has_o200k():
            return len(_o200k().encode_ordinary(text.encode("utf-8", "replace").decode()))
        return math.ceil(len(text.encode("utf-8", "replace")) / _BYTES_PER_TOKEN)


def usage_of(body: Any) -> Usage | None:
    """Read the tokens that a reply tells of, in the forms of the servers that are known; None if it tells none.

    The names are OpenAI's, in both of its interfaces, or Gemini's own; Moonshot's streams tell them with the choice.
    Cached tokens: OpenAI, vLLM, OpenRouter and Gemini in ``prompt_tokens_details``, DeepSeek as
    ``prompt_cache_hit_tokens``, Moonshot as ``cached_tokens``, Anthropic behind LiteLLM as ``cache_read_input_tokens``.
    Where they are more than the prompt, or that has Anthropic's own name, they stand beside it, as gateways pass
    Anthropic's books on (decolua/9router#2658, future-agi/future-agi#1122). Where the total is more than both parts,
    the rest was thought (xAI, Gemini), and is paid as what is written; so is thought of more tokens than were written.
    """
    usage = _usage_in(body)
    told = {name: _most_of(usage, names) for name, names in _NAMES.items()}
    read, written, total, cached, put, thought = told.values()
    if not read and not written:
        return None
    is_beside = "prompt_tokens" not in usage and "cache_read_input_tokens" in usage
    if read and (cached + put > read or is_beside):
        read += cached + put
    if read and total > read + written:
        thought, written = max(thought, total - read - written), total - read
    elif thought > written:
        written += thought
    cached = min(cached, read)
    return Usage(read, written, cached, min(put, read - cached), thought)


def _usage_in(body: Any) -> Mapping[str, Any]:
    body = body if isinstance(body, dict) else {}
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    told = (where.get(name) for where in (body, choice) for name in ("usage", "usageMetadata"))
    return next((usage for usage in told if isinstance(usage, dict) and usage), {})


def _most_of(usage: Mapping[str, Any], names: Sequence[str]) -> int:
    """Return the most that stands under any of the names, in the usage or its details."""
    nodes = [usage, *(node for key, node in usage.items() if key.endswith("_details") and isinstance(node, dict))]
    return max(_whole(node.get(name)) for node in nodes for name in names)


def _whole(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\d{1,12}", value):
        return int(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return max(0, int(value)) if is_number else 0


def _texts(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return all that is said in messages: texts, thoughts, and name and arguments of calls, as most templates do."""
    texts: list[str] = []
    for message in messages:
        thought = message.get("reasoning_content") or message.get("reasoning")
        for part in (message.get("content"), thought):
            parts = part if isinstance(part, list) else [part]
            texts += [str(piece.get("text") or "") if isinstance(piece, dict) else str(piece or "") for piece in parts]
        calls = message.get("tool_calls")
        texts += map(_called, calls) if isinstance(calls, list) else []
    return [text for text in texts if text]


def _called(call: Any) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return json.dumps(call, ensure_ascii=False)
    arguments = function.get("arguments")
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'{{"name": "{function.get("name")}", "arguments": {written}}}'


def _class_of(tokens: int) -> int:
    return math.floor(math.log(max(tokens, 1)) / _STEP)


@cache
def _has_o200k() -> bool:
    return find_spec("bpe_openai") is not None


@cache
def _o200k() -> Any:
    import bpe_openai  # type: ignore[import-untyped] # 2 s of imports

    return bpe_openai.get_encoding("o200k_base")


@cache
def _own(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"tokenizer={name!r}: no tokenizer could be loaded by that name: {str(error).splitlines()[0]}\n"
            "I need a hub name or a folder; null counts by o200k_base."
        ) from error


def _rendered(name: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the tokens of a conversation by a model's own chat template; None if it has none, or refuses."""
    try:
        tokens = _own(name).apply_chat_template(
            list(messages), tools=list(tools) or None, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return len(tokens["input_ids"])
    except InputError:
        raise
    except Exception:  # whatever a template raises
        return None
