"""Semantic IDs cut from item embeddings by LC-Rec's RQ-VAE."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from src.ilrec.tokenizer.autoencoder import ResidualAutoencoder, Training, train
from src.ilrec.tokenizer.embeddings import Embedding
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.ilrec.tokenizer.semantic_id import ResidualCodes
from src.launch.storage import cache_folder, locked
from src.launch.values import Seed
from src.losses.quantisation import squared_distances

if TYPE_CHECKING:
    from src.ilrec.dataset.interactions import Interactions

# Part of the cache key: raise it whenever the same embedding and settings give other weights.
_FORMAT = 1


class RqVae:
    """Residual quantisation in the latent space of an autoencoder, with a last level that keeps items apart.

    The trained weights stay in the cache folder under the hash of embedding and settings: the next run with the same
    ones takes them up, a killed training goes on, and of several processes one trains while the others wait.

    Source: LC-Rec (arXiv 2311.09049); see ``ResidualAutoencoder`` and ``ResidualCodes`` for what differs.
    """

    codes: ResidualCodes

    def __init__(
        self,
        *,
        embedding: Embedding,
        training: Training,
        seed: Seed,
        start: Embedding | None = None,
        **codes: Any,
    ) -> None:
        """Keep the settings.

        Args:
            embedding: Where the item vectors come from.
            training: The autoencoder and its optimisation.
            seed: Seed of everything random in the training.
            start: Embedding that tokens start from; ``None`` leaves that to the model.
            codes: Those of ``ResidualCodes``.
        """
        self.codes = ResidualCodes(**codes)
        self.embedding = embedding
        self.start = start
        self.training = training
        self.seed = seed

    def fit(self, interactions: Interactions) -> ItemTokens:
        """Embed the items, train the autoencoder if the cache has none for them, and cut the latents into codes.

        Returns:
            The IDs. The report also has ``items_without_training`` and, per level, ``unexplained``: the share of the
            embeddings' variance that the decoder does not rebuild from the codes up to that level.

        Raises:
            InputError: fewer items than codes, the embedding misses something it needs, or the cache cannot be written.
        """
        self.codes.require_items(interactions)
        with _one_thread():
            vectors = self.embedding.embed(interactions).astype(np.float32)
            vectors -= vectors.mean(axis=0)
            vectors /= np.sqrt((vectors**2).mean()) or 1
            module = ResidualAutoencoder(torch.from_numpy(vectors), self.codes, self.training, self.seed)
            folder = cache_folder() / "rq_vae" / self._key(vectors)
            with locked(folder):
                train(module, folder)
            codes, unexplained = self._cut(module)
        return self.codes.named(codes, unexplained, interactions).started(self.start, interactions)

    def _key(self, vectors: np.ndarray) -> str:
        """Return the hash of everything that the trained weights depend on."""
        shape = [self.codes.levels, self.codes.codebook_size, *vectors.shape]
        settings = json.dumps([_FORMAT, shape, asdict(self.training), self.seed])
        return hashlib.sha256(settings.encode() + vectors.tobytes()).hexdigest()

    @torch.no_grad()
    def _cut(self, module: ResidualAutoencoder) -> tuple[np.ndarray, list[float]]:
        """Return codes of shape ``(items, levels)`` and the share of variance each level leaves, in float64."""
        module.double()
        vectors = module.vectors.double()
        residual = module.encoder(vectors)
        rebuilt_from = torch.zeros_like(residual)
        total = (vectors**2).sum().clamp(min=1e-300)
        codes = np.zeros((len(vectors), 0), dtype=np.int64)
        unexplained: list[float] = []
        for codebook in module.codebooks:
            chosen = self.codes.assign(squared_distances(residual, codebook).numpy(), codes)
            codes = np.column_stack([codes, chosen])
            residual = residual - codebook[chosen]
            rebuilt_from = rebuilt_from + codebook[chosen]
            unexplained.append(float(((module.decoder(rebuilt_from) - vectors) ** 2).sum() / total))
        return codes, unexplained


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread: with more, the order of additions varies, so the last bits, and so now and then a code."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(threads)
