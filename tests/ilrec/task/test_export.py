"""An exported folder: its card recommends what the run does, vLLM finds what it reads, and the hub takes it."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer

from src.ilrec.task.assemble import load_trained
from src.model.causal_lm import _byte_tokenizer, from_scratch
from tests.hub_server import TOKEN, serve


@pytest.fixture(scope="module")
def hub_of_module():
    with serve() as server:
        yield server


@pytest.fixture
def hub(hub_of_module, monkeypatch, tmp_path):
    with hub_of_module.known_to_the_client(monkeypatch, tmp_path):
        yield hub_of_module


@pytest.fixture(scope="module")
def trained(run, small_arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert run(*small_arguments, "trainer.max_epochs=2", f"hydra.run.dir={folder}") == 0
    return folder / "checkpoints" / "best.ckpt"


def export(run, checkpoint, folder, *overrides):
    assert run("+experiment=export", f"checkpoint={checkpoint}", f"hydra.run.dir={folder}", *overrides) == 0
    return folder / "model"


@pytest.fixture(scope="module")
def exported(run, trained, tmp_path_factory):
    return export(run, trained, tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def recommended(run, trained, tmp_path_factory):
    """What the run recommends to each user: history and the ten best items."""
    return ten_best(run, trained, tmp_path_factory.mktemp("recommended"))


def ten_best(run, checkpoint, folder, *overrides):
    assert run("+experiment=recommend", f"checkpoint={checkpoint}", f"hydra.run.dir={folder}", *overrides) == 0
    data = load_trained(str(checkpoint)).interactions
    lines = [json.loads(line) for line in (folder / "recommendations.jsonl").read_text().splitlines()]
    histories = [[data.item_ids[item] for item in data.sequence(user)] for user in range(data.num_users)]
    return [(h, [one["item"] for one in line["items"]]) for h, line in zip(histories, lines, strict=True)]


def example(folder):
    """The first block of Python in the card."""
    (code, *_) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return code


def by_the_card(folder, monkeypatch):
    """Carry out the example in its folder, and return what it defines."""
    monkeypatch.chdir(folder)
    defined = {}
    exec(compile(example(folder), "README.md", "exec"), defined)
    return defined["recommend"]


def imports(code):
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {alias.name if isinstance(n, ast.Import) else n.module for n in nodes for alias in n.names}


def test_twenty_lines_of_the_card_and_the_folder_alone_recommend_what_the_run_does(exported, recommended, tmp_path):
    code = example(exported)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    assert imports(code) == {"json", "torch", "transformers"}
    (tmp_path / "histories.json").write_text(json.dumps([history for history, _ in recommended]))
    # A process of its own, elsewhere, that cannot import this code.
    ask = f"histories = json.load(open({str(tmp_path / 'histories.json')!r}))\n"
    show = "import sys\nassert 'src' not in sys.modules\nprint(json.dumps([recommend(one) for one in histories]))\n"
    (tmp_path / "example.py").write_text(code + ask + show)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", str(tmp_path / "example.py")]
    done = subprocess.run(command, cwd=exported, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [items for _, items in recommended]


def test_the_card_excludes_the_history_or_not_as_it_is_told(run, trained, exported, monkeypatch, tmp_path):
    recommend = by_the_card(exported, monkeypatch)
    for history, items in ten_best(run, trained, tmp_path, "task.exclude_history=false", "task.count=12")[:4]:
        assert recommend(history, count=12, exclude=False) == items


TITLED = [(user, (user + step * (1 + user % 2)) % 12, step) for user in range(16) for step in range(5)]


@pytest.mark.parametrize(
    "choices",
    [
        ["tokenizer=title", "prompt=instruction", "prompt.max_length=140"],
        ["tokenizer=title", "prompt=titles", "prompt.max_history=3", "prompt.stride=4"],
        ["prompt=ids_with_titles", "prompt.max_history=3", "prompt.stride=4", "evaluator.over=items"],
        ["prompt=alignment", "prompt.next.max_history=3", "prompt.next.stride=4"],
    ],
    ids=lambda choices: " ".join(choices[:2]),
)
def test_the_card_writes_every_kind_of_prompt(run, small_arguments, choices, monkeypatch, tmp_path):
    rows = "".join(f"u{user},i{item},{time},Film no {item}\n" for user, item, time in TITLED)
    (tmp_path / "films.csv").write_text("user,item,timestamp,title\n" + rows)
    left_out = ("dataset", "prompt", "trainer.max_epochs", *(["tokenizer."] if "tokenizer=title" in choices else []))
    arguments = [one for one in small_arguments if not one.startswith(left_out)]
    data = ["dataset=table", f"dataset.source.path={tmp_path / 'films.csv'}", "dataset.k_core=1"]
    folder = tmp_path / "run"
    more = ["trainer.max_epochs=1", "model.max_length=400", f"hydra.run.dir={folder}"]
    assert run(*arguments, *data, *choices, *more) == 0
    best = folder / "checkpoints" / "best.ckpt"
    recommend = by_the_card(export(run, best, tmp_path / "export"), monkeypatch)
    for history, items in ten_best(run, best, tmp_path / "ours", "task.exclude_history=false")[:5]:
        assert recommend(history, exclude=False) == items
    form, prompt = json.loads(Path("recommender.json").read_text()), load_trained(str(best)).prompt
    assert (form["search"].get("renormalize_logits", False), "Film no 3") == (
        "evaluator.over=items" in choices,
        form["items"]["i3"]["title"],
    )
    assert len(form["items"]["i3"]["shown"]) == len(prompt.form().shown[3])


@pytest.fixture(scope="module")
def adapted(run, small_arguments, trained, tmp_path_factory):
    """A run that has trained adapters on a base model, a folder."""
    folder = tmp_path_factory.mktemp("adapted")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_layers": 2, "num_heads": 2, "dropout": 0.0}
    from_scratch([], **sizes, max_length=64, seed=0).network.save_pretrained(folder / "base")
    _byte_tokenizer().save_pretrained(folder / "base")
    arguments = [one for one in small_arguments if not one.startswith(("model.", "trainer.max_epochs"))]
    lora = ["model=hub", f"model.name={folder / 'base'}", "model.lora.rank=2", "prompt=ids", "prompt.max_history=4"]
    more = ["prompt.stride=5", "trainer.max_epochs=1", f"hydra.run.dir={folder / 'run'}"]
    assert run(*arguments, *lora, *more) == 0
    return folder / "run" / "checkpoints" / "best.ckpt"


def test_adapters_alone_recommend_what_the_run_does(run, adapted, monkeypatch, tmp_path):
    model = export(run, adapted, tmp_path / "alone", "task.adapters_only=true")
    assert {"adapter_config.json", "adapter_model.safetensors", "recommender.json", "README.md"} <= {
        one.name for one in model.iterdir()
    }
    assert not (model / "model.safetensors").exists()
    assert imports(example(model)) == {"json", "torch", "transformers", "peft"}
    recommend = by_the_card(model, monkeypatch)
    for history, items in ten_best(run, adapted, tmp_path / "ours")[:6]:
        assert recommend(history) == items


def refusal(run, folder, *arguments):
    assert run("+experiment=export", f"hydra.run.dir={folder}", *arguments) == 2
    return json.loads((folder / "result.json").read_text())["error"]["message"]


def test_adapters_that_there_are_not_and_those_of_a_private_base_are_refused(run, trained, adapted, hub, tmp_path):
    message = refusal(run, tmp_path / "a", f"checkpoint={trained}", "task.adapters_only=true")
    assert "this run has trained all weights; there are no adapters.\nExport the weights whole:" in message
    pushed = [f"checkpoint={adapted}", "task.adapters_only=true", "task.push_to_hub=me/adapters"]
    assert "a folder that nobody else has" in refusal(run, tmp_path / "b", *pushed)
    assert not (tmp_path / "b" / "model").exists()


def test_the_card_says_what_was_tested_where_from_and_no_path_of_this_machine(trained, exported):
    text = (exported / "README.md").read_text(encoding="utf-8")
    card, result = ModelCard(text), json.loads((trained.parents[1] / "result.json").read_text())
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "text-generation")
    measured = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert measured["ndcg@10"] == round(result["metrics"]["test/ndcg@10"], 4)
    assert f"| ndcg@10 | {result['metrics']['test/ndcg@10']:.4f} |" in text
    assert result["commit"][:12] in text
    assert "24 users, all" not in text
    assert str(trained.parents[2]) not in text
    assert "$" not in text  # nothing left to fill in
    assert len(yaml.safe_load(text.split("---")[1])["tags"]) == 3


def test_the_folder_has_what_vllm_reads(exported):
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert {"model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= {one.name for one in exported.iterdir()}
    # It takes its defaults from here, and a base model's may be to sample.
    sampling = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
    assert not sampling & json.loads((exported / "generation_config.json").read_text()).keys()
    assert config["vocab_size"] == len(AutoTokenizer.from_pretrained(exported))
    # The choices of the card are what the model writes, token by token.
    tokenizer, form = AutoTokenizer.from_pretrained(exported), json.loads((exported / "recommender.json").read_text())
    for item in form["items"].values():
        text = tokenizer.decode(item["written"], skip_special_tokens=True)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == item["written"]
    assert "vllm serve . " in (exported / "README.md").read_text(encoding="utf-8")


def test_one_override_sends_the_folder_to_the_hub_which_gives_it_back(run, trained, hub, tmp_path, capsys):
    model = export(run, trained, tmp_path / "export", "task.push_to_hub=me/films")
    assert f"{hub.address}/me/films" in capsys.readouterr().out
    assert "models/me/films" in hub.private
    sent = hub.repositories["models/me/films"]
    assert sent == {one.name: one.read_bytes() for one in model.iterdir()}
    calls = [call for call in hub.calls if call.startswith("POST")]
    assert calls[0] == "POST /api/repos/create"
    assert sum("/commit/" in call for call in calls) == 1
    back = snapshot_download("me/films", cache_dir=tmp_path / "cache")
    assert (Path(back) / "README.md").read_bytes() == sent["README.md"]
    AutoModelForCausalLM.from_pretrained(back)
    assert TOKEN not in "".join(p.read_text() for p in (tmp_path / "export").glob("*.*"))  # it stays in the environment


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        ("me/films", None, "task.push_to_hub=me/films: {hub} lets nobody write without a token, and I find none."),
        ("me/films", "wrong", "task.push_to_hub=me/films: {hub} refuses: "),
        ("they/films", TOKEN, "You don't have the rights to create a model under they."),
        ("a/b/c", TOKEN, "task.push_to_hub=a/b/c is no name of a repository: "),
    ],
)
def test_a_hub_that_will_not_take_it_is_told_of_before_anything_is_loaded(
    run, trained, hub, monkeypatch, tmp_path, name, token, message
):
    monkeypatch.setattr("src.ilrec.task.export.load_trained", lambda _: pytest.fail("loaded"))
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    asked = [f"checkpoint={trained}", f"task.push_to_hub={name}"]
    assert message.format(hub=hub.address) in refusal(run, tmp_path / "a", *asked)
    assert not (tmp_path / "a" / "model").exists()
