"""Items as titles: ordinary text that the language model already has the tokens for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from src.ilrec.tokenizer.item_tokens import ItemTokens, group_statistics
from src.launch.errors import InputError
from src.launch.values import Count
from src.model.vocabulary import text_tokens

if TYPE_CHECKING:
    from src.ilrec.dataset.interactions import Interactions
    from src.model.causal_lm import CausalLM


class Titles:
    """Write each item as its title.

    Source: BIGRec (arXiv 2308.08434); that long titles are cut, and how they are told apart then, is our choice.
    """

    def __init__(self, *, max_tokens: Count, distinct: bool = False) -> None:
        """Keep the settings.

        Args:
            max_tokens: Longest title in tokens of the language model; the rest of a longer one is cut off.
            distinct: Titles that are alike when they are cut go on with the tokens at which they part, and no others;
                of those alike as a whole all but the first get a number, `` #2``. Else such items share a leaf of the
                trie, and are counted.

        Raises:
            InputError: there would be nothing left.
        """
        if max_tokens < 1:
            raise InputError(f"tokenizer.max_tokens={max_tokens}: I need a whole number of at least 1.")
        self.max_tokens = max_tokens
        self.distinct = distinct

    def fit(self, interactions: Interactions) -> UnwrittenTitles:
        """Collect the titles.

        Returns:
            The titles, which need no new token, to be written once there is a language model.

        Raises:
            InputError: items have no title.
        """
        untitled = [
            item for item, title in zip(interactions.item_ids, interactions.titles, strict=True) if not title.strip()
        ]
        if untitled:
            raise InputError(
                f"{len(untitled)} of {interactions.num_items} items of '{interactions.name}' have no title (first: "
                f"{', '.join(untitled[:3])}). I need one for every item that is left after the k-core filter.\n"
                "Complete the data, or write the items as semantic IDs:  tokenizer=residual_kmeans"
            )
        titles = [" ".join(title.split()) for title in interactions.titles]
        return UnwrittenTitles(titles, self.max_tokens, self.distinct)


@dataclass(frozen=True)
class UnwrittenTitles:
    """Titles that wait for a language model's tokenizer.

    Attributes:
        titles: Title of each item, words apart by one space.
        max_tokens: Longest title in tokens.
        distinct: Whether those are told apart that would be alike, see ``Titles``.
    """

    titles: list[str]
    max_tokens: int
    distinct: bool = False

    @property
    def start(self) -> None:
        """What new tokens start from: there are none."""
        return None

    @property
    def vocabulary(self) -> list[str]:
        """New tokens of the language model: none."""
        return []

    def written_for(self, model: CausalLM) -> ItemTokens:
        """Write every title as a space, its text and the end-of-text token, and tell the model of the tokens in use.

        The space lets a title stand after any word of a prompt, and the end keeps one title from being the beginning of
        another.

        Returns:
            The items. The report also has ``titles_cut`` and ``mean_tokens``, the end included.
        """
        tokenizer = model.tokenizer
        texts = _tokens(tokenizer, self.titles)
        kept = _told_apart(tokenizer, texts, self.max_tokens) if self.distinct else _cut(texts, self.max_tokens)
        rows = [[*text, tokenizer.eos_token_id] for text in kept]
        lengths = np.array([len(row) for row in rows])
        ids, places = np.unique(np.concatenate(rows), return_inverse=True)
        tokens = np.full((len(rows), lengths.max()), -1)
        tokens[np.arange(lengths.max()) < lengths[:, None]] = places
        vocabulary = tokenizer.convert_ids_to_tokens(ids.tolist())
        model.name_item_tokens(vocabulary)
        report = {
            **group_statistics(tokens),
            "titles_cut": sum(len(text) > self.max_tokens for text in texts),
            "mean_tokens": float(lengths.mean()),
        }
        return ItemTokens(vocabulary, tokens, report, as_text=True)


def written_titles(tokenizer: Any, items: ItemTokens, max_tokens: int, asker: str) -> list[NDArray[np.int64]]:
    """Write every item's title as text that stands beside its semantic ID: a space, then at most so many tokens.

    Raises:
        InputError: items have no title.
    """
    untitled = sum(not title.strip() for title in items.titles)
    if untitled or not items.titles:
        raise InputError(
            f"{asker}: {untitled or 'all'} of {len(items.tokens)} items have no title, and I need one for every item.\n"
            "Complete the data, or type:  prompt=ids"
        )
    return [np.array(text) for text in _cut(_tokens(tokenizer, items.titles, items.vocabulary), max_tokens)]


def _tokens(tokenizer: Any, titles: Sequence[str], vocabulary: Sequence[str] = ()) -> list[list[int]]:
    return text_tokens(tokenizer, [f" {' '.join(title.split())}" for title in titles], vocabulary)


def _cut(texts: Sequence[list[int]], max_tokens: int) -> list[list[int]]:
    return [text[:max_tokens] for text in texts]


def _told_apart(tokenizer: Any, texts: Sequence[list[int]], max_tokens: int) -> list[list[int]]:
    """Cut texts, and let those that are alike then go on as ``Titles`` says."""
    rows = [[*start, *rest] for start, rest in zip(_cut(texts, max_tokens), _partings(texts, max_tokens), strict=True)]
    taken = set(map(tuple, rows))
    number: Counter[tuple[int, ...]] = Counter()
    for row in rows:
        whole = tuple(row)
        number[whole] += 1
        while number[whole] > 1 and tuple(row) in taken:
            row[len(whole) :] = tokenizer(f" #{number[whole]}", add_special_tokens=False)["input_ids"]
            number[whole] += tuple(row) in taken  # another title may read so
        taken.add(tuple(row))
    return rows


def _partings(texts: Sequence[list[int]], start: int) -> list[list[int]]:
    """Return for each text the tokens from ``start`` on at which it parts from those that began like it, no others."""
    partings: list[list[int]] = [[] for _ in texts]
    alike = [(rows, start) for rows in _alike(texts, range(len(texts)), slice(start))]
    while alike:
        rows, place = alike.pop()
        if len(rows) == 1 or all(len(texts[row]) <= place for row in rows):
            continue
        branches = _alike(texts, rows, slice(place, place + 1))
        if len(branches) > 1:
            for row in rows:
                partings[row] += texts[row][place : place + 1]
        alike += [(branch, place + 1) for branch in branches]
    return partings


def _alike(texts: Sequence[list[int]], rows: Sequence[int], part: slice) -> list[list[int]]:
    """Group rows whose texts agree in a part."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row in rows:
        groups.setdefault(tuple(texts[row][part]), []).append(row)
    return list(groups.values())
