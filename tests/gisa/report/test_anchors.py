"""What the paper measures beside its tables, of the made-up run, by hand."""

import pytest

from src.gisa.report.anchors import PUBLISHED_PARTS, anchor_tables
from src.gisa.report.answered import AnsweredCell
from src.report.comparison import build_report
from src.report.tables import Estimate
from tests.gisa.report.answered_runs import write_answered_run


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_answered_run(folder / "run")
    cells = [AnsweredCell(summary) for summary in build_report([folder]).sections[0].summaries]
    return {table.stem: dict(table.rows) for table in anchor_tables(cells)}


def means(row, *keys):
    return [round(row[key].mean, 2) if isinstance(row[key], Estimate) else row[key] for key in keys]


def test_causes_beside_those_of_figure_6(tables):
    """Of four questions three are wrong: a half set after reading nothing, a list in another order, no answer."""
    ours = tables["figure_6"]["gisa_rollout"]
    assert (ours["questions"], ours["judged"]) == (3, 0)
    # The list has all entries in another order. The set's missing entry was on the human's page, opened and read as
    # empty. The table was not answered: its cells are on the human's page, likewise.
    assert means(ours, "instruction_following", "extraction", "link_use", "untold") == [66.67, 33.33, 0, 0]
    published = tables["figure_6"]["published: GISA, 63 errors"]
    assert (published["questions"], published["instruction_following"], published["misunderstanding"]) == (
        63,
        31.7,
        3.2,
    )


def test_evidence_beside_the_exact_match(tables):
    row = tables["evidence"]["gisa_rollout"]
    # Pages of the made-up run are empty; the human's was opened by 1, 2 and 4. Nothing is cited.
    assert means(row, "exact", "citations", "opened_cells", "opened_human", "cited_human") == [25, 0, 0, 75, 0]
    assert row["cited_cells"] is None


def test_agents_beside_humans(tables):
    ours, traces = (tables["humans"][name] for name in ("gisa_rollout", "traces of the suite"))
    assert means(ours, "queries", "pages", "adjacent") == [1.5, 1, 41.67]
    assert means(ours, "solved", "other") == [100, 50]  # the solved one: 1; the others: 1/2, 0 and 1
    assert means(traces, "queries", "pages") == [1, 1]
    assert tables["humans"]["published: humans"]["pages"] == 19.03


def test_parts_beside_table_2_and_figure_4(tables):
    table = tables["table_2"]
    assert [table["gisa_rollout"][kind] for kind in ("item", "set", "list", "table")] == ["1/0", "0/1", "1/0", "0/1"]
    assert means(table["gisa_rollout"], "stable", "live") == [50, 0]
    assert table["published: GISA"]["table"] == "148/105"
    assert [sum(counts) for counts in zip(*PUBLISHED_PARTS.values(), strict=True)] == [223, 150]
    assert table["published: Kimi K2.5 (thinking)"]["live"] == 11.33
