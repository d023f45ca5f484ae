"""CRR's token rewards from their definition, an item at a time."""

import torch


def slow_rewards(probabilities, items, prefixes, vocabulary_size):
    """``sum of P(i) over the items that start with prefix + v / sum over those that start with prefix``, 0 for 0 / 0.

    Args:
        probabilities: A row for each prefix.
        items: Their tokens, as tuples.
        prefixes: As tuples.
        vocabulary_size: Number of tokens v.
    """

    def mass(row, start):
        return sum(p for p, item in zip(row, items, strict=True) if item[: len(start)] == start)

    rewards = [
        [mass(row, (*prefix, token)) / (mass(row, prefix) or 1) for token in range(vocabulary_size)]
        for row, prefix in zip(probabilities.tolist(), prefixes, strict=True)
    ]
    return torch.tensor(rewards, dtype=torch.float64)
