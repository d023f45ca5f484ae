import csv
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from src.launch.errors import InputError
from src.report.__main__ import main
from src.report.comparison import build_report, wings
from src.report.plots import MOST_POINTS, curves, metric_intervals
from src.report.publish import SweepSummary
from src.report.runs import find_runs
from src.report.tables import joint_table, markdown_table, write_report
from tests.gisa.report.answered_runs import write_answered_run


def report(folder):
    return write_report(build_report([folder]), folder / "out", "Title")


def rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


# Mean over the seeds of sft: Hit@10 (3/4 + 2/4) / 2 = 0.625, NDCG@10 (11/24 + 9/24) / 2 = 5/12. Two seeds: half width
# t(0.975, 1) * half their distance = 12.7062 * 0.125 = 1.5883 and 12.7062 / 24 = 0.5294.
# Of one seed, three of four users are hit; of four that are drawn none in 0.4%, at most one in 5.1%, so that the middle
# 95% goes from 1/4 to 1, half of which is 0.375.
# Paired, in seed 1 alone: one of four users gains 1 - 1/log2(4) = 0.5, so the mean gains 0.125, of 11/24 that is 27.3%.
# The number of times that this user is drawn is binomial(4, 1/4): 0 in 31.6%, at most 2 in 94.9%, at most 3 in 99.6% of
# the resamples; so the ends are 0 and 3 * 0.5 / 4 = 0.375, and about 68.4% lie above 0.
SWEEP_REPORT = """\
# Sweep of May

Runs: 3 finished, 1 failed, 1 unfinished, 1 missing.

- failed: ilrec_stage1 seed=2 (sweep/3): ValueError: loss is NaN
- unfinished: ilrec_stage1 stage.strength=0.5 seed=1 (sweep/4)
- missing: ilrec_stage1 stage.strength=0.5 seed=2

## Test metrics

Mean over the seeds ± half the width of Student's 95% interval over the seeds, of one seed a 95% bootstrap over users.

Protocol: exclude_history=false, num_beams=20

| cell         | seeds |          hit@10 |         ndcg@10 | val/ndcg@10 | fit (s) | total (s) | memory (MiB) | users |
| ------------ | ----: | --------------: | --------------: | ----------: | ------: | --------: | -----------: | ----: |
| sft          |     2 | 0.6250 ± 1.5883 | 0.4167 ± 0.5294 |      0.4000 |     100 |       106 |          900 |     4 |
| ilrec_stage1 |     1 | 0.7500 ± 0.3750 | 0.5833 ± 0.4167 |      0.4000 |     100 |       106 |          900 |     4 |

## Paired differences in test/ndcg@10

Same users, same seeds; 95% interval by bootstrap over users and seeds (over users only for one seed).

| cell         | minus | seeds | difference |       95% interval | relative | resamples > 0 |
| ------------ | ----: | ----: | ---------: | -----------------: | -------: | ------------: |
| ilrec_stage1 |   sft |     1 |    +0.1250 | +0.0000 to +0.3750 |   +27.3% |         SHARE |

![metrics](metrics.png)

![training curves](training_curves.png)
"""


def test_report_of_a_sweep_with_a_failed_an_unfinished_and_a_missing_job(sweep, capsys):
    assert main([str(sweep), "--title", "Sweep of May"]) == 0
    text = (sweep / "report/report.md").read_text()
    share = text.rpartition("%")[0].rpartition(" ")[2]
    assert float(share) == pytest.approx(68.4, abs=1.5)
    assert text == SWEEP_REPORT.replace("SHARE", f"{share}%".rjust(5))
    assert capsys.readouterr().out == f"{text}\nWritten to sweep/report\n"
    assert sorted(path.name for path in (sweep / "report").iterdir()) == [
        *("metrics.png", "metrics.svg", "report.csv", "report.md", "runs.csv"),
        *("training_curves.png", "training_curves.svg"),
    ]


