"""Item embeddings that semantic IDs are cut from: item text, who used the item, or both."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.sparse import csr_matrix, diags
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from src.errors import InputError

if TYPE_CHECKING:
    from src.dataset.interactions import Interactions


class Embedding(Protocol):
    """Anything that turns the items of a data set into vectors."""

    def embed(self, interactions: Interactions) -> np.ndarray:
        """Return one vector per item, shape ``(items, dimensions)``, float32."""
        ...


class TextEmbedding:
    """Latent semantic analysis of title and description: TF-IDF of words and word pairs, then truncated SVD."""

    def __init__(self, *, dimensions: int, terms: int, seed: int) -> None:
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
        documents = [
            text if title in text else f"{title} {text}"
            for title, text in zip(interactions.titles, interactions.texts, strict=True)
        ]
        empty = [
            item for item, text in zip(interactions.item_ids, documents, strict=True) if not re.search(r"\w", text)
        ]
        if empty:
            raise InputError(
                f"{len(empty)} of {len(documents)} items of '{interactions.name}' have no word of title or text "
                f"(first: {', '.join(empty[:3])}), but tokenizer/embedding text and joint need words.\n"
                "Embed items by their users instead:  tokenizer/embedding=collaborative\n"
                "or take ready-made semantic IDs:     tokenizer=index_file tokenizer.path=<X.index.json>"
            )
        # One-letter words carry meaning in titles ("M", "Z"), which scikit-learn's default pattern would drop.
        weighting = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+", max_features=self.terms
        )
        return _unit_rows(_svd(weighting.fit_transform(documents), self.dimensions, self.seed))


class CollaborativeEmbedding:
    """Truncated SVD of the degree-normalised training matrix: items used by the same users lie close."""

    def __init__(self, *, dimensions: int, seed: int) -> None:
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
        vectors = _unit_rows(_svd(_degree_normalised(counts), self.dimensions, self.seed))
        seen = counts.getnnz(axis=1) > 0
        vectors[~seen] = vectors[seen].mean(axis=0)
        return vectors


class JointEmbedding:
    """Text and collaborative vectors side by side, each centred and scaled to a mean squared length of 1."""

    def __init__(self, *, text: Embedding, collaborative: Embedding, text_weight: float) -> None:
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


def _degree_normalised(counts: csr_matrix) -> csr_matrix:
    """Divide each entry by the square roots of its row's and column's sums (0 stays 0)."""
    rows, columns = (np.maximum(np.asarray(counts.sum(axis=axis)).ravel(), 1) for axis in (1, 0))
    return diags(rows**-0.5) @ counts @ diags(columns**-0.5)


def _svd(matrix: csr_matrix, dimensions: int, seed: int) -> np.ndarray:
    kept = min(dimensions, *matrix.shape)
    vectors: np.ndarray = TruncatedSVD(n_components=kept, random_state=seed).fit_transform(matrix)
    return vectors.astype(np.float32)


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def _standardised(vectors: np.ndarray) -> np.ndarray:
    centred = vectors - vectors.mean(axis=0)
    spread = np.sqrt((centred**2).sum(axis=1).mean())
    scaled: np.ndarray = centred / np.where(spread > 0, spread, 1)
    return scaled
