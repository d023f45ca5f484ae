import asyncio
import gc
import json
import threading

import pytest

from src.gisa.agent.cost import Account, Step
from src.gisa.agent.local import LocalPolicy, trained_folder
from src.gisa.agent.policy import ContextOverflowError, Request
from src.gisa.agent.react import Budget, ReActAgent
from src.gisa.agent.tools import specs
from src.gisa.agent.trajectory import Attempt, Episode, RunStore
from src.gisa.agent.web import Web
from src.gisa.chat.generation import ChatModel, Generation
from src.launch.errors import InputError
from tests.gisa.chat.families import FAMILIES
from tests.gisa.chat_models import PLAIN, WITH_TOOLS, network, write_folder

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}]
CALL = '<tool_call>{"name": "search", "arguments": {"query": "x"}}</tool_call>'
TOOLS = specs()
EXAMPLE = {
    "question": "Which?",
    "calls": [{"name": "search", "arguments": {"query": "y"}, "result": "nothing"}],
    "answer": "None.",
}

KINDS = [("a", 90), ("b", 90), ("a", 20), ("b", 300)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: str(write_folder(folder / name, text)) for name, text in (("plain", PLAIN), ("tools", WITH_TOOLS))}


class Script:
    """Stands in for the sampling of a real model: writes given texts, one a prompt, and keeps what it was given."""

    def __init__(self, policy, *texts, ended=True):
        self.model = policy._model
        self.texts = list(texts)
        self.ended = ended
        self.batches = []
        policy._new_generator = lambda: self

    def generate(self, prompts, *, seeds, max_tokens, temperature):
        self.batches.append([self.model.tokenizer.decode(prompt) for prompt in prompts])
        said = [self.texts.pop(0) if len(self.texts) > 1 else self.texts[0] for _ in prompts]
        end = self.model.tokenizer.eos_token_id if self.ended else None
        return [Generation(self.model.tokenizer(one, add_special_tokens=False).input_ids, end) for one in said]


def policy_of(folder, **settings):
    return LocalPolicy(**{"name": folder, "max_output_tokens": 50, **settings})


def ask(policy, messages=ASKED, tools=TOOLS, name="", **more):
    step = Step(Account("question", None), name=name)
    return asyncio.run(policy.reply(Request(messages, tools, step, Web(), **more))), step


@pytest.mark.parametrize("kind", ["plain", "tools"])
def test_calls_are_read_from_the_text_with_ids_of_their_own(folders, kind):
    policy = policy_of(folders[kind])
    Script(policy, f"Hm.\n{CALL}{CALL}")
    reply, step = ask(policy)
    assert (reply.message["content"], reply.finish_reason) == ("Hm.", "tool_calls")
    ids = [call["id"] for call in reply.message["tool_calls"]]
    assert len(set(ids)) == 2
    assert all(len(name) == 9 and name.isalnum() for name in ids)  # as Mistral's templates want them
    (charge,) = step.charges
    assert (charge.part, charge.completion_tokens, charge.usd) == ("chain", len(f"Hm.\n{CALL}{CALL}") + 1, 0)
    assert charge.prompt_tokens > len("Be brief.Where?")


def test_a_template_with_tools_gets_tools_calls_and_results_in_its_own_form(folders):
    policy = policy_of(folders["tools"])
    script = Script(policy, "x")
    call = {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"query": "x"}'}}
    asked = {"role": "assistant", "content": "", "tool_calls": [call]}
    ask(policy, [*ASKED, asked, {"role": "tool", "tool_call_id": "1", "content": "Here."}])
    ((written,),) = script.batches
    assert written.startswith('<|start|>tools\n{"type": "function"')
    assert written.endswith(
        '<|start|>user\nWhere?<|end|>\n<|start|>assistant\n<tool_call>{"name": "search", "arguments": {"query": "x"}}'
        "</tool_call><|end|>\n<|start|>tool\nHere.<|end|>\n<|start|>assistant\n"
    )


