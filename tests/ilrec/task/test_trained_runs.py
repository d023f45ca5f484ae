"""What can be done with a finished run: recommend and export, on the small real job."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save as safetensors
from transformers import AutoModelForCausalLM, AutoTokenizer

from src.ilrec.model.collaborative import load_collaborative_model
from src.ilrec.model.sequence_models import SASRec
from src.ilrec.task.assemble import load_trained
from src.ilrec.task.evaluate import EvaluateTask
from src.ilrec.task.recommend import _histories, read_users
from src.launch.errors import InputError
from src.metrics.ranking import ranking_metrics
from src.model.causal_lm import _byte_tokenizer
from tests import stand_in_parts


@pytest.fixture(scope="module")
def trained(run, small_arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert run(*small_arguments, f"hydra.run.dir={folder}") == 0
    return folder / "checkpoints" / "best.ckpt"


def lines(folder):
    return [json.loads(line) for line in (folder / "recommendations.jsonl").read_text().splitlines()]


def recommend(run, trained, folder, *overrides):
    return run("+experiment=recommend", f"checkpoint={trained}", f"hydra.run.dir={folder}", *overrides)


def test_every_user_gets_items_that_are_not_in_the_history_best_first(run, trained, tmp_path):
    assert recommend(run, trained, tmp_path, "task.count=3", "task.batch_size=7") == 0
    data = load_trained(str(trained)).interactions
    found = lines(tmp_path)
    assert [line["user"] for line in found] == data.user_ids
    for number, line in enumerate(found):
        chosen = [entry["item"] for entry in line["items"]]
        scores = [entry["score"] for entry in line["items"]]
        assert len(set(chosen)) == 3
        assert not set(chosen) & {data.item_ids[item] for item in data.sequence(number)}
        assert scores == sorted(scores, reverse=True)


def test_a_killed_run_goes_on_behind_its_last_whole_line(run, trained, tmp_path):
    assert recommend(run, trained, tmp_path / "whole", "task.batch_size=5") == 0
    whole = (tmp_path / "whole" / "recommendations.jsonl").read_bytes()
    folder = tmp_path / "killed"
    assert recommend(run, trained, folder, "task.batch_size=5") == 0
    # As a kill leaves it: two batches and half a line are there, and the record says that the run is not over.
    rows = whole.splitlines(keepends=True)
    (folder / "recommendations.jsonl").write_bytes(b"".join(rows[:10]) + rows[10][:20])
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**record, "status": "running"}))
    assert run(f"resume={folder}") == 0
    assert (folder / "recommendations.jsonl").read_bytes() == whole


def test_histories_of_anyone_are_answered_like_those_of_the_data_set(run, trained, tmp_path):
    data = load_trained(str(trained)).interactions
    history = [data.item_ids[item] for item in data.sequence(3)]
    asked = [{"user": data.user_ids[3]}, {"user": "guest", "history": history}]
    (tmp_path / "users.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))
    assert recommend(run, trained, tmp_path / "run", f"task.users={tmp_path / 'users.jsonl'}") == 0
    known, guest = lines(tmp_path / "run")
    assert guest["user"] == "guest"
    assert guest["items"] == known["items"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"user": "nobody"}', "line 2: there is no user 'nobody' in small; give a history instead"),
        ('{"history": ["i1", "i99"]}', "line 2: I need items of small as history, not ['i99']"),
        ('{"history": []}', "line 2: I need items of small as history, not []"),
        ("[1", "line 2: not a JSON object"),
        ("[1]", "line 2: not a JSON object"),
    ],
)
def test_a_line_that_cannot_be_answered_is_named(run, trained, tmp_path, line, message):
    (tmp_path / "users.jsonl").write_text('{"user": "u1"}\n' + line + "\n")
    assert recommend(run, trained, tmp_path / "run", f"task.users={tmp_path / 'users.jsonl'}") == 2
    assert message in json.loads((tmp_path / "run" / "result.json").read_text())["error"]["message"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file. I need a line of UTF-8 text for each: "),
        ("folder", " is a folder. I need a line"),
        (b"", "users.jsonl is empty."),
        ('{"user": "Z\xfcrich"}'.encode("latin-1"), "users.jsonl, line 1: not UTF-8 text"),
        (b'{"history": "i1"}', 'line 1: history is "i1"; I need a list of items\' ids.'),
        (b'{"history": [["i1"]]}', 'history is [["i1"]]; I need a list'),
        (b'{"history": [1.5]}', "history is [1.5]; I need"),
        (b'{"history": {"i1": 1}}', 'history is {"i1": 1}; I need a list'),
        (b'{"user": ["u1"]}', 'user is ["u1"]; I need one'),
        (b'{"user": true}', "user is true; I need one id"), (b'{"user": null}', "user is null; I need one id"),
        (b'{"usr": "u1"}', "neither user nor history, but usr."), (b"{}", "neither user nor history, but nothing."),
        (b'{"user": "u1", "user": "u2"}', "not a JSON object: the key 'user' occurs twice"),
        (b'{"user": 7}', "there is no user '7' in small"), (b'{"history": [99]}', "as history, not ['99']."),
    ],
)  # fmt: skip
def test_a_file_of_users_of_another_form_is_told_the_form(run, tmp_path, content, message):
    """At once: the checkpoint is not looked at before."""
    path = tmp_path / "users.jsonl"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    data = stand_in_parts.dataset()
    data = dataclasses.replace(data, name="small")
    with pytest.raises(InputError) as caught:
        list(_histories(read_users(path), data))
    assert message in str(caught.value)


def test_whole_numbers_are_ids_and_names_may_be_missing(tmp_path):
    data = stand_in_parts.dataset()  # with items "0" to "7"
    (tmp_path / "users.jsonl").write_text('{"history": [0, "2"]}\n\n \n{"user": 5, "history": ["1"]}\n{"user": "u1"}\n')
    found = list(_histories(read_users(tmp_path / "users.jsonl"), data))
    assert [(user, items.tolist()) for user, items in found] == [(None, [0, 2]), ("5", [1]), ("u1", [0, 1, 2])]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda whole: b"hello",
            "is not a checkpoint that can be read: it is no whole file that torch.save has written",
        ),
        (lambda whole: whole[: len(whole) // 2], "is not a checkpoint that can be read: it is no whole file"),
        (lambda whole: b"", "is not a checkpoint that can be read: it is no whole file"),
        (lambda whole: safetensors({"a": torch.zeros(3)}), "is not a checkpoint"),
    ],
    ids=["text", "truncated", "empty", "safetensors"],
)
def test_a_file_that_is_no_checkpoint_is_refused_before_anything_is_built(trained, tmp_path, make, message):
    path = tmp_path / "checkpoints" / "best.ckpt"
    path.parent.mkdir()
    path.write_bytes(make(trained.read_bytes()))
    with pytest.raises(InputError, match=f"checkpoint='{path}' {message}"):
        load_trained(str(path))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda weight: torch.zeros(3, 3), "holds weights of other shapes: "),
        (lambda weight: weight * torch.nan, "holds weights that are no numbers, such as in model"),
        (lambda weight: None, "is not a checkpoint of this project."),
    ],
)
def test_weights_that_cannot_be_the_run_s_are_refused(trained, tmp_path, spoil, message):
    path, checkpoint = tmp_path / "checkpoints" / "best.ckpt", torch.load(trained, weights_only=True)
    for name in ("config.yaml", "items.index.json"):
        (tmp_path / name).write_bytes((trained.parent.parent / name).read_bytes())
    name = next(name for name, weight in checkpoint["state_dict"].items() if weight.ndim == 2)
    checkpoint["state_dict"][name] = spoil(checkpoint["state_dict"][name])
    path.parent.mkdir()
    torch.save(checkpoint if checkpoint["state_dict"][name] is not None else {**checkpoint, "state_dict": None}, path)
    with pytest.raises(InputError, match=f"checkpoint='{path}' {message}"):
        load_trained(str(path))


def test_a_run_folder_in_the_place_of_its_checkpoint_is_told_the_checkpoint(trained):
    with pytest.raises(InputError, match=f"no such file. .*\nType:  checkpoint={trained}"):
        load_trained(str(trained.parent.parent))


def test_weights_without_their_run_folder_are_refused(run, trained, tmp_path):
    alone = tmp_path / "alone" / "best.ckpt"
    alone.parent.mkdir()
    alone.write_bytes(trained.read_bytes())
    for path, message in ((alone, "is not in a run folder"), (tmp_path / "none.ckpt", "no such file")):
        folder = tmp_path / path.stem
        assert recommend(run, path, folder) == 2
        assert message in json.loads((folder / "result.json").read_text())["error"]["message"]


def test_items_written_differently_than_in_the_run_are_refused(run, trained, tmp_path):
    index_file = trained.parent.parent / "items.index.json"
    before = index_file.read_text()
    index = json.loads(before)
    first, second, *_ = index
    index[first], index[second] = index[second], index[first]
    index_file.write_text(json.dumps(index))
    try:
        assert recommend(run, trained, tmp_path) == 2
    finally:
        index_file.write_text(before)
    assert (
        "The items are written differently now"
        in json.loads((tmp_path / "result.json").read_text())["error"]["message"]
    )


def by_plain_transformers(folder, text, count):
    """Return the best items of a prompt with nothing but transformers and the exported folder."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    index = {
        item: tuple(tokenizer.convert_tokens_to_ids(row))
        for item, row in json.loads((folder / "items.index.json").read_text()).items()
    }
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    depth = len(next(iter(index.values())))

    def allowed(_, sequence):
        start = tuple(sequence[ids.shape[1] :].tolist())
        return sorted({row[len(start)] for row in index.values() if row[: len(start)] == start})

    output = model.generate(
        ids, num_beams=count, num_return_sequences=count, max_new_tokens=depth, min_new_tokens=depth, do_sample=False,
        prefix_allowed_tokens_fn=allowed, length_penalty=0.0,
    )  # fmt: skip
    items = {row: item for item, row in index.items()}
    return [items[tuple(row)] for row in output[:, ids.shape[1] :].tolist()]


