"""Item embeddings that semantic IDs are cut from: item text, who used the item, or both."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from scipy.sparse import csr_matrix, diags
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from src.ilrec.dataset.interactions import count_pairs
from src.launch.errors import InputError
from src.launch.lines import existing_file, fault, read_lines
from src.launch.values import Count, Seed, Share

if TYPE_CHECKING:
    from src.ilrec.dataset.interactions import Interactions

Content = Literal["title", "title_and_text"]


class Embedding(Protocol):
    """Anything that turns the items of a data set into vectors."""

    def embed(self, interactions: Interactions) -> np.ndarray:
        """Return one vector per item, shape ``(items, dimensions)``, float32."""
        ...


class TextEmbedding:
    """Latent semantic analysis of title and description: TF-IDF of words and word pairs, then truncated SVD."""

    def __init__(self, *, dimensions: Count, terms: Count, seed: Seed) -> None:
        """Keep the settings.

        Args:
            dimensions: Singular vectors kept, at most; fewer where there are fewer items or terms.
            terms: Most frequent words and word pairs kept, at most; bounds the memory on long descriptions.
            seed: Seed of the randomised SVD.
        """
        self.dimensions = dimensions
        self.terms = terms
        self.seed = seed

    def embed(self, interactions: Interactions) -> np.ndarray:
        """Return unit vectors, shape ``(items, dimensions)``, float32.

        Raises:
            InputError: an item has no word in its title and text.
        """
        # One-letter words carry meaning in titles ("M", "Z"), which scikit-learn's default pattern would drop.
        weighting = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+", max_features=self.terms
        )
        return unit_rows(
            _svd(weighting.fit_transform(documents(interactions, "title_and_text")), self.dimensions, self.seed)
        )


class CollaborativeEmbedding:
    """Truncated SVD of the degree-normalised training matrix: items used by the same users lie close."""

    def __init__(self, *, dimensions: Count, seed: Seed) -> None:
        """Keep the settings.

        Args:
            dimensions: Singular vectors kept, at most; fewer where the matrix is smaller.
            seed: Seed of the randomised SVD.
        """
        self.dimensions = dimensions
        self.seed = seed

    def embed(self, interactions: Interactions) -> np.ndarray:
        """Return unit vectors, shape ``(items, dimensions)``, float32.

        An item without training interactions gets the mean of the others' vectors: it joins the least specific group.
        ``items_without_training`` in the tokenizer's report counts such items.
        """
        counts = interactions.training_matrix().T.tocsr().astype(np.float64)
        vectors = unit_rows(_svd(_degree_normalised(counts), self.dimensions, self.seed))
        seen = counts.getnnz(axis=1) > 0
        vectors[~seen] = vectors[seen].mean(axis=0)
        return vectors


class TransitionEmbedding:
    """Truncated SVD of which items stand near each other: items that lead to, or follow, the same items lie close.

    An entry is ``log(1 + n(a, b) N / (n(a) n(b)))``, n(a, b) the pairs at distance d = 1..skip in a training sequence,
    each counted ``0.5 ** (d - 1)`` times, in either order. Source: our choice; the pairs are those of ``counting``.
    """

    def __init__(self, *, dimensions: Count, skip: Count, seed: Seed) -> None:
        """Keep the settings.

        Args:
            dimensions: Singular vectors kept, at most; fewer where there are fewer items.
            skip: Largest distance of a pair.
            seed: Seed of the randomised SVD.
        """
        self.dimensions = dimensions
        self.skip = skip
        self.seed = seed

    def embed(self, interactions: Interactions) -> np.ndarray:
        """Return unit vectors, shape ``(items, dimensions)``, float32; zeros for an item that stands beside none."""
        pairs = count_pairs(interactions, skip=self.skip, back=1.0).tocoo()
        share = np.asarray(pairs.sum(axis=1)).ravel()
        pairs.data = np.log1p(pairs.data * share.sum() / (share[pairs.row] * share[pairs.col]))
        svd = TruncatedSVD(min(self.dimensions, *pairs.shape), n_iter=10, random_state=self.seed)
        weighted = svd.fit_transform(pairs.tocsr())
        scale = np.sqrt(np.where(svd.singular_values_ > 0, svd.singular_values_, 1))
        return unit_rows(weighted / scale).astype(np.float32)


class JointEmbedding:
    """Text and collaborative vectors side by side, each centred and scaled to a mean squared length of 1."""

    def __init__(self, *, text: Embedding, collaborative: Embedding, text_weight: Share) -> None:
        """Keep the parts.

        Args:
            text: The content half.
            collaborative: The usage half.
            text_weight: Share of the text half in the squared distance between two items, 0 to 1.
        """
        if not 0 <= text_weight <= 1:
            raise InputError(f"tokenizer.embedding.text_weight={text_weight} is a share: give a number from 0 to 1.")
        self.text = text
        self.collaborative = collaborative
        self.text_weight = text_weight

    def embed(self, interactions: Interactions) -> np.ndarray:
        """Return both halves, shape ``(items, text dimensions + collaborative dimensions)``, float32."""
        text = _standardised(self.text.embed(interactions)) * np.sqrt(self.text_weight)
        collaborative = _standardised(self.collaborative.embed(interactions)) * np.sqrt(1 - self.text_weight)
        return np.hstack([text, collaborative]).astype(np.float32)


class FileEmbedding:
    """Ready-made vectors: a ``.npy`` file with one row per item, such as LC-Rec's ``X.emb-*.npy``."""

    def __init__(self, *, path: str, ids: str | None = None) -> None:
        """Keep the paths.

        Args:
            path: The ``.npy``.
            ids: A text file with the item id of each row, one a line, or with item id and row, apart by a tab, as
                UniSRec's ``X.item2index`` and LC-Rec's ``X.item2id``; rows are numbered from 0.
        """
        self.path = Path(path)
        self.ids = None if ids is None else Path(ids)

    def embed(self, interactions: Interactions) -> np.ndarray:
        """Return the items' rows, shape ``(items, dimensions)``, float32.

        Where ``ids`` is set, it says whose row is whose. Otherwise row i belongs to the i-th item of the data set where
        there are as many rows as items; where not, row i belongs to the item whose id is i, as in LC-Rec's files of all
        items before any filter, and there must be a row for each of these: items numbered from 1 would get the row of
        the one before.

        Raises:
            InputError: a file is absent or broken, has another shape, or holds values that are no finite numbers.
        """
        vectors = self._read()
        if self.ids and vectors.ndim == 2:
            rows: np.ndarray | None = self._rows_by_ids(self.ids, interactions, len(vectors))
        else:
            rows = _rows_of_items(interactions, len(vectors)) if vectors.ndim == 2 else None
        if rows is None or vectors.shape[1] == 0:
            raise InputError(
                f"{self.path} has the shape {vectors.shape}; I need two dimensions, with one row for each of the "
                f"{interactions.num_items} items of '{interactions.name}' in the data set's order (by id, shorter ids "
                "first), or, for items numbered from 0, with row i for the item of id i before any filter.\n"
                "Write such a file, or embed the items here:  tokenizer/embedding=text\n"
                "or say whose row is whose:  tokenizer.embedding.ids=<file with an item id a line>"
            )
        chosen = np.asarray(vectors[rows], dtype=np.float32)
        if not np.isfinite(chosen).all():
            raise InputError(
                f"{self.path}: row {int(rows[~np.isfinite(chosen).all(axis=1)][0])} holds a value that is no finite "
                "number in float32. Mend the file."
            )
        return chosen

    def _rows_by_ids(self, ids: Path, interactions: Interactions, count: int) -> np.ndarray:
        """Return which row each item has by the file of ids.

        Raises:
            InputError: the file does not fit the array, names an item twice or lacks one.
        """
        known: dict[str, int] = {}
        lines = list(read_lines(existing_file(ids, "the file that tokenizer.embedding.ids names")))
        for place, (number, line) in enumerate(lines):
            item, _, row = (part.strip() for part in line.partition("\t"))
            if item in known or (row and not (row.isdecimal() and int(row) < count)):
                raise fault(ids, number, f"{line[:60]!r} is not a new item id with a row below {count}")
            known[item] = int(row) if row else place
        if len(lines) != count:
            raise InputError(f"{ids} names {len(lines)} items, but {self.path} has {count} rows. Name those of all.")
        if len(set(known.values())) != count:
            raise InputError(f"{ids} gives one row to several items. I need a row for each.")
        if missing := [item for item in interactions.item_ids if item not in known]:
            raise InputError(
                f"{ids} lacks {len(missing)} of {interactions.num_items} items of '{interactions.name}' (first: "
                f"{', '.join(missing[:3])}). Write all of them into it and {self.path.name}."
            )
        return np.array([known[item] for item in interactions.item_ids])

    def _read(self) -> np.ndarray:
        try:
            vectors = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except OSError as fault:
            raise InputError(
                f"{self.path} cannot be read: {fault.strerror or fault}. Point to an array:  "
                "tokenizer.embedding.path=<X.npy>"
            ) from None
        except (ValueError, EOFError) as fault:
            raise InputError(
                f"{self.path} is no whole .npy file of numbers: {fault}. Write it with numpy.save."
            ) from None
        if not isinstance(vectors, np.ndarray) or vectors.dtype.kind not in "fiu":
            raise InputError(f"{self.path} holds no array of numbers. Write one with numpy.save.")
        return vectors


