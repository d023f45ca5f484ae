"""The tensor trie: which tokens may follow which, for every item at once, shared by decoding and token rewards."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from src.launch.errors import InputError


@dataclass(frozen=True)
class TokenTrie:
    """A prefix tree over the items' token sequences, as flat tensors.

    Nodes are numbered level by level (root = 0), so that a node's children are neighbours: a CSR layout that needs two
    numbers a node. Items are sorted by their tokens, so that every node covers one interval of that order: the items
    below a prefix, or their summed probability, are a difference of two entries. The first levels, where nearly every
    token is legal, also have a dense table for looking a child up by its token. The mix of dense and CSR
    levels follows STATIC (arXiv 2602.22647).

    Attributes:
        first_child: First child of each node, shape ``(nodes + 1,)``, int64; node's children are
            ``first_child[n] .. first_child[n + 1] - 1``.
        token: Token that leads to each node, shape ``(nodes,)``, int64; -1 for the root.
        first_item: First position below each node in the sorted order, shape ``(nodes,)``, int64.
        last_item: One past the last position below each node, shape ``(nodes,)``, int64.
        items: Item index at each position of the sorted order, shape ``(items,)``, int64; items with the same tokens
            stand side by side in ascending order.
        leaf: Node where each item ends, shape ``(items,)``, int64, by item index.
        dense: Child of each node of the first levels by token, shape ``(dense nodes, vocabulary_size)``, int64; -1
            where there is none.
        keys: ``parent * vocabulary_size + token`` of every node but the root, ascending, shape ``(nodes - 1,)``, int64.
        depth: Length of the longest sequence.
        vocabulary_size: One more than the largest token id that :meth:`child` may be asked for.
    """

    first_child: Tensor
    token: Tensor
    first_item: Tensor
    last_item: Tensor
    items: Tensor
    leaf: Tensor
    dense: Tensor
    keys: Tensor
    depth: int
    vocabulary_size: int

    @classmethod
    def build(cls, sequences: Tensor, *, vocabulary_size: int, dense_entries: int = 1 << 20) -> TokenTrie:
        """Build the trie of all items.

        Args:
            sequences: Tokens of each item, shape ``(items, length)``, int64; -1 pads shorter sequences on the right.
            vocabulary_size: Upper bound of the token ids.
            dense_entries: Size of the dense table; at least the root has its row in it.

        Returns:
            The trie, on the CPU.

        Raises:
            InputError: an item has no tokens, or one item's tokens are the beginning of another's.
            ValueError: a token lies outside ``[0, vocabulary_size)`` or padding stands inside a sequence.
        """
        _check_sequences(sequences, vocabulary_size)
        count, length = sequences.shape
        order = torch.arange(count)
        for level in reversed(range(length)):  # least significant first: a lexicographic sort, ties by item index
            order = order[sequences[order, level].argsort(stable=True)]
        tokens = sequences[order]

        # Level by level: a node starts wherever a sorted row differs from the row above in its first `level` tokens.
        parent_of_row = torch.zeros(count, dtype=torch.int64)
        node_token, parent = [torch.tensor([-1])], [torch.tensor([-1])]
        first, last = [torch.tensor([0])], [torch.tensor([count])]
        leaf = torch.zeros(count, dtype=torch.int64)
        nodes = 1
        for level in range(length):
            column = tokens[:, level]
            alive = column >= 0
            new = alive.clone()
            new[1:] &= (parent_of_row[1:] != parent_of_row[:-1]) | (column[1:] != column[:-1])
            starts = new.nonzero().flatten()
            node_of_row = nodes - 1 + new.cumsum(0)
            node_token.append(column[starts])
            parent.append(parent_of_row[starts])
            first.append(starts)
            sizes = torch.bincount(node_of_row[alive] - nodes, minlength=len(starts))
            last.append(starts + sizes)
            leaf[order[alive]] = node_of_row[alive]
            parent_of_row = torch.where(alive, node_of_row, -2 - torch.arange(count))  # an ended item has no children
            nodes += len(starts)

        token, parents = torch.cat(node_token), torch.cat(parent)
        _check_prefix_free(leaf, parents)
        children = torch.bincount(parents[1:], minlength=nodes)
        first_child = torch.cat([torch.ones(1, dtype=torch.int64), 1 + children.cumsum(0)])
        keys = parents[1:] * vocabulary_size + token[1:]
        dense = torch.full((min(max(dense_entries // vocabulary_size, 1), nodes), vocabulary_size), -1)
        inside = parents[1:] < len(dense)
        dense[parents[1:][inside], token[1:][inside]] = torch.arange(1, nodes)[inside]
        return cls(
            first_child, token, torch.cat(first), torch.cat(last), order, leaf, dense, keys, length, vocabulary_size
        )

    def to(self, device: torch.device) -> TokenTrie:
        """Return the trie with its tensors on ``device``."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return TokenTrie(**moved, depth=self.depth, vocabulary_size=self.vocabulary_size)

    def children(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """List the children of each node.

        Args:
            nodes: Node ids, any shape, int64.

        Returns:
            Child ids of shape ``(*nodes.shape, widest)``, int64, and a mask of the same shape, bool, that is False
            where a node has fewer children (the id there is 0).
        """
        start, stop = self.first_child[nodes], self.first_child[nodes + 1]
        width = int((stop - start).max()) if nodes.numel() else 0
        child = start[..., None] + torch.arange(width, device=nodes.device)
        legal = child < stop[..., None]
        return child.where(legal, 0), legal

    def child(self, nodes: Tensor, tokens: Tensor) -> Tensor:
        """Follow one token from each node.

        Args:
            nodes: Node ids, any shape, int64; -1 stays -1.
            tokens: Tokens of the same shape, int64, in ``[0, vocabulary_size)``.

        Returns:
            Child ids, same shape; -1 where the token is not legal there.
        """
        key = nodes * self.vocabulary_size + tokens
        position = torch.searchsorted(self.keys, key).clamp_(max=len(self.keys) - 1)
        sparse = torch.where(self.keys[position] == key, position + 1, -1)
        dense = self.dense[nodes.clamp(0, len(self.dense) - 1), tokens]
        return torch.where(nodes < 0, -1, torch.where(nodes < len(self.dense), dense, sparse))

    def find(self, prefixes: Tensor) -> Tensor:
        """Find the node of each prefix.

        Args:
            prefixes: Tokens, shape ``(N, length)``, int64; -1 pads on the right.

        Returns:
            Node ids, shape ``(N,)``, int64; -1 where no item starts so.
        """
        nodes = torch.zeros(len(prefixes), dtype=torch.int64, device=prefixes.device)
        for column in prefixes.unbind(1):
            nodes = torch.where(column < 0, nodes, self.child(nodes, column.clamp(min=0)))
        return nodes


def _check_sequences(sequences: Tensor, vocabulary_size: int) -> None:
    if len(sequences) == 0 or sequences.shape[1] == 0 or bool((sequences[:, 0] < 0).any()):
        bad = (sequences[:, 0] < 0).nonzero().flatten().tolist() if sequences.numel() else []
        raise InputError(f"a trie needs items with at least one token each; without tokens: {bad[:5] or 'all'}")
    if bool((sequences >= vocabulary_size).any()):
        raise ValueError(f"token {int(sequences.max())} is outside the vocabulary of {vocabulary_size}")
    padded = sequences < 0
    if bool((padded[:, :-1] & ~padded[:, 1:]).any()):
        raise ValueError("padding (-1) may only stand at the end of a sequence")


def _check_prefix_free(leaf: Tensor, parents: Tensor) -> None:
    inner = torch.zeros(len(parents), dtype=torch.bool)
    inner[parents[1:]] = True
    bad = inner[leaf].nonzero().flatten().tolist()
    if bad:
        raise InputError(
            f"the tokens of item {bad[0]} are the beginning of another item's ({len(bad)} such items): "
            "end every sequence with a token of its own, such as the end-of-text token"
        )
