"""What makes steps: AdamW and a cosine unless the config says otherwise, with its settings or a refusal."""

from types import SimpleNamespace

import pytest
import torch

from src.launch.errors import InputError
from src.training.stage import Optimisation, TrainingStage
from tests.test_conf import check_with_open_values_given, composed


def stage(config, precision="32-true"):
    model = torch.nn.Linear(3, 2)
    model.spec = {}
    made = TrainingStage(model, Optimisation(seed=1, learning_rate=0.5, weight_decay=0.1, warmup_ratio=0.2))
    made._trainer = SimpleNamespace(precision=precision, estimated_stepping_batches=10)
    made.learn_by(config)
    return made


def rates(made):
    """The learning rate of each of the 10 steps."""
    configured = made.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    found = []
    for _ in range(10):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_default_is_that_of_the_config_and_of_before():
    config, _ = composed()
    for made in (stage({}), stage(config)):
        optimizer = made.configure_optimizers()["optimizer"]
        assert type(optimizer) is torch.optim.AdamW
        groups = [
            (group["weight_decay"], group["fused"], tuple(group["betas"]), group["eps"])
            for group in optimizer.param_groups
        ]
        assert groups == [(0.1, True, (0.9, 0.999), 1e-8), (0.0, True, (0.9, 0.999), 1e-8)]
        # Two steps up, 0 and a half of it; at the sixth, half way down the cosine.
        found = rates(made)
        assert found[:3] == [0.0, 0.25, 0.5]
        assert found[6] == pytest.approx(0.25)
    assert not stage(config, "16-mixed").configure_optimizers()["optimizer"].param_groups[0]["fused"]


@pytest.mark.parametrize(
    ("choice", "kind", "last"),
    [("optimizer=sgd", "SGD", None), ("optimizer=adafactor", "Adafactor", None), ("scheduler=linear", "AdamW", 0.0625),
     ("scheduler=constant", "AdamW", 0.5)],
)  # fmt: skip
def test_others_are_chosen_by_the_config(choice, kind, last):
    made = stage(check_with_open_values_given(choice))
    assert type(made.configure_optimizers()["optimizer"]).__name__ == kind
    if last:
        assert rates(made)[-1] == pytest.approx(last)


def test_what_they_do_not_take_is_told_by_the_check_or_before_the_first_step():
    with pytest.raises(InputError, match=r"scheduler.name='cosin': needed: cosine | linear"):
        check_with_open_values_given("scheduler.name=cosin")
    with pytest.raises(InputError, match=r"optimizer.beta: torch.optim.AdamW has no such setting; did you mean betas"):
        check_with_open_values_given("+optimizer.beta=1")
    with pytest.raises(
        InputError, match=r"optimizer or scheduler: Invalid momentum value: -1.*\nType:  optimizer=adamw"
    ):
        stage(composed("optimizer=sgd", "optimizer.momentum=-1")[0]).configure_optimizers()


@pytest.mark.parametrize(("every", "logged"), [(0, []), (1, [0, 1, 2, 3]), (2, [1, 3])])
def test_every_so_many_steps_are_logged_and_none_for_0(every, logged):
    made = stage({})
    made._trainer.log_every_n_steps = every
    steps = []
    for step in range(4):
        made._trainer.global_step = step
        steps += [step] if made._is_log_step() else []
    assert steps == logged
