"""The tokens that write every item: the vocabulary, each item's semantic ID or title, and how good they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from src.launch.errors import InputError
from src.launch.storage import write_atomic

if TYPE_CHECKING:
    from src.ilrec.dataset.interactions import Interactions
    from src.ilrec.tokenizer.embeddings import Embedding
    from src.model.causal_lm import CausalLM

ReportValue = float | list[int] | list[float]


@dataclass(frozen=True)
class ItemTokens:
    """All items, as semantic IDs or as titles.

    Attributes:
        vocabulary: The tokens that items are made of. For semantic IDs the new tokens of the language model, by level,
            then code: ``<a_0>, <a_1>, ..., <b_0>, ...``; for titles tokens that it has.
        tokens: Each item's tokens as positions in ``vocabulary``, shape ``(items, longest)``, int64; row = item index;
            -1 pads titles on the right.
        report: Named measures, see ``id_statistics``; a tokenizer may add its own.
        as_text: Whether items are titles, each with the end-of-text token as its last.
        start: What each token of the vocabulary is to start from, shape ``(vocabulary, dimensions)``, float32: the mean
            vector of the items that it is part of; ``None`` leaves that to the model.
        titles: Title of each item, whole; "" where there is none, and nothing where nobody has told.
    """

    vocabulary: list[str]
    tokens: np.ndarray
    report: dict[str, ReportValue]
    as_text: bool = False
    start: np.ndarray | None = None
    titles: Sequence[str] = ()

    @classmethod
    def from_codes(
        cls, codes: np.ndarray, codebooks: Sequence[Sequence[int]], extra: Mapping[str, ReportValue]
    ) -> ItemTokens:
        """Name the codes ``<letter of the level>_<code>`` and measure them.

        Args:
            codes: Position of each item's code in its level's codebook, shape ``(items, levels)``, int.
            codebooks: For each level the numbers its tokens carry, ascending; at most 26 levels.
            extra: Measures to add to the report.
        """
        sizes = [len(codebook) for codebook in codebooks]
        first_token = np.cumsum([0, *sizes[:-1]])
        vocabulary = [
            f"<{chr(ord('a') + level)}_{number}>" for level, codebook in enumerate(codebooks) for number in codebook
        ]
        tokens = codes.astype(np.int64) + first_token
        return cls(vocabulary, tokens, {**id_statistics(codes, sizes), **extra})

    def started(self, embedding: Embedding | None, interactions: Interactions) -> ItemTokens:
        """Let each token start from the mean vector of its items; without an embedding, as the model likes."""
        if embedding is None:
            return self
        vectors = embedding.embed(interactions)
        sums = np.zeros((len(self.vocabulary), vectors.shape[1]), dtype=np.float32)
        for column in self.tokens.T:
            np.add.at(sums, column, vectors)
        count = np.bincount(self.tokens.ravel(), minlength=len(sums))
        return replace(self, start=sums / np.maximum(count, 1)[:, None])

    def written_for(self, model: CausalLM) -> ItemTokens:
        """Return the items as they are: semantic IDs are the same for every model, titles are not."""
        return self

    def titles_of_tokens(self, titles: Sequence[str]) -> list[list[str]]:
        """Return for each token of the vocabulary the titles of the items that it is part of.

        Args:
            titles: Title of each item.

        Raises:
            InputError: no item has one.
        """
        if not any(title.strip() for title in titles):
            raise InputError("model.new_rows=titles: no item of this data set has a title.\nType:  model.new_rows=mean")
        found: list[list[str]] = [[] for _ in self.vocabulary]
        for row, title in zip(self.tokens.tolist(), titles, strict=True):
            for token in row:
                found[token].append(title)
        return found

    def report_table(self) -> str:
        """Return the report as aligned lines of ``name  value``, one value per level where a measure has several."""
        width = max(map(len, self.report))
        return "\n".join(f"{name:<{width}}  {_in_words(value)}" for name, value in self.report.items())

    def index(self, item_ids: Sequence[str]) -> dict[str, list[str]]:
        """Return each item's tokens by its original id, ``item_ids`` in row order."""
        return {
            item: [self.vocabulary[token] for token in row if token >= 0]
            for item, row in zip(item_ids, self.tokens.tolist(), strict=True)
        }

    def save_index(self, path: Path, item_ids: Sequence[str]) -> None:
        """Write the items as an LC-Rec ``.index.json``: ``{"item id": ["<a_1>", "<b_2>", "<c_3>"], ...}``.

        Args:
            path: The file to make or replace, whole or not at all.
            item_ids: Original item ids, in row order.
        """
        write_atomic(path, json.dumps(self.index(item_ids), ensure_ascii=False))


class OneTokenPerItem:
    """The item's number is its only token, so that positions in the vocabulary are item indices."""

    def __init__(self, *, start: Embedding | None = None) -> None:
        """Keep the embedding that the tokens start from; ``None`` leaves that to the model."""
        self.start = start

    def fit(self, interactions: Interactions) -> ItemTokens:
        """Name the tokens ``<a_0>, <a_1>, ...`` in the order of the items."""
        items = interactions.num_items
        named = ItemTokens.from_codes(np.arange(items)[:, None], [range(items)], {})
        return named.started(self.start, interactions)


def id_statistics(codes: np.ndarray, codebook_sizes: Sequence[int]) -> dict[str, ReportValue]:
    """Count collisions and the use of each codebook.

    Args:
        codes: Each item's code per level, shape ``(items, levels)``, int.
        codebook_sizes: Codes available per level.

    Returns:
        What ``group_statistics`` gives, and per level ``codebook_sizes``, ``codes_used`` and ``perplexity``, the
        exponential of the entropy of the code frequencies: the number of codes in effective use.
    """
    perplexity = []
    for level, size in enumerate(codebook_sizes):
        share = np.bincount(codes[:, level], minlength=size) / len(codes)
        used = share[share > 0]
        perplexity.append(float(np.exp(-(used * np.log(used)).sum())))
    return {
        **group_statistics(codes),
        "codebook_sizes": list(codebook_sizes),
        "codes_used": [len(np.unique(column)) for column in codes.T],
        "perplexity": perplexity,
    }


def group_statistics(tokens: np.ndarray) -> dict[str, ReportValue]:
    """Count items that are written alike.

    Args:
        tokens: Each item's tokens, shape ``(items, length)``, int.

    Returns:
        ``items``; ``distinct_ids``; ``collision_rate``, the share of items whose tokens another item has too; and
        ``largest_group``, the most items that share theirs.
    """
    _, sizes = np.unique(tokens, axis=0, return_counts=True)
    return {
        "items": len(tokens),
        "distinct_ids": len(sizes),
        "collision_rate": float(sizes[sizes > 1].sum() / len(tokens)),
        "largest_group": int(sizes.max()),
    }


def _in_words(value: ReportValue) -> str:
    values = value if isinstance(value, list) else [value]
    return " / ".join(f"{number:,}" if isinstance(number, int) else f"{number:.4g}" for number in values)
