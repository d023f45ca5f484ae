"""Folds of whole questions, weights and scales of what each network learns from, faults."""

import numpy as np
import pytest
import torch

from src.dataset.episode_states import NAMES
from src.dataset.prefix_datamodule import PrefixData
from src.dataset.scored_episodes import ScoredEpisode
from src.errors import InputError


def episodes(questions=6, attempts=2, seed=0):
    """Three numbers a state, the first of which is the F1 that is come to, and the last one always 7."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(questions):
        for attempt in range(attempts):
            f1 = float(draw.random())
            states = draw.normal(size=(2 + (number + attempt) % 3, 3)).astype(np.float32)
            states[:, 0], states[:, 2] = f1, 7
            made.append(ScoredEpisode(f"q{number}", states, np.zeros(len(states)), f1, float(f1 > 0.5), None))
    return made


def test_folds_are_whole_questions_and_every_question_weighs_the_same():
    made = episodes()
    data = PrefixData(episodes=made, seed=3, folds=4)
    names = np.repeat([one.question_id for one in made], [len(one.states) for one in made])
    folds = {name: set(data.fold[names == name].tolist()) for name in names}
    assert all(len(found) == 1 for found in folds.values())
    assert sorted(np.bincount([found.pop() for found in folds.values()])) == [1, 1, 2, 2]
    weight = data.batch["weight"].numpy()
    for network, mine in enumerate(weight):
        assert (mine[data.fold == network] == 0).all()
        by_question = [mine[names == name].sum() for name in sorted(set(names)) if mine[names == name].any()]
        assert by_question == pytest.approx([1 / len(by_question)] * len(by_question))
    # Within a question so do its attempts, whatever their length: q0's have two and three states.
    network = int(data.fold[0] == 0)
    assert weight[network][:2].sum() == pytest.approx(weight[network][2:5].sum())
    assert data.batch["target"].tolist() == pytest.approx(
        np.repeat([one.f1 for one in made], [len(one.states) for one in made])
    )


def test_numbers_are_scaled_by_what_a_network_learns_from_and_by_nothing_else():
    made = episodes()
    data = PrefixData(episodes=made, seed=3, folds=3)
    states, weight = data.batch["states"].double(), data.batch["weight"].double()
    mean = torch.einsum("kn,knf->kf", weight, states)
    square = torch.einsum("kn,knf->kf", weight, states**2)
    assert mean.abs().max() < 1e-5
    assert (square[:, :2] - 1).abs().max() < 1e-3
    assert (states[..., 2] == 0).all()  # what never changes
    starts = np.cumsum([0, *(len(one.states) for one in made)])[:-1]
    network = data.fold[0]
    for one, start in zip(made, starts, strict=True):
        if data.fold[start] == network:
            one.states[:, 1:] += 1000
    changed = PrefixData(episodes=made, seed=3, folds=3).batch["states"][network]
    learnt = data.fold != network
    assert torch.equal(changed[learnt], data.batch["states"][network][learnt])
    assert (changed[~learnt, 1] > 100).all()
    assert (changed[:, 2] == 0).all()  # of what a network never saw change, it takes no notice


@pytest.mark.parametrize("folds", [1, 7])
def test_folds_need_questions(folds):
    with pytest.raises(InputError, match=rf"data.folds={folds}, and there are 6 questions: .*\n.*data.folds=<number>"):
        PrefixData(episodes=episodes(), seed=1, folds=folds)


def test_what_is_left_out_is_nothing_to_any_network_and_has_to_be_there():
    data, less = (PrefixData(episodes=episodes(), seed=1, folds=3, left_out=out) for out in ((), NAMES[1:2]))
    assert (less.batch["states"][..., 1] == 0).all()
    assert torch.equal(less.batch["states"][..., 0], data.batch["states"][..., 0])
    with pytest.raises(InputError, match=r"data.left_out: there is no luck; there are: item, set, "):
        PrefixData(episodes=episodes(), seed=1, folds=3, left_out=["luck"])
