"""GRPO on a small real model: the step by hand, the reference, what is learned."""

import math

import pytest
import torch

from src.ilrec.model.decoding import decode_items
from src.ilrec.stage.group_relative import GroupRelativeStage
from src.launch.errors import InputError
from tests.ilrec.stage.test_fine_tuning import ITEMS, model
from tests.ilrec.stage.test_preference import assert_same_weights, evaluator, fit, pairs, resumable


def stage(start, network=None, **changes):
    settings = {
        "seed": 1,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "warmup_ratio": 0.0,
        "group_size": 4,
        "kl_weight": 0.1,
        "init_from": str(start),
    }
    module = GroupRelativeStage(model=network or model(), evaluator=evaluator(), **{**settings, **changes})
    module.initialise()
    return module


def prompts(**changes):
    return pairs(model(), **{"negatives": "own", "num_negatives": 1, "prompts_per_epoch": 40, **changes})


def scores(network, prompt, item):
    """Log-probability of each token of an item after a prompt."""
    tokens = network.item_token_ids[torch.from_numpy(ITEMS.tokens[item])]
    log_p = network.causal_network(torch.cat([prompt, tokens])[None]).logits[0].log_softmax(-1)
    return [log_p[len(prompt) - 1 + t, token] for t, token in enumerate(tokens)]


def loss_by_hand(policy, reference, batch, kl_weight):
    """Rewards, advantages and token losses, one answer at a time."""
    trie, total, groups = evaluator().trie, 0.0, len(batch["input_ids"])
    for row in range(groups):
        prompt = batch["input_ids"][row][batch["attention_mask"][row] == 1]
        found = decode_items(policy, trie, prompt[None], torch.ones_like(prompt)[None], num_beams=4)
        items = trie.items[trie.first_item[found.leaf[0]]].tolist()
        hits = [item == int(batch["item"][row, 0]) for item in items]
        discounts = [1 / math.log2(i + 2) for i in range(4)]
        rewards = torch.tensor(
            [1.0 if hit else -d / sum(discounts) * any(hits) for hit, d in zip(hits, discounts, strict=True)]
        )
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        for item, advantage in zip(items, advantages, strict=True):
            for lp, lr in zip(scores(policy, prompt, item), scores(reference, prompt, item), strict=True):
                gap = lr.detach() - lp
                token = -(torch.exp(lp - lp.detach()) * advantage) + kl_weight * (torch.exp(gap) - gap - 1)
                total = total + token / 2 / 4 / groups
    return total


@pytest.mark.parametrize("kl_weight", [0.0, 0.5])
def test_loss_and_gradient_of_a_step_equal_those_by_hand(tmp_path, supervised, kl_weight):
    module, data = stage(supervised, kl_weight=kl_weight), prompts()
    fit(tmp_path, module, data)  # one epoch, so that policy and reference differ
    batch, reference = next(iter(data.epoch_batches(3))), stage(supervised).model.eval()
    module.model.eval()
    module._share_of_positions = lambda count: 1.0
    module._log_training = lambda values: None
    assert (module._reference is None) == (kl_weight == 0)
    parameters = list(module.model.parameters())
    losses = module.training_step(batch, 0), loss_by_hand(module.model, reference, batch, kl_weight)
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    slopes, expected = (torch.autograd.grad(loss, parameters) for loss in losses)
    for slope, by_hand in zip(slopes, expected, strict=True):
        torch.testing.assert_close(slope, by_hand, rtol=1e-3, atol=1e-5)


def test_training_finds_the_target_more_often(tmp_path, supervised):
    module = stage(supervised, learning_rate=3e-3, kl_weight=1e-3)
    run = fit(tmp_path, module, prompts(), max_epochs=1)
    before = run.callback_metrics["train/reward"]
    module = stage(supervised, learning_rate=3e-3, kl_weight=1e-3)
    run = fit(tmp_path, module, prompts(), max_epochs=12)
    logged = {name for name in run.callback_metrics if name.startswith("train/")}
    parts = {"train/reward", "train/hit_rate", "train/log_ratio", "train/negatives"}
    assert logged == {"train/loss", "train/learning_rate", "train/gradient_norm"} | parts
    assert run.callback_metrics["train/reward"] > before


def test_the_reference_stays_what_it_was(tmp_path, supervised):
    module = stage(supervised, learning_rate=1e-2)
    fit(tmp_path, module, prompts())
    start = stage(supervised)
    for name, weight in start.named_parameters():
        assert torch.equal(module._reference[name], weight)
    assert any(not torch.equal(one, other) for one, other in zip(module.parameters(), start.parameters(), strict=True))


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, supervised):
    whole = resumable(tmp_path / "whole", stage(supervised), prompts(), max_epochs=2)
    resumable(tmp_path / "broken", stage(supervised), prompts(), kill_at=7, max_epochs=2)
    resumed = resumable(tmp_path / "broken", stage(supervised), prompts(), resume=True, max_epochs=2)
    assert_same_weights(resumed, whole)


@pytest.mark.parametrize("size", [1, 21])
def test_groups_too_small_or_larger_than_the_catalogue_are_refused(supervised, size):
    with pytest.raises(InputError, match=f"stage.group_size={size}: I need 2 to 20"):
        stage(supervised, group_size=size)


def test_a_negative_weight_is_refused(supervised):
    with pytest.raises(InputError, match="stage.kl_weight=-1: I need a number of at least 0"):
        stage(supervised, kl_weight=-1)


@pytest.mark.parametrize("change", [{"negatives": "random"}, {"prompts_per_epoch": None}], ids=str)
def test_data_that_do_not_give_prompts_of_their_own_are_refused(tmp_path, supervised, change):
    with pytest.raises(InputError, match=r"Type:  batches.negatives=own batches.prompts_per_epoch=2048"):
        fit(tmp_path, stage(supervised), prompts(**change))
