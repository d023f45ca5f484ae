import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from src.metrics.ranking import ranking_metrics


def write_run(
    folder, name="sft", seed=1, ranks=(1, 3, 7, None), overrides=(), targets="abcd", excluded=None, guided=None,
    guided_excluded=None, penalised=None, **changes,
):  # fmt: skip
    """Write a run folder in the exact shape that src.run leaves behind.

    ``excluded`` are the ranks without the history's items, ``guided`` those with guidance,
    ``penalised`` those with a penalty; ``changes`` replace keys of
    result.json.
    """
    folder.mkdir(parents=True)
    ranks = pa.array(ranks, pa.float64())
    metrics = {f"test/{key}": value for key, value in ranking_metrics(ranks.to_numpy(False), cutoffs=(10,)).items()}
    columns = {"rank": ranks}
    more = {"excluded": excluded, "guided": guided, "guided_excluded": guided_excluded, "penalised": penalised}
    for ending, others in more.items():
        if others:
            columns[f"rank_{ending}"] = pa.array(others, pa.float64())
            measured = ranking_metrics(columns[f"rank_{ending}"].to_numpy(False), cutoffs=(10,))
            metrics |= {f"test_{ending}/{key}": value for key, value in measured.items()}
    result = {
        "status": "finished",
        "name": name,
        "seed": seed,
        "metrics": {**metrics, "val/ndcg@10": 0.4},
        "error": None,
        "config": {"seed": seed, "stage": {"strength": 0.1}, "logger": {"save_dir": f"outputs/{folder.name}/csv"}},
        "overrides": [f"+experiment={name}", f"seed={seed}", *overrides],
        "versions": {"torch": "2.13.0"},
        "commit": "abc123",
        "dirty": False,
        "started_at": f"2026-01-01T00:00:{len(list(folder.parent.iterdir())):02d}+00:00",
        "timings_s": {"prepare": 1.0, "fit": 100.0, "test": 5.0, "total": 106.0},
        "peak_memory_mib": 900.0,
        "evaluated_users": len(ranks),
        "protocol": {"exclude_history": False, "num_beams": 20},
        **changes,
    }
    (folder / "result.json").write_text(json.dumps(result))
    if result["status"] != "finished":
        return
    users = [f"u{index}" for index in range(len(ranks))]
    pq.write_table(pa.table({"user": users, "target": list(targets), **columns}), folder / "ranks.parquet")
    (folder / "metrics.csv").write_text(
        "step,epoch,metric,value\n10,0,train/loss,4.5\n20,0,train/loss,4.0\n20,0,val/ndcg@10,0.4\n"
    )


@pytest.fixture(name="write_run")
def write_run_fixture():
    return write_run


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Three cells and two seeds: one job failed, one was killed, one never started."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sweep"
    write_run(folder / "0", seed=1)
    write_run(folder / "1", seed=2, ranks=(1, 3, None, None))
    write_run(folder / "2", "ilrec_stage1", seed=1, ranks=(1, 1, 7, None))
    error = {"type": "ValueError", "message": "loss is NaN\nsecond line"}
    write_run(folder / "3", "ilrec_stage1", seed=2, status="failed", metrics={}, error=error)
    write_run(folder / "4", "ilrec_stage1", seed=1, overrides=["stage.strength=0.5"], status="running", metrics={})
    return folder.relative_to(tmp_path)
