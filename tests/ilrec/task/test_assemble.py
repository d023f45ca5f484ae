"""What a run starts from means the same here as where it was trained, or is refused; on the small real job."""

import json
from pathlib import Path

import pytest

from src.ilrec.task.assemble import differing

pytestmark = pytest.mark.filterwarnings("ignore")
SHORT = ["trainer.max_epochs=1"]


def result(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def trained(run, small_arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert run(*small_arguments, *SHORT, f"hydra.run.dir={folder}") == 0
    return folder


@pytest.fixture(scope="module")
def collaborative(run, small_arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("collaborative")
    kept = [text for text in small_arguments[1:] if not text.startswith(("tokenizer.", "model.", "stage."))]
    arguments = ["+experiment=sasrec", *kept, "model.hidden_size=8", "model.inner_size=8", "prompt.stride=3", *SHORT]
    assert run(*arguments, f"hydra.run.dir={folder}") == 0
    return arguments, folder / "checkpoints" / "best.ckpt"


@pytest.fixture
def other_data(small_arguments, tmp_path):
    """The small data set with other items: as many, bought by as many users in the same way."""
    folder = Path(next(text for text in small_arguments if "source.folder=" in text).partition("=")[2])
    (tmp_path / "other.inter").write_text(
        (folder / "small.inter").read_text().replace("\ti", "\tj").replace("jt", "it")
    )
    return [f"dataset.source.folder={tmp_path}", "dataset.source.name=other"]


@pytest.mark.parametrize(
    ("recipe", "more"),
    [("ilrec_stage1", ["stage.layers=1"]), ("dpo", []), ("sprec", ["batches.prompts_per_epoch=24"]),
     ("grpo", ["batches.prompts_per_epoch=24", "stage.group_size=4"])],
)  # fmt: skip
def test_a_start_whose_tokens_mean_other_items_is_refused(
    run, small_arguments, trained, other_data, tmp_path, recipe, more
):
    kept = [text for text in small_arguments[1:] if text != "stage.layers=1"]
    start = trained / "checkpoints" / "best.ckpt"
    arguments = [f"+experiment={recipe}", *kept, *other_data, *SHORT, *more, f"stage.init_from={start}"]
    assert run(*arguments, f"hydra.run.dir={tmp_path / 'a'}") == 2
    message = result(tmp_path / "a")["error"]["message"]
    assert message.startswith(
        f"stage.init_from='{start}' was trained with other items: 12 items there, 12 here (i0 only"
    )
    assert "Its tokens would mean other items here.\nCompose the data set and tokenizer of that run's" in message
    assert not (tmp_path / "a" / "checkpoints").exists()


def test_the_same_items_written_in_other_tokens_are_refused(run, small_arguments, trained, tmp_path):
    start = f"stage.init_from={trained / 'checkpoints' / 'best.ckpt'}"
    arguments = [*small_arguments, *SHORT, "tokenizer.embedding.dimensions=1", start]
    assert run(*arguments, f"hydra.run.dir={tmp_path / 'a'}") == 2
    assert "items are written differently, such as i" in result(tmp_path / "a")["error"]["message"]


def test_fewer_users_of_the_same_items_are_a_fair_start_and_said_so(run, small_arguments, trained, tmp_path):
    start = f"stage.init_from={trained / 'checkpoints' / 'best.ckpt'}"
    index = ["tokenizer=index_file", "~tokenizer.codebook_size", f"tokenizer.path={trained / 'items.index.json'}"]
    arguments = [*small_arguments, *SHORT, "dataset.max_users=12", *index, start]
    assert run(*arguments, f"hydra.run.dir={tmp_path / 'a'}") == 0
    assert "stage.init_from was trained on another data set" in (tmp_path / "a" / "run.log").read_text()


@pytest.mark.parametrize("index", [None, "[1", "[]"], ids=["missing", "torn", "no object"])
def test_a_start_that_does_not_say_what_its_tokens_mean_is_refused(run, small_arguments, trained, tmp_path, index):
    start = tmp_path / "alone" / "checkpoints" / "best.ckpt"
    start.parent.mkdir(parents=True)
    start.write_bytes((trained / "checkpoints" / "best.ckpt").read_bytes())
    if index:
        (tmp_path / "alone" / "items.index.json").write_text(index)
    assert run(*small_arguments, *SHORT, f"stage.init_from={start}", f"hydra.run.dir={tmp_path / 'a'}") == 2
    message = result(tmp_path / "a")["error"]["message"]
    assert f"stage.init_from={start}" in message
    assert "items.index.json is " + ("damaged" if index else "missing") in message


def test_collaborative_models_start_from_their_own_items_only(run, collaborative, other_data, tmp_path):
    arguments, start = collaborative
    assert run(*arguments, f"stage.init_from={start}", f"hydra.run.dir={tmp_path / 'a'}") == 0
    assert run(*arguments, *other_data, f"stage.init_from={start}", f"hydra.run.dir={tmp_path / 'b'}") == 2
    assert "12 items there, 12 here (i0 only there" in result(tmp_path / "b")["error"]["message"]


def test_rewards_of_another_data_set_are_refused_before_there_are_items_or_a_model(
    run, small_arguments, collaborative, other_data, tmp_path
):
    rewards = ["stage.reward=1", f"stage.reward_from={collaborative[1]}"]
    assert run(*small_arguments, *other_data, *rewards, f"hydra.run.dir={tmp_path / 'a'}") == 2
    assert "was trained on the data set" in result(tmp_path / "a")["error"]["message"]
    assert not (tmp_path / "a" / "items.index.json").exists()


@pytest.fixture
def cut_short(run, small_arguments, tmp_path):
    """A run of one epoch that says it is not over, and the file of its interactions."""
    folder = Path(next(text for text in small_arguments if "source.folder=" in text).partition("=")[2])
    data = tmp_path / "own.inter"
    data.write_bytes((folder / "small.inter").read_bytes())
    own = [f"dataset.source.folder={tmp_path}", "dataset.source.name=own"]
    assert run(*small_arguments, *own, "trainer.max_epochs=2", f"hydra.run.dir={tmp_path / 'run'}") == 0
    record = result(tmp_path / "run") | {"status": "running"}
    (tmp_path / "run" / "result.json").write_text(json.dumps(record))
    return tmp_path / "run", data


def test_a_run_is_not_gone_on_with_when_its_data_have_changed(run, cut_short):
    folder, data = cut_short
    before = data.read_bytes()
    data.write_bytes(before.replace(b"\n", b"\nu0\ti9\t99\n", 1))
    assert run(f"resume={folder}") == 2
    message = result(folder)["error"]["message"]
    assert message.endswith("type its command again for a run on the data of now.")
    assert "have changed" in message
    data.write_bytes(before)
    assert run(f"resume={folder}") == 0


def test_other_users_with_the_same_items_are_changed_data_too(run, cut_short):
    folder, _ = cut_short
    config = folder / "config.yaml"
    tokens = f"  _target_: src.ilrec.tokenizer.index_file.IndexFile\n  path: {folder / 'items.index.json'}\n"
    text = config.read_text()
    begin, end = text.index("tokenizer:\n") + len("tokenizer:\n"), text.index("prompt:\n")
    config.write_text(
        (text[:begin] + tokens + text[end:]).replace("k_core: 1\n  max_users: null", "k_core: 1\n  max_users: 20")
    )
    assert run(f"resume={folder}") == 2
    assert result(folder)["error"]["type"] == "InputError"


def test_indices_are_compared_in_words():
    assert differing({"a": ["<a_1>"]}, {"a": ["<a_1>"]}) is None
    assert differing({"a": ["<a_1>"]}, {"a": ["<a_2>"]}) == (
        "1 of 1 items are written differently, such as a: <a_1> there, <a_2> here"
    )
    assert differing({"a": []}, {"b": []}) == "1 items there, 1 here (a only there, b only here)"
