"""Counting against a slow reading of its definition, and what leave-one-out leaves of it."""

import tracemalloc

import numpy as np
import pytest
import torch

from src.ilrec.dataset.interactions import Interactions, count_pairs
from src.ilrec.model.counting import (
    Counting,
    LeaveOneOut,
    Popularity,
    Uniform,
    latest_items,
    ranks_of,
)
from src.launch.errors import InputError
from src.metrics.ranking import ranking_metrics

GRID = {"decay": [0.3, 0.5], "skip": [1, 3], "back": [0.0, 0.3], "norm": [0.0, 0.5], "smoothing": 0.1}


def interactions(sequences, num_items):
    return Interactions(
        name="some users",
        offsets=np.cumsum([0, *map(len, sequences)]),
        items=np.concatenate(sequences),
        user_ids=[str(n) for n in range(len(sequences))],
        item_ids=[str(n) for n in range(num_items)],
        titles=[""] * num_items,
        texts=[""] * num_items,
        fingerprint="f" * 64,
        statistics={},
    )


def drawn(users=40, num_items=30, seed=0):
    """Users who walk along the items, with jumps and with returns."""
    rng = np.random.default_rng(seed)
    walks = [(rng.integers(0, 5, rng.integers(3, 12)).cumsum() + rng.integers(num_items)) % num_items
             for _ in range(users)]  # fmt: skip
    return interactions(walks, num_items)


def counting(num_items, **changes):
    return Counting([""] * num_items, max_history=4, **{**GRID, **changes})


def slow_table(data, skip, back, norm, without=None):
    """``T`` as its definition reads; one user may be left out."""
    table = np.zeros((data.num_items, data.num_items))
    for user in range(data.num_users):
        sequence = data.training_sequence(user) if user != without else []
        for n, a in enumerate(sequence):
            for d, b in enumerate(sequence[n + 1 : n + 1 + skip], start=1):
                table[a, b] += 0.5 ** (d - 1)
                table[b, a] += back * 0.5 ** (d - 1)
    sums = table.sum(1, keepdims=True)
    return table / np.where(sums > 0, sums, 1) ** norm


def slow_scores(data, table, history, decay):
    counts = np.bincount(np.concatenate([data.training_sequence(u) for u in range(data.num_users)]),
                         minlength=data.num_items)  # fmt: skip
    followers = sum(decay**k * table[item] for k, item in enumerate(history[::-1][:4]))
    return followers, followers + 1e-6 * counts / counts.max()


def test_pairs_and_scores_worked_by_hand():
    # One user: 0 1 2 to learn from, then 3 and 4. With skip 2 and back .3:
    # T[0,1] = T[1,2] = 1, T[0,2] = .5, T[1,0] = T[2,1] = .3, T[2,0] = .15; row sums 1.5, 1.3, .45.
    data = interactions([[0, 1, 2, 3, 4]], 5)
    model = counting(5, decay=[0.5], skip=[2], back=[0.3], norm=[1.0])
    model.count(data)
    # After 0, 1: row 1 / 1.3 + .5 * row 0 / 1.5, and 1e-6 for each item of the training part.
    expected = [0.3 / 1.3 + 1e-6, 0.5 / 1.5 + 1e-6, 1 / 1.3 + 0.5 * 0.5 / 1.5 + 1e-6, 0, 0]
    torch.testing.assert_close(model.scores(torch.tensor([[1, 0, -1]]))[0], torch.tensor(expected).double())
    assert model.chosen_settings() == {"decay": 0.5, "skip": 2, "back": 0.3, "norm": 1}


@pytest.mark.parametrize(("skip", "back", "norm"), [(1, 0.0, 0.0), (3, 0.3, 0.5), (6, 1.0, 1.0)])
def test_scores_are_those_of_the_definition(skip, back, norm):
    data = drawn()
    model = counting(30, decay=[0.5], skip=[skip], back=[back], norm=[norm])
    model.count(data)
    table = slow_table(data, skip, back, norm)
    items = torch.tensor([[3, 7, 7, 1, 9, 2], [0, 0, 0, 0, 4, 5]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1]])
    scores = model.scores(model.last_states(items, mask))
    for row, history in zip(scores, ([3, 7, 7, 1, 9], [4, 5]), strict=True):
        torch.testing.assert_close(row, torch.from_numpy(slow_scores(data, table, history, 0.5)[1]))


def test_validation_users_choose_the_best_of_the_grid():
    data, found = drawn(), {}
    for skip, back, decay, norm in [
        (s, b, d, n) for s in (1, 3) for b in (0, 0.3) for d in (0.3, 0.5) for n in (0, 0.5)
    ]:
        table, ranks = slow_table(data, skip, back, norm), []
        for user in range(data.num_users):
            scores = slow_scores(data, table, data.history(user, "val"), decay)[1].round(12)
            own = scores[data.target(user, "val")]
            ranks.append((scores > own).sum() + ((scores == own).sum() + 1) / 2)
        found[decay, skip, back, norm] = ranking_metrics(np.array(ranks))["ndcg@10"]
    model = counting(30)
    model.count(data)
    assert found[tuple(model.chosen.tolist())] == pytest.approx(max(found.values()))


