"""Files of every format that are torn, mixed up or of another kind: the right reading or one message, no traceback."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.ilrec.dataset.amazon import Amazon2014, Amazon2018, Amazon2023
from src.ilrec.dataset.movielens import MovieLensFiles
from src.ilrec.dataset.sources import LcRecFiles, RecBoleFiles
from src.ilrec.dataset.table import Table
from src.launch.errors import InputError

USERS = ("A1YS9MDZP93857", "A3TS466QBAWB9D", "A2LH6EH2G3QXYZ")
ITEMS = ("B00YQ6X8EO", "0001393774", "B000A3UB4W")
EXPECTED = [(user, item, 1_203_897_600 + 10 * i + j) for i, user in enumerate(USERS) for j, item in enumerate(ITEMS)]


def joined(mark, order=(0, 1, 3), header=None):
    rows = [(user, item, "5.0", str(time)) for user, item, time in EXPECTED]
    return "\n".join([*([header] if header else []), *(mark.join(row[c] for c in order) for row in rows)]) + "\n"


def json_lines(user, item, time, write=json.dumps):
    return "".join(write({user: u, "text": "fine, é", item: i, time: t}) + "\n" for u, i, t in EXPECTED)


def lists():
    return json.dumps({user: [int(user[1]), 5, 9] for user in USERS}) + "\n"


# Format -> file, content, how it is read.
FORMATS = {
    "recbole": ("X.inter", joined("\t", header="user_id:token\titem_id:token\ttimestamp:float"),
                lambda folder: RecBoleFiles(str(folder), "X")),
    "lcrec": ("X.inter.json", lists(), lambda folder: LcRecFiles(str(folder), "X")),
    "amazon_2014": ("ratings_X.csv", joined(",", (0, 1, 2, 3)),
                    lambda folder: Amazon2014(str(folder / "ratings_X.csv"))),
    "amazon_2018": ("X.csv", joined(",", (1, 0, 2, 3)), lambda folder: Amazon2018(str(folder / "X.csv"))),
    "amazon_2018_reviews": ("X_5.json", json_lines("reviewerID", "asin", "unixReviewTime"),
                            lambda folder: Amazon2018(str(folder / "X_5.json"))),
    "amazon_2023": ("X.jsonl", json_lines("user_id", "parent_asin", "timestamp"),
                    lambda folder: Amazon2023(str(folder / "X.jsonl"))),
    "amazon_2023_ratings": ("X.csv", joined(",", (0, 1, 2, 3), "user_id,parent_asin,rating,timestamp"),
                            lambda folder: Amazon2023(str(folder / "X.csv"))),
    "ml_100k": ("u.data", joined("\t", (0, 1, 2, 3)), MovieLensFiles),
    "ml_1m": ("ratings.dat", joined("::", (0, 1, 2, 3)), MovieLensFiles),
    "ml_20m": ("ratings.csv", joined(",", (0, 1, 2, 3), "userId,movieId,rating,timestamp"), MovieLensFiles),
    "steam": ("steam.json", json_lines("username", "product_id", "date", repr),
              lambda folder: Table(str(folder / "steam.json"), user="username")),
    "csv": ("X.csv", joined(",", header="user,item,timestamp"), lambda folder: Table(str(folder / "X.csv"))),
    "tsv_without_header": ("X.tsv", joined("\t"),
                           lambda folder: Table(str(folder / "X.tsv"), ["user", "item", "timestamp"])),
    "json_lines": ("X.jsonl", json_lines("user", "item", "time"), lambda folder: Table(str(folder / "X.jsonl"))),
}  # fmt: skip
RIGHT = {name: EXPECTED for name in FORMATS} | {
    "lcrec": [(user, str(item), None) for user in USERS for item in (int(user[1]), 5, 9)]
}


def source(folder, form, content=None):
    """Write a file of a format, perhaps with other content, and what the format needs beside it."""
    file, whole, opened = FORMATS[form]
    for films in ("movies.csv", "movies.dat", "u.item"):
        (folder / films).touch()
    (folder / file).write_bytes(whole.encode() if content is None else content)
    return opened(Path(folder))


def outcome(folder, form, content):
    """Return the rows, or the message, which must name the file."""
    try:
        opened = source(folder, form, content)
        opened.files()
        return list(opened.rows())
    except InputError as error:
        message = str(error)
    assert FORMATS[form][0] in message
    return message


@pytest.mark.parametrize("form", FORMATS)
def test_the_format_as_published_is_read(tmp_path, form):
    opened = source(tmp_path, form)
    assert opened.files()[0] == tmp_path / FORMATS[form][0]
    assert list(opened.rows()) == RIGHT[form]


# What does not change what a file says.
HARMLESS = {
    "a byte order mark": lambda c: b"\xef\xbb\xbf" + c,
    "Windows line ends": lambda c: c.replace(b"\n", b"\r\n"),
    "no line end at the end": lambda c: c.rstrip(b"\n"),
    "empty lines at the end": lambda c: c + b"\n\n",
    "gzip without its ending": lambda c: gzip.compress(c),
    "gzip of several members": lambda c: gzip.compress(c[:50]) + gzip.compress(c[50:]),
}
# What makes a file another one; each must be refused with a message that names the file, and mostly the line.
HARMFUL = {
    "empty": lambda c: b"",
    "empty lines only": lambda c: b"\n\n\n",
    "packed and cut short": lambda c: gzip.compress(c)[:-10],
    "a ZIP archive": lambda c: b"PK\x03\x04" + c,
    "bzip2": lambda c: b"BZh91AY&SY" + c,
    "xz": lambda c: b"\xfd7zXZ\x00" + c,
    "zstd": lambda c: b"\x28\xb5\x2f\xfd" + c,
    "UTF-16": lambda c: c.decode().encode("utf-16"),
    "UTF-16 without a mark": lambda c: c.decode().encode("utf-16-le"),
    "Latin-1": lambda c: c[: len(c) // 2] + b"\xe9" + c[len(c) // 2 :],
    "NUL bytes at the end": lambda c: c + b"\0" * 64,
    "NUL in an id": lambda c: c.replace(b"A3TS", b"A3\0S", 1),
    "HTML": lambda c: b"<!DOCTYPE html>\n<html><body>404, not, found, here</body></html>\n",
    "cut within the last line": lambda c: c.rstrip(b"\n")[:-20],
    "another file after it": lambda c: c + b"Thank you, for, using\n",
    "a binary file": lambda c: bytes(range(256)) * 4,
    "parquet cut short": lambda c: b"PAR1" + c,
    "a pickle": lambda c: b"\x80\x04\x95\x1f\x00\x00" + c,
    "a JSON array": lambda c: b"[" + c + b"]",
    "one number": lambda c: b"17\n",
    "one long word": lambda c: b"x" * 200_000,
    "deep brackets": lambda c: b'{"a":' * 100_000,
    "a number of 5,000 digits": lambda c: b'{"a": ' + b"7" * 5000 + b"}\n",
}
# What is wrong with one value, written over the timestamp or an id of the second row.
BAD_TIMES = ("soon", "", "nan", "inf", "-inf", "1e999999999", "9223372036854775808", "1203897610.5", "0x10", "12:30",
             "2008-13-45", "2008-02-25", "[]", "1,5")  # fmt: skip
BAD_IDS = ("", " ", "nan", "NaN", "None", "null", "<NA>", "A\x07")


@pytest.mark.parametrize("change", HARMLESS)
@pytest.mark.parametrize("form", FORMATS)
def test_what_does_not_change_what_a_file_says_changes_no_row(tmp_path, form, change):
    assert outcome(tmp_path, form, HARMLESS[change](FORMATS[form][1].encode())) == RIGHT[form]


@pytest.mark.parametrize("change", HARMFUL)
@pytest.mark.parametrize("form", FORMATS)
def test_what_makes_a_file_another_one_is_refused(tmp_path, form, change):
    message = outcome(tmp_path, form, HARMFUL[change](FORMATS[form][1].encode()))
    assert isinstance(message, str), message[:3]
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("old", "bad"), [("1203897601", bad) for bad in BAD_TIMES] + [(ITEMS[1], bad) for bad in BAD_IDS]
)
@pytest.mark.parametrize("form", [form for form in FORMATS if form != "lcrec"])
def test_a_bad_value_is_refused_with_its_line(tmp_path, form, old, bad):
    whole = FORMATS[form][1]
    if bad == "0x10" and form == "steam":
        pytest.skip("a number in Python")
    message = outcome(tmp_path, form, whole.replace(old, bad, 1).encode())
    line = whole[: whole.index(old)].count("\n") + 1
    assert isinstance(message, str), message[:3]
    assert f"{FORMATS[form][0]}, line {line}: " in message


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "lcrec"])
def test_a_row_with_too_few_or_too_many_cells_or_fields_is_refused_with_its_line(tmp_path, form):
    lines = FORMATS[form][1].splitlines()
    for bad in (lines[2][:12], lines[2] + lines[2]):
        message = outcome(tmp_path, form, "\n".join([*lines[:2], bad, *lines[3:]]).encode())
        assert f"{FORMATS[form][0]}, line 3: " in message


@pytest.mark.parametrize("form", ["recbole", "amazon_2023_ratings", "ml_20m", "csv"])
def test_headers_that_are_absent_twice_or_repeated_are_refused(tmp_path, form):
    header, *rows = FORMATS[form][1].splitlines()
    mark = "\t" if form == "recbole" else ","
    cells = header.split(mark)
    for changed in (
        rows,
        [mark.join([*cells[:-1], cells[0]]), *rows],
        [mark.join(cells[:-1]), *rows],
        [mark.join([*cells[1:], "other"]), *rows],
        [header, *rows[:4], header, *rows[4:]],
    ):
        assert isinstance(outcome(tmp_path, form, "\n".join(changed).encode()), str)


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=40)
@given(data=st.data())
def test_any_cut_or_byte_that_is_changed_gives_rows_of_the_file_or_a_message(tmp_path_factory, form, data):
    content = bytearray(FORMATS[form][1].encode())
    if cut := data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    else:
        position = data.draw(st.integers(0, len(content) - 1))
        content[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    rows = outcome(tmp_path_factory.mktemp("damage"), form, bytes(content))
    if isinstance(rows, list):
        right = RIGHT[form]
        # A cut leaves whole rows, but that the last number may be shorter; a changed byte changes a row or two.
        kept = max(0, len(rows) - 1)
        assert rows[:kept] == right[:kept] if cut else abs(len(rows) - len(right)) <= 1
