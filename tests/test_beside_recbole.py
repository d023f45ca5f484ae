"""The comparison with RecBole, led with a stand-in that answers as RecBole's side does. Times are not looked at."""

import json
import sys

import numpy as np
import pytest
import torch

from src.ilrec.dataset.interactions import prepare
from src.ilrec.dataset.sources import LcRecFiles, RecBoleFiles
from tests.benchmarks.beside_recbole import NAME, RECBOLES_BEST, main, write_atomic_file

STAND_IN = """
import json, sys
def answer(**values): print(json.dumps(values), flush=True)
answer(batches=10)
for line in sys.stdin:
    if line.startswith("epochs="):
        answer(epoch=1, val=0.25)
        answer(**{"ndcg@10": 0.125})
    else:
        answer(seconds=0.5 * int(line))
"""


@pytest.fixture
def dataset(tmp_path):
    """Eight users who walk through twelve items, in LC-Rec format."""
    walks = {str(user): [(user + step) % 12 for step in range(9)] for user in range(8)}
    (tmp_path / "walks.inter.json").write_text(json.dumps(walks))
    return tmp_path


@pytest.fixture
def recbole(tmp_path):
    """What is started in place of RecBole's Python."""
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\n{STAND_IN}")
    path.chmod(0o755)
    threads = torch.get_num_threads()
    yield str(path)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def overrides(folder):
    return [
        *("dataset=lcrec", f"dataset.source.folder={folder}", "dataset.source.name=walks", "trainer.max_epochs=3"),
        *("model.hidden_size=8", "model.inner_size=8", "prompt.max_history=4", "prompt.stride=4"),
        "trainer.enable_progress_bar=false",
    ]


def table(text):
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]


def test_recbole_reads_the_sequences_we_split(dataset, tmp_path):
    ours = prepare(LcRecFiles(str(dataset), "walks"), k_core=1)
    write_atomic_file(ours, tmp_path)
    theirs = prepare(RecBoleFiles(str(tmp_path / NAME), NAME), k_core=1)
    assert theirs.num_users == 8
    for user in range(8):
        np.testing.assert_array_equal(theirs.sequence(user), ours.sequence(user))


def test_an_epoch_and_the_way_to_recboles_best_are_compared(dataset, recbole, monkeypatch, capsys):
    monkeypatch.setitem(RECBOLES_BEST, "sasrec", (4, 0.0))  # reached after our first epoch
    main([recbole, "--only", "sasrec", "--batches", "2", "--pairs", "2", *overrides(dataset)])
    epoch, way = table(capsys.readouterr().out)
    # Two batches of ten take 2 x 0.5 s, so an epoch takes 5 s, and four take 20 s.
    assert epoch[1] == "RecBole's SASRec: 5.00 s"
    assert epoch[4] == way[4] == "2"
    assert "in 3 epochs" in epoch[6]
    assert way[1] == "RecBole's SASRec: 20.00 s"
    assert way[6] == "RecBole's epoch 4, our epoch 1"


def test_without_recboles_best_reached_only_the_epoch_is_compared(dataset, recbole, monkeypatch, capsys):
    monkeypatch.setitem(RECBOLES_BEST, "sasrec", (4, 1.5))
    main([recbole, "--only", "sasrec", "--pairs", "1", *overrides(dataset)])
    assert [row[0] for row in table(capsys.readouterr().out)] == ["Training epoch"]


def test_recboles_own_curve_is_printed(dataset, recbole, capsys):
    main([recbole, "--only", "gru4rec", "--epochs", "1", *overrides(dataset)[:4]])
    assert capsys.readouterr().out.splitlines() == [
        "gru4rec {'epoch': 1, 'val': 0.25}",
        "gru4rec {'ndcg@10': 0.125}",
    ]


def test_a_recbole_that_does_not_start_is_told(dataset, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(SystemExit, match=r"RecBole ended with exit code 3; what it said stands above"):
        main([str(broken), "--only", "sasrec", *overrides(dataset)])
