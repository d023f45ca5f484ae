"""Item embeddings from text, from usage, from both, and from a file."""

import numpy as np
import pytest

from src.ilrec.tokenizer.embeddings import (
    CollaborativeEmbedding,
    FileEmbedding,
    JointEmbedding,
    TextEmbedding,
    TransitionEmbedding,
    documents,
)
from src.launch.errors import InputError

TITLES = ["red guitar strings", "blue guitar strings", "piano stool", "wooden piano stool", "M"]
SEQUENCES = [[0, 1, 0, 2, 3], [2, 3, 2, 4, 4], [1, 0, 0, 1]]


def text(**settings):
    return TextEmbedding(**{"dimensions": 8, "terms": 1000, "seed": 1, **settings})


def test_items_with_common_words_lie_closer_and_rows_have_unit_length(make_interactions):
    vectors = text().embed(make_interactions(SEQUENCES, titles=TITLES))
    assert vectors.dtype == np.float32
    assert len(vectors) == 5
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert vectors[0] @ vectors[1] > 0.3 > vectors[0] @ vectors[2]


def test_a_title_of_one_letter_counts_as_text(make_interactions):
    vectors = text().embed(make_interactions(SEQUENCES, titles=TITLES))
    assert np.linalg.norm(vectors[4]) == pytest.approx(1)


def test_items_without_words_are_counted_and_named_with_what_to_type(make_interactions):
    shop = make_interactions(SEQUENCES, titles=["guitar", "", "?!", " ", ""])
    with pytest.raises(InputError, match=r"4 of 5 items of 'shop' have no word.*first: 1, 2, 3.*") as error:
        text().embed(shop)
    assert "tokenizer/embedding=collaborative" in str(error.value)
    assert "tokenizer=index_file" in str(error.value)


def test_similarity_of_two_items_in_the_degree_normalised_matrix_by_hand(make_interactions):
    # Training part: user 0 met items 0 and 1, user 1 met item 1. Degrees: users 2, 1; items 1, 2.
    # Item 0 = (1 / sqrt(1 * 2), 0); item 1 = (1 / sqrt(2 * 2), 1 / sqrt(2 * 1)) = (.5, .7071).
    # Cosine = .5 / sqrt(.25 + .5) = .57735; two dimensions keep it exactly.
    vectors = CollaborativeEmbedding(dimensions=2, seed=1).embed(make_interactions([[0, 1, 0, 0], [1, 0, 0]]))
    assert vectors[0] @ vectors[1] == pytest.approx(0.57735, abs=1e-5)


def test_only_the_training_part_of_each_user_counts(make_interactions):
    # Both shops agree but for each user's last two items.
    one, other = (
        make_interactions([[0, 1, 2, *tail], [3, 2, 1, *tail], [0, 3, *tail]], items=4) for tail in ([0, 1], [3, 3])
    )
    embedding = CollaborativeEmbedding(dimensions=3, seed=1)
    np.testing.assert_array_equal(embedding.embed(one), embedding.embed(other))


def test_an_item_without_training_interactions_gets_the_mean_of_the_others(make_interactions):
    # Item 3 is only a test target; the training part is 0, 1 of the first user and 1, 2 of the second.
    vectors = CollaborativeEmbedding(dimensions=2, seed=1).embed(make_interactions([[0, 1, 2, 3], [1, 2, 0, 0]]))
    np.testing.assert_allclose(vectors[3], vectors[:3].mean(axis=0), rtol=1e-6)


def test_more_dimensions_than_the_matrix_has_are_cut(make_interactions):
    assert CollaborativeEmbedding(dimensions=64, seed=1).embed(make_interactions(SEQUENCES)).shape == (5, 3)


