import csv
import io
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from src.gisa.metrics.answers import (
    METRICS,
    PARITY_FLAGS,
    Fault,
    official_score,
    official_summary,
    robust_score,
    score_answer,
)
from tests.gisa.metrics.pandas_answers import reference_score, reference_summary

KINDS = sorted(METRICS)


def fenced(*lines, tag="tsv"):
    return "\n".join([f"```{tag}", *lines, "```"])


def gold(*lines):
    return "\n".join(lines).encode()


def test_an_item_is_the_first_row_its_cells_joined():
    score = official_score(fenced("Answer", "New York"), gold("new york"), "item")
    assert score == {"item_em": 1, "global_em": 1, "question_type": "item"}
    # "ab" + "c" = "a" + "bc", but the cells differ; a second row does not count for the item either.
    assert official_score(fenced("x\ty", "ab\tc"), gold("a,bc"), "item") == {
        "item_em": 1, "global_em": 0, "question_type": "item",
    }  # fmt: skip
    assert official_score(fenced("x", "a", "b"), gold("a"), "item")["item_em"] == 1
    assert official_score(fenced("x", "a", "b"), gold("a"), "item")["global_em"] == 0


def test_a_set_is_compared_by_its_last_column_and_its_exact_match_by_the_first():
    # Given {a, b, c}, right {b, c, d, e}: 2 common, precision 2/3, recall 2/4, F1 2 (1/3) / (7/6) = 4/7.
    score = official_score(fenced("x", "a", "b", "c", "c"), gold("b", "c", "d", "e"), "set")
    assert score == {
        "set_precision": pytest.approx(2 / 3), "set_recall": 0.5, "set_f1": pytest.approx(4 / 7), "global_em": 0,
        "question_type": "set",
    }  # fmt: skip
    ranked = official_score(fenced("rank\tname", "2\ta", "1\tb"), gold("1,b", "2,c"), "set")
    assert (ranked["set_f1"], ranked["global_em"]) == (0.5, 1)


def test_a_list_is_compared_as_a_multiset_and_by_difflib_in_its_order():
    # Given a a b c, right a b c d: 3 common, precision = recall = F1 = 0.75.
    # difflib: the longest common run is a b c: 2 * 3 / 8 = 0.75.
    score = official_score(fenced("x", "a", "a", "b", "c"), gold("a", "b", "c", "d"), "list")
    assert score == {"list_content_f1": 0.75, "list_order_score": 0.75, "global_em": 0, "question_type": "list"}
    # Given c b a: of the right order one element remains: 2 * 1 / 6, rounded to 4 decimals.
    back = official_score(fenced("x", "c", "b", "a"), gold("a", "b", "c"), "list")
    assert (back["list_content_f1"], back["list_order_score"]) == (1.0, 0.3333)


def test_from_200_elements_on_difflib_drops_the_frequent_ones():
    # 200 different elements: each occurs at most 200 // 100 + 1 = 3 times, none is dropped. Of 201 with four x, the x
    # are; as the common run starts with them, it is lost from the start: the longest run left is the 197 others.
    others = [f"w{number}" for number in range(196)]
    assert official_score(fenced("h", *others, "y", "x", "x", "x"), gold(*others, "y", "x", "x", "x"), "list")[
        "list_order_score"
    ] == 1.0  # fmt: skip
    lines = ["x", "a", "x", "b", "x", "c", "x", *others]
    right = ["x", "x", "x", "x", "c", "a", "b", *others]
    kept = robust_score(fenced("h", *lines), gold(*right), "list")["list_order_score"]
    dropped = official_score(fenced("h", *lines), gold(*right), "list")["list_order_score"]
    # The 196 others always match. With junk dropped, x c a b against x a x b x c x has nothing left before them but
    # one x that touches the run: 197; without, two more x can be matched in front of it.
    assert dropped < kept
    assert score_answer(fenced("h", *lines), gold(*right), "list").parity_flags == ["autojunk"]


