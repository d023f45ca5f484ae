"""Rejected items: unseen, different, distributed as promised, reproducible."""

import numpy as np
import pytest

from src.ilrec.batches.negatives import Negatives
from src.ilrec.dataset.interactions import Interactions
from src.launch.errors import InputError


class OnACircle:
    """Twelve items at equal angles: the nearest others of item i are i - 1 and i + 1, then i - 2 and i + 2."""

    def embed(self, interactions):
        angle = 2 * np.pi * np.arange(12) / 12
        return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def interactions(*training):
    """Users with these training items over 12 items; the last two items of each are 10 and 11."""
    sequences = [[*items, 10, 11] for items in training]
    return Interactions(
        name="small",
        offsets=np.cumsum([0, *map(len, sequences)]),
        items=np.concatenate(sequences),
        user_ids=[f"u{n}" for n in range(len(sequences))],
        item_ids=[f"i{n}" for n in range(12)],
        titles=[""] * 12,
        texts=[""] * 12,
        fingerprint="f" * 64,
        statistics={},
    )


def negatives(log, kind, count=2, neighbours=2):
    return Negatives(log, kind, count=count, embedding=OnACircle(), neighbours=neighbours)


def draws(log, kind, user, chosen, times, **settings):
    drawer = negatives(log, kind, **settings)
    return drawer.draw(np.full(times, user), np.full(times, chosen), np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["random", "popular"])
def test_no_item_is_drawn_twice_for_a_pair_or_was_chosen_in_training(kind):
    log = interactions([0, 1, 2], [3, 4, 5, 6, 7, 8])
    for user, items in ((0, {0, 1, 2}), (1, {3, 4, 5, 6, 7, 8})):
        drawn = draws(log, kind, user, min(items), 200, count=6)
        assert all(len(set(row)) == 6 and not items & set(row) for row in drawn.tolist())
    # User 1 has six items left: all of them are drawn, the two held out among them, as nothing may be known of those.
    assert set(drawn[0]) == {0, 1, 2, 9, 10, 11}


def test_random_items_are_equally_likely():
    drawn = draws(interactions([0, 1], [2, 2, 2, 2]), "random", 0, 0, 20_000, count=1)
    # Ten unseen items, 2000 each; the standard deviation is sqrt(20000 * .1 * .9) = 42.
    counts = np.bincount(drawn.ravel(), minlength=12)
    assert (abs(counts[2:] - 2000) < 5 * 42).all()


def test_popular_items_are_drawn_by_their_training_counts_plus_one():
    # Unseen by user 0: item 2 with 3 uses (weight 4) and nine items with none (weight 1 each): 4 / 13 of the draws.
    drawn = draws(interactions([0, 1], [2, 2, 2]), "popular", 0, 0, 13_000, count=1)
    counts = np.bincount(drawn.ravel(), minlength=12)
    assert abs(counts[2] - 4000) < 5 * np.sqrt(13_000 * 4 / 13 * 9 / 13)
    assert (abs(counts[3:] - 1000) < 5 * np.sqrt(13_000 * 12 / 169)).all()


def test_similar_items_are_the_nearest_others_unseen_ones_first():
    # Around item 5: 4 and 6, then 3 and 7. User 0 has seen 4, so of four neighbours the unseen three come first.
    log = interactions([5, 4], [0, 1])
    assert set(draws(log, "similar", 0, 5, 50, count=1, neighbours=2).ravel()) == {6}
    assert set(draws(log, "similar", 0, 5, 200, count=1, neighbours=4).ravel()) == {3, 6, 7}
    # With as many rejected items as neighbours the seen one has to serve as well.
    assert set(draws(log, "similar", 0, 5, 1, count=2, neighbours=2).ravel()) == {4, 6}


def test_draws_repeat_with_the_generators_seed():
    drawer = negatives(interactions([0, 1], [2, 3]), "random")
    users, chosen = np.array([0, 1, 0]), np.array([0, 2, 1])
    one, other, third = (drawer.draw(users, chosen, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one == other).all()
    assert (one != third).any()


def test_a_user_who_has_chosen_nearly_everything_is_named():
    log = interactions([*range(10)], [0, 1])
    with pytest.raises(InputError, match=r"batches.num_negatives=3: one user has chosen all items but 2.\nType: .*=2"):
        negatives(log, "random", count=3)


def test_neighbours_out_of_range_are_named():
    log = interactions([0, 1])
    for neighbours in (1, 12):
        with pytest.raises(
            InputError, match=f"batches.neighbours={neighbours} must lie between batches.num_negatives=2 and"
        ):
            negatives(log, "similar", neighbours=neighbours)
