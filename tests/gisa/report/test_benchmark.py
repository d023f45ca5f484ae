import csv
import json
from pathlib import Path

import pytest
import yaml

from src.gisa.dataset.gisa import Gisa
from src.gisa.evaluator.answers import AnswerEvaluator, order_of_part, read_predictions
from src.gisa.report.answered import AnsweredCell, estimate, pages_binned, read_questions
from src.gisa.report.attempts import Point, attempts_figure
from src.gisa.report.benchmark import PUBLISHED_QUESTIONS, exact_by_kind, kinds_figure, published
from src.gisa.report.wing import WING
from src.gisa.task.score import write_scores
from src.launch.errors import InputError
from src.launch.storage import write_atomic
from src.metrics.stats import bootstrap_interval
from src.report.__main__ import main
from src.report.comparison import build_report
from src.report.plots import curves
from src.report.tables import Estimate, as_csv, markdown
from tests.gisa.gisa_files import question, write_csv
from tests.gisa.report.answered_runs import EPISODES, QUESTIONS, episode, write_answered_run, write_result


def report(folder, **options):
    """Write the tables below the folder, without the plots, and return the text."""
    made = build_report([folder], **options)
    findings = [section.wing.findings(section) for section in made.sections]
    for table in (table for of_section in findings for table in of_section.tables):
        write_atomic(folder / f"out/{table.stem}.csv", as_csv(table.as_rows()))
    return markdown(made, findings, "Title")


def rows(path):
    with path.open(newline="") as stream:
        return {row["row" if "row" in row else "cell"]: row for row in csv.DictReader(stream)}


def figures(row, *keys):
    return [round(float(row[key]), 2) if row[key] else None for key in keys]


@pytest.fixture
def one(tmp_path):
    """A run of four questions whose every figure is worked out in the tests below."""
    prices = {"date": "2026-01-31", "models": {"m": {"prompt": 3.0, "completion": 15.0}}}
    write_answered_run(tmp_path / "run", agent={"policy": {"model": "m"}, "prices": prices})
    return tmp_path


def test_table_3_by_hand_with_the_published_rows(one):
    text = report(one)
    table = rows(one / "out/table_3.csv")
    ours = table.pop("gisa_rollout")
    # Item right. Set: {a} of {a, b}, F1 2 * 1 * 0.5 / 1.5. List: x, z, y for x, y, z, so all there, and x and one of
    # the others in order: 2 * 2 / 6. Table: nothing.
    scores = ("overall", "item_em", "set_em", "set_f1", "list_em", "list_f1", "list_order", "table_em", "table_row_f1")
    assert figures(ours, *scores) == [25, 100, 0, 66.67, 0, 100, 66.67, 0, 0]
    assert figures(ours, "search_calls", "browse_calls") == [(2 + 1 + 0 + 3) / 4, (1 + 2 + 0 + 1) / 4]
    assert (ours["questions"], ours["errors"]) == ("4", "0")
    assert float(ours["overall low"]) <= 25 <= float(ours["overall high"])
    assert len(table) == 16
    assert table["published: Claude 4.5 Sonnet (thinking)"]["overall"] == "19.3"
    assert table["published: GPT-4o Search Preview"]["search_calls"] == "1.0"
    assert table["published: OpenAI o4 Mini Deep Research"]["search_calls"] == "69.88"
    assert "gives 18.23 for the best exact match, its Table 3 gives 19.30" in text


def test_parts_by_hand(one):
    report(one)
    parts = rows(one / "out/parts.csv")
    # Only question 1 is right: stable, about rivers.
    assert {part: figures(row, "official")[0] for part, row in parts.items()} == {
        "all": 25, "item": 100, "set": 0, "list": 0, "table": 0, "stable": 50, "live": 0,
        "topic: comets": 0, "topic: rivers": 50,
    }  # fmt: skip
    assert parts["live"]["questions"] == "2"


