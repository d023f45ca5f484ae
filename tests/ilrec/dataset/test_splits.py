"""Data sets that bring their own split: RecBole's benchmark files, columns named split, files named train."""

import pytest

from src.ilrec.dataset.amazon import Amazon2023
from src.ilrec.dataset.interactions import prepare
from src.ilrec.dataset.sources import RecBoleFiles
from src.ilrec.dataset.splits import chained
from src.ilrec.dataset.table import Table
from src.launch.errors import InputError

HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"
LISTS = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
TRAIN, VALID, TEST = "u\ta\t1\nv\tb\t1\nu\tb\t2\n", "u\tc\t3\nv\ta\t3\n", "v\tc\t4\nu\td\t4\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ILREC_GISA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def recbole(tmp_path):
    """Write the benchmark files and prepare them."""

    def recbole(train=TRAIN, valid=VALID, test=TEST, header=HEADER, k_core=1):
        for part, rows in (("train", train), ("valid", valid), ("test", test)):
            (tmp_path / f"X.{part}.inter").write_text(header + rows)
        (tmp_path / "X.item").write_text("item_id:token\ttitle:token_seq\na\tAlpha\n")
        return prepare(RecBoleFiles(str(tmp_path), "X"), k_core=k_core)

    return recbole


def sequences(data):
    return {user: "".join(data.item_ids[item] for item in data.sequence(row)) for row, user in enumerate(data.user_ids)}


def test_benchmark_files_that_are_leave_one_out_are_read_with_their_split(recbole):
    data = recbole()
    assert sequences(data) == {"u": "abcd", "v": "bac"}
    assert data.item_ids[data.target(0, "val")] == "c"
    assert data.item_ids[data.target(0, "test")] == "d"
    assert data.titles[0] == "Alpha"


def test_a_tie_between_the_parts_is_ordered_by_the_parts(recbole):
    assert sequences(recbole(valid="u\tc\t2\nv\ta\t1\n", test="v\tc\t1\nu\td\t2\n")) == {"u": "abcd", "v": "bac"}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"valid": "u\tc\t3\n"}, "user 'v' has 0 to validate, 1 to test on"),
        ({"test": TEST + "u\ta\t9\n"}, "user 'u' has 1 to validate, 2 to test on"),
        ({"train": TRAIN + "w\ta\t1\n"}, "user 'w' has 0 to validate, 0 to test on"),
        (
            {"train": TRAIN.replace("u\tb\t2", "u\tb\t9")},
            "of user 'u' it validates on item 'c' and tests on 'd', but the last two in time, after the k-core, are "
            "'d' and 'b'",
        ),
    ],
)
def test_benchmark_files_of_another_split_are_refused_with_a_user(recbole, parts, message):
    with pytest.raises(InputError, match=message) as error:
        recbole(**parts)
    assert "I split by leave-one-out" in str(error.value)


def test_a_core_that_takes_a_target_says_so(recbole):
    rows = "".join(f"{user}\t{item}\t{time}\n" for user in "uv" for time, item in enumerate("abc"))
    valid, test = "u\ta\t8\nv\ta\t8\n", "u\tx\t9\nv\tb\t9\n"
    with pytest.raises(InputError, match=r"(?s)tests on 'x'.*dataset\.k_core=1"):
        recbole(rows, valid, test, k_core=2)


def test_two_parts_of_a_split_are_refused_and_the_whole_file_goes_before_parts(tmp_path, recbole):
    recbole()
    (tmp_path / "X.valid.inter").unlink()
    with pytest.raises(InputError, match=r"X\.train\.inter, .*X\.test\.inter: two parts of a split"):
        prepare(RecBoleFiles(str(tmp_path), "X"), k_core=1)
    (tmp_path / "X.inter").write_text(HEADER + TRAIN + VALID + TEST)
    assert sequences(prepare(RecBoleFiles(str(tmp_path), "X"), k_core=1)) == {"u": "abcd", "v": "bac"}


@pytest.mark.parametrize(
    "train",
    [
        "u\ta\tb\nu\ta b\tc\nv\tb\ta\n",  # item by item
        "u\ta b\tc\nu\ta\tb\nv\tb\ta\n",  # from the last to the first, as UniSRec writes them
        "u\ta b\tc\nv\tb\ta\n",  # the last only
    ],
)
def test_rows_with_their_history_are_put_together_again(recbole, train):
    data = recbole(train, "u\ta b c\td\nv\tb a\tc\n", "v\tb a c\td\nu\ta b c d\ta\n", LISTS)
    assert sequences(data) == {"u": "abcda", "v": "bacd"}
    assert "timestamp_tie_share" not in data.statistics


def test_histories_that_are_cut_to_the_last_items_are_chained(recbole):
    assert sequences(recbole("u\ta\tb\nu\ta b\tc\n", "u\tb c\td\n", "u\tc d\te\n", LISTS)) == {"u": "abcde"}


@pytest.mark.parametrize("test", ["u\ta b\td\n", "u\ta b c x\td\n", "u\t\td\n"])
def test_histories_that_do_not_follow_one_another_are_refused(recbole, test):
    with pytest.raises(InputError, match="the histories of user 'u' do not follow one upon the other"):
        recbole("u\ta\tb\n", "u\ta b\tc\n", test, LISTS)


def test_one_row_is_its_history_and_its_item():
    assert chained([(["a", "b"], "c")], "u", "X") == ["a", "b", "c"]


@pytest.mark.parametrize("column", ["split", "subset", "fold", "set", "Split"])
def test_a_column_that_splits_must_agree_with_leave_one_out(tmp_path, column):
    path = tmp_path / "x.csv"
    rows = "u,a,1,train\nu,d,4,test\nu,b,2,train\nu,c,3,validation\n"
    path.write_text(f"user,item,time,{column}\n{rows}")
    assert sequences(prepare(Table(str(path)), k_core=1)) == {"u": "abcd"}
    path.write_text(f"user,item,time,{column}\n" + rows.replace("1,train", "9,train"))
    with pytest.raises(InputError, match="The split that x brings is not leave-one-out: of user 'u'"):
        prepare(Table(str(path)), k_core=1)
    path.write_text(f"user,item,time,{column}\n" + rows.replace("1,train", "1,3"))
    with pytest.raises(InputError, match=f"line 2, column '{column}': '3' is none of train"):
        prepare(Table(str(path)), k_core=1)


def test_a_split_column_of_an_atomic_file_is_compared_too(tmp_path):
    path = tmp_path / "X.inter"
    path.write_text(HEADER.strip() + "\tsplit:token\nu\ta\t1\ttrain\nu\tb\t2\ttest\nu\tc\t3\tvalid\n")
    with pytest.raises(InputError, match="of user 'u' it validates on item 'c' and tests on 'b'"):
        prepare(RecBoleFiles(str(tmp_path), "X"), k_core=1)


@pytest.mark.parametrize("named", ["X.csv", "X.train.csv", "X.test.csv"])
def test_files_of_amazon_2023_split_by_the_last_item_are_read_as_one(tmp_path, named):
    header = "user_id,parent_asin,rating,timestamp,history\n"
    for part, row in (
        ("train", "B00000000A,5.0,1,"),
        ("valid", "B00000000B,5.0,2,B00000000A"),
        ("test", "B00000000C,5.0,3,x"),
    ):
        (tmp_path / f"X.{part}.csv").write_text(f"{header}AGKHLEW2SOWHNMFQIJGBECAF7INQ,{row}\n")
    data = prepare(Amazon2023(str(tmp_path / named)), k_core=1)
    assert [data.item_ids[item][-1] for item in data.sequence(0)] == ["A", "B", "C"]