def test_a_table_is_compared_by_rows_of_the_common_columns_and_by_cells():
    # Rows over the common columns A, B: given {(1, 2), (3, 4)}, right {(1, 2), (3, 5), (7, 8)}: 1 common, precision
    # 1/2, recall 1/3, F1 0.4. Cells: given A1 A3 B2 B4 D0 D0, right A1 A3 A7 B2 B5 B8 and three of C: 3 common,
    # precision 3/6, recall 3/9, F1 0.4.
    score = official_score(fenced("a\tB\td", "1\t2\t0", "3\t4\t0"), gold("A,b,C", "1,2,x", "3,5,y", "7,8,z"), "table")
    assert score == {
        "table_row_precision": 0.5, "table_row_recall": pytest.approx(1 / 3), "table_row_f1": pytest.approx(0.4),
        "table_item_precision": 0.5, "table_item_recall": pytest.approx(1 / 3), "table_item_f1": pytest.approx(0.4),
        "global_em": 0, "question_type": "table",
    }  # fmt: skip


def test_the_exact_match_of_a_table_ignores_names_and_wants_the_order():
    right = gold("A,B", "1,2", "3,4")
    other_names = official_score(fenced("x\ty", "1\t2", "3\t4"), right, "table")
    assert (other_names["global_em"], other_names["table_row_f1"], other_names["table_item_f1"]) == (1, 0, 0)
    assert official_score(fenced("A\tB", "3\t4", "1\t2"), right, "table")["global_em"] == 0
    assert official_score(fenced("A\tB", "1\t2", "3\t4", "5\t6"), right, "table")["global_em"] == 0


def test_a_repeated_row_counts_once_among_rows_and_twice_among_cells():
    score = official_score(fenced("A", "1", "1"), gold("A", "1"), "table")
    assert (score["table_row_precision"], score["table_item_precision"]) == (1.0, 0.5)


def test_columns_that_share_a_name_stand_for_each_other():
    # "A" and "a" become one name for two columns. A row of the common columns then has both cells, which one right
    # column cannot equal; and for each pair of columns, their name counts as a cell: four times (a, a).
    score = official_score(fenced("A\ta", "1\t2"), gold("A", "1"), "table")
    assert (score["table_row_f1"], score["table_item_f1"]) == (0, 0)
    both = official_score(fenced("A\ta", "1\t2"), gold("A,a", "3,4"), "table")
    assert (both["table_row_f1"], both["table_item_f1"]) == (0, 1.0)


def test_a_header_alone_scores_an_exact_match_only():
    score = official_score(fenced("A\tB"), gold("A,B"), "table")
    assert (score["global_em"], score["table_row_f1"], score["table_item_f1"]) == (1, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prediction", ["", "```tsv\n```", fenced("a\tb", "1\t2", "1\t2\t3"), '"a', "a\n\ud83d"])
def test_a_prediction_that_is_no_table_scores_zero(prediction, kind):
    score = official_score(prediction, gold("a", "b"), kind)
    assert score == dict.fromkeys([*METRICS[kind], "global_em"], 0) | {"question_type": kind}
    assert score_answer(prediction, gold("a", "b"), kind).fault is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("prediction", "right", "fault"),
    [
        (None, b"a", Fault.NOT_TEXT), (7, b"a", Fault.NOT_TEXT), (["a"], b"a", Fault.NOT_TEXT),
        ({"prediction": "a"}, b"a", Fault.NOT_TEXT), (b"a", b"a", Fault.NOT_TEXT),
        ("answer/1.csv", b"a", Fault.CSV_PATH),
        (fenced("x", "a"), b"", Fault.GOLD_UNREADABLE), (fenced("x", "a"), b"\n", Fault.GOLD_UNREADABLE),
        (fenced("x", "a"), b"a,b\n1,2\n3,4,5", Fault.GOLD_UNREADABLE),
        (fenced("x", "a"), b'"a', Fault.GOLD_UNREADABLE), (fenced("x", "a"), b"\x81\xff", Fault.GOLD_UNREADABLE),
    ],
)  # fmt: skip
def test_where_the_official_script_stops_the_question_scores_zero_with_a_reason(prediction, right, fault, kind):
    outcome = score_answer(prediction, right, kind)
    assert outcome.official == dict.fromkeys([*METRICS[kind], "global_em"], 0) | {"question_type": kind}
    assert outcome.fault == fault


