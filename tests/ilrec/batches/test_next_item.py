"""Batches: reproducible, resumable, shared out without loss or repetition."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.ilrec.batches.next_item import EvaluationBatches, RecommendationData, TrainingBatches
from src.ilrec.dataset.interactions import Interactions
from src.ilrec.prompt.examples import Examples
from src.ilrec.prompt.ids import ItemsPrompt
from src.launch.errors import InputError
from src.model.packing import pack


class OneTokenPrompt:
    """Writes item i as token 10 + i after a token 1; every item is a response; windows of two items."""

    pad_token_id = 0

    def most_examples(self, lengths):
        return int((-(-lengths // 2)).sum())

    packed = True

    def examples(self, lengths, rng):
        rows = [(user, start, min(start + 2, n)) for user, n in enumerate(lengths) for start in range(0, n, 2)]
        user, start, stop = np.array(rows).T
        return Examples(user, start, stop, start)

    def encode(self, items, first_label):
        tokens = np.concatenate([[1], 10 + items])
        owner = np.arange(len(tokens)) - 1
        return tokens, np.where(owner >= first_label, owner, -1)

    def prompt(self, history):
        return np.concatenate([[1], 10 + history])


def interactions(lengths=(5, 3, 8, 4, 6)):
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Interactions(
        name="small",
        offsets=offsets,
        items=rng.integers(0, 9, offsets[-1]),
        user_ids=[f"u{n}" for n in range(len(lengths))],
        item_ids=[f"i{n}" for n in range(9)],
        titles=[""] * 9,
        texts=[""] * 9,
        fingerprint="f" * 64,
        statistics={},
    )


def data(batch_size=2, evaluation_batch_size=2, max_users=None):
    return RecommendationData(
        interactions=interactions(),
        prompt=OneTokenPrompt(),
        seed=1,
        batch_size=batch_size,
        evaluation_batch_size=evaluation_batch_size,
        max_users=max_users,
    )


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_training_batch_holds_tokens_rows_and_targets_that_belong_together():
    for batch in TrainingBatches(data(), 0, 1):
        row, column = batch["rows"].nonzero(as_tuple=True)
        assert batch["input_ids"][row, column + 1].tolist() == batch["target"].tolist()
        assert (batch["target"] >= 10).all()
        assert (10 + interactions().items[batch["interaction"]] == batch["target"].numpy()).all()
        assert ((batch["input_ids"] == 0) == (batch["attention_mask"] == 0)).all()


def test_examples_that_share_a_row_are_whole_and_are_those_of_rows_of_their_own():
    def read(batch):
        found = []
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            assert (row[mask == 0] == 0).all()
            found += [tuple(row[mask == number].tolist()) for number in range(1, int(mask.max()) + 1)]
        return sorted(found)

    together, apart = data(batch_size=6), data(batch_size=6)
    apart.prompt.packed = False
    for packed, padded in zip(TrainingBatches(together, 0, 1), TrainingBatches(apart, 0, 1), strict=True):
        assert read(packed) == read(padded)
        assert len(packed["input_ids"]) <= len(padded["input_ids"]) == len(read(padded))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_packed_rows_hold_every_example_once_and_none_is_longer_than_the_longest(lengths):
    rows = pack(lengths)
    assert sorted(itertools.chain.from_iterable(rows)) == list(range(len(lengths)))
    filled = [sum(lengths[example] for example in row) for row in rows]
    assert max(filled) <= max(lengths)
    assert all(one + other > max(lengths) for one, other in itertools.combinations(filled, 2))


def test_first_fit_decreasing_by_hand():
    # Longest first: 5 | 4 | 3 does not fit behind 5 or 4 | 2 fits behind 3 | 1 fits behind 4.
    assert pack([1, 5, 2, 4, 3]) == [[1], [3, 0], [4, 2]]


def test_training_never_shows_the_last_two_items_of_a_user():
    seen = sum(len(batch["target"]) for batch in TrainingBatches(data(), 0, 1))
    assert seen == (5 - 2) + (3 - 2) + (8 - 2) + (4 - 2) + (6 - 2)


def test_epochs_differ_in_order_and_repeat_with_the_seed():
    def two_epochs():
        loader = TrainingBatches(data(), 0, 1)
        return list(loader), list(loader)

    first, second = two_epochs()
    again_first, again_second = two_epochs()
    assert all(map(equal, first, again_first))
    assert all(map(equal, second, again_second))
    assert not all(map(equal, first, second))


@settings(max_examples=30)
@given(st.integers(0, 12))
def test_a_resumed_loader_gives_exactly_the_batches_that_are_left(stop):
    def stream(loader):
        while True:
            yield from loader

    whole = list(itertools.islice(stream(TrainingBatches(data(), 0, 1)), 15))
    interrupted = TrainingBatches(data(), 0, 1)
    list(itertools.islice(stream(interrupted), stop))
    resumed = TrainingBatches(data(), 0, 1)
    resumed.load_state_dict(interrupted.state_dict())
    assert all(map(equal, itertools.islice(stream(resumed), 15 - stop), whole[stop:]))


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_every_batch_without_loss_or_repetition(world_size):
    whole = list(TrainingBatches(data(batch_size=4), 0, 1))
    shares = [list(TrainingBatches(data(batch_size=4), rank, world_size)) for rank in range(world_size)]
    for batch, *parts in zip(whole, *shares, strict=True):
        tokens = sorted(itertools.chain.from_iterable(part["target"].tolist() for part in parts))
        assert tokens == sorted(batch["target"].tolist())


@pytest.mark.parametrize(("batch_size", "world_size"), [(1, 1), (2, 2), (3, 2)])
def test_every_small_batch_has_an_example_for_each_process_in_every_epoch(batch_size, world_size):
    # How many windows there are depends on where the first of them begins; at most one more a user than needed.
    small = data(batch_size=batch_size)
    small.prompt = ItemsPrompt(None, None, max_history=3, stride=3)
    loaders = [TrainingBatches(small, rank, world_size) for rank in range(world_size)]
    for _ in range(5):
        parts = [batch["interaction"].tolist() for loader in loaders for batch in loader]
        assert all(parts)
        assert len(parts) == world_size * loaders[0].num_batches
        users = zip(interactions().offsets, (5, 3, 8, 4, 6), strict=False)
        expected = [start + n for start, length in users for n in range(1, length - 2)]  # all but the first item
        assert sorted(itertools.chain.from_iterable(parts)) == expected


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_user_is_evaluated_exactly_once(split, world_size):
    users = [
        user
        for rank in range(world_size)
        for batch in EvaluationBatches(data(), split, rank, world_size)
        for user in batch["user"].tolist()
    ]
    assert sorted(users) == [0, 1, 2, 3, 4]


def test_an_evaluation_batch_is_padded_on_the_left_and_holds_history_and_target():
    log = interactions()
    for batch in EvaluationBatches(data(), "test", 0, 1):
        for row, user in enumerate(batch["user"].tolist()):
            items = log.sequence(user)
            assert batch["target"][row] == items[-1]
            prompt = batch["input_ids"][row][batch["attention_mask"][row] == 1]
            assert prompt.tolist() == [1, *(10 + items[:-1])]
            assert batch["attention_mask"][row].diff().ge(0).all()
            assert batch["history"][row][: len(items) - 1].tolist() == items[:-1].tolist()
            assert (batch["history"][row][len(items) - 1 :] == -1).all()


def test_max_users_evaluates_the_first_users_only():
    users = [user for batch in data(max_users=2).val_dataloader() for user in batch["user"].tolist()]
    assert sorted(users) == [0, 1]


def test_fewer_users_are_spread_evenly_over_those_that_are_evaluated():
    whole = data()
    most = whole.interactions.num_users
    of = {
        count: sorted(whole.of_users(count).val_dataloader().users.tolist()) for count in (None, 1, 2, most, most + 9)
    }
    assert of[None] == of[most] == of[most + 9] == list(range(most))
    assert of[1] == [most // 2]
    assert of[2] == [most // 4, 3 * most // 4]
    assert sorted(whole.val_dataloader().users.tolist()) == list(range(most))  # itself it stays as it was
    assert data(max_users=2).of_users(1).val_dataloader().users.tolist() == [1]


def test_batch_sizes_below_one_are_refused():
    with pytest.raises(InputError, match=r"batches.batch_size=0: I need a whole number of at least 1"):
        data(batch_size=0)
