import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from src.training.tracking import CsvLog, ProgressBar

ROOT = Path(__file__).parents[2]
HEADER = "step,epoch,metric,value\n"


def test_one_row_a_figure(tmp_path):
    log = CsvLog(tmp_path / "metrics.csv")
    log.log_metrics({"train/loss": 4.5, "epoch": 0}, step=9)
    log.log_metrics({"val/ndcg@10": 0.25, "val/hit@10": 0.5, "epoch": 1.0}, step=19)
    expected = HEADER + "9,0,train/loss,4.5\n19,1,val/ndcg@10,0.25\n19,1,val/hit@10,0.5\n"
    assert (tmp_path / "metrics.csv").read_text() == expected


def test_a_resumed_log_drops_what_will_be_logged_again(tmp_path):
    # Steps count from 0: behind a checkpoint of 10 steps lie the rows of steps 0 to 9.
    path = tmp_path / "metrics.csv"
    path.write_text(HEADER + "0,0,train/loss,4.5\n9,0,train/loss,4.0\n10,1,train/loss,3.9\n11,1,train/l")
    CsvLog(path, done_steps=10).log_metrics({"train/loss": 3.8, "epoch": 1}, step=10)
    assert path.read_text() == HEADER + "0,0,train/loss,4.5\n9,0,train/loss,4.0\n10,1,train/loss,3.8\n"


def test_a_run_that_starts_over_begins_its_log_anew(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(HEADER + "0,0,train/loss,4.5\n")
    CsvLog(path)
    assert path.read_text() == HEADER


def in_a_process_of_its_own(program, *arguments):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, src.run\n{program}", *map(str, arguments)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_without_a_dashboard_nothing_of_it_is_imported(toy_arguments, tmp_path):
    in_a_process_of_its_own(
        "status = src.run.main()\nassert 'wandb' not in sys.modules\nsys.exit(status)",
        *toy_arguments, f"hydra.run.dir={tmp_path / 'a'}",
    )  # fmt: skip
    assert (tmp_path / "a" / "metrics.csv").is_file()


@pytest.mark.filterwarnings("ignore")
def test_every_job_of_a_sweep_has_a_dashboard_run_of_its_own(run, toy_arguments, tmp_path):
    import wandb

    assert run(*toy_arguments, "-m", "logger=wandb", "seed=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}") == 0
    assert wandb.run is None
    ids = [(folder / "wandb_id").read_text() for folder in sorted((tmp_path / "sweep").glob("*_seed*"))]
    assert len(set(ids)) == 2
    for number, name in enumerate(ids):
        assert list((tmp_path / "sweep" / f"{number}_toy_seed{number + 1}").glob(f"wandb/offline-run-*-{name}/*.wandb"))


def fake_trainer(epoch, *, metrics=(), fn=TrainerFn.FITTING, step=0, max_epochs=4, max_steps=-1):
    return SimpleNamespace(
        current_epoch=epoch, max_epochs=max_epochs, max_steps=max_steps, num_training_batches=10, global_step=step,
        progress_bar_metrics=dict(metrics), state=SimpleNamespace(fn=fn), fit_loop=SimpleNamespace(batch_idx=9),
        num_val_batches=[5], num_test_batches=[5], sanity_checking=False,
    )  # fmt: skip


def test_the_line_of_a_training_counts_epochs_from_1_and_the_share_of_all_of_them():
    bar = ProgressBar()
    metrics = {"train/loss": 2.3456, "train/loss_cpo": 0.5, "train/negatives_per_position": 31.0, "ndcg@10": 0.0543}
    metrics |= {"train/loss_distillation": 0.125, "train/learning_rate": 0.001}
    bar.on_fit_start(fake_trainer(0), None)
    bar.on_train_start(fake_trainer(0), None)
    line = bar._line
    bar.on_train_epoch_start(fake_trainer(1), None)
    bar.on_train_batch_end(fake_trainer(1, metrics=metrics), None, None, None, 4)
    assert line.what == "Epoch 2/4"
    # 15 of 40 batches: 37.5%.
    line._began -= 60
    assert line.text(79).startswith("Epoch 2/4 [===>      ] 38%  1:0")
    assert ", 1:40 left" in line.text(79)
    assert line.notes == ["loss 2.346", "ndcg@10 0.0543", "cpo 0.5", "negatives 31", "distillation 0.125"]
    assert "loss 2.346  ndcg@10 0.0543" in line.text(79)
    assert len(line.text(79)) <= 79
    bar.on_validation_start(fake_trainer(1), None)
    assert line.what == "Epoch 2/4, validation"
    assert " 50%" in line.text(79)  # what came after the last look at the metrics counts, too
    bar.on_validation_end(fake_trainer(1), None)
    assert line.what == "Epoch 2/4"
    bar.on_train_batch_end(fake_trainer(1, max_epochs=-1, max_steps=40, step=10), None, None, None, 4)
    bar.teardown(None, None, "fit")
    assert bar._line is None


def test_a_training_that_goes_on_reckons_the_time_left_from_where_it_begins():
    bar = ProgressBar()
    bar.on_train_start(fake_trainer(2), None)
    bar._line._began -= 60
    bar.on_train_batch_end(fake_trainer(2), None, None, None, 9)  # a quarter in a minute, one is left
    assert "1:00, 1:00 left" in bar._line.text(79)
    bar.on_exception(None, None, KeyboardInterrupt())
    assert bar._line is None


def test_steps_end_a_training_where_they_are_fewer_than_the_epochs_have():
    assert ProgressBar._share(fake_trainer(0, max_steps=20, step=10), 10) == 0.5
    assert ProgressBar._share(fake_trainer(0, max_epochs=-1, max_steps=40, step=10), 10) == 0.25


def test_a_bar_that_is_switched_off_shows_nothing():
    bar = ProgressBar()
    bar.disable()
    bar.on_train_start(fake_trainer(0), None)
    assert not bar.is_enabled
    assert bar._line is None
