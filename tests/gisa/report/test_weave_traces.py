"""Episodes as traces in Weave: what a server on loopback is sent of a run."""

import json
from importlib.util import find_spec

import pytest

from src.gisa.report import viewers
from src.launch.errors import InputError
from src.report.__main__ import main
from tests.gisa.report.test_live import QUESTIONS, answer  # noqa: F401, the fixture

pytestmark = pytest.mark.filterwarnings("ignore")
if not find_spec("weave"):
    pytest.skip("weave is not installed", allow_module_level=True)  # importing it would start its error reports


@pytest.fixture
def traces(answer, online, monkeypatch, capsys):  # noqa: F811
    """Report on a run with ``--weave`` and more flags; return the calls that were sent, and what was printed."""
    monkeypatch.setenv("WF_TRACE_SERVER_URL", online.url)
    _, folder = answer("agent.concurrency=1")

    def call(*flags):
        assert main([str(folder), "--out", str(folder / "report"), "--weave", *flags]) == 0
        # They come by several connections, in any order.
        return sorted(online.calls, key=lambda call: call["inputs"].get("question_id", "")), capsys.readouterr().out

    return call


def test_an_episode_is_a_tree_of_calls_without_the_question_and_without_live_ones(traces):
    calls, printed = traces()
    assert "2 traces of" in printed
    assert "tester/ilrec-gisa in Weave" in printed
    episodes = [call for call in calls if call["parent_id"] is None]
    assert [call["inputs"]["question_id"] for call in episodes] == ["3", "5"]  # 8 changes with time
    first = episodes[0]
    assert first["inputs"] == {"question_id": "3", "question": None, "answer_type": "item"}
    assert first["output"]["official"]["global_em"] == 1
    assert first["output"]["outcome"] == "answered"
    (reply,) = [call for call in calls if call["parent_id"] == first["id"]]
    assert "/op/reply:" in reply["op_name"]
    assert "Amber Hill" in reply["output"]["content"]
    ((model, usage),) = reply["summary"]["usage"].items()
    assert model.endswith(" m")
    assert usage["prompt_tokens"] > 0
    assert first["started_at"] <= reply["started_at"] <= reply["ended_at"] <= first["ended_at"]
    assert "spring" not in json.dumps(calls)
    assert "sk-planted" not in json.dumps(calls)


def test_questions_are_sent_where_that_is_asked_for(traces):
    calls, _ = traces("--show-questions")
    asked = [call["inputs"]["question"] for call in calls if call["parent_id"] is None]
    assert asked == [question["question"] for question in QUESTIONS]


def test_a_wandb_run_after_it_does_not_start_weave_anew(traces, tmp_path):
    import wandb
    import weave

    traces()
    with wandb.init(project="other", dir=tmp_path):
        assert weave.get_client() is None


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda patch: patch.setattr(viewers, "find_spec", lambda name: None), r"pip install 'ilrec-gisa\[dash"),
     (lambda patch: patch.setenv("WANDB_MODE", "offline"), "export WANDB_MODE=online"),
     (lambda patch: patch.setattr(viewers, "has_key", lambda: False), "export WANDB_API_KEY=<your key>")],
    ids=["not installed", "offline", "no key"],
)  # fmt: skip
def test_without_a_way_to_send_it_says_what_to_type(change, message, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(viewers, "has_key", lambda: True)
    change(monkeypatch)
    with pytest.raises(InputError, match=message):
        viewers.require_weave()
