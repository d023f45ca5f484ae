"""Losses of the preference baselines: DPO, S-DPO, RosePO and GRPO, over log-probabilities of whole responses.

Symbols used throughout: N pairs or prompts, K rejected responses of a pair, R = 1 + K responses with the chosen one
first, G answers of a group, M tokens of the longest response, V vocabulary size.
``D(y) = log pi(y|x) - log pi_ref(y|x)``, summed over the response's tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's usual name


def token_log_probabilities(logits: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """Read the log-probability of each response token from the logits of the row that predicts it.

    Responses to one prompt share the row of their first token, so rows are fewer than tokens. The sum over the last
    dimension is the sequence log-probability.

    Args:
        logits: One row for every distinct state, shape ``(rows, V)``, float.
        rows: Row that predicts each token, any shape ``(..., M)``, int64.
        tokens: Token ids of the same shape, int64; -1 pads.

    Returns:
        Log-probabilities in nats, shape ``(..., M)``, float; 0 at padding.

    Raises:
        ValueError: ``rows`` and ``tokens`` differ in shape.
    """
    if rows.shape != tokens.shape:
        raise ValueError(f"shapes disagree: rows {tuple(rows.shape)}, tokens {tuple(tokens.shape)}")
    log_p = logits[rows, tokens.clamp(min=0)] - logits.logsumexp(1)[rows]
    return log_p.masked_fill(tokens < 0, 0.0)


def reward_margins(policy: Tensor, reference: Tensor) -> Tensor:
    """Return ``D(y+) - D(y-)`` of every rejected response; no gradient flows into the reference.

    Args:
        policy: Sequence log-probabilities under the trained model, chosen response first, shape ``(N, 1 + K)``.
        reference: The same under the reference model, shape ``(N, 1 + K)``.

    Returns:
        Margins in nats, shape ``(N, K)``.

    Raises:
        ValueError: the shapes disagree, or there is no rejected response.
    """
    if policy.shape != reference.shape or policy.ndim != 2 or policy.shape[1] < 2:
        raise ValueError(
            f"shapes disagree: policy {tuple(policy.shape)}, reference {tuple(reference.shape)}; "
            "need (N, 1 + K) twice with K >= 1"
        )
    gain = policy - reference.detach()
    return gain[:, :1] - gain[:, 1:]


def dpo_loss(policy: Tensor, reference: Tensor, *, beta: float) -> Tensor:
    """Direct preference optimisation: ``-log sigmoid(beta (D(y+) - D(y-)))``, mean over pairs.

    Source: DPO (arXiv 2305.18290), equation 7. Several rejected responses count as so many pairs, our choice.

    Args:
        policy: Sequence log-probabilities under the trained model, chosen response first, shape ``(N, 1 + K)``.
        reference: The same under the reference model, shape ``(N, 1 + K)``; gets no gradient.
        beta: How strongly the reference holds the policy back; dimensionless, > 0.

    Returns:
        Loss, shape ``()``, nats a pair.

    Raises:
        ValueError: the shapes disagree or ``beta`` is not positive.
    """
    _require_positive("beta", beta)
    return -F.logsigmoid(beta * reward_margins(policy, reference)).mean()


def sdpo_loss(policy: Tensor, reference: Tensor, *, beta: float) -> Tensor:
    """Softmax-DPO: ``softplus(logsumexp_d(beta (D(y-_d) - D(y+))))``, mean over N.

    Equal to ``-log sigmoid(-log sum_d exp(beta (D(y-_d) - D(y+))))`` without its overflow; with K = 1 it is DPO.

    Source: S-DPO (arXiv 2406.09215); the stable form is our choice.

    Args:
        policy: Sequence log-probabilities under the trained model, chosen response first, shape ``(N, 1 + K)``.
        reference: The same under the reference model, shape ``(N, 1 + K)``; gets no gradient.
        beta: How strongly the reference holds the policy back; dimensionless, > 0.

    Returns:
        Loss, shape ``()``, nats a prompt.

    Raises:
        ValueError: the shapes disagree or ``beta`` is not positive.
    """
    _require_positive("beta", beta)
    return F.softplus((-beta * reward_margins(policy, reference)).logsumexp(1)).mean()


def preference_smoothing(chosen_score: Tensor, rejected_score: Tensor, *, temperature: float) -> Tensor:
    """Return the probability that a preference is the wrong way round, as an oracle sees it.

    ``e = sigmoid(-(s(y+) - s(y-)) / temperature)``. RosePO (arXiv 2410.12519) takes e from a preference oracle, a
    sequential recommender, for each user; this formula is our reading of that.

    Args:
        chosen_score: The oracle's score s(y+) of the chosen items, any shape, float; logits or log-probabilities.
        rejected_score: Its score s(y-) of the rejected items, a shape that broadcasts with it.
        temperature: Score difference that counts as one; in the scores' unit, > 0.

    Returns:
        Smoothing in (0, 1): above 0.5 where the oracle prefers the rejected item.

    Raises:
        ValueError: ``temperature`` is not positive.
    """
    _require_positive("temperature", temperature)
    return torch.sigmoid((rejected_score - chosen_score) / temperature)


def rosepo_loss(policy: Tensor, reference: Tensor, smoothing: Tensor, *, beta: float) -> Tensor:
    """DPO with personalised label smoothing, mean over pairs.

    ``-(1 - e) log sigmoid(beta (D(y+) - D(y-))) - e log sigmoid(-beta (D(y+) - D(y-)))``; with e = 0 it is DPO.

    Source: RosePO (arXiv 2410.12519).

    Args:
        policy: Sequence log-probabilities under the trained model, chosen response first, shape ``(N, 1 + K)``.
        reference: The same under the reference model, shape ``(N, 1 + K)``; gets no gradient.
        smoothing: Probability e that the rejected item is the better one, shape ``(N, K)``, 0 to 1; no gradient.
        beta: How strongly the reference holds the policy back; dimensionless, > 0.

    Returns:
        Loss, shape ``()``, nats a pair.

    Raises:
        ValueError: the shapes disagree or ``beta`` is not positive.
    """
    _require_positive("beta", beta)
    margins = beta * reward_margins(policy, reference)
    if smoothing.shape != margins.shape:
        raise ValueError(f"smoothing has the shape {tuple(smoothing.shape)}; need (N, K) = {tuple(margins.shape)}")
    error = smoothing.detach()
    return -((1 - error) * F.logsigmoid(margins) + error * F.logsigmoid(-margins)).mean()


def group_rewards(hit: Tensor) -> Tensor:
    """Reward the answers of a group: 1 for the target; in a group that holds it a miss costs more, the higher it is.

    ``1[hit] - 1[miss] (1 / log2(i + 2)) / sum_j (1 / log2(j + 2))`` with ranks i, j from 0.

    Source: MiniOneRec (arXiv 2510.24431) and ReRe (arXiv 2510.12211).

    Args:
        hit: Whether each answer is the target, best answer first, shape ``(N, G)``, bool.

    Returns:
        Rewards, shape ``(N, G)``, float32.
    """
    discount = torch.arange(2, hit.shape[1] + 2, device=hit.device, dtype=torch.float32).log2().reciprocal()
    holds_target = hit.any(1, keepdim=True)
    return hit.float() - (discount / discount.sum()) * (holds_target & ~hit)


def group_advantages(rewards: Tensor) -> Tensor:
    """Compare each reward with its group: ``(r - mean) / (std + 1e-4)``.

    Source: GRPO (arXiv 2402.03300); the sample standard deviation (divisor G - 1) is the one of TRL.

    Args:
        rewards: Rewards, shape ``(N, G)``, float, G >= 2.

    Returns:
        Advantages, shape ``(N, G)``; all 0 in a group of equal rewards.

    Raises:
        ValueError: a group has fewer than two answers.
    """
    if rewards.shape[1] < 2:
        raise ValueError(f"a group of {rewards.shape[1]} answers has nothing to compare; need at least 2")
    return (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)


def group_relative_loss(
    policy: Tensor, reference: Tensor | None, advantages: Tensor, present: Tensor, *, kl_weight: float
) -> Tensor:
    """GRPO's loss of answers that the policy itself has just given.

    Per token ``-[exp(lp - sg(lp)) A - kl_weight (exp(lr - lp) - (lr - lp) - 1)]``, where lp and lr are the token's
    log-probabilities under policy and reference; mean over an answer's tokens, then over answers. The ratio is 1, and
    its gradient that of ``lp``; the second term estimates the divergence from the reference and is never negative.

    Source: GRPO (arXiv 2402.03300), equations 3 and 4, with one step per group.

    Args:
        policy: Token log-probabilities under the trained model, shape ``(N, G, M)``, float.
        reference: The same under the reference model; gets no gradient. ``None`` where ``kl_weight`` is 0.
        advantages: See :func:`group_advantages`, shape ``(N, G)``; no gradient.
        present: False at padding, shape ``(N, G, M)``, bool; every answer has a token.
        kl_weight: Weight of the divergence (the papers' beta); dimensionless, >= 0.

    Returns:
        Loss, shape ``()``.

    Raises:
        ValueError: the shapes disagree, ``kl_weight`` is negative, or it is positive and there is no reference.
    """
    if not kl_weight >= 0 or (kl_weight > 0 and reference is None):
        raise ValueError(f"kl_weight={kl_weight} must not be negative, and needs a reference where it is positive")
    if policy.shape != present.shape or policy.shape[:2] != advantages.shape:
        raise ValueError(
            f"shapes disagree: policy {tuple(policy.shape)}, present {tuple(present.shape)}, advantages "
            f"{tuple(advantages.shape)}; need (N, G, M) twice and (N, G)"
        )
    policy = policy.masked_fill(~present, 0.0)  # what stands at padding, such as -inf, is not even multiplied by 0
    loss = -(policy - policy.detach()).exp() * advantages.detach()[..., None]
    if reference is not None and kl_weight > 0:
        gap = reference.detach().masked_fill(~present, 0.0) - policy
        loss = loss + kl_weight * (gap.exp() - gap - 1)
    return ((loss * present).sum(2) / present.sum(2)).mean()


def _require_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name}={value} must be positive")
