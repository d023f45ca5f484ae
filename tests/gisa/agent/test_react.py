import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.gisa.agent.backends import EmbeddedWeb
from src.gisa.agent.cost import Account, CeilingReachedError, Charge
from src.gisa.agent.fetch import RequestError
from src.gisa.agent.policy import ContextOverflowError, Reply, ScriptedPolicy
from src.gisa.agent.prompts import OUT_OF_BUDGET
from src.gisa.agent.react import Budget, ReActAgent, sendable, verdict_on, with_unique_ids
from src.gisa.agent.tools import Toolbox
from src.gisa.agent.trajectory import Attempt, Episode, Journal
from src.gisa.agent.web import Web
from src.gisa.dataset.factbook.corpus import Corpus, Document
from src.launch.errors import InputError

CORPUS = Corpus([Document("https://atlas.example/peru", "<title>Peru</title><p>Capital: Lima")])
TOOLBOX = Toolbox(search=EmbeddedWeb(CORPUS), pages=EmbeddedWeb(CORPUS))
ANSWER = {"content": "```tsv\nCapital\nLima\n```"}
ATTEMPT = Attempt("7", 0, "What is the capital of Peru?", "item")


def search(query="peru", name="c"):
    return {"id": name, "type": "function", "function": {"name": "search", "arguments": json.dumps({"query": query})}}


def visit(*urls, name="c"):
    arguments = json.dumps({"url": list(urls) or ["https://atlas.example/peru"], "goal": "capital"})
    return {"id": name, "type": "function", "function": {"name": "visit", "arguments": arguments}}


def calls(*made):
    return {"content": "thinking", "tool_calls": list(made)}


def in_turn(*said):
    """A script that says one message after the other, and the last one for ever."""
    left = list(said)
    return lambda messages: left.pop(0) if len(left) > 1 else left[0]


def run(say, path, *, budget=None, toolbox=TOOLBOX, account=None, timeout_s=60.0):
    """Run an episode with a script; return its verdict, the episode and the record."""

    async def main():
        policy = say if hasattr(say, "reply") else ScriptedPolicy(say)
        agent = ReActAgent(
            policy=policy, toolbox=toolbox, budget=budget or Budget(), today="2026-01-31", episode_timeout_s=timeout_s
        )
        with Journal(path, path.open("r+b" if path.exists() else "w+b")) as journal:
            episode = Episode(ATTEMPT, journal, account or Account("question", None), Web())
            return await agent.answer(episode), episode, episode.record()

    return asyncio.run(main())


def assert_every_call_has_one_result(messages):
    """Each assistant message with calls is followed by exactly its results, in order; ids occur once."""
    ids, index = [], 0
    while index < len(messages):
        asked = [call["id"] for call in messages[index].get("tool_calls", [])]
        answered = [message["tool_call_id"] for message in messages[index + 1 : index + 1 + len(asked)]]
        assert asked == answered
        assert all(message["role"] == "tool" for message in messages[index + 1 : index + 1 + len(asked)])
        ids += asked
        index += 1 + len(asked)
        assert index == len(messages) or messages[index]["role"] != "tool"
    assert len(ids) == len(set(ids))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "7.0.events.jsonl"


def test_a_question_is_searched_visited_and_answered(path):
    verdict, episode, record = run(in_turn(calls(search("capital peru", "a")), calls(visit(name="b")), ANSWER), path)
    assert (verdict.outcome, verdict.prediction) == ("answered", ANSWER["content"])
    assert [message["role"] for message in episode.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
    ]
    assert "Capital: Lima" in episode.messages[3]["content"]
    assert episode.counts == {
        **{"turns": 2, "calls": 2, "searches": 1, "visits": 1, "urls": 1, "failed_urls": 0},
        **{"invalid_calls": 0, "skipped_calls": 0, "cached": 0},
    }
    assert [step["key"] for step in record["steps"]] == ["reply/0", "call/0/0", "reply/1", "call/1/0", "reply/2"]
    searched, visited = record["steps"][1]["value"], record["steps"][3]["value"]
    assert (searched["tool"], searched["query"]) == ("search", "capital peru")
    assert (visited["tool"], visited["goal"], visited["urls"]) == ("visit", "capital", ["https://atlas.example/peru"])
    assert record["contaminated"] == []


