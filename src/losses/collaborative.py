"""Collaborative reward regularisation (CRR): what a collaborative model thinks of each token, and its loss.

Symbols used throughout: N label positions, V vocabulary size, I items, H histories, E marked entries of ``(N, V)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from src.losses.known_gradient import FEW, at_least_single, row_blocks, with_gradient

# Probabilities become whole multiples of 2**-60, so that sums of up to 2**3 of mass fit into 63 bits.
UNITS = 2.0**60

_SMALLEST = torch.finfo(torch.float32).tiny


def token_rewards(
    item_probabilities: Tensor, item_tokens: Tensor, prefixes: Tensor, *, vocabulary_size: int | None = None
) -> Tensor:
    """Return the reward of every token after every prefix, from the definition.

    ``r(v | prefix) = sum of P(i) over the items that start with prefix + v / sum over the items that start with
    prefix``. It costs ``N * (I + V)`` memory: for tests and small sets; see :func:`interval_rewards` for the rest.

    Source: ILRec (arXiv 2602.17410), CRR.

    Args:
        item_probabilities: P(i | history) of each position's history, shape ``(N, I)``, float.
        item_tokens: Tokens of each item, shape ``(I, length)``, int64; -1 pads shorter items on the right.
        prefixes: Tokens written so far, shape ``(N, at most length)``, int64; -1 pads on the right.
        vocabulary_size: V; ``None`` takes the largest token of the items plus one.

    Returns:
        Rewards of shape ``(N, V)``, float64. Each row sums to 1 over the tokens that may follow; it is all 0 where no
        item starts so, where none goes on, or where the items that do have no probability.

    Raises:
        ValueError: the shapes disagree.
    """
    width = prefixes.shape[1]
    expected = (len(prefixes), len(item_tokens))
    if item_probabilities.shape != expected or width > item_tokens.shape[1]:
        raise ValueError(
            f"shapes disagree: item_probabilities {tuple(item_probabilities.shape)}, item_tokens "
            f"{tuple(item_tokens.shape)}, prefixes {tuple(prefixes.shape)}; need (N, I), (I, length), (N, <= length)"
        )
    size = int(item_tokens.max()) + 1 if vocabulary_size is None else vocabulary_size
    starts_so = ((item_tokens[None, :, :width] == prefixes[:, None]) | (prefixes[:, None] < 0)).all(2)
    ended = torch.full((len(item_tokens), 1), -1, device=item_tokens.device)
    following = torch.cat([item_tokens, ended], dim=1).T[(prefixes >= 0).sum(1)]  # (N, I)
    mass = item_probabilities.double() * (starts_so & (following >= 0))
    rewards = mass.new_zeros(len(prefixes), size).scatter_add_(1, following.clamp(min=0), mass)
    return torch.where(rewards.sum(1, keepdim=True) > 0, rewards / mass.sum(1, keepdim=True), 0.0)


@torch.no_grad()
def interval_rewards(
    sorted_probabilities: Tensor, history: Tensor, prefix: Tensor, position: Tensor, extended: Tensor
) -> Tensor:
    """Return the rewards of chosen tokens only, from one cumulative sum a history.

    With the items sorted by their tokens, those below a prefix are neighbours: their mass is a difference of two
    entries of the cumulative sum. That sum is taken over whole numbers (multiples of 2**-60), so it is exact: a
    prefix's rewards add up to 1 whatever stands before it in the order, and on every device.

    Args:
        sorted_probabilities: P(i | history) in the order of the items' tokens, shape ``(H, I)``, float; each row sums
            to 1.
        history: Row of ``sorted_probabilities`` that each label position asks, shape ``(N,)``, int64.
        prefix: First place of the items that start with the position's prefix and one past the last, shape ``(N, 2)``,
            int64.
        position: Label position of each entry, shape ``(E,)``, int64.
        extended: Like ``prefix``, with the entry's token behind it, shape ``(E, 2)``, int64; twice the same number
            where no item goes on with it.

    Returns:
        Rewards of shape ``(E,)``, float64; 0 where the items below the prefix have no probability (each less than
        2**-61).

    Raises:
        ValueError: the shapes disagree.
    """
    if (len(history), 2, len(position), 2) != (*prefix.shape, *extended.shape):
        raise ValueError(
            f"shapes disagree: history {tuple(history.shape)}, prefix {tuple(prefix.shape)}, position "
            f"{tuple(position.shape)}, extended {tuple(extended.shape)}; need (N,), (N, 2), (E,), (E, 2)"
        )
    cumulative = cumulative_units(sorted_probabilities)
    whole = cumulative[history, prefix[:, 1]] - cumulative[history, prefix[:, 0]]
    place = extended + (history * cumulative.shape[1])[position, None]
    part = cumulative.flatten()[place].diff(dim=1)[:, 0]
    return part.double() / whole.clamp(min=1).double()[position]


def cumulative_units(sorted_probabilities: Tensor) -> Tensor:
    """Return the probability before each place, shape ``(H, I + 1)``, int64, in ``UNITS`` to 1: sums are exact."""
    rows, items = sorted_probabilities.shape
    units = torch.zeros(rows, items + 1, dtype=torch.int64, device=sorted_probabilities.device)
    units[:, 1:] = sorted_probabilities.double().mul_(UNITS).round_()
    return units.cumsum_(1)


def marked_entries(target: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """List the entries that :func:`reward_loss` looks at: every position's negatives and its true token.

    Args:
        target: True token ids, shape ``(N,)``, int64.
        negatives: Mask of the negatives, shape ``(N, V)``, bool.

    Returns:
        Positions and token ids, each of shape ``(E,)``, int64, ordered by position, then token.
    """
    row, token = negatives.scatter(1, target[:, None], True).nonzero(as_tuple=True)
    return row, token


def reward_loss(
    final_logits: Tensor,
    target: Tensor,
    negatives: Tensor,
    rewards: Tensor,
    *,
    temperature: float | None = None,
    entries: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Collaborative reward regularisation (CRR): cross-entropy with the collaborative model's soft labels.

    ``L = - mean over positions of sum_v s(v) log softmax(z)(v)`` where ``s`` is the reward restricted to Neg + {y} and
    renormalised, or ``softmax(r / temperature)`` over Neg + {y}. No gradient reaches the rewards.

    Source: ILRec (arXiv 2602.17410), CRR, as we read it: positions without any reward are left out of the mean.

    Args:
        final_logits: Last layer's logits, shape ``(N, V)``, float.
        target: True token ids, shape ``(N,)``, int64.
        negatives: Mask from ``self_hard_negatives``, shape ``(N, V)``, bool.
        rewards: Rewards >= 0 of all tokens, shape ``(N, V)``, or of those that ``entries`` lists, shape ``(E,)``.
        temperature: ``None`` renormalises the rewards; a number > 0 takes their softmax instead.
        entries: Positions, ascending, and token ids of the rewards, each of shape ``(E,)``, int64, all of them in
            Neg + {y}; what is not listed there has the reward 0. ``None``: those of :func:`marked_entries`.

    Returns:
        Loss, shape ``()``, nats a position that has a reward; without any it is 0 and its gradient is zeros.

    Raises:
        ValueError: the shapes disagree or ``temperature`` is not positive.
    """
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature={temperature} must be positive, or null for the rewards themselves")
    if final_logits.shape != negatives.shape or final_logits.shape[:1] != target.shape:
        raise ValueError(
            f"shapes disagree: final_logits {tuple(final_logits.shape)}, negatives {tuple(negatives.shape)}, "
            f"target {tuple(target.shape)}; need (N, V) twice and (N,)"
        )
    final_logits = at_least_single(final_logits)
    with torch.no_grad():
        if entries is None:
            marked = negatives.scatter(1, target[:, None], True)
            count = int(marked.count_nonzero())
            if rewards.shape not in (final_logits.shape, (count,)):
                need = f"{tuple(final_logits.shape)}, or {(count,)}, one for each negative and true token"
                raise ValueError(f"shapes disagree: rewards {tuple(rewards.shape)}; need {need}")
        elif rewards.shape != (count := len(entries[0]),):
            raise ValueError(f"shapes disagree: rewards {tuple(rewards.shape)}; need {(count,)}, one for each entry")
        elif temperature is not None:  # then every marked token has a share, those of no reward, too
            marked = negatives.scatter(1, target[:, None], True)
            rewards = torch.zeros_like(final_logits).index_put_(entries, rewards.to(final_logits.dtype))
            entries, count = None, int(marked.count_nonzero())
        if entries is None and count <= FEW * marked.numel():
            row, token = entries = marked_entries(target, negatives)
            rewards = rewards[row, token] if rewards.ndim == 2 else rewards
        if entries is None:
            value, known, gradient = _from_all(final_logits, marked, rewards, temperature)
        else:
            value, known, gradient = _from_listed(final_logits, *entries, rewards, temperature)
    return with_gradient(final_logits, value, gradient) / known.sum().clamp(min=1)


