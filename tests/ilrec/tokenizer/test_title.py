"""Items as titles: what is written, what the model is told, collisions, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.ilrec.model.trie import TokenTrie
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.ilrec.tokenizer.title import Titles
from src.launch.errors import InputError
from src.model.causal_lm import from_scratch

SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_layers": 2, "num_heads": 1, "dropout": 0.0, "max_length": 64}


@pytest.fixture(scope="module")
def model():
    return from_scratch([], **SIZES, seed=0)


@pytest.fixture
def write(model, make_interactions):
    """Write titles for the byte model."""

    def write(*titles, max_tokens=30, distinct=False):
        shop = make_interactions([range(len(titles))], titles=titles)
        return Titles(max_tokens=max_tokens, distinct=distinct).fit(shop).written_for(model)

    return write


def texts(model, items):
    rows = [model.item_token_ids[row[row >= 0]] for row in torch.from_numpy(items.tokens)]
    return [model.tokenizer.decode(row) for row in rows]


def test_a_title_is_a_space_its_text_and_the_end_in_tokens_that_the_model_has(write, model):
    known = len(model.tokenizer)
    items = write("Toy Story (1995)", "Élan")
    assert items.as_text
    assert texts(model, items) == [" Toy Story (1995)</s>", " Élan</s>"]
    assert len(model.tokenizer) == known
    # " Élan" has 6 bytes, as É has two: with the end 7 tokens, and 17 - 7 = 10 of padding.
    assert items.tokens.shape == (2, 18)
    assert (items.tokens[1] >= 0).tolist() == [True] * 7 + [False] * 11


def test_the_vocabulary_is_every_token_in_use_once_by_id(write, model):
    items = write("ab", "ba")
    assert items.vocabulary == model.tokenizer.convert_ids_to_tokens(model.item_token_ids.tolist())
    assert model.item_token_ids.tolist() == sorted(
        set(model.tokenizer(" ab").input_ids) | {model.tokenizer.eos_token_id}
    )
    assert model.item_token_places[model.item_token_ids].tolist() == [0, 1, 2, 3]
    assert (model.item_token_places >= 0).sum() == 4


def test_words_stand_one_space_apart(write, model):
    assert texts(model, write("  Toy\n \tStory ")) == [" Toy Story</s>"]


def test_a_title_that_spells_a_special_token_is_text(write, model):
    items = write("<s> and </s> and <pad>")
    assert texts(model, items) == [" <s> and </s> and <pad></s>"]
    assert items.tokens.shape == (1, 1 + len("<s> and </s> and <pad>") + 1)


def test_long_titles_are_cut_and_those_alike_share_a_leaf_and_are_counted(write, model):
    # Cut to 4 bytes: " abc", " abc", " abc", " xyz", " q".
    items = write("abcd", "abce", "abc", "xyz", "q", max_tokens=4)
    assert texts(model, items) == [" abc</s>"] * 3 + [" xyz</s>", " q</s>"]
    leaf = TokenTrie.build(torch.from_numpy(items.tokens), vocabulary_size=len(items.vocabulary)).leaf.tolist()
    assert leaf[0] == leaf[1] == leaf[2]
    assert len(set(leaf)) == 3
    # Five tokens with the end but for " q", which has 3: (4 * 5 + 3) / 5 = 4.6. Cut are "abcd" and "abce".
    assert dict(line.split() for line in items.report_table().splitlines()) == {
        "items": "5", "distinct_ids": "3", "collision_rate": "0.6", "largest_group": "3", "titles_cut": "2",
        "mean_tokens": "4.6",
    }  # fmt: skip


def test_cut_titles_go_on_with_the_tokens_at_which_they_part_and_no_others(write, model):
    # Cut to " abc"; then x | y, and behind y, past the common "..", 1 | 2 | the end.
    items = write("abc x", "abc y..1", "abc y..2", "abc y..", "abc", "z", max_tokens=4, distinct=True)
    assert texts(model, items) == [f"{text}</s>" for text in (" abc x", " abc y1", " abc y2", " abc y", " abc", " z")]
    assert items.report["collision_rate"] == 0
    assert items.report["titles_cut"] == 4


def test_titles_alike_as_a_whole_get_numbers_that_no_other_title_reads_like(write, model):
    items = write("a", "a", "a #2", "a", "abcdef", "abcdef", max_tokens=5, distinct=True)
    assert texts(model, items) == [f"{text}</s>" for text in (" a", " a #3", " a #2", " a #4", " abcd", " abcd #2")]


@settings(max_examples=100)
@given(st.lists(st.text("ab #2", min_size=1).filter(str.strip), min_size=1, max_size=12), st.integers(1, 5))
def test_distinct_titles_are_distinct_and_none_is_the_beginning_of_another(write, model, titles, max_tokens):
    items = write(*titles, max_tokens=max_tokens, distinct=True)
    trie = TokenTrie.build(torch.from_numpy(items.tokens), vocabulary_size=len(items.vocabulary))
    assert len(set(trie.leaf.tolist())) == len(titles)
    told_apart, plain = texts(model, items), write(*titles, max_tokens=max_tokens)
    for text, cut in zip(told_apart, texts(model, plain), strict=True):
        assert text.startswith(cut.removesuffix("</s>"))


@settings(max_examples=100)
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip), min_size=1, max_size=8))
def test_any_titles_read_back_as_they_were_and_none_is_the_beginning_of_another(write, model, titles):
    items = write(*titles, max_tokens=1000)
    assert texts(model, items) == [f" {' '.join(title.split())}</s>" for title in titles]
    trie = TokenTrie.build(torch.from_numpy(items.tokens), vocabulary_size=len(items.vocabulary))
    assert len(set(trie.leaf.tolist())) == items.report["distinct_ids"] == len({" ".join(t.split()) for t in titles})


def test_an_index_of_titles_has_no_padding(write, tmp_path):
    items = write("ab", "c")
    items.save_index(tmp_path / "x.index.json", ["p", "q"])
    assert (tmp_path / "x.index.json").read_text() == '{"p": ["Ġ", "a", "b", "</s>"], "q": ["Ġ", "c", "</s>"]}'


def test_semantic_ids_are_the_same_for_every_model(model):
    items = ItemTokens.from_codes(np.array([[0], [1]]), [range(2)], {})
    assert items.written_for(model) is items
    assert not items.as_text


def test_items_without_a_title_are_named_with_another_way(make_interactions):
    shop = make_interactions([range(5)], titles=["a", "", " \t", "b", ""])
    with pytest.raises(InputError) as caught:
        Titles(max_tokens=8).fit(shop)
    assert str(caught.value) == (
        "3 of 5 items of 'shop' have no title (first: 1, 2, 4). I need one for every item that is left after the "
        "k-core filter.\nComplete the data, or write the items as semantic IDs:  tokenizer=residual_kmeans"
    )


def test_titles_of_no_tokens_are_refused():
    with pytest.raises(InputError, match=r"tokenizer.max_tokens=0: I need a whole number of at least 1"):
        Titles(max_tokens=0)
