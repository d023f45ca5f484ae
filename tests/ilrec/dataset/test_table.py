import gzip
import importlib.util
import json
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from src.ilrec.dataset.interactions import prepare
from src.ilrec.dataset.sources import Item
from src.ilrec.dataset.table import HubTable, Table
from src.launch.errors import InputError
from tests.hub_server import serve

ROWS = [("u1", "i1", 5), ("u1", "i2", 6), ("u2", "i1", 7)]
REVIEW = (
    "{u'username': u'Chaos Syren', u'hours': 0.1, u'products': 41, u'product_id': u'725280', u'page_order': 0, "
    "u'date': u'2017-12-17', u'text': u'It\\'s \"fine\"', u'early_access': False, u'page': 1}\n"
)
GAMES = (
    "{u'publisher': u'Kotoshiro', u'genres': [u'Action', u'Casual'], u'app_name': u'Lost Summoner Kitty', "
    "u'title': u'Lost Summoner Kitty', u'price': 4.99, u'id': u'725280', u'developer': u'Kotoshiro'}\n"
    "{u'url': u'http://store.steampowered.com/app/', u'genres': [u'Free to Play']}\n"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ILREC_GISA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path / name)

    return write


@pytest.fixture
def write_parquet(tmp_path):
    def write(**columns):
        parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
        return str(tmp_path / "x.parquet")

    return write


@pytest.mark.parametrize(
    "header",
    ["user,item,timestamp", "user_id,item_id,time", "reviewerID,asin,unixReviewTime", "USER ID,parent_asin,Timestamp"],
)
def test_columns_are_known_by_their_usual_names(write, header):
    path = write("x.csv", f"{header}\nu1,i1,5\nu1,i2,6\nu2,i1,7\n")
    assert list(Table(path).rows()) == ROWS


@pytest.mark.parametrize("mark", ["\t", ",", ";", "|", "::"])
def test_the_separator_is_found_in_the_first_line(write, mark):
    path = write("x.txt", "".join(mark.join(map(str, row)) + "\n" for row in ROWS))
    assert list(Table(path, ["user", "item", "timestamp"]).rows()) == ROWS


def test_settings_name_the_columns_and_are_believed_before_usual_names(write):
    path = write("x.csv", "when,user,listener,song\n5,x,u1,i1\n6,x,u1,i2\n7,y,u2,i1\n")
    assert list(Table(path, user="listener", item="song", timestamp="when").rows()) == ROWS


def test_names_of_columns_are_for_a_file_without_a_header_and_pass_over_one_of_usual_names(write):
    columns = ["item", "user", "rating", "timestamp"]
    rows = "i1,u1,5.0,5\ni2,u1,5.0,6\ni1,u2,5.0,7\n"
    assert list(Table(write("a.csv", rows), columns).rows()) == ROWS
    assert list(Table(write("b.csv", "parent_asin,user_id,rating,timestamp\n" + rows), columns).rows()) == ROWS


def test_a_file_without_header_says_what_to_type(write):
    with pytest.raises(
        InputError, match=r"x\.csv, line 1: no column of user, item, timestamp among u1, i1, 5"
    ) as error:
        list(Table(write("x.csv", "u1,i1,5\n")).rows())
    assert "dataset.source.columns=[user,item,rating,timestamp]" in str(error.value)


def test_a_setting_that_names_no_column_lists_those_there_are(write):
    with pytest.raises(InputError, match="no column 'song', which dataset.source.item names; it has user, item, time"):
        list(Table(write("x.csv", "user,item,time\na,b,5\n"), item="song").rows())


def test_names_of_columns_are_refused_for_files_that_name_their_own(write):
    with pytest.raises(InputError, match="names its columns itself.*\n.*dataset.source.user=<column>"):
        list(Table(write("x.jsonl", '{"user": "a", "item": "b", "time": 5}\n'), ["user", "item", "time"]).rows())


def test_quoted_cells_hold_separators_quotes_and_line_breaks(write):
    path = write("x.csv", 'user,item,time,title\n"u,1",i1,5,"Say ""Hi"",\nboth"\nu2,i2,6,Plain\n')
    assert list(Table(path).rows()) == [("u,1", "i1", 5), ("u2", "i2", 6)]
    assert Table(path).catalogue({"i1", "i2"}) == {
        "i1": Item('Say "Hi", both', 'Say "Hi", both'),
        "i2": Item("Plain", "Plain"),
    }