def _from_listed(
    logits: Tensor, row: Tensor, token: Tensor, rewards: Tensor, temperature: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of the rows' losses, which rows have a reward, and the sum's gradient."""
    reward = rewards.double()
    total = reward.new_zeros(len(logits)).index_add_(0, row, reward)
    share = reward
    if temperature is not None:
        largest = torch.zeros_like(total).scatter_reduce_(0, row, reward, "amax")
        share = ((reward - largest[row]) / temperature).exp() * (total > 0)[row]
    norm = torch.zeros_like(total).index_add_(0, row, share)
    label = torch.where(norm[row] > 0, share / norm[row], 0.0).to(logits.dtype)
    log_p, known = logits.log_softmax(1), total > 0
    listed = log_p[row, token].clamp(min=torch.finfo(log_p.dtype).min)  # 0 * -inf, of a token ruled out, would be NaN
    value = -(label * listed).sum()
    gradient = log_p.exp_().mul_(known[:, None])
    gradient[row, token] -= label
    return value, known, gradient


def _from_all(
    logits: Tensor, marked: Tensor, rewards: Tensor, temperature: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Do the same by blocks of rows and for every token, which is faster where many are marked."""
    value, known, gradient, first = logits.new_zeros(()), [], torch.empty_like(logits), 0
    for rows in row_blocks(logits):
        # Products with the mask: where() takes three times as long on a CPU, whose branches it leaves to chance.
        mark, log_p = marked[rows], logits[rows].log_softmax(1)
        if rewards.ndim == 2:
            reward = rewards[rows].to(log_p.dtype) * mark
        else:
            last = first + int(mark.count_nonzero())
            reward = torch.zeros_like(log_p).masked_scatter_(mark, rewards[first:last].to(log_p.dtype))
            first = last
        total = reward.sum(1)
        share, norm = reward, total
        if temperature is not None:
            share = reward.sub(reward.amax(1, keepdim=True)).div_(max(temperature, _SMALLEST)).exp_().mul_(mark)
            norm = share.sum(1)
        none = (total == 0).nonzero()[:, 0]
        share[none] = 0
        label = share.div_(norm.clamp(min=_SMALLEST)[:, None])
        part = label.flatten().dot(log_p.flatten())  # as @, but never in half precision, as that is under autocast
        if part.isnan():  # 0 * -inf, of a token that the model rules out
            part = label.flatten().dot(log_p.clamp(min=torch.finfo(log_p.dtype).min).flatten())
        value -= part
        torch.sub(log_p.exp_(), label, out=gradient[rows])
        gradient[rows][none] = 0
        known.append(total > 0)
    return value, torch.cat(known), gradient


def rewarded_positions(count: int, row: Tensor, rewards: Tensor) -> Tensor:
    """Return over how many positions :func:`reward_loss` takes its mean.

    Args:
        count: Number N of positions.
        row: Position of each reward, shape ``(E,)``, int64.
        rewards: Rewards >= 0, shape ``(E,)``.

    Returns:
        The number of positions that have a reward above 0, shape ``()``, int64.
    """
    return torch.zeros(count, dtype=torch.int64, device=row.device).index_add_(0, row, (rewards > 0).long()).gt(0).sum()