def test_an_exported_model_gives_the_same_best_items_in_plain_transformers(run, trained, tmp_path):
    assert run("+experiment=export", f"checkpoint={trained}", f"hydra.run.dir={tmp_path / 'export'}") == 0
    assert recommend(run, trained, tmp_path / "ours", "task.exclude_history=false", "task.count=10") == 0
    loaded = load_trained(str(trained))
    for number, line in list(enumerate(lines(tmp_path / "ours")))[:5]:
        text = loaded.model.tokenizer.decode(loaded.prompt.prompt(loaded.interactions.sequence(number)))
        ours = [entry["item"] for entry in line["items"]]
        assert by_plain_transformers(tmp_path / "export" / "model", text, 12)[:10] == ours


@pytest.fixture(scope="module")
def rewards(trained):
    """A collaborative model of the same data, untrained, as its stage saves it."""
    data = load_trained(str(trained)).interactions
    sizes = {"hidden_size": 8, "inner_size": 8, "num_layers": 1, "num_heads": 1, "dropout": 0.0, "max_history": 4}
    network = SASRec(data.item_ids, **sizes, seed=0)
    torch.nn.init.normal_(network.item_embedding.weight)  # opinions strong enough to tell apart
    weights = {f"model.{name}": weight for name, weight in network.state_dict().items()}
    path = trained.parent / "rewards.ckpt"
    torch.save({"model": network.spec, "dataset": data.fingerprint, "state_dict": weights}, path)
    return path


