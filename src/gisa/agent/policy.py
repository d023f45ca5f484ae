"""Who decides the next step: a chat model behind an OpenAI-compatible endpoint, or a script."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from src.gisa.agent.adaptation import FORM_STATUS, PLAINER, Adaptation, most_output_of, with_most_output
from src.gisa.agent.complaints import Complaint, complaint_in, complaint_of
from src.gisa.agent.completions import Reply as Reply  # for all who ask a policy, too
from src.gisa.agent.completions import ReplyTokens as ReplyTokens
from src.gisa.agent.completions import first_choice, with_calls_read
from src.gisa.agent.completions import text_of as text_of
from src.gisa.agent.cost import Charge, Part, PriceList, Step
from src.gisa.agent.fetch import RequestError
from src.gisa.agent.web import Key, Web
from src.gisa.chat.format import Message
from src.launch.errors import InputError
from src.launch.values import Count, Positive, Weight

_LEAST_OUTPUT = 256  # tokens that a reply is worth asking for
_MOST_LESSONS = 24  # changes of one request, after which its refusal is final


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

    Raises:
        InputError: the key is missing.
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

    def __post_init__(self) -> None:
        """Look for the key, and put together what every request holds."""
        self._key = Key(self.key_env)
        self._adaptation = Adaptation()
        self._fields = {"model": self.model, self.max_tokens_field: self.max_output_tokens, **(self.extra_body or {})}
        if self.temperature is not None:
            self._fields["temperature"] = self.temperature

    async def reply(self, request: Request) -> Reply:
        """See ``Policy``."""
        plain, output, plainness = self._body(request), None, 0
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
        """Send a request, and read and book the reply.

        Raises:
            RefusedError: it was refused for what it says or how it says it.
            RequestError: it brought nothing for any other reason.
            InputError: it was refused for a field that the user gave.
        """
        step, known = request.step, len(self._adaptation.learned)

        def judged(complaint: Complaint) -> RefusedError | None:
            about_form = complaint.status in FORM_STATUS
            if complaint.kind is not None:
                return RefusedError(complaint, None)
            if about_form and len(self._adaptation.learned) > known:
                return RefusedError(complaint, "")  # another request has learned meanwhile
            lesson = self._adaptation.learn(complaint, body)
            if lesson is None and about_form:
                self._blame_extra_body(complaint)
            is_final = lesson or complaint.guess or complaint.status in (400, 422)
            return RefusedError(complaint, lesson) if is_final else None

        def read(reply: Any) -> tuple[Reply, tuple[int, int]]:
            complaint = complaint_in(reply)
            if complaint is None:
                return first_choice(reply)
            raise judged(complaint) or RequestError(
                "status", f"HTTP {complaint.status}: {complaint.said}", status=complaint.status
            )

        url = self.base_url.rstrip("/") + "/chat/completions"
        with step.account.reserve(self._most_usd(body, step)):
            reply, usage = await request.web.call(
                url,
                read,
                step,
                body=body,
                key=self._key,
                timeout_s=self.timeout_s,
                refused=lambda status, text: judged(complaint_of(status, text)),
            )
            step.charge(Charge(request.part, *usage, usd=self.prices.usd(self.model, *usage)))
        return with_calls_read(reply, request.tools)

    def _blame_extra_body(self, complaint: Complaint) -> None:
        for name in self.extra_body or {}:
            if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", complaint.text):
                raise InputError(
                    f"{self.model} at {self.base_url} refuses {name}: {complaint.said}\n"
                    f"Leave it out:  '~agent.policy.extra_body.{name}'  (or of agent.extractor), or give another value."
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

    def _most_usd(self, body: Mapping[str, Any], step: Step) -> float:
        """Bound the price of a request: no token is shorter than a byte, and no reply longer than allowed."""
        if not step.account.is_limited:
            return 0.0
        most = self.prices.usd(self.model, len(json.dumps(body)), self.max_output_tokens)
        if most is None:
            raise InputError(
                f"The price list of {self.prices.date} does not know {self.model!r}, so no ceiling holds.\n"
                f"Add it:  agent.prices.models:  {self.model}: {{prompt: <USD per million tokens>, completion: ...}}\n"
                "or run without ceilings:  agent.question_usd=null agent.run_usd=null"
            )
        return most


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
