import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.gisa.metrics.answer_table import TableError, distinct, normalised, normalised_name, read_table, split_records
from tests.gisa.metrics.pandas_answers import cell_form, read


def names_and_rows(table):
    return table.columns, table.rows


def rows(text, delimiter="\t", header=True):
    return read_table(text, delimiter, header=header).rows


def test_names_and_cells_are_normalised():
    table = read_table(" Price (USD) \tB\n$1,200\t**Bold** Text", "\t", header=True)
    assert names_and_rows(table) == (["price(usd)", "b"], [("1200", "boldtext")])
    assert table.column(-1) == ["boldtext"]


@pytest.mark.parametrize(
    ("cell", "form"),
    [
        (" New York\n* ", "newyork"), ("a b\tc", "ab\tc"), ("", ""), (" ", ""), ("NaN", ""), ("none", ""), ("NULL", ""),
        ("N/A", "n/a"), ("007", "7"), ("-3", "-3"), ("1,234", "1234"), ("1,2,3", "123"), ("$5.50", "5.5"),
        ("5$", "5"), ("12.50%", "0.125"), ("$1,200%", "12"), ("50%%", "50%%"), ("%", "%"), ("$", "$"), ("1e3", "1000"),
        ("5E-1", "0.5"), ("1_000", "1000"), ("٣٤", "34"), ("0.1234567", "0.123457"), ("0.0000001", "0"),
        ("-0.0000001", "-0"), ("-0", "0"), ("Infinity", "inf"), ("+nan", "nan"), ("1/2", "1/2"), ("a,b", "a,b"),
        # A double has 53 bits: between 2**64 and 2**65 only multiples of 2**12 = 4096 are there; this one lies 101
        # below such a multiple.
        ("33113603214599905179", "33113603214599905280"),
    ],
)  # fmt: skip
def test_a_cell_takes_the_form_in_which_it_is_compared(cell, form):
    assert normalised(cell) == form


@given(st.text(st.sampled_from("0123456789.,$%eE-+_ *naulfity\n٣A"), max_size=12))
def test_the_form_of_a_cell_is_that_of_the_rules(cell):
    assert normalised(cell) == cell_form(cell)


@given(st.from_regex(r"-?[0-9]{1,15}(\.[0-9]{1,6})?", fullmatch=True))
def test_normalising_a_number_twice_changes_nothing_more(cell):
    assert normalised(normalised(cell)) == normalised(cell)


def test_names_lose_spaces_and_case_only():
    assert normalised_name(" **Start Date** ") == "**startdate**"


def test_missing_values_become_empty_cells():
    assert rows("a\tb\nN/A\t#N/A\n<NA>\t-nan\nnull\tNone") == [("", "")] * 3


def test_a_value_with_a_space_before_it_is_not_missing():
    assert rows("a\n N/A") == [("n/a",)]


def test_a_short_row_is_filled_up():
    assert rows("a\tb\tc\n1\t2\t3\n4") == [("1", "2", "3"), ("4", "", "")]
    assert rows("a\tb\n1\n2\t3") == [("1", ""), ("2", "3")]


def test_a_row_longer_than_the_first_makes_the_text_unreadable():
    with pytest.raises(TableError, match="a row of 3 cells among rows of 2"):
        rows("a\tb\n1\t2\n3\t4\t5")


def test_the_first_columns_are_lost_where_the_rows_are_longer_than_the_header():
    assert names_and_rows(read_table("a\tb\n1\t2\t3\n4\t5\t6\n7", "\t", header=True)) == (
        ["a", "b"],
        [("2", "3"), ("5", "6"), ("", "")],
    )


def test_without_a_header_the_first_row_sets_the_width():
    assert names_and_rows(read_table("1,2\n3", ",", header=False)) == (["0", "1"], [("1", "2"), ("3", "")])
    with pytest.raises(TableError, match="a row of 2 cells among rows of 1"):
        rows("1\n2,3", ",", header=False)


def test_the_first_row_the_others_and_a_comparison_of_cells_are_those_of_the_whole_table():
    table = read_table("a\tb\n1\t2\n3\tN/A", "\t", header=True)
    assert (table.first_row(), table.height) == (["1", "2"], 2)
    assert names_and_rows(table.without_first_row()) == (["a", "b"], [("3", "")])
    assert table.has_cells_of(read_table("x,y\n1.0,2\n3,", ",", header=True))
    assert not table.has_cells_of(read_table("x,y\n1,2\n3,4", ",", header=True))
    assert not table.has_cells_of(table.without_first_row())
    assert not table.has_cells_of(read_table("x\n1\n3", ",", header=True))


def test_a_header_alone_is_a_table_without_rows():
    assert names_and_rows(read_table("a\tb", "\t", header=True)) == (["a", "b"], [])


@pytest.mark.parametrize("text", ["", "\n\n", "  \n", "\ufeff", "\r\n \r"])
def test_a_text_without_rows_is_refused(text):
    with pytest.raises(TableError, match="no rows"):
        rows(text)


def test_lines_that_ask_for_billions_of_empty_cells_are_refused():
    with pytest.raises(TableError, match="more than 5,000,000 cells"):
        rows("a\n" + "\t" * 100_000 + "\n" + "b\n" * 100_000)


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(TableError, match="half a surrogate pair at character 2"):
        rows("a\n\ud83d")


