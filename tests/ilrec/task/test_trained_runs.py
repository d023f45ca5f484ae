"""What can be done with a finished run: recommend and export, on the small real job."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from src.ilrec.task.assemble import load_trained
from src.model.causal_lm import _byte_tokenizer


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
