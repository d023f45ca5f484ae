"""Before beside after: the whole chain on a small model, gone on with, and what is refused before it begins."""

import json

import pytest

from tests.gisa.demonstrations import command
from tests.gisa.task.test_learning import read

pytestmark = pytest.mark.filterwarnings("ignore")


def chain(place, folder):
    """A command line of the whole chain, with the small model on both sides."""
    choices = {"model": "hub", "dataset": "gisa"}
    training = command(place, "trainer.max_epochs=1")
    settings = [one for one in training if not one.startswith(("+", "logger", *(f"{key}=" for key in choices)))]
    limits = ("agent.policy.max_output_tokens=12", "agent.budget.max_calls=1", "agent.policy.dtype=float32")
    return [
        "+experiment=gisa_imitation_eval", "logger=none", "task.resamples=50", f"hydra.run.dir={folder}",
        "task.train.choices={model: hub, dataset: gisa}", *(f"task.train.{one}" for one in settings),
        "task.before.choices={agent/policy: local}", f"task.before.agent.policy.name={place / 'model'}",
        "task.before.task.max_questions=2", *(f"task.rollout.{one}" for one in limits), *on_suites(place),
    ]  # fmt: skip


def on_suites(place):
    """Ask the tests of a chain about the suites at hand, and not about those of the recipe."""
    for name in ("entities", "families"):
        dataset = f"dataset: {{root: {place / name}}}"
        yield f"~task.tests.{name}"
        yield f"+task.tests.{name}={{choices: {{dataset: gisa}}, {dataset}}}"


def test_one_command_trains_and_answers_before_and_after_and_goes_on_where_it_was(run, place, tmp_path, capsys):
    folder = tmp_path / "chain"
    assert run(*chain(place, folder)) == 0
    assert "## entities" in capsys.readouterr().out
    parts = {name: read(folder / name / "result.json") for name in (
        "train", "entities_before", "entities_after", "families_after"
    )}  # fmt: skip
    assert not (folder / "families_before").exists()  # the one before is asked about entities only
    assert {part["status"] for part in parts.values()} == {"finished"}
    assert parts["families_after"]["lineage"]["checkpoint_from"]["path"] == str(
        folder / "train" / "checkpoints" / "best.ckpt"
    )
    report = read(folder / "report.json")
    compared = {one["part"]: one for one in report["entities"] if one["metric"] == "global_em"}
    assert [compared[part]["questions"] for part in ("all", "item", "set", "list", "table")] == [4, 1, 1, 1, 1]
    assert [compared[part]["common"] for part in ("all", "item", "set", "list", "table")] in (
        [2, 1, 0, 1, 0],
        [2, 0, 1, 0, 1],
    )
    assert all((one["before"] is None) == (one["gain"] is None) == (not one["common"]) for one in compared.values())
    assert sum(one["questions"] for part, one in compared.items() if "page" in part) == 4
    assert sum(one["questions"] for part, one in compared.items() if part.startswith("family: ")) == 4
    alone = [one for one in report["families"] if one["part"] == "all"]
    assert [(one["questions"], one["common"], one["before"], one["gain"]) for one in alone] == [(4, 0, None, None)]
    result = read(folder / "result.json")
    assert "families/valid_calls_after" in result["metrics"]
    assert not any(key.startswith("families/") and key.endswith("before") for key in result["metrics"])
    assert result["metrics"]["entities/global_em/all/after"] == 0  # an epoch of three demonstrations teaches nothing
    assert sum(result["rollouts"]["families_after"].values()) == 4

    # As if it had been killed within its last part: that one alone is done again.
    began = {name: read(folder / name / "result.json")["resumed"] for name in parts}
    for path, status in ((folder / "families_after", "running"), (folder, "running")):
        content = read(path / "result.json") | {"status": status}
        (path / "result.json").write_text(json.dumps(content))
    assert run(f"resume={folder}") == 0
    again = {name: read(folder / name / "result.json")["resumed"] - count for name, count in began.items()}
    assert again == dict.fromkeys(parts, 0) | {"families_after": 1}
    assert read(folder / "report.json") == report


def test_the_chain_names_a_fault_of_any_of_its_runs_before_the_first_begins(run, tmp_path, capsys):
    folder = tmp_path / "chain"
    status = run(
        "+experiment=gisa_imitation_eval", "logger=none", "task.rollout.agent.policy.tempature=1",
        f"hydra.run.dir={folder}",
    )  # fmt: skip
    assert status == 2
    assert "agent.policy.tempature: src.gisa.agent.local.LocalPolicy has no such setting" in capsys.readouterr().out
    assert not (folder / "train").exists()


def test_the_chain_refuses_a_test_that_is_not_there(run, tmp_path, capsys):
    folder = tmp_path / "chain"
    assert run("+experiment=gisa_imitation_eval", "task.before_tests=[countries]", f"hydra.run.dir={folder}") == 2
    said = "task.before_tests: there is no test countries; there are: entities, families."
    assert said in capsys.readouterr().out
