import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.metrics.answer_phrase import (
    is_spaced_number,
    tab_separated,
    unwrapped,
    without_cell_marks,
    without_list_marks,
    without_prose,
    without_spaces_in_number,
)


@pytest.mark.parametrize(
    ("text", "left", "passed"),
    [
        (r"So \boxed{Paris}.", "Paris", ["boxed"]),
        (r"$\boxed{1}$ no, $$\boxed{ \text{New York} }$$", "New York", ["boxed"]),
        (r"\boxed{1{,}234\%}", "1,234%", ["boxed"]),
        (r"\boxed{\textbf{a}\ b\,c~d}", "a b c d", ["boxed"]),
        (r"\boxed{a_{1}} and \boxed{}", "a_{1}", ["boxed"]),
        (r"\boxed{a", "a", ["boxed"]),
        (r"The answer is \boxed{The answer is 7.}", "7", ["boxed", "lead_in"]),
        (r"\boxed{", r"\boxed{", []),
        ("The answer is Paris.", "Paris", ["lead_in"]),
        ("I looked.\n\n**Final answer:** Paris", "Paris", ["lead_in"]),
        ("the answer is **Paris**. It lies on the Seine.", "Paris", ["lead_in"]),
        ("Answer to the question: New York\nReason: it is.", "New York", ["lead_in"]),
        ("The answer is Washington D.C.", "Washington D.C.", ["lead_in"]),
        ("The answer is St. Louis. It is a city.", "St. Louis", ["lead_in"]),
        ("The answer is Dr. No", "Dr. No", ["lead_in"]),
        ("The answer is Acme Inc.", "Acme Inc.", ["lead_in"]),
        ("The answer is 3.14.", "3.14", ["lead_in"]),
        ("The answer is `Paris`.", "Paris", ["lead_in"]),
        ("The answer is `a` or `b`.", "`a` or `b`", ["lead_in"]),
        ("The answers are:\nPeru\nChile\n\nGood luck", "Peru\nChile", ["lead_in"]),
        ("Answer:\nPeru", "Peru", ["lead_in"]),
        ("The answer is 1. No: the answer is 2.", "2", ["lead_in"]),
        ("The answer is:", "The answer is:", []),
        ("Answer：Paris", "Paris", ["lead_in"]),
        ("Answer\nParis", "Answer\nParis", []),
        ("Name\tAnswer: x\na\tb", "Name\tAnswer: x\na\tb", []),
        ("| answer: x |\n|---|\n| b |", "| answer: x |\n|---|\n| b |", []),
        ("", "", []),
    ],
)
def test_an_answer_is_taken_out_of_what_is_said_around_it(text, left, passed):
    assert unwrapped(text, fenced=False) == (left, passed)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Sure:\n\nA\tB\n1\t2\n\nLet me know!\nBye.", "A\tB\n1\t2\n"),
        ("I looked.\n\n**Table:**\nA\tB\r\n1\t2", "A\tB\r\n1\t2"),
        ("A\tB\n1\t2", "A\tB\n1\t2"),
        ("Cities\n1\tLima", "Cities\n1\tLima"),  # a name of the column
        ("A\tB\n1\t2\nLima", "A\tB\n1\t2\nLima"),  # a row that is short
        ('A:\n"x:\ny"\t2', 'A:\n"x:\ny"\t2'),  # a cell of several lines
        ("|A:|\n\n1\t2", "|A:|\n\n1\t2"),
        ("a:\n\nb", "a:\n\nb"),
    ],
)
def test_words_around_a_table_are_no_rows(text, left):
    assert without_prose(text) == left