def evaluate(run, trained, folder, *changes):
    changes = [f"task.changes.{change}" for change in changes]
    return run("+experiment=evaluate", f"checkpoint={trained}", f"hydra.run.dir={folder}", *changes)


def test_a_finished_run_is_tested_again_guided_beside_unguided_with_a_weight_from_validation(
    run, trained, rewards, tmp_path
):
    changes = ["exclude_history=both", "guidance=[0.5,0,2]", f"reward_from={rewards}", "guidance_users=10"]
    assert evaluate(run, trained, tmp_path, *(f"evaluator.{change}" for change in changes)) == 0
    result, before = (json.loads((folder / "result.json").read_text()) for folder in (tmp_path, trained.parents[1]))
    assert (result["name"], result["seed"]) == (before["name"], before["seed"])
    assert result["protocol"] == before["protocol"]
    assert {origin["path"] for origin in result["lineage"].values()} == {str(trained), str(rewards)}
    assert result["guidance"]["reward_excludes_history"] is False  # as some take an item twice
    # Unguided it is what the run itself has found, to the last bit.
    ranks, ranks_before = (pq.read_table(folder / "ranks.parquet") for folder in (tmp_path, trained.parents[1]))
    assert ranks.select(ranks_before.column_names) == ranks_before
    assert result["metrics"].items() >= {k: v for k, v in before["metrics"].items() if k.startswith("test/")}.items()
    loaded = load_trained(str(trained), {"evaluator": {"guidance": 0.5, "reward_from": str(rewards)}})
    loaded.data.evaluation_batch_size = 24
    for ending, exclude in (("", False), ("_excluded", True)):
        chosen = result["guidance"][f"test_guided{ending}"]
        assert chosen["users"] == 10
        assert list(chosen["val/ndcg@10"]) == ["0", "0.5", "2"]
        best = max(chosen["val/ndcg@10"].values())
        assert chosen["weight"] == float(next(w for w, v in chosen["val/ndcg@10"].items() if v == best))
        (batch,) = loaded.data.test_dataloader()
        rank = loaded.evaluator.rank(loaded.model, batch, exclude_history=exclude, guidance=chosen["weight"])
        found = ranks[f"rank_guided{ending}"].to_numpy()
        assert np.array_equal(found, rank[batch["user"].argsort().numpy()], equal_nan=True)
        expected = ranking_metrics(found, [10])["ndcg@10"]
        assert result["metrics"][f"test_guided{ending}/ndcg@10"] == pytest.approx(expected, abs=1e-6)
        few = loaded.data.of_users(10).val_dataloader()
        guided = [loaded.evaluator.rank(loaded.model, one, exclude_history=exclude, guidance=2.0) for one in few]
        measured = ranking_metrics(np.concatenate(guided), [10])["ndcg@10"]
        assert chosen["val/ndcg@10"]["2"] == pytest.approx(measured, abs=1e-6)


