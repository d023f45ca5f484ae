import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.training.tracking import CsvLog

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
def test_every_job_of_a_sweep_has_a_dashboard_run_of_its_own(toy_arguments, tmp_path):
    in_a_process_of_its_own(
        "status = src.run.main()\nimport wandb\nassert wandb.run is None\nsys.exit(status)",
        *toy_arguments, "-m", "logger=wandb", "seed=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}",
    )  # fmt: skip
    ids = [(folder / "wandb_id").read_text() for folder in sorted((tmp_path / "sweep").glob("*_seed*"))]
    assert len(set(ids)) == 2
    for number, name in enumerate(ids):
        assert list((tmp_path / "sweep" / f"{number}_toy_seed{number + 1}").glob(f"wandb/offline-run-*-{name}/*.wandb"))