def test_a_text_that_ends_in_csv_is_never_opened(tmp_path):
    path = tmp_path / "1.csv"
    path.write_text("a")
    assert official_score(str(path), b"a", "item")["item_em"] == 0


def test_a_type_in_other_letters_is_kept_as_it_is_and_an_unknown_one_is_an_item():
    assert official_score(fenced("x", "a"), b"a", "Set") == {
        "set_precision": 1, "set_recall": 1, "set_f1": 1, "global_em": 1, "question_type": "Set",
    }  # fmt: skip
    assert official_score(fenced("x", "a"), b"a", "essay") == {"item_em": 1, "global_em": 1, "question_type": "essay"}


def test_the_summary_averages_each_type_and_counts_missing_answers_as_zeros():
    scores = [
        official_score(fenced("x", "a"), b"a", "item"),
        official_score("", b"a", "set"),
        official_score(fenced("x", "a", "b"), b"a", "set"),
        official_score(fenced("x", "a"), b"a", "set"),
    ]
    # Sets: precision 0, 1/2, 1; recall 0, 1, 1; F1 0, 2/3, 1, mean 0.55556; exact 0, 0, 1. All: 2 of 4 exact.
    assert official_summary(scores) == {
        "overall_global_em": 0.5,
        "set": {
            "num_samples": 3, "overall_set_precision": 0.5, "overall_set_recall": 0.6667, "overall_set_f1": 0.5556,
            "overall_global_em": 0.3333,
        },
        "item": {"num_samples": 1, "overall_item_em": 1.0, "overall_global_em": 1.0},
    }  # fmt: skip


def test_a_summary_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one question"):
        official_summary([])


four_decimals = st.integers(0, 10_000).map(lambda number: number / 10_000)


@given(st.lists(st.tuples(st.sampled_from(["list", "item"]), four_decimals, st.integers(0, 1)), min_size=1))
@example([("list", share, 0) for share in (0.0001, 0.0, 0.008, 0.0289)])
def test_the_summary_is_that_of_pandas_also_at_ties_of_rounding(rows):
    scores = [
        {"list_content_f1": share, "global_em": exact, "question_type": kind}
        if kind == "list"
        else {"item_em": exact, "global_em": exact, "question_type": kind}
        for kind, share, exact in rows
    ]
    assert official_summary(scores) == reference_summary(scores)


CELLS = st.sampled_from(
    ["a", "A ", "b", "b.", "`b`", "c d", "1", "01", "1.0", "5%", "N/A", "", "*b*", '"', "x,y", "$3"]
)
NAMES = st.sampled_from(["A", "a", "B", "b ", "Big C", "*C*", "", "A.1"])


@st.composite
def answers(draw):
    """A prediction and a gold file that share some cells, in all shapes that the official script can score."""
    width = draw(st.integers(1, 3))
    lines = st.lists(CELLS, min_size=width, max_size=width)
    kind = draw(st.sampled_from(KINDS))
    right = draw(st.lists(lines, min_size=1, max_size=4))
    if kind == "table":
        right.insert(0, draw(st.lists(NAMES, min_size=width, max_size=width)))
    else:
        right[0][0] = "a"  # a file of empty lines stops the official script
    given_rows = draw(st.permutations(right + draw(st.lists(lines, max_size=2))))
    header = draw(st.just(right[0]) | st.lists(NAMES, min_size=width, max_size=width))
    text = "\n".join("\t".join(row) for row in [header, *given_rows[: draw(st.integers(0, 6))]])
    prediction = draw(
        st.sampled_from(["```tsv\n{}\n```", "{}", "<answer>\n```\n{}\n```</answer>", "So:\n\n{}\n\nDone."])
    ).format(text)
    quoted = ("\n".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in right)).encode()
    return prediction, quoted, kind