def test_an_episode_that_came_upon_the_benchmarks_own_pages_is_flagged(path):
    own = "https://huggingface.co/datasets/RUC-NLPIR/GISA"
    _, _, record = run(in_turn(calls(visit(own)), calls(visit(own)), ANSWER), path)
    assert record["contaminated"] == [own]


def test_the_conversation_opens_with_date_budget_form_and_question(path):
    _, episode, _ = run(in_turn(ANSWER), path)
    system, user = episode.messages
    assert "Today is 2026-01-31" in system["content"]
    assert "You have 30 tool calls" in system["content"]
    assert "one single entry: one row" in system["content"]
    assert user["content"] == ATTEMPT.question


def test_a_malformed_call_gets_a_result_that_says_what_was_wrong(path):
    bad = {"id": "x", "function": {"name": "search", "arguments": '{"query": "pe'}}
    verdict, episode, _ = run(in_turn(calls(bad, {"id": "y", "function": {"name": "python"}}), ANSWER), path)
    assert verdict.outcome == "answered"
    first, second = episode.messages[3:5]
    assert (first["tool_call_id"], second["tool_call_id"]) == ("x", "y")
    assert first["content"].startswith("The arguments of search are not valid JSON")
    assert second["content"] == "There is no tool 'python'. Use search or visit."
    assert (episode.counts["invalid_calls"], episode.counts["calls"]) == (2, 0)


@pytest.mark.parametrize("parallel", [True, False])
def test_strict_calls_carries_out_exactly_30_calls_then_asks_for_the_answer(path, parallel):
    def say(messages):
        return ANSWER if messages[-1]["content"] == OUT_OF_BUDGET else calls(*(search(name="") for _ in range(4)))

    verdict, episode, _ = run(say, path, budget=Budget(parallel_calls=parallel))
    assert verdict.outcome == "answered"
    # Four calls a reply. All: 7 x 4 + 2 = 30 in 8 turns, 2 too many. The first of each: 30 turns, 90 not carried out.
    assert (episode.counts["calls"], episode.counts["turns"]) == (30, 8 if parallel else 30)
    assert episode.counts["skipped_calls"] == (2 if parallel else 90)
    assert_every_call_has_one_result(episode.messages)


@pytest.mark.parametrize("parallel", [True, False])
def test_official_turns_carries_out_exactly_28_turns_however_many_calls_each_makes(path, parallel):
    def say(messages):
        return ANSWER if messages[-1]["content"] == OUT_OF_BUDGET else calls(*(search(name="") for _ in range(3)))

    verdict, episode, _ = run(say, path, budget=Budget("official_turns", parallel_calls=parallel))
    assert verdict.outcome == "answered"
    assert (episode.counts["turns"], episode.counts["calls"]) == (28, 84 if parallel else 28)
    assert_every_call_has_one_result(episode.messages)


def test_who_goes_on_calling_at_the_end_of_the_budget_gets_no_result_and_no_answer(path):
    verdict, episode, _ = run(in_turn(calls(search())), path, budget=Budget(max_calls=2))
    assert (verdict.outcome, verdict.prediction) == ("budget", "thinking")
    assert episode.counts["calls"] == 2
    assert episode.messages[-1]["content"] == "Not carried out: your tool calls are used up."
    assert_every_call_has_one_result(episode.messages)


def test_calls_that_are_always_malformed_end_too(path):
    verdict, episode, _ = run(in_turn(calls({"function": {}})), path)
    assert verdict.outcome == "budget"
    assert (episode.counts["invalid_calls"], episode.counts["calls"]) == (11, 0)  # ten, and one when told to answer