def test_questions_of_an_embedded_suite_are_told_apart_by_the_pages_they_need(tmp_path):
    """Before: 1 of 4 right, and that needs one page. After: questions 1 and 2, of which 2 needs two pages."""
    write_answered_run(tmp_path / "before")
    notes = {"1": {"hops": 1}, "2": {"hops": 2}, "3": {"hops": 2}}
    (tmp_path / "suite" / "suite.json").write_text(json.dumps(notes))
    better = [EPISODES[0], episode(2, "```tsv\nx\na\nb\n```"), *EPISODES[2:]]
    write_answered_run(tmp_path / "trained", better)
    result = json.loads((tmp_path / "trained/result.json").read_text())
    (tmp_path / "trained/result.json").write_text(json.dumps(result | {"overrides": ["agent/policy=imitation"]}))
    found = build_report([tmp_path])
    cells = [AnsweredCell(summary) for summary in found.sections[0].summaries]
    kinds = [{kind: (one.mean, one.questions) for kind, one in exact_by_kind(cell).items()} for cell in cells]
    same = {"all": (25, 4), "item": (100, 1), "set": (0, 1), "list": (0, 1), "table": (0, 1), "1 page": (100, 1)}
    assert kinds == [
        same | {"2 pages": (0, 2)},
        same | {"all": (50, 4), "set": (100, 1), "2 pages": (50, 2)},
    ]
    report(tmp_path)
    parts = rows(tmp_path / "out/parts.csv")
    assert {part.partition(",")[0] for part in parts} >= {"1 page", "2 pages", "set", "live"}
    (axes,) = kinds_figure(cells).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == list(kinds[0])


def test_a_training_beside_its_tests_is_drawn_and_not_compared(tmp_path):
    write_answered_run(tmp_path / "test")
    train = tmp_path / "train"
    train.mkdir()
    result = json.loads((tmp_path / "test/result.json").read_text())
    told = {"name": "gisa_grpo", "metrics": {"val/em": 0.5}, "overrides": ["+experiment=gisa_grpo"], "protocol": {}}
    (train / "result.json").write_text(json.dumps(result | told))
    logged = "".join(f"{step},0,train/reward,{step / 10}\n{step},0,train/em,0.{step}\n" for step in range(4))
    (train / "metrics.csv").write_text(f"step,epoch,metric,value\n{logged}")
    found = build_report([tmp_path])
    assert [cell.name for cell in found.untested] == ["gisa_grpo"]
    assert [summary.cell.name for summary in found.sections[0].summaries] == ["gisa_rollout"]
    drawn = curves(found.untested, WING.learning)
    assert [axes.get_ylabel() for axes in drawn.axes] == ["reward of an episode", "exact match in training"]
    assert main([str(train), "--out", str(tmp_path / "report")]) == 0
    assert "![learning](learning.png)" in (tmp_path / "report/report.md").read_text()
    assert (tmp_path / "report/learning.png").is_file()


def test_outcomes_and_the_score_without_contaminated_questions_by_hand(one):
    text = report(one)
    row = rows(one / "out/outcomes.csv")["gisa_rollout"]
    assert (row["answered"], row["budget"], row["refused"]) == ("3 (75.0%)", "1 (25.0%)", "0 (0.0%)")
    assert row["flagged"] == "1"
    assert figures(row, "all", "clean") == [25, 33.33]  # without question 4, one of three
    assert "not recorded" not in text


def test_table_4_by_hand_with_the_published_rows(one):
    report(one)
    table = rows(one / "out/table_4.csv")
    ours = table.pop("gisa_rollout")
    assert figures(ours, "input_tokens", "output_tokens", "tool_input_tokens", "tool_output_tokens") == [
        *((1000 + 3000) / 4, (100 + 300) / 4, 500 / 4, 50 / 4)
    ]
    assert figures(ours, "input_price", "output_price") == [3, 15]
    # Each question was charged for its chain and for its extractor; the charge of question 4 is unknown.
    assert float(ours["cost_usd"]) == pytest.approx((2 * 0.01 + 2 * 0.02 + 0) / 3)
    assert ours["cost_usd n"] == "3"
    assert len(table) == 12
    assert table["published: Kimi K2.5 (thinking)"]["cost_usd"] == "0.42"