@given(answers())
def test_the_official_score_is_that_of_the_rules_with_pandas(answer):
    assert official_score(*answer) == reference_score(*answer)


@given(answers())
def test_scores_lie_between_zero_and_one_and_repeat_and_a_difference_is_explained(answer):
    outcome = score_answer(*answer)
    assert outcome == score_answer(*answer)
    assert outcome.official.keys() == outcome.robust.keys()
    for score in (outcome.official, outcome.robust):
        assert all(0 <= value <= 1 for key, value in score.items() if key != "question_type")
    assert (outcome.official != outcome.robust) == bool(outcome.parity_flags)
    assert set(outcome.parity_flags) <= set(PARITY_FLAGS)


WORD = st.text("abc", min_size=1, max_size=3)
TABLES = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.lists(WORD, min_size=width, max_size=width), min_size=1, max_size=5)
)


def lines_of(rows, delimiter):
    return [delimiter.join(row) for row in rows]


@given(rows=TABLES, seed=st.integers(0, 99))
def test_the_order_of_rows_and_columns_changes_no_metric_of_sets_and_tables_but_the_exact_match(rows, seed):
    shuffled = random.Random(seed).sample(rows, len(rows))
    right = gold(*lines_of(rows[1:] or rows, ","))
    for kind in ("set", "item" if len(rows) == 1 else "set"):
        assert official_score(fenced("h", *lines_of(rows, "\t")), right, kind) == official_score(
            fenced("h", *lines_of(shuffled if kind == "set" else rows, "\t")), right, kind
        )
    header = [f"h{place}" for place in range(len(rows[0]))]
    table_gold = gold(",".join(header), *lines_of(rows[1:], ","))
    turned = [row[::-1] for row in [header, *shuffled]]
    plain = official_score(fenced(*lines_of([header, *rows], "\t")), table_gold, "table")
    mixed = official_score(fenced(*lines_of(turned, "\t")), table_gold, "table")
    assert {**plain, "global_em": 0} == {**mixed, "global_em": 0}


@given(rows=TABLES, kind=st.sampled_from(KINDS))
def test_the_gold_answer_itself_scores_one_whoever_scores_it(rows, kind):
    rows = rows[:1] if kind == "item" else rows
    header = ["Kind of thing"] + [f"h{place}" for place in range(1, len(rows[0]))]
    right = gold(*lines_of([header, *rows] if kind == "table" else rows, ","))
    outcome = score_answer(f"Here:\n{fenced(*lines_of([header, *rows], chr(9)))}\nDone.", right, kind)
    for score in (outcome.official, outcome.robust):
        assert all(value == pytest.approx(1) for key, value in score.items() if key != "question_type")
    assert outcome.parity_flags == []


