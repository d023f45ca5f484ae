import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from src.ilrec.dataset.amazon import Amazon2014, Amazon2018, Amazon2023
from src.ilrec.dataset.sources import Item
from src.launch.errors import InputError

REPOSITORY = Path(__file__).parents[3]

CSV = "0001393774,A1YS9MDZP93857,5.0,1203897600\n0001393774,A3TS466QBAWB9D,4.0,1394150400\n"
REVIEW = {
    "rating": 5.0, "title": "Good", "text": "I like it.", "images": [], "asin": "B0CHILD", "parent_asin": "B00YQ6X8EO",
    "user_id": "AGKHLEW2SOWHNMFQIJGBECAF7INQ", "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": True,
}  # fmt: skip


def pack(path, *records):
    path.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()))
    return str(path)


def test_ratings_of_2018_are_item_user_rating_timestamp_without_header(tmp_path):
    (tmp_path / "Books.csv").write_text(CSV)
    source = Amazon2018(str(tmp_path / "Books.csv"))
    assert source.name == "Books"
    assert list(source.rows()) == [
        ("A1YS9MDZP93857", "0001393774", 1203897600),
        ("A3TS466QBAWB9D", "0001393774", 1394150400),
    ]
    assert source.catalogue({"0001393774"}) == {}


def test_metadata_of_2018_has_texts_or_lists_entities_tags_and_script_titles(tmp_path):
    (tmp_path / "Books.csv").write_text(CSV)
    metadata = pack(
        tmp_path / "meta_Books.json.gz",
        {
            "asin": "1",
            "title": "Salt &amp; Pepper",
            "brand": "B",
            "category": ["C", "D"],
            "description": ["<b>Two</b>\n"],
        },
        {"asin": "2", "title": "Plain", "description": "One text"},
        {"asin": "3", "title": "var aPageStart = (new Date()).getTime();", "brand": "X"},
        {"asin": "4", "title": "Not asked for"},
    )
    assert Amazon2018(str(tmp_path / "Books.csv"), metadata).catalogue({"1", "2", "3", "5"}) == {
        "1": Item("Salt & Pepper", "Salt & Pepper. B. C D. Two"),
        "2": Item("Plain", "Plain. One text"),
        "3": Item("", "X"),
    }


def test_reviews_of_2023_count_for_the_parent_item_in_milliseconds(tmp_path):
    source = Amazon2023(pack(tmp_path / "All_Beauty.jsonl.gz", REVIEW))
    assert source.name == "All_Beauty"
    assert list(source.rows()) == [("AGKHLEW2SOWHNMFQIJGBECAF7INQ", "B00YQ6X8EO", 1588687728923)]


def test_metadata_of_2023_is_found_by_parent_item(tmp_path):
    record = {
        "main_category": "All Beauty", "title": "Soap", "average_rating": 4.8, "features": ["Soft", "Mild"],
        "description": [], "price": None, "store": "S", "categories": ["Beauty"], "parent_asin": "P", "details": {},
    }  # fmt: skip
    metadata = pack(tmp_path / "meta.jsonl.gz", record)
    source = Amazon2023(pack(tmp_path / "All_Beauty.jsonl.gz", REVIEW), metadata)
    assert source.catalogue({"P"}) == {"P": Item("Soap", "Soap. S. Beauty. Soft Mild")}


def test_a_truncated_ratings_line_is_named(tmp_path):
    (tmp_path / "Books.csv").write_text(CSV + "000139")
    with pytest.raises(InputError, match=r"Books\.csv, line 3: I need item,user,rating,timestamp, got '000139'"):
        list(Amazon2018(str(tmp_path / "Books.csv")).rows())


def test_a_ratings_file_with_a_header_is_refused_at_its_first_line(tmp_path):
    (tmp_path / "Books.csv").write_text("item,user,rating,timestamp\n" + CSV)
    with pytest.raises(InputError, match=r"Books\.csv, line 1: timestamp 'timestamp' is not a number"):
        list(Amazon2018(str(tmp_path / "Books.csv")).rows())


def test_a_review_without_a_field_is_named(tmp_path):
    record = {key: value for key, value in REVIEW.items() if key != "parent_asin"}
    with pytest.raises(InputError, match=r"a\.jsonl\.gz, line 2: no field 'parent_asin' in the review"):
        list(Amazon2023(pack(tmp_path / "a.jsonl.gz", REVIEW, record)).rows())


def test_a_review_with_a_bad_timestamp_is_named(tmp_path):
    with pytest.raises(InputError, match=r"a\.jsonl\.gz, line 1: timestamp 'None' is not a number"):
        list(Amazon2023(pack(tmp_path / "a.jsonl.gz", REVIEW | {"timestamp": None})).rows())


