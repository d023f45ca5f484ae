"""SPRec on a small real model: what a round is made of, and that it may be killed anywhere."""

import numpy as np
import pytest
import torch

from src.ilrec.stage.self_play import SelfPlayStage
from src.launch.errors import InputError
from tests.ilrec.stage.test_fine_tuning import ITEMS, model
from tests.ilrec.stage.test_preference import assert_same_weights, evaluator, fit, pairs, resumable


def stage(start, network=None, **changes):
    settings = {
        "seed": 1,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "warmup_ratio": 0.0,
        "beta": 0.1,
        "init_from": str(start),
    }
    module = SelfPlayStage(model=network or model(), evaluator=evaluator(), **{**settings, **changes})
    module.initialise()
    return module


def rounds(**changes):
    settings = {"negatives": "own", "num_negatives": 1, "epochs_per_draw": 2, "prompts_per_epoch": 40}
    return pairs(model(), **{**settings, **changes})


def prompts(data, epoch=0):
    """Prompt of every pair of the draw, unpadded."""
    draw = data.pairs(epoch)
    for user, label in zip(draw.user, draw.label, strict=True):
        yield torch.from_numpy(data.prompt.prompt(data.interactions.training_sequence(int(user))[:label]))


@torch.no_grad()
def greedy_by_hand(network, prompt):
    """The best first code, then the best second code: every pair of codes is an item here."""
    ids = prompt
    for level in range(2):
        logits = network.causal_network(ids[None]).logits[0, -1][network.item_token_ids]
        codes = np.unique(ITEMS.tokens[:, level])
        best = codes[logits[torch.from_numpy(codes)].argmax()]
        ids = torch.cat([ids, network.item_token_ids[best, None]])
    return ids[-2:]


@torch.no_grad()
def score_by_hand(network, prompt, tokens):
    log_p = network.causal_network(torch.cat([prompt, tokens])[None]).logits[0].log_softmax(-1)
    return sum(float(log_p[len(prompt) - 1 + t, token]) for t, token in enumerate(tokens))


def test_a_round_answers_with_the_model_at_its_start(tmp_path, supervised):
    module, data = stage(supervised), rounds()
    fit(tmp_path, module, data, max_epochs=2)
    network = stage(supervised).model.eval()
    for prompt, item in zip(prompts(data), module.draw["answers"].tolist(), strict=True):
        expected = network.item_token_ids[torch.from_numpy(ITEMS.tokens[item])]
        assert greedy_by_hand(network, prompt).tolist() == expected.tolist()


def test_the_reference_of_a_round_is_the_model_after_its_supervised_epoch(tmp_path, supervised):
    module, data = stage(supervised, learning_rate=1e-2), rounds()
    fit(tmp_path / "whole", module, data, max_epochs=2)
    # The same training cut off after the supervised epoch (the schedule is that of two epochs either way).
    halfway = resumable(tmp_path / "half", stage(supervised, learning_rate=1e-2), rounds(), kill_at=5, max_epochs=2)
    network, draw = halfway.model.eval(), data.pairs(0)
    for n, prompt in enumerate(prompts(data)):
        for r, item in enumerate((int(draw.chosen[n]), int(module.draw["answers"][n]))):
            tokens = network.item_token_ids[torch.from_numpy(ITEMS.tokens[item])]
            by_hand = score_by_hand(network, prompt, tokens)
            assert float(module.draw["reference"][n, r]) == pytest.approx(by_hand, abs=1e-3)


def loss_of(module, batch):
    module._share_of_positions = lambda count: 1.0
    module._log_training = lambda values: None
    return module.training_step(batch, 0)


