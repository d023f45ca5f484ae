"""Who decides the next step: a chat model behind an OpenAI-compatible endpoint, or a script."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from src.gisa.agent.cache import Cache
from src.gisa.agent.cost import Charge, Part, PriceList, Step
from src.gisa.agent.fetch import RequestError
from src.gisa.agent.metering import Meter, usage_of
from src.gisa.agent.payment import Payment, Terms
from src.gisa.agent.web import Key, Web
from src.gisa.chat.format import Message
from src.launch.errors import InputError
from src.launch.values import Count, Positive, Weight

# Kept when a server sends them, as it may want them back with the next request; never required.
_KEPT_FIELDS = ("content", "tool_calls", "refusal", "reasoning", "reasoning_content", "reasoning_details")
_THOUGHTS = ("reasoning", "reasoning_content", "reasoning_details", "thinking_blocks")
_BUDGETS = ("budget_tokens", "thinking_budget", "max_tokens")  # Anthropic and SiliconFlow, Gemini and Qwen, OpenRouter
_BEYOND_THOUGHT = 256  # tokens
_REST_S = 60.0  # for which an endpoint that fails is not asked, if there is another
_OVERFLOW_SIGNS = (
    "context_length_exceeded",
    "context length",
    "context window",
    "too many tokens",
    "prompt is too long",
)


@dataclass(frozen=True)
class Request:
    """What a policy is asked.

    Attributes:
        messages: The conversation so far.
        tools: Tools in the form of the chat completions API; empty for none.
        step: Where charges and failed attempts are noted.
        web: The connections.
        may_call: False where an answer is wanted and no call.
        part: Whom to charge.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]]
    step: Step
    web: Web
    may_call: bool = True
    part: Part = "chain"


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
    """

    message: Message
    finish_reason: str
    tokens: ReplyTokens | None = None


class Policy(Protocol):
    """Continues a conversation."""

    async def reply(self, request: Request) -> Reply:
        """Return the next message.

        Raises:
            RequestError: there is no reply; that is a failure of the infrastructure.
            ContextOverflowError: the conversation is longer than the model can read.
        """


class ContextOverflowError(Exception):
    """The conversation is longer than the model can read."""


@dataclass
class ChatEndpoint:
    """A chat model behind an OpenAI-compatible endpoint: OpenAI, OpenRouter, vLLM and others.

    What is None is left out of the requests, as some servers reject fields that they don't know.

    Attributes:
        base_url: Address up to, and without, ``/chat/completions``.
        model: Name of the model there, and in the price list.
        prices: What tokens cost.
        key_env: Environment variable with the key; None for a server that needs none.
        temperature: Of sampling.
        max_output_tokens: Most tokens of one reply.
        max_tokens_field: Field for it; newer models of OpenAI want ``max_completion_tokens``.
        parallel_calls: Value of ``parallel_tool_calls``.
        extra_body: Further fields, for instance for a thinking mode.
        timeout_s: Seconds for one attempt.
        reasoning_effort: Value of the field of that name, such as ``low`` or ``high``; None leaves it to the server.
        tokenizer: Counts tokens for the ceilings, and where the server tells none; see ``Meter``.
        reply_cache: Folder that keeps replies, for a run that is made again; at temperature 0 only.
        fallback: Another endpoint, which is asked where this one fails after all tries, and for a minute after that.

    Raises:
        InputError: the key is missing, or replies are to be kept that are drawn at random.
    """

    base_url: str
    model: str
    prices: PriceList
    key_env: str | None = "OPENAI_API_KEY"
    temperature: Weight | None = None
    max_output_tokens: Count = 8192
    max_tokens_field: str = "max_tokens"
    parallel_calls: bool | None = None
    extra_body: Mapping[str, Any] | None = None
    timeout_s: Positive = 600.0
    reasoning_effort: str | None = None
    tokenizer: str | None = None
    reply_cache: str | None = None
    fallback: ChatEndpoint | None = None
    stands_in: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Look for the key, and put together what every request holds."""
        if self.reply_cache is not None and self.temperature != 0:
            raise InputError(
                f"reply_cache keeps replies, and temperature={self.temperature} draws them at random.\n"
                "Type  agent.policy.temperature=0.0  or  agent.policy.reply_cache=null"
            )
        self._cache = Cache(self.reply_cache, bucket="replies") if self.reply_cache else None
        self._fails_until = 0.0
        if self.fallback:
            self.fallback.stands_in = True
        self._key = Key(self.key_env)
        self._fields = {"model": self.model, self.max_tokens_field: self.max_output_tokens, **(self.extra_body or {})}
        if self.temperature is not None:
            self._fields["temperature"] = self.temperature
        if self.reasoning_effort is not None:
            self._fields["reasoning_effort"] = self.reasoning_effort
        self.meter = Meter(self.tokenizer)

    async def reply(self, request: Request) -> Reply:
        """See ``Policy``."""
        body = {**self._fields, "messages": list(request.messages)}
        if request.tools:
            body["tools"] = list(request.tools)
            if not request.may_call:
                body["tool_choice"] = "none"  # the tools stay: some servers want them beside messages that called them
            elif self.parallel_calls is not None:
                body["parallel_tool_calls"] = self.parallel_calls
        if self.fallback and time.monotonic() < self._fails_until:
            return await self.fallback.reply(_without_thoughts(request))
        try:
            return await self._known_or_paid_reply(request, body)
        except RequestError as error:
            if error.status in (400, 413, 422) and any(sign in str(error).lower() for sign in _OVERFLOW_SIGNS):
                raise ContextOverflowError(str(error)) from error
            if not self.fallback or not error.retryable:
                raise
            self._fails_until = time.monotonic() + _REST_S
            request.step.failures.append(f"{self.model} fails; {self.fallback.model} is asked in its place")
            return await self.fallback.reply(_without_thoughts(request))

    async def _known_or_paid_reply(self, request: Request, body: Mapping[str, Any]) -> Reply:
        """Give the reply that was given before to the same words, where they are kept; else ask."""
        if self._cache is None:
            return (await self._paid_reply(request, body))[0]
        key = json.dumps([self.base_url, body], sort_keys=True)
        if kept := self._cache.get(key):
            request.step.charge(Charge(request.part, **kept["tokens"], model=self._name_beside_another, reused=True))
            return Reply(kept["message"], kept["finish_reason"])
        reply, charge = await self._paid_reply(request, body)
        tokens = {name: value for name, value in vars(charge).items() if name.endswith("_tokens")}
        self._cache.put({"message": reply.message, "finish_reason": reply.finish_reason, "tokens": tokens}, key)
        return reply

    @property
    def _name_beside_another(self) -> str:
        return self.model if self.stands_in else ""

    async def _paid_reply(self, request: Request, body: Mapping[str, Any]) -> tuple[Reply, Charge]:
        """Ask, and pay. Where money is short, a reply may be cut short; it is asked for again with more tokens."""
        limit = self.max_output_tokens, self.max_tokens_field
        thought = _thinking_budget(self.extra_body)
        terms = Terms(self.prices, self.model, self.base_url, *limit, thought, self._name_beside_another)
        payment = Payment(terms, self.meter, request.step, request.part, (request.messages, request.tools))

        def paid(found: Any) -> Reply:
            told = usage_of(found)
            try:
                reply = _first_choice(found)
            except RequestError:
                if told:
                    payment.book(told, None)
                raise
            payment.book(told, reply.message)
            return reply

        url = self.base_url.rstrip("/") + "/chat/completions"
        how: dict[str, Any] = {"body": body, "key": self._key, "timeout_s": self.timeout_s, "part": request.part}
        while True:
            reply = await request.web.call(url, paid, request.step, hold=payment.hold, **how)
            if reply.finish_reason != "length" or not payment.was_short:
                return reply, payment.charges[-1]
            request.step.failures.append(f"{self.model}: cut at the {payment.tokens} tokens that the ceiling left")


