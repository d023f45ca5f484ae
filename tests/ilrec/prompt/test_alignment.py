"""Alignment tasks: what is asked and answered, which labels are whose, how many an epoch has, and what is refused."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from src.ilrec.batches.next_item import RecommendationData, TrainingBatches
from src.ilrec.dataset.interactions import Interactions
from src.ilrec.prompt.alignment import AlignmentPrompt
from src.ilrec.prompt.examples import UNOWNED
from src.ilrec.prompt.ids import IdsPrompt
from src.ilrec.prompt.instruction import InstructionPrompt
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.ilrec.tokenizer.title import UnwrittenTitles
from src.launch.errors import InputError
from src.model.causal_lm import from_scratch

CODES = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0]])
TITLES = ["Up", "Heat", "Big", "Ran", "Toy Story"]
ITEMS = replace(ItemTokens.from_codes(CODES, [range(3), range(2)], {}), titles=TITLES)
SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_layers": 2, "num_heads": 1, "dropout": 0.0, "max_length": 64}
TOKENIZER = from_scratch(ITEMS.vocabulary, **SIZES, seed=0).tokenizer
NEXT = partial(IdsPrompt, max_history=3, stride=4)
OFF = {"title_to_id": 0.0, "id_to_title": 0.0, "ids_to_title": 0.0, "titles_to_id": 0.0}


def prompt(next=NEXT, items=ITEMS, max_history=2, title_tokens=4, **shares):
    return AlignmentPrompt(
        TOKENIZER, items, next=next, max_history=max_history, title_tokens=title_tokens, **{**OFF, **shares}
    )


@pytest.mark.parametrize(
    ("task", "items", "question", "answer", "owner"),
    [(1, [4], "An item is called Toy. Its code is", "<a_2><b_0>", UNOWNED),
     (2, [4], "The item with the code<a_2><b_0> is called", " Toy</s>", UNOWNED),
     (3, [0, 3, 4], "A user chose the items with the codes<a_0><b_0>,<a_1><b_1>. The item chosen next is called",
      " Toy</s>", UNOWNED),
     (4, [0, 3, 4], "A user chose the items called Up, Ran. The code of the item chosen next is", "<a_2><b_0>", 2)],
)  # fmt: skip
def test_each_task_asks_and_answers_and_only_the_ids_of_next_items_belong_to_an_interaction(
    task, items, question, answer, owner
):
    tokens, owners = prompt().encode(np.array(items), len(items) - 1, task)
    assert TOKENIZER.decode(tokens) == f"<s>{question}{answer}"
    assert TOKENIZER.decode(tokens[owners != -1]) == answer
    assert set(owners) == {-1, owner}


def test_a_title_that_spells_an_items_code_is_text():
    odd = replace(ITEMS, titles=["<a_2> up", *TITLES[1:]])
    tokens, owners = prompt(items=odd, title_tokens=20).encode(np.array([0]), 0, 1)
    assert TOKENIZER.decode(tokens) == "<s>An item is called <a_2> up. Its code is<a_0><b_0>"
    codes = TOKENIZER.convert_tokens_to_ids(ITEMS.vocabulary)
    assert [token in codes for token in tokens] == (owners == UNOWNED).tolist()  # the answer's two alone


def test_without_shares_and_in_evaluation_it_is_the_other_prompt():
    mixed, alone, lengths = prompt(), NEXT(TOKENIZER, ITEMS), np.array([5, 1, 3])
    one, other = (each.examples(lengths, np.random.default_rng(3)) for each in (mixed, alone))
    for name in ("user", "start", "stop", "first_label"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    assert not one.task.any()
    assert mixed.most_examples(lengths) == alone.most_examples(lengths)
    items = np.array([1, 2, 3])
    assert all(map(np.array_equal, mixed.encode(items, 1, 0), alone.encode(items, 1)))
    assert mixed.prompt(items).tolist() == alone.prompt(items).tolist()
    template = partial(InstructionPrompt, template="{history} ->", separator=",", max_history=2)
    assert prompt(template).prompt(items).tolist() == template(TOKENIZER, ITEMS).prompt(items).tolist()


def test_shares_are_of_the_items_and_of_the_next_items():
    # 5 items; lengths 5, 1 and 3 have 4 + 0 + 2 = 6 items with one before them.
    mixed = prompt(title_to_id=1.0, id_to_title=0.4, ids_to_title=0.5, titles_to_id=1.0)
    lengths = np.array([5, 1, 3])
    examples = mixed.examples(lengths, np.random.default_rng(0))
    assert [(examples.task == task).sum() for task in range(1, 5)] == [5, 2, 3, 6]
    assert mixed.fewest_examples(lengths) <= len(examples) <= mixed.most_examples(lengths)
    about_items = (examples.task == 1) | (examples.task == 2)
    assert ((examples.user == -1) == about_items).all()
    assert sorted(examples.start[examples.task == 1]) == [0, 1, 2, 3, 4]
    asked = examples.task == 4
    next_items = sorted(zip(examples.user[asked], examples.first_label[asked], strict=True))
    assert next_items == [(0, 1), (0, 2), (0, 3), (0, 4), (2, 1), (2, 2)]


def batches(rank=0, world_size=1):
    rng, lengths = np.random.default_rng(0), [5, 3, 8, 4]
    data = RecommendationData(
        interactions=Interactions(
            name="small", offsets=np.cumsum([0, *lengths]), items=rng.integers(0, 5, sum(lengths)),
            user_ids=list("abcd"), item_ids=list("12345"), titles=TITLES, texts=[""] * 5, fingerprint="f" * 64,
            statistics={},
        ),
        prompt=prompt(title_to_id=1.0, id_to_title=0.4, ids_to_title=0.5, titles_to_id=0.5), seed=1, batch_size=4,
        evaluation_batch_size=2, max_users=None,
    )  # fmt: skip
    return TrainingBatches(data, rank, world_size)


def labels(found):
    return [sorted(zip(batch["target"].tolist(), batch["interaction"].tolist(), strict=True)) for batch in found]


def test_epochs_are_drawn_from_seed_and_number_and_go_on_at_any_batch():
    whole = batches()
    first, second = labels(whole), labels(whole)
    assert first != second
    resumed = batches()
    resumed.load_state_dict({"epoch": 1, "batch": 2})
    assert labels(resumed) == second[2:]


def test_processes_share_the_tasks_and_labels_name_the_interaction_whose_id_they_are():
    both = [labels(batches(rank, 2)) for rank in (0, 1)]
    whole = labels(batches())
    assert [sorted(one + other) for one, other in zip(*both, strict=True)] == whole
    ids, items = set(TOKENIZER.convert_tokens_to_ids(ITEMS.vocabulary)), batches().data.interactions.items
    for token, interaction in (label for batch in whole for label in batch):
        if interaction != UNOWNED:
            assert token in [
                TOKENIZER.convert_tokens_to_ids(ITEMS.vocabulary[t]) for t in ITEMS.tokens[items[interaction]]
            ]
        assert token in ids or interaction == UNOWNED


def test_faults_of_the_prompt_of_the_next_items_and_the_longer_of_both_name_their_own_settings():
    with pytest.raises(InputError, match=r"prompt\.next\.stride=9 must lie .* \(prompt\.next\.max_history=3\)"):
        prompt(next=partial(IdsPrompt, max_history=3, stride=9))
    assert prompt(max_history=50).advice.startswith("prompt.max_history=<fewer items>")
    assert prompt(next=partial(IdsPrompt, max_history=90, stride=4)).advice.startswith("prompt.next.max_history=<fewer")


def test_items_have_to_be_ids_with_titles():
    text_model = from_scratch([], **SIZES, seed=0)
    with pytest.raises(InputError, match=r"prompt=alignment .* makes none.\nType:  prompt=titles"):
        prompt(items=UnwrittenTitles(TITLES, max_tokens=9).written_for(text_model))
    with pytest.raises(InputError, match=r"prompt=alignment: 1 of 5 items have no title.*\nComplete"):
        prompt(items=replace(ITEMS, titles=["", *TITLES[1:]]))
