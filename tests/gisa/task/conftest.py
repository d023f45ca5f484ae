"""What whole runs of agents that learn share: suites, a small model, one that knows three demonstrations by heart."""

import json
import shutil

import pytest

from tests.gisa.demonstrations import command, small_model, small_suite


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with suites to learn from (``train``) and to be tested on, and a ``model`` with random weights."""
    folder = tmp_path_factory.mktemp("imitation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.gisa.dataset.factbook.suite.cache_folder", lambda: folder / "cache")
        suites = {
            name: small_suite(name, max_pages=2 if name == "train" else 4) for name in ("train", "entities", "families")
        }
        small_model(folder / "model", suites["train"])
    for name, suite in suites.items():
        shutil.copytree(suite.root, folder / name)
    path = folder / "train" / "demonstrations.json"
    aids = json.loads(path.read_bytes())
    for one in aids.values():
        one["renamed"] = {}  # what is learnt by heart is asked by the same names
    path.write_text(json.dumps(aids))
    return folder


@pytest.fixture(scope="session")
def learnt(run, place):
    """Folder of a run that has learnt three demonstrations by heart."""
    epochs = ("trainer.max_epochs=60", "trainer.check_val_every_n_epoch=60", "checkpointing.every_steps=null")
    assert run(*command(place, *epochs, f"hydra.run.dir={place / 'run'}")) == 0
    return place / "run"