def test_the_supervised_epoch_is_cross_entropy_over_the_response_tokens(supervised):
    module, data = stage(supervised, model(dropout=0.0)), rounds()
    batch = next(iter(data.train_dataloader()))
    scores = []
    for row, pair in enumerate(batch["pair"].tolist()):
        prompt = batch["input_ids"][row][batch["attention_mask"][row] == 1]
        tokens = module.model.item_token_ids[torch.from_numpy(ITEMS.tokens[data.pairs(0).chosen[pair]])]
        scores.append(score_by_hand(module.model, prompt, tokens))
    assert loss_of(module, batch).item() == pytest.approx(-sum(scores) / (2 * len(scores)), abs=1e-4)


def test_right_answers_are_left_out_and_a_batch_of_them_is_worth_nothing(supervised):
    module, data = stage(supervised, model(dropout=0.0)), rounds()
    draw = data.pairs(0)
    half_right = draw.chosen.copy()
    half_right[::2] = (half_right[::2] + 1) % 20
    for answers, everything in ((half_right, False), (draw.chosen, True)):
        data.answers = answers
        module.draw = {"reference": torch.zeros(len(draw.chosen), 2)}
        batch = next(iter(data.epoch_batches(0)))
        module.zero_grad()
        loss = loss_of(module, batch)
        loss.backward()
        margins = module._log_p(batch).sum(2).diff(dim=1).neg()[batch["pair"] % 2 == 0]
        expected = 0.0 if everything else torch.log(1 + torch.exp(-0.1 * margins)).mean()
        assert loss.item() == pytest.approx(float(expected), abs=1e-5)
        assert any(parameter.grad.any() for parameter in module.parameters()) != everything


def test_dropout_is_on_in_supervised_epochs_only(tmp_path, supervised):
    module, states = stage(supervised), []
    step = module.training_step
    module.training_step = lambda batch, batch_idx: states.append(module.model.training) or step(batch, batch_idx)
    fit(tmp_path, module, rounds(), max_epochs=2)
    assert states == [True] * 5 + [False] * 5


def test_every_round_draws_prompts_of_its_own(tmp_path, supervised):
    module, data, keys = stage(supervised), rounds(), []
    prepare = module._prepare
    module._prepare = lambda epoch: keys.append(data.pairs(epoch).fingerprint()) or prepare(epoch)
    fit(tmp_path, module, data, max_epochs=4)
    # The hook at the start of training and the one of its first epoch both ask for the first.
    assert keys[0] == keys[1] == keys[2] != keys[3] == keys[4]


# 40 prompts, 8 a batch: 5 steps an epoch, 10 a round; a checkpoint every 2 steps and at the end of an epoch.
FOUR_EPOCHS = {"max_epochs": 4, "check_val_every_n_epoch": 2}


@pytest.fixture(scope="module")
def whole(supervised, tmp_path_factory):
    """The stage after rounds that nothing interrupted."""
    return resumable(tmp_path_factory.mktemp("whole"), stage(supervised), rounds(), **FOUR_EPOCHS)


@pytest.mark.parametrize("kill_at", [1, 3, 5, 7, 10, 13, 17])
def test_rounds_killed_at_any_moment_go_on_as_if_they_had_not_been(tmp_path, supervised, whole, kill_at):
    resumable(tmp_path / "broken", stage(supervised), rounds(), kill_at=kill_at, **FOUR_EPOCHS)
    resumed = resumable(tmp_path / "broken", stage(supervised), rounds(), resume=True, **FOUR_EPOCHS)
    assert_same_weights(resumed, whole)
    assert torch.equal(resumed.draw["answers"], whole.draw["answers"])


@pytest.mark.parametrize(
    "change", [{"negatives": "random"}, {"epochs_per_draw": 1}, {"prompts_per_epoch": None}], ids=str
)
def test_data_that_do_not_make_rounds_are_refused(tmp_path, supervised, change):
    with pytest.raises(
        InputError, match=r"Type:  batches.negatives=own batches.epochs_per_draw=2 batches.prompts_per_epoch="
    ):
        fit(tmp_path, stage(supervised), rounds(**change))


def test_a_beta_out_of_range_is_named(supervised):
    with pytest.raises(InputError, match="stage.beta=-1: I need a number above 0"):
        stage(supervised, beta=-1)
