"""Preference batches: prompts, responses and rejected items that belong together, draws that can be repeated."""

import itertools

import numpy as np
import pytest
import torch

from src.ilrec.batches.pairs import Negatives, PreferenceBatches, PreferenceData
from src.ilrec.dataset.interactions import Interactions
from src.ilrec.prompt.ids import IdsPrompt
from src.ilrec.prompt.instruction import InstructionPrompt
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.launch.errors import InputError
from src.model.causal_lm import from_scratch

CODES = np.stack(np.unravel_index(np.arange(12), (4, 3)), axis=1)
ITEMS = ItemTokens.from_codes(CODES, [range(4), range(3)], {})
TOKENIZER = from_scratch(
    ITEMS.vocabulary,
    hidden_size=8,
    intermediate_size=8,
    num_layers=2,
    num_heads=1,
    dropout=0.0,
    max_length=64,
    seed=0,
).tokenizer
PROMPTS = {
    "ids": IdsPrompt(TOKENIZER, ITEMS, max_history=3, stride=3),
    "instruction": InstructionPrompt(TOKENIZER, ITEMS, template="Had {history}: ", separator=" ", max_history=3),
}


def interactions(lengths=(5, 3, 8, 4, 6)):
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Interactions(
        name="small",
        offsets=offsets,
        items=rng.integers(0, 9, offsets[-1]),
        user_ids=[f"u{n}" for n in range(len(lengths))],
        item_ids=[f"i{n}" for n in range(12)],
        titles=[""] * 12,
        texts=[""] * 12,
        fingerprint="f" * 64,
        statistics={},
    )


def data(prompt="ids", **changes):
    settings = {
        "batch_size": 2,
        "evaluation_batch_size": 2,
        "max_users": None,
        "negatives": "random",
        "num_negatives": 2,
        "similarity": None,
        "neighbours": 3,
        "prompts_per_epoch": None,
        "epochs_per_draw": 1,
    }
    return PreferenceData(interactions=interactions(), prompt=PROMPTS[prompt], seed=1, **{**settings, **changes})


def text(tokens):
    return TOKENIZER.decode(tokens[tokens >= 0])


@pytest.mark.parametrize("prompts_per_epoch", [None, 9])
@pytest.mark.parametrize("prompt", ["ids", "instruction"])
def test_every_prompt_ends_before_its_chosen_item_and_is_answered_by_it_and_the_rejected_ones(
    prompt, prompts_per_epoch
):
    module = data(prompt, prompts_per_epoch=prompts_per_epoch)
    for batch in module.train_dataloader():
        pairs, width = module.pairs(0), batch["input_ids"].shape[1]
        for p, pair in enumerate(batch["pair"].tolist()):
            row, column = divmod(int(batch["anchor"][p]), width)
            shown = batch["input_ids"][row, : column + 1][batch["attention_mask"][row, : column + 1] == 1]
            example = np.searchsorted(pairs.offsets, pair, side="right") - 1
            start, label = int(pairs.examples.start[example]), int(pairs.label[pair])
            sequence = module.interactions.training_sequence(int(pairs.user[pair]))
            assert shown.tolist() == PROMPTS[prompt].prompt(sequence[start:label]).tolist()
            assert batch["item"][p].tolist() == [sequence[label], *pairs.rejected[pair]]
            end = "</s>" if prompt == "instruction" else ""
            for item, response in zip(batch["item"][p].tolist(), batch["response"][p], strict=True):
                assert text(response) == "".join(ITEMS.vocabulary[t] for t in ITEMS.tokens[item]) + end


@pytest.mark.parametrize("prompt", ["ids", "instruction"])
def test_an_epoch_holds_every_pair_once(prompt):
    module = data(prompt)
    seen = torch.cat([batch["pair"] for batch in module.train_dataloader()])
    assert sorted(seen.tolist()) == list(range(len(module.pairs(0).chosen)))
    # Training items: 3 + 1 + 6 + 2 + 4; the instruction needs one before each.
    assert len(seen) == (16 if prompt == "ids" else 11)


def test_anchors_ascend_and_padding_stands_on_the_left():
    for batch in data().train_dataloader():
        assert (batch["anchor"].diff() > 0).all()
        assert (batch["attention_mask"].diff() >= 0).all()


def test_a_number_of_prompts_draws_that_many_anew_each_draw():
    module = data(prompts_per_epoch=9, epochs_per_draw=2)
    first, second, third = (module.pairs(epoch) for epoch in (0, 1, 2))
    places = [set(zip(pairs.user.tolist(), pairs.label.tolist(), strict=True)) for pairs in (first, third)]
    assert [len(place) for place in places] == [9, 9]
    assert all(label >= 1 for place in places for _, label in place)
    assert places[0] != places[1]
    assert first.fingerprint() == second.fingerprint() != third.fingerprint()
    assert len(module.train_dataloader()) == 4
    assert len(data(prompts_per_epoch=99).train_dataloader()) == 11 // 2


