"""The value stage: its loss by hand, its gradient, and networks that know nothing of each other's questions."""

from math import exp, log

import lightning
import numpy as np
import pytest
import torch

from src.dataset.prefix_datamodule import PrefixData
from src.errors import InputError
from src.model.value_model import ValueModel
from src.stage.gisa_value import GisaValue
from tests.dataset.test_prefix_datamodule import episodes


def stage(networks=2, features=3, **changes):
    settings = {"seed": 1, "learning_rate": 1e-2, "weight_decay": 0.0, "warmup_ratio": 0.0}
    module = GisaValue(model=ValueModel(networks, features, hidden_size=4, seed=1), **{**settings, **changes})
    module._log_training = lambda values: None  # outside a trainer
    return module


def trained(data, epochs=20, clip=None, **changes):
    module = stage(len(data.batch["weight"]), **changes)
    trainer = lightning.Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, gradient_clip_val=clip,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return module


def test_the_loss_is_cross_entropy_with_f1_weighted_and_worked_by_hand():
    module = stage(networks=1, features=1)
    for parameter in module.model.parameters():
        torch.nn.init.zeros_(parameter)
    module.model.second_bias.data.fill_(log(3))  # a value of 3 / 4 everywhere
    batch = {
        "states": torch.zeros(1, 3, 1),
        "target": torch.tensor([1.0, 0.5, 0.0]),
        "weight": torch.tensor([[0.25, 0.75, 0.0]]),
    }
    # 1/4 of -log(3/4), and 3/4 of -(log(3/4) + log(1/4)) / 2
    loss = module.training_step(batch, 0)
    assert loss.item() == pytest.approx(-log(3 / 4) / 4 - 3 / 8 * (log(3 / 4) + log(1 / 4)))
    loss.backward()
    # Of a value before its sigmoid the gradient is value less F1: 1/4 of 3/4 - 1, and 3/4 of 3/4 - 1/2.
    assert module.model.second_bias.grad.item() == pytest.approx(-1 / 16 + 3 / 16)
    assert module.held_out_values(batch).tolist() == pytest.approx([0, 0, 3 / 4])


def test_a_network_is_the_perceptron_that_is_written_out():
    model = ValueModel(2, 3, hidden_size=4, seed=1)
    model.first.data += torch.randn(model.first.shape)
    states = torch.randn(2, 5, 3)
    slow = [
        [
            sum(
                model.second[k, h, 0] * torch.tanh(sum(states[k, n, f] * model.first[k, f, h] for f in range(3)))
                for h in range(4)
            ).item()
            for n in range(5)
        ]
        for k in range(2)
    ]
    assert torch.allclose(model(states), torch.tensor(slow), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_training_tells_a_network_nothing_of_the_questions_held_out_from_it():
    made = episodes()
    before = trained(PrefixData(episodes=made, seed=1, folds=3))
    data = PrefixData(episodes=made, seed=1, folds=3)
    data.batch["target"] = torch.where(torch.tensor(data.fold == 0), 1 - data.batch["target"], data.batch["target"])
    after = trained(data)
    for one, two in zip(before.model.parameters(), after.model.parameters(), strict=True):
        assert torch.equal(one[0], two[0])
        if one.numel() > 3:
            assert not torch.equal(one[1], two[1])


@pytest.mark.filterwarnings("ignore")
def test_values_of_held_out_questions_come_close_to_f1_where_a_number_tells_it():
    data = PrefixData(episodes=episodes(questions=30), seed=1, folds=3)
    target = data.batch["target"]
    start, end = (trained(data, epochs=count).held_out_values(data.batch) for count in (1, 300))
    assert ((end - target) ** 2).mean() < 0.2 * ((start - target) ** 2).mean()
    assert np.corrcoef(end, target)[0, 1] > 0.95


@pytest.mark.filterwarnings("ignore")
def test_without_anything_to_go_by_the_value_is_the_mean_f1_of_the_other_folds():
    made = episodes(questions=4, attempts=1)
    for one in made:
        one.states[:] = 1
    data = PrefixData(episodes=made, seed=1, folds=2)
    values = trained(data, epochs=400, learning_rate=0.1).held_out_values(data.batch)
    for network in (0, 1):
        means = [one.f1 for one, fold in zip(made, folds_of(data, made), strict=True) if fold != network]
        assert values[data.fold == network].tolist() == pytest.approx(
            [np.mean(means)] * sum(data.fold == network), abs=0.01
        )


def folds_of(data, made):
    return data.fold[np.cumsum([0, *(len(one.states) for one in made)])[:-1]]


def test_loss_of_a_right_and_sure_value_is_nothing():
    module = stage(networks=1, features=1)
    module.model.second_bias.data.fill_(30)
    batch = {"states": torch.zeros(1, 1, 1), "target": torch.ones(1), "weight": torch.ones(1, 1)}
    assert module.training_step(batch, 0).item() == pytest.approx(0, abs=exp(-25))


@pytest.mark.filterwarnings("ignore")
def test_clipping_which_would_mix_the_networks_is_refused():
    with pytest.raises(InputError, match=r"gradient_clip_val=1\.0: .* of all networks(.|\n)*gradient_clip_val=null"):
        trained(PrefixData(episodes=episodes(), seed=1, folds=3), clip=1.0)
