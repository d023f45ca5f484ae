import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.metrics.answer_table import TableError
from src.gisa.metrics.answer_text import (
    decode_gold,
    folded,
    markdown_records,
    official_content,
    official_gold,
    official_table,
    robust_content,
    robust_records,
    robust_table,
)


@pytest.mark.parametrize(
    ("prediction", "content"),
    [
        ("words ```tsv\na\n``` and ```tsv\nb\n```", "a"),
        ("```\na\n```", "a"),
        ("```tsv a\tb```", "a\tb"),
        ("```tsv\n\n\t a\n```", "a"),  # white space before the content goes, also a tab that means an empty cell
        ("```json\na\n```", "json\na"),
        ("```tsvx\na\n```", "x\na"),
        ("````tsv\na\n````", "`tsv\na"),
        ("a `b` ```c", "a `b` ```c"),  # never closed: the whole text
        ("<answer>\na\n</answer>", "<answer>\na\n</answer>"),
        ("a\n \n\u2003\n\x1f\nb", "a\nb"),
        ("``````", ""),
        ("", ""),
    ],
)
def test_the_official_content_is_the_first_closed_fence_or_the_whole_text(prediction, content):
    assert official_content(prediction) == content


LINES = st.lists(st.text("ab\t1 ", min_size=1).filter(str.strip), min_size=1).map("\n".join)


@given(LINES, st.text("xyz\n <>|"))
def test_what_is_put_into_a_fence_is_extracted_whatever_stands_around_it(lines, around):
    content = lines.lstrip().split("\n")
    assert official_content(f"{around}```tsv\n{lines}\n```{around}").split("\n") == content


@given(st.text("ab\t\n `", max_size=30))
def test_extracting_from_an_extract_without_backticks_changes_only_white_space(text):
    content = official_content(text)
    if "```" not in content:
        assert official_content(content) == content


def test_a_prediction_that_is_no_table_has_none():
    assert official_table("```tsv\na\tb\n1\t2\n3\t4\t5\n```") is None
    assert official_table("") is None


def test_gold_files_have_a_header_for_tables_only():
    with_names, without = (official_gold(b"a,b\n1,2", header=header) for header in (True, False))
    assert (with_names.columns, with_names.rows) == (["a", "b"], [("1", "2")])
    assert (without.columns, without.rows) == (["0", "1"], [("a", "b"), ("1", "2")])


@pytest.mark.parametrize(
    ("gold", "official", "careful"),
    [
        ("Zoë".encode(), "zoë", ("Zoë", "utf-8-sig")),
        ("Zoë".encode("utf-8-sig"), "zoë", ("Zoë", "utf-8-sig")),
        # E3 6F is `ão`'s beginning in Windows-1252, and one character in GBK.
        (b"S\xe3o", "s鉶", ("São", "cp1252")),
        # E9 at the end is the first half of a character in GBK, so that GBK does not fit.
        (b"Caf\xe9", "café", ("Café", "cp1252")),
        # 81 stands for nothing in Windows-1252.
        (b"\x81\x40", "丂", ("丂", "gbk")),
    ],
)
def test_gold_files_are_decoded_as_each_scorer_does(gold, official, careful):
    assert official_gold(gold, header=False).rows == [(official,)]
    assert decode_gold(gold) == careful


def test_gold_bytes_that_are_no_text_are_refused():
    with pytest.raises(TableError, match="not text in any of utf-8, gbk, cp1252"):
        official_gold(b"\x81\xff", header=False)
    with pytest.raises(TableError, match="not text in any of utf-8-sig, cp1252, gbk"):
        decode_gold(b"\x81\xff")


