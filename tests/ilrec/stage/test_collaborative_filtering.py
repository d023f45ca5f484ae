"""Training collaborative models on a small real data set: losses, ranks, checkpoints."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from src.ilrec.batches.next_item import RecommendationData
from src.ilrec.evaluator.full_ranking import FullRankingEvaluator
from src.ilrec.model.sequence_models import Caser, GRU4Rec, SASRec
from src.ilrec.prompt.ids import ItemsPrompt
from src.ilrec.stage.collaborative_filtering import CollaborativeFilteringStage
from src.ilrec.tokenizer.item_tokens import OneTokenPerItem
from src.launch.errors import InputError
from tests.ilrec.stage.test_fine_tuning import interactions, trainer

ITEMS = OneTokenPerItem().fit(interactions())


def sasrec(hidden_size=16):
    sizes = {"hidden_size": hidden_size, "inner_size": 32, "num_layers": 1, "num_heads": 2}
    return SASRec(ITEMS.vocabulary, **sizes, dropout=0.1, max_history=4, seed=0)


def gru4rec():
    sizes = {"hidden_size": 16, "recurrent_size": 16, "num_layers": 1}
    return GRU4Rec(ITEMS.vocabulary, **sizes, dropout=0.1, max_history=4, seed=0)


def caser():
    sizes = {"hidden_size": 16, "window": 3, "horizontal_filters": 4, "vertical_filters": 2}
    return Caser(ITEMS.vocabulary, **sizes, dropout=0.1, max_history=4, seed=0)


def stage(model=None, **changes):
    settings = {"seed": 1, "learning_rate": 1e-2, "weight_decay": 0.0, "warmup_ratio": 0.1, "init_from": None}
    evaluator = FullRankingEvaluator(ITEMS, exclude_history=False, cutoffs=[5, 10])
    module = CollaborativeFilteringStage(model=model or sasrec(), evaluator=evaluator, **{**settings, **changes})
    module.initialise()
    return module


def data():
    prompt = ItemsPrompt(None, ITEMS, max_history=4, stride=3)
    return RecommendationData(
        interactions=interactions(), prompt=prompt, seed=1, batch_size=8, evaluation_batch_size=8, max_users=None
    )


@pytest.mark.parametrize("make", [sasrec, gru4rec, caser], ids=lambda make: make.__name__)
def test_training_learns_to_rank_the_next_item_first(tmp_path, make):
    module = stage(make())
    run = trainer(tmp_path, max_epochs=15)
    run.fit(module, datamodule=data())
    (metrics,) = run.test(module, datamodule=data(), verbose=False)
    assert metrics["test/users"] == 20
    assert metrics["test/hit@5"] > 0.8
    assert module.test_ranks["target"][:2] == ["i8", "i9"]


def test_the_loss_is_cross_entropy_over_every_labelled_position():
    module = stage(sasrec()).eval()
    module._share_of_positions = lambda count: 1.0
    module._log_training = lambda values: None
    batch = next(iter(data().train_dataloader()))
    losses = []
    for row, items in enumerate(batch["input_ids"]):
        for t in batch["rows"][row].nonzero().flatten():
            state = module.model(items[None, : t + 1])[0, -1]
            losses.append(F.cross_entropy(module.model.item_embedding.weight @ state, items[t + 1]))
    torch.testing.assert_close(module.training_step(batch, 0), torch.stack(losses).mean())


def test_windows_as_long_as_the_history_allows_can_be_trained_on():
    longest = max(batch["input_ids"].shape[1] for batch in data().train_dataloader())
    assert longest == 5  # four items of history and the last label


def saved(folder, module):
    run = trainer(folder, max_epochs=1)
    run.fit(module, datamodule=data())
    run.save_checkpoint(folder / "some.ckpt")
    return folder / "some.ckpt"


def test_a_saved_checkpoint_gives_the_same_scores_when_loaded(tmp_path):
    module = stage()
    other = stage(init_from=str(saved(tmp_path, module)))
    items = torch.tensor([[1, 2, 3]])
    for one in (module, other):
        one.eval()
    assert torch.equal(other.model(items), module.model(items))


def test_checkpoints_of_other_sizes_and_kinds_are_refused(tmp_path):
    path = saved(tmp_path, stage())
    with pytest.raises(InputError, match=r"holds another model:\n  there .*'hidden_size': 16.*\n  here  .*32"):
        stage(sasrec(hidden_size=32), init_from=str(path))
    with pytest.raises(InputError, match=r"holds another model:\n  there .*SASRec.*\n  here  .*GRU4Rec"):
        stage(gru4rec(), init_from=str(path))


def test_the_checkpoint_knows_its_data_set(tmp_path):
    checkpoint = torch.load(saved(tmp_path, stage()), weights_only=True)
    assert checkpoint["dataset"] == "f" * 64
    assert np.isfinite([float(value.abs().sum()) for value in checkpoint["state_dict"].values()]).all()
