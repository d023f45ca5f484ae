"""Runs of a run: what nodes of a config describe together, and that what is recorded composes to the same again."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from src.launch.chain import Child, _composed, child_of, run_children
from src.launch.config import CONF, check, prepare_arguments
from src.launch.errors import InputError

ROLLOUT = {"experiment": "gisa_rollout", "agent": {"concurrency": 3}}
POLICY = {"choices": {"agent/policy": "smollm2"}, "agent": {"concurrency": 7, "budget": {"max_calls": 8}}}


@pytest.fixture(autouse=True)
def hydra():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def test_later_nodes_win_and_choices_are_put_together():
    child = child_of(
        POLICY, {"choices": {"dataset": "factbook_set"}, "name": "x"}, ROLLOUT, recipe=["stage=gisa_rollout"]
    )
    assert child.recipe == [
        "+experiment=gisa_rollout", "agent/policy=smollm2", "dataset=factbook_set", "stage=gisa_rollout",
    ]  # fmt: skip
    assert child.settings == {"agent": {"concurrency": 3, "budget": {"max_calls": 8}}, "name": "x"}
    assert POLICY["choices"] == {"agent/policy": "smollm2"}  # as it was


def test_the_logger_is_the_parents_and_a_typo_a_listed_fault():
    settings = {"agent": {"policy": {"error_rat": 0.1}, "budgte": {"max_calls": 8}}, "name": "x"}
    config = _composed(Child(ROLLOUT_RECIPE, settings), None)
    assert config["logger"] is None
    with pytest.raises(InputError) as caught:
        check(config)
    faults = {"agent.budgte": "did you mean budget?", "agent.policy.error_rat": "did you mean error_rate?"}
    said = str(caught.value).splitlines()[1:]
    assert {line[2:].partition(":")[0]: line.partition("; ")[2] for line in said} == faults


ROLLOUT_RECIPE = ["+experiment=gisa_rollout", "dataset=factbook_set"]
VALUES = [1, 0.5, 1e-7, None, True, "word", "true", "null", "a b", 'a "b" \\', "/a/b=c.ckpt", "", [1, "x, y"], [], {}]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_is_recorded_could_be_typed(value):
    child = Child(ROLLOUT_RECIPE, {"agent": {"budget": {"max_calls": 8}, "today": value}, "name": "x"})
    cfg = compose("config", prepare_arguments(child.overrides, CONF))
    assert OmegaConf.to_container(cfg)["agent"]["today"] == value
    assert _composed(child, None)["agent"] == OmegaConf.to_container(cfg, resolve=True)["agent"]


def test_a_recipe_that_there_is_not_is_answered_with_those_there_are():
    with pytest.raises(InputError, match=r"\+experiment=sfft: .*'experiment/sfft'; did you mean sft\?\nThere are: big"):
        _composed(Child(["+experiment=sfft"], {}), None)


def test_the_faults_of_all_children_are_told_by_their_names_before_the_first_begins(tmp_path):
    bad = {"agent": {"concurrency": 0}}
    children = {
        "first": Child(ROLLOUT_RECIPE, {}),
        "second": Child(ROLLOUT_RECIPE, bad),
        "third": Child(ROLLOUT_RECIPE, bad),
    }
    with pytest.raises(InputError) as caught:
        run_children(children, {"seed": 1, "threads": 1, "logger": None}, tmp_path, None, None)
    fault = "The config has 1 fault(s):\n- agent.concurrency=0: I need a whole number of at least 1."
    assert str(caught.value) == f"second: {fault}\nthird: {fault}"
    assert not list(tmp_path.iterdir())
