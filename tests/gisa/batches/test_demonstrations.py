import itertools
import json
import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.agent.backends import EmbeddedPages, EmbeddedSearch
from src.gisa.agent.cost import PriceList
from src.gisa.agent.heuristic import HeuristicPolicy
from src.gisa.agent.prompts import opening
from src.gisa.agent.react import Budget
from src.gisa.agent.rollout import Rollout
from src.gisa.agent.tools import specs
from src.gisa.agent.trajectory import Attempt
from src.gisa.agent.web import Web
from src.gisa.batches.demonstrations import answer_text, make_demonstrations
from src.gisa.chat.format import ChatFormat
from src.gisa.dataset.factbook.corpus import Corpus, Document
from src.gisa.dataset.factbook.demonstrations import training_aids
from src.gisa.dataset.factbook.pages import factbook_web
from src.gisa.dataset.factbook.suite import factbook, factbook_set
from src.gisa.dataset.gisa import Gisa
from src.gisa.metrics.answer_table import TableError
from src.gisa.metrics.answers import official_score
from src.launch.errors import InputError
from src.model.smollm2 import local_folder
from tests.gisa.chat_models import PLAIN, WITH_TOOLS, tokenizer
from tests.gisa.gisa_files import question, write_suite


def agent(corpus, max_calls=8, instructions="full"):
    return Rollout(
        policy=HeuristicPolicy(), search=EmbeddedSearch(corpus), pages=EmbeddedPages(corpus), extractor=None,
        cache=None, prices=PriceList(date="2026-01-31", models={}), budget=Budget(max_calls=max_calls), web=Web(),
        today="2024-07-01", instructions=instructions, results=3, max_urls=5, page_chars=1500, episode_timeout_s=60,
        concurrency=1, question_usd=None, run_usd=None,
    )  # fmt: skip


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
        assert by_own_names(prompt, names) == chat.tokenizer.decode(chat.tokens_of(begins, specs(instructions)))
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