def test_a_quotation_mark_that_is_never_closed_is_refused():
    with pytest.raises(TableError, match="never closed"):
        rows('a\tb\n"1\t2\n3\t4')


def test_one_byte_order_mark_is_passed_over():
    assert read_table("\ufeffa\n1", "\t", header=True).columns == ["a"]
    assert read_table("\ufeff\ufeffa\n1", "\t", header=True).columns == ["\ufeffa"]


@pytest.mark.parametrize(
    ("text", "records"),
    [
        ('"a\tb"\tc', [["a\tb", "c"]]),  # the mark protects a delimiter
        ('"a\nb\r"\tc', [["a\nb\r", "c"]]),  # and line ends
        ('"a ""b"""\tc', [['a "b"', "c"]]),  # two of them stand for one
        ('"a" b"c"\td', [['a b"c"', "d"]]),  # behind the closing one the field goes on, and they are ordinary
        ('a "b"\tc', [['a "b"', "c"]]),  # as they are within a field
        ('""\t""', [["", ""]]),
        ("a\rb\r\nc\n\nd\r\re", [["a"], ["b"], ["c"], ["d"], ["e"]]),
        ("a\t\n\t\n", [["a", ""], ["", ""]]),
        ("a\n  \n b", [["a"], [" b"]]),  # leading spaces stay, a line of them goes
        ("a\r\r\tb", [["a"], ["b"]]),  # the `\r` of a blank line swallows a delimiter
        ("a\r\r\t b", [["a"], ["", " b"]]),  # but not before leading spaces
    ],
)
def test_fields_and_records_are_split_where_pandas_splits_them(text, records):
    assert list(split_records(text + ('\n"x"' if "\r" not in text else ""), "\t")) == records + (
        [["x"]] if "\r" not in text else []
    )


def test_a_line_of_tabs_is_blank_where_commas_delimit():
    assert list(split_records('a,b\n \t \n1,"2"', ",")) == [["a", "b"], ["1", "2"]]


def test_the_short_way_for_texts_without_quotes_gives_the_same_records():
    text = "a\tb\n\n  \n 1\t\n\t2 \n"
    assert [*split_records(text, "\t")] == [*split_records(text.replace("\n", "\r\n"), "\t")]


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (["a", "a", "a"], ["a", "a.1", "a.2"]),
        (["a", "a", "a.1"], ["a", "a.2", "a.1"]),  # a.1 is taken
        (["", "x", ""], ["Unnamed: 0", "x", "Unnamed: 2"]),
        (["", "Unnamed: 0"], ["Unnamed: 0.1", "Unnamed: 0"]),  # the given name comes first
    ],
)
def test_repeated_and_missing_names_are_told_apart(header, names):
    assert distinct(header) == names


LONG, BEYOND_INT64 = "99134986705628630415", "9223372036854775808"


@pytest.mark.parametrize(
    ("cells", "kept"),
    [
        (["N/A", LONG, "x"], True),  # whole numbers are given up at the long one; text remains
        (["N/A", LONG, "5"], False),  # Python's whole numbers hold them all
        (["x", "N/A", LONG], False),  # text from the start
        (["N/A", f"{LONG} ", "x"], False),  # a space behind it, and it is no whole number to begin with
        (["N/A", BEYOND_INT64], True),  # unsigned numbers know no missing ones
        (["N/A", BEYOND_INT64, "-5"], True),
        (["N/A", BEYOND_INT64, "1.5"], False),  # fractions do
        (["N/A", f"-{LONG}", "x"], False),
        (["N/A", f"-{LONG}", "5"], False),
        (["N/A", "7" * 5000, "x"], True),  # beyond what Python turns into a number
    ],
)
def test_missing_values_are_kept_in_columns_whose_whole_numbers_grow_too_long(cells, kept):
    assert (rows("\n".join(["name", *cells]))[cells.index("N/A")] == ("n/a",)) is kept


def without_pandas(text, delimiter, header):
    try:
        return names_and_rows(read_table(text, delimiter, header=header))
    except TableError:
        return None


def with_pandas(text, delimiter, header):
    import pandas as pd

    try:
        table = read(io.StringIO(text), sep=delimiter, header="infer" if header else None)
    except (pd.errors.ParserError, pd.errors.EmptyDataError):
        return None
    return list(table.columns), [tuple(row) for row in table.to_numpy().tolist()]


# No `\r`, no NUL and no long numbers: there pandas' releases differ.
PIECES = st.sampled_from(
    [
        "\t",
        "\n",
        "\t",
        "\n",
        ",",
        '"',
        '""',
        " ",
        "a",
        "b",
        "A",
        "1",
        "2.5",
        "%",
        "$",
        "N/A",
        "nan",
        "北",
        "a.1",
        "True",
        "false",
    ]
    + ["1e3", "٣", "-", "inf", "\ufeff", "\u00a0", "\x0b", "2020-01-01", "1_000", "#", "'", "\\"]
)


@given(text=st.lists(PIECES, max_size=20).map("".join), delimiter=st.sampled_from("\t,"), header=st.booleans())
def test_any_text_is_read_as_pandas_reads_it(text, delimiter, header):
    assert without_pandas(text, delimiter, header) == with_pandas(text, delimiter, header)