def test_a_matrix_of_one_column_is_its_own_embedding(make_interactions):
    # One user, whose training items are 0 and 2; and titles of one word in all.
    lone = CollaborativeEmbedding(dimensions=4, seed=1).embed(make_interactions([[0, 2, 1, 1]]))
    assert lone.tolist() == [[1], [1], [1]]  # item 1 was not seen: the mean of the others
    assert text().embed(make_interactions(SEQUENCES, titles=["same"] * 5)).tolist() == [[1]] * 5


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_squared_distances_of_the_joint_embedding_are_the_weighted_sum_of_its_halves(make_interactions, weight):
    shop = make_interactions(SEQUENCES, titles=TITLES)
    collaborative = CollaborativeEmbedding(dimensions=2, seed=1)

    def distance(vectors):
        centred = vectors - vectors.mean(axis=0)
        scaled = centred / np.sqrt((centred**2).sum(axis=1).mean())
        return ((scaled[0] - scaled[2]) ** 2).sum()

    joint = JointEmbedding(text=text(), collaborative=collaborative, text_weight=weight).embed(shop)
    expected = weight * distance(text().embed(shop)) + (1 - weight) * distance(collaborative.embed(shop))
    assert ((joint[0] - joint[2]) ** 2).sum() == pytest.approx(expected, rel=1e-4)
    assert joint.dtype == np.float32


def test_a_text_weight_outside_zero_to_one_is_refused():
    with pytest.raises(InputError, match=r"text_weight=1.5 is a share: give a number from 0 to 1"):
        JointEmbedding(text=text(), collaborative=text(), text_weight=1.5)


def test_titles_alone_are_read_where_nothing_else_is_asked_for(make_interactions):
    shop = make_interactions([[0, 1, 2]], titles=["guitar", "piano", "stool"])
    shop.texts[:] = ["guitar. Wood", "black", ""]
    assert documents(shop, "title") == ["guitar", "piano", "stool"]
    # A title that its text repeats is not written twice.
    assert documents(shop, "title_and_text") == ["guitar. Wood", "piano black", "stool "]


def test_a_missing_title_is_told_even_where_there_is_a_text(make_interactions):
    shop = make_interactions([[0, 1, 2]], titles=["guitar", "", "stool"])
    shop.texts[1] = "black"
    assert len(documents(shop, "title_and_text")) == 3
    with pytest.raises(InputError, match=r"1 of 3 items of 'shop' have no word of title \(first: 1\)"):
        documents(shop, "title")


@pytest.fixture
def saved(tmp_path):
    def saved(array) -> FileEmbedding:
        np.save(tmp_path / "x.npy", array)
        return FileEmbedding(path=str(tmp_path / "x.npy"))

    return saved


def renamed(shop, *item_ids):
    shop.item_ids[:] = item_ids
    return shop


ROWS = np.arange(20, dtype=np.float64).reshape(10, 2)


@pytest.mark.parametrize("item_ids", [("b", "c", "a"), ("0", "1", "2"), ("5", "7", "9")])
def test_as_many_rows_as_items_are_taken_in_order_whatever_the_ids(saved, make_interactions, item_ids):
    vectors = saved(ROWS[:3]).embed(renamed(make_interactions([[0, 1, 2]]), *item_ids))
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_a_file_of_all_items_before_the_filter_is_read_by_item_id(saved, make_interactions):
    # Item i of the file is (2 i, 2 i + 1).
    vectors = saved(ROWS.astype(np.int16)).embed(renamed(make_interactions([[0, 1, 2]]), "1", "4", "9"))
    assert vectors.tolist() == [[2, 3], [8, 9], [18, 19]]


@pytest.mark.parametrize(
    ("array", "item_ids"),
    [
        (ROWS[:2], ("0", "1", "2")),  # too few rows
        (ROWS, ("0", "1", "10")),  # no row 10
        (ROWS, ("0", "1", "x")),
        (ROWS[:3, 0], ("0", "1", "2")),
        (ROWS[:3, :, None], ("0", "1", "2")),
        (ROWS[:3, :0], ("0", "1", "2")),
        (np.float32(1), ("0", "1", "2")),
    ],
)
def test_another_shape_is_refused_with_the_one_that_is_needed(saved, make_interactions, array, item_ids):
    with pytest.raises(
        InputError, match=r"x\.npy has the shape \(.*one row for each of the 3 items of 'shop'"
    ) as error:
        saved(array).embed(renamed(make_interactions([[0, 1, 2]]), *item_ids))
    assert str(np.shape(array)) in str(error.value)
    assert "tokenizer/embedding=text" in str(error.value)


@pytest.mark.parametrize(("highest", "fits"), [(9, True), (10, False), (8, False)])
def test_rows_by_item_number_must_be_those_of_all_items_before_the_filter(saved, make_interactions, highest, fits):
    """Items numbered 1 to 10 have ten rows, too, and each would get the row of the item before it."""
    shop = renamed(make_interactions([[0, 1, 2]]), "1", "4", "8")
    shop.statistics["highest_item_number"] = highest
    if fits:
        assert saved(ROWS).embed(shop).tolist() == [[2, 3], [8, 9], [16, 17]]
    else:
        with pytest.raises(InputError, match=r"row i for the item of id i before any filter(?s:.)*embedding\.ids="):
            saved(ROWS).embed(shop)


