import json
import re

import pytest

from src.gisa.task.traces import TracesTask
from src.launch.errors import InputError
from tests.gisa.chat_models import PLAIN, tokenizer
from tests.gisa.gisa_files import question, write_suite

TEXT = "Which hill is <b>amber</b> & old?"


@pytest.fixture
def render(run, tmp_path, capsys):
    """Write the page for a suite of two questions and a trace each; only the first page exists."""
    questions = [question(3, text=TEXT, answer=[["Amber <Hill>"]]), question(5, answer=[["Oslo"]])]
    suite = write_suite(tmp_path / "suite", questions)
    pages = tmp_path / "pages.jsonl"
    pages.write_text(json.dumps({"url": "https://example.org/3", "html": "<p>number &lt;script&gt;"}) + "\n")
    tokenizer(PLAIN).save_pretrained(tmp_path / "model")

    local = ("agent/policy=local", f"agent.policy.name={tmp_path / 'model'}")

    def call(*overrides, policy=local):
        folder = tmp_path / "run"
        status = run(
            "+experiment=gisa_traces", f"hydra.run.dir={folder}", "dataset=gisa", f"dataset.root={suite}",
            "agent/search=recorded", f"agent.search.root={suite}",
            "agent/pages=corpus", f"agent.pages.corpus.path={pages}",
            *policy, "task.max_tokens=100000", *overrides,
        )  # fmt: skip
        return status, folder, capsys.readouterr().out

    return call


def test_the_page_shows_what_is_learnt_escaped_and_by_itself(render):
    status, folder, _ = render("task.allow_train_on_benchmark=true")
    assert status == 0
    page = (folder / "traces.html").read_text()
    assert "Which hill is &lt;b&gt;amber&lt;/b&gt; &amp; old?" in page
    (demonstration,) = re.findall("<pre>.*?</pre>", page, re.DOTALL)
    assert re.findall(r"<mark>(.*?)&lt;\|end\|&gt;</mark>", demonstration, re.DOTALL) == [
        "&lt;tool_call&gt;\n{&quot;name&quot;: &quot;search&quot;, &quot;arguments&quot;: {&quot;query&quot;: "
        "&quot;number 3&quot;}}\n&lt;/tool_call&gt;",
        "&lt;tool_call&gt;\n{&quot;name&quot;: &quot;visit&quot;, &quot;arguments&quot;: {&quot;url&quot;: "
        "[&quot;https://example.org/3&quot;], &quot;goal&quot;: &quot;number 3&quot;}}\n&lt;/tool_call&gt;",
        "```tsv\n Answer\n Amber &lt;Hill&gt;\n```",
    ]
    assert "1: a page could not be read (5)" in page
    assert "It is amber." in page  # the snippet that the human got to read
    assert not re.search(r"<script|src=|https?://(?!example\.org|www\.google\.com)", page)
    result = json.loads((folder / "result.json").read_text())
    assert result["dropped"] == {"a page could not be read": 1}
    assert (result["metrics"]["demonstrations/episodes"], result["metrics"]["demonstrations/searches"]) == (1, 2)
    assert 0 < result["metrics"]["demonstrations/trained_tokens"] < result["metrics"]["demonstrations/tokens"]
    assert TEXT not in (folder / "result.json").read_text()


@pytest.mark.parametrize(("shown", "expected"), [(1, ["3"]), (2, ["3", "5"]), (40, ["3", "5"])])
def test_each_demonstration_is_shown_once_however_few_there_are(render, tmp_path, shown, expected):
    with (tmp_path / "pages.jsonl").open("a") as pages:
        pages.write(json.dumps({"url": "https://example.org/5", "html": "<p>number"}) + "\n")
    _, folder, _ = render("task.allow_train_on_benchmark=true", f"task.max_shown={shown}")
    assert re.findall("<h2>(.*?)</h2>", (folder / "traces.html").read_text()) == expected


def test_the_benchmark_makes_no_demonstrations_unless_that_is_said(render):
    status, folder, said = render()
    assert status == 2
    assert "2 of the 2 questions below" in said
    assert "task.allow_train_on_benchmark=true" in said
    assert not (folder / "traces.html").exists()


def test_a_policy_without_a_tokenizer_is_refused_with_what_to_type(render, tmp_path):
    status, _, said = render(policy=["agent/policy=heuristic"])
    assert status == 2
    assert "HeuristicPolicy, which has no tokenizer of its own. Type one that has:\n  agent/policy=smollm2" in said
    (tmp_path / "empty").mkdir()
    empty = ["agent/policy=local", f"agent.policy.name={tmp_path / 'empty'}", f"hydra.run.dir={tmp_path / 'other'}"]
    status, _, said = render(policy=empty)
    assert status == 2
    assert "empty': no tokenizer could be loaded by that name" in said


def test_another_data_set_is_refused_with_what_to_type(tmp_path):
    task = TracesTask(max_tokens=9, max_shown=1, allow_train_on_benchmark=False)
    with pytest.raises(InputError, match="dataset is builtins.dict, and I need a suite of questions with traces"):
        task.run({"dataset": {"_target_": "builtins.dict"}}, tmp_path, None, None)