def documents(interactions: Interactions, content: Content) -> list[str]:
    """Return what is to be read of each item.

    Args:
        interactions: The data set.
        content: ``title``, or ``title_and_text`` for description, brand, genres and the like as well.

    Raises:
        InputError: an item has no word.
    """
    if content == "title":
        texts = list(interactions.titles)
    else:
        texts = [
            text if title in text else f"{title} {text}"
            for title, text in zip(interactions.titles, interactions.texts, strict=True)
        ]
    empty = [item for item, text in zip(interactions.item_ids, texts, strict=True) if not re.search(r"\w", text)]
    if empty:
        raise InputError(
            f"{len(empty)} of {len(texts)} items of '{interactions.name}' have no word of "
            f"{content.replace('_and_', ' or ')} (first: {', '.join(empty[:3])}), but this embedding needs words.\n"
            "Embed items by their users instead:  tokenizer/embedding=collaborative\n"
            "or take ready-made semantic IDs:     tokenizer=index_file tokenizer.path=<X.index.json>"
        )
    return texts


def _rows_of_items(interactions: Interactions, count: int) -> np.ndarray | None:
    """Return which of a file's ``count`` rows each item has; None where the file cannot be meant for these items."""
    item_ids = interactions.item_ids
    if count == len(item_ids):
        return np.arange(count)
    numbers = [int(item) for item in item_ids if item.isdecimal()]
    if len(numbers) != len(item_ids) or max(numbers) >= count:
        return None
    highest = interactions.statistics.get("highest_item_number", count - 1)
    return np.array(numbers) if count == highest + 1 else None


def _degree_normalised(counts: csr_matrix) -> csr_matrix:
    """Divide each entry by the square roots of its row's and column's sums (0 stays 0)."""
    rows, columns = (np.maximum(np.asarray(counts.sum(axis=axis)).ravel(), 1) for axis in (1, 0))
    return diags(rows**-0.5) @ counts @ diags(columns**-0.5)


def _svd(matrix: csr_matrix, dimensions: int, seed: Seed) -> np.ndarray:
    if matrix.shape[1] == 1:  # of one user, or one term: it is its own, and scikit-learn wants two columns
        return np.asarray(matrix.toarray(), dtype=np.float32)
    kept = min(dimensions, *matrix.shape)
    vectors: np.ndarray = TruncatedSVD(n_components=kept, random_state=seed).fit_transform(matrix)
    return vectors.astype(np.float32)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale each row to length 1; a row of zeros stays one."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def _standardised(vectors: np.ndarray) -> np.ndarray:
    centred = vectors - vectors.mean(axis=0)
    spread = np.sqrt((centred**2).sum(axis=1).mean())
    scaled: np.ndarray = centred / np.where(spread > 0, spread, 1)
    return scaled
