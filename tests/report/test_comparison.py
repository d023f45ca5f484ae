import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from src.launch.errors import InputError
from src.report.comparison import build_report
from src.report.plots import metric_intervals
from src.report.tables import markdown


def report(folder, **options):
    made = build_report([folder], **options)
    return markdown(made, [section.wing.findings(section) for section in made.sections], "Title")


def test_runs_of_two_protocols_get_a_table_and_a_baseline_each(tmp_path, write_run):
    excluded = {"exclude_history": True, "num_beams": 20}
    for index, name in enumerate(("sft", "ilrec_stage1")):
        write_run(tmp_path / f"kept{index}", name)
        write_run(tmp_path / f"excluded{index}", name, ranks=(1, 1, 1, None), protocol=excluded)
    text = report(tmp_path)
    assert "Protocol: exclude_history=true, num_beams=20\n" in text
    table = [line.split("|")[1:4] for line in text.splitlines() if "+0.0000" in line]
    assert [[entry.strip() for entry in line] for line in table] == [
        ["ilrec_stage1 (exclude_history=false)", "sft (exclude_history=false)", "1"],
        ["ilrec_stage1 (exclude_history=true)", "sft (exclude_history=true)", "1"],
    ]


def test_a_run_tested_with_and_without_the_history_counts_once_under_either_protocol(tmp_path, write_run):
    both = ["evaluator.exclude_history=both"]
    # Without the history, one of four users moves from rank 3 to 1 under sft, and all to 1 under the other.
    write_run(tmp_path / "0", "sft", ranks=(1, 3, 7, None), excluded=(1, 1, 7, None), overrides=both)
    write_run(tmp_path / "1", "sft", ranks=(1, 3, 7, None), excluded=(1, 1, 7, None), seed=2)
    write_run(tmp_path / "2", "ilrec", ranks=(1, 3, 7, None), excluded=(1, 1, 1, 1), overrides=["x=2"])
    write_run(tmp_path / "3", "ilrec", ranks=(1, 3, 7, None), excluded=(1, 1, 7, None), overrides=["x=1"])
    made = build_report([tmp_path], baseline="ilrec x=1")
    assert len(made.collection.runs) == 4
    kept, excluded = made.sections[0].groups
    assert [len(one.cell.runs) for one in kept] == [len(one.cell.runs) for one in excluded] == [2, 1, 1]
    assert [one.cell.protocol["exclude_history"] for one in (kept[0], excluded[0])] == [False, True]
    assert excluded[0].over_seeds["test/hit@10"].mean == 0.75
    assert [one.over_units["test/ndcg@10"].mean for one in excluded] == pytest.approx([7 / 12, 1, 7 / 12])
    assert {one.baseline.method for one in made.comparisons} == {"ilrec x=1"}
    differences = [one.result.difference.mean for one in made.comparisons]
    assert differences == pytest.approx([0, 0, 0, 5 / 12])
    assert not made.collection.warnings


def test_what_was_guided_is_a_row_of_its_own(tmp_path, write_run):
    write_run(tmp_path / "0", "sft", ranks=(1, 3, 7, None), excluded=(1, 1, 7, None))
    guided = {"guided": (1, 1, 7, None), "guided_excluded": (1, 1, 1, None)}
    write_run(tmp_path / "1", "ilrec", ranks=(1, 3, 7, None), excluded=(1, 1, 7, None), **guided)
    made = build_report([tmp_path])
    kept, excluded = made.sections[0].groups
    for group, hits in ((kept, [0.75, 0.75, 0.75]), (excluded, [0.75, 0.75, 0.75])):
        assert [one.cell.name for one in group] == ["sft", "ilrec", "ilrec_guided"]
        assert [one.over_seeds["test/hit@10"].mean for one in group] == hits
    differences = [one.result.difference.mean for one in made.comparisons]
    assert differences == pytest.approx([0, (1 - 0.5) / 4, 0, (1 - 1 / 3) / 4])  # minus sft, both times


def test_what_was_penalised_is_a_row_of_its_own_where_the_history_is_kept(tmp_path, write_run):
    for number, name in enumerate(("sft", "ilrec")):
        write_run(tmp_path / str(number), name, ranks=(1, 3, 7, None), penalised=(1, 1, 7, 9))
    made = build_report([tmp_path])
    (kept,) = made.sections[0].groups
    assert [one.cell.name for one in kept] == ["sft", "sft_penalised", "ilrec", "ilrec_penalised"]
    assert [one.over_seeds["test/hit@10"].mean for one in kept] == [0.75, 1, 0.75, 1]