def test_one_draw_may_serve_all_epochs_in_different_orders():
    module = data(epochs_per_draw=None)
    orders = [torch.cat([batch["pair"] for batch in module.epoch_batches(epoch)]).tolist() for epoch in (0, 1)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    assert module.pairs(0).fingerprint() == module.pairs(7).fingerprint()


def test_draws_repeat_in_a_new_process_and_change_with_seed_epoch_and_settings():
    fingerprint = data().pairs(3).fingerprint()
    module = data()
    module.pairs(5)
    assert module.pairs(3).fingerprint() == fingerprint
    others = [data().pairs(4), data(num_negatives=1).pairs(3), data(negatives="popular").pairs(3)]
    other_seed = data()
    other_seed.seed = 2
    assert fingerprint not in {pairs.fingerprint() for pairs in [*others, other_seed.pairs(3)]}


def test_own_answers_are_the_rejected_items_once_there_are_any():
    module = data(negatives="own", num_negatives=1)
    assert all(batch["item"].shape[1] == 1 for batch in module.epoch_batches(0))
    module.answers = np.arange(len(module.pairs(0).chosen)) % 12
    for batch in module.epoch_batches(0):
        assert batch["item"][:, 1].tolist() == (batch["pair"] % 12).tolist()
        assert batch["response"].shape[1] == 2


def test_a_resumed_loader_gives_exactly_the_batches_that_are_left_and_knows_the_epoch():
    def stream(loader):
        while True:
            yield from loader

    whole = list(itertools.islice(stream(data().train_dataloader()), 14))
    for stop in (0, 3, 5, 11):
        interrupted, resumed = data().train_dataloader(), data().train_dataloader()
        list(itertools.islice(stream(interrupted), stop))
        resumed.load_state_dict(interrupted.state_dict())
        assert resumed.next_epoch == stop // len(resumed)
        for one, other in zip(itertools.islice(stream(resumed), 14 - stop), whole[stop:], strict=True):
            assert all(torch.equal(one[key], other[key]) for key in one)


def test_processes_share_every_batch_without_loss_or_repetition():
    whole = list(PreferenceBatches(data(batch_size=4), 0, 1))
    shares = [list(PreferenceBatches(data(batch_size=4), rank, 2)) for rank in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(torch.cat([part["pair"] for part in parts]).tolist()) == sorted(batch["pair"].tolist())


@pytest.mark.parametrize("setting", ["num_negatives", "prompts_per_epoch", "epochs_per_draw"])
def test_counts_below_one_are_refused(setting):
    with pytest.raises(InputError, match=f"batches.{setting}=0: I need a whole number of at least 1"):
        data(**{setting: 0})


def test_more_than_one_own_answer_is_refused():
    with pytest.raises(
        InputError, match=r"batches.num_negatives=2: with batches.negatives=own the model gives one answer"
    ):
        data(negatives="own")


class OnACircle:
    """Twelve items at equal angles: the nearest others of item i are i - 1 and i + 1, then i - 2 and i + 2."""

    def embed(self, interactions):
        angle = 2 * np.pi * np.arange(12) / 12
        return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def users_with(*training):
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
    log = users_with([0, 1, 2], [3, 4, 5, 6, 7, 8])
    for user, items in ((0, {0, 1, 2}), (1, {3, 4, 5, 6, 7, 8})):
        drawn = draws(log, kind, user, min(items), 200, count=6)
        assert all(len(set(row)) == 6 and not items & set(row) for row in drawn.tolist())
    # User 1 has six items left: all of them are drawn, the two held out among them, as nothing may be known of those.
    assert set(drawn[0]) == {0, 1, 2, 9, 10, 11}


def test_random_items_are_equally_likely():
    drawn = draws(users_with([0, 1], [2, 2, 2, 2]), "random", 0, 0, 20_000, count=1)
    # Ten unseen items, 2000 each; the standard deviation is sqrt(20000 * .1 * .9) = 42.
    counts = np.bincount(drawn.ravel(), minlength=12)
    assert (abs(counts[2:] - 2000) < 5 * 42).all()


def test_popular_items_are_drawn_by_their_training_counts_plus_one():
    # Unseen by user 0: item 2 with 3 uses (weight 4) and nine items with none (weight 1 each): 4 / 13 of the draws.
    drawn = draws(users_with([0, 1], [2, 2, 2]), "popular", 0, 0, 13_000, count=1)
    counts = np.bincount(drawn.ravel(), minlength=12)
    assert abs(counts[2] - 4000) < 5 * np.sqrt(13_000 * 4 / 13 * 9 / 13)
    assert (abs(counts[3:] - 1000) < 5 * np.sqrt(13_000 * 12 / 169)).all()


def test_similar_items_are_the_nearest_others_unseen_ones_first():
    # Around item 5: 4 and 6, then 3 and 7. User 0 has seen 4, so of four neighbours the unseen three come first.
    log = users_with([5, 4], [0, 1])
    assert set(draws(log, "similar", 0, 5, 50, count=1, neighbours=2).ravel()) == {6}
    assert set(draws(log, "similar", 0, 5, 200, count=1, neighbours=4).ravel()) == {3, 6, 7}
    # With as many rejected items as neighbours the seen one has to serve as well.
    assert set(draws(log, "similar", 0, 5, 1, count=2, neighbours=2).ravel()) == {4, 6}


def test_draws_repeat_with_the_generators_seed():
    drawer = negatives(users_with([0, 1], [2, 3]), "random")
    users, chosen = np.array([0, 1, 0]), np.array([0, 2, 1])
    one, other, third = (drawer.draw(users, chosen, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one == other).all()
    assert (one != third).any()


def test_a_user_who_has_chosen_nearly_everything_is_named():
    log = users_with([*range(10)], [0, 1])
    with pytest.raises(InputError, match=r"batches.num_negatives=3: one user has chosen all items but 2.\nType: .*=2"):
        negatives(log, "random", count=3)


def test_neighbours_out_of_range_are_named():
    log = users_with([0, 1])
    for neighbours in (1, 12):
        with pytest.raises(
            InputError, match=f"batches.neighbours={neighbours} must lie between batches.num_negatives=2 and"
        ):
            negatives(log, "similar", neighbours=neighbours)