def test_table_5_by_hand_with_the_published_rows(one):
    text = report(one)
    table = rows(one / "out/table_5.csv")
    # Searches: 1 and 4 repeat the human's query, 2 shares no term, 3 makes none. Neighbours: {number, 1} and {amber,
    # number} share 1 of 3; {number, 4}, with population, and alone that: 2 of 3 and 1 of 3. Pages: 1 and 4 the same in
    # another writing, 2 one of two, 3 none.
    ours = table.pop("gisa_rollout")
    assert figures(ours, "search_similarity", "search_diversity", "browsing_similarity") == [50, 41.67, 62.5]
    assert ours["search_diversity n"] == "2"
    assert len(table) == 12
    assert table["published: Qwen3-Max (thinking)"]["search_similarity"] == "36.68"
    assert "search diversity (adjacent_query_jaccard; higher is less diverse)" in text
    # F1: 1, 2/3, 1, 0. By either similarity, 1 and 4 lie above the median, 2 and 3 not.
    groups = rows(one / "out/human_similarity.csv")
    for name in ("search", "browsing"):
        assert figures(groups[f"gisa_rollout, by {name} similarity"], "high", "low") == [50, 83.33]


def test_the_curve_of_attempts_by_hand(tmp_path):
    amber, birch = "```tsv\nx\namber\n```", "```tsv\nx\nbirch\n```"
    more = [episode(1, text, sample=at) for at, text in enumerate([birch, amber, "I don't know."], 1)]
    write_answered_run(tmp_path / "run", [*EPISODES, *more])
    report(tmp_path)
    curve = rows(tmp_path / "out/figure_5.csv")
    assert list(curve) == ["gisa_rollout, k=1", "gisa_rollout, k=2", "gisa_rollout, k=4"]
    # Question 1: right, wrong, right, unreadable. Of the six pairs five hold a right one. Votes of pairs: twice a tie
    # (1/2), once both right, twice right beside unreadable, once wrong beside unreadable: (1/2 + 1/2 + 1 + 1 + 1) / 6.
    # Of four, amber has two. The other questions lack three attempts, and have no right one: a quarter of it in all.
    assert [figures(row, "best", "vote") for row in curve.values()] == [
        [100 / 2 / 4, 100 / 2 / 4],
        [round(100 * 5 / 6 / 4, 2), round(100 * 4 / 6 / 4, 2)],
        [25, 25],
    ]
    # Of four attempts: two for amber, one for the set, one for the list, none for the table.
    assert figures(curve["gisa_rollout, k=4"], "confidence") == [100 * (2 / 4 + 1 / 4 + 1 / 4 + 0) / 4]


def test_the_curve_is_drawn_where_there_is_one(tmp_path):
    write_answered_run(tmp_path / "run", [*EPISODES, episode(1, "", sample=1)])
    assert main([str(tmp_path)]) == 0
    assert "![figure 5](figure_5.png)" in (tmp_path / "report/report.md").read_text()
    assert (tmp_path / "report/figure_5.svg").is_file()


def test_a_table_none_has_right_is_right_cell_by_cell(tmp_path):
    asked = [question(4, "table", answer=[["A", "B"], ["1", "2"], ["3", "4"]])]
    texts = ["A\tB\n1\t9\n3\t4", "A\tB\n1\t2\n3\t4\n5\t6", "A\tB\n1\t2", "A\tB\n1\t2\n3\t4\n5\t6"]
    write_answered_run(tmp_path / "run", [episode(4, text, sample=at) for at, text in enumerate(texts)], asked)
    report(tmp_path)
    # Of the four, 3 and 5 are the first cells of three and two rows: only the former are more than half.
    row = rows(tmp_path / "out/figure_5.csv")["gisa_rollout, k=4"]
    assert figures(row, "best", "table_vote", "cell_vote") == [0, 0, 100]


def test_runs_of_other_seeds_are_further_attempts_and_their_scores_are_averaged(tmp_path):
    write_answered_run(tmp_path / "a", seed=1)
    write_answered_run(tmp_path / "b", [episode(1, "x\nbirch"), *EPISODES[1:]], seed=2)
    report(tmp_path)
    assert figures(rows(tmp_path / "out/table_3.csv")["gisa_rollout"], "overall") == [12.5]
    curve = rows(tmp_path / "out/figure_5.csv")
    assert [figures(row, "best")[0] for row in curve.values()] == [12.5, 25]


def test_a_figure_whose_interval_is_beside_its_mean_is_drawn():
    # As rounding makes of equal scores; Matplotlib refuses whiskers of negative length.
    beside = Estimate(50.0, 50.000001, 50.000002, 3)
    figure = attempts_figure([("x", [Point(1, beside, beside, None, None, None)])])
    assert 50 in figure.axes[0].containers[0].lines[0].get_ydata()