def log_layers(folder, steps=(9, 19)):
    """What two layers found at two steps: agreement .2 and .6, then .4 and .8; 30 negatives, then 50."""
    with (folder / "metrics.csv").open("a") as stream:
        for step, low, high, negatives in zip(steps, (0.2, 0.4), (0.6, 0.8), (30, 50), strict=True):
            stream.write(f"{step},0,train/layer_agreement_1,{low}\n{step},0,train/layer_agreement_2,{high}\n")
            stream.write(f"{step},0,train/negatives,{negatives}\n")


def test_negatives_a_second_are_the_mean_of_the_logged_steps_times_all_steps(tmp_path, write_run):
    # 40 negatives a step in 250 steps and 100 seconds of fitting: 100 a second.
    write_run(tmp_path / "0", "dpo", steps=250)
    log_layers(tmp_path / "0")
    write_run(tmp_path / "1", "sft", steps=250)
    report(tmp_path)
    cells = {row["cell"]: row for row in rows(tmp_path / "out/report.csv")}
    assert (float(cells["dpo"]["negatives/s"]), float(cells["dpo"]["s/step"])) == (100, 0.4)
    assert cells["sft"]["negatives/s"] == ""


def test_what_the_layers_found_is_averaged_over_the_layers_and_drawn_where_it_was_logged(tmp_path, write_run):
    write_run(tmp_path / "0")
    assert "layers" not in report(tmp_path)
    write_run(tmp_path / "1", "ilrec")
    log_layers(tmp_path / "1")
    assert "![layers](layers.png)" in report(tmp_path)
    (run,) = find_runs([tmp_path / "1"])
    assert run.curves()["train/layer_agreement"] == pytest.approx({9: 0.4, 19: 0.6})
    assert b"share of positions" in (tmp_path / "out/layers.svg").read_bytes()


def test_curves_are_averaged_over_the_seeds_where_all_have_a_value(tmp_path, write_run):
    for seed, losses in ((1, "10,0,a,1\n20,0,a,3\n30,0,a,9\n"), (2, "10,0,a,2\n20,0,a,5\n")):
        write_run(tmp_path / str(seed), seed=seed)
        (tmp_path / str(seed) / "metrics.csv").write_text("step,epoch,metric,value\n" + losses)
    figure = curves(build_report([tmp_path]).collection.cells, {"a": "something"})
    (axes,) = figure.axes
    (line,), (band,) = axes.lines, axes.collections
    assert line.get_xydata().tolist() == [[10, 1.5], [20, 4]]
    assert {tuple(point) for point in band.get_paths()[0].vertices} == {(10, 1), (10, 2), (20, 3), (20, 5)}


def test_long_curves_are_averaged_in_few_points(tmp_path, write_run):
    write_run(tmp_path / "0")
    values = "".join(f"{step},0,a,{step % 2}\n" for step in range(2 * MOST_POINTS))
    (tmp_path / "0/metrics.csv").write_text("step,epoch,metric,value\n" + values)
    (line,) = curves(build_report([tmp_path]).collection.cells, {"a": "something"}).axes[0].lines
    assert line.get_ydata().tolist() == [0.5] * MOST_POINTS


def test_csv_files_hold_one_row_a_cell_and_one_row_a_run(sweep):
    report(sweep)
    cells, runs = rows(sweep / "out/report.csv"), rows(sweep / "out/runs.csv")
    assert [row["cell"] for row in cells] == ["sft", "ilrec_stage1"]
    assert float(cells[1]["difference"]) == pytest.approx(0.125)
    assert float(cells[0]["test/hit@10 seed half width"]) == pytest.approx(1.5883, abs=1e-4)
    assert float(cells[0]["test/hit@10 user low"]) <= 0.625 <= float(cells[0]["test/hit@10 user high"])
    assert [row["status"] for row in runs] == ["finished", "finished", "finished", "failed", "running"]
    assert runs[3]["error"] == "ValueError: loss is NaN\nsecond line"