def test_a_finished_run_is_tested_again_with_the_penalty_that_validation_users_prefer(run, trained, tmp_path):
    changes = ["evaluator.exclude_history=both", "evaluator.history_penalty=[0,1,20]"]
    assert evaluate(run, trained, tmp_path, *changes) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["history_penalty"]) == ["test_penalised"]  # without the history's items there is nothing to take
    chosen = result["history_penalty"]["test_penalised"]
    assert list(chosen["val/ndcg@10"]) == ["0", "1", "20"]
    assert chosen["val/ndcg@10"][f"{chosen['penalty']:g}"] == max(chosen["val/ndcg@10"].values())
    loaded = load_trained(str(trained), {"evaluator": {"exclude_history": "both"}})
    batch = next(iter(loaded.data.test_dataloader()))
    rank = loaded.evaluator.rank(loaded.model, batch, exclude_history=False, history_penalty=chosen["penalty"])
    found = pq.read_table(tmp_path / "ranks.parquet")["rank_penalised"].to_numpy()
    assert np.array_equal(found[batch["user"].numpy()], rank, equal_nan=True)
    assert result["metrics"]["test_penalised/ndcg@10"] == pytest.approx(
        ranking_metrics(found, [10])["ndcg@10"], abs=1e-6
    )


def test_recommendations_can_be_penalised(run, trained, tmp_path):
    more = ["task.count=3", "task.exclude_history=false", "task.history_penalty=90"]
    assert recommend(run, trained, tmp_path / "penalised", *more) == 0
    assert recommend(run, trained, tmp_path / "excluded", "task.count=3") == 0
    penalised, excluded = (
        [[one["item"] for one in line["items"]] for line in lines(tmp_path / name)]
        for name in ("penalised", "excluded")
    )
    assert penalised == excluded  # where others are left
    assert recommend(run, trained, tmp_path / "refused", "task.history_penalty=1") == 2
    error = json.loads((tmp_path / "refused" / "result.json").read_text())["error"]["message"]
    assert "are left out anyway" in error
    assert "Type:  task.exclude_history=false" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("evaluator.history_penalty=[]", "evaluator.history_penalty=[]: I need "),
        ("evaluator.guidance=1", "evaluator.guidance=1 needs a collaborative model trained on the same data set."),
        ("evaluator.reward_from=x.ckpt", "evaluator.reward_from=x.ckpt: no such file; needed"),
        ("evaluator.guidence=1", "has no such setting; did you mean guidance?"),
        ("evaluator.guidance=[-1]", "evaluator.guidance=[-1]: I need [number of at least 0, ...], at least one."),
        ("trainer.limit_test_batches=0.5", "Lightning refuses these settings: You requested to check 0.5"),
        ("batches.max_users=0", "batches.max_users=0: I need a whole number of at least 1"),
        ("stage.strength=1", "task.changes.stage: a finished run can be tested with other settings of its evaluator,"),
    ],
)
def test_a_change_that_is_none_is_refused(run, trained, tmp_path, change, message):
    assert evaluate(run, trained, tmp_path, change) == 2
    assert message in json.loads((tmp_path / "result.json").read_text())["error"]["message"]


