import json

import pytest

from src.ilrec.dataset.sources import Item, LcRecFiles, RecBoleFiles, article_first
from src.launch.errors import InputError

INTER = """\
user_id:token\titem_id:token\trating:float\ttimestamp:float
196\t242\t3\t881250949
186\t302\t3\t891717742.0
"""
ITEM = """\
item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
242\tKolya\t1996\tComedy
302\tL.A. Confidential\t1997\tCrime Film-Noir
"""


@pytest.fixture
def atomic(tmp_path):
    (tmp_path / "ml.inter").write_text(INTER)
    (tmp_path / "ml.item").write_text(ITEM)
    return RecBoleFiles(str(tmp_path), "ml")


@pytest.fixture
def lcrec(tmp_path):
    (tmp_path / "X.inter.json").write_text('{"0": [0, 5, 9], "1": [9, 0, 0]}')
    records = {
        "0": {"title": "Strings", "description": "Six of them.", "brand": "Loud", "categories": "Guitars"},
        "5": {"title": "Pick", "description": "", "brand": "", "categories": ""},
        "9": {"title": "Strap"},
    }
    (tmp_path / "X.item.json").write_text(json.dumps(records))
    return LcRecFiles(str(tmp_path), "X")


def test_atomic_interactions_have_exact_timestamps(atomic):
    assert list(atomic.rows()) == [("196", "242", 881250949), ("186", "302", 891717742)]


def test_columns_of_an_atomic_file_come_in_any_order_beside_others(tmp_path, atomic):
    (tmp_path / "ml.inter").write_text("x:float\ttimestamp:float\titem_id:token\tuser_id:token\n1\t2\t3\t4\n")
    assert list(atomic.rows()) == [("4", "3", 2)]


def test_a_title_carries_its_year_and_the_text_the_other_columns(atomic):
    assert atomic.catalogue({"302"}) == {
        "302": Item("L.A. Confidential (1997)", "L.A. Confidential (1997). Crime Film-Noir")
    }


@pytest.mark.parametrize("column", ["title", "movie_title", "book_title"])
def test_the_title_column_has_several_names(tmp_path, atomic, column):
    (tmp_path / "ml.item").write_text(f"item_id:token\t{column}:token_seq\tbrand:token\n242\tKolya\tX\n")
    assert atomic.catalogue({"242"}) == {"242": Item("Kolya", "Kolya. X")}


def test_an_item_file_without_titles_still_gives_text(tmp_path, atomic):
    (tmp_path / "ml.item").write_text("item_id:token\tsubtitled:token\n242\tyes\n")
    assert atomic.catalogue({"242"}) == {"242": Item("", "yes")}


def test_a_year_that_is_no_number_is_left_out(tmp_path, atomic):
    (tmp_path / "ml.item").write_text("item_id:token\ttitle:token_seq\trelease_year:token\n267\tunkonwn\tunkonwn\n")
    assert atomic.catalogue({"267"})["267"].title == "unkonwn"


def test_atomic_files_need_no_item_file(tmp_path, atomic):
    (tmp_path / "ml.item").unlink()
    assert atomic.files() == [tmp_path / "ml.inter"]
    assert atomic.catalogue({"242"}) == {}


def test_a_missing_column_is_named_with_the_header(tmp_path, atomic):
    (tmp_path / "ml.inter").write_text("user_id:token\titem_id:token\n1\t2\n")
    with pytest.raises(InputError, match=r"ml\.inter, line 1: no column timestamp in the header 'user_id:token"):
        list(atomic.rows())


def test_an_empty_atomic_file_is_named(tmp_path, atomic):
    (tmp_path / "ml.inter").write_text("")
    with pytest.raises(InputError, match=r"ml\.inter, line 1: no column user_id, item_id, timestamp"):
        list(atomic.rows())


def test_a_truncated_line_of_an_atomic_file_is_named(tmp_path, atomic):
    (tmp_path / "ml.inter").write_text(INTER + "22\t377")
    with pytest.raises(InputError, match=r"ml\.inter, line 4: 2 columns, but the header has 4"):
        list(atomic.rows())


def test_a_bad_timestamp_of_an_atomic_file_is_named(tmp_path, atomic):
    (tmp_path / "ml.inter").write_text(INTER + "22\t377\t1\t878887116.5\n")
    with pytest.raises(InputError, match=r"ml\.inter, line 4: timestamp '878887116.5' is not a whole number"):
        list(atomic.rows())


def test_a_wrong_folder_says_which_settings_name_it(tmp_path):
    with pytest.raises(InputError, match="set dataset.source.folder and dataset.source.name"):
        RecBoleFiles(str(tmp_path / "nowhere"), "ml").files()


def test_lc_rec_lists_are_chronological_without_timestamps(lcrec):
    assert list(lcrec.rows()) == [(user, item, None) for user, item in zip("000111", "059900", strict=True)]