def test_the_same_runs_give_the_same_bytes(sweep):
    report(sweep)
    first = {path.name: path.read_bytes() for path in (sweep / "out").iterdir()}
    report(sweep)
    assert {path.name: path.read_bytes() for path in (sweep / "out").iterdir()} == first


def test_help_does_not_import_matplotlib_pandas_or_torch():
    code = (
        "import sys; from src.report.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted({'matplotlib', 'pandas', 'torch'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("[]\n")


def test_a_folder_with_failed_jobs_only_is_reported_without_tables(tmp_path, write_run):
    write_run(tmp_path / "0", status="failed", metrics={}, error={"type": "OSError", "message": "disk full"})
    text = report(tmp_path)
    assert "0 finished, 1 failed" in text
    assert "OSError: disk full" in text
    assert "Test metrics" not in text


def test_no_result_below_the_folders_is_told_with_what_to_type(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert f"no result.json below {tmp_path}" in error
    assert "python -m src.run +experiment=ilrec_stage1" in error


def test_runs_without_training_curves_get_no_such_plot(tmp_path, write_run):
    write_run(tmp_path / "0")
    (tmp_path / "0/metrics.csv").unlink()
    assert "training_curves" not in report(tmp_path)
    assert not (tmp_path / "out/training_curves.png").exists()


def test_a_torn_metrics_file_is_named_with_its_line(tmp_path, write_run):
    write_run(tmp_path / "0")
    with (tmp_path / "0/metrics.csv").open("a") as stream:
        stream.write("30,1,train/loss")
    with pytest.raises(InputError, match=r"metrics\.csv, line 5: needed are the columns step, epoch, metric and value"):
        report(tmp_path)


@pytest.mark.parametrize("made", ["a folder", "a cell too long"])
def test_a_metrics_file_that_is_none_is_named(tmp_path, write_run, made):
    write_run(tmp_path / "0")
    path = tmp_path / "0/metrics.csv"
    if made == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_text(f"step,epoch,metric,value\n1,0,{'x' * 200_000},1\n")
        csv.field_size_limit(131_072)  # as at the start of a process; what reads answers lifts it
    with pytest.raises(InputError, match=r"metrics\.csv, line 0: needed are the columns"):
        report(tmp_path)


def test_a_file_in_the_place_of_the_report_is_told(sweep, capsys):
    (sweep / "report").write_text("mine")
    assert main([str(sweep)]) == 1
    assert capsys.readouterr().err.endswith("Mend that, or type  --out=<another>\n")
    assert (sweep / "report").read_text() == "mine"


@given(st.lists(st.tuples(st.text("ab|\n", max_size=5), st.text("ab|\n", max_size=5)), max_size=4))
def test_every_line_of_a_markdown_table_has_its_columns_and_one_length(body):
    lines = markdown_table(("cell", "value"), body).split("\n")
    assert len(lines) == len(body) + 2
    assert len({len(line) for line in lines}) == 1
    assert {line.replace("\\|", "").count("|") for line in lines} == {3}


def test_each_wing_is_found_and_its_flags_are_in_the_help(capsys):
    assert [wing.unit for wing in wings()] == ["questions", "users"]
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for flag in ("--out", "--metric", "--baseline", "--leaderboard", "--show-questions", "--title"):
        assert f" {flag} " in said
    assert "test/global_em of questions or test/ndcg@10 of users" in said
    assert "gisa_rollout or sft, or else the first" in said


def test_recommendation_and_answers_are_reported_by_one_command(tmp_path, write_run, capsys):
    write_run(tmp_path / "sft")
    write_answered_run(tmp_path / "run")
    assert main([str(tmp_path), "--metric", "test/hit@10", "--leaderboard"]) == 0
    said = capsys.readouterr().out
    for heading in ("## Test metrics", "## Runs on a suite of questions", "## Scores (Table 3 of the paper)"):
        assert heading in said
    cells = {row["cell"]: row for row in rows(tmp_path / "report/report.csv")}
    assert cells["sft"]["users"] == "4"
    assert cells["gisa_rollout"]["questions"] == "4"
    assert float(cells["gisa_rollout"]["test/global_em question low"]) == 0
    for name in ("metrics", "exact_match", "training_curves"):
        assert (tmp_path / f"report/{name}.png").is_file()


def test_a_run_that_no_wing_scores_is_counted_and_not_compared(tmp_path, write_run):
    write_run(tmp_path / "sft")
    write_run(tmp_path / "traces", "gisa_traces", metrics={"demonstrations/questions": 4})
    report = build_report([tmp_path])
    assert [cell.name for cell in report.untested] == ["gisa_traces"]
    assert len(report.collection.having("finished")) == 2
    assert [summary.cell.name for section in report.sections for summary in section.summaries] == ["sft"]


@pytest.mark.parametrize("target", ["src.dataset.gisa.Gisa", "src.gisa.dataset.gone.Gisa", None, "os.system"])
def test_a_run_of_before_the_wings_keeps_its_scores_and_says_where_to_read_the_rest(tmp_path, capsys, target):
    write_answered_run(tmp_path / "run")
    path = tmp_path / "run/result.json"
    result = json.loads(path.read_text())
    result["config"]["dataset"]["_target_"] = target
    result["config"]["task"]["_target_"] = "src.task.gisa_rollout.GisaRollout"
    path.write_text(json.dumps(result))
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    reason = f"{path} names no data set that this code has (dataset._target_={target}). A run of commit 5a71412 or "
    reason += "before is reported on at its own commit, or is to be run again."
    assert f"- gisa_rollout: nothing beside humans, and no votes: {reason}" in said
    assert f"No page of gisa_rollout: {reason}" in said
    assert [float(row["test/global_em"]) for row in rows(tmp_path / "report/report.csv")] == [0.25]


@pytest.mark.parametrize(
    ("dataset", "told"),
    [({"_target_": "src.gisa.dataset.gisa.write_atomic", "path": "made", "write": "x"},
      "dataset._target_=src.gisa.dataset.gisa.write_atomic"),
     ({"_target_": "src.gisa.dataset.gisa.Gisa", "root": {"_target_": "os.mkdir", "path": "made"}},
      "dataset.root._target_=os.mkdir"),
     ({"_target_": "src.gisa.dataset.factbook.suite.factbook_set", "split": "train", "per_type": 1,
       "max_pages": "1/../../../../kept"}, "dataset.max_pages='1/../../../../kept': needed: whole number"),
     ({"_target_": "src.gisa.dataset.gisa.Gisa", "root": "${oc.env:HOME}"}, "dataset.root='${oc.env:HOME}'")],
    ids=["another room's function", "inside", "a path where a number is needed", "interpolation"],
)  # fmt: skip
def test_a_config_in_somebody_elses_folder_builds_nothing_else_than_data_sets(
    tmp_path, capsys, monkeypatch, dataset, told
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ILREC_GISA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "kept").mkdir()
    write_answered_run(tmp_path / "run")
    path = tmp_path / "run/result.json"
    result = json.loads(path.read_text())
    result["config"]["dataset"] = dataset
    path.write_text(json.dumps(result))
    assert main([str(tmp_path / "run")]) == 0
    assert f"names no data set that this code has ({told}" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "run", "suite"}


@pytest.mark.parametrize("name", ["../../planted", "/tmp/planted", "a/b", "..", "", 3])
def test_an_id_of_a_question_that_leads_out_of_the_folder_is_refused(tmp_path, capsys, name):
    write_answered_run(tmp_path / "run")
    path = tmp_path / "run/questions.jsonl"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), "id": name}), *others]) + "\n")
    status = main([str(tmp_path / "run"), "--leaderboard"])
    told = "".join(capsys.readouterr())
    assert status == 1
    assert f"id={name!r} must be text of letters, digits, - and _" in told
    assert {path.name for path in tmp_path.iterdir()} == {"run", "suite"}