def test_examples_are_shown_where_there_are_tools(folders):
    policy = policy_of(folders["plain"], examples=[EXAMPLE])
    script = Script(policy, "x")
    ask(policy)
    ask(policy, tools=())
    (with_tools,), (without,) = script.batches
    shown = with_tools.partition("<|start|>user\n")[2]
    assert shown.startswith(
        'Which?<|end|>\n<|start|>assistant\n<tool_call>\n{"name": "search", "arguments": {"query": "y"'
    )
    assert "user\nnothing<|end|>\n<|start|>assistant\nNone.<|end|>\n<|start|>user\nWhere?<|end|>" in shown
    assert without == "<|start|>system\nBe brief.<|end|>\n<|start|>user\nWhere?<|end|>\n<|start|>assistant\n"


def test_a_reply_cut_short_makes_no_call(folders):
    policy = policy_of(folders["plain"])
    Script(policy, CALL, ended=False)
    reply, _ = ask(policy)
    assert (reply.finish_reason, "tool_calls" in reply.message) == ("length", False)


@pytest.mark.parametrize(
    ("family", "written"),
    [
        ("ministral", '[TOOL_CALLS]search[ARGS]{"query": "7"}'),
        (
            "qwen3.5",
            "\n</think>\n\n<tool_call>\n<function=search>\n<parameter=query>\n7\n</parameter>\n</function>\n</tool_call>",
        ),
        ("llama3.1", '<|python_tag|>{"name": "search", "parameters": {"query": "7"}}'),
        ("gemma4", '<|tool_call>call:search{query:<|"|>7<|"|>}<tool_call|>'),
        ("lfm2.5", "<|tool_call_start|>[search(query='7')]<|tool_call_end|>"),
        ("glm4", '\nsearch\n{"query": "7"}'),
    ],
)
def test_calls_are_read_in_the_tokens_and_the_notation_of_a_family(tmp_path, family, written):
    vocabulary = FAMILIES[family].tokenizer()
    model = network(vocabulary)
    model.generation_config.eos_token_id = FAMILIES[family].end_ids(vocabulary) or None
    policy = policy_of("", model=ChatModel(model, vocabulary))
    Script(policy, written)
    (call,) = ask(policy)[0].message["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("search", {"query": "7"})


@pytest.mark.parametrize(("text", "content"), [("<think>\nHm. ```tsv\nA", ""), ("<think>a</think>\n```tsv", "```tsv")])
def test_no_thought_is_the_prediction_of_a_reply_cut_short(folders, text, content):
    policy = policy_of(folders["plain"])
    Script(policy, text, ended=False)
    assert ask(policy)[0].message["content"] == content


def test_a_thought_that_the_prompt_begins_is_none_of_what_is_said(tmp_path):
    policy = policy_of(
        str(write_folder(tmp_path / "m", PLAIN.replace("assistant\n{% end", "assistant\n<think>\n{% end")))
    )
    Script(policy, f"I look.\n</think>\n\n{CALL}", "On and on")
    reply, _ = ask(policy)
    assert (reply.message["content"], reply.message["reasoning_content"]) == ("", "I look.")
    assert reply.message["tool_calls"][0]["function"]["name"] == "search"
    assert ask(policy)[0].message == {"role": "assistant", "content": "", "reasoning_content": "On and on"}


def test_replies_take_at_most_half_of_the_context_and_what_is_otherwise_is_told(tmp_path):
    policy = policy_of(str(write_folder(tmp_path / "short", PLAIN, context=100)), max_output_tokens=8192)
    assert any(one.startswith("The model's chat template drops the tools") for one in policy.remarks)
    assert policy.remarks[-1] == (
        "agent.policy.max_output_tokens=8192 would leave too little of the model's 100 tokens to read: replies have at "
        "most 50."
    )
    assert len(ask(policy, tools=())[0].tokens.written) <= 50
    assert policy_of(str(write_folder(tmp_path / "long", WITH_TOOLS))).remarks == []


def test_a_conversation_without_room_for_a_reply_is_refused_before_it_is_read(tmp_path):
    policy = policy_of(str(write_folder(tmp_path / "short", PLAIN, context=100)))
    Script(policy, "x")
    # 9 + 6 bytes of text, 21 of speakers and line ends, 5 control tokens: 41 tokens to read.
    with pytest.raises(ContextOverflowError, match="and 50 to write, for a model of 100"):
        ask(policy, [*ASKED[:1], {"role": "user", "content": "x" * 20}], tools=())
    assert ask(policy, tools=())[0].message["content"] == "x"


def test_a_model_with_a_manifest_of_an_older_version_is_refused_with_what_to_do(tmp_path):
    for name in ("model/lessons.json", "checkpoints/best.ckpt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"agent.policy.name=.*Train it again: its lessons.json"):
        LocalPolicy(name=str(tmp_path / "model"))
    result = {"commit": "5a71412", "config": {"task": {"_target_": "src.task.gisa_imitation.GisaImitation"}}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(InputError, match="checkpoint=.*is a run of an older version(.|\n)*git checkout 5a71412"):
        trained_folder(str(tmp_path / "checkpoints" / "best.ckpt"))


def test_weights_that_were_not_selected_are_refused_as_the_model_beside_them_is_of_others(tmp_path):
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.touch()
    with pytest.raises(
        InputError, match=r"(?s)last.ckpt: what answers is .*/model, and its.*Type:  checkpoint=\S+/best.ckpt"
    ):
        trained_folder(str(last))


def test_requests_that_come_together_are_answered_together_up_to_the_batch_size(folders):
    policy = policy_of(folders["plain"], batch_size=3)
    script = Script(policy, *"abcde")

    async def main():
        steps = [Step(Account("question", None), name=str(number)) for number in range(5)]
        return await asyncio.gather(*(policy.reply(Request(ASKED, (), step, Web())) for step in steps))

    replies = asyncio.run(main())
    assert [reply.message["content"] for reply in replies] == list("abcde")
    assert [len(batch) for batch in script.batches] == [3, 2]
    assert asyncio.run(main())[0].message["content"] == "e"  # another run of the same policy, another event loop


def test_conversations_of_a_length_go_together_and_none_waits_for_ever(folders):
    policy = policy_of(folders["plain"], batch_size=2)
    script = Script(policy, "x")

    async def main():
        step = Step(Account("question", None))
        questions = ["a" * 90, "b", "a" * 80, "b"]
        await asyncio.gather(
            *(policy.reply(Request([{"role": "user", "content": text}], (), step, Web())) for text in questions)
        )

    asyncio.run(main())
    assert [[prompt.count("a") > 9 for prompt in batch] for batch in script.batches] == [[True, True], [False, False]]


def test_none_is_left_out_of_a_batch_that_is_not_full(folders):
    policy = policy_of(folders["plain"])
    script = Script(policy, "x")
    kinds = [[{"role": "system", "content": letter * size}, {"role": "user", "content": "?"}] for letter, size in KINDS]

    async def main():
        step = Step(Account("question", None))
        waits = [0, 0, 0.005, 0.012]  # the last joins after the first have waited once

        async def late(wait, messages):
            await asyncio.sleep(wait)
            await policy.reply(Request(messages, (), step, Web()))

        await asyncio.gather(*map(late, waits, kinds))

    asyncio.run(main())
    assert [len(batch) for batch in script.batches] == [4]


def test_the_event_loop_goes_on_while_it_generates_and_late_requests_are_collected(folders):
    policy = policy_of(folders["plain"])
    script = Script(policy, "x")
    begun, go_on = threading.Event(), threading.Event()
    plainly = script.generate

    def slowly(*arguments, **settings):
        begun.set()
        assert go_on.wait(20), "the event loop stood still"
        return plainly(*arguments, **settings)

    script.generate = slowly

    async def main():
        step = Step(Account("question", None))
        first = asyncio.create_task(policy.reply(Request(ASKED, (), step, Web())))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        late = [asyncio.create_task(policy.reply(Request(ASKED, (), step, Web()))) for _ in range(3)]
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(first, *late)

    asyncio.run(main())
    assert [len(batch) for batch in script.batches] == [1, 3]


def test_an_episode_that_gives_up_takes_no_other_with_it(folders):
    policy = policy_of(folders["plain"])
    script = Script(policy, "x")

    async def main():
        step = Step(Account("question", None))
        gone, kept = (asyncio.create_task(policy.reply(Request(ASKED, (), step, Web()))) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        return await kept

    assert asyncio.run(main()).message["content"] == "x"
    assert [len(batch) for batch in script.batches] == [1]


def test_a_batch_that_fails_fails_for_its_requests_only(folders):
    policy = policy_of(folders["plain"])
    script = Script(policy, "x")

    def broken(*_, **__):
        raise RuntimeError("out of memory")

    plainly, script.generate = script.generate, broken
    with pytest.raises(RuntimeError, match="out of memory"):
        ask(policy)
    script.generate = plainly
    assert ask(policy)[0].message["content"] == "x"


def test_draws_hang_on_the_seed_and_the_step_and_not_on_the_company(folders):
    def texts(seed, names):
        policy = policy_of(folders["plain"], temperature=1.0, seed=seed)

        async def main():
            steps = [Step(Account("question", None), name=name) for name in names]
            return await asyncio.gather(*(policy.reply(Request(ASKED, (), step, Web())) for step in steps))

        return [reply.message["content"] for reply in asyncio.run(main())]

    together = texts(1, ["1.0/reply/0", "1.1/reply/0", "1.2/reply/0"])
    assert len(set(together)) == 3  # samples of a question differ
    assert texts(1, ["1.1/reply/0"]) == together[1:2]
    assert texts(2, ["1.1/reply/0"]) != together[1:2]


def test_a_rollout_remembers_and_weights_that_changed_after_it_are_read_with_anew(folders):
    policy = policy_of(folders["plain"], remembered_gb=0.1)
    forgetful = policy_of(folders["plain"])
    read, plainly = [], policy._model.architecture.decoder.forward

    def forward(*_, **settings):
        read.append(settings["input_ids"].shape[1])
        return plainly(**settings)

    policy._model.architecture.decoder.forward = forward

    def contents(policy):
        async def main():
            step = Step(Account("question", None))
            return [(await policy.reply(Request(ASKED, (), step, Web()))).message["content"] for _ in range(2)]

        return asyncio.run(main())

    before = contents(policy)
    assert before == contents(forgetful)
    prompts = [count for count in read if count > 1]
    assert prompts[1] < prompts[0] / 2
    for one in (policy, forgetful):
        for weights in one._model.network.parameters():
            weights.data.mul_(-0.7)  # which leaves no trace, as fused optimizers leave none
    after = contents(policy)
    assert after == contents(forgetful)
    assert after != before
    assert [count for count in read if count > 1][2:] == prompts


def test_memory_is_given_back_when_the_rollout_ends(folders):
    policy = policy_of(folders["plain"], remembered_gb=0.1)
    ask(policy, tools=())
    gc.collect()
    assert not policy._generators


@pytest.mark.parametrize("size", [-1.0, float("nan")])
def test_a_memory_of_less_than_nothing_is_refused(folders, size):
    with pytest.raises(InputError, match=r"agent\.policy\.remembered_gb=.*at least 0; 0 is off"):
        policy_of(folders["plain"], remembered_gb=size)


@pytest.mark.parametrize(
    ("text", "ended", "outcome"),
    [
        ("```tsv\nPlace\nHere\n```", True, "answered"),
        ("Here.", True, "format_error"),
        ("  ", True, "format_error"),
        ("```tsv\nPlace", False, "truncated"),
    ],
)
def test_every_end_of_an_episode_is_typed(folders, tmp_path, text, ended, outcome):
    policy = policy_of(folders["plain"])
    Script(policy, text, ended=ended)
    agent = ReActAgent(policy=policy, toolbox=None, budget=Budget(), today="2024-07-01")
    attempt = Attempt("1", 0, "Where?", "item")

    async def main():
        with RunStore(tmp_path, {}).open_journal(attempt) as journal:
            return await agent.answer(Episode(attempt, journal, Account("question", None), Web()))

    verdict = asyncio.run(main())
    assert verdict.outcome == outcome
    assert verdict.prediction == ("" if not text.strip() else text)
    steps = [json.loads(line) for line in (tmp_path / "episodes" / "1.0.events.jsonl").read_text().splitlines()]
    assert steps[-1]["charges"][0]["completion_tokens"] > 0
