import csv
import json

import pytest

from src.report.__main__ import main
from src.report.comparison import build_report
from src.report.wings import wings
from tests.gisa.report.answered_runs import write_answered_run


def rows(path):
    with path.open(newline="") as stream:
        return {row["cell"]: row for row in csv.DictReader(stream)}


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
    cells = rows(tmp_path / "report/report.csv")
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


@pytest.mark.parametrize("target", ["src.dataset.gisa.Gisa", "src.gisa.dataset.gone.Gisa", None])
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
    assert float(rows(tmp_path / "report/report.csv")["gisa_rollout"]["test/global_em"]) == 0.25
