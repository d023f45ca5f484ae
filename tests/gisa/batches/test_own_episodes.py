"""A policy's own exact episodes as demonstrations: which are kept, what of them is learnt, what is refused."""

import json
from collections import Counter

import pytest

from src.gisa.agent.store import RunStore
from src.gisa.agent.trajectory import Attempt
from src.gisa.batches.demonstrations import Demonstrations
from src.gisa.batches.own_episodes import add_episodes, shortest_episodes
from src.gisa.chat.format import ChatFormat
from src.gisa.dataset.factbook.pages import factbook_web
from src.gisa.dataset.gisa import Gisa
from src.gisa.metrics.answers import official_score
from src.launch.errors import InputError
from tests.gisa.batches.test_data import SUITE
from tests.gisa.batches.test_demonstrations import agent
from tests.gisa.chat_models import PLAIN, tokenizer
from tests.gisa.demonstrations import small_suite

CHAT = ChatFormat(tokenizer(PLAIN))


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.gisa.dataset.factbook.suite.cache_folder", lambda: folder)
        yield small_suite()


@pytest.fixture(scope="module")
def asked(suite, tmp_path_factory):
    """A run folder: rules that know the suite's wordings have answered every question twice."""
    folder = tmp_path_factory.mktemp("asked")
    attempts = [Attempt.at(question, sample) for sample in range(2) for question in suite.questions]
    outcomes = agent(factbook_web()).run(attempts, RunStore(folder, {"questions": suite.fingerprint}))
    assert outcomes == {"answered": 8}
    return folder


def records(folder):
    return {path.name: json.loads(path.read_bytes()) for path in sorted((folder / "episodes").glob("*.json"))}


def add(suite, folders, **changes):
    made = Demonstrations([], suite)
    settings = {"most": 2, "max_tokens": 10**6, **changes}
    add_episodes(made, folders, agent(factbook_web(), settings.pop("max_calls", 8)), CHAT, **settings)
    return made


def test_exact_episodes_become_demonstrations_with_what_was_really_said_and_read(suite, asked):
    made = add(suite, [asked])
    assert [demonstration.question_id for demonstration in made.own] == [one.id for one in suite.questions]
    for demonstration in made.own:
        record = records(asked)[f"{demonstration.question_id}.0.json"]
        said = [step["value"]["message"] for step in record["steps"] if step["key"].startswith("reply/")]
        read = [step["value"]["content"] for step in record["steps"] if step["key"].startswith("call/")]
        own = [
            token
            for token, trained in zip(demonstration.marked.tokens, demonstration.marked.trained, strict=True)
            if trained
        ]
        assert CHAT.text_of(own) == "".join(demonstration.marked.actions)
        assert len(demonstration.marked.actions) == len(said) == len(read) + 1
        assert demonstration.marked.actions[-1] == record["prediction"]
        for message, action in zip(said[:-1], demonstration.marked.actions, strict=False):
            (call,) = message["tool_calls"]
            assert json.loads(action.split("\n")[1])["arguments"] == json.loads(call["function"]["arguments"])
        assert all(result in demonstration.marked.text for result in read)
        assert 0.5 < demonstration.shown <= 1


def test_counts_tell_what_was_learnt_from(suite, asked):
    made = add(suite, [asked])
    # Two attempts at four questions by rules: all exact, and the second ones repeat the first.
    assert made.counts == Counter(own_sampled=8, own_exact=8, own_episodes=4, own_questions=4)


def test_wrong_and_unfinished_answers_are_not_learnt_from(suite, asked, tmp_path):
    """Of four questions, one is answered wrongly, one too late, one not at all by an error; the fourth is left."""
    first, second, third, fourth = (one.id for one in suite.questions)
    changed = records(asked)
    changed[f"{first}.0.json"]["prediction"] = changed[f"{first}.1.json"]["prediction"] = "```tsv\nA\nnonsense\n```"
    for sample in range(2):
        changed[f"{second}.{sample}.json"]["outcome"] = "budget"
        changed[f"{third}.{sample}.json"]["outcome"] = "infra_error"
    (tmp_path / "episodes").mkdir()
    for name, record in changed.items():
        (tmp_path / "episodes" / name).write_text(json.dumps(record))
    (tmp_path / "agent.json").write_text((asked / "agent.json").read_text())
    made = add(suite, [tmp_path])
    assert [demonstration.question_id for demonstration in made.own] == [fourth]
    assert made.counts["own_exact"] == 2