def test_one_attempt_makes_no_curve(one):
    assert "Majority@k" not in report(one)


def test_two_runs_are_compared_question_by_question(tmp_path):
    write_answered_run(tmp_path / "a")
    write_answered_run(tmp_path / "b", [*EPISODES[:1], episode(2, "x\nb\na"), *EPISODES[2:]], name="other")
    text = report(tmp_path)
    assert "## Paired differences in test/global_em\n\nSame questions, same seeds;" in text
    # One of four questions gains 1; it is drawn 0 times in 31.6% of the resamples, at most 2 times in 94.9%.
    line = next(line for line in text.splitlines() if "+0.2500 |" in line)
    assert "| +0.0000 to +0.7500 |" in line
    assert "| other |" in line
    assert "+0.3333" in report(tmp_path, metric="test/set_f1")  # F1 of the set, from 2/3 to 1


def test_a_missing_answer_is_an_error_beside_every_mean(tmp_path):
    write_answered_run(tmp_path / "run", EPISODES[1:])
    report(tmp_path)
    for stem in ("table_3", "table_4", "table_5", "outcomes"):
        assert rows(tmp_path / f"out/{stem}.csv")["gisa_rollout"]["errors"] == "1"
    assert rows(tmp_path / "out/table_4.csv")["gisa_rollout"]["input_tokens n"] == "3"
    assert rows(tmp_path / "out/parts.csv")["topic: rivers"]["errors"] == "1"


def test_without_the_suite_there_are_scores_and_costs_and_a_reason(one):
    write_csv(one / "suite/answer/1.csv", [["changed"]])
    text = report(one)
    assert f"gisa_rollout: nothing beside humans, and no votes: the answers below {one / 'suite'} are not those" in text
    assert figures(rows(one / "out/table_3.csv")["gisa_rollout"], "overall") == [25]
    assert figures(rows(one / "out/table_5.csv")["gisa_rollout"], "search_diversity") == [41.67]
    assert rows(one / "out/table_5.csv")["gisa_rollout"]["search_similarity"] == ""


def test_without_a_trace_a_question_is_left_out(one):
    (one / "suite/trace/3.json").unlink()
    report(one)
    row = rows(one / "out/table_5.csv")["gisa_rollout"]
    assert figures(row, "search_similarity") == [66.67]
    assert row["search_similarity n"] == "3"


def test_an_old_run_scored_again_keeps_its_behaviour(one):
    suite, predictions = Gisa(str(one / "suite")), read_predictions(one / "run")
    scores = AnswerEvaluator(resamples=50, seed=1).score(suite, predictions)
    write_result(one / "again", suite, scores, name="gisa_score", predictions=str(one / "run"))
    write_scores(scores, suite, predictions, [], one / "again")
    report(one)
    assert figures(rows(one / "out/table_5.csv")["gisa_score"], "search_similarity") == [50]


def test_answers_of_another_harness_have_scores_only(one):
    answers = one / "answers.jsonl"
    answers.write_text('{"id": 1, "prediction": "x\\namber"}\n')
    suite, predictions = Gisa(str(one / "suite")), read_predictions(answers)
    scores = AnswerEvaluator(resamples=50, seed=1).score(suite, predictions)
    write_result(one / "theirs", suite, scores, name="gisa_score", predictions=str(answers))
    write_scores(scores, suite, predictions, [], one / "theirs")
    text = report(one / "theirs")
    assert "gisa_score: no records of episodes in" in text
    assert figures(rows(one / "theirs/out/table_3.csv")["gisa_score"], "overall", "search_calls") == [25, None]
    assert rows(one / "theirs/out/outcomes.csv")["gisa_score"]["not recorded"] == "4 (100.0%)"


@pytest.mark.parametrize("content", ["{", "[]", '{"question_id": "1"}'])
def test_a_damaged_record_is_named_with_what_to_type(one, content):
    (one / "run/episodes/1.0.json").write_text(content)
    with pytest.raises(
        InputError, match=r"episodes/1\.0\.json is not the record of an episode: .*\n.*without this episode:  rm"
    ):
        report(one)


def test_scores_that_cannot_be_read_leave_a_warning(one):
    (one / "run/questions.jsonl").write_text('{"id": 1}\n')
    text = report(one)
    assert "gisa_rollout: no interval over questions: " in text
    assert "questions.jsonl cannot be read as the scores of questions" in text