@pytest.mark.parametrize(
    ("cell", "left"),
    [(" Paris. ", "Paris"), ("`a`", "a"), ("'b'.", "b"), ('**"c"**.', "c"), ("***", ""),
     ("U.S.", "U.S"), ("etc...", "etc..."), ("'", "'"), (".", ""),
     ("", ""), ("O'Neill", "O'Neill"), ("''", "''"), ("3.", "3")],
)  # fmt: skip
def test_full_stops_and_marks_around_a_cell_are_no_part_of_it(cell, left):
    assert without_cell_marks(cell) == left


def test_several_lines_of_a_fence_are_no_sentence():
    assert unwrapped("the answer is: x\nb", fenced=True) == ("the answer is: x\nb", [])
    assert unwrapped("the answer is: x\n", fenced=True) == ("x", ["lead_in"])


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a,b\n1,2", "a\tb\n1\t2\n"),
        ('a, b\n"x, y", 2', "a\tb\nx, y\t2\n"),
        ('a,b\n"x\ty",2', 'a\tb\n"x\ty"\t2\n'),
        ('a;b\n"x;y";1,5', "a\tb\nx;y\t1,5\n"),
        ("Name\nLima, Peru", "Name\nLima, Peru"),
        ('a,"b', 'a,"b'),
        ("", ""),
    ],
)
def test_comma_separated_values_become_tab_separated_ones(text, left):
    assert tab_separated(text) == left


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        (["- a", "- b"], ["a", "b"]),
        (["• a"], ["a"]),
        (["Names", "* a", "* b"], ["Names", "a", "b"]),
        (["1. a", "2. b"], ["a", "b"]),
        (["Names", "1) a", "2) b"], ["Names", "a", "b"]),
        (["(1) a", "(2) b"], ["a", "b"]),
        (["1. FC Nürnberg"], ["1. FC Nürnberg"]),
        (["3. a", "4. b"], ["3. a", "4. b"]),
        (["-5", "-6"], ["-5", "-6"]),
        (["- a", "b", "- c"], ["- a", "b", "- c"]),
        ([], []),
    ],
)
def test_bullets_and_numbers_are_no_part_of_a_list(lines, left):
    assert without_list_marks([[line] for line in lines]) == [[line] for line in left]


def test_rows_of_several_cells_have_no_list_marks():
    assert without_list_marks([["- a", "b"], ["- c", "d"]]) == [["- a", "b"], ["- c", "d"]]


@pytest.mark.parametrize(
    ("cell", "left"),
    [
        ("1 234.50", "1234.50"), ("-12 345 678", "-12345678"), ("$1 000 %", "$1000%"),
        ("Apollo 11 300", "Apollo 11 300"), ("1 23", "1 23"), ("1234 567", "1234 567"), ("12 : 345", "12 : 345"),
    ],
)  # fmt: skip
def test_spaces_between_thousands_are_no_part_of_a_number(cell, left):
    assert without_spaces_in_number(cell) == left
    assert is_spaced_number(cell) == (cell != left)


@given(st.text() | st.text("\\boxed{}answer is:.,\n\t|*-1 ", max_size=60), st.booleans())
def test_no_wording_makes_it_fail(text, fenced):
    left, passed = unwrapped(text, fenced=fenced)
    assert isinstance(left, str)
    assert set(passed) <= {"boxed", "lead_in"}
    assert isinstance(tab_separated(text), str)
    assert without_prose(text) in text
    assert without_cell_marks(text) in text
    assert len(without_list_marks([[text], [text]])) == 2


def test_wordings_made_to_cost_time_take_little():
    import time

    began = time.process_time()
    for text in (
        "\\boxed{" * 40_000,
        "answer is " * 30_000,
        "answer " + "*" * 300_000,
        "{" * 300_000,
        " " * 300_000 + "answer:",
        ":\n" * 150_000,
        "\n \n" * 100_000 + "\t",
        ":\n\t" * 100_000 + "|",
        "\t" * 300_000,
    ):
        without_prose(text)
        unwrapped(text, fenced=False)
        without_list_marks([[text], [text]])
        without_spaces_in_number(text)
    assert time.process_time() - began < 3
