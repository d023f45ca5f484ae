import sys
from pathlib import Path

import pytest

CHOICES = {
    "dataset": "_target_: stand_in_parts.dataset",
    "tokenizer": "_target_: stand_in_parts.Tokenizer",
    "prompt": "_target_: stand_in_parts.prompt\n_partial_: true",
    "model": "_target_: stand_in_parts.Model\n_partial_: true\nwidth: 4",
    "stage": "_target_: stand_in_parts.Stage\n_partial_: true\nlr: 0.1\ninit_from: null\nfail_in_epoch: null",
    "evaluator": "_target_: stand_in_parts.evaluator\n_partial_: true\nnum_beams: 20\nexclude_history: false",
}


@pytest.fixture
def toy_arguments(tmp_path, monkeypatch):
    """The start of a command line that runs the stand-in parts: six epochs of six steps, no dashboard."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    conf = tmp_path / "conf"
    for group, text in CHOICES.items():
        (conf / group).mkdir(parents=True)
        (conf / group / "toy.yaml").write_text(text + "\n")
    (conf / "experiment").mkdir()
    overrides = "".join(f"  - override /{group}: toy\n" for group in CHOICES)
    (conf / "experiment" / "toy.yaml").write_text(
        f"# @package _global_\ndefaults:\n{overrides}  - override /logger: none\nname: toy\n"
        "data: {_target_: stand_in_parts.Data, batch_size: 4}\n"
        "trainer: {max_epochs: 6, enable_progress_bar: false, log_every_n_steps: 3}\n"
    )
    return ["--config-dir", str(conf), "+experiment=toy"]


@pytest.fixture
def run(monkeypatch):
    """Call ``src.run`` with a command line and return its exit status; what it sets in PyTorch is undone."""
    import torch

    from src.run import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["src.run", *map(str, arguments)])
        try:
            return main()
        except SystemExit as error:
            return error.code

    threads = torch.get_num_threads()
    yield call
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