def test_runs_on_other_questions_are_not_compared(tmp_path):
    write_answered_run(tmp_path / "a")
    write_answered_run(tmp_path / "b", name="other")
    path = tmp_path / "b/questions.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    assert "cannot be joined by question: 3 and 4 questions, 3 of them the same" in report(tmp_path)


def test_the_leaderboards_files_hold_every_question_as_text_and_can_be_scored(tmp_path):
    write_answered_run(tmp_path / "run", [EPISODES[0], episode(2, None), EPISODES[2]])
    assert main([str(tmp_path), "--leaderboard"]) == 0
    folder = tmp_path / "report/leaderboard" / tmp_path.name / "run"
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [set(line) for line in lines] == [{"id", "prediction"}] * 4
    assert all(isinstance(value, str) for line in lines for value in line.values())
    assert {line["id"]: line["prediction"] for line in lines} == {
        **{"1": EPISODES[0]["prediction"], "2": "", "3": EPISODES[2]["prediction"], "4": ""}
    }
    assert read_predictions(folder).values == read_predictions(folder / "predictions.jsonl").values
    assert {path.name for path in folder.iterdir()} == {
        "predictions.jsonl",
        *(f"{one['id']}.json" for one in QUESTIONS),
    }


def test_without_being_asked_for_no_answers_are_exported(one):
    report(one)
    assert not (one / "out/leaderboard").exists()


def test_the_published_rows_agree_with_themselves():
    counts = {"item": 22, "set": 50, "list": 48, "table": 253}
    assert sum(counts.values()) == PUBLISHED_QUESTIONS
    for row in published():
        # The exact match of all is that of the types, by their size.
        whole = sum(count * row[f"{name}_em"] for name, count in counts.items()) / PUBLISHED_QUESTIONS
        assert whole == pytest.approx(row["overall"], abs=0.01)
        if row["cost_usd"] is not None:
            read, written = (row[f"{kind}_tokens"] + row[f"tool_{kind}_tokens"] for kind in ("input", "output"))
            usd = (row["input_price"] * read + row["output_price"] * written) / 1e6
            assert usd == pytest.approx(row["cost_usd"], abs=0.011)
    assert max(row["overall"] for row in published()) == 19.30


def test_numbers_of_pages_are_binned_and_stand_in_their_order():
    counts = (1, 2, 3, 5, 6, 10, 11, 20, 21, 80)
    bins = ["1 page", "2 pages", "3-5 pages", "6-10 pages", "11-20 pages", "21+ pages"]
    assert list(dict.fromkeys(map(pages_binned, counts))) == bins
    assert [pages_binned(count) for count in (3, 5, 21)] == ["3-5 pages", "3-5 pages", "21+ pages"]
    parts = ["topic: trade", *reversed(bins), "live", "item", "all"]
    assert sorted(parts, key=order_of_part) == ["all", "item", "live", *bins, "topic: trade"]


def test_table_plot_and_page_of_a_run_show_one_interval(tmp_path):
    write_answered_run(tmp_path / "run")
    (summary,) = build_report([tmp_path]).sections[0].summaries
    cell = AnsweredCell(summary)
    table = summary.over_units["test/global_em"]
    plot = exact_by_kind(cell)["all"]
    assert (plot.low, plot.high) == pytest.approx((100 * table.low, 100 * table.high))
    node = yaml.safe_load((Path(__file__).parents[3] / "conf/evaluator/answers.yaml").read_text())
    del node["_target_"]
    page = bootstrap_interval(
        [question.official["global_em"] for question in read_questions(tmp_path / "run")],
        seed=node["seed"], samples=node["resamples"],
    )  # fmt: skip
    assert (page.low, page.high) == (table.low, table.high)


def test_the_interval_over_several_runs_is_over_runs_too():
    # Two runs that differ wholly: over questions alone there would be no spread, as each has 1/2 in the mean.
    found = estimate({"a": [0.0, 1.0], "b": [0.0, 1.0]})
    assert (found.mean, found.low, found.high, found.questions) == (50, 0, 100, 2)
    assert estimate({"a": [0.0, 1.0], "b": [1.0]}).mean == 75
    assert estimate({}) is None