def test_a_stray_quote_does_not_swallow_rows(write):
    path = write("x.csv", 'title,user,item,time\n"Weird Al,u1,i1,5\nPlain,u1,i2,6\nAl",u1,i1,7\n')
    with pytest.raises(InputError, match=r"line 2: a quote opened here swallows rows up to line 4"):
        list(Table(path).rows())


def test_ids_of_a_nullable_column_are_one_user_not_two(write, write_parquet):
    path = write("x.csv", "user,item,time\n5.0,7.0,1\n5,7,2\n")
    assert list(Table(path).rows()) == [("5", "7", 1), ("5", "7", 2)]
    path = write_parquet(user=[5.0, 6.0], item=[7, 8], timestamp=[1.0, 2.0])
    assert list(Table(path).rows()) == [("5", "7", 1), ("6", "8", 2)]


@pytest.mark.parametrize("column", ["user", "item", "timestamp"])
@pytest.mark.parametrize("absent", [None, float("nan")])
def test_absence_in_a_parquet_file_is_refused_with_its_row(write_parquet, column, absent):
    columns = {name: [1.0, 2.0, 3.0] for name in ("user", "item", "timestamp")}
    columns[column][1] = absent
    with pytest.raises(InputError, match=r"x\.parquet, row 2: "):
        list(Table(write_parquet(**columns)).rows())


def test_numbers_that_a_float_cannot_tell_apart_are_refused(write, write_parquet):
    with pytest.raises(InputError, match="several whole numbers"):
        list(Table(write_parquet(user=[2.0**60], item=[1], timestamp=[1])).rows())
    with pytest.raises(InputError, match="column 'timestamp' is float, and 1203897600 in it"):
        list(Table(write_parquet(user=[1], item=[1], timestamp=pa.array([1203897600.0], pa.float32()))).rows())
    with pytest.raises(InputError, match=r"x\.jsonl, line 1: timestamp 1e\+18 is a float"):
        list(Table(write("x.jsonl", '{"user": 1, "item": 2, "time": 1e18}\n')).rows())


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [(pa.timestamp("ns"), 1_203_897_600_000_000_001, 1_203_897_600_000_000_001), (pa.date32(), 14_000, 14_000),
     (pa.timestamp("ms", "UTC"), 12, 12), (pa.uint64(), 7, 7), (pa.string(), "2014-05-01", 1_398_902_400_000_000)],
)  # fmt: skip
def test_moments_of_a_parquet_file_keep_their_unit(write_parquet, kind, value, read):
    path = write_parquet(user=["a"], item=pa.array(["b"]).dictionary_encode(), time=pa.array([value], kind))
    assert list(Table(path).rows()) == [("a", "b", read)]


def test_a_torn_parquet_file_and_lists_as_ids_are_refused(write, write_parquet):
    content = Path(write_parquet(user=[1], item=[1], timestamp=[1])).read_bytes()
    with pytest.raises(InputError, match=r"y\.parquet is no whole parquet file"):
        list(Table(write("y.parquet", content[:-9])).rows())
    with pytest.raises(InputError, match=r"row 1: user='\[1\]' is a list"):
        list(Table(write_parquet(user=[[1]], item=[1], timestamp=[1])).rows())


@pytest.mark.parametrize(
    ("date", "microseconds"),
    [
        ("1970-01-02", 86_400_000_000),
        ("1970-01-01T00:00:01Z", 1_000_000),
        ("1970-01-01 00:00:01.000002", 1_000_002),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:59:59Z", -1_000_000),
    ],
)
def test_dates_are_exact_microseconds(write, date, microseconds):
    assert list(Table(write("x.csv", f"user,item,date\na,b,{date}\n")).rows()) == [("a", "b", microseconds)]


@pytest.mark.parametrize("other", ["1203897600", "2014-05-01T12:00:00Z", "2014-05-01T12:00:00.1234567", "2014-13-01"])
def test_dates_of_another_kind_than_the_first_or_finer_than_microseconds_are_refused(write, other):
    with pytest.raises(InputError, match=r"x\.csv, line 3: timestamp '"):
        list(Table(write("x.csv", f"user,item,date\na,b,2014-05-01\na,c,{other}\n")).rows())


@pytest.mark.parametrize("empty", ["", "  ", "nan", "NaN", "None", "null", "<NA>"])
def test_an_absent_title_is_empty_and_erases_none(write, empty):
    path = write("x.csv", f"user,item,time,title\na,1,5,{empty}\na,1,6,One\na,1,7,{empty}\na,2,8,{empty}\n")
    assert Table(path).catalogue({"1", "2"}) == {"1": Item("One", "One"), "2": Item("", "")}


