"""The real job with items as titles: trained, ranked both ways, recommended, and what is refused."""

import json

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")
# Titles of which some are the beginning of another, and one is there twice.
TITLES = ["Big", "Bigger", "Heat", "Heat 2", "Alien", "Big"]


def result(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture
def arguments(small_arguments, tmp_path):
    """The start of a command line with six users who walk through six titles."""
    walks = {str(user): [(user + step) % 6 for step in range(5)] for user in range(6)}
    (tmp_path / "X.inter.json").write_text(json.dumps(walks))
    (tmp_path / "X.item.json").write_text(json.dumps({n: {"title": title} for n, title in enumerate(TITLES)}))
    others = ("dataset", "tokenizer.", "prompt.", "trainer.max_epochs")
    kept = [text for text in small_arguments if not text.startswith(others)]
    data = ["dataset=lcrec", f"dataset.source.folder={tmp_path}", "dataset.source.name=X", "dataset.k_core=1"]
    return [*kept, *data, "trainer.max_epochs=1", "tokenizer=title"]


@pytest.mark.parametrize("evaluator", ["ranking", "grounded"])
def test_a_model_is_trained_on_titles_and_recommends_with_them(run, arguments, tmp_path, capsys, evaluator):
    folder = tmp_path / "trained"
    extra = ["prompt=instruction", f"evaluator={evaluator}", "stage.distillation=1.0", "evaluator.cutoffs=[1,10]"]
    assert run(*arguments, *extra, f"hydra.run.dir={folder}") == 0
    assert (result(folder)["status"], result(folder)["evaluated_users"]) == ("finished", 6)
    printed = capsys.readouterr().out
    # Items 0 and 5 are both "Big": 2 of 6 items share a title.
    assert "collision_rate  0.3333" in printed
    index = json.loads((folder / "items.index.json").read_text())
    assert "".join(index["3"]) == "ĠHeatĠ2</s>"
    best = folder / "checkpoints" / "best.ckpt"
    again = tmp_path / "again"
    wanted = ["task.count=6", "task.exclude_history=false"]
    assert run("+experiment=recommend", f"checkpoint={best}", *wanted, f"hydra.run.dir={again}") == 0
    lines = [json.loads(line) for line in (again / "recommendations.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    for line in lines:
        assert sorted(item["title"] for item in line["items"]) == sorted(TITLES)
        # Twins have the same score and stand side by side.
        places = [place for place, item in enumerate(line["items"]) if item["title"] == "Big"]
        assert places[1] == places[0] + 1


def test_preferences_are_learned_from_a_model_of_titles(run, arguments, tmp_path):
    common = [*(text for text in arguments[1:] if not text.startswith("stage.")), "prompt=instruction"]
    assert run("+experiment=sft", *common, f"hydra.run.dir={tmp_path / 'sft'}") == 0
    start = tmp_path / "sft" / "checkpoints" / "best.ckpt"
    for name, extra in (("dpo", []), ("grpo", ["batches.prompts_per_epoch=8", "stage.group_size=4"])):
        folder = tmp_path / name
        assert run(f"+experiment={name}", *common, *extra, f"upstream.sft={start}", f"hydra.run.dir={folder}") == 0
        assert (result(folder)["status"], result(folder)["evaluated_users"]) == ("finished", 6)


def test_titles_under_the_prompt_of_semantic_ids_are_refused(run, arguments, tmp_path):
    assert run(*arguments, f"hydra.run.dir={tmp_path / 'a'}") == 2
    assert result(tmp_path / "a")["error"]["message"].endswith("Type:  prompt=instruction")


def test_data_without_titles_is_refused_with_another_way(run, arguments, tmp_path):
    (tmp_path / "X.item.json").unlink()
    assert run(*arguments, "prompt=instruction", f"hydra.run.dir={tmp_path / 'a'}") == 2
    message = result(tmp_path / "a")["error"]["message"]
    assert message.startswith("6 of 6 items of 'X' have no title (first: 0, 1, 2)")
    assert message.endswith("tokenizer=residual_kmeans")


def test_titles_are_no_items_for_a_collaborative_model(run, arguments, tmp_path):
    assert run("+experiment=sasrec", *arguments[1:4], *arguments[-6:], f"hydra.run.dir={tmp_path / 'a'}") == 2
    assert result(tmp_path / "a")["error"]["message"].endswith("Type:  tokenizer=item_ids")
