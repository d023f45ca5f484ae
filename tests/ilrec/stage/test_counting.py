"""Counting in place of training: one step, checkpoints that bring all of it back, and what is refused."""

import numpy as np
import pytest
import torch

from src.ilrec.evaluator.full_ranking import FullRankingEvaluator
from src.ilrec.model.collaborative import load_collaborative_model
from src.ilrec.model.counting import Counting, Popularity
from src.ilrec.stage.counting import CountingStage
from src.launch.errors import InputError
from tests.ilrec.stage.test_collaborative_filtering import ITEMS, data
from tests.ilrec.stage.test_fine_tuning import interactions, trainer

GRID = {"decay": [0.3, 0.7], "skip": [1, 3], "back": [0.0, 1.0], "norm": [0.0, 0.5], "smoothing": 0.1}


def stage(kind=Counting, **settings):
    evaluator = FullRankingEvaluator(ITEMS, exclude_history="both", cutoffs=[5, 10])
    settings = GRID | settings if kind is Counting else settings
    return CountingStage(model=kind(ITEMS.vocabulary, max_history=4, **settings), evaluator=evaluator)


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """A stage that has counted, its trainer, and its checkpoint."""
    folder = tmp_path_factory.mktemp("counted")
    module, run = stage(), trainer(folder, max_epochs=5)
    run.fit(module, datamodule=data())
    run.save_checkpoint(folder / "best.ckpt")
    return module, run, folder / "best.ckpt"


def test_one_step_learns_what_there_is_and_validates_as_it_has_chosen(counted):
    module, run, _ = counted
    assert run.current_epoch == 1
    assert run.global_step == 1
    assert run.callback_metrics["val/ndcg@10"] == 1  # users walk through the items in steps of one
    (metrics,) = run.test(module, datamodule=data(), verbose=False)
    assert metrics["test/hit@5"] == metrics["test_excluded/hit@5"] == 1
    assert module.decisions == {"chosen": module.model.chosen_settings()}
    assert module.decisions["chosen"]["back"] == 0


def test_a_checkpoint_brings_back_the_counts(counted):
    module, _, path = counted
    other = stage()
    other.take_weights(path, "checkpoint")
    loaded = load_collaborative_model(path, interactions())
    states = torch.tensor([[3, 7, -1, -1]])
    for network in (other.model, loaded):
        assert torch.equal(network.scores(states), module.model.scores(states))
        assert network.chosen_settings() == module.model.chosen_settings()
    assert torch.load(path, weights_only=True)["dataset"] == "f" * 64


def test_a_run_that_goes_on_from_its_counts_ends_the_same(counted, tmp_path):
    _, run, path = counted
    module, again = stage(), trainer(tmp_path, max_epochs=1)
    again.fit(module, datamodule=data(), ckpt_path=path)
    assert again.global_step == 1  # nothing is counted a second time
    ranks = []
    for one, its in ((module, again), (counted[0], run)):
        its.test(one, datamodule=data(), verbose=False)
        ranks.append(one.test_ranks)
    assert ranks[0].keys() == {"user", "target", "rank", "rank_excluded"}
    assert all(np.array_equal(ranks[0][name], ranks[1][name]) for name in ranks[0])


def test_checkpoints_of_another_grid_or_kind_are_refused(counted):
    with pytest.raises(InputError, match=r"holds another model:\n  there .*\[1, 3\].*\n  here  .*\[2\]"):
        stage(skip=[2]).take_weights(counted[2], "checkpoint")
    with pytest.raises(InputError, match=r"holds another model:\n  there .*Counting.*\n  here  .*Popularity"):
        stage(Popularity).take_weights(counted[2], "checkpoint")


def test_popularity_decides_nothing(tmp_path):
    module, run = stage(Popularity), trainer(tmp_path, max_epochs=1)
    run.fit(module, datamodule=data())
    assert module.decisions == {}
    assert module.model.counts.sum() == 20 * 7


def test_several_processes_are_refused(monkeypatch):
    module = stage()
    module._trainer = type("Trainer", (), {"world_size": 2})()
    monkeypatch.setattr(type(module), "trainer", property(lambda self: self._trainer))
    with pytest.raises(InputError, match=r"CountingStage counts in one process.*has 2.\nType:  trainer.devices=1"):
        module.setup("fit")
