import json
import os
import signal

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from src.launch.errors import InputError
from src.launch.search import _distribution
from src.report.runs import find_runs

optuna = pytest.importorskip("optuna")
# Lightning warns of short epochs, of batches without workers and the like.
pytestmark = pytest.mark.filterwarnings("ignore")
RATE = "stage.lr=tag(log,interval(0.0001,1))"


@pytest.fixture
def search(run, toy_arguments):
    """Call a search over the stand-in parts with further arguments; return its exit status."""

    def call(folder, *more, trials=4):
        options = ["hydra.sweeper.params=null", f"hydra.sweeper.n_trials={trials}", f"hydra.sweep.dir={folder}"]
        return run(*toy_arguments, "-m", "+sweep=search", "trainer.max_epochs=2", *options, *more)

    return call


def trials(folder):
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{folder / 'study.db'}")
    return [(trial.state.name, trial.params, trial.value) for trial in study.trials]


def test_a_search_killed_in_its_third_trial_goes_on_and_ends_as_if_it_had_not_been(search, tmp_path, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert search(whole, RATE, "batches.batch_size=4,8") == 0
    printed = capsys.readouterr().out
    pid = os.fork()
    if not pid:
        import stand_in_parts

        step = stand_in_parts.Stage.training_step

        def killing(self, *arguments):
            if self.trainer.default_root_dir.endswith("2_toy_seed1") and self.current_epoch == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, *arguments)

        stand_in_parts.Stage.training_step = killing
        search(broken, RATE, "batches.batch_size=4,8")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert [state for state, *_ in trials(broken)] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert search(broken, RATE, "batches.batch_size=4,8") == 0
    assert trials(broken) == trials(whole)
    assert [json.loads((broken / f"{n}_toy_seed1" / "result.json").read_text())["resumed"] for n in range(4)] == [
        0, 0, 1, 0,
    ]  # fmt: skip
    # The best value is printed, kept, and that of a run; and the study is drawn.
    best = yaml.safe_load((whole / "best.yaml").read_text())
    values = [value for _, _, value in trials(whole)]
    assert best["value"] == max(values) == trials(whole)[best["trial"]][2]
    assert f"Best: trial {best['trial']}, val/ndcg@10 = {best['value']:.4f}: {' '.join(best['overrides'])}" in printed
    measured = {run.folder.name: run.metrics["val/ndcg@10"] for run in find_runs([whole])}
    assert measured[f"{best['trial']}_toy_seed1"] == best["value"]
    assert (whole / "study.png").read_bytes()[:4] == b"\x89PNG"


def test_what_falls_behind_is_ended_early_and_what_fails_stops_no_other(search, tmp_path, capsys):
    soon = ["hydra.sweeper.pruner.n_startup_trials=1", "hydra.sweeper.pruner.n_warmup_steps=0"]
    assert search(tmp_path, "stage.fail_in_epoch=0,null", "stage.lr=0.5,0.0001", *soon, trials=6) == 1
    assert {run.status for run in find_runs([tmp_path])} == {"failed", "finished", "pruned"}
    assert {state for state, *_ in trials(tmp_path)} == {"FAIL", "COMPLETE", "PRUNED"}
    assert all(trial[1]["++stage.fail_in_epoch"] == 0 for trial in trials(tmp_path) if trial[0] == "FAIL")
    assert "is behind the others after epoch" in (tmp_path / _pruned(tmp_path) / "run.log").read_text()


def _pruned(folder):
    return next(run.folder.name for run in find_runs([folder]) if run.status == "pruned")


def test_a_folder_that_holds_another_search_is_refused(search, tmp_path, capsys):
    assert search(tmp_path, RATE, trials=1) == 0
    assert search(tmp_path, RATE, "trainer.max_epochs=1") == 2
    assert "holds another search; they differ in: trainer.max_epochs=2; trainer.max_epochs=1" in capsys.readouterr().err
    assert search(tmp_path, RATE, trials=2) == 0  # more trials of the same are welcome
    assert len(trials(tmp_path)) == 2


def test_a_command_at_fault_ends_with_its_first_trial_and_leaves_the_folder_free(search, tmp_path, capsys):
    assert search(tmp_path, "stage.lrr=interval(0.1,1.0)") == 2
    assert len(find_runs([tmp_path])) == 1
    assert "did you mean lr?" in (tmp_path / "0_toy_seed1" / "result.json").read_text()
    assert search(tmp_path, "seed=3") == 2
    assert "Nothing is searched." in capsys.readouterr().err
    assert search(tmp_path, RATE, "hydra.sweeper.n_jobs=0", "hydra.sweeper.direction=up") == 2
    told = capsys.readouterr().err
    assert "hydra.sweeper.n_jobs=0: I need a whole number of at least 1" in told
    assert "hydra.sweeper.direction='up': needed: maximize | minimize" in told
    assert search(tmp_path, RATE, "optimized_metric=val/loss", trials=1) == 2
    assert (
        "optimized_metric=val/loss: nothing of that name is measured; there are: val/ndcg@10"
        in (tmp_path / "0_toy_seed1" / "run.log").read_text()
    )


@pytest.mark.parametrize(
    ("typed", "distribution"),
    [("interval(0.1,1)", optuna.distributions.FloatDistribution(0.1, 1)),
     ("tag(log,interval(0.1,1))", optuna.distributions.FloatDistribution(0.1, 1, log=True)),
     ("int(interval(1,8))", optuna.distributions.IntDistribution(1, 8)),
     ("range(0,10,5)", optuna.distributions.IntDistribution(0, 10, step=5)),
     ("4,8", optuna.distributions.CategoricalDistribution([4, 8])),
     ("a,null,{b:1}", optuna.distributions.CategoricalDistribution(["a", None, "{b:1}"]))],
)  # fmt: skip
def test_hydras_words_for_what_is_swept_are_those_for_what_is_searched(typed, distribution):
    assert _distribution(OverridesParser.create().parse_override(f"key={typed}")) == distribution


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("hydra.sweeper.storage=study.db", "hydra.sweeper.storage: Could not parse SQLAlchemy URL"),
        ("hydra.sweeper.storage=sqlite:////dev/null/x", "hydra.sweeper.storage: (sqlite3.OperationalError) unable to"),
        ("hydra.sweeper.pruner.n_warmup_steps=-1", "hydra.sweeper.pruner: Number of warmup steps cannot be negative"),
        ("hydra.sweeper.sampler.n_startup_trials=x", "hydra.sweeper.sampler"),  # by Optuna, or by us where it has hints
    ],
)
def test_settings_that_optuna_refuses_are_told(search, tmp_path, capsys, typed, message):
    assert search(tmp_path / "search", RATE, typed) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("typed", ["interval(2,1)", "tag(log,interval(0,1))"])
def test_bounds_that_hold_nothing_are_refused(typed):
    with pytest.raises(InputError, match="cannot be searched"):
        _distribution(OverridesParser.create().parse_override(f"key={typed}"))