@pytest.mark.parametrize(
    ("prediction", "content", "passed"),
    [
        ("a\tb", "a\tb", []),
        ("<answer>a</answer> or <answer>b</answer>", "b", ["answer_block"]),
        ("<answer>a</answer> x <answer> </answer>", "a", ["answer_block"]),
        ("<answer>a <answer>b", "b", ["answer_block"]),
        ("<Final_Answer>a</Final_Answer> so", "a", ["answer_block"]),
        ("<think>```tsv\nb\n``` or <answer>c</answer></think>a", "a", ["thinking"]),
        ("b [/THINK]<answer>a</answer>", "a", ["thinking", "answer_block"]),
        ("a</think> ", "a</think> ", []),
        ("~~~csv\na,b\n~~~", "a\tb", ["fence"]),
        ("~~a~~ about ~~~b", "~~a~~ about ~~~b", []),
        ("Here:\n\nA\tB\n1\t2\n\nDone.", "A\tB\n1\t2", ["prose"]),
        ("```tsv\na\n```\n```csv\nb\n```", "b", ["fence"]),
        ("```tsv\na\n```\n```\n```", "a", ["fence"]),
        ("```tsv\na\n", "a", ["fence"]),
        ("```tsv\na\n``` and ```b", "a", ["fence"]),  # a closed one goes before one that is not
        ("```tsv a```", "a", ["fence"]),
        ("``` tsv\na\n```", "a", ["fence"]),
        ("````md\n```tsv\na\n```\n````", "a", ["fence", "fence"]),
        ("```csv\na,b\n```", "a\tb", ["fence"]),
        ("```csv\nName\nLima, Peru\n```", "Name\nLima, Peru", ["fence"]),
        ("```\n\\boxed{a}\n```", "a", ["fence", "boxed"]),
        ("The answer is a.", "a", ["lead_in"]),
        ("```\nb\n```<answer>```\na\n```</answer>", "a", ["answer_block", "fence"]),
    ],
)
def test_the_robust_content_is_the_last_fence_of_the_last_answer_block(prediction, content, passed):
    assert robust_content(prediction) == (content, passed)


def test_of_a_text_of_more_than_300_000_characters_the_robust_scorer_reads_the_last():
    assert robust_content("b\n" * 200_000 + "```\na\n```") == ("a", ["length", "fence"])


def test_markdown_tables_are_read_and_the_last_counts():
    text = "| x |\n|---|\n| 0 |\n\n| A | B \\| C |\n|:--|--:|\n| 1 | 2 |\n| 3 |\nwords\n| 9 |"
    assert markdown_records(text) == [["A", "B | C"], ["1", "2"], ["3"]]
    assert markdown_records("A | B\n--- | ---\n1 |") == [["A", "B"], ["1"]]


@pytest.mark.parametrize("text", ["a\tb\n-\t-", "|---|\n| 1 |", "a | b\n1 | 2", ""])
def test_what_is_no_markdown_table_has_no_records(text):
    assert markdown_records(text) == []


def test_stray_quotation_marks_are_characters():
    assert robust_records('"a\tb\n\nc', "\t") == [['"a', "b"], ["c"]]
    assert robust_records('"a\tb"\tc', "\t") == [["a\tb", "c"]]


@pytest.mark.parametrize(
    ("text", "form"),
    [("A‐B‑C–D—E−F", "A-B-C-D-E-F"), ("‘a’ “b” «c»", "'a' \"b\" \"c\""), ("x\u00a0y", "x y"), ("ﬁ Ａ ²", "fi A 2"),
     ("e\u0301", "é"), ("…", "..."), ("1\u2009234\u202f5", "1 234 5"), ("a\u200bb\u00adc\ufeff", "abc"),
     ("\u200f\u202bשלום\u202c\u200e \u2066x\u2069", "שלום x")],
)  # fmt: skip
def test_variants_of_characters_are_folded(text, form):
    assert folded(text) == form


def test_of_endless_marks_few_are_kept_as_sorting_them_takes_the_square_of_their_number():
    # 31 characters are left, of which c, U+0327 and U+0301 become one.
    assert len(folded("c" + "\u0301\u0327" * 500_000)) == 29


@given(st.text())
def test_folding_twice_changes_nothing_more(text):
    assert folded(folded(text)) == folded(text)


def test_a_robust_table_is_filled_up_to_its_longest_row():
    records = [["A", "a"], ["1", " N/A", "3"], ["4"]]
    table = robust_table(records, header=True)
    assert (table.columns, table.rows) == (["a", "a.1", "Unnamed: 2"], [("1", "", "3"), ("4", "", "")])
    assert robust_table(records, header=False).rows[0] == ("a", "a", "")
    assert robust_table([], header=True).columns == []
    assert robust_table([["x"] * 3000, *[["y"]] * 3000], header=False).columns == []  # nine million cells
