"""Batches of demonstrations: whole, of similar lengths, reproducible, resumable, shared without loss."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from src.gisa.batches.data import DemonstrationData, TrainingBatches
from src.gisa.batches.demonstrations import Demonstration, Demonstrations
from src.gisa.chat.format import Marked
from src.gisa.dataset.gisa import Question
from src.launch.errors import InputError

SUITE = SimpleNamespace(
    fingerprint="f" * 64,
    questions=[Question(f"q{at}", f"What is {at}?", "item", "stable", "x") for at in range(100)],
    metadata={f"q{at}": {"entities": [f"land {at % 7}"]} for at in range(100)},
)


def demonstration(at, length):
    """Tokens that no other demonstration has; every third one is trained, and the last."""
    trained = [place % 3 == 2 or place == length - 1 for place in range(length)]
    marked = Marked("", [1000 * at + place for place in range(length)], trained, [])
    return Demonstration(f"q{at}", 1.0, marked)


def demonstrations(count=40, seed=0):
    lengths = np.random.default_rng(seed).integers(5, 60, count)
    return Demonstrations([demonstration(at, int(length)) for at, length in enumerate(lengths)], SUITE)


def data(made=None, **changes):
    settings = {
        "pad_token_id": 0, "seed": 1, "batch_size": 4, "evaluation_batch_size": 3, "training_questions": None,
        "validation_questions": 4, "packed": True, "drills": 0,
    }  # fmt: skip
    return DemonstrationData(demonstrations=made or demonstrations(), **{**settings, **changes})


def read(batch):
    """Return the demonstrations of a batch: tokens in order, and those that are labels."""
    found = []
    for row, numbers in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        for number in range(1, int(numbers.max()) + 1):
            found.append(tuple(row[numbers == number].tolist()))
    return sorted(found)


def expected(some):
    return sorted(tuple(one.marked.tokens) for one in some)


def test_a_batch_holds_whole_demonstrations_and_its_labels_are_the_trained_tokens():
    made = demonstrations()
    for packed in (True, False):
        module = data(made, packed=packed)
        chosen = made.demonstrations[:5]
        batch = module.batch(chosen)
        assert read(batch) == expected(chosen)
        learnt = {
            token for one in chosen for token, own in zip(one.marked.tokens, one.marked.trained, strict=True) if own
        }
        assert set(batch["target"].tolist()) == learnt
        before = batch["input_ids"][
            batch["rows"]
        ]  # the token in front of a label is the one before it in its demonstration
        assert (before + 1).tolist() == batch["target"].tolist()
        assert [chosen[place].marked.tokens[0] // 1000 for place in batch["owner"]] == (
            batch["target"] // 1000
        ).tolist()


def test_an_epoch_gives_every_demonstration_once_and_none_that_is_validated_on():
    module = data()
    seen = [tokens for batch in TrainingBatches(module, 0, 1) for tokens in read(batch)]
    held_out = [tokens for batch in module.val_dataloader() for tokens in read(batch)]
    assert sorted(seen) == expected(module.training)
    assert sorted(held_out) == expected(module.validation)
    # Forty questions, four at even distances: 40 / 8 = 5, and every ten from there.
    assert [one.question_id for one in module.validation] == ["q5", "q15", "q25", "q35"]
    assert sorted([*seen, *held_out]) == expected(demonstrations().demonstrations)


def test_demonstrations_of_a_batch_are_of_similar_length():
    """Padding is a fifth or less of what a plain shuffle would leave, and the order of the batches says nothing."""
    made = demonstrations(80)
    module = data(made, packed=False)
    batches = TrainingBatches(module, 0, 1)

    def padding(order):
        return sum(batches.data.lengths[one].max() * len(one) - batches.data.lengths[one].sum() for one in order)

    sorted_within = batches._order()
    shuffled = np.array_split(np.random.default_rng(0).permutation(len(batches.data.lengths)), batches.num_batches)
    assert padding(sorted_within) < padding(shuffled) / 5
    longest = [int(batches.data.lengths[one].max()) for one in sorted_within]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_epochs_differ_and_repeat_with_the_seed():
    def epochs(seed):
        batches = TrainingBatches(data(seed=seed), 0, 1)
        return [[read(batch) for batch in batches] for _ in range(2)]

    first, second = epochs(1)
    assert first != second
    assert epochs(1) == [first, second]
    assert epochs(2)[0] != first


@pytest.mark.parametrize("stop", [0, 3, 8, 9])
def test_a_resumed_loader_gives_exactly_the_batches_that_are_left(stop):
    whole = TrainingBatches(data(), 0, 1)
    assert len(whole) == 9
    everything = [read(batch) for _ in range(2) for batch in whole]
    began = TrainingBatches(data(), 0, 1)
    given = [read(batch) for _, batch in zip(range(stop), began, strict=False)] if stop else []
    resumed = TrainingBatches(data(), 0, 1)
    resumed.load_state_dict(began.state_dict() if stop else whole.state_dict() | {"epoch": 0, "batch": 0})
    left = [read(batch) for batch in resumed]
    assert given + left == everything[: 18 if stop == 9 else 9]


def test_processes_share_every_batch_without_loss_or_repetition():
    whole = [read(batch) for batch in TrainingBatches(data(), 0, 1)]
    shares = [[read(batch) for batch in TrainingBatches(data(), rank, 2)] for rank in range(2)]
    assert whole == [sorted(one + other) for one, other in zip(*shares, strict=True)]


def test_fewer_questions_are_spread_evenly_and_the_manifest_names_no_others():
    module = data(training_questions=6)
    # 36 are left to choose from; 36 / 12 = 3, and every six from there: the others of validation shift them.
    assert [one.question_id for one in module.training] == ["q3", "q10", "q17", "q23", "q30", "q37"]
    assert module.manifest["questions"].keys() == {one.question_id for one in module.training + module.validation}
    assert set(module.manifest["entities"]) == {f"land {int(name[1:]) % 7}" for name in module.manifest["questions"]}
    assert len(data(training_questions=1000).training) == 36


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batches.batch_size=0: I need a whole number of at least 1"),
        ({"evaluation_batch_size": 0}, "batches.evaluation_batch_size=0: I need"),
        ({"validation_questions": 40}, "batches.validation_questions=40, and 40 question.s. have a demonstration"),
        ({"validation_questions": 0}, "batches.validation_questions=0, and 40 question"),
        ({"training_questions": 0}, "batches.training_questions=0: I need a whole number of at least 1"),
    ],
)  # fmt: skip
def test_sizes_that_leave_nothing_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        data(**changes)


def test_own_episodes_are_learnt_from_but_for_validated_questions_and_repetitions():
    """q5, q15, q25 and q35 are validated on; the traces of q3, q10, ... are learnt (see above), q4's is not."""
    made = demonstrations()
    made.own = [
        demonstration(5, 9),
        demonstration(4, 9),
        replace(made.demonstrations[4]),
        replace(made.demonstrations[3]),
    ]
    module = data(made, training_questions=6)
    assert module.training[:-2] == data(training_questions=6).training
    assert module.training[-2:] == [made.own[1], made.own[2]]  # the trace of q4 as an episode is new
    assert module.manifest["questions"].keys() == data(training_questions=6).manifest["questions"].keys() | {"q4"}
    assert module.validation == data(training_questions=6).validation


