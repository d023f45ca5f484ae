"""A policy that generates with a transformers model in this process, many episodes at once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict
from weakref import WeakKeyDictionary

from src.gisa.agent.cost import Charge
from src.gisa.agent.policy import ContextOverflowError, Reply, ReplyTokens, Request
from src.gisa.chat.format import Message
from src.launch.errors import InputError, resume_command
from src.launch.precision import Dtype
from src.launch.record import older_version
from src.launch.values import Count, Seed, Weight

if TYPE_CHECKING:
    from src.gisa.chat.generation import ChatModel, Generation, Generator

log = logging.getLogger("run")

_GATHER_S = 0.01  # how long a batch waits for others to join: nothing beside the seconds that it takes


@dataclass(frozen=True, eq=False)
class Waiting:
    """A conversation that waits for its reply."""

    tokens: list[int]
    seed: Seed
    reply: asyncio.Future[Generation] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class ExampleCall(TypedDict):
    """A tool call of a worked episode, and what it brought."""

    name: str
    arguments: dict[str, Any]
    result: str


class Example(TypedDict):
    """A worked episode."""

    question: str
    calls: list[ExampleCall]
    answer: str


@dataclass(eq=False)
class LocalPolicy:
    """A chat model in this process.

    Requests that come while it generates are collected and answered together. Its calls are parsed from what it
    writes; see ``ChatFormat`` for how conversations are written, and which models are refused.

    Attributes:
        name: Hub name, or a folder written by ``save_pretrained``.
        dtype: Type of the weights in memory; ``auto`` is bfloat16 where the device multiplies it.
        device: Where to compute, such as ``cpu`` or ``cuda:1``.
        temperature: Of sampling; 0 takes the likeliest token.
        seed: Of sampling. Each reply has a generator of its own, seeded by this number, its place in the run and the
            conversation, so that it does not depend on which requests happened to come together.
        max_output_tokens: Most tokens of one reply; never more than half of what the model can read and write.
        batch_size: Most conversations at once.
        remembered_gb: Most memory for what the model has read, in GB (10^9 bytes) on its device, so that a turn reads
            only what is new; 0 reads everything again. It lasts as long as the event loop: weights that go on learning
            do so between two rollouts, each of which has a loop of its own.
        examples: Worked episodes that are shown before the question, where there are tools; see ``worked``.
        model: A ``ChatModel`` that is there already and goes on learning, instead of the weights of that name.
        remarks: What is not as it was asked for, or not as the model's template would have it.
        manifest: What the weights have learnt from, where their folder says so, in ``manifest.json``; see
            ``src.gisa.dataset.contamination``.

    Raises:
        InputError: no chat model could be loaded by that name, or the memory is less than 0.
    """

    name: str
    dtype: Dtype = "float32"
    device: str = "cpu"
    temperature: Weight = 0.0
    seed: Seed = 1
    max_output_tokens: Count = 8192
    batch_size: Count = 16
    remembered_gb: Weight = 0.0
    examples: Sequence[Example] = ()
    model: Any = None
    manifest: dict[str, Any] | None = field(default=None, init=False)
    remarks: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Load the model."""
        if not self.remembered_gb >= 0:
            raise InputError(
                f"agent.policy.remembered_gb={self.remembered_gb}: I need a number of at least 0; 0 is off."
            )
        _refuse_older(Path(self.name), f"agent.policy.name={self.name}")
        from src.gisa.chat.generation import load_chat_model  # seconds of imports that --help must not wait for

        self._model: ChatModel = self.model or load_chat_model(self.name, dtype=self.dtype, device=self.device)
        self.remarks += self._model.remarks
        context = self._model.context_tokens
        self._most = self.max_output_tokens if context is None else min(self.max_output_tokens, max(1, context // 2))
        if self._most < self.max_output_tokens:
            self.remarks.append(
                f"agent.policy.max_output_tokens={self.max_output_tokens} would leave too little of the model's "
                f"{context} tokens to read: replies have at most {self._most}."
            )
            log.warning(self.remarks[-1])
        manifest = Path(self.name) / "manifest.json"
        if manifest.is_file():
            self.manifest = json.loads(manifest.read_bytes())
        self._generators: WeakKeyDictionary[asyncio.AbstractEventLoop, Generator] = WeakKeyDictionary()
        self._examples = [message for number, shown in enumerate(self.examples) for message in worked(shown, number)]
        self._waiting: list[Waiting] = []
        self._at_work: asyncio.Task[None] | None = None

    async def reply(self, request: Request) -> Reply:
        """See ``Policy``."""
        messages, tools, step = request.messages, request.tools, request.step
        shown = [*messages[:1], *self._examples, *messages[1:]] if tools else list(messages)
        prompt = self._model.text(shown, tools)
        tokens = self._model.encoded(prompt)
        context = self._model.context_tokens
        if context is not None and len(tokens) + self._most > context:
            raise ContextOverflowError(
                f"{len(tokens)} tokens to read and {self._most} to write, for a model of {context}",
                limit=context - self._most,
                used=len(tokens),
            )
        identity = f"{self.seed} {step.name} {tokens}".encode()
        waiting = Waiting(tokens, int.from_bytes(hashlib.sha256(identity).digest()[:8]))
        self._waiting.append(waiting)
        if self._at_work is None or self._at_work.done():
            self._at_work = asyncio.create_task(self._work())
        generation = await waiting.reply
        written = [*generation.tokens, *([] if generation.end is None else [generation.end])]
        step.charge(Charge(request.part, len(tokens), len(written)))
        message = self._model.read(prompt, self._model.text_of(generation.tokens), tools)
        if not generation.ended:
            message.pop("tool_calls", None)  # the last of them is cut short
            return Reply(message, "length", ReplyTokens(tokens, written))
        for number, call in enumerate(message.get("tool_calls", [])):  # some templates want ids of this form
            call["id"] = hashlib.sha256(identity + b"%d" % number).hexdigest()[:9]
        reason = "tool_calls" if "tool_calls" in message else "stop"
        return Reply(message, reason, ReplyTokens(tokens, written))

    async def _work(self) -> None:
        """Generate until nobody waits."""
        loop = asyncio.get_running_loop()
        if loop not in self._generators:
            self._generators[loop] = self._new_generator()
        generator = self._generators[loop]
        try:
            while self._waiting:
                await self._gather()
                batch = self._next_batch()
                if not batch:
                    return
                replies: Sequence[Generation | Exception]
                try:
                    replies = await asyncio.to_thread(self._generate, batch, generator)
                except Exception as error:
                    replies = [error] * len(batch)
                for waiting, reply in zip(batch, replies, strict=True):
                    with suppress(asyncio.InvalidStateError):  # its episode has given up meanwhile
                        if isinstance(reply, Exception):
                            waiting.reply.set_exception(reply)
                        else:
                            waiting.reply.set_result(reply)
        finally:
            self._at_work = None  # which would hold the loop, and so the generator and what it remembers

    def _new_generator(self) -> Generator:
        """Return what generates for one event loop; a method of its own for tests."""
        from src.gisa.chat.generation import CachedGenerator

        return CachedGenerator(self._model, self.remembered_gb * 1e9)

    async def _gather(self) -> None:
        """Wait until a batch is full or nobody joins it any more."""
        before = 0
        while before < len(self._waiting) < self.batch_size or not before:
            before = len(self._waiting)
            await asyncio.sleep(_GATHER_S)

    def _next_batch(self) -> list[Waiting]:
        """Take the one that waits longest, with those of about its length: all are padded to the longest.

        One more row costs less than another batch, which reads the weights again for every token: none is left out.
        """
        waiting = [request for request in self._waiting if not request.reply.done()]  # done: its episode gave up
        batch = sorted(waiting, key=lambda other: abs(len(other.tokens) - len(waiting[0].tokens)))[: self.batch_size]
        self._waiting = [request for request in waiting if request not in batch]
        return batch

    def _generate(self, batch: Sequence[Waiting], generator: Generator) -> list[Generation]:
        return generator.generate(
            [request.tokens for request in batch],
            seeds=[request.seed for request in batch],
            max_tokens=self._most,
            temperature=self.temperature,
        )


def smollm2_folder() -> str:
    """Return the folder of SmolLM2; see ``src.model.smollm2.local_folder``."""
    from src.model.smollm2 import local_folder

    return local_folder()


def trained_folder(checkpoint: str | None) -> str:
    """Return the folder of the model that a run of imitation has trained, given its ``checkpoints/best.ckpt``.

    Raises:
        InputError: there is no such checkpoint, it is not the one whose weights were selected, or the run did not end
            with a model.
    """
    if checkpoint is None or not Path(checkpoint).is_file():
        raise InputError(
            f"checkpoint={checkpoint}: no such file. agent/policy=imitation needs the weights of a finished run.\n"
            "Train them:    python -m src.run +experiment=gisa_imitation\n"
            "and name them: checkpoint=outputs/gisa_imitation/<run>/checkpoints/best.ckpt"
        )
    run = Path(checkpoint).parent.parent
    if Path(checkpoint).name != "best.ckpt":
        raise InputError(
            f"checkpoint={checkpoint}: what answers is {run / 'model'}, and its weights are those of best.ckpt.\n"
            f"Type:  checkpoint={Path(checkpoint).with_name('best.ckpt')}"
        )
    _refuse_older(run / "model", f"checkpoint={checkpoint}")
    if not (run / "model" / "manifest.json").is_file():
        raise InputError(
            f"checkpoint={checkpoint}: {run} holds no model/ with manifest.json, so it is no finished run of "
            f"task=gisa_imitation.\nIf it was cut short, go on with it:  {resume_command(run)}"
        )
    return str(run / "model")


def _refuse_older(model: Path, setting: str) -> None:
    """Refuse a model whose manifest has the name and form of before."""
    if (model / "lessons.json").is_file():
        advice = older_version(model.parent) or "Train it again: its lessons.json is of an older version."
        raise InputError(f"{setting}: {advice}")


def worked(example: Example, number: int) -> list[Message]:
    """Return a worked episode as messages; its number is for the ids of its calls."""
    messages: list[Message] = [{"role": "user", "content": example["question"]}]
    for index, call in enumerate(example["calls"]):
        name = f"example{number}{index}"
        function = {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
        asked = {"id": name, "type": "function", "function": function}
        messages.append({"role": "assistant", "content": "", "tool_calls": [asked]})
        messages.append({"role": "tool", "tool_call_id": name, "content": call["result"]})
    return [*messages, {"role": "assistant", "content": example["answer"]}]