def test_metadata_of_the_other_year_is_refused(tmp_path):
    metadata = pack(tmp_path / "meta.jsonl.gz", {"asin": "1", "title": "Soap"})
    source = Amazon2023(pack(tmp_path / "a.jsonl.gz", REVIEW), metadata)
    with pytest.raises(InputError, match=r"meta\.jsonl\.gz, line 1: no field 'parent_asin' in the metadata"):
        source.catalogue({"1"})


def test_a_truncated_reviews_file_is_named(tmp_path):
    path = Path(pack(tmp_path / "a.jsonl.gz", *[REVIEW] * 50))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"a\.jsonl\.gz, line \d+: damaged or truncated gzip data"):
        list(Amazon2023(str(path)).rows())


@pytest.mark.parametrize("missing", ["reviews", "metadata"])
def test_a_missing_file_names_the_setting(tmp_path, missing):
    paths = {key: pack(tmp_path / f"{key}.gz", REVIEW) for key in ("reviews", "metadata")}
    Path(paths[missing]).unlink()
    with pytest.raises(InputError, match=f"I need the file that dataset.source.{missing} names"):
        Amazon2023(**paths).files()


MEASURE = """
import sys
from src.ilrec.dataset.amazon import Amazon2023
from src.ilrec.dataset.interactions import prepare

def peak():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

before = peak()
data = prepare(Amazon2023(*sys.argv[1:]), k_core=5)
print(peak() - before, len(data.items), data.num_items)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_grows_with_interactions_not_with_the_bytes_of_the_files(tmp_path):
    users, items, count = 200, 50, 20_000
    long = "word " * 400
    with (tmp_path / "R.jsonl").open("w") as stream:
        for number in range(count):
            # 7919 is prime to 200 * 50, so each of the pairs comes twice, at different times.
            pair = number * 7919 % (users * items)
            identity = {"user_id": f"u{pair % users}", "parent_asin": f"i{pair // users}"}
            stream.write(json.dumps(REVIEW | identity | {"timestamp": number, "text": long}) + "\n")
    with (tmp_path / "meta.jsonl").open("w") as stream:
        for number in range(10_000):
            record = {"parent_asin": f"i{number}", "title": f"Item {number}", "description": [long] * (number >= items)}
            stream.write(json.dumps(record) + "\n")
    files = [tmp_path / "R.jsonl", tmp_path / "meta.jsonl"]
    size = sum(path.stat().st_size for path in files)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, files)],
        cwd=REPOSITORY, env={"ILREC_GISA_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    growth, kept, kept_items = map(int, done.stdout.split())
    assert (kept, kept_items) == (count, items)
    assert size > 60e6
    # 24 bytes for each of 20,000 interactions are 0.5 MB; the rest is line buffers and what Python loads on the way.
    assert growth < 12e6, f"{growth / 1e6:.1f} MB for files of {size / 1e6:.0f} MB"


USER, ITEM = "A1YS9MDZP93857", "B00YQ6X8EO"


def test_ratings_of_2014_are_user_item_rating_timestamp(tmp_path):
    (tmp_path / "ratings_Beauty.csv").write_text(f"{USER},{ITEM},5.0,1369699200\n{USER},0205616461,3.0,1355443200\n")
    source = Amazon2014(str(tmp_path / "ratings_Beauty.csv"))
    assert source.name == "ratings_Beauty"
    assert list(source.rows()) == [(USER, ITEM, 1369699200), (USER, "0205616461", 1355443200)]


def test_reviews_of_2014_and_2018_are_json_lines_with_other_names(tmp_path):
    record = {
        "reviewerID": USER,
        "asin": ITEM,
        "overall": 5.0,
        "unixReviewTime": 1369699200,
        "reviewTime": "05 28, 2013",
    }
    source = Amazon2014(pack(tmp_path / "reviews_Beauty_5.json.gz", record))
    assert list(source.rows()) == [(USER, ITEM, 1369699200)]


def test_metadata_of_2014_is_written_as_python_writes_it(tmp_path):
    (tmp_path / "ratings.csv").write_text(f"{USER},{ITEM},5.0,1369699200\n")
    record = {"asin": ITEM, "title": "Girl's Tutu", "salesRank": {"Toys": 2}, "categories": [["A", "B"], ["C"]]}
    line = f"{record!r}\n"
    (tmp_path / "meta.json.gz").write_bytes(gzip.compress(line.encode()))
    source = Amazon2014(str(tmp_path / "ratings.csv"), str(tmp_path / "meta.json.gz"))
    assert source.catalogue({ITEM}) == {ITEM: Item("Girl's Tutu", "Girl's Tutu. A B C")}


def test_the_rating_only_files_of_2023_have_a_header_and_milliseconds(tmp_path):
    row = "AGKHLEW2SOWHNMFQIJGBECAF7INQ,B00YQ6X8EO,5.0,1588687728923\n"
    (tmp_path / "All_Beauty.csv").write_text("user_id,parent_asin,rating,timestamp\n" + row)
    assert list(Amazon2023(str(tmp_path / "All_Beauty.csv")).rows()) == [
        ("AGKHLEW2SOWHNMFQIJGBECAF7INQ", "B00YQ6X8EO", 1588687728923)
    ]


@pytest.mark.parametrize(
    ("kind", "content", "columns"),
    [
        (Amazon2014, f"{ITEM},{USER},5.0,1369699200\n", "item,user,rating,timestamp"),
        (Amazon2018, f"{USER},{ITEM},5.0,1369699200\n", "user,item,rating,timestamp"),
        (Amazon2023, f"user_id,asin,rating,timestamp\n{ITEM},{USER},5.0,1369699200\n", "user,item,rating,timestamp"),
    ],
)
def test_users_and_items_the_other_way_round_are_refused_with_the_order_to_type(tmp_path, kind, content, columns):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(InputError, match="users and items seem to be the other way round") as error:
        list(kind(str(tmp_path / "x.csv")).rows())
    assert f"dataset.source.columns=[{columns}]" in str(error.value)


def test_the_order_that_is_set_is_believed(tmp_path):
    (tmp_path / "x.csv").write_text(f"{USER},{ITEM},5.0,1369699200\n")
    for columns, row in (
        (["user", "item", "rating", "timestamp"], (USER, ITEM, 1369699200)),
        (["item", "user", "rating", "timestamp"], (ITEM, USER, 1369699200)),
    ):
        assert list(Amazon2018(str(tmp_path / "x.csv"), columns=columns).rows()) == [row]


def test_ids_that_look_alike_are_told_apart_by_the_metadata_or_the_order_is_asked_for(tmp_path):
    (tmp_path / "x.csv").write_text("thing,person,5.0,7\n")
    path = str(tmp_path / "x.csv")
    with pytest.raises(InputError, match=r"which are the items\?") as error:
        list(Amazon2018(path).rows())
    assert "dataset.source.columns=[" in str(error.value)
    metadata = pack(tmp_path / "meta.json.gz", {"asin": "other"}, {"asin": "thing", "title": "T"})
    assert list(Amazon2018(path, metadata).rows()) == [("person", "thing", 7)]
    with pytest.raises(InputError, match="the other way round"):
        list(Amazon2014(path, metadata).rows())


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("I <3 NY > LA", "I <3 NY > LA"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("<b>Bold</b> &lt;br/&gt;<a href='x'>link</a><BR>", "Bold link"),
        ("R&D &amp; AT&T; &copy 2014 &#39;x&#39;", "R&D & AT&T; &copy 2014 'x'"),
        ("<!-- hidden -->seen <Model X> <table width=5>", "seen <Model X>"),
        ("Never Say, Die", "Never Say, Die"),
    ],
)
def test_cleaning_takes_html_and_nothing_else(tmp_path, written, read):
    (tmp_path / "x.csv").write_text(CSV)
    metadata = pack(tmp_path / "meta.json.gz", {"asin": "1", "title": written})
    assert Amazon2018(str(tmp_path / "x.csv"), metadata).catalogue({"1"}) == {"1": Item(read, read)}


def test_an_empty_title_further_down_erases_none_and_a_list_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text(CSV)
    path = str(tmp_path / "x.csv")
    records = [{"asin": "1", "title": title} for title in (None, "Soap", "", float("nan"), "None")]
    assert Amazon2018(path, pack(tmp_path / "a.gz", *records)).catalogue({"1"}) == {"1": Item("Soap", "Soap")}
    with pytest.raises(InputError, match=r"b\.gz, line 1: the title \"\['A', 'B'\]\" is a list, no text"):
        Amazon2018(path, pack(tmp_path / "b.gz", {"asin": "1", "title": ["A", "B"]})).catalogue({"1"})


@pytest.mark.parametrize("field", ["user_id", "parent_asin"])
@pytest.mark.parametrize("absent", [None, float("nan"), "", " ", "nan"])
def test_a_review_of_nobody_or_nothing_is_refused_with_its_line(tmp_path, field, absent):
    with pytest.raises(InputError, match=r"a\.jsonl\.gz, line 2: no (user|item) \("):
        list(Amazon2023(pack(tmp_path / "a.jsonl.gz", REVIEW, REVIEW | {field: absent})).rows())