def test_half_of_the_drills_come_first_and_the_rest_is_spread_over_the_epoch():
    drills = [replace(demonstration(200 + at, 40), question_id="") for at in range(16)]
    made = replace(demonstrations(), drills=drills)
    without, module = data(made), data(made, drills=1)
    assert module.training == made.drills + without.training
    assert module.validation == without.validation
    assert module.manifest == without.manifest
    loader = module.train_dataloader()
    order = loader._order()
    assert len(order) == len(loader) == 4 + len(without.train_dataloader())
    assert sorted(np.concatenate(order)) == list(range(len(module.training)))
    at_drills = [place for place, batch in enumerate(order) if batch[0] < 16]
    assert at_drills == [0, 1, 2, 2 + 1 + len(without.train_dataloader()) // 2 + len(without.train_dataloader()) % 2]
    assert all(max(order[place]) < 16 for place in at_drills)
    alone = data(replace(made, drills=made.drills[:1]), drills=1).train_dataloader()
    assert [list(batch) for batch in alone._order()[:1]] == [[0]]
    quarter = data(made, drills=0.25)
    assert quarter.training == [drills[at] for at in (2, 6, 10, 14)] + without.training
    for share in (-0.1, 1.1):
        with pytest.raises(InputError, match=rf"batches.drills={share}: I need a share, from 0 for none to 1"):
            data(made, drills=share)