@pytest.mark.parametrize("title", ["null", "NaN", "1984", '""'])
def test_titles_of_json_may_be_absent_or_numbers(write, title):
    path = write("x.jsonl", f'{{"user": "a", "item": 1, "time": 5, "title": {title}}}\n')
    title = "1984" if title == "1984" else ""
    assert Table(path).catalogue({"1"}) == {"1": Item(title, title)}


@pytest.mark.parametrize("title", [["A", "B"], {"a": 1}, True])
def test_a_title_that_is_no_text_is_refused(write, title):
    path = write("x.jsonl", json.dumps({"user": "a", "item": 1, "time": 5, "title": title}))
    with pytest.raises(InputError, match=r"x\.jsonl, line 1: the title .* is a (list|dict|bool), no text"):
        Table(path).catalogue({"1"})


def test_titles_that_differ_within_an_item_may_be_those_of_reviews(write):
    path = write("x.csv", "user,item,time,title\na,1,5,Great!\nb,1,6,Bad\n")
    with pytest.raises(InputError, match="item '1' has the title 'Great!' and here 'Bad'.*dataset.source.title=''"):
        Table(path).catalogue({"1"})
    assert Table(path, title="title").catalogue({"1"}) == {"1": Item("Great!", "Great!")}
    assert Table(path, title="").catalogue({"1"}) == {}


def test_titles_and_text_come_from_a_file_of_items(write):
    path = write("x.csv", "user,item,time\na,1,5\n")
    items = write("items.jsonl", '{"id": 1, "name": "One", "genres": ["A", null, "B"], "year": 1984.0}\n')
    assert Table(path, items=items, text=["genres", "year"]).catalogue({"1"}) == {"1": Item("One", "One. A B. 1984")}
    with pytest.raises(InputError, match=r"items\.jsonl has no column 'genre', which dataset.source.text names"):
        Table(path, items=items, text=["genre"]).catalogue({"1"})