@pytest.mark.parametrize(("skip", "back", "norm"), [(1, 0.0, 0.0), (3, 0.3, 0.5), (6, 1.0, 1.0)])
def test_of_training_items_the_users_own_pairs_are_left_out(skip, back, norm):
    data = drawn()
    model = counting(30, decay=[0.5], skip=[skip], back=[back], norm=[norm])
    model.count(data)
    places = [int(data.offsets[user]) + n for user in range(12) for n in range(1, len(data.sequence(user)))]
    fast = LeaveOneOut(model, data).probabilities(torch.tensor(places))
    popular = model.counts.numpy() + 1
    rows = iter(fast.numpy())
    for user in range(12):
        length = len(data.sequence(user))
        for n in range(1, length):
            held_out = n >= length - 2
            table = slow_table(data, skip, back, norm, without=None if held_out else user)
            score = slow_scores(data, table, data.sequence(user)[:n], 0.5)[0]
            share = 0.1 if score.sum() > 0 else 1.0
            expected = (1 - share) * score / max(score.sum(), 1e-9) + share * popular / popular.sum()
            np.testing.assert_allclose(next(rows), expected, atol=1e-12)


def test_the_transition_of_a_lone_user_is_no_evidence_for_itself():
    data = interactions([[0, 1, 2, 3, 4], [3, 4, 2, 1, 0]], 5)
    model = counting(5, decay=[0.5], skip=[1], back=[0.0], norm=[0.0], smoothing=0.0)
    model.count(data)
    states = model.last_states(torch.tensor([[0]]), torch.tensor([[1]]))
    assert model.probabilities(states).argmax() == 1  # only user 0 goes on from 0 to 1
    torch.testing.assert_close(
        LeaveOneOut(model, data).probabilities(torch.tensor([1]))[0], (model.counts + 1) / (model.counts + 1).sum()
    )


def test_popularity_and_chance_ask_no_history():
    data = interactions([[0, 1, 1, 2, 0], [1, 0, 3, 3]], 4)  # to learn from: 0 1 1 and 1 0
    popularity, uniform = (kind([""] * 4, max_history=4) for kind in (Popularity, Uniform))
    for model in (popularity, uniform):
        model.count(data)
    states = torch.tensor([[2], [0]])
    assert popularity.scores(states).tolist() == [[2, 3, 0, 0]] * 2
    torch.testing.assert_close(popularity.probabilities(states)[1] * 9, torch.tensor([3, 4, 1, 1]).double())
    assert uniform.scores(states).tolist() == [[0] * 4] * 2
    assert uniform.probabilities(states).tolist() == [[0.25] * 4] * 2
    torch.testing.assert_close(
        LeaveOneOut(popularity, data).probabilities(torch.tensor([1, 6]))[1] * 9, torch.tensor([3, 4, 1, 1]).double()
    )


def test_counts_come_back_from_a_state_dict_of_any_size():
    model, other = counting(30), counting(30)
    model.count(drawn())
    other.load_state_dict(model.state_dict())
    states = torch.tensor([[3, 7, -1, -1]])
    assert torch.equal(model.scores(states), other.scores(states))
    assert other.chosen_settings() == model.chosen_settings()


def test_counts_stay_exact_in_half_precision_and_move():
    model = counting(30)
    model.count(drawn())
    model.counts[3] = 257  # which is no bfloat16
    states = torch.tensor([[3, 7, -1, -1]])
    exact = model.scores(states)
    assert torch.equal(model.to(torch.bfloat16).scores(states), exact)
    assert {buffer.device.type for buffer in model.to("meta").buffers()} == {"meta"}


def test_titles_are_refused():
    with pytest.raises(InputError, match=r"Counting reads whole items, not titles.\nType:  tokenizer=item_ids"):
        counting(0)


@pytest.mark.parametrize(("num_items", "block"), [(12, 40), (60, 40), (60, 1 << 24)])
def test_sparse_ranks_are_those_of_all_scores(monkeypatch, num_items, block):
    data = drawn(num_items=num_items)
    model = counting(num_items, decay=[0.5], skip=[3], back=[0.3], norm=[0.5])
    model.count(data)
    monkeypatch.setattr("src.ilrec.model.counting._BLOCK", block)
    histories, targets = latest_items(data, 4), np.random.default_rng(1).integers(0, num_items, 40)
    pairs = count_pairs(data, skip=3, back=0.3)
    fast = ranks_of(histories, targets, pairs, model._popularity().numpy(), decay=0.5, norm=0.5)
    scores = model.scores(torch.from_numpy(histories))
    own = scores[torch.arange(40), torch.from_numpy(targets)][:, None]
    dense = ((scores > own).sum(1) + ((scores == own).sum(1) + 1) / 2).numpy()
    assert (dense[np.isnan(fast)] > 10).all()
    np.testing.assert_array_equal(fast[~np.isnan(fast)], dense[~np.isnan(fast)])
    assert num_items == 12 or len(np.unique(dense % 1)) == 2  # of many items some share their rank


def test_a_million_items_are_counted_and_chosen_without_a_row_of_all_scores_a_user():
    rng = np.random.default_rng(0)
    data = interactions(list(rng.zipf(1.3, (1000, 6)).clip(max=1_000_000) - 1), 1_000_000)
    tracemalloc.start()
    model = counting(1_000_000, skip=[3], back=[0.0], norm=[0.0])
    model.count(data)
    assert tracemalloc.get_traced_memory()[1] < 500e6  # scores of all would be 8 GB
    tracemalloc.stop()