def test_a_sweep_ends_with_its_joint_table_in_80_columns_and_the_next_command(sweep, capsys):
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(sweep)}}, "logger": None})
    SweepSummary().on_multirun_end(config)
    printed = capsys.readouterr().out
    assert "Runs: 3 finished, 1 failed, 1 unfinished, 1 missing." in printed
    assert "| sft          |     2 | 0.4167 ± 0.5294 |           |" in printed
    assert "| ilrec_stage1 |     1 | 0.5833 ± 0.4167 |   +0.1250 |" in printed
    assert printed.endswith(f"Tables, plots, intervals:  python -m src.report {sweep}\n")
    assert max(map(len, printed.splitlines()[:-3])) < 80


def test_the_joint_table_of_a_search_tells_its_trials_apart(tmp_path, write_run):
    for trial, rate in enumerate(("0.002771", "0.0006034")):
        write_run(tmp_path / str(trial), overrides=[f"stage.learning_rate={rate}", "+trainer.max_epochs=2"])
    printed = joint_table(build_report([tmp_path]))
    assert "| sft learning_rate=0.002771  |     1 |" in printed
    assert "| sft learning_rate=0.0006034 |     1 |" in printed
    assert max(map(len, printed.splitlines())) < 80


def test_the_joint_table_of_a_search_over_two_settings_tells_its_trials_apart(tmp_path, write_run):
    for trial, (rate, strength) in enumerate([("0.006055", "0.3224"), ("0.0001", "0.01")]):
        settings = [f"stage.learning_rate={rate}", f"stage.strength={strength}"]
        write_run(tmp_path / str(trial), "ilrec_stage1", overrides=settings)
    printed = joint_table(build_report([tmp_path]))
    assert "| lear…=0.006055 stre…=0.3224 |     1 |" in printed
    assert "| lear…=0.0001 stre…=0.01     |     1 |" in printed
    assert max(map(len, printed.splitlines())) < 80


