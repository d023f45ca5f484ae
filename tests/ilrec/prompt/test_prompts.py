"""Both prompt forms: what is written, what is a response, and that training and evaluation write the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from src.ilrec.prompt.examples import UNOWNED, Examples
from src.ilrec.prompt.ids import IdsPrompt, IdsWithTitlesPrompt, ItemsPrompt, TitlesPrompt
from src.ilrec.prompt.instruction import InstructionPrompt
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.ilrec.tokenizer.title import UnwrittenTitles
from src.launch.errors import InputError
from src.model.causal_lm import from_scratch

CODES = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0]])
ITEMS = ItemTokens.from_codes(CODES, [range(3), range(2)], {})
SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_layers": 2, "num_heads": 1, "dropout": 0.0, "max_length": 64}
TOKENIZER = from_scratch(ITEMS.vocabulary, **SIZES, seed=0).tokenizer
TEXT_MODEL = from_scratch([], **SIZES, seed=0)
TITLES = UnwrittenTitles(["Heat", "Big", "Toy Story (1995)"], max_tokens=20).written_for(TEXT_MODEL)
CONF = Path(__file__).parents[3] / "conf" / "prompt"
TEMPLATE = "Seen so far: {history}. Next: "


def ids_prompt(max_history=3, stride=2):
    return IdsPrompt(TOKENIZER, ITEMS, max_history=max_history, stride=stride)


def titles_prompt(max_history=3, stride=2):
    return TitlesPrompt(TEXT_MODEL.tokenizer, TITLES, max_history=max_history, stride=stride)


def ids_with_titles(max_history=3, stride=2, title_tokens=3, learn_titles=True):
    named = replace(ITEMS, titles=["Up", "Heat", "Big", "Ran", "Toy Story"])
    settings = {"max_history": max_history, "stride": stride, "title_tokens": title_tokens}
    return IdsWithTitlesPrompt(TOKENIZER, named, **settings, learn_titles=learn_titles)


def instruction(max_history=3, template=TEMPLATE, max_length=None):
    settings = {"template": template, "separator": ", ", "max_history": max_history, "max_length": max_length}
    return InstructionPrompt(TOKENIZER, ITEMS, **settings)


def test_ids_prompt_writes_codes_and_marks_the_responses():
    tokens, owner = ids_prompt().encode(np.array([2, 4]), first_label=1)
    assert TOKENIZER.decode(tokens) == "<s><a_1><b_0><a_2><b_0>"
    assert owner.tolist() == [-1, -1, -1, 1, 1]


def test_ids_prompt_shows_only_the_latest_items():
    assert TOKENIZER.decode(ids_prompt(max_history=2).prompt(np.array([0, 1, 2]))) == "<s><a_0><b_1><a_1><b_0>"


def test_titles_stand_one_after_the_other_each_with_its_end_and_each_is_a_response():
    tokens, owner = titles_prompt().encode(np.array([1, 0]), first_label=0)
    assert TEXT_MODEL.tokenizer.decode(tokens) == "<s> Big</s> Heat</s>"
    assert owner.tolist() == [-1] + [0] * 5 + [1] * 6
    tokens, owner = titles_prompt().encode(np.array([1, 0]), first_label=1)
    assert TEXT_MODEL.tokenizer.decode(tokens[owner == 1]) == " Heat</s>"
    assert set(owner) == {-1, 1}


def test_a_title_behind_an_id_is_learned_without_being_the_response_or_only_read():
    tokens, owner = ids_with_titles().encode(np.array([4, 2]), first_label=1)
    assert TOKENIZER.decode(tokens) == "<s><a_2><b_0> To<a_1><b_0> Bi"
    assert owner.tolist() == [-1] * 6 + [1, 1] + [UNOWNED] * 3
    tokens, owner = ids_with_titles(learn_titles=False).encode(np.array([4, 2]), first_label=1)
    assert TOKENIZER.decode(tokens) == "<s><a_2><b_0> To<a_1><b_0>"  # nothing comes after the last title
    assert owner.tolist() == [-1] * 6 + [1, 1]


def test_titles_behind_ids_need_titles():
    for items, fault in (
        (ITEMS, "all of 5 items have no title"),
        (replace(ITEMS, titles=["a", "", " ", "b", "c"]), "2"),
    ):
        with pytest.raises(
            InputError, match=f"prompt=ids_with_titles: {fault}.*\nComplete the data, or type:  prompt=ids"
        ):
            IdsWithTitlesPrompt(TOKENIZER, items, max_history=3, stride=2, title_tokens=3, learn_titles=True)


def test_instruction_writes_the_template_and_ends_the_response():
    tokens, owner = instruction().encode(np.array([2, 4, 0]), first_label=2)
    assert TOKENIZER.decode(tokens) == "<s>Seen so far: <a_1><b_0>, <a_2><b_0>. Next: <a_0><b_0></s>"
    assert TOKENIZER.decode(tokens[owner == 2]) == "<a_0><b_0></s>"
    assert set(owner) == {-1, 2}


def test_instruction_equals_tokenizing_the_whole_text():
    text = "Seen so far: <a_0><b_0>, <a_2><b_0>. Next: "
    written = instruction().prompt(np.array([0, 4]))
    assert written.tolist() == [TOKENIZER.bos_token_id, *TOKENIZER(text, add_special_tokens=False)["input_ids"]]


def test_the_oldest_items_are_left_out_where_the_prompt_would_be_too_long():
    # In bytes: 1 for <s>, 13 for "Seen so far: ", 8 for ". Next: ", 2 an item, 2 a separator, 3 the response's </s>
    # and item: 25 + 2 + 4 + 4 = 35 for three items.
    history = np.array([0, 1, 2])
    for max_length, shown in ((None, 3), (35, 3), (34, 2), (31, 2), (30, 1), (27, 1)):
        prompt = instruction(max_length=max_length).prompt(history)
        assert prompt.tolist() == instruction(max_history=shown).prompt(history).tolist()
    tokens, _ = instruction(max_length=31).encode(np.array([0, 1, 2, 3]), first_label=3)
    assert len(tokens) == 31


def test_a_length_that_one_item_does_not_fit_is_refused():
    with pytest.raises(InputError) as caught:
        instruction(max_length=26)
    assert str(caught.value) == (
        "prompt.max_length=26: template, one item and a response take up to 27 tokens.\n"
        "Type:  prompt.max_length=27   or more, or null"
    )


def test_titles_of_different_lengths_are_left_out_by_their_own():
    prompt = default_instruction(TEXT_MODEL.tokenizer, TITLES)
    whole = prompt.prompt(np.array([2, 0, 1]))
    # The longest response would be one token longer than this title, as it has an end: the oldest item has to go.
    short = default_instruction(TEXT_MODEL.tokenizer, TITLES, max_length=len(whole) + len(" Toy Story (1995)"))
    assert short.prompt(np.array([2, 0, 1])).tolist() == prompt.prompt(np.array([0, 1])).tolist()


def default_instruction(tokenizer, items, **changes):
    """The prompt of conf/prompt/instruction.yaml."""
    settings = {**yaml.safe_load((CONF / "instruction.yaml").read_text()), **changes}
    return InstructionPrompt(
        tokenizer, items, **{key: value for key, value in settings.items() if not key.startswith("_")}
    )


def test_the_default_template_writes_titles_with_their_own_spaces_and_one_end():
    tokenizer = TEXT_MODEL.tokenizer
    tokens, owner = default_instruction(tokenizer, TITLES).encode(np.array([1, 2, 0]), first_label=2)
    assert tokenizer.decode(tokens) == (
        "<s>A user chose these items, oldest first: Big, Toy Story (1995). The item this user chooses next is Heat</s>"
    )
    assert tokenizer.decode(tokens[owner == 2]) == " Heat</s>"
    assert (tokens == tokenizer.eos_token_id).sum() == 1


def test_the_default_template_writes_semantic_ids():
    tokens, _ = default_instruction(TOKENIZER, ITEMS).encode(np.array([2, 4, 0]), first_label=2)
    assert TOKENIZER.decode(tokens) == (
        "<s>A user chose these items, oldest first:<a_1><b_0>,<a_2><b_0>. "
        "The item this user chooses next is<a_0><b_0></s>"
    )


@pytest.mark.parametrize(
    "prompt",
    [
        ids_prompt(),
        instruction(),
        default_instruction(TEXT_MODEL.tokenizer, TITLES),
        titles_prompt(),
        ids_with_titles(),
    ],
    ids=["ids", "instruction", "instruction with titles", "titles", "ids with titles"],
)
def test_training_and_evaluation_write_the_same_prompt(prompt):
    items = np.array([2, 1, 2, 0])
    tokens, owner = prompt.encode(items[:4], first_label=3)
    first = int(np.argmax(owner >= 0))
    assert tokens[:first].tolist() == prompt.prompt(items[:3]).tolist()


@settings(max_examples=100)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 5), st.data())
def test_ids_windows_label_every_item_once_with_as_much_history_as_promised(lengths, max_history, data):
    stride = data.draw(st.integers(1, max_history + 1))
    prompt = ids_prompt(max_history, stride)
    examples = prompt.examples(np.array(lengths), np.random.default_rng(data.draw(st.integers(0, 99))))
    labelled = []
    for row in range(len(examples)):
        user, start, stop, first = (
            int(column[row]) for column in (examples.user, examples.start, examples.stop, examples.first_label)
        )
        assert 0 <= start <= first < stop <= lengths[user]
        assert stop - start <= max_history + 1
        for item in range(first, stop):
            assert item - start >= min(item, max_history + 1 - stride)
            labelled.append((user, item))
    assert sorted(labelled) == [(user, item) for user, length in enumerate(lengths) for item in range(length)]
    assert prompt.fewest_examples(np.array(lengths)) <= len(examples) <= prompt.most_examples(np.array(lengths))


@settings(max_examples=100)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(1, 5), st.data())
def test_items_windows_label_every_item_but_the_first_once_with_history_before_it(lengths, max_history, data):
    stride = data.draw(st.integers(1, max_history))
    prompt = ItemsPrompt(None, None, max_history=max_history, stride=stride)
    examples = prompt.examples(np.array(lengths), np.random.default_rng(data.draw(st.integers(0, 99))))
    labelled = []
    for row in range(len(examples)):
        user, start, stop, first = (
            int(column[row]) for column in (examples.user, examples.start, examples.stop, examples.first_label)
        )
        assert 0 <= start < first < stop <= lengths[user]
        assert stop - start <= max_history + 1
        for item in range(first, stop):
            assert item - start >= min(item, max_history + 1 - stride)
            labelled.append((user, item))
    assert sorted(labelled) == [(user, item) for user, length in enumerate(lengths) for item in range(1, length)]
    assert prompt.fewest_examples(np.array(lengths)) <= len(examples) <= prompt.most_examples(np.array(lengths))


def test_items_prompt_is_the_items_themselves():
    prompt = ItemsPrompt(None, None, max_history=2, stride=2)
    tokens, owner = prompt.encode(np.array([7, 3, 5]), first_label=1)
    assert tokens.tolist() == [7, 3, 5]
    assert owner.tolist() == [-1, 1, 2]
    assert prompt.prompt(np.array([7, 3, 5])).tolist() == [3, 5]


def test_instruction_makes_one_example_of_every_item_but_the_first():
    # Lengths 3 and 1: user 0 gives the targets 1 and 2, user 1 none. max_history 1 shows one item before each.
    examples = instruction(max_history=1).examples(np.array([3, 1]), np.random.default_rng(0))
    assert examples.user.tolist() == [0, 0]
    assert examples.start.tolist() == [0, 1]
    assert examples.first_label.tolist() == [1, 2]
    assert examples.stop.tolist() == [2, 3]


def test_titles_are_no_semantic_ids():
    with pytest.raises(InputError, match=r"prompt=ids writes semantic IDs .* titles.\nType:  prompt=instruction"):
        IdsPrompt(TEXT_MODEL.tokenizer, TITLES, max_history=3, stride=2)
    with pytest.raises(InputError, match=r"prompt=ids_with_titles .* makes none.\nType:  prompt=titles"):
        IdsWithTitlesPrompt(TEXT_MODEL.tokenizer, TITLES, max_history=3, stride=2, title_tokens=3, learn_titles=True)
    with pytest.raises(InputError, match=r"prompt=titles writes titles .* semantic IDs.\nType:  prompt=ids"):
        TitlesPrompt(TOKENIZER, ITEMS, max_history=3, stride=2)


def test_bad_prompt_settings_are_named():
    with pytest.raises(InputError, match=r"must hold \{history\} exactly once, got: 'no slot'"):
        instruction(template="no slot")
    with pytest.raises(InputError, match=r"prompt.stride=9 must lie between 1 and 4 \(prompt.max_history=3\)"):
        ids_prompt(max_history=3, stride=9)
    with pytest.raises(InputError, match=r"prompt.stride=4 must lie between 1 and 3 \(prompt.max_history=3\)"):
        ItemsPrompt(None, None, max_history=3, stride=4)


def test_a_cropped_example_begins_later_and_keeps_its_last_item_and_one_before_it():
    count = 2_000
    whole = Examples(*(np.full(count, number) for number in (7, 2, 8, 3)))  # items 2 to 7, responses from 3 on
    cropped = whole.cropped(0.5, 1, np.random.default_rng(0))
    assert set(cropped.start.tolist()) == {2, 3, 4, 5, 6}
    assert (cropped.stop == 8).all()
    assert (cropped.first_label == np.maximum(3, cropped.start + 1)).all()
    assert 0.36 < (cropped.start > 2).mean() < 0.44  # half of them, and one in five of these begins where it did
    assert (whole.cropped(0.0, 1, np.random.default_rng(0)).start == 2).all()
