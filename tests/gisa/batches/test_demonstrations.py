import itertools
import json
import re
from collections import Counter
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.agent.prompts import opening
from src.gisa.agent.rollout import Rollout
from src.gisa.agent.tools import specs
from src.gisa.agent.trajectory import Attempt, RunStore
from src.gisa.batches.demonstrations import (
    Demonstrations,
    add_episodes,
    answer_text,
    demonstrations_of,
    make_demonstrations,
    shortest_episodes,
)
from src.gisa.chat.format import ChatFormat
from src.gisa.chat.reply import read_reply
from src.gisa.dataset.factbook.corpus import Corpus, Document
from src.gisa.dataset.factbook.demonstrations import training_aids
from src.gisa.dataset.factbook.pages import factbook_web
from src.gisa.dataset.factbook.suite import factbook, factbook_set
from src.gisa.dataset.gisa import Gisa
from src.gisa.metrics.answer_table import TableError
from src.gisa.metrics.answers import official_score
from src.launch.errors import InputError
from src.model.smollm2 import local_folder
from tests.gisa.batches.test_data import SUITE
from tests.gisa.chat.families import FAMILIES
from tests.gisa.chat_models import PLAIN, WITH_TOOLS, tokenizer
from tests.gisa.demonstrations import agent, small_suite
from tests.gisa.gisa_files import question, write_suite


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """A dozen training questions on the embedded web."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.gisa.dataset.factbook.suite.cache_folder", lambda: folder)
        yield factbook_set("train", per_type=3)


def check_demonstrations(suite, chat, max_tokens, instructions="full"):
    """Every trained token is part of an action, and the answer stands in no other place."""
    made = make_demonstrations(suite, agent(factbook_web(), instructions=instructions), chat, max_tokens=max_tokens)
    aids = training_aids(suite)
    assert made.dropped == {}
    assert [demonstration.question_id for demonstration in made.demonstrations] == [one.id for one in suite.questions]
    for demonstration, one in zip(made.demonstrations, suite.questions, strict=True):
        marked = demonstration.marked
        own = [token for token, trained in zip(marked.tokens, marked.trained, strict=True) if trained]
        assert chat.text_of(own) == "".join(marked.actions)
        names = aids.renamed[one.id]
        assert not [name for name in names if f"{name}: " in marked.text or f'"{name} ' in marked.text]
        scratchpad, read = aids.scratchpads[one.id], [""]
        for before, action in itertools.pairwise(["", *(by_own_names(one, names) for one in marked.actions)]):
            read += re.findall(r'"url": \["(.*?)"\]', before)
            said = "\n".join(scratchpad.get(read[-1], ())) if '"search"' not in before else ""
            assert re.match(re.escape(said) + r"\n?(<tool_call>|```tsv)", action)
        assert set(scratchpad) <= set(read)
        assert action == "\n".join([*([said] if said else []), answer_text(suite.gold(one), one.answer_type)])
        assert demonstration.shown == pytest.approx(1)
        # What comes before the first action is what a rollout begins with, made without any knowledge of the answer.
        begins = opening(Attempt.at(one), today="2024-07-01", limit="8 tool calls", instructions=instructions)
        prompt = chat.tokenizer.decode(marked.tokens[: marked.trained.index(True)])
        asked = chat.text(begins, specs(instructions))
        assert by_own_names(prompt, names) == chat.tokenizer.decode(chat.encoded(asked))
        rest = chat.tokenizer.decode(
            [token for token, trained in zip(marked.tokens, marked.trained, strict=True) if not trained]
        )
        assert marked.actions[-1] not in rest
        assert all("\t".join(row) not in rest for row in table(marked.actions[-1]) if len(row) > 1)
        form = "```tsv block" if instructions == "brief" else "```tsv\nfirst column\tsecond column\nvalue\tvalue\n```"
        assert "```tsv" not in rest.replace(form, "")
        assert len(re.findall("<untrusted>\n", rest)) == len(marked.actions) - 1  # each call has its result
    return made


def by_own_names(text, names):
    """The text with the entities' own names again."""
    for own, invented in names.items():
        for spelling in (str, lambda name: quote(name.lower().replace(" ", "-"))):
            text = text.replace(spelling(invented), spelling(own))
    return text


def table(answer):
    return [line.split("\t") for line in answer.partition("```tsv\n")[2].split("\n")[:-1]]


@pytest.mark.parametrize("instructions", ["full", "brief"])
@pytest.mark.parametrize("template", [PLAIN, WITH_TOOLS], ids=["plain", "with_tools"])
def test_demonstrations_of_the_embedded_web_train_calls_and_answers_and_nothing_else(train, template, instructions):
    made = check_demonstrations(train, ChatFormat(tokenizer(template)), 20_000, instructions)
    assert made.counts["episodes"] == 12
    assert made.counts["searches"] == made.counts["visits_results_page"] >= 12
    assert made.counts["orphans"] == 0