def test_another_encoding_is_a_setting(write):
    path = write("x.csv", "user,item,time\né,1,5\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"x\.csv, line 2: not UTF-8 text"):
        list(Table(path).rows())
    assert list(Table(path, encoding="latin-1").rows()) == [("é", "1", 5)]


@pytest.mark.parametrize("encoding", ["latin-99", "rot13", "hex", "undefined", "utf-8\0"])
def test_what_is_no_encoding_of_text_is_refused(write, encoding):
    with pytest.raises(InputError, match=f"dataset.source.encoding={encoding} is not known"):
        list(Table(write("x.csv", "user,item,time\nu,1,5\n"), encoding=encoding).rows())


@pytest.mark.parametrize("path", ["", "a" * 5000, "~nobody-of-this-name/x.csv"])
def test_what_can_be_no_path_is_refused(path):
    with pytest.raises(InputError, match=r"dataset.source names no file: .*\nType a path that there is"):
        prepare(Table(path))


def test_one_column_is_not_users_and_items(write):
    path = write("x.csv", "user,item,time\nu,1,5\n")
    with pytest.raises(InputError, match="user and item are both column 'item'.\nType:  dataset.source.user=<column>"):
        list(Table(path, user="item").rows())


def test_settings_that_change_the_reading_change_the_fingerprint(write):
    path = write("x.csv", "".join(f"u{n % 3},i{n},{n}\n" for n in range(9)))
    columns = ["user", "item", "timestamp"]
    one, other = (prepare(Table(path, columns, item=item), k_core=1) for item in ("item", "timestamp"))
    assert one.fingerprint != other.fingerprint
    assert (one.item_ids[0], other.item_ids[0]) == ("i0", "0")


def test_steam_reviews_as_published_are_lines_of_python(write):
    path = write("steam_reviews.json.gz", gzip.compress(REVIEW.encode()))
    items = write("steam_games.json.gz", gzip.compress(GAMES.encode()))
    source = Table(path, user="username", timestamp="date", items=items, text=["genres"], absent=[""])
    assert source.name == "steam_reviews"
    # 2017-12-17 is day 17,517 of the epoch.
    assert list(source.rows()) == [("Chaos Syren", "725280", 17_517 * 86_400_000_000)]
    title = "Lost Summoner Kitty"
    assert source.catalogue({"725280"}) == {"725280": Item(title, f"{title}. Action Casual")}


def test_a_line_of_python_may_hold_values_only(write):
    path = write(
        "x.json", REVIEW + "{'username': __import__('os').getcwd(), 'product_id': '1', 'date': '2017-12-17'}\n"
    )
    with pytest.raises(InputError, match=r"x\.json, line 2: damaged or truncated JSON"):
        list(Table(path).rows())


@pytest.fixture
def library(monkeypatch):
    """The library, without a network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("datasets", reason="needs the package datasets")


def test_a_saved_data_set_and_a_folder_of_files_of_the_hugging_face_library_are_read(tmp_path, library, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")
    columns = {"user": [row[0] for row in ROWS], "item": [row[1] for row in ROWS], "timestamp": [5, 6, 7]}
    library.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "saved"))
    saved = HubTable(str(tmp_path / "saved"))
    assert list(saved.rows()) == ROWS
    assert saved.name == "saved"
    assert all(path.is_file() for path in saved.files())
    (tmp_path / "files").mkdir()
    parquet.write_table(pa.table(columns | {"title": ["One", "Two", "One"]}), tmp_path / "files" / "x.parquet")
    files = HubTable(str(tmp_path / "files"))
    assert list(files.rows()) == ROWS
    assert files.catalogue({"i1"}) == {"i1": Item("One", "One")}


def test_the_parts_of_a_data_set_are_read_as_leave_one_out_or_one_is_chosen(tmp_path, library):
    parts = {"train": [("u", "a", 1)], "validation": [("u", "b", 2)], "test": [("u", "c", 3)]}
    saved = library.DatasetDict(
        {
            part: library.Dataset.from_dict(
                dict(zip(("user", "item", "timestamp"), zip(*rows, strict=True), strict=True))
            )
            for part, rows in parts.items()
        }
    )
    saved.save_to_disk(str(tmp_path / "all"))
    data = prepare(HubTable(str(tmp_path / "all")), k_core=1)
    assert [data.item_ids[item] for item in data.sequence(0)] == ["a", "b", "c"]
    assert list(HubTable(str(tmp_path / "all"), split="test").rows()) == [("u", "c", 3)]
    with pytest.raises(InputError, match="dataset.source.split=dev is none of train, validation, test"):
        HubTable(str(tmp_path / "all"), split="dev").files()
    library.DatasetDict({part: saved[part] for part in ("train", "test")}).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(InputError, match="has the parts train, test. Type which to read:  dataset.source.split=<part>"):
        HubTable(str(tmp_path / "two")).files()


def test_a_name_that_cannot_be_loaded_says_what_is_needed(tmp_path, library):
    with pytest.raises(InputError, match="cannot be loaded as a Hugging Face data set") as error:
        HubTable(str(tmp_path / "absent")).files()
    assert "dataset=table" in str(error.value)


def test_a_name_on_the_hub_is_downloaded_once_at_the_revision_that_is_asked_for(tmp_path, library, monkeypatch):
    for name, value in (("HF_DATASETS_CACHE", tmp_path / "data"), ("HF_HUB_OFFLINE", False)):
        monkeypatch.setattr(f"datasets.config.{name}", value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    rows = "".join(f"{user},{item},{time},Film\n" for user, item, time in ROWS)
    with serve() as hub, hub.known_to_the_client(monkeypatch, tmp_path):
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.address)
        hub.repositories["datasets/me/clicks"] = {"clicks.csv": f"user,item,timestamp,title\n{rows}".encode()}
        table = HubTable("me/clicks", revision="v1")
        assert [path.suffix for path in table.files()] == [".arrow"]
        assert [(user, item, int(time)) for user, item, time in table.rows()] == ROWS
        assert table.catalogue({"i1"}) == {"i1": Item("Film", "Film")}
        calls = " ".join(hub.calls)
        assert "/datasets/me/clicks/revision/v1" in calls or "/resolve/v1/" in calls
        assert len([call for call in hub.calls if call.startswith("GET") and call.endswith("/clicks.csv")]) == 1
        with pytest.raises(InputError, match="cannot be loaded as a Hugging Face data set") as error:
            HubTable("me/nothing").files()
        assert "me/nothing" in str(error.value)


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="the package is there")
def test_without_the_library_it_says_what_to_install():
    with pytest.raises(InputError, match=r"pip install -e '\.\[datasets\]'"):
        HubTable("owner/name").files()
    assert "datasets" not in sys.modules