def test_the_joint_table_says_briefly_whether_the_history_is_kept(tmp_path, write_run):
    write_run(tmp_path / "0", "ilrec_stage1", excluded=(1, 1, 7, None))
    printed = joint_table(build_report([tmp_path]))
    assert "| ilrec_stage1 (kept)     |" in printed
    assert "| ilrec_stage1 (excluded) |" in printed


def test_a_sweep_without_a_run_fails_for_no_lack_of_a_table(tmp_path, caplog):
    SweepSummary().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert "No table of the sweep: " in caplog.text


def test_the_plot_shows_the_intervals_of_the_table_and_says_of_which_kind_they_are(sweep):
    (section,) = build_report([sweep]).sections
    figure = metric_intervals(section)
    ends = [[point[0] for point in bar[0].get_segments()[0]] for bar in (c.lines[2] for c in figure.axes[0].containers)]
    # As in the table above: 5/12 ± 0.5294 over two seeds; of one seed the ends of a bootstrap over its users.
    assert ends[0] == pytest.approx([5 / 12 - 0.5294, 5 / 12 + 0.5294], abs=1e-4)
    assert (ends[1][1] - ends[1][0]) / 2 == pytest.approx(0.4167, abs=1e-4)
    assert (
        "bar: Student's 95% interval over the seeds, of one seed a 95% bootstrap over users"
        in figure._supxlabel.get_text()
    )


def test_a_band_is_explained_where_there_is_one(tmp_path, write_run):
    for seed in (1, 2):
        write_run(tmp_path / str(seed), seed=seed)
    cells = build_report([tmp_path]).collection.cells
    figure = curves(cells, {"train/loss": "loss"})
    assert figure.legends[0].get_title().get_text() == (
        "Line: mean over seeds. Band: from the lowest seed to the highest"
    )
