import copy
import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Machines are shared, so nothing is timed; tests that share a folder over their examples write all of it anew.
settings.register_profile(
    "ours", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("ours")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a busy neighbour makes two threads many times slower than one
os.environ["HF_HUB_OFFLINE"] = "1"  # what no folder here has is asked of no hub
os.environ.pop("WANDB_MODE", None)  # tests that want one say so
gc.disable()  # until all is collected: imports leave millions of objects that stay, and nothing to free

# Files of half a minute, beside those with whole runs.
LONG = ("test_bench", "test_causal_lm", "test_conf", "test_fine_tuning", "test_generation", "test_probe")
CONF = Path(__file__).parents[1] / "conf"
CHOICES = {
    "dataset": "_target_: stand_in_parts.dataset",
    "tokenizer": "_target_: stand_in_parts.Tokenizer",
    "prompt": "_target_: stand_in_parts.prompt\n_partial_: true",
    "model": "_target_: stand_in_parts.Model\n_partial_: true\nwidth: 4",
    "stage": "_target_: stand_in_parts.Stage\n_partial_: true\nlr: 0.1\ninit_from: null\nfail_in_epoch: null",
    "evaluator": "_target_: stand_in_parts.evaluator\n_partial_: true\nnum_beams: 20\nexclude_history: false",
}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Long files first: those of small tests even out at the end what a worker with a long one is behind."""
    long = {item.path for item in items if "run" in item.fixturenames or item.path.stem in LONG}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish():
    """Look at what has been imported never again: every run ends in a collection of garbage."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def read_once():
    """Hydra reads each file of conf/ and of its own once: dozens of them are composed a thousand times."""
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins

    Plugins.instance()  # which registers the sources

    def kept(read):
        found = {}

        def load_config(self, config_path):
            if self.scheme() == "file" and Path(self.path) != CONF:
                return read(self, config_path)  # of a test, which may change it
            key = (self.provider, self.path, config_path)
            if key not in found:
                found[key] = read(self, config_path)
            return copy.deepcopy(found[key])

        return load_config

    with pytest.MonkeyPatch.context() as patch:
        for source in map(SourcesRegistry.instance().resolve, ("file", "pkg")):
            patch.setattr(source, "load_config", kept(source.load_config))
        yield


@pytest.fixture
def toy_arguments(tmp_path, monkeypatch):
    """The start of a command line that runs the stand-in parts: six epochs of six steps, no dashboard."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("ILREC_GISA_TRUST", "stand_in_parts")  # as for code of the user's own, which resume= builds
    conf = tmp_path / "conf"
    for group, text in CHOICES.items():
        (conf / group).mkdir(parents=True)
        (conf / group / "toy.yaml").write_text(text + "\n")
    (conf / "experiment").mkdir()
    overrides = "".join(f"  - override /{group}: toy\n" for group in CHOICES)
    (conf / "experiment" / "toy.yaml").write_text(
        f"# @package _global_\ndefaults:\n{overrides}  - override /logger: none\nname: toy\n"
        "batches: {_target_: stand_in_parts.Data, batch_size: 4}\n"
        "trainer: {max_epochs: 6, enable_progress_bar: false, log_every_n_steps: 3}\n"
    )
    return ["--config-dir", str(conf), "+experiment=toy"]


@pytest.fixture(scope="module")
def small_arguments(tmp_path_factory):
    """The start of a command line that runs the real job: 24 users, 12 items, 2 blocks 16 wide, 7 steps an epoch."""
    folder = tmp_path_factory.mktemp("small")
    # Users walk through the items one by one or two by two, so that there is something to learn.
    walks = [(user, (user + step * (1 + user % 2)) % 12, step) for user in range(24) for step in range(6 + user % 4)]
    rows = [
        "user_id:token\titem_id:token\ttimestamp:float",
        *(f"u{user}\ti{item}\t{time}" for user, item, time in walks),
    ]
    (folder / "small.inter").write_text("\n".join(rows) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ILREC_GISA_CACHE", str(folder / "cache"))
        yield [
            "+experiment=ilrec_stage1", "logger=none", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu",
            "dataset=recbole", f"dataset.source.folder={folder}", "dataset.source.name=small", "dataset.k_core=1",
            "tokenizer.codebook_size=4", "model.hidden_size=16", "model.intermediate_size=32", "model.num_layers=2",
            "model.num_heads=2", "stage.layers=1", "prompt.max_history=4", "prompt.stride=5", "batches.batch_size=8",
            "trainer.max_epochs=4", "trainer.log_every_n_steps=1",
        ]  # fmt: skip


@pytest.fixture(scope="session")
def run():
    """Call ``src.run`` with a command line and return its exit status; what it sets in PyTorch is undone."""
    import torch
    from hydra._internal.hydra import Hydra

    from src.run import main

    threads = torch.get_num_threads()

    def call(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["src.run", *map(str, arguments)])
            # Hydra composes everything twice, first to look for a hydra.mode, which no file of ours sets.
            patch.setattr(Hydra, "get_mode", lambda *_, **__: None)
            try:
                return main()
            except SystemExit as error:
                return error.code
            finally:
                torch.set_num_threads(threads)
                torch.set_float32_matmul_precision("highest")
                torch.use_deterministic_algorithms(False)

    return call


@pytest.fixture
def half_by_default():
    """What the trainer's bf16-true makes of every step: floating-point numbers are bfloat16 unless told otherwise."""
    import torch

    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def wandb_server():
    """A server of Weights & Biases, on loopback, for all tests of a process."""
    from tests.training.wandb_server import serve

    with serve() as server:
        yield server


@pytest.fixture
def online(wandb_server, monkeypatch, tmp_path):
    """The server, where the client finds it; what others have told it is forgotten."""
    with wandb_server.known_to_the_client(monkeypatch, tmp_path):
        yield wandb_server