def test_lc_rec_items_have_title_brand_categories_and_description(lcrec):
    assert lcrec.catalogue({"0", "5", "9"}) == {
        "0": Item("Strings", "Strings. Loud. Guitars. Six of them."),
        "5": Item("Pick", "Pick"),
        "9": Item("Strap", "Strap"),
    }


def test_lc_rec_needs_no_item_file(tmp_path, lcrec):
    (tmp_path / "X.item.json").unlink()
    assert lcrec.catalogue({"0"}) == {}


@pytest.mark.parametrize("records", [{"0": {"title": "Strings"}}, {"5": {"title": " "}}, {"5": None}, {"5": "Pick"}])
def test_an_lc_rec_item_without_title_is_named(tmp_path, lcrec, records):
    (tmp_path / "X.item.json").write_text(json.dumps(records))
    with pytest.raises(InputError, match=r"X\.item\.json gives no title to item '5', which X\.inter\.json uses"):
        lcrec.catalogue({"5"})


@pytest.mark.parametrize("items", ["5", [1, "2"], [1.5], [True], None])
def test_an_lc_rec_user_without_a_list_of_item_numbers_is_named(tmp_path, lcrec, items):
    (tmp_path / "X.inter.json").write_text(json.dumps({"7": items}))
    with pytest.raises(InputError, match=r"X\.inter\.json: user '7' has .*; I need a list of item numbers"):
        list(lcrec.rows())


def test_a_truncated_lc_rec_file_is_named_with_the_line(tmp_path, lcrec):
    (tmp_path / "X.inter.json").write_text('{"0": [0, 5, 9], "1": [9')
    with pytest.raises(InputError, match=r"X\.inter\.json, line 1: column 25: damaged or truncated JSON"):
        list(lcrec.rows())


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Butcher Boy, The", "The Butcher Boy"),
        ("Tin Drum, The (Blechtrommel, Die)", "The Tin Drum (Die Blechtrommel)"),
        ("Enfer, L'", "L'Enfer"),
        ("Three Musketeers, The (a.k.a. Four Musketeers, The)", "The Three Musketeers (a.k.a. The Four Musketeers)"),
        ("I, Robot", "I, Robot"),
        ("Truth or Consequences, N.M.", "Truth or Consequences, N.M."),
        ("Cook the Thief His Wife & Her Lover, The", "The Cook the Thief His Wife & Her Lover"),
        ("", ""),
    ],
)
def test_an_article_goes_where_it_is_read(written, read):
    assert article_first(written) == read


@pytest.mark.parametrize(
    ("column", "written", "read"),
    [
        ("title", "Never Say, Die", "Never Say, Die"),
        ("title", "Guide, The", "Guide, The"),  # no article is moved but of MovieLens
        ("title", "Salt &amp; Pepper &#39;n I &lt;3 NY", "Salt & Pepper 'n I <3 NY"),
        ("movie_title", "Never Say, Die", "Never Say, Die"),
        ("movie_title", "Butcher Boy, The", "The Butcher Boy"),
        ("title", "nan", ""),
        ("title", " ", ""),
    ],
)
def test_titles_are_cleaned_as_their_source_writes_them(tmp_path, atomic, column, written, read):
    (tmp_path / "ml.item").write_text(f"item_id:token\t{column}:token_seq\nB1\t{written}\n")
    assert atomic.catalogue({"B1"}) == {"B1": Item(read, read)}


def test_an_empty_title_further_down_erases_no_earlier_one(tmp_path, atomic):
    (tmp_path / "ml.item").write_text("item_id:token\ttitle:token_seq\n1\t\n1\tOne\n1\t\n1.0\tnan\n")
    assert atomic.catalogue({"1"}) == {"1": Item("One", "One")}


@pytest.mark.parametrize("title", [["A"], {"a": "b"}])
def test_an_lc_rec_title_that_is_no_text_is_refused(tmp_path, lcrec, title):
    (tmp_path / "X.item.json").write_text(json.dumps({"5": {"title": title}}))
    with pytest.raises(InputError, match=r"X\.item\.json, item '5': the title .* is a (list|dict), no text"):
        lcrec.catalogue({"5"})


@pytest.mark.parametrize("title", ["null", "NaN", '"nan"', '" "'])
def test_an_absent_lc_rec_title_is_none(tmp_path, lcrec, title):
    (tmp_path / "X.item.json").write_text(f'{{"5": {{"title": {title}}}}}')
    with pytest.raises(InputError, match="gives no title to item '5'"):
        lcrec.catalogue({"5"})


def test_an_lc_rec_user_that_occurs_twice_is_refused(tmp_path, lcrec):
    (tmp_path / "X.inter.json").write_text('{"0": [1, 2, 3], "0": [4, 5, 6]}')
    with pytest.raises(InputError, match=r"X\.inter\.json, line 1: .*the key '0' occurs twice"):
        list(lcrec.rows())