@pytest.mark.parametrize(
    ("flag", "prediction", "right", "kind"),
    [
        ("csv_path", "name\nx.csv", b"x.csv", "item"),
        ("gold_unreadable", fenced("A", "1"), b"A\n1\n2,3", "table"),
        ("length", fenced("h", "a") + "x" * 300_000, b"a", "item"),
        ("answer_block", f"{fenced('h', 'b')}<answer>\nh\na\n</answer>", b"a", "item"),
        ("fence", f"{fenced('draft', 'b')}\n{fenced('h', 'a')}", b"a", "item"),
        ("fence", fenced("h", "a", tag="csv"), b"a", "item"),
        ("fence", "```\nh\na", b"a", "set"),
        ("markdown_table", "|A|B|\n|-|-|\n|1|2|", b"A,B\n1,2", "table"),
        ("unreadable", fenced("h", '"a'), b'"""a"', "item"),
        ("no_header", "Paris", b"Paris", "item"),
        ("no_header", fenced("a", "b"), b"a\nb", "list"),
        ("names", fenced("x", "1"), b"A\n1", "table"),
        ("names", fenced("**A**", "1"), b"A\n1", "table"),
        ("repeated_names", fenced("A\ta", "3\t2"), b"A,a\n1,2", "table"),
        ("row_order", fenced("A", "2", "1"), b"A\n1\n2", "table"),
        ("column_order", fenced("B\tA", "2\t1"), b"A,B\n1,2", "table"),
        ("columns", fenced("rank\tname", "1\ta"), b"a", "list"),
        ("folding", fenced("h", "1914–1918"), b"1914-1918", "item"),
        ("folding", fenced("h", "O'Neill"), "O’Neill".encode(), "item"),
        ("gold_encoding", fenced("h", "São"), b"S\xe3o", "item"),
        ("fence", fenced("Name,Year", '"Halley, the",1758', tag="csv"), b'Name,Year\n"Halley, the",1758', "table"),
        ("boxed", r"So it is $\boxed{\text{Amber Hill}}$.", b"Amber Hill", "item"),
        ("lead_in", "I searched.\n\nThe answer is **Amber Hill**.", b"Amber Hill", "item"),
        ("folding", fenced("h", "1\u202f234.50"), b"1234.5", "item"),
        ("folding", fenced("h", "1 234.50"), b"1234.5", "item"),
        ("folding", fenced("h", "am\u200bber"), b"amber", "item"),
        ("names", fenced("Country", "Peru", "Chile"), b"State\nPeru\nChile", "table"),
        ("thinking", f"<think>{fenced('h', 'b')}</think>h\na", b"a", "item"),
        ("fence", "~~~tsv\nh\na\n~~~", b"a", "item"),
        ("prose", "Here:\n\nA\tB\n1\t2\n\nDone.", b"A,B\n1,2", "table"),
        ("json", '[{"A": 1, "B": "x [1]"}]', b"A,B\n1,x [1]", "table"),
        ("json", "[1, 2]", b"1\n2", "list"),
        ("commas", 'A,B\n"x, y",2', b'A,B\n"x, y",2', "table"),
        ("commas", fenced("A;B", "1;2"), b"A,B\n1,2", "table"),
        ("commas", "Peru, Chile, and Cuba.", b"Peru\nChile\nCuba", "set"),
        ("cell_marks", fenced("h", "Paris."), b"Paris", "item"),
        ("cell_marks", fenced("h", "`Paris`"), b"Paris", "item"),
        ("cell_marks", fenced("h", "**12.50**"), b"12.5", "item"),
        ("missing_values", fenced("h", "99134986705628630415", "x", "N/A"), b"99134986705628630415\nx\n\"\"", "set"),
    ],
)  # fmt: skip
def test_each_reason_for_a_difference_is_named(flag, prediction, right, kind):
    outcome = score_answer(prediction, right, kind)
    assert outcome.official != outcome.robust
    assert outcome.parity_flags == [flag]


