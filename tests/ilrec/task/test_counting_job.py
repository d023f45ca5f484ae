"""Counting from the command line: counted, gone on with, asked for items, and a reward model beside a trained one."""

import json

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.filterwarnings("ignore")


def result(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def counted(run, small_arguments, tmp_path_factory):
    """Arguments of the small job's data, and the folder of a finished run of counting on them."""
    folder = tmp_path_factory.mktemp("counted")
    own = ("tokenizer.", "model.", "stage.", "prompt.", "trainer.max")
    shared = [text for text in small_arguments[1:] if not text.startswith(own)]
    arguments = ["+experiment=counting", *shared, "evaluator.exclude_history=both", "trainer.check_val_every_n_epoch=3"]
    assert run(*arguments, f"hydra.run.dir={folder}") == 0
    return shared, folder


def test_a_run_tells_what_it_has_chosen_and_how_every_user_ranks(counted):
    content = result(counted[1])
    assert content["chosen"].keys() == {"decay", "skip", "back", "norm"}
    assert content["metrics"].keys() >= {"test/ndcg@10", "test_excluded/ndcg@10", "val/ndcg@10"}
    assert "chosen on validation users" in (counted[1] / "run.log").read_text()
    assert pq.read_table(counted[1] / "ranks.parquet").column_names == ["user", "target", "rank", "rank_excluded"]


@pytest.mark.parametrize("last", [True, False], ids=["behind the count", "before it"])
def test_a_killed_run_ends_the_same(run, counted, tmp_path, last):
    content, folder = result(counted[1]), tmp_path / "killed"
    (folder / "checkpoints").mkdir(parents=True)
    for name in (
        "config.yaml",
        "items.index.json",
        *(["checkpoints/best.ckpt", "checkpoints/last.ckpt"] if last else []),
    ):
        (folder / name).write_bytes((counted[1] / name).read_bytes())
    (folder / "result.json").write_text(json.dumps({**content, "status": "running", "metrics": {}, "chosen": None}))
    assert run(f"resume={folder}") == 0
    for key in ("metrics", "chosen", "status"):
        assert result(folder)[key] == content[key]


def test_it_recommends_and_is_no_language_model_to_export(run, counted, tmp_path):
    best = counted[1] / "checkpoints" / "best.ckpt"
    assert run("+experiment=recommend", f"checkpoint={best}", f"hydra.run.dir={tmp_path / 'a'}") == 0
    lines = (tmp_path / "a" / "recommendations.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["items"]) > 0 for line in lines] == [True] * 24
    assert run("+experiment=export", f"checkpoint={best}", f"hydra.run.dir={tmp_path / 'b'}") == 2
    assert "holds no language model" in result(tmp_path / "b")["error"]["message"]


def test_ilrec_learns_from_the_mean_of_several(run, small_arguments, counted, tmp_path):
    shared, folder = counted
    assert run("+experiment=uniform", *shared, f"hydra.run.dir={tmp_path / 'uniform'}") == 0
    paths = [str(one / "checkpoints" / "best.ckpt") for one in (folder, tmp_path / "uniform")]
    arguments = [*small_arguments[1:], "trainer.max_epochs=1", f"stage.reward_from=[{','.join(paths)}]"]
    assert run("+experiment=ilrec", *arguments, f"hydra.run.dir={tmp_path / 'ilrec'}") == 0
    origins = {key: origin["name"] for key, origin in result(tmp_path / "ilrec")["lineage"].items()}
    assert origins == {"reward_from[0]": "counting", "reward_from[1]": "uniform"}
    assert "train/loss_reward" in (tmp_path / "ilrec" / "metrics.csv").read_text()


def test_it_guides_a_trained_model(run, counted, tmp_path):
    shared, folder = counted
    best = folder / "checkpoints" / "best.ckpt"
    small = ["model.hidden_size=8", "trainer.max_epochs=1", "evaluator.exclude_history=both"]
    guided = ["evaluator.guidance=[0.5,2]", f"evaluator.reward_from={best}"]
    assert run("+experiment=sasrec", *shared, *small, *guided, f"hydra.run.dir={tmp_path / 'sasrec'}") == 0
    content = result(tmp_path / "sasrec")
    assert content["metrics"].keys() >= {"test_guided/ndcg@10", "test_guided_excluded/ndcg@10"}
    assert content["guidance"]["test_guided_excluded"]["weight"] in (0.5, 2)
    assert content["lineage"]["guidance_from"]["name"] == "counting"
    own = tmp_path / "sasrec" / "checkpoints" / "best.ckpt"
    more = ["task.guidance=2", "task.count=3", f"hydra.run.dir={tmp_path / 'recommended'}"]
    assert run("+experiment=recommend", f"checkpoint={own}", *more) == 0
    assert len((tmp_path / "recommended" / "recommendations.jsonl").read_text().splitlines()) == 24