@pytest.mark.parametrize("content", ["x\nb\na\nc\n", "b\t1\na\t2\nc\t3\nx\t0\n"])
def test_a_file_of_ids_says_whose_row_is_whose(tmp_path, saved, make_interactions, content):
    (tmp_path / "x.ids").write_text(content)
    path = saved(ROWS[:4]).path
    file = FileEmbedding(path=str(path), ids=str(tmp_path / "x.ids"))
    # Row 1 is of b, row 2 of a, row 3 of c.
    vectors = file.embed(renamed(make_interactions([[0, 1, 2]]), "a", "b", "c"))
    assert vectors.tolist() == [[4, 5], [2, 3], [6, 7]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb\nc\n", "names 3 items, but .* has 4 rows"),
        ("a\nb\nc\na\n", r"x\.ids, line 4: 'a' is not a new item id with a row below 4"),
        ("a\t0\nb\t1\nc\t2\nd\t4\n", r"x\.ids, line 4: 'd\\t4' is not a new item id with a row below 4"),
        ("a\t0\nb\t1\nc\t2\nd\t2\n", "gives one row to several items"),
        ("a\nb\nd\ne\n", "lacks 1 of 3 items of 'shop' .first: c."),
    ],
)
def test_ids_that_do_not_fit_the_array_or_the_items_are_refused(tmp_path, saved, make_interactions, content, message):
    (tmp_path / "x.ids").write_text(content)
    file = FileEmbedding(path=str(saved(ROWS[:4]).path), ids=str(tmp_path / "x.ids"))
    with pytest.raises(InputError, match=message):
        file.embed(renamed(make_interactions([[0, 1, 2]]), "a", "b", "c"))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_value_that_is_no_finite_float32_is_found_in_the_rows_that_are_used(saved, make_interactions, value):
    rows = ROWS.copy()
    rows[3, 1] = rows[4, 0] = value
    file = saved(rows)
    assert file.embed(renamed(make_interactions([[0, 1, 2]]), "0", "1", "2")).tolist() == ROWS[:3].tolist()
    with pytest.raises(InputError, match=r"x\.npy: row 4 holds a value that is no finite number in float32"):
        file.embed(renamed(make_interactions([[0, 1, 2]]), "2", "4", "9"))


def test_files_that_are_absent_torn_or_of_another_kind_are_refused(tmp_path, saved, make_interactions):
    shop = make_interactions([[0, 1, 2]])
    with pytest.raises(InputError, match=r"absent\.npy cannot be read: No such file.*tokenizer\.embedding\.path="):
        FileEmbedding(path=str(tmp_path / "absent.npy")).embed(shop)
    file = saved(ROWS)
    for content in (file.path.read_bytes()[:150], b"1 2 3", b""):
        file.path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.npy is no whole \.npy file of numbers: "):
            file.embed(shop)
    for array in (np.array(["a", "b", "c"]), np.array([{}, {}, {}])):
        with pytest.raises(InputError, match=r"x\.npy (holds no array of numbers|is no whole \.npy file)"):
            saved(array).embed(shop)
    with file.path.open("wb") as stream:
        np.savez(stream, ROWS)
    with pytest.raises(InputError, match="holds no array of numbers"):
        file.embed(shop)


def test_items_beside_the_same_items_lie_close_and_one_beside_none_is_zero(make_interactions):
    # 0 and 1 both lead to 2; 3 and 4 both lead to 5; item 6 is only ever validated and tested on.
    shop = make_interactions([[0, 2, 6, 6], [1, 2, 6, 6], [3, 5, 6, 6], [4, 5, 6, 6]], items=7)
    vectors = TransitionEmbedding(dimensions=4, skip=1, seed=0).embed(shop)
    assert vectors[0] @ vectors[1] == pytest.approx(1, abs=1e-5)
    assert vectors[0] @ vectors[3] == pytest.approx(0, abs=1e-5)
    assert np.linalg.norm(vectors, axis=1)[:6] == pytest.approx(np.ones(6), abs=1e-5)
    assert not vectors[6].any()