def test_an_episode_that_the_agent_at_hand_would_end_otherwise_is_named_and_not_cut(suite, asked):
    made = add(suite, [asked], max_calls=2)
    assert all(reason.startswith("own episode: ") for reason in made.dropped)
    assert sum(map(len, made.dropped.values())) + len(made.own) == 4
    assert 0 < len(made.own) < 4
    longest = max(len(demonstration.marked.tokens) for demonstration in add(suite, [asked]).own)
    made = add(suite, [asked], max_tokens=longest - 1)
    assert made.dropped.keys() == {f"own episode: longer than {longest - 1} tokens"}


def record(at=0, sample=0, calls=("a",), answer="x", tokens=10, **counts):
    """A record with as many searches as it says queries."""
    said = [{"content": "", "tool_calls": [{"id": f"{sample}", "function": {"name": query}}]} for query in calls]
    said.append({"content": answer})
    return {
        "question_id": f"q{at}", "sample": sample,
        "counts": {"calls": len(calls), "invalid_calls": 0, "skipped_calls": 0, **counts},
        "spent": {"chain": {"completion_tokens": tokens}},
        "steps": [{"key": f"reply/{turn}", "value": {"message": one}} for turn, one in enumerate(said)],
    }  # fmt: skip


def chosen(records, most):
    return [(attempt.question_id, attempt.sample) for attempt, _ in shortest_episodes(SUITE, records, most)]


def test_the_shortest_are_kept_at_most_so_many_a_question_and_none_twice():
    asked = [
        record(1, 0, "abc"), record(1, 1, "ab", tokens=30), record(1, 2, "ab", answer="y", tokens=20),
        record(1, 3, "ab", tokens=30), record(0, 0, "abcd"),
    ]  # fmt: skip
    # By calls, then tokens: sample 2 (2 calls, 20), sample 1 (2, 30), the same again as sample 3, sample 0 (3 calls).
    assert chosen(asked, 1) == [("q0", 0), ("q1", 2)]
    assert chosen(asked, 2) == [("q0", 0), ("q1", 2), ("q1", 1)]
    assert chosen(asked, 9) == [("q0", 0), ("q1", 2), ("q1", 1), ("q1", 0)]
    assert chosen(asked[::-1], 1) == [("q0", 0), ("q1", 2)]


def test_episodes_with_malformed_calls_or_more_than_one_at_a_time_are_not_imitated():
    asked = [record(0, 0, invalid_calls=1), record(1, 0, skipped_calls=1), record(2, 0)]
    assert chosen(asked, 2) == [("q2", 0)]
    assert chosen([*asked, record(0, 1, "abc")], 2) == [("q0", 1), ("q2", 0)]


def test_nothing_exact_is_refused_with_what_to_type(suite, asked, tmp_path):
    (tmp_path / "agent.json").write_text((asked / "agent.json").read_text())
    with pytest.raises(InputError) as caught:
        add(suite, [tmp_path])
    assert str(caught.value).startswith(f"None of the 0 episodes below {tmp_path} is an exact answer")
    assert "task.samples=" in str(caught.value)
    assert "batches.training_questions=null" in str(caught.value)


def test_episodes_of_other_questions_and_folders_without_any_are_refused(suite, asked, tmp_path):
    with pytest.raises(InputError, match="task.episodes_from: .* holds no episodes. I need a run folder of"):
        add(suite, [asked / "episodes"])
    (tmp_path / "agent.json").write_text(json.dumps({"questions": "0" * 64}))
    with pytest.raises(InputError, match="answer other questions than those below"):
        add(suite, [tmp_path])
    with pytest.raises(InputError, match="task.keep=0: I need a whole number of at least 1"):
        add(suite, [asked], most=0)


def test_every_kept_answer_is_exact_by_the_official_scorer(suite, asked):
    assert isinstance(suite, Gisa)
    for demonstration in add(suite, [asked]).own:
        one = next(one for one in suite.questions if one.id == demonstration.question_id)
        assert official_score(demonstration.marked.actions[-1], suite.gold(one), one.answer_type)["global_em"] == 1