def test_a_protocol_without_the_baseline_says_so(tmp_path, write_run):
    write_run(tmp_path / "0", "sft")
    write_run(tmp_path / "1", "ilrec_stage1", protocol={"num_beams": 50})
    assert "- ilrec_stage1, not compared: no sft under this protocol" in report(tmp_path)


def test_a_cell_tested_on_a_part_of_the_users_is_compared_on_these_alone(tmp_path, write_run):
    write_run(tmp_path / "0", "sft", ranks=(1, 3, 7, None), protocol={"max_users": None})
    write_run(tmp_path / "1", "lcrec_sft", ranks=(1, 3, None), targets="abc", protocol={"max_users": 3})
    (comparison,) = build_report([tmp_path], metric="test/hit@10").comparisons
    assert comparison.baseline.name == "sft"
    assert comparison.result.difference.mean == pytest.approx(-1 / 3)  # of the users a, b and c; 2/3 instead of 3/4
    (section,) = build_report([tmp_path], metric="test/hit@10").sections
    # The baseline's mean over all users is no line among the metrics of a part.
    whole, _, part, part_difference = metric_intervals(section).axes
    dashed = [sum(line.get_linestyle() == "--" for line in axes.lines) for axes in (whole, part, part_difference)]
    assert dashed == [0, 0, 1]
    write_run(tmp_path / "2", "sft", ranks=(1, None, None), targets="abc", protocol={"max_users": 3})
    (section,) = build_report([tmp_path], metric="test/hit@10").sections
    assert [line.get_linestyle() for line in metric_intervals(section).axes[2].lines].count("--") == 1
    of_its_own = build_report([tmp_path], metric="test/hit@10").comparisons[0]
    assert of_its_own.result.difference.mean == pytest.approx(1 / 3)


def test_the_first_cell_is_the_baseline_where_there_is_no_sft(tmp_path, write_run):
    write_run(tmp_path / "0", "first")
    write_run(tmp_path / "1", "second")
    assert "| second | first |" in report(tmp_path)


def test_a_cell_is_chosen_as_baseline_by_its_label(tmp_path, write_run):
    write_run(tmp_path / "0", "sft")
    write_run(tmp_path / "1", "sft", overrides=["stage.lr=0.1"])
    assert "| sft  | sft stage.lr=0.1 |" in report(tmp_path, baseline="sft stage.lr=0.1")


def test_cells_tested_on_different_users_are_not_compared(tmp_path, write_run):
    write_run(tmp_path / "0", "sft")
    write_run(tmp_path / "1", "ilrec_stage1", ranks=(1, 2, 3), targets="abc")
    (comparison,) = build_report([tmp_path]).comparisons
    assert comparison.result is None
    assert comparison.reason == (
        f"{tmp_path / '1'} and {tmp_path / '0'} cannot be joined by user: different users: 3 and 4, 3 of them the same"
    )


def test_cells_tested_on_different_targets_are_not_compared(tmp_path, write_run):
    write_run(tmp_path / "0", "sft")
    write_run(tmp_path / "1", "ilrec_stage1", targets="abcx")
    assert "ilrec_stage1, not compared: " in report(tmp_path)
    assert "1 of 4 users have different targets" in report(tmp_path)


def test_cells_without_a_common_seed_are_not_compared(tmp_path, write_run):
    write_run(tmp_path / "0", "sft", seed=1)
    write_run(tmp_path / "1", "ilrec_stage1", seed=2)
    assert "- ilrec_stage1, not compared: no seed in common." in report(tmp_path)


def test_missing_ranks_leave_the_means_and_warn(tmp_path, write_run):
    write_run(tmp_path / "0")
    (tmp_path / "0/ranks.parquet").unlink()
    text = report(tmp_path)
    assert "| sft  |     1 | 0.7500 |  0.4583 |" in text
    assert "no interval over users: " in text
    assert "ranks.parquet cannot be read as columns user, target and rank" in text


