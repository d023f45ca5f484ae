"""ILRec's cross-layer losses: self-hard negatives, the preference loss that uses them, distillation into the layers.

Symbols used throughout: N label positions (response tokens only), V vocabulary size, L intermediate layers.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's usual name

from src.losses.known_gradient import FEW, at_least_single, row_blocks, with_gradient

Space = Literal["probability", "logit"]
Form = Literal["scaled", "additive", "log"]


def self_hard_negatives(
    ensemble_logits: Tensor,
    final_logits: Tensor,
    target: Tensor,
    *,
    ratio: float,
    space: Space = "probability",
    max_negatives: int | None = None,
) -> Tensor:
    """Mark the tokens that the intermediate layers hold at least as likely as the true token's threshold.

    ``Neg = {v != y : softmax(zbar)(v) >= ratio * softmax(z)(y)}`` in probability space; in logit space the same with
    ``zbar(v) >= ratio * z(y)``. No gradient flows through the mask.

    Source: ILRec (arXiv 2602.17410), self-hard negative extraction. The released code compares in logit space, and
    sums over layers.

    Args:
        ensemble_logits: Mean of the intermediate layers' logits, shape ``(N, V)``, float.
        final_logits: Last layer's logits, shape ``(N, V)``, float.
        target: True token ids, shape ``(N,)``, int64, no ignore index left in.
        ratio: Threshold as a multiple of the true token's final probability (or logit); dimensionless, > 0.
        space: ``"probability"`` or ``"logit"``.
        max_negatives: Keep at most this many negatives a position, the strongest ones; ``None`` keeps all.

    Returns:
        Mask of shape ``(N, V)``, bool. The true token is never marked.

    Raises:
        ValueError: the shapes disagree, ``ratio`` or ``max_negatives`` is not positive, ``space`` is unknown.
    """
    if ensemble_logits.shape != final_logits.shape or final_logits.shape[:1] != target.shape:
        raise ValueError(
            f"shapes disagree: ensemble_logits {tuple(ensemble_logits.shape)}, final_logits "
            f"{tuple(final_logits.shape)}, target {tuple(target.shape)}; need (N, V), (N, V), (N,)"
        )
    if not ratio > 0:
        raise ValueError(f"ratio={ratio} must be positive")
    if max_negatives is not None and max_negatives < 1:
        raise ValueError(f"max_negatives={max_negatives} must be at least 1, or null for all")
    if space not in ("probability", "logit"):
        raise ValueError(f"space={space!r} must be 'probability' or 'logit'")
    with torch.no_grad():
        ensemble_logits, final_logits = at_least_single(ensemble_logits), at_least_single(final_logits)
        true_logit = final_logits.gather(1, target[:, None])
        if space == "probability":
            # softmax(zbar)(v) >= ratio * p(y), solved for zbar(v): one logsumexp a row instead of two softmaxes.
            log_true = true_logit - final_logits.logsumexp(1, keepdim=True)
            threshold = math.log(ratio) + log_true + ensemble_logits.logsumexp(1, keepdim=True)
        else:
            threshold = ratio * true_logit
        negatives = (ensemble_logits >= threshold).scatter_(1, target[:, None], False)
        if max_negatives is not None and max_negatives < negatives.shape[1]:
            strength = ensemble_logits.masked_fill(~negatives, -torch.inf)
            strongest = strength.topk(max_negatives, dim=1).indices
            negatives = torch.zeros_like(negatives).scatter_(1, strongest, True) & negatives
    return negatives


def negative_weights(ensemble_logits: Tensor, negatives: Tensor) -> Tensor:
    """Share one unit of penalty among a position's negatives by the intermediate layers' confidence.

    ``w(v) = softmax over Neg of zbar(v)``; 0 outside Neg and everywhere in a row without negatives. No gradient.

    Source: ILRec (arXiv 2602.17410), token-level weights of the self-hard negatives.

    Args:
        ensemble_logits: Mean of the intermediate layers' logits, shape ``(N, V)``, float.
        negatives: Mask from :func:`self_hard_negatives`, shape ``(N, V)``, bool.

    Returns:
        Weights of shape ``(N, V)``, float32 or the logits' wider type; each row sums to 1, or to 0 without negatives.

    Raises:
        ValueError: the shapes disagree.
    """
    if ensemble_logits.shape != negatives.shape:
        raise ValueError(
            f"shapes disagree: ensemble_logits {tuple(ensemble_logits.shape)}, negatives {tuple(negatives.shape)}"
        )
    with torch.no_grad():
        ensemble_logits = at_least_single(ensemble_logits)
        weights = torch.empty_like(ensemble_logits)
        for rows in row_blocks(weights):
            none = ~negatives[rows]
            # An empty row would be softmax of all -inf = NaN: the final fill turns it into the zeros it stands for.
            weights[rows] = ensemble_logits[rows].masked_fill(none, -torch.inf).softmax(1).masked_fill_(none, 0.0)
    return weights


def preference_loss(
    final_logits: Tensor,
    target: Tensor,
    negatives: Tensor,
    weights: Tensor,
    *,
    strength: float,
    form: Form = "scaled",
) -> Tensor:
    """Cross-layer preference optimisation (CPO): cross-entropy after the negatives' logits have been raised.

    ``z'(v) = z(v) + shift(v)`` on Neg, ``z' = z`` elsewhere, ``L = mean CE(z', y)``, with ``a = strength``:
    ``scaled``: ``shift = a w |z|`` (equal to ``z (1 + a w)`` where ``z >= 0``); ``additive``: ``a w``;
    ``log``: ``log(1 + a w)``. ``strength=0`` is plain cross-entropy to the bit.

    For every negative the gradient with respect to ``z(v)`` is at least that of plain cross-entropy. Two details see
    to that. Where ``z < 0``, ``|z|`` carries no gradient (it would pull the logit up, towards a smaller penalty). And
    what one strong negative's shift relieves the weaker ones of, by the softmax's denominator, is added back to their
    gradient, and leaves the loss's value alone.

    Source: ILRec (arXiv 2602.17410), CPO; there ``scaled``, with ``z`` for ``|z|`` and without that floor.

    Args:
        final_logits: Last layer's logits, shape ``(N, V)``, float.
        target: True token ids, shape ``(N,)``, int64.
        negatives: Mask from :func:`self_hard_negatives`, shape ``(N, V)``, bool.
        weights: Weights from :func:`negative_weights`, shape ``(N, V)``, float.
        strength: Size ``a`` of the penalty; dimensionless, >= 0.
        form: ``"scaled"``, ``"additive"`` or ``"log"``.

    Returns:
        Loss, shape ``()``, nats a label position.

    Raises:
        ValueError: an argument is out of range, or the shapes disagree.
    """
    if not strength >= 0:
        raise ValueError(f"strength={strength} must not be negative")
    if form not in ("scaled", "additive", "log"):
        raise ValueError(f"form={form!r} must be 'scaled', 'additive' or 'log'")
    if not final_logits.shape == negatives.shape == weights.shape or final_logits.shape[:1] != target.shape:
        raise ValueError(
            f"shapes disagree: final_logits {tuple(final_logits.shape)}, negatives {tuple(negatives.shape)}, "
            f"weights {tuple(weights.shape)}, target {tuple(target.shape)}; need (N, V) three times and (N,)"
        )
    if strength == 0 or not negatives.count_nonzero():  # sums of bool are slow
        return F.cross_entropy(final_logits, target)
    final_logits = at_least_single(final_logits)
    with torch.no_grad():
        value, gradient = final_logits.new_zeros(()), torch.empty_like(final_logits)
        for rows in row_blocks(final_logits):
            block = final_logits[rows], target[rows, None], negatives[rows], strength * weights[rows]
            few = int(negatives[rows].count_nonzero()) <= FEW * negatives[rows].numel()
            value += (_penalise_few if few else _penalise)(*block, form, gradient[rows])
    return with_gradient(final_logits, value, gradient) / len(target)


def _penalise(z: Tensor, target: Tensor, negatives: Tensor, penalty: Tensor, form: Form, gradient: Tensor) -> Tensor:
    """Return the sum of the rows' losses and write its gradient, from every entry; see :func:`preference_loss`."""
    # Products with the mask: where() takes three times as long on a CPU, whose branches it leaves to chance.
    shift, slope = _shift(z, penalty * negatives, form)
    log_p = shift.add_(z).log_softmax(1)
    loss = -log_p.gather(1, target).sum()
    torch.mul(log_p.exp_(), slope, out=gradient)
    torch.maximum(gradient, z.softmax(1).mul_(negatives), out=gradient)
    gradient.scatter_add_(1, target, -torch.ones_like(target, dtype=z.dtype))
    return loss


def _penalise_few(
    z: Tensor, target: Tensor, negatives: Tensor, penalty: Tensor, form: Form, gradient: Tensor
) -> Tensor:
    """Do the same from the marked entries, which is faster where they are few."""
    at = negatives.nonzero(as_tuple=True)
    shift, slope = _shift(z[at], penalty[at], form)
    plain = (z[at] - z.logsumexp(1)[at[0]]).exp()
    raised = z.clone()
    raised[at] += shift
    log_p = raised.log_softmax(1)
    loss = -log_p.gather(1, target).sum()
    torch.exp(log_p, out=gradient)
    gradient[at] = torch.maximum(gradient[at] * slope, plain)
    gradient.scatter_add_(1, target, -torch.ones_like(target, dtype=z.dtype))
    return loss


def _shift(z: Tensor, penalty: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """Return what each logit is raised by, and the slope of the raised logit by the logit itself."""
    if form == "scaled":
        size = z.abs().nan_to_num_(torch.nan, 0.0)  # a token that the model rules out, z = -inf, stays so
        return size.mul_(penalty), 1 + penalty * (z > 0)  # where z < 0, |z| carries no gradient
    return penalty if form == "additive" else penalty.log1p(), z.new_ones(())


def distillation_loss(
    layer_logits: Tensor, final_logits: Tensor, *, vocabulary: Tensor | None = None, keep: Tensor | None = None
) -> Tensor:
    """Cross-layer preference distillation (CPD): the intermediate layers learn to agree with the final one.

    ``L = mean over layers and kept positions of KL(softmax_S(z) || softmax_S(z^(l)))``. The final layer is the teacher
    and gets no gradient. In the paper's figure the pupil is the ensemble: its logits are then the only "layer", and the
    gradient reaches the layers through it.

    Source: ILRec (arXiv 2602.17410), CPD, as we read it: restricted to the item tokens S, without the end of the
    response, and a mean where the released code, which teaches each layer, sums.

    Args:
        layer_logits: Intermediate layers' logits, shape ``(L, N, V)``, float; of their ensemble ``(1, N, V)``.
        final_logits: Last layer's logits, shape ``(N, V)``, float.
        vocabulary: Token ids of S, shape ``(|S|,)``, int64; ``None`` takes all V.
        keep: Positions that count, shape ``(N,)``, bool; ``None`` keeps all.

    Returns:
        Loss, shape ``()``, nats a layer and position. With no position kept it is 0 and its gradient is zeros.

    Raises:
        ValueError: the shapes disagree, or there is no layer.
    """
    rows = final_logits.shape[:1]
    if layer_logits.shape[1:] != final_logits.shape or (keep is not None and keep.shape != rows):
        raise ValueError(
            f"shapes disagree: layer_logits {tuple(layer_logits.shape)}, final_logits {tuple(final_logits.shape)}, "
            f"keep {None if keep is None else tuple(keep.shape)}; need (L, N, V), (N, V), (N,)"
        )
    if len(layer_logits) == 0:
        raise ValueError("layer_logits holds no layer; at least one must learn")
    if keep is not None:
        layer_logits, final_logits = layer_logits[:, keep], final_logits[keep]
    if vocabulary is not None:
        layer_logits, final_logits = layer_logits[..., vocabulary], final_logits[..., vocabulary]
    student = at_least_single(layer_logits).log_softmax(2)
    teacher = at_least_single(final_logits.detach()).log_softmax(1).expand_as(student)
    divergence = F.kl_div(student, teacher, reduction="sum", log_target=True)
    if divergence.isnan():  # 0 * -inf, of a token that the model rules out
        least = torch.finfo(student.dtype).min
        divergence = F.kl_div(student.clamp(min=least), teacher.clamp(min=least), reduction="sum", log_target=True)
    return divergence / max(student.shape[0] * student.shape[1], 1)
