"""What is done with a conversation that outgrows what the model can read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from src.gisa.agent.completions import text_of
from src.gisa.agent.cost import Step
from src.gisa.agent.policy import ContextOverflowError, Policy, Request
from src.gisa.agent.prompts import compacted, summary_request
from src.gisa.agent.trajectory import Episode
from src.gisa.chat.format import Message
from src.launch.values import Count, Share

_TRIES = 4  # of one reply with calls; then the answer is asked for
_FORCED_TRIES = 5  # of the answer, each with half of what was shown before
_FORCED_SHARE = 0.8  # of what the model can read, for the answer: it needs no room for further results
_NOTES_SHARE = 0.2
_LEAST_CHARS = 100  # of a result that can still be clipped; what says that it was clipped is shorter
_CHARS_A_TOKEN = 3.0  # a cautious guess, for text that no server has counted yet


@dataclass(frozen=True)
class Compaction:
    """How a conversation is made to fit.

    Whole turns are taken out, a call with its result, the oldest first; the question always stays. Whatever is chosen,
    a conversation that fits in no other way is cut down for one last reply, the answer.

    Attributes:
        method: ``none`` asks for the answer at once, ``trim`` goes on without the oldest turns, ``summarise`` with the
            model's own notes on them.
        context_tokens: What the model can read; None waits until it refuses, which some servers never do.
        at_share: Part of it at which something is done, where it is known.
        keep_share: Part of it that the newest turns may take up afterwards.
    """

    method: Literal["none", "trim", "summarise"] = "none"
    context_tokens: Count | None = None
    at_share: Share = 0.8
    keep_share: Share = 0.5

    def is_due(self, episode: Episode, turn: int) -> bool:
        """Whether what a turn begins with is close to what the model can read."""
        return self.context_tokens is not None and _used(episode, turn) >= self.at_share * self.context_tokens

    async def make_room(
        self, policy: Policy, episode: Episode, turn: int, number: int, overflow: ContextOverflowError | None = None
    ) -> bool:
        """Cut down an episode's messages, or do again what its journal says; return whether the answer must follow.

        Args:
            policy: Writes the notes.
            episode: Its messages are replaced; its journal gets the step ``compaction/<turn>/<number>``.
            turn: The turn of the reply that is to come.
            number: How often that was done in this turn.
            overflow: The refusal; None before any.

        Raises:
            ContextOverflowError: nothing is left that could be taken out.
        """

        async def shorten(step: Step) -> dict[str, Any]:
            used, limit = (overflow.used, overflow.limit) if overflow else (_used(episode, turn), self.context_tokens)
            size = _size(episode.messages)
            most = size * min(0.95, limit / used) if used and limit else size * 0.9
            opening, turns, closing = parts(episode.messages)
            is_forced = self.method == "none" or number >= _TRIES or not turns
            tried = number - (_TRIES if is_forced and self.method != "none" else 0)
            room = int(most * (_FORCED_SHARE if is_forced else self.keep_share) / 2**tried)
            if overflow and (tried > _FORCED_TRIES or (not turns and number)):
                raise overflow
            kept = 0 if tried == _FORCED_TRIES else _kept(turns, room - _size([*opening, *closing]))
            notes = None
            if self.method == "summarise" and not is_forced and kept < len(turns):
                request = Request((), (), step, episode.web, may_call=False, part="compaction")
                notes = await _summary(policy, request, episode.messages, turns[: len(turns) - kept], int(most))
            method, left_out = "forced" if is_forced else self.method, len(turns) - kept
            said = f"{left_out} of {len(turns)} steps are left out ({method})."
            return {
                "method": method,
                "content": said if notes is None else f"{said} Notes on them:\n{notes}",
                "left_out_turns": left_out,
                "room_chars": room,
                "chars_before": size,
                "notes": notes,
            }

        made = await episode.journal.step(f"compaction/{turn}/{number}", episode.account, shorten)
        episode.messages[:] = cut_down(episode, made)
        episode.left_out_turns += made["left_out_turns"]
        return bool(made["method"] == "forced")


def cut_down(episode: Episode, made: dict[str, Any]) -> list[Message]:
    """Return an episode's messages without their oldest turns, with a note on them, and within the room there is."""
    opening, turns, closing = parts(episode.messages)
    kept = turns[made["left_out_turns"] :]
    left_out = episode.left_out_turns + made["left_out_turns"]
    if left_out:
        episode.notes = made["notes"] or episode.notes
        told = compacted(episode.attempt.question, left_out, episode.notes)
        opening = [opening[0], {**opening[1], "content": told}, *opening[2:]]
    room = made["room_chars"] - _size([*opening, *closing])
    messages = [message for turn in kept for message in turn]
    while (excess := _size(messages) - room) > 0:  # the newest turn alone is too large
        longest = max(messages, key=lambda said: len(said["content"]) if said["role"] == "tool" else 0, default={})
        if longest.get("role") != "tool" or len(longest["content"]) < _LEAST_CHARS:
            break
        clipped = {**longest, "content": clip(longest["content"], len(longest["content"]) - excess)}
        messages = [clipped if message is longest else message for message in messages]
    return [*opening, *messages, *closing]