@pytest.mark.parametrize("content", [b"PAR1 torn", None])
def test_ranks_that_are_torn_or_lack_a_column_are_named(tmp_path, write_run, content):
    write_run(tmp_path / "0")
    if content:
        (tmp_path / "0/ranks.parquet").write_bytes(content)
    else:
        pq.write_table(pa.table({"user": ["u0"], "rank": [1.0]}), tmp_path / "0/ranks.parquet")
    assert f"{tmp_path / '0/ranks.parquet'} cannot be read as columns user, target and rank" in report(tmp_path)


@pytest.mark.parametrize(
    "columns", [{"user": [None], "target": ["a"], "rank": [1.0]}, {"user": ["u"], "target": ["a"], "rank": [0.0]}]
)
def test_ranks_of_nobody_or_below_1_are_named(tmp_path, write_run, columns):
    write_run(tmp_path / "0")
    pq.write_table(pa.table(columns), tmp_path / "0/ranks.parquet")
    assert f"{tmp_path / '0/ranks.parquet'} lacks a user or a target, or has a rank below 1" in report(tmp_path)


def test_a_user_ranked_twice_is_named(tmp_path, write_run):
    write_run(tmp_path / "0")
    table = pa.table({"user": ["u0", "u0"], "target": ["a", "b"], "rank": [1.0, 2.0]})
    pq.write_table(table, tmp_path / "0/ranks.parquet")
    assert "ranks 1 users more than once, such as 'u0'" in report(tmp_path)


def test_metrics_that_disagree_with_the_ranks_warn(tmp_path, write_run):
    write_run(tmp_path / "0", metrics={"test/hit@10": 0.9, "test/ndcg@10": 11 / 24})
    assert "- sft: result.json and ranks.parquet disagree on test/hit@10." in report(tmp_path)


def test_integer_user_ids_in_ranks_are_accepted(tmp_path, write_run):
    write_run(tmp_path / "0")
    table = pa.table({"user": [1, 2, 3, 4], "target": [1, 2, 3, 4], "rank": [1.0, 3.0, 7.0, None]})
    pq.write_table(table, tmp_path / "0/ranks.parquet")
    assert "Warnings" not in report(tmp_path)


def test_an_unknown_metric_lists_those_that_exist(sweep):
    with pytest.raises(
        InputError, match="--metric test/ndcg@7 is not in these runs; they have: test/hit@10, test/ndcg@10"
    ):
        report(sweep, metric="test/ndcg@7")


def test_an_unknown_baseline_lists_the_cells(sweep):
    with pytest.raises(InputError, match="--baseline 'dpo' is not among these cells: 'sft', 'ilrec_stage1'"):
        report(sweep, baseline="dpo")


def test_a_run_with_fewer_metrics_than_the_others_is_named(tmp_path, write_run):
    write_run(tmp_path / "0")
    write_run(tmp_path / "1", seed=2, metrics={"test/hit@10": 0.75})
    with pytest.raises(InputError, match=r"1/result\.json lacks test/ndcg@10, which other runs have"):
        report(tmp_path)


def test_a_baseline_by_name_is_the_cell_without_overrides_where_there_is_one(tmp_path, write_run):
    write_run(tmp_path / "0", "sft", overrides=["stage.lr=0.1"])
    write_run(tmp_path / "1", "sft")
    (comparison,) = build_report([tmp_path], baseline="sft").comparisons
    assert (comparison.cell.label, comparison.baseline.label) == ("sft stage.lr=0.1", "sft")


def test_only_the_seeds_that_both_cells_have_are_compared(tmp_path, write_run):
    # In seed 1 nothing differs; seed 2 of sft has no counterpart.
    write_run(tmp_path / "0", "sft", seed=1)
    write_run(tmp_path / "1", "sft", seed=2, ranks=(None,) * 4)
    write_run(tmp_path / "2", "ilrec_stage1", seed=1)
    (comparison,) = build_report([tmp_path]).comparisons
    assert comparison.seeds == [1]
    assert comparison.result.difference.mean == 0


def test_users_are_joined_by_id_whatever_their_order(tmp_path, write_run):
    write_run(tmp_path / "0", "sft")
    write_run(tmp_path / "1", "ilrec_stage1")
    path = tmp_path / "1/ranks.parquet"
    pq.write_table(pq.read_table(path).take([3, 1, 0, 2]), path)
    (comparison,) = build_report([tmp_path]).comparisons
    assert (comparison.result.difference.low, comparison.result.difference.high) == (0, 0)
