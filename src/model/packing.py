"""Examples of a few tokens to learn, laid out in rows: short ones share a row without seeing each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Batch = dict[str, Tensor]
Example = tuple[NDArray[np.int64], NDArray[np.int64]]


def lay_out(examples: Sequence[Example], *, pad_token_id: int, packed: bool) -> Batch:
    """Put examples into rows of at most T tokens, the length of the longest one.

    Args:
        examples: Tokens of each, and for every token what it is a label of, a number; -1 for a token that is only read.
            The first token is no label.
        pad_token_id: What rows are filled up with, on the right.
        packed: Whether short examples share a row; that changes the cost and nothing else.

    Returns:
        ``input_ids`` ``(B, T)``; ``attention_mask`` ``(B, T)``, which numbers the examples of a row from 1 and is 0 for
        padding; ``rows`` ``(B, T)`` that marks the states which predict a label; and for the N labels in that order
        ``target`` ``(N,)``, the token, and ``owner`` ``(N,)``, what it is a label of.
    """
    lengths = [len(tokens) for tokens, _ in examples]
    shared = pack(lengths) if packed else [[example] for example in range(len(examples))]
    shape = len(shared), max(lengths)
    input_ids = torch.full(shape, pad_token_id)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    owner = torch.full(shape, -1)
    for row, examples_of_row in enumerate(shared):
        stop = 0
        for number, example in enumerate(examples_of_row, start=1):
            start, stop = stop, stop + lengths[example]
            tokens, owners = examples[example]
            input_ids[row, start:stop] = torch.from_numpy(tokens)
            attention_mask[row, start:stop] = number
            owner[row, start:stop] = torch.from_numpy(owners)
    label = owner != -1
    rows = torch.zeros_like(label)
    rows[:, :-1] = label[:, 1:]  # the state at t predicts token t + 1
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "rows": rows,
        "target": input_ids[label],
        "owner": owner[label],
    }


def pack(lengths: Sequence[int]) -> list[list[int]]:
    """Put examples into as few rows as first-fit-decreasing finds, none longer than the longest example.

    Args:
        lengths: Tokens of each example, all positive.

    Returns:
        The examples of each row; each example is in exactly one.
    """
    room: list[int] = []
    rows: list[list[int]] = []
    for example in sorted(range(len(lengths)), key=lambda one: -lengths[one]):
        row = next((row for row, left in enumerate(room) if left >= lengths[example]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(max(lengths))
        rows[row].append(example)
        room[row] -= lengths[example]
    return rows