def test_recommendations_can_be_guided(run, trained, rewards, tmp_path):
    more = ["task.count=3", "task.exclude_history=false"]
    assert recommend(run, trained, tmp_path / "plain", *more) == 0
    assert recommend(run, trained, tmp_path / "guided", *more, "task.guidance=9", f"task.reward_from={rewards}") == 0
    assert recommend(run, trained, tmp_path / "refused", *more, "task.guidance=9") == 2
    plain, guided = lines(tmp_path / "plain"), lines(tmp_path / "guided")
    assert plain != guided
    # So strong, it is the collaborative model's first item that comes first.
    loaded = load_trained(str(trained))
    network = load_collaborative_model(rewards, loaded.interactions)
    for number, line in enumerate(guided[:5]):
        seen = torch.from_numpy(loaded.interactions.sequence(number))
        scores = network.scores(network(seen[None, -4:])[0, -1])
        assert line["items"][0]["item"] == loaded.interactions.item_ids[int(scores.argmax())]


def test_adapters_are_merged_on_export(run, small_arguments, trained, tmp_path):
    base = tmp_path / "base"
    tiny = load_trained(str(trained)).model
    tiny.network.resize_token_embeddings(len(tiny.tokenizer) - len(tiny.item_token_ids))
    tiny.network.save_pretrained(base)
    _byte_tokenizer().save_pretrained(base)
    arguments = [one for one in small_arguments if not one.startswith(("model.", "trainer.max_epochs"))]
    lora = [
        "model=hub",
        f"model.name={base}",
        "model.lora.rank=2",
        "trainer.max_epochs=1",
        "prompt=ids",
        "prompt.max_history=4",
        "prompt.stride=5",
    ]
    assert run(*arguments, *lora, f"hydra.run.dir={tmp_path / 'lora'}") == 0
    checkpoint = tmp_path / "lora" / "checkpoints" / "best.ckpt"
    assert run("+experiment=export", f"checkpoint={checkpoint}", f"hydra.run.dir={tmp_path / 'export'}") == 0
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "export" / "model").eval()
    loaded = load_trained(str(checkpoint))
    ids = torch.from_numpy(loaded.prompt.prompt(loaded.interactions.sequence(0)))[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, loaded.model.causal_network(ids).logits)


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"batches": {"max_users": 3, "crop": 0.5}}, "batches.crop"), ({"batches": {"batch_size": 3}}, "batches.ba"),
     ({"trainer": {"max_epochs": 3, "precision": "bf16-mixed"}}, "trainer.max_epochs")],
)  # fmt: skip
def test_changes_that_no_test_reads_are_refused(changes, key):
    with pytest.raises(InputError, match=f"task.changes.{key}.*: a test does not read it, only a training does"):
        EvaluateTask(changes=changes)


def test_a_penalty_of_what_a_second_test_leaves_out_is_refused(run, trained, tmp_path):
    given = ["task.changes.evaluator.exclude_history=true", "task.changes.evaluator.history_penalty=2"]
    assert run("+experiment=evaluate", f"checkpoint={trained}", *given, f"hydra.run.dir={tmp_path / 'a'}") == 2
    message = json.loads((tmp_path / "a" / "result.json").read_text())["error"]["message"]
    assert message.startswith("task.changes.evaluator.history_penalty=2: items of the history are left out anyway.")
    assert "Type:  task.changes.evaluator.history_penalty=0, or task.changes.evaluator.exclude_history=" in message


def test_a_model_for_guidance_that_is_not_asked_is_refused(run, trained, tmp_path):
    assert recommend(run, trained, tmp_path / "a", "task.reward_from=a.ckpt") == 2
    message = json.loads((tmp_path / "a" / "result.json").read_text())["error"]["message"]
    assert message.startswith("task.reward_from=a.ckpt: with task.guidance=0.0 nothing asks it.\nType:  task.guidance=")