class ScriptedPolicy:
    """Says what a function of the conversation so far says; for tests and for rules in place of a model."""

    def __init__(self, say: Callable[[Sequence[Message]], Message]) -> None:
        """Take the function; it returns an assistant's message."""
        self._say = say

    async def reply(self, request: Request) -> Reply:
        """See ``Policy``."""
        request.step.charge(Charge(request.part))
        message = {"role": "assistant", **self._say(request.messages)}
        return Reply(message, "tool_calls" if message.get("tool_calls") else "stop")


def _thinking_budget(fields: Any) -> int:
    """Return the tokens that a request sets aside for thought, and a few for the reply: servers refuse less."""
    if not isinstance(fields, Mapping):
        return 0
    own = [value for key, value in fields.items() if key in _BUDGETS and isinstance(value, int)]
    return max([0, *(value + _BEYOND_THOUGHT for value in own), *map(_thinking_budget, fields.values())])


def _without_thoughts(request: Request) -> Request:
    """Leave out what one model has thought: another one's server may refuse it, as it is signed."""
    messages = [{key: value for key, value in message.items() if key not in _THOUGHTS} for message in request.messages]
    return replace(request, messages=messages)


def _first_choice(body: Any) -> Reply:
    """Read a chat completion: its first choice."""
    if isinstance(body, dict) and isinstance(body.get("error"), dict):  # with status 200: a router's way to fail
        code = body["error"].get("code")
        status = code if isinstance(code, int) else 500
        raise RequestError("status", f"HTTP {status}: {body['error'].get('message')}", status=status)
    try:
        choice = body["choices"][0]
        said = choice["message"]
        message = {"role": "assistant", **{field: said[field] for field in _KEPT_FIELDS if said.get(field) is not None}}
        message.setdefault("content", "")
        return Reply(message, str(choice.get("finish_reason") or "stop"))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise RequestError("unreadable", "a reply without a message", retryable=True) from error


def text_of(message: Message) -> str:
    """Return what a message says; some servers send it in parts."""
    content = message.get("content") or ""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return str(content)