def parts(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]], list[Message]]:
    """Split a conversation into its opening, its turns, each begun by the assistant, and what was said to it last."""
    last = len(messages)
    starts = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    while starts and messages[last - 1]["role"] == "user":
        last -= 1
    ends = [*starts[1:], last]
    turns = [list(messages[at:end]) for at, end in zip(starts, ends, strict=True)] if starts else []
    return list(messages[: starts[0] if starts else last]), turns, list(messages[last:])


def clip(text: str, most: int) -> str:
    """Return the beginning of a result, about so many characters, with its enclosure closed."""
    if len(text) <= most:
        return text
    head = text[: max(0, most - _LEAST_CHARS)]
    closing = "\n</untrusted>" * (head.count("<untrusted>") - head.count("</untrusted>"))
    return f"{head}{closing}\n[{len(text) - len(head):,} characters are left out.]"


def _kept(turns: Sequence[Sequence[Message]], room: int) -> int:
    """Return how many of the newest turns fit, but at least the newest, which can be clipped."""
    kept, used = 0, 0
    for turn in reversed(turns):
        used += _size(turn)
        if used > room and kept:
            break
        kept += 1
    return kept


async def _summary(
    policy: Policy, request: Request, messages: Sequence[Message], turns: Sequence[Sequence[Message]], most_chars: int
) -> str | None:
    """Have notes written on turns that are about to be left out; None if that fails, too."""
    room = int(most_chars * 0.6)
    for _ in range(_TRIES):
        told = "\n\n".join(_told(message, room // 4) for turn in turns for message in turn)
        asked = summary_request(messages[1]["content"], told[-room:], words=max(60, int(most_chars * _NOTES_SHARE / 8)))
        try:
            reply = await policy.reply(replace(request, messages=asked))
        except ContextOverflowError:
            room //= 2
            continue
        return clip(text_of(reply.message).strip(), int(most_chars * _NOTES_SHARE)) or None
    return None


def _told(message: Message, most: int) -> str:
    """Write a message of a turn as plain text."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls") or []]
    said = clip(text_of(message), most)
    return f"[{message['role']}] " + "\n".join(filter(None, [said, *calls]))


def _used(episode: Episode, turn: int) -> int:
    """Return how many tokens the next request has: those that the server counted last, and what came since."""
    counted: int = sum(
        charge["prompt_tokens"] + charge["completion_tokens"]
        for charge in episode.journal.charges(f"reply/{turn - 1}")
        if charge["part"] == "chain"
    )
    last = max((at for at, message in enumerate(episode.messages) if message["role"] == "assistant"), default=-1)
    since = episode.messages[last + 1 :] if counted else episode.messages
    return counted + int(_size(since) / _CHARS_A_TOKEN)


def _size(messages: Sequence[Message]) -> int:
    return sum(len(json.dumps(message, ensure_ascii=False)) for message in messages)
