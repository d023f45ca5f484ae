"""The tensor trie against a dictionary of prefixes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.ilrec.model.trie import TokenTrie
from src.launch.errors import InputError


def padded(sequences):
    width = max(map(len, sequences))
    return torch.tensor([list(s) + [-1] * (width - len(s)) for s in sequences])


@st.composite
def catalogues(draw):
    """Item token sequences, prefix-free because each ends with token 0, which stands nowhere else."""
    bodies = draw(st.lists(st.lists(st.integers(1, 5), max_size=4), min_size=1, max_size=30))
    return [(*body, 0) for body in bodies]


def test_three_items_worked_by_hand():
    # items: 0 = (2, 1), 1 = (0, 1), 2 = (2, 0). Sorted: 1, 2, 0.
    # Nodes: 0 root; 1 = (0), 2 = (2); 3 = (0, 1), 4 = (2, 0), 5 = (2, 1).
    trie = TokenTrie.build(torch.tensor([[2, 1], [0, 1], [2, 0]]), vocabulary_size=3)
    assert trie.token.tolist() == [-1, 0, 2, 1, 0, 1]
    assert trie.first_child.tolist() == [1, 3, 4, 6, 6, 6, 6]
    assert trie.items.tolist() == [1, 2, 0]
    assert trie.first_item.tolist() == [0, 0, 1, 0, 1, 2]
    assert trie.last_item.tolist() == [3, 1, 3, 1, 2, 3]
    assert trie.leaf.tolist() == [5, 3, 4]


def test_items_with_the_same_tokens_share_a_leaf_in_item_order():
    trie = TokenTrie.build(torch.tensor([[1, 1], [0, 0], [1, 1]]), vocabulary_size=2)
    assert trie.leaf[0] == trie.leaf[2]
    node = trie.leaf[0]
    assert trie.items[trie.first_item[node] : trie.last_item[node]].tolist() == [0, 2]


@settings(max_examples=200)
@given(catalogues(), st.integers(0, 60))
def test_trie_equals_a_dictionary_of_prefixes(catalogue, dense_entries):
    trie = TokenTrie.build(padded(catalogue), vocabulary_size=6, dense_entries=dense_entries)
    prefixes = {sequence[:length] for sequence in catalogue for length in range(len(sequence) + 1)}
    assert len(trie.token) == len(prefixes)
    for prefix in prefixes:
        node = trie.find(padded([(*prefix, -1)]))
        below = [index for index, sequence in enumerate(catalogue) if sequence[: len(prefix)] == prefix]
        assert sorted(trie.items[trie.first_item[node] : trie.last_item[node]].tolist()) == below
        expected = {token for token in range(6) if (*prefix, token) in prefixes}
        child, legal = trie.children(node)
        assert set(trie.token[child[legal]].tolist()) == expected
        for token in range(6):
            found = int(trie.child(node, torch.tensor([token])))
            assert (found >= 0) == (token in expected)
            assert found < 0 or int(trie.token[found]) == token
    assert torch.equal(trie.find(padded(catalogue)), trie.leaf)


def test_children_of_nodes_of_different_width_are_masked():
    trie = TokenTrie.build(torch.tensor([[0, 0], [0, 1], [1, 0]]), vocabulary_size=2)
    child, legal = trie.children(torch.tensor([1, 2]))
    assert legal.tolist() == [[True, True], [True, False]]
    assert trie.token[child[legal]].tolist() == [0, 1, 0]


def test_unknown_prefixes_are_minus_one():
    trie = TokenTrie.build(torch.tensor([[0, 0]]), vocabulary_size=2)
    assert trie.find(torch.tensor([[1, 0], [0, 1], [0, -1]])).tolist() == [-1, -1, 1]


def test_bad_catalogues_are_named():
    with pytest.raises(InputError, match=r"without tokens: \[1\]"):
        TokenTrie.build(torch.tensor([[0], [-1]]), vocabulary_size=2)
    with pytest.raises(InputError, match="tokens of item 1 are the beginning of another"):
        TokenTrie.build(torch.tensor([[0, 1], [0, -1]]), vocabulary_size=2)
    with pytest.raises(ValueError, match="token 7 is outside the vocabulary of 2"):
        TokenTrie.build(torch.tensor([[7]]), vocabulary_size=2)
    with pytest.raises(ValueError, match="only stand at the end"):
        TokenTrie.build(torch.tensor([[0, -1, 1]]), vocabulary_size=2)
