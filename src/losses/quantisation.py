"""Losses of residual-quantised autoencoders: what draws latents and codes together, and the way around the argmin.

Symbols used throughout: N items, D latent width, K codes in a codebook, L levels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def squared_distances(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Return the squared distance of every vector to every code.

    Args:
        vectors: Shape ``(N, D)``, float.
        codebook: Shape ``(K, D)``, float.

    Returns:
        Shape ``(N, K)``, float, >= 0.
    """
    product = vectors @ codebook.T
    return ((vectors**2).sum(1, keepdim=True) + (codebook**2).sum(1) - 2 * product).clamp(min=0)


def straight_through(latent: Tensor, quantised: Tensor) -> Tensor:
    """Return the quantised values with the gradient of the latent: what reaches them is passed on as it is.

    Source: VQ-VAE (arXiv 1711.00937), straight-through estimator.

    Args:
        latent: Encoder's output, any shape, float.
        quantised: Sum of the chosen codes, same shape; gets no gradient.

    Returns:
        Tensor of the same shape.
    """
    return latent + (quantised - latent).detach()


def quantisation_loss(latent: Tensor, chosen: Tensor, *, commitment: float) -> Tensor:
    """Draw each level's codes to the residuals they stand for, and the residuals to their codes.

    ``r_1 = latent``, ``r_(l+1) = r_l - sg(e_l)``, and ``L = mean over levels, items and dimensions of
    (sg(r_l) - e_l)^2 + commitment (r_l - sg(e_l))^2``, where ``sg`` stops the gradient. The first term moves the codes
    only, the second the encoder only.

    Source: RQ-VAE as in LC-Rec (arXiv 2311.09049), mean over levels. Letting the deeper levels' commitment reach the
    encoder as well follows TIGER (arXiv 2305.05065); in LC-Rec's released code only the first level's does.

    Args:
        latent: Encoder's output, shape ``(N, D)``, float.
        chosen: Code that each item takes at each level, shape ``(L, N, D)``, float.
        commitment: Weight of the second term; dimensionless, >= 0.

    Returns:
        Loss, shape ``()``, squared latent units.

    Raises:
        ValueError: the shapes disagree, or ``commitment`` is negative.
    """
    if chosen.shape[1:] != latent.shape or not len(chosen):
        raise ValueError(
            f"shapes disagree: latent {tuple(latent.shape)}, chosen {tuple(chosen.shape)}; need (N, D) and (L, N, D)"
        )
    if not commitment >= 0:
        raise ValueError(f"commitment={commitment} must not be negative")
    before = chosen.detach().cumsum(0) - chosen.detach()
    residual = latent - before
    codebook_term = (residual.detach() - chosen) ** 2
    commitment_term = (residual - chosen.detach()) ** 2
    return torch.mean(codebook_term + commitment * commitment_term)
