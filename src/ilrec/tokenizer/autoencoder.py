"""LC-Rec's residual-quantised autoencoder, trained by Lightning with checkpoints that outlive a kill."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's usual name

from src.ilrec.tokenizer.semantic_id import ResidualCodes, require_positive
from src.launch.errors import InputError
from src.launch.storage import write_atomic, writing_to_cache
from src.launch.values import Count, Positive, Weight, Whole
from src.losses.quantisation import quantisation_loss, squared_distances, straight_through
from src.training.tracking import ProgressBar


@dataclass(frozen=True)
class Training:
    """What the autoencoder looks like and how it is trained.

    Attributes:
        widths: Hidden layers of the encoder, outermost first; the decoder mirrors them. Empty for linear maps.
        latent_width: Width of the codes.
        commitment: Weight of the commitment term, see ``quantisation_loss``; >= 0.
        learning_rate: Of AdamW, constant.
        weight_decay: Of all weights.
        batch_size: Items an optimiser step.
        epochs: Rounds of the progress bar; a checkpoint is written after each.
        steps_per_epoch: Optimiser steps a round, however many items there are.
        warmup_epochs: The first so many rounds train a plain autoencoder, so that k-means finds latents to start from
            that mean something; 0 starts from those of random weights.
        accelerator: ``cpu`` (one thread, so that IDs do not depend on their number) or ``cuda``.
    """

    widths: list[Count]
    latent_width: Count
    commitment: Weight
    learning_rate: Positive
    weight_decay: Weight
    batch_size: Count
    epochs: Count
    steps_per_epoch: Count
    warmup_epochs: Whole
    accelerator: Literal["cpu", "cuda"]

    def __post_init__(self) -> None:
        positive = ("latent_width", "learning_rate", "batch_size", "epochs", "steps_per_epoch")
        require_positive(**{f"training.{name}": getattr(self, name) for name in positive})
        require_positive(**{f"training.widths[{layer}]": width for layer, width in enumerate(self.widths)})
        if not 0 <= self.warmup_epochs < self.epochs:
            raise InputError(
                f"tokenizer.training.warmup_epochs={self.warmup_epochs}: give a number from 0 to {self.epochs - 1}, so "
                f"that some of the {self.epochs} epochs train the codes."
            )
        if self.accelerator == "cuda" and not torch.cuda.is_available():
            raise InputError(
                "tokenizer.training.accelerator=cuda: there is no CUDA here.\nType:  tokenizer.training.accelerator=cpu"
            )


class ResidualAutoencoder(lightning.LightningModule):
    """Encoder, one codebook a level, decoder: a vector is rebuilt from the sum of one code of each level.

    Source: the RQ-VAE of LC-Rec (arXiv 2311.09049). Our choices: the codebooks start from k-means over all items, after
    a warm-up without codes (from the latents of random weights most codes are never used again); the last level is
    balanced when the IDs are cut, not in training.

    Args:
        vectors: Item embeddings, centred, of mean square 1, shape ``(items, dimensions)``, float32.
        codes: The shape of the IDs.
        training: Architecture and optimisation.
        seed: Seed of the weights, the k-means starts and the order of the items.
    """

    def __init__(self, vectors: Tensor, codes: ResidualCodes, training: Training, seed: int) -> None:
        super().__init__()
        self.vectors, self.training_settings, self.seed = vectors, training, seed
        sizes = [vectors.shape[1], *training.widths, training.latent_width]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder, self.decoder = _perceptron(sizes), _perceptron(sizes[::-1])
        self.codebooks = nn.Parameter(torch.zeros(codes.levels, codes.codebook_size, training.latent_width))

    def on_train_epoch_start(self) -> None:
        """Start the codebooks when the warm-up is over."""
        if self.current_epoch == self.training_settings.warmup_epochs:
            self.start_codebooks()

    @torch.no_grad()
    def start_codebooks(self) -> None:
        """Set each codebook to the k-means centres of what the levels before it leave of the encoded items."""
        residual = self.encoder(self.vectors.to(self.device)).cpu().numpy()
        for level, codebook in enumerate(self.codebooks):
            model = KMeans(len(codebook), n_init=1, random_state=self.seed + level).fit(residual)
            codebook.copy_(torch.from_numpy(model.cluster_centers_))
            residual = residual - model.cluster_centers_[model.labels_]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return the loss of one batch of vectors, shape ``(N, dimensions)``."""
        latent = self.encoder(batch)
        if self.current_epoch < self.training_settings.warmup_epochs:
            loss = F.mse_loss(self.decoder(latent), batch)
            self.log("reconstruction", loss, prog_bar=True, logger=False)
            return loss
        chosen = self.nearest(latent)
        reconstruction = F.mse_loss(self.decoder(straight_through(latent, chosen.sum(0))), batch)
        quantisation = quantisation_loss(latent, chosen, commitment=self.training_settings.commitment)
        self.log_dict({"reconstruction": reconstruction, "quantisation": quantisation}, prog_bar=True, logger=False)
        return reconstruction + quantisation

    def nearest(self, latent: Tensor) -> Tensor:
        """Return the nearest code of each level to what the levels before it leave, shape ``(L, N, D)``."""
        residual, chosen = latent.detach(), []
        for codebook in self.codebooks:
            chosen.append(F.embedding(squared_distances(residual, codebook.detach()).argmin(1), codebook))
            residual = residual - chosen[-1].detach()
        return torch.stack(chosen)

    def train_dataloader(self) -> _Batches:
        """Return the batches of an epoch."""
        return _Batches(self)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW at a constant learning rate."""
        settings = self.training_settings
        return torch.optim.AdamW(self.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)


class _Batches:
    """One epoch of shuffled items; their order follows from seed and epoch."""

    def __init__(self, module: ResidualAutoencoder) -> None:
        self.module = module

    def __len__(self) -> int:
        return self.module.training_settings.steps_per_epoch

    def __iter__(self) -> Iterator[Tensor]:
        module, size = self.module, self.module.training_settings.batch_size
        generator = torch.Generator().manual_seed(module.seed * 1_000_003 + module.current_epoch)
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(len(self)):
            while len(order) < size:
                order = torch.cat([order, torch.randperm(len(module.vectors), generator=generator)])
            yield module.vectors[order[:size]]
            order = order[size:]


def train(module: ResidualAutoencoder, folder: Path) -> None:
    """Train a new module, go on where a kill ended an earlier training of its like, or take up the finished weights.

    Args:
        module: A module as it was made; afterwards it is on the CPU.
        folder: Where ``last.ckpt`` is written, whole or not at all; no other module may be trained there.

    Raises:
        InputError: the folder is full or cannot be written.
    """
    path, settings = folder / "last.ckpt", module.training_settings
    checkpoint = _whole(path)
    if checkpoint and checkpoint["global_step"] == settings.epochs * settings.steps_per_epoch:
        module.load_state_dict(checkpoint["state_dict"])
        return
    trainer = lightning.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        max_epochs=settings.epochs,  # max_steps would make Lightning resume in the middle of a finished epoch
        deterministic=True,
        callbacks=[_EachEpoch(path), ProgressBar("Fitting the tokenizer, epoch")],
        plugins=[_CheckpointIO()],
        logger=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, ckpt_path=path if checkpoint else None, weights_only=True)
    module.cpu()


def _whole(path: Path) -> dict[str, Any] | None:
    """Return a checkpoint; None, so that it is made anew, where it is absent or damaged."""
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception:  # torch.load answers damage with errors of a dozen types
        return None


class _EachEpoch(Checkpoint):
    """Write the state after every epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.save_checkpoint(self.path)


class _CheckpointIO(TorchCheckpointIO):
    """Write checkpoints into the cache, whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with writing_to_cache():
            write_atomic(Path(path), content.getvalue())


def _perceptron(sizes: list[int]) -> nn.Sequential:
    """Linear layers of the given sizes with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
