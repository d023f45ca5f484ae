"""What a server is told by runs that are online, record by record."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.report.__main__ import main as report
from src.training.dashboard import run_name
from tests.processes import fork
from tests.training.wandb_server import ENTITY

pytestmark = pytest.mark.filterwarnings("ignore")


def on_wandb(arguments, *more):
    return [*(text for text in arguments if text != "logger=none"), "logger=wandb", *more]


def logged(path, name):
    """A figure of metrics.csv by step."""
    with path.open(newline="") as stream:
        return {int(row["step"]): float(row["value"]) for row in csv.DictReader(stream) if row["metric"] == name}


def result(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def trained(wandb_server, run, small_arguments, tmp_path_factory):
    """Folder of a training of two epochs, the run of the dashboard, and all that the server was told."""
    folder = tmp_path_factory.mktemp("trained")
    job = on_wandb(small_arguments, "trainer.max_epochs=2", "+ablation=no_cpd", f"hydra.run.dir={folder / 'run'}")
    with pytest.MonkeyPatch.context() as patch, wandb_server.known_to_the_client(patch, folder):
        assert run(*job) == 0
        (one,) = wandb_server.runs.values()
        return folder / "run", one, list(wandb_server.records), dict(wandb_server.artifacts)


def test_a_training_is_sent_record_by_record(trained):
    folder, one, records, _ = trained
    name = (folder / "wandb_id").read_text()
    assert records[:2] == [("resume", name, False), ("run", name, "new")]
    assert records[-1] == ("end", name, 0)
    rows = [keys for kind, _, keys in records if kind == "row"]
    speeds = [{key for key in row if key.endswith(("_per_second", "_rate", "_norm"))} for row in rows]
    every = {"train/learning_rate", "train/gradient_norm"}
    # Two epochs of seven steps, a validation after each, the test, the users; the speed is known from the second step.
    assert speeds == 2 * [every, *6 * [{*every, "train/examples_per_second"}], set()] + 2 * [set()]
    assert [row[1:3] for row in rows if "val/ndcg@10" in row] == 2 * [["trainer/global_step", "val/hit@10"]]
    assert rows[-1] == ["test/ranks", "test/recommendations", "trainer/global_step"]
    for figure in ("train/loss", "train/gradient_norm", "val/ndcg@10", "test/hit@5"):
        assert one.logged(figure) == logged(folder / "metrics.csv", figure), figure
    assert len(one.logged("train/loss")) == 14


def test_a_training_has_name_tags_and_a_config_without_flat_copies(trained):
    folder, one, _, _ = trained
    assert one.project == "ilrec-gisa"
    assert one.fields["displayName"].startswith("ilrec_stage1 trainer.accelerator=cpu dataset=recbole ")
    assert one.fields["displayName"].endswith(" seed=1")
    assert (one.fields["groupName"], one.fields["jobType"]) == ("ilrec_stage1", "ilrec_stage1")
    assert one.fields["tags"] == ["ILRec", "small", "ilrec_stage1"]
    settings = one.settings()
    job = settings.pop("job")
    config = result(folder)["config"]
    assert settings == {key: value for key, value in config.items() if value != {}}  # W&B keeps no empty groups
    assert (job["experiment"], job["ablation"], job["sweep"], job["sweep_folder"]) == (
        "ilrec_stage1",
        "no_cpd",
        None,
        None,
    )
    assert job["overrides"] == result(folder)["overrides"]


def test_the_summary_is_that_of_the_tested_weights_with_protocol_data_timings_and_memory(trained):
    folder, one, _, _ = trained
    metrics, content = one.logged("val/ndcg@10"), result(folder)
    best = max(metrics, key=metrics.get)
    assert one.summary["val/ndcg@10"] == metrics[best] == pytest.approx(content["metrics"]["val/ndcg@10"])
    assert one.summary["best_step"] == best
    assert one.summary["val/hit@10"] == one.logged("val/hit@10")[best]
    assert one.summary["protocol"] == content["protocol"]
    assert one.summary["data_fingerprint"][:12] in content["protocol"]["dataset"]
    assert one.summary["timings_s"].keys() == content["timings_s"].keys()
    assert one.summary["peak_memory_mib"] > 100


def test_users_are_shown_with_history_target_and_best_items(trained):
    folder, one, _, _ = trained
    columns, rows = one.table("test/recommendations")
    assert columns == ["user", "history, oldest first", "target", "best ten", "rank"]
    assert len(rows) == 24
    for _, history, target, best, rank in rows:
        assert len(history.split("; ")) >= 5
        assert len(best.split("; ")) == 10
        # Items of small.inter have no titles, so their ids are shown.
        assert (best.split("; ")[int(rank) - 1] == target) if rank <= 10 and rank.is_integer() else True
    assert one.summary["test/ranks"]["_type"] == "histogram"
    assert sum(one.summary["test/ranks"]["values"]) == 24


def test_artifacts_are_data_items_and_the_hash_of_the_checkpoint(trained):
    folder, one, records, artifacts = trained
    committed = {artifact.name: artifact for artifact in artifacts.values() if artifact.state == "COMMITTED"}
    kinds = {artifact.fields["artifactTypeName"] for artifact in committed.values()}
    assert kinds == {"dataset", "tokenizer", "model", "run_table"}
    data = json.loads(committed["data-small"].files["dataset.json"])
    assert (data["users"], data["items"]) == (24, 12)
    assert committed["items-small"].files["items.index.json"] == (folder / "items.index.json").read_bytes()
    (model,) = [artifact for artifact in committed.values() if artifact.fields["artifactTypeName"] == "model"]
    assert model.files.keys() == {"checkpoint.json"}
    assert [name for kind, _, name in records if kind == "used"] == ["data-small"]


@pytest.mark.parametrize("recipe", ["uniform", "popularity", "counting", "sasrec"])
def test_what_a_collaborative_model_recommends_is_shown_too(recipe, online, run, small_arguments, tmp_path):
    data = [one for one in small_arguments if one.startswith(("dataset", "trainer.accelerator", "trainer.enable"))]
    assert run(f"+experiment={recipe}", *data, "logger=wandb", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}") == 0
    _, rows = online.run(jobType=recipe).table("test/recommendations")
    assert len(rows) == 24
    assert all(len(best.split("; ")) == 10 for _, _, _, best, _ in rows)


def test_a_run_that_starts_from_a_checkpoint_uses_the_artifact_of_the_run_that_made_it(
    trained, online, run, small_arguments, tmp_path
):
    folder, _, _, artifacts = trained
    start = folder / "checkpoints" / "best.ckpt"
    job = [f"stage.init_from={start}", "trainer.max_epochs=0", "logger.users=3", f"hydra.run.dir={tmp_path / 'next'}"]
    assert run(*on_wandb(small_arguments, *job)) == 0
    (made,) = [artifact for artifact in artifacts.values() if artifact.fields["artifactTypeName"] == "model"]
    (used,) = [online.artifacts[name] for name in online.runs[(tmp_path / "next" / "wandb_id").read_text()].used][-1:]
    assert (used.name, used.fields["digest"]) == (made.name, made.fields["digest"])  # one version, for the server
    assert len(online.run(jobType="ilrec_stage1").table("test/recommendations")[1]) == 3


def test_a_checkpoint_is_uploaded_on_demand(online, run, toy_arguments, tmp_path):
    assert run(*on_wandb(toy_arguments, "logger.upload_checkpoint=true", f"hydra.run.dir={tmp_path / 'a'}")) == 0
    (model,) = [one for one in online.artifacts.values() if one.fields["artifactTypeName"] == "model"]
    assert model.files["best.ckpt"] == (tmp_path / "a" / "checkpoints" / "best.ckpt").read_bytes()


def test_a_sweep_of_four_has_four_runs_and_a_summary_with_tables_and_plots(online, run, toy_arguments, tmp_path):
    sweep = tmp_path / "sweep"
    job = ["-m", "seed=1,2", "stage.lr=0.1,0.2", "trainer.max_epochs=2", f"hydra.sweep.dir={sweep}"]
    assert run(*on_wandb(toy_arguments, *job)) == 0
    jobs = [one for one in online.runs.values() if one.fields["jobType"] == "toy"]
    names = sorted(one.fields["displayName"] for one in jobs)
    assert names == sorted(
        f"toy stage.lr={rate} trainer.max_epochs=2 seed={seed}" for rate in (0.1, 0.2) for seed in (1, 2)
    )
    assert {one.fields["groupName"] for one in jobs} == {"sweep"}
    assert {one.settings()["job"]["sweep_folder"] for one in jobs} == {"sweep"}
    assert len({json.dumps(one.logged("train/loss")) for one in jobs}) == 4
    for one in jobs:
        folder = next(folder for folder in sweep.glob("*_toy_*") if (folder / "wandb_id").read_text() == one.name)
        assert one.logged("train/loss") == logged(folder / "metrics.csv", "train/loss")
    summary = online.run(jobType="report")
    assert (summary.fields["groupName"], summary.fields["tags"]) == ("sweep", ["ILRec", "report"])
    columns, rows = summary.table("report/report")
    assert [row[0] for row in rows] == ["toy stage.lr=0.1", "toy stage.lr=0.2"]
    assert len(summary.table("report/runs")[1]) == 4
    pictures = {
        key for key, value in summary.summary.items() if isinstance(value, dict) and value.get("_type") == "image-file"
    }
    assert pictures == {"report/metrics", "report/training_curves"}
    assert summary.files[summary.summary["report/metrics"]["path"]] == (sweep / "report" / "metrics.png").read_bytes()
    ends = [code for kind, _, code in online.records if kind == "end"]
    assert ends == 5 * [0]


def test_a_report_is_published_with_the_paper_s_workspace(online, run, toy_arguments, tmp_path, capsys):
    folder = tmp_path / "a"
    assert run(*on_wandb(toy_arguments, "trainer.max_epochs=1", f"hydra.run.dir={folder}")) == 0
    capsys.readouterr()
    for _ in range(2):  # the second time into the same run
        assert report([str(folder), "--wandb", "--workspace"]) == 0
    shown = capsys.readouterr().out
    assert f"Published: {online.url}/{ENTITY}/ilrec-gisa/runs/" in shown
    assert len([one for one in online.runs.values() if one.fields["jobType"] == "report"]) == 1
    workspace, text = online.views[:2]
    sections = workspace["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == [
        "Main table", "Ablation", "Layers over training", "Training", "Users", "Plots",
    ]  # fmt: skip
    assert text["displayName"] == "ILRec: report"


def test_a_killed_run_that_is_resumed_has_every_step_that_metrics_csv_has(online, run, toy_arguments, tmp_path):
    folder = tmp_path / "killed"
    job = on_wandb(toy_arguments, "trainer.max_epochs=400", "trainer.log_every_n_steps=1", f"hydra.run.dir={folder}")
    job += ["checkpointing.patience=2"]
    process = fork(*job)
    log, deadline = folder / "metrics.csv", time.monotonic() + 120
    while not log.is_file() or log.read_text().count("val/ndcg@10") < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    name = (folder / "wandb_id").read_text()
    assert run(f"resume={folder}") == 0
    one = online.runs[name]
    assert list(online.runs) == [name]
    for figure in ("train/loss", "val/ndcg@10", "test/ndcg@10"):
        assert one.logged(figure) == logged(log, figure), figure
    assert one.summary["val/ndcg@10"] == max(one.logged("val/ndcg@10").values())
    assert one.settings()["job"]["experiment"] == "toy"
    assert one.exit_code == 0


def test_rows_that_came_before_the_kill_are_not_sent_again(online, run, toy_arguments, tmp_path):
    folder = tmp_path / "failed"
    assert run(*on_wandb(toy_arguments, "stage.fail_in_epoch=4", f"hydra.run.dir={folder}")) == 1
    one = online.runs[(folder / "wandb_id").read_text()]
    assert one.exit_code == 1
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("fail_in_epoch: 4", "fail_in_epoch: null"))
    sent = len(one.history)
    assert run(f"resume={folder}") == 0
    assert one.logged("train/loss") == logged(folder / "metrics.csv", "train/loss")
    # Two epochs of two rows and a validation, the test and its ranks; and once more the last step that was there.
    assert len(one.history) - sent == 2 * 3 + 2 + 2


def test_an_offline_run_that_is_resumed_is_one_file_to_synchronise(online, run, toy_arguments, tmp_path):
    # What a kill has torn cannot be synchronised, so the second file tells all again.
    folder = tmp_path / "offline"
    job = ["logger.mode=offline", "stage.fail_in_epoch=2", f"hydra.run.dir={folder}"]
    assert run(*on_wandb(toy_arguments, *job)) == 1
    (first,) = folder.glob("wandb/offline-run-*")
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("fail_in_epoch: 2", "fail_in_epoch: null"))
    time.sleep(1.1)  # the folder is named by the second
    assert run(f"resume={folder}") == 0
    (second,) = folder.glob("wandb/offline-run-*")
    assert second != first
    subprocess.run([Path(sys.executable).with_name("wandb"), "sync", second], check=True, capture_output=True)
    one = online.runs[(folder / "wandb_id").read_text()]
    assert one.logged("train/loss") == logged(folder / "metrics.csv", "train/loss")
    assert one.exit_code == 0


def test_a_run_that_an_agent_starts_is_the_agent_s_and_its_resume_stays_in_it(
    online, run, toy_arguments, tmp_path, monkeypatch
):
    for name, value in {"SWEEP_ID": "sweep123", "RUN_ID": "agent001", "PROJECT": "theirs", "ENTITY": ENTITY}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.delenv("WANDB_MODE")  # a run of a sweep is online
    folder = tmp_path / "agent"
    job = on_wandb(toy_arguments, "stage.fail_in_epoch=2", f"hydra.run.dir={folder}")
    assert run(*job) == 1
    assert (folder / "wandb_id").read_text() == "agent001"
    one = online.runs["agent001"]
    assert (one.project, one.fields["sweep"]) == ("theirs", "sweep123")
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("fail_in_epoch: 2", "fail_in_epoch: null"))
    for name, value in {"SWEEP_ID": "sweep123", "RUN_ID": "agent002"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert run(f"resume={folder}") == 0
    assert list(online.runs) == ["agent001"]
    assert (one.project, one.exit_code) == ("theirs", 0)
    assert one.logged("train/loss") == logged(folder / "metrics.csv", "train/loss")


def test_where_no_server_answers_the_run_goes_on_offline_and_says_so(online, run, toy_arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    folder = tmp_path / "a"
    assert run(*on_wandb(toy_arguments, "trainer.max_epochs=1", f"hydra.run.dir={folder}")) == 0
    told = next(line for line in (folder / "run.log").read_text().splitlines() if "does not answer" in line)
    assert "http://127.0.0.1:9 does not answer (" in told
    assert told.endswith(f"the run goes on offline. Send it later:  wandb sync {folder}/wandb/*")
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))
    assert not online.runs


def test_where_the_server_refuses_the_run_it_goes_on_offline(online, run, toy_arguments, tmp_path, monkeypatch):
    refused = {"data": None, "errors": [{"message": "no such team"}]}
    monkeypatch.setattr(online, "on_upsert_bucket", lambda _: refused, raising=False)
    folder = tmp_path / "a"
    assert run(*on_wandb(toy_arguments, "trainer.max_epochs=1", f"hydra.run.dir={folder}")) == 0
    assert (
        f"{online.url} takes no run (Error initializing run: input: no such team)" in (folder / "run.log").read_text()
    )
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("MODE", "OFFLINE", "Input should be 'online', 'offline'"),
        ("SILENT", "maybe", "Input should be a valid boolean"),
        ("BASE_URL", "localhost:8080", "URL scheme should be 'http' or 'https'"),
        ("API_KEY", " key ", "API key cannot start or end with whitespace"),
        ("RUN_ID", "a/b", "Run ID cannot contain the characters"),
    ],
)
def test_a_variable_that_the_client_refuses_is_told(
    online, run, toy_arguments, tmp_path, monkeypatch, name, value, told
):
    monkeypatch.setenv(f"WANDB_{name}", value)
    folder = tmp_path / "a"
    assert run(*on_wandb(toy_arguments, "trainer.max_epochs=1", f"hydra.run.dir={folder}")) == 2
    message = result(folder)["error"]["message"]
    assert message.startswith("W&B refuses its settings: ")
    assert told in message
    assert message.endswith("Mend them, WANDB_... or logger..., or type  logger=none")


def test_name_project_tags_and_group_of_the_environment_are_respected(
    online, run, toy_arguments, tmp_path, monkeypatch
):
    told = {"NAME": "mine", "PROJECT": "theirs", "TAGS": "x,y", "RUN_GROUP": "ours", "NOTES": "why", "ENTITY": ENTITY}
    for name, value in told.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    job = ["logger.tags=[z]", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path / 'a'}"]
    assert run(*on_wandb(toy_arguments, *job)) == 0
    one = online.run(displayName="mine", groupName="ours", notes="why")
    assert (one.project, one.fields["tags"]) == ("theirs", ["ILRec", "toy", "z", "x", "y"])
    assert result(tmp_path / "a")["config"]["logger"]["project"] == "theirs"


def test_a_mode_of_the_environment_is_respected(online, run, toy_arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert run(*on_wandb(toy_arguments, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path / 'a'}")) == 0
    assert not (tmp_path / "a" / "wandb").exists()
    assert not online.records


def test_a_name_is_recipe_overrides_and_seed_and_no_longer_than_a_server_takes():
    typed = ["+experiment=ilrec", "seed=3", "logger.mode=online", "++stage.strength=0.2", "upstream.sft=x/y.ckpt"]
    assert run_name("ilrec", typed, 3) == "ilrec stage.strength=0.2 seed=3"
    start = "stage.init_from=outputs/sweeps/s/4_sft_seed1/checkpoints/best.ckpt"
    assert run_name("ilrec", [start], 1) == "ilrec stage.init_from=4_sft_seed1 seed=1"
    long = run_name("ilrec", [f"stage.layers={'9' * 200}"], 12)
    assert (len(long), long[-9:]) == (128, "9 seed=12")
