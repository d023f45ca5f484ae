"""Who decides the next step: a chat model behind an OpenAI-compatible endpoint, or a script."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from src.gisa.agent.adaptation import FORM_STATUS, LIMIT_FIELDS, PLAINER, Adaptation, most_output_of, with_most_output
from src.gisa.agent.cache import Cache
from src.gisa.agent.complaints import Complaint, complaint_in, complaint_of
from src.gisa.agent.completions import Reply as Reply  # for all who ask a policy, too
from src.gisa.agent.completions import ReplyTokens as ReplyTokens
from src.gisa.agent.completions import first_choice, with_calls_read
from src.gisa.agent.completions import text_of as text_of
from src.gisa.agent.cost import Charge, Part, PriceList, Step
from src.gisa.agent.dialects import ending_of
from src.gisa.agent.fetch import RequestError
from src.gisa.agent.metering import Meter, usage_of
from src.gisa.agent.payment import Payment, Terms
from src.gisa.agent.stops import stop_of
from src.gisa.agent.waits import asked_wait_s
from src.gisa.agent.web import Key, Web
from src.gisa.chat.format import Message
from src.launch.errors import InputError
from src.launch.values import Count, Positive, Weight

_LEAST_OUTPUT = 256  # tokens that a reply is worth asking for
_MOST_LESSONS = 24  # changes of one request, after which its refusal is final
_THOUGHTS = ("reasoning", "reasoning_content", "reasoning_details", "thinking_blocks")
_BUDGETS = ("budget_tokens", "thinking_budget", "max_tokens")  # Anthropic and SiliconFlow, Gemini and Qwen, OpenRouter
_BEYOND_THOUGHT = 256  # tokens
_REST_S = 60.0  # for which an endpoint that fails is not asked, if there is another


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


class Policy(Protocol):
    """Continues a conversation."""

    async def reply(self, request: Request) -> Reply:
        """Return the next message.

        Raises:
            RequestError: there is no reply; that is a failure of the infrastructure.
            ContextOverflowError: the conversation is longer than the model can read.
        """


class ContextOverflowError(Exception):
    """The conversation is longer than the model can read.

    Attributes:
        limit: Tokens that it can read, beside what it has to write; None if that is not known.
        used: Tokens of the conversation; None if that is not known.
    """

    def __init__(self, message: str, *, limit: int | None = None, used: int | None = None) -> None:
        super().__init__(message)
        self.limit, self.used = limit, used


class RefusedError(Exception):
    """A server refused a request in words that say what to do.

    Attributes:
        complaint: The words.
        lesson: What was learned from them; None for a refusal that no other form of the request would avoid.
    """

    def __init__(self, complaint: Complaint, lesson: str | None) -> None:
        learned = f"; from now on {lesson}" if lesson else ""
        super().__init__(f"HTTP {complaint.status}: {complaint.said}{learned}")
        self.complaint, self.lesson = complaint, lesson


@dataclass
class ChatEndpoint:
    """A chat model behind an OpenAI-compatible endpoint: OpenAI, OpenRouter, vLLM and others.

    What is None is left out of the requests, as some servers reject fields that they don't know. A request that is
    refused for its form is changed and sent again, and so are all later ones; see ``src.gisa.agent.dialects``.

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
        self._adaptation = Adaptation()
        self._fields = {"model": self.model, self.max_tokens_field: self.max_output_tokens, **(self.extra_body or {})}
        if self.temperature is not None:
            self._fields["temperature"] = self.temperature
        if self.reasoning_effort is not None:
            self._fields["reasoning_effort"] = self.reasoning_effort
        self.meter = Meter(self.tokenizer)

    async def reply(self, request: Request) -> Reply:
        """See ``Policy``."""
        if self.fallback and time.monotonic() < self._fails_until:
            return await self.fallback.reply(_without_thoughts(request))
        try:
            return await self._known_or_asked_reply(request)
        except RequestError as error:
            if not self.fallback or not error.retryable:
                raise
            self._fails_until = time.monotonic() + _REST_S
            request.step.failures.append(f"{self.model} fails; {self.fallback.model} is asked in its place")
            return await self.fallback.reply(_without_thoughts(request))

    async def _known_or_asked_reply(self, request: Request) -> Reply:
        """Give the reply that was given before to the same words, where they are kept; else ask."""
        body, step = self._body(request), request.step
        if self._cache is None:
            return await self._asked_reply(request, body)
        key = json.dumps([self.base_url, body], sort_keys=True)
        if kept := self._cache.get(key):
            step.charge(Charge(request.part, **kept["tokens"], model=self._name_beside_another, reused=True))
            return Reply(kept["message"], kept["finish_reason"])
        before = len(step.charges)
        reply = await self._asked_reply(request, body)
        if len(step.charges) > before:  # else the server has refused it
            tokens = {name: value for name, value in vars(step.charges[-1]).items() if name.endswith("_tokens")}
            self._cache.put({"message": reply.message, "finish_reason": reply.finish_reason, "tokens": tokens}, key)
        return reply

    async def _asked_reply(self, request: Request, plain: dict[str, Any]) -> Reply:
        """Ask, in other forms where the server refuses one."""
        output, plainness = None, 0
        for _ in range(_MOST_LESSONS):
            body = self._adaptation.adapted(plain, plainness)
            body = body if output is None else with_most_output(body, output)
            try:
                reply = await self._sent(body, request)
                self._adaptation.keep_plain(plainness)
                return replace(reply, adapted=tuple(self._adaptation.learned))
            except RefusedError as refusal:
                request.step.failures.append(f"{self.model}: {refusal}")
                complaint = refusal.complaint
                if refusal.lesson is not None:
                    continue
                kind = complaint.kind or complaint.guess
                if kind == "overflow":
                    output = self._shorter_output(refusal, body)
                elif kind == "filtered":
                    said = {"role": "assistant", "content": None, "refusal": complaint.said}
                    return Reply(said, "content_filter")
                elif kind == "malformed":
                    written = {"role": "assistant", "content": complaint.written}
                    return with_calls_read(Reply(written, "malformed_function_call"), request.tools)
                elif plainness < len(PLAINER):
                    plainness += 1
                else:
                    raise RequestError("status", str(refusal), status=complaint.status) from refusal
        raise RequestError("status", f"the server refused {_MOST_LESSONS} forms of a request", status=400)

    def _body(self, request: Request) -> dict[str, Any]:
        body = {**self._fields, "messages": list(request.messages)}
        if request.tools:
            body["tools"] = list(request.tools)
            if not request.may_call:
                body["tool_choice"] = "none"  # the tools stay: some servers want them beside messages that called them
            elif self.parallel_calls is not None:
                body["parallel_tool_calls"] = self.parallel_calls
        return body

    async def _sent(self, body: dict[str, Any], request: Request) -> Reply:
        """Send a request, and read and book the reply. Where money is short, one may be cut: it is asked for again.

        Raises:
            RefusedError: it was refused for what it says or how it says it.
            RequestError: it brought nothing for any other reason.
            InputError: it was refused for a field that the user gave.
        """
        known = len(self._adaptation.learned)

        def judged(complaint: Complaint) -> RefusedError | RequestError | None:
            about_form = complaint.status in FORM_STATUS
            if complaint.kind is not None:
                return RefusedError(complaint, None)
            if about_form and len(self._adaptation.learned) > known:
                return RefusedError(complaint, "")  # another request has learned meanwhile
            said = RequestError("status", complaint.text, status=complaint.status)
            if complaint.status != 404 and stop_of(said, request.part):
                return None  # of the key or the credit
            if complaint.will_pass:
                return RequestError("status", f"HTTP {complaint.status}: {complaint.said}", status=429)
            lesson = self._adaptation.learn(complaint, body)
            if lesson is None and about_form:
                self._blame_settings(complaint)
            is_final = lesson or complaint.guess or complaint.status in (400, 422)
            return RefusedError(complaint, lesson) if is_final else None

        def read(found: Any) -> Reply:
            told, complaint = usage_of(found), complaint_in(found)
            try:
                if complaint is not None:
                    said = f"HTTP {complaint.status}: {complaint.said}"
                    wait_s = asked_wait_s({}, complaint.text)
                    raise judged(complaint) or RequestError(
                        "status", said, status=complaint.status, retry_after_s=wait_s
                    )
                reply = first_choice(found)
            except (RequestError, RefusedError):
                if told:
                    payment.book(told, None)
                raise
            payment.book(told, reply.message)
            return reply

        payment = self._payment(body, request)
        how: dict[str, Any] = {"body": body, "key": self._key, "timeout_s": self.timeout_s, "part": request.part}
        how |= {"hold": payment.hold, "refused": lambda status, text: judged(complaint_of(status, text))}
        url = self.base_url.rstrip("/") + "/chat/completions"
        while True:
            reply = await request.web.call(url, read, request.step, **how)
            if ending_of(reply.finish_reason) != "length" or not payment.was_short:
                return with_calls_read(reply, request.tools)
            request.step.failures.append(f"{self.model}: cut at the {payment.tokens} tokens that the ceiling left")

    def _payment(self, body: Mapping[str, Any], request: Request) -> Payment:
        """Set the terms for a request: where it has no field for the length of a reply, money can cut none short."""
        limit = next((name for name in (self.max_tokens_field, *LIMIT_FIELDS) if name in body), None)
        most = body[limit] if limit else self.max_output_tokens
        thought, name = _thinking_budget(self.extra_body), self._name_beside_another
        terms = Terms(self.prices, self.model, self.base_url, most, limit, thought, name)
        return Payment(terms, self.meter, request.step, request.part, (request.messages, request.tools))

    @property
    def _name_beside_another(self) -> str:
        return self.model if self.stands_in else ""

    def _blame_settings(self, complaint: Complaint) -> None:
        given = {name: f"'~agent.policy.extra_body.{name}'" for name in self.extra_body or {}}
        given |= {"reasoning_effort": "agent.policy.reasoning_effort=null"} if self.reasoning_effort else {}
        for name, without in given.items():
            if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", complaint.text):
                raise InputError(
                    f"{self.model} at {self.base_url} refuses {name}: {complaint.said}\n"
                    f"Leave it out:  {without}  (or of agent.extractor), or give another value."
                )

    def _shorter_output(self, refusal: RefusedError, body: dict[str, Any]) -> int:
        """Return how many tokens a reply may have for a conversation to fit that did not.

        Where a reply may fill more than a quarter of what the model can read, it may not from now on.

        Raises:
            ContextOverflowError: no useful reply would fit.
        """
        asked = most_output_of(body) or 0
        limit, used = refusal.complaint.lengths(asked)
        if limit is None or used is None or not asked:
            raise ContextOverflowError(str(refusal), limit=limit, used=used) from refusal
        least = min(asked, max(_LEAST_OUTPUT, limit // 8))
        room = limit - used - 16
        if not least <= room < asked:
            raise ContextOverflowError(str(refusal), limit=max(1, limit - least), used=used) from refusal
        quarter = max(_LEAST_OUTPUT, limit // 4)
        if asked > quarter:
            self._adaptation.limit_output(quarter)
        return min(room, quarter)


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