def test_one_call_at_a_time_means_the_first_valid_one(path):
    made = calls({"id": "a", "function": {"name": "x"}}, search(name="b"), visit(name="c"))
    _, episode, _ = run(in_turn(made, ANSWER), path)
    contents = [message["content"] for message in episode.messages[3:6]]
    assert contents[0].startswith("There is no tool")
    assert "Peru" in contents[1]
    assert contents[2] == "Not carried out: make one call at a time."
    assert (episode.counts["searches"], episode.counts["skipped_calls"], episode.counts["invalid_calls"]) == (1, 1, 1)


CALL = st.one_of(
    st.builds(search, st.text(max_size=5), st.sampled_from(["a", "b", ""])),
    st.builds(visit, st.sampled_from(["https://atlas.example/peru", "x"]), name=st.sampled_from(["a", "b"])),
    st.sampled_from([{}, None, 7, {"id": 5}, {"id": "a", "function": {"name": "search", "arguments": "{"}}]),
)


@settings(max_examples=60)
@given(
    script=st.lists(st.lists(CALL, min_size=1, max_size=5), min_size=1, max_size=8),
    obeys=st.booleans(),
    semantics=st.sampled_from(["strict_calls", "official_turns"]),
    parallel=st.booleans(),
)
def test_any_script_ends_within_its_budget_with_one_result_for_every_call(
    tmp_path_factory, script, obeys, semantics, parallel
):
    turns = iter(range(10_000))

    def say(messages):
        if obeys and messages[-1]["content"] == OUT_OF_BUDGET:
            return ANSWER
        return calls(*script[next(turns) % len(script)])

    budget = Budget(semantics, max_calls=9, max_turns=7, max_invalid_calls=12, parallel_calls=parallel)
    verdict, episode, record = run(say, tmp_path_factory.mktemp("episode") / "journal", budget=budget)
    counts = episode.counts
    assert verdict.outcome == ("answered" if obeys else "budget")
    assert_every_call_has_one_result(episode.messages)
    if semantics == "official_turns":
        assert counts["turns"] == 7
    else:
        assert counts["calls"] == 9 or (counts["calls"] < 9 and counts["invalid_calls"] >= 12)
    made = sum(len(message.get("tool_calls", [])) for message in episode.messages)
    assert made == counts["calls"] + counts["invalid_calls"] + counts["skipped_calls"]
    assert made == sum(step["key"].startswith("call/") for step in record["steps"])
    assert parallel or counts["calls"] <= counts["turns"]
    for message in episode.messages:
        for call in message.get("tool_calls", []):
            json.loads(call["function"]["arguments"])


@pytest.mark.parametrize(
    ("message", "finish_reason", "outcome", "reason"),
    [
        (ANSWER, "stop", "answered", ""),
        ({"content": "It is\n```\nCapital\nLima\n```"}, "stop", "answered", ""),
        ({"content": "Lima"}, "stop", "format_error", "a reply without a code block"),
        ({"content": "```tsv\n\n```"}, "stop", "format_error", "a reply without a code block"),
        ({"content": " "}, "stop", "format_error", "an empty reply"),
        ({"content": None}, "stop", "format_error", "an empty reply"),
        (ANSWER, "length", "truncated", "the reply reached its limit of tokens"),
        ({"content": "", "refusal": "I can't."}, "stop", "refused", "I can't."),
        ({"content": "no"}, "content_filter", "refused", "stopped by a content filter"),
    ],
)
def test_the_last_reply_decides_the_outcome(message, finish_reason, outcome, reason):
    verdict = verdict_on(Reply(message, finish_reason))
    assert (verdict.outcome, verdict.reason) == (outcome, reason)


