"""Ready-made semantic IDs from an LC-Rec index."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from src.ilrec.tokenizer.embeddings import CollaborativeEmbedding, Embedding
from src.ilrec.tokenizer.item_tokens import ItemTokens, ReportValue
from src.launch.errors import InputError
from src.launch.lines import distinct

if TYPE_CHECKING:
    from src.ilrec.dataset.interactions import Interactions

_DIMENSIONS = 32  # of the vectors that say which free code is near
_TOKEN = re.compile(r"<([a-z])_(0|[1-9][0-9]{0,17})>")


class IndexFile:
    """Ready-made semantic IDs in LC-Rec's format: ``{"item id": ["<a_128>", "<b_241>", "<c_146>"], ...}``."""

    def __init__(self, *, path: str, unique: bool = False, start: Embedding | None = None) -> None:
        """Keep the settings.

        Args:
            path: The ``.index.json``.
            unique: Give items that share an ID one each, see :func:`apart`.
            start: Embedding that tokens start from; ``None`` leaves that to the model.
        """
        self.path = Path(path)
        self.unique = unique
        self.start = start

    def fit(self, interactions: Interactions) -> ItemTokens:
        """Read the IDs of the data set's items.

        Returns:
            The IDs; the vocabulary holds the tokens that these items use. The report also has ``items_ignored``,
            items of the file that the data set does not have, and ``items_moved``, those that got an ID of their own.

        Raises:
            InputError: the file is absent or broken, misses an item, or its IDs are not one token per level.
        """
        index = self._read()
        missing = [item for item in interactions.item_ids if item not in index]
        if missing:
            raise InputError(
                f"{self.path} misses {len(missing)} of the {interactions.num_items} items of '{interactions.name}' "
                f"(first: {', '.join(missing[:3])}). It must hold every item that is left after the k-core filter.\n"
                "Point to the data set's own file:  tokenizer.path=<X.index.json>\n"
                "or make IDs from the data:         tokenizer=residual_kmeans"
            )
        first = index[interactions.item_ids[0]]
        levels = len(first) if isinstance(first, list) else 0
        numbers = np.array([self._numbers(item, index[item], levels=levels) for item in interactions.item_ids])
        extra: dict[str, ReportValue] = {"items_ignored": len(index) - interactions.num_items}
        if self.unique:
            given, numbers = numbers, apart(numbers, interactions)
            extra["items_moved"] = int((given != numbers).any(axis=1).sum())
        codebooks, codes = zip(*(np.unique(column, return_inverse=True) for column in numbers.T), strict=True)
        named = ItemTokens.from_codes(np.column_stack(codes), [book.tolist() for book in codebooks], extra)
        return named.started(self.start, interactions)

    def _read(self) -> dict[str, object]:
        try:
            index = json.loads(self.path.read_text(encoding="utf-8-sig"), object_pairs_hook=distinct)
        except OSError as fault:
            raise InputError(
                f"{self.path} cannot be read: {fault.strerror}. Point to an index:  tokenizer.path=<X.index.json>"
            ) from None
        except (RecursionError, ValueError) as fault:
            raise InputError(f"{self.path} is not valid JSON: {fault}. Fetch or write the file again.") from None
        if not isinstance(index, dict):
            raise InputError(f'{self.path} holds no object; it must read {{"item id": ["<a_1>", "<b_2>"], ...}}.')
        return index

    def _numbers(self, item: str, tokens: object, *, levels: int) -> list[int]:
        """Return the code numbers of one item's ID, which must read ``<a_N>``, ``<b_N>``, ... level by level."""
        matches = [_TOKEN.fullmatch(str(token)) for token in tokens] if isinstance(tokens, list) else []
        numbers = [int(match[2]) for level, match in enumerate(matches) if match and match[1] == chr(ord("a") + level)]
        if not levels or not len(numbers) == len(matches) == levels:
            raise InputError(
                f"{self.path}: item {item} has the ID {json.dumps(tokens)}, but an ID must read <a_N>, <b_N>, <c_N>, "
                f"..., one letter per level, with as many levels as the first item's ({levels}).\n"
                "Mend that entry, or make IDs from the data:  tokenizer=residual_kmeans"
            )
        return numbers


def apart(codes: np.ndarray, interactions: Interactions) -> np.ndarray:
    """Give every item an ID of its own: of those that share one, all but the most popular change their last code.

    Among the codes that are free below their prefix they take those whose items are used by the same users, at the
    least total squared distance; where too few are free, new codes are made. Source: our choice, after the last level
    of LC-Rec's tokenizer.

    Args:
        codes: Each item's code per level, shape ``(items, levels)``, int64.
        interactions: The data set: popularity and distances are those of its training part.

    Returns:
        Codes of the same shape, all rows distinct.
    """
    popularity = np.asarray(interactions.training_matrix().sum(axis=0)).ravel()
    order = np.lexsort([-popularity, *codes.T[::-1]])
    repeated = np.append(False, (codes[order[1:]] == codes[order[:-1]]).all(axis=1))
    if not repeated.any():
        return codes
    vectors = CollaborativeEmbedding(dimensions=_DIMENSIONS, seed=0).embed(interactions)
    book, place = np.unique(codes[:, -1], return_inverse=True)
    book = np.append(book, book.max() + 1 + np.arange(repeated.sum()))
    centre = np.zeros((len(book), vectors.shape[1]))
    np.add.at(centre, place, vectors)
    centre /= np.maximum(np.bincount(place, minlength=len(book)), 1)[:, None]
    codes, moving = codes.copy(), np.sort(order[repeated])
    for prefix in np.unique(codes[moving, :-1], axis=0):
        below = (codes[:, :-1] == prefix).all(axis=1)
        items = moving[below[moving]]
        free = np.flatnonzero(~np.isin(book, codes[below, -1]))
        new = free >= len(book) - repeated.sum()
        free = free[~new | (np.cumsum(new) <= max(len(items) - (~new).sum(), 0))]
        cost = ((vectors[items, None] - centre[free]) ** 2).sum(axis=2)
        row, column = linear_sum_assignment(cost)
        codes[items[row], -1] = book[free[column]]
    return codes
