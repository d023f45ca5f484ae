"""What a server is told by a rollout, record by record."""

import json

import pytest

from src.gisa.dataset.gisa import Gisa
from src.gisa.report.live import Progress
from src.launch.progress import Line
from tests.gisa.agent.servers import completion, model_server
from tests.gisa.gisa_files import question, write_suite
from tests.gisa.pages import read_page

pytestmark = pytest.mark.filterwarnings("ignore")
KEY = "sk-planted-0123456789"
QUESTIONS = [
    question(3, "item", topic="rivers", text="Where does the Amber spring?", answer=[["Amber Hill"]]),
    question(5, "set", topic="comets", text="Which comets are known?", answer=[["Encke"], ["Halley"]]),
    question(8, "item", stable=False, topic="comets", text="Which one is next?", answer=[["Tuttle"]]),
]


async def healthy(request, writer):
    return completion("```tsv\nPlace\nAmber Hill\n```")


@pytest.fixture
def answer(online, run, tmp_path, monkeypatch):
    """Roll a model out over three questions; return the run of the dashboard and its folder."""
    monkeypatch.setenv("PLANTED_KEY", KEY)
    suite = write_suite(tmp_path / "suite", QUESTIONS)

    def call(*more):
        with model_server(healthy) as url:
            assert run(
                "+experiment=gisa_singleshot", f"hydra.run.dir={tmp_path / 'run'}",
                "dataset=gisa", f"dataset.root={suite}", "agent/policy=endpoint", f"agent.policy.base_url={url}",
                "agent.policy.model=m", "agent.policy.key_env=PLANTED_KEY", "evaluator.resamples=50", *more,
            ) == 0  # fmt: skip
        (one,) = online.runs.values()
        return one, tmp_path / "run"

    return call


def sent(server):
    """All that the server has, as one text; pages unpacked."""
    texts = []
    for owner in [*server.runs.values(), *server.artifacts.values()]:
        for name, content in owner.files.items():
            texts.append(json.dumps(read_page(content)) if name.endswith(".html") else content.decode(errors="replace"))
    rows = [[one.rows, one.config, one.fields, one.summary] for one in server.runs.values()]
    return "\n".join([*texts, json.dumps(rows)])


def test_a_rollout_is_sent_record_by_record_without_the_questions(answer, online):
    one, folder = answer("agent.concurrency=1")
    records = [
        (kind, about) for kind, _, about in online.records if kind in ("resume", "row", "committed", "used", "end")
    ]
    assert records[0] == ("resume", False)
    assert records[-1] == ("end", 0)
    rows = [keys for kind, keys in records if kind == "row"]
    progress = ["global_em", "outcome/answered", "questions", "usd"]
    # The first at once, then none within two seconds, and the last.
    assert rows[0] == rows[-3] == [f"progress/{name}" for name in progress]
    assert "test/global_em" in rows[-2]
    assert rows[-1][:2] == ["test/page", "test/questions"]
    done = {row["progress/questions"]: row["progress/global_em"] for row in one.rows if "progress/questions" in row}
    assert done[3] == pytest.approx(1 / 3)
    assert one.fields["tags"] == ["GISA", "gisa", "gisa_singleshot"]
    assert one.summary["data_fingerprint"][:12] in one.summary["protocol"]["dataset"]
    columns, table = one.table("test/questions")
    assert columns == [
        "id", "question", "type", "changes", "prediction", "gold", "exact match", "scores", "outcome", "trajectory",
    ]  # fmt: skip
    assert [row[:4] for row in table] == [["3", None, "item", False], ["5", None, "set", False]]
    assert table[0][4:7] == ["```tsv\nPlace\nAmber Hill\n```", "Amber Hill\n", 1]
    assert table[0][8:] == ["answered", "said: ```tsv\nPlace\nAmber Hill\n```"]
    page = read_page(one.files[one.summary["test/page"]["path"]])
    assert [entry["id"] for entry in page["questions"]] == ["3", "5"]
    everything = sent(online)
    assert not [text for text in (KEY, "Where does", "Which comets", "Tuttle") if text in everything]
    assert json.loads(online.artifact("suite-gisa").files["suite.json"])["questions"] == 3


def test_questions_are_shown_on_demand(answer, online):
    one, folder = answer("dataset.show_questions=true", "agent.concurrency=1")
    assert [row[1] for row in one.table("test/questions")[1]] == [each["question"] for each in QUESTIONS]
    assert "Tuttle" in sent(online)
    assert KEY not in sent(online)


class Screen:
    def __init__(self):
        self.rows = []

    def show(self, **content):
        self.rows.append(content)


def episode(number, prediction, outcome="answered", usd=0.5):
    spent = {"chain": {"usd": usd}}
    return {"question_id": str(number), "sample": 0, "prediction": prediction, "outcome": outcome, "spent": spent}


def test_progress_goes_on_from_what_was_done_before(tmp_path):
    screen, suite = Screen(), Gisa(str(write_suite(tmp_path / "suite", QUESTIONS)))
    right = "```tsv\nPlace\nAmber Hill\n```"
    line = Line("Answering", 3, counted=True)
    progress = Progress(line, [screen], suite, 3, [episode(3, right)])
    assert line.text(80).startswith("Answering [===>      ] 1/3  0:00  EM 100%  0.50 USD")
    progress(episode(5, "", "budget", usd=None))
    progress(episode(8, "```tsv\nName\nTuttle\n```"))
    # The second question is wrong, the third right: 1/2, then 2/3; a price that is not known counts as nothing.
    assert [row["progress/global_em"] for row in screen.rows] == [1 / 2, 2 / 3]
    last = {key.removeprefix("progress/"): value for key, value in screen.rows[-1].items()}
    assert (last["questions"], last["usd"], last["outcome/answered"], last["outcome/budget"]) == (3, 1.0, 2, 1)
    assert line.text(80) == "Answering [==========] 3/3  0:00  EM 67%  budget 1  1.00 USD"