@pytest.mark.parametrize(
    ("prediction", "right", "kind", "flags"),
    [
        # The header is also a right answer, which the lines below it hold once more.
        (fenced("Jordan", "Jordan", "Peru"), b"Jordan\nPeru", "list", []),
        (fenced("Jordan", "Peru"), b"Jordan\nPeru", "list", ["no_header"]),
        (fenced("Jordan", "Jordan", "Peru"), b"Jordan\nJordan\nPeru", "list", ["no_header"]),
        # A table without a header, and one of a single column whose name is another.
        (fenced("Encke\t1786", "Halley\t1758"), b"Name,Year\nEncke,1786\nHalley,1758", "table", ["no_header", "names"]),
        (fenced("Peru", "Chile"), b"State\nPeru\nChile", "table", ["no_header", "names"]),
        ("- Peru\n- Chile", b"Peru\nChile", "set", ["list_marks", "no_header"]),
        ("The answers are:\n1. Peru\n2. Chile", b"Peru\nChile", "list", ["lead_in"]),
        ("|State|\n|-|\n|Peru|", b"Peru", "set", ["markdown_table"]),
        (fenced("Name", '"Lima, Peru"', tag="csv"), b'"Lima, Peru"', "item", ["fence"]),
        (fenced("Name", "Lima, Peru", tag="CSV"), b'"Lima, Peru"', "item", ["fence"]),
        ("The answers are Peru; Chile.", b"Peru\nChile", "list", ["lead_in", "commas"]),
        (fenced('{"rows": [{"State": "Peru"}]}', tag="json"), b"Peru", "set", ["fence", "json"]),
        ("<answer>The answer is 1,234.</answer>", b"1234", "item", ["answer_block", "lead_in"]),
    ],
)
def test_what_a_careful_reader_takes_for_right_is_right(prediction, right, kind, flags):
    outcome = score_answer(prediction, right, kind)
    assert outcome.robust["global_em"] == 1
    assert outcome.parity_flags == flags


@pytest.mark.parametrize(
    ("prediction", "right", "kind"),
    [
        ("Lima, Peru", b'"Lima, Peru"\nCuba', "set"),  # a comma within a gold entry
        ('Name,Year\n1758,"Halley, the",x', b"Name,Year\n1758,x", "table"),  # of more cells than columns
        ("[1]", b"[1]", "item"),
    ],
)
def test_commas_and_brackets_that_part_nothing_are_characters(prediction, right, kind):
    assert not {"commas", "json"} & {*score_answer(prediction, right, kind).parity_flags}


def test_gold_that_the_official_script_cannot_read_is_flagged_also_where_the_scores_agree():
    # 81 FF is no text in any encoding; E9 at the end is the first half of a character in GBK, so that only
    # Windows-1252 fits, and the official script stops.
    assert score_answer("x\na", b"\x81\xff", "item")[2:] == (Fault.GOLD_UNREADABLE, ["gold_unreadable"])
    assert score_answer("x\nCafé", b"Caf\xe9", "item")[2:] == (None, ["gold_unreadable"])
    assert score_answer("x\nb", "Café".encode(), "item")[2:] == (None, [])


@given(
    st.text() | st.text('`tsvca\n\t",|-{}\\boxed.: 1answer is<>/', max_size=60),
    st.binary(max_size=30),
    st.sampled_from(KINDS),
)
def test_no_text_and_no_gold_make_scoring_fail(prediction, right, kind):
    outcome = score_answer(prediction, right, kind)
    for score in (outcome.official, outcome.robust):
        assert all(0 <= value <= 1 for key, value in score.items() if key != "question_type")
    assert set(outcome.parity_flags) <= set(PARITY_FLAGS)