class Failing:
    """A policy that calls a tool once and then fails."""

    def __init__(self, error):
        self.error = error
        self.asked = 0

    async def reply(self, request):
        self.asked += 1
        request.step.charge(Charge("chain", 10, 5, 0.25))
        if self.asked > 1 and self.error:
            raise self.error
        said = ANSWER if request.messages[-1]["role"] == "tool" else calls(search())
        return Reply({"role": "assistant", **said}, "stop")


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (RequestError("status", "HTTP 503"), "infra_error", "HTTP 503"),
        (ContextOverflowError("9 > 8"), "truncated", "the conversation no longer fits into the model: 9 > 8"),
        (
            CeilingReachedError("question", 1.0),
            "budget",
            "the ceiling of 1 USD per question does not cover the next call",
        ),
        (KeyError("x"), "infra_error", "defect: KeyError: 'x'"),
    ],
)
def test_every_failure_of_the_policy_is_a_typed_outcome_without_an_answer(path, error, outcome, reason):
    verdict, _, record = run(Failing(error), path)
    assert (verdict.outcome, verdict.reason, verdict.prediction) == (outcome, reason, "")
    assert record["steps"][-1]["error"].endswith(str(error))


@pytest.mark.parametrize("error", [InputError("a wrong setting"), CeilingReachedError("run", 1.0)])
def test_what_concerns_the_whole_run_is_raised(path, error):
    with pytest.raises(type(error)):
        run(Failing(error), path)


def test_an_interrupted_episode_goes_on_without_repeating_or_paying_a_step_again(path):
    broken = Failing(RequestError("status", "HTTP 503"))
    run(broken, path)
    whole = Failing(None)
    account = Account("question", None)
    verdict, episode, record = run(whole, path, account=account)
    assert (verdict.outcome, broken.asked, whole.asked) == ("answered", 2, 1)
    assert episode.counts["calls"] == 1
    assert account.spent_usd == 0.25  # the last reply; the first one and the failed one were paid before
    assert record["spent"]["chain"] == {"calls": 3, "prompt_tokens": 30, "completion_tokens": 15, "usd": 0.75}


def test_a_stalled_episode_ends(path):
    class Stalling:
        async def reply(self, request):
            await asyncio.Event().wait()

    verdict, _, _ = run(Stalling(), path, timeout_s=0.05)
    assert (verdict.outcome, verdict.reason) == ("infra_error", "no end within 0.05 s")


def test_without_tools_the_answer_is_given_at_once(path):
    verdict, episode, _ = run(in_turn(ANSWER), path, toolbox=None)
    assert verdict.outcome == "answered"
    assert "tool" not in episode.messages[0]["content"].replace("untrusted", "")
    verdict, episode, _ = run(in_turn(calls(search())), path.with_name("b"), toolbox=None)
    assert verdict.outcome == "budget"
    assert_every_call_has_one_result(episode.messages)


def test_missing_and_repeated_ids_are_replaced_and_good_ones_kept():
    used = {"a"}
    given_calls = [{"id": "a"}, {"id": "b"}, {"id": ""}, {}, None, {"id": 7}, {"id": "b"}]
    ids = [call["id"] for call in with_unique_ids(given_calls, 3, used)]
    assert ids == ["call_3_0", "b", "call_3_2", "call_3_3", "call_3_4", "call_3_5", "call_3_6"]
    assert used == {"a", *ids}
    assert with_unique_ids("nonsense", 0, used) == with_unique_ids(None, 0, used) == []
    assert with_unique_ids([{}], 3, {"call_3_0"})[0]["id"] == "call_3_0_"


@pytest.mark.parametrize(
    ("function", "name", "arguments"),
    [
        ({"name": "search", "arguments": '{"query": "x"}'}, "search", '{"query": "x"}'),
        ({"name": "search", "arguments": {"query": "x"}}, "search", '{"query": "x"}'),
        ({"name": "search", "arguments": '{"quer'}, "search", '{"unreadable": "{\\"quer"}'),
        ({"name": None}, "unknown", "{}"),
        ({"name": " functions.search:0"}, "search", "{}"),
        ({"name": "web search!"}, "web_search_", "{}"),
        ("search", "unknown", "{}"),
        (None, "unknown", "{}"),
    ],
)
def test_calls_go_back_to_the_server_in_a_form_it_can_read(function, name, arguments):
    sent = sendable({"id": "a", "function": function})
    assert sent == {"id": "a", "type": "function", "function": {"name": name, "arguments": arguments}}
