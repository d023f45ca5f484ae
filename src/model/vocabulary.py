"""The rows of a language model's new tokens: where they start."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from src.launch.errors import InputError


@torch.no_grad()
def start_rows(weight: Tensor, rows: Tensor, vectors: np.ndarray, seed: int) -> None:
    """Start embedding rows from vectors, centred, scaled to the mean length that the rows have, and turned at random.

    Turning spreads the vectors' dimensions over the embedding's, which otherwise would mean something from the start in
    the order of their variance. A row whose vector is 0 stays as it is.

    Args:
        weight: Embedding matrix, shape ``(V, D)``, changed in place.
        rows: Those that start from vectors, shape ``(n,)``, int64.
        vectors: Shape ``(n, d)``, d <= D.
        seed: Seed of the rotation.

    Raises:
        InputError: the vectors are wider than the rows.
    """
    wide, width = vectors.shape[1], weight.shape[1]
    if wide > width:
        raise InputError(
            f"tokenizer.start gives vectors of {wide} dimensions, and the model is {width} wide.\n"
            f"Type:  tokenizer.start.dimensions={width}"
        )
    known = torch.from_numpy(vectors).float()
    present = known.norm(dim=1) > 0
    centred = torch.nn.functional.normalize(known[present] - known[present].mean(0))
    generator = torch.Generator().manual_seed(seed)
    turned = torch.linalg.qr(torch.randn(width, wide, generator=generator)).Q
    length = weight[rows].float().norm(dim=1).mean()
    chosen = rows[present.to(rows.device)]
    weight[chosen] = (length * (centred @ turned.T).to(weight.device)).to(weight.dtype)
