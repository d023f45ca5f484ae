"""What a server says when it refuses a request: read from whatever form it has, and what it is about."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from src.gisa.agent.dialects import GUESSES, KINDS, LONG_ID, Kind, Wording, ending_of
from src.gisa.agent.fetch import RETRYABLE_STATUS

_LIMITS = "rate.?limit|too many requests|throttl|per[ _]min|per[ _]day|quota|try again (?:in|later)|please wait"
# The numbers in a refusal for length. A total holds what was asked to be written, too.
_LIMIT = (
    r"context window limit \((?P<n>\d+)",
    r"max_seq_len\W+(?P<n>\d+)",
    r"tokens > (?P<n>\d+)",
    r"\+ \d+ > (?P<n>\d+)",
    r"max(?:imum)?[a-z_' ]*(?:length|size|tokens?|allowed|limit)[a-z' ]*[ :(]+(?P<n>\d{3,})",
    r"(?:context|prompt|input|model|sequence) (?:length|size|limit|window)(?: is| of|:| is only)? ?\(?(?P<n>\d+)",
    r"(?:maximum|limit)[a-z' ]*(?:is|of|:|\(|allowed)? ?\(?(?P<n>\d{3,})",
    r"n_ctx\W+(?P<n>\d+)",
    r"\[\d+, ?(?P<n>\d+)\]",
    r"with (?P<n>\d+) maximum context",
    r"(?:<=|less than) (?P<n>\d+)",
    r"limit:? ?(?P<n>\d+)",
)
_PROMPT = (
    r"(?P<n>\d+) (?:tokens )?(?:in|from|of) (?:the |your )?(?:text )?(?:input|messages|prompt)",
    r"(?P<n>\d+) input tokens",
    r"given: (?P<n>\d+)",
    r"(?:prompt|input|request|messages|current)[a-z' ]*[ :(]+(?P<n>\d{2,})",
    r"n_prompt_tokens\W+(?P<n>\d+)",
    r"(?P<n>\d+) tokens >",
    r"(?P<n>\d+) \+ \d+ >",
)
# A reply may not be so long: the field is named, and a bound, and nothing that has to be read.
_OUTPUT = r"max(?:imum)?[ _]?(?:completion|output|new)?[ _]?tokens|completion tokens|number of output"
_BOUND = (
    r"[<>]|less than|at most|lower than|range|between|exceed|too (?:large|big|high)|(?:must|should) be|maximum|取值"
)
_NOT_OUTPUT = r"context(?!_)|\bprompt|\binputs?\b(?! should be)|\bstream|at least|_len\b"
_CODE = r"\b(?:\w*code|status): \d{3}\b"
_TOTAL = (r"requested:? (?:a total of |about )?(?P<n>\d+)",)

_BEHIND = re.compile(r"Failed to parse input at pos \d+: (.*)", re.DOTALL)
_ECHOES = {"input", "failed_generation", "ctx", "url", "user_id", "request_id", "content_filter_result"}
_MOST_CHARS = 6000


@dataclass(frozen=True)
class Complaint:
    """What a server says is wrong.

    Attributes:
        status: HTTP status, or the one that an error with status 200 names; 500 where it names none.
        text: All that it says in lower case on one line: code, type, message and errors within; not what it echoes.
        said: Its message as it is written, for people.
        written: What the model wrote, where the server shows it with the error.
    """

    status: int
    text: str
    said: str = ""
    written: str = ""

    @property
    def kind(self) -> Kind | None:
        """What it is about, where no change of a field would help."""
        too_large = re.search(r"request too large.*limit:? ?\d+,? requested", self.text)  # more than a minute may have
        if self.status in (401, 402) or (self.status == 429 and not too_large) or re.search(LONG_ID, self.text):
            return None
        if too_large or self.status == 413 or (self.status == 400 and not self.text):  # Cerebras: no body
            return "overflow"
        return self._means(KINDS)

    @property
    def guess(self) -> Kind | None:
        """What it seems to be about, where it is in the way of no field."""
        return self._means(GUESSES) if self.status in (400, 403, 413, 422, 451) else None

    @property
    def will_pass(self) -> bool:
        """Whether a server says with the status of a bad request that it is busy: Bedrock, Anthropic."""
        return self.status == 400 and re.search("throttl|overloaded|too many requests", self.text) is not None

    def _means(self, table: tuple[Wording, ...]) -> Kind | None:
        is_limited = re.search(_LIMITS, self.text) is not None
        meant = next((wording.means for wording in table if re.search(wording.pattern, self.text)), None)
        is_of_output = meant == "overflow" and self.most_output(10**9) is not None
        return None if is_of_output or (meant == "overflow" and is_limited) else meant  # type: ignore[return-value]

    def lengths(self, max_output: int) -> tuple[int | None, int | None]:
        """Return how many tokens the model can read and write together, and how many the request had to read."""
        text = re.sub(_CODE, "", self.text)
        limit = _number(_LIMIT, text)
        prompt, total = _number(_PROMPT, text, limit), _number(_TOTAL, text, limit)
        if prompt is None and total is not None:
            prompt = total - max_output if total > max_output else total
        return limit, prompt

    def most_output(self, asked: int) -> int | None:
        """Return how many tokens a reply may have, where that is what it says, and it is less than ``asked``."""
        if re.search(_NOT_OUTPUT, self.text) or not all(re.search(words, self.text) for words in (_OUTPUT, _BOUND)):
            return None
        told = (int(number) for number in re.findall(r"(?<![-\w])\d+\b", re.sub(_CODE, "", self.text)))
        numbers = [number for number in told if 64 <= number < asked]
        return max(numbers) - bool(re.search(r"lower than|exclusive", self.text)) if numbers else None


def complaint_of(status: int, body: Any) -> Complaint:
    """Read the body of a refusal, JSON decoded or as text, in whatever form it is."""
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            body = body if "<html" not in body.lower() else re.sub(r"<[^>]*>", " ", body)
    words: list[str] = []
    written: list[str] = []
    _collect(body, "", words, written)
    text = " ".join(" ".join(words).replace("\\n", " ").replace("\\", "").lower().split())
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)[:_MOST_CHARS]
    messages = [word.partition(": ")[2] for word in words if word.startswith(("message: ", "raw: "))]
    message = " ".join(messages or words)
    if behind := _BEHIND.search(message):  # llama.cpp shows what it could not read behind where
        written.append(behind[1])
    return Complaint(status, text, " ".join(message.split())[:300], "".join(written))


def complaint_in(body: Any) -> Complaint | None:
    """Find the error in a reply with status 200; None if there is none.

    Routers put it at the top, as an object, a text or within a list, or beside the message of the choice.
    """
    if isinstance(body, list) and len(body) == 1:
        return complaint_in(body[0])
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    if body.get("error"):
        return complaint_of(_status_in(body["error"]), body["error"])
    if choice.get("error"):  # the request was taken: whatever it names, another one may do better
        status = _status_in(choice["error"])
        return complaint_of(status if status in RETRYABLE_STATUS else 500, choice["error"])
    told, message = (
        body.get("base_resp"),
        choice.get("message"),
    )  # of MiniMax, with an empty reply where a filter took it
    is_empty = not (isinstance(message, dict) and message.get("content"))
    if isinstance(told, dict) and told.get("status_code") and is_empty:
        return complaint_of(_status_in(told), told)
    if choice:
        failed = ending_of(choice.get("finish_reason")) == "failed"
        said = f"finish_reason: {choice.get('finish_reason')}"
        return Complaint(500, said.lower(), said) if failed else None
    says_why = {"message", "msg", "error_msg", "detail", "promptFeedback", "prompt_feedback", "errors"} & body.keys()
    return complaint_of(_status_in(body), body) if body.get("object") == "error" or says_why else None


def _number(patterns: tuple[str, ...], text: str, other: int | None = None) -> int | None:
    """Return the first number that a pattern finds, and that is not the ``other``."""
    numbers = (int(found["n"]) for pattern in patterns for found in re.finditer(pattern, text))
    return next((number for number in numbers if number != other), None)


def _status_in(error: Any) -> int:
    """Return the HTTP status that an error names."""
    if isinstance(error, dict):
        for name in ("code", "status", "status_code", "http_code"):
            if re.fullmatch(r"[45]\d\d", str(error.get(name))):
                return int(error[name])
        inner = error.get("error")
        return _status_in(inner) if inner else 500
    return 500


def _collect(node: Any, name: str, words: list[str], written: list[str]) -> None:
    """Gather what an error says, down to its leaves."""
    if name == "failed_generation" and isinstance(node, str):
        written.append(node)
    elif isinstance(node, dict):
        for key, value in node.items():
            if str(key) not in _ECHOES or str(key) == "failed_generation":
                _collect(value, str(key), words, written)
    elif isinstance(node, list):
        if name == "loc":
            words.append(f"{name}: {'.'.join(map(str, node))}")
        else:
            for value in node:
                _collect(value, name, words, written)
    elif node is not None:
        words.append(f"{name}: {node}" if name else str(node))
