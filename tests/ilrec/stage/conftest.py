import pytest

from tests.ilrec.stage.test_fine_tuning import data, stage, trainer


@pytest.fixture(scope="session")
def supervised(tmp_path_factory):
    """The checkpoint of a small model that has learned a little: it ranks some next items first."""
    folder = tmp_path_factory.mktemp("supervised")
    module, run = stage(strength=0.0), trainer(folder, max_epochs=8)
    run.fit(module, datamodule=data(module.model))
    run.save_checkpoint(folder / "best.ckpt")
    return folder / "best.ckpt"
