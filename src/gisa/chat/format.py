"""How a conversation is written for a chat model, how its replies are read, and which tokens the assistant wrote."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from src.gisa.chat.plain import PROBE, PROBE_TOOLS, PROBED, joined
from src.gisa.chat.plain import in_plain_text as in_plain_text
from src.gisa.chat.plain import with_parsed_arguments as with_parsed_arguments
from src.gisa.chat.reply import MARK, begun_thought
from src.gisa.chat.reply import Message as Message
from src.gisa.chat.reply import read_reply as read_reply  # for all who write, too
from src.launch.errors import InputError

log = logging.getLogger("run")

_THE_TEMPLATE = "The model's chat template "


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

    A conversation with all that happens to an agent is written with it and read again, at once. A template that keeps
    every word of it is given tools, calls and results; for any other, tools are described in the system message, and
    calls and results are written as plain text; and one that refuses a system message, or drops it, finds its text in
    the first question.

    Args:
        tokenizer: As transformers loads it.
        ends: Ids of tokens that end a reply, beside the tokenizer's own; see ``end_tokens``.

    Attributes:
        knows_tools: Whether the template is given tools.
        ends: Ids of all tokens that end a reply; the one that the template ends a turn with is among them.
        remarks: What the template would have dropped or refused, and what is done instead.

    Raises:
        InputError: there is no chat template or no token that ends a reply, or the template drops or refuses what an
            agent cannot do without, even as plain text.
    """

    def __init__(self, tokenizer: Any, ends: Collection[int] = ()) -> None:
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise InputError(
                "The model's tokenizer has no chat template, so I cannot write a conversation for it.\n"
                "Use a model made for chats; their names mostly end in -Instruct, -Chat or -it."
            )
        special = {str(token): at for at, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")
        self.ends = {*ends, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])}
        self.ends |= {special[end] for end in self._own_end()}
        if not self.ends:
            raise InputError("The model has no token that ends a reply (eos_token); its replies would never end.")
        self._end = re.compile("|".join(map(re.escape, self._names_of_ends())) or r"(?!)")
        self.remarks = self._choose()
        for remark in self.remarks:
            log.info(remark)

    def _own_end(self) -> list[str]:
        """Return the control token that the template ends a turn of the assistant with, if it does."""
        try:
            text = self._rendered(
                [{"role": "user", "content": "?"}, {"role": "assistant", "content": "probe"}], (), False
            )
        except Exception:  # as any template may raise anything; what it refuses is said later
            return []
        tail = text.rpartition("probe")[2]
        return [] if self._special.sub("", tail).strip() else self._special.findall(tail)[:1]

    def _names_of_ends(self) -> list[str]:
        """Return the ends as they are written; a word that ends replies would be found in the middle of others."""
        written = {*self.tokenizer.added_tokens_decoder, self.tokenizer.eos_token_id}
        return list(map(str, self.tokenizer.convert_ids_to_tokens(sorted(self.ends & written))))

    def _choose(self) -> list[str]:
        """Find the first way of writing that keeps everything; return what the better ones would not."""
        found: dict[str, None] = {}
        for way in ((True, True), (False, True), (False, False)):
            self.knows_tools, self._takes_system = way
            if not (faults := self._faults()):
                instead = "calls are written as plain text" + (
                    "" if way[1] else ", system messages as part of questions"
                )
                return [f"{_THE_TEMPLATE}{'; '.join(found)}: {instead}."] if found else []
            found |= dict.fromkeys(faults)
        raise InputError(
            f"{_THE_TEMPLATE}{'; '.join(faults)}. So no agent's conversation can be written with it, not even with "
            "calls as plain text.\nUse a model with another template, or give its tokenizer one."
        )

    def _faults(self) -> list[str]:
        """Write a conversation of all kinds of turns and read it again; return what of it is lost."""
        conversation: list[Message] = []
        text, unread = "", []
        for what, turn in PROBE:
            conversation += turn
            own = turn[0]["role"] == "assistant"
            try:
                text = self._strictly(conversation, PROBE_TOOLS, not own)
            except Exception as error:  # as any template may raise anything
                return [f"refuses {what} ({type(error).__name__}: {str(error)[:200]})"]
            if own:
                try:
                    read = self.read(*self._turn(conversation, len(conversation) - 1, PROBE_TOOLS), PROBE_TOOLS)
                except InputError as error:
                    return [str(error).removeprefix(_THE_TEMPLATE)]
                if sense_of(read) != sense_of(turn[0]):
                    unread.append(what)
        parts: list[tuple[str, Any]] = [("the tools", PROBE_TOOLS), *PROBE]
        lost = [what for what, part in parts if not all(word in text for word in PROBED.findall(json.dumps(part)))]
        altered = [f"writes {what} so that it cannot be read again" for what in unread if what not in lost]
        return [*([f"drops {', '.join(lost)}"] if lost else []), *altered]

    def text(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[Mapping[str, Any]], *, reply_follows: bool = True
    ) -> str:
        """Write a conversation in the form of the chat completions API, up to where a reply begins if one follows.

        Control tokens within the messages are broken by a space: pages must not be able to forge a speaker.
        """
        if self.knows_tools:
            try:
                return self._strictly(messages, tools, reply_follows)
            except Exception:  # no template may end an episode over a turn that the probe has not foreseen
                plain = in_plain_text(self._prepared(messages), tools, system=False)
                return self._rendered(plain, (), reply_follows)
        return self._strictly(messages, tools, reply_follows)

    def _strictly(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], reply_follows: bool) -> str:
        safe = self._prepared(messages)
        if self.knows_tools:
            return self._rendered(safe, tools, reply_follows)
        return self._rendered(in_plain_text(safe, tools, system=self._takes_system), (), reply_follows)

    def _prepared(self, messages: Sequence[Message]) -> list[Message]:
        """Return messages in the one form that templates know, with nothing in them that forges a speaker."""
        plain = [{**said, "content": joined(said)} for said in with_parsed_arguments(messages)]
        prepared: list[Message] = self._safe(plain)
        return prepared

    def _safe(self, said: Any) -> Any:
        if isinstance(said, str):
            broken = self._special.sub(lambda token: f"{token[0][0]} {token[0][1:]}", said)
            return broken.encode("utf-8", "replace").decode()
        if isinstance(said, Mapping):
            return {self._safe(key): self._safe(value) for key, value in said.items()}
        return [self._safe(part) for part in said] if isinstance(said, (list, tuple)) else said

    def encoded(self, text: str) -> list[int]:
        """Return the tokens of a text, control tokens included."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def text_of(self, tokens: Sequence[int]) -> str:
        """Return what tokens say, without control tokens but those that are part of calls and thoughts."""
        text = str(self.tokenizer.decode(tokens, skip_special_tokens=False))
        kept = self._special.sub(lambda token: token[0] if MARK.search(token[0]) else "", text)
        return self._end.sub("", kept)

    def read(self, prompt: str, reply: str, tools: Sequence[Mapping[str, Any]]) -> Message:
        """Read what a model wrote behind a prompt; see ``read_reply``."""
        thought = begun_thought(prompt)
        names = [tool["function"]["name"] for tool in tools]
        said = read_reply(self._end.split(reply)[0], names, tools=tools, thinking=bool(thought and thought[1]))
        return {**said, "content": self._special.sub("", said["content"]).strip()}  # marks of calls that are none

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
            before, own = self._turn(messages, at, tools)
            after = before + own
            if texts and before.startswith(texts[-1][0]):
                texts[-1] = after, [*texts[-1][1], len(before), len(after)]
            else:
                texts.append((after, [len(before), len(after)]))
        return [self._marked(text, list(zip(bounds[::2], bounds[1::2], strict=True))) for text, bounds in texts]

    def _turn(self, messages: Sequence[Message], at: int, tools: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
        """Return what a turn of the assistant is written behind, and the turn as it is written there, with its end.

        Where a reply begins within a thought that the template does not keep or end, the turn ends it first; white
        space that is kept in one of both places only counts for nothing. Where the beginning of the next turn ends one,
        that is its end.

        Raises:
            InputError: see ``marked``.
        """
        before = self.text(messages[:at], tools)
        after = self.text(messages[: at + 1], tools, reply_follows=False)
        thought, closing = begun_thought(before) or ("", "")
        if after.startswith(before):
            own = after[len(before) :]
        else:
            stem = before.removesuffix(thought).rstrip()
            if not after.startswith(stem):
                raise InputError(
                    f"{_THE_TEMPLATE}writes a turn of the assistant in another place than where its reply begins, so "
                    "what it would learn is not what it is asked for"
                )
            own = after[len(stem) :].lstrip().removeprefix(thought.strip())
        if closing and closing not in own:
            own = f"\n{closing}\n\n{own.lstrip()}"
        end = self._end.search(own)
        if end is None:
            calls = messages[at].get("tool_calls") or []
            results = [{"role": "tool", "tool_call_id": call["id"], "content": "?"} for call in calls]
            bare = [{key: said[key] for key in said if key != "reasoning_content"} for said in messages[: at + 1]]
            follows = [*bare, *(results or [{"role": "user", "content": "?"}])]  # that some drop in turns that are past
            shown, more = (self.text(said, tools, reply_follows=False) for said in (bare, follows))
            end = re.match(rf"\s*(?:{self._end.pattern})", more.removeprefix(shown))
            if end is None:
                raise InputError(
                    f"{_THE_TEMPLATE}ends a turn of the assistant with none of the tokens that end a reply "
                    f"({self._names_of_ends()}), so the model would never learn to stop"
                )
            return before, own + end[0]
        return before, own[: end.end()] if self._special.search(own, end.end()) else own

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
            last = next(at for at in inside if tokens[at] in self.ends)
            own = inside[: inside.index(last) + 1]
            action = text[begin : offsets[last][0]]
            told = str(self.tokenizer.decode([tokens[at] for at in own[:-1]]))  # some leave out a first space
            if told != action and (f" {told}" != action or offsets[own[0]][0] != begin):
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
        settings: dict[str, Any] = {"add_generation_prompt": reply_follows, "tokenize": False}
        try:
            return str(self.tokenizer.apply_chat_template(list(messages), tools=list(tools) or None, **settings))
        except TypeError:  # some templates go through the tools even if there are none
            return str(self.tokenizer.apply_chat_template(list(messages), tools=list(tools), **settings))


def load_chat_format(name: str) -> ChatFormat:
    """Load the tokenizer of a model, a hub name or a folder written by ``save_pretrained``, without the model.

    Raises:
        InputError: there is no tokenizer by that name; or see ``ChatFormat``.
    """
    from transformers import (
        AutoConfig,
        AutoTokenizer,
        GenerationConfig,
    )  # seconds of imports that --help must not wait for

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # unknown names and torn files end in errors of a dozen types
        raise InputError(
            f"agent.policy.name={name!r}: no tokenizer could be loaded by that name:\n{error}\n"
            "Type a hub name or a folder written by save_pretrained:  agent.policy.name=path/to/folder"
        ) from error
    settings = None
    for kind in (AutoConfig, GenerationConfig):
        with suppress(Exception):  # a tokenizer's folder need not have either
            settings = kind.from_pretrained(name)
    return ChatFormat(tokenizer, end_tokens(settings))


def end_tokens(settings: Any) -> list[int]:
    """Return the ids of tokens that end a reply by the ``generation_config`` of a model, or else its config, if any."""
    ends = getattr(settings, "eos_token_id", None)
    return [int(end) for end in ends] if isinstance(ends, (list, tuple)) else [] if ends is None else [int(ends)]


def sense_of(message: Message) -> tuple[str, list[tuple[str, Any]]]:
    """Return what a message says and calls, however its arguments are spelt."""
    calls = []
    for call in (call["function"] for call in message.get("tool_calls") or []):
        try:
            calls.append((call["name"], json.loads(call["arguments"])))
        except ValueError:
            calls.append((call["name"], None))
    return joined(message).strip(), calls
