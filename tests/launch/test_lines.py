import gzip
from decimal import Decimal, InvalidOperation

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.launch.errors import InputError
from src.launch.lines import existing_file, read_json_lines, read_json_object, read_lines, whole_number


def test_lines_are_numbered_from_one_and_empty_ones_are_passed_over(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"\xef\xbb\xbfhead\r\n\nb\tc\n")
    assert list(read_lines(tmp_path / "a.tsv")) == [(1, "head"), (3, "b\tc")]


def test_gzip_and_plain_files_read_alike(tmp_path):
    text = "one\ntwo\n"
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert list(read_lines(tmp_path / "a.txt")) == list(read_lines(tmp_path / "a.txt.gz"))


def test_a_truncated_gzip_file_is_named_with_the_line(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 3)[:-6])
    with pytest.raises(InputError, match=r"a\.jsonl\.gz, line \d+: damaged or truncated gzip data"):
        list(read_lines(path))


def test_a_damaged_gzip_file_is_named_with_the_line(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b"not gzip at all\n")
    with pytest.raises(InputError, match=r"a\.jsonl\.gz, line 1: damaged or truncated gzip data"):
        list(read_lines(path))


@given(cut=st.integers(0, 60), position=st.integers(0, 60), flip=st.integers(1, 255))
def test_a_damaged_gzip_file_gives_its_lines_or_an_error_that_names_it(tmp_path_factory, cut, position, flip):
    lines = [f"line {number}" for number in range(1, 6)]
    packed = bytearray(gzip.compress("\n".join(lines).encode(), mtime=0))
    packed[position % len(packed)] ^= flip
    path = tmp_path_factory.mktemp("damage") / "a.gz"
    path.write_bytes(packed[: max(1, len(packed) - cut)])
    try:
        outcome = [line for _, line in read_lines(path)]
    except InputError as error:
        outcome = str(error)
    assert outcome == lines or f"{path}, line " in outcome


def test_a_line_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"fine\n\xff\xfe\n")
    with pytest.raises(InputError, match=r"a\.csv, line 2: not UTF-8 text"):
        list(read_lines(tmp_path / "a.csv"))


def test_a_truncated_json_line_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": ')
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: damaged or truncated JSON"):
        list(read_json_lines(tmp_path / "a.jsonl"))


def test_a_json_line_that_is_no_object_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match=r"a\.jsonl, line 1: a JSON object is needed, got '\[1\]'"):
        list(read_json_lines(tmp_path / "a.jsonl"))


def test_a_truncated_json_file_is_named_with_line_and_column(tmp_path):
    (tmp_path / "a.json").write_text('{"0": [1,\n 2')
    with pytest.raises(InputError, match=r"a\.json, line 2: column 3: damaged or truncated JSON"):
        read_json_object(tmp_path / "a.json")


def test_a_json_file_that_is_no_object_is_named(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(InputError, match=r"a\.json, line 1: a JSON object is needed, got a list"):
        read_json_object(tmp_path / "a.json")


def test_a_json_file_that_is_not_utf_8_is_named_with_the_line(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{\n"\xff": 1}')
    with pytest.raises(InputError, match=r"a\.json, line 2: not UTF-8 text"):
        read_json_object(tmp_path / "a.json")


@given(st.text())
def test_any_text_is_a_json_object_or_an_error_that_names_the_file(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        outcome = read_json_object(path)
    except InputError as error:
        outcome = str(error)
    assert isinstance(outcome, dict) or f"{path}, line " in outcome


def test_a_missing_file_lists_what_the_folder_holds(tmp_path):
    (tmp_path / "other.inter").touch()
    with pytest.raises(InputError, match="holds: other.inter.\nI need the ratings."):
        existing_file(tmp_path / "x.inter", "the ratings")


def test_a_folder_in_the_place_of_a_file_is_named_with_what_it_holds(tmp_path):
    (tmp_path / "x.inter").touch()
    with pytest.raises(InputError, match="No file .*: it is a folder and holds: x.inter.\nI need the ratings."):
        existing_file(tmp_path, "the ratings")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"there is no folder .*nowhere"):
        existing_file(tmp_path / "nowhere" / "x.inter", "the ratings")


@pytest.mark.parametrize(
    ("text", "value"),
    [("978300760", 978300760), ("978300760.0", 978300760), ("9.7830076e8", 978300760), ("-1", -1), (" 7 ", 7)],
)
def test_a_timestamp_is_the_integer_it_is_written_as(text, value):
    assert whole_number(text) == value


def test_neighbouring_timestamps_beyond_the_precision_of_a_float_stay_apart():
    # 2^53 = 9007199254740992; as binary floats it and its successor are equal.
    assert whole_number("9007199254740993.0") - whole_number("9007199254740992.0") == 1


@pytest.mark.parametrize("text", ["", "soon", "nan", "inf", "1,5"])
def test_a_timestamp_that_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match="is not a number"):
        whole_number(text)


def test_a_fraction_of_a_second_is_refused_because_rounding_would_invent_ties():
    with pytest.raises(ValueError, match="not a whole number .* smaller unit, such as milliseconds"):
        whole_number("978300760.5")


@pytest.mark.parametrize("text", ["9223372036854775808", "1e999999999", "-1e30"])
def test_a_timestamp_beyond_64_bits_is_refused(text):
    with pytest.raises(ValueError, match="does not fit 64 bits"):
        whole_number(text)


@given(st.integers(-(2**63), 2**63 - 1), st.sampled_from(["{}", "{}.0", "{}.000", "{}e0"]))
def test_every_64_bit_integer_survives_its_spelling(value, spelling):
    assert whole_number(spelling.format(value)) == value


@given(st.text(max_size=12))
def test_any_text_is_an_exact_integer_or_a_value_error(text):
    try:
        value = whole_number(text)
    except ValueError:
        return
    try:
        assert value == Decimal(text)
    except InvalidOperation:
        pytest.fail(f"{text!r} was read as {value}")


@pytest.mark.parametrize("packed", [False, True])
def test_a_json_file_may_have_a_byte_order_mark_and_be_packed_under_any_name(tmp_path, packed):
    content = b"\xef\xbb\xbf" + b'{"a": 1}'
    (tmp_path / "a.json").write_bytes(gzip.compress(content) if packed else content)
    assert read_json_object(tmp_path / "a.json") == {"a": 1}
    assert list(read_json_lines(tmp_path / "a.json")) == [(1, {"a": 1})]


def test_plain_text_under_a_gzip_name_says_what_to_do(tmp_path):
    (tmp_path / "a.csv.gz").write_text("u,i,5\n")
    with pytest.raises(InputError, match=r"a\.csv\.gz, line 1: .*if the file is unpacked already, take that off"):
        list(read_lines(tmp_path / "a.csv.gz"))


def test_a_key_of_a_json_object_that_occurs_twice_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"user": 1, "user": 2}\n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: .*the key 'user' occurs twice"):
        list(read_json_lines(tmp_path / "a.jsonl"))


def test_a_folder_or_a_file_that_may_not_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        list(read_lines(tmp_path))


def test_long_files_show_how_far_they_are_read(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.csv").write_text("a,b\n" * 70_000)
    assert len(list(read_lines(tmp_path / "a.csv"))) == 70_000
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("src.launch.lines._LONG", 1000)
    monkeypatch.setattr("src.launch.progress._LONG_S", 0.0)
    assert len(list(read_lines(tmp_path / "a.csv"))) == 70_000
    assert "Reading a.csv [==========] 100%" in capsys.readouterr().err