@pytest.fixture(scope="module")
def acted(train):
    """Four questions of the suite acted out, with what their answers are."""
    rollout, kept = agent(factbook_web(), instructions="brief"), []

    def replay(scripts):
        chosen = list(scripts)[::3]
        kept.extend(zip(chosen, Rollout.replay(rollout, chosen), strict=True))
        return [one for _, one in kept for _ in range(3)]

    rollout.replay = replay
    make_demonstrations(train, rollout, ChatFormat(tokenizer(PLAIN)), max_tokens=10**6)
    return kept


@pytest.mark.parametrize("family", FAMILIES)
def test_every_call_that_is_taught_is_read_again_by_a_rollout_whatever_the_family(acted, family):
    made = FAMILIES[family].tokenizer()
    chat = ChatFormat(made, FAMILIES[family].end_ids(made))
    taught, read = [], []
    for script, replayed in acted:
        parts = demonstrations_of(script.attempt.question_id, replayed, script.answer, chat, 10**6)
        replies = [
            read_reply(action, ["search", "visit"], tools=replayed.tools)
            for one in parts
            for action in one.marked.actions
        ]
        own = [message for message in replayed.messages if message["role"] == "assistant"]
        taught += [(one["content"], calls_in(one)) for one in own]
        read += [(one["content"], calls_in(one)) for one in replies]
    assert len(taught) > 12
    assert read == taught  # all of them, and what is said before


def calls_in(message):
    calls = [call["function"] for call in message.get("tool_calls") or []]
    return [(call["name"], json.loads(call["arguments"])) for call in calls]


def test_drills_teach_the_ends_of_lines_and_nothing_else(train):
    chat = ChatFormat(tokenizer(PLAIN))
    made = make_demonstrations(train, agent(factbook_web()), chat, max_tokens=20_000)
    blocks = json.loads((train.root / "drills.json").read_bytes())
    assert "" not in {demonstration.question_id for demonstration in made.demonstrations}
    ends = [[shown if shown.endswith("\n") else f"{shown} " for shown, _ in block] for block in blocks]
    parts = [zip(starts, block, strict=True) for starts, block in zip(ends, blocks, strict=True)]
    written = ["".join(f"{start}{told}".rstrip() + "\n" for start, (_, told) in lines) for lines in parts]
    assert [one.marked.text for one in made.drills] == written
    for one, block in zip(made.drills, blocks, strict=True):
        own = [token for token, trained in zip(one.marked.tokens, one.marked.trained, strict=True) if trained]
        assert chat.text_of(own) == "".join(one.marked.actions)
        assert one.marked.actions == [told for _, told in block]
    assert training_aids(factbook_set("entities", per_type=1)).drills == []


@pytest.mark.slow
def test_demonstrations_in_smollm2s_tokens_train_calls_and_answers_and_nothing_else(train):
    from transformers import AutoTokenizer

    made = check_demonstrations(train, ChatFormat(AutoTokenizer.from_pretrained(local_folder())), max_tokens=8192)
    assert max(len(demonstration.marked.tokens) for demonstration in made.demonstrations) < 3000


def test_nothing_is_cut_questions_without_a_demonstration_are_named_with_the_reason(train):
    chat = ChatFormat(tokenizer(PLAIN))
    lengths = {
        demonstration.question_id: len(demonstration.marked.tokens)
        for demonstration in make_demonstrations(train, agent(factbook_web()), chat, max_tokens=10**6).demonstrations
    }
    limit = sorted(lengths.values())[5]
    made = make_demonstrations(train, agent(factbook_web()), chat, max_tokens=limit)
    assert {demonstration.question_id for demonstration in made.demonstrations} == {
        name for name, one in lengths.items() if one <= limit
    }
    assert made.dropped == {f"longer than {limit} tokens": [name for name, one in lengths.items() if one > limit]}
    short = make_demonstrations(train, agent(factbook_web(), max_calls=2), chat, max_tokens=10**6)
    (reason,) = short.dropped
    assert reason == "budget: tool calls instead of the answer that was asked for"
    assert len(short.demonstrations) + len(short.dropped[reason]) == 12


