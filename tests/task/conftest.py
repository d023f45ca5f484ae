"""What whole runs of agents that learn share: suites, a small model, and one that has learnt three lessons by heart."""

import json
import shutil

import pytest

from tests.lessons import command, small_model, small_suite


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with suites to learn from (``train``) and to be tested on, and a ``model`` with random weights."""
    folder = tmp_path_factory.mktemp("imitation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.dataset.factbook.cache_folder", lambda: folder / "cache")
        suites = {
            name: small_suite(name, max_pages=2 if name == "train" else 4) for name in ("train", "entities", "forms")
        }
        small_model(folder / "model", suites["train"])
    for name, suite in suites.items():
        shutil.copytree(suite.root, folder / name)
    about = json.loads((folder / "train" / "suite.json").read_bytes())
    for one in about.values():
        one["renamed"] = {}  # what is learnt by heart is asked by the same names
    (folder / "train" / "suite.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="session")
def learnt(run, place):
    """Folder of a run that has learnt three lessons by heart."""
    epochs = ("trainer.max_epochs=60", "trainer.check_val_every_n_epoch=60", "checkpointing.every_steps=null")
    assert run(*command(place, *epochs, f"hydra.run.dir={place / 'run'}")) == 0
    return place / "run"