TEXT_CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r`", exclude_categories=["Cc"]), max_size=8)


@given(st.data())
def test_any_gold_file_rendered_as_tsv_scores_one_officially(data):
    kind = data.draw(st.sampled_from(KINDS))
    width = data.draw(st.integers(1, 3))
    rows = data.draw(st.lists(st.lists(TEXT_CELL, min_size=width, max_size=width), min_size=1, max_size=4))
    rows = [["a"] * width, *rows[1:]] if kind != "item" else [["a", *rows[0][1:]]]
    header = [f"h{place}" for place in range(width)]
    records = [header, *rows]
    right = written(records if kind == "table" else rows, ",")
    outcome = official_score(f"```tsv\n{written(records, chr(9))}```", right.encode(), kind)
    assert outcome["global_em"] == 1


def written(rows, delimiter):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)
    return text.getvalue()


def test_rows_longer_than_the_header_cost_the_official_score_the_first_columns():
    # Official: the index takes "1", A is 2 and B is 3. Robust: A is 1, B is 2, and a nameless column has 3.
    outcome = score_answer(fenced("A\tB", "1\t2\t3"), b"A,B\n1,2", "table")
    assert outcome.official["table_item_f1"] == 0
    # 2 of 3 given and of 2 right cells: precision 2/3, recall 1, F1 0.8.
    assert outcome.robust["table_item_f1"] == pytest.approx(0.8)
    assert "ragged_rows" in outcome.parity_flags


def test_the_robust_exact_match_of_an_item_allows_no_second_answer():
    assert robust_score(fenced("h", "a", "b"), b"a", "item")["global_em"] == 0
    assert robust_score(fenced("h", "a"), b"a", "item")["global_em"] == 1


@pytest.mark.parametrize(
    ("right", "exact"), [(b"A,B\n1,2\n3,4", 1), (b"A,C\n1,2\n3,4", 0), (b"A,B\n1,2\n1,2\n3,4", 0), (b"A,B\n1,2", 0)]
)
def test_the_robust_exact_match_of_a_table_wants_the_names_and_all_rows(right, exact):
    assert robust_score(fenced("B\tA", "4\t3", "2\t1"), right, "table")["global_em"] == exact


def junk(random_source):
    """One prediction of the sort that a broken model, a broken harness or an adversary may hand in."""
    pieces = [
        "```",
        "```tsv\n",
        "````",
        "<answer>",
        "</answer>",
        "|",
        "|-|-|\n",
        '"',
        "\t",
        "\n",
        "\r",
        " ",
        "\0",
        ",",
        "a",
    ]
    pieces += ["\ud83d", "\ufeff", "\u2028", "N/A", "99134986705628630415", "1e400", "%", "é", "北", ".csv", "9" * 5000]
    shape = random_source.randrange(100)
    if shape < 3:
        return random_source.choice([None, 0, 1.5, float("nan"), [], {}, b"```tsv\na\n```", True, ("a",), object()])
    if shape < 40:
        return "".join(random_source.choices(pieces, k=random_source.randrange(1, 60)))
    if shape < 60:
        return random_source.randbytes(random_source.randrange(400)).decode(
            random_source.choice(["latin-1", "utf-16"]), "replace"
        )
    if shape < 70:
        return "```tsv\n" * random_source.randrange(50) + "a\tb\n1\t2\n" + "```\n" * random_source.randrange(50)
    if shape < 99:
        rows = [
            [
                str(random_source.choice([random_source.random(), random_source.randrange(9), "Word two"]))
                for _ in range(4)
            ]
            for _ in range(random_source.randrange(200))
        ]
        return fenced(*("\t".join(row) for row in rows))
    size = random_source.randrange(300_000)
    return random_source.choice(
        [
            fenced(*("\t".join(str(random_source.random()) for _ in range(8)) for _ in range(size // 20))),
            fenced("h", *(f"w{random_source.randrange(150)}" for _ in range(size // 4))),
            random_source.choice(pieces[:-1]) * size,
            "e" + "\u0301\u0327" * size,
            "".join(random_source.choices(pieces, k=size // 10)),
        ]
    )


GOLD = {
    "item": b"a", "set": gold(*(f"w{number}" for number in range(100))),
    "list": gold(*(f"w{number % 70}" for number in range(100))), "table": b"a,b\n1,2\n\"x, y\",N/A",
}  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_junk_never_raises(seed):
    random_source = random.Random(seed)
    for _ in range(10):
        score_answer(junk(random_source), GOLD[random_source.choice(KINDS)], random_source.choice(KINDS))


@pytest.mark.slow
def test_twenty_thousand_pieces_of_junk_never_raise_and_the_slowest_is_printed():
    import time

    random_source, slowest = random.Random(0), (0.0, 0)
    for number in range(20_000):
        prediction, kind = junk(random_source), random_source.choice(KINDS)
        began = time.process_time()
        judged = score_answer(prediction, GOLD[kind], kind)
        assert judged is not None
        slowest = max(slowest, (time.process_time() - began, number))
    print(f"\n20,000 predictions; the slowest, number {slowest[1]}, took {slowest[0]:.3f} s of processor time")