# Answers in GISA's exact layout: bytes of the file, type, and the table that is to be learnt.
ANSWERS = [
    (b'"Z\xc3\xbcrich, City"\n', "item", " Answer\n Zürich, City\n"),
    ("Café,3\n".encode("cp1252"), "item", " Answer 1\t Answer 2\n Café\t 3\n"),
    (b'\xef\xbb\xbf"He said ""no"""\n5\' 7"\n', "set", ' Answer\n" He said ""no"""\n" 5\' 7"""\n'),
    (b'2024-01-31\n"May 5, 2024"\n', "list", " Answer\n 2024-01-31\n May 5, 2024\n"),
    (
        b'Name,Share %,"Sales, US$"\nA & B,7.5%,"$1,234.50"\n"C\tD",100%,\n',
        "table",
        ' Name\t Share %\t Sales, US$\n A & B\t 7.5%\t $1,234.50\n" C\tD"\t 100%\t \n',
    ),
    (b"Year\r\n1999\r\n2001\r\n", "table", " Year\n 1999\n 2001\n"),
]


@pytest.mark.parametrize(("gold", "answer_type", "written"), ANSWERS)
def test_answers_in_the_published_layout_are_exact_as_they_are_learnt(gold, answer_type, written):
    text = answer_text(gold, answer_type)
    assert text == f"```tsv\n{written}```"
    assert official_score(text, gold, answer_type)["global_em"] == 1


def test_every_answer_of_the_embedded_web_is_exact_as_it_is_learnt(train):
    for data in (factbook(), train):
        for one in data.questions:
            gold = data.gold(one)
            assert official_score(answer_text(gold, one.answer_type), gold, one.answer_type)["global_em"] == 1


CELLS = st.text(st.characters(exclude_categories=["C"]) | st.sampled_from(' ",\t%$'), min_size=1, max_size=8)


@given(st.lists(CELLS, min_size=1, max_size=4))
def test_an_answer_is_exact_or_refused_by_the_gate_and_never_raises(cells):
    gold = "".join('"' + cell.replace('"', '""') + '"\n' for cell in cells).encode()
    try:
        text = answer_text(gold, "set")
    except TableError:
        return
    assert official_score(text, gold, "set")["global_em"] in (0, 1)
    assert text.startswith("```tsv\n Answer\n")


def hand_made(root):
    """A suite in the published layout, whose pages are those of its traces."""
    questions = [
        question(1, answer=[["Oslo"]]),
        question(2, answer=[["Name", "Share"], ["Zoë", "7.5%"]], answer_type="table"),
        question(3, answer=[["Rome"]], trace=False),
        question(4, answer=[["```"]]),
        question(5, answer=[["Bern"]]),
        question(6, answer=[["Bonn"]]),
    ]
    write_suite(root, questions, encrypted=False)
    (root / "answer" / "5.csv").unlink()
    (root / "answer" / "6.csv").write_bytes("Zürich".encode("cp1252"))  # the official script reads it as Chinese
    trace = json.loads((root / "trace" / "2.json").read_bytes())
    trace["click"].append({"from": "https://nowhere.org", "to": "https://orphan.org"})
    (root / "trace" / "2.json").write_text(json.dumps(trace))
    return Gisa(str(root))


def test_a_suite_in_the_published_layout_gives_demonstrations_and_says_what_is_missing(tmp_path):
    suite = hand_made(tmp_path)
    pages = Corpus([Document("https://example.org/1", "<h1>number 1</h1>"), Document("https://x.org", "<p>number</p>")])
    made = make_demonstrations(
        suite, agent(pages), ChatFormat(tokenizer(PLAIN)), max_tokens=10**6, allow_train_on_benchmark=True
    )
    (demonstration,) = made.demonstrations
    assert demonstration.marked.actions == [
        '<tool_call>\n{"name": "search", "arguments": {"query": "number 1"}}\n</tool_call>',
        '<tool_call>\n{"name": "visit", "arguments": {"url": ["https://example.org/1"], "goal": "number 1"}}'
        "\n</tool_call>",
        "```tsv\n Answer\n Oslo\n```",
    ]
    assert demonstration.shown == 0  # Oslo stands on none of the pages
    assert made.dropped == {
        "no trace": ["3"],
        "the official scorer reads the answer otherwise": ["4", "6"],
        "no answer": ["5"],
        "a page could not be read": ["2"],
    }
    assert made.counts["orphans"] == 1


def test_the_benchmark_is_not_learnt_from_unless_that_is_said(tmp_path, train):
    suite = hand_made(tmp_path)
    with pytest.raises(InputError) as caught:
        make_demonstrations(suite, agent(factbook_web()), ChatFormat(tokenizer(PLAIN)), max_tokens=10)
    assert str(caught.value).startswith("6 of the 6 questions below")
    assert "are there to test with (ids such as 1, 2, 3)" in str(caught.value)
    assert "allow_train_on_benchmark=true" in str(caught.value)
    with pytest.raises(InputError, match="dataset=factbook_set dataset.split=train"):
        make_demonstrations(factbook(), agent(factbook_web()), ChatFormat(tokenizer(PLAIN)), max_tokens=10)


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
