"""Ranks by distance of titles, against a slow reading of the definition, and the refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.ilrec.dataset.interactions import Interactions
from src.ilrec.evaluator.grounding import GroundedEvaluator, embed
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.ilrec.tokenizer.title import UnwrittenTitles
from src.launch.errors import InputError
from src.model.causal_lm import from_scratch

# Items 1 and 4 have the same title.
TITLES = ["Alien", "Aliens", "Big", "Heat", "Aliens", "A"]
# How often each item is met in training.
COUNTS = [1, 4, 0, 2, 1, 2]


def sharp_model():
    built = from_scratch(
        [], hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, dropout=0.0, max_length=64, seed=3
    )
    with torch.no_grad():  # sharpen the random model, so that titles differ clearly
        for parameter in built.parameters():
            parameter.mul_(3)
    return built.eval()


MODEL, UNWRITTEN = sharp_model(), UnwrittenTitles(TITLES, max_tokens=12)
ITEMS = UNWRITTEN.written_for(MODEL)


def interactions():
    """One user whose training items are met as COUNTS says; the last two items are not for training."""
    items = np.array([item for item, count in enumerate(COUNTS) for _ in range(count)] + [2, 2])
    return Interactions(
        name="films",
        offsets=np.array([0, len(items)]),
        items=items,
        user_ids=["u"],
        item_ids=[str(n) for n in range(6)],
        titles=TITLES,
        texts=[""] * 6,
        fingerprint="f" * 64,
        statistics={},
    )


def evaluator(num_beams=1, popularity=0.0, exclude_history=False):
    made = GroundedEvaluator(
        ITEMS, num_beams=num_beams, popularity=popularity, exclude_history=exclude_history, cutoffs=[5]
    )
    made.start(interactions())
    return made


def batch(prompts, targets, history=None):
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), MODEL.tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    history = torch.tensor(history or [[-1]] * len(prompts))
    return {"input_ids": ids, "attention_mask": mask, "history": history, "target": torch.tensor(targets)}


@torch.no_grad()
def greedy(prompt):
    """The likeliest token after the whole text so far, again and again, until the end or the longest title."""
    written = []
    while len(written) < ITEMS.tokens.shape[1]:
        token = int(MODEL.causal_network(torch.tensor([[*prompt, *written]])).logits[0, -1].argmax())
        if token == MODEL.tokenizer.eos_token_id:
            break
        written.append(token)
    return written


@torch.no_grad()
def state_of(tokens):
    ids = torch.tensor([[MODEL.tokenizer.bos_token_id, *tokens]])
    return MODEL.causal_network(ids, output_hidden_states=True).hidden_states[-1][0, -1]


def reference_ranks(prompt, popularity, excluded):
    """The rank of each item as the target."""
    generated = state_of(greedy(prompt))
    distances = [float((generated - state_of(MODEL.tokenizer(f" {title}").input_ids)).norm()) for title in TITLES]
    adjusted = {}
    for item, (distance, count) in enumerate(zip(distances, COUNTS, strict=True)):
        scaled = (distance - min(distances)) / (max(distances) - min(distances))
        if item not in excluded:
            adjusted[item] = scaled / (1 + count / 4) ** popularity  # counts run from 0 to 4
    ranks = np.full(6, np.nan)
    for item, own in adjusted.items():
        closer = sum(value < own for value in adjusted.values())
        alike = sum(value == own for value in adjusted.values())
        ranks[item] = closer + (alike + 1) / 2  # alike items hold the ranks closer + 1 .. closer + alike: their mean
    return ranks


@settings(max_examples=12)
@given(
    prompts=st.lists(st.lists(st.integers(0, 250), min_size=1, max_size=6), min_size=1, max_size=3),
    popularity=st.sampled_from([0.0, 0.5, 3.0]),
    excluded=st.sets(st.integers(0, 5), max_size=3),
)
def test_ranks_equal_the_slow_reference(prompts, popularity, excluded):
    made = evaluator(popularity=popularity)
    history = [[*excluded, -1] if excluded else [0]] * len(prompts)
    expected = np.array([reference_ranks(prompt, popularity, excluded) for prompt in prompts])
    for target in range(6):
        asked = batch(prompts, [target] * len(prompts), history)
        found = made.rank(MODEL, asked, exclude_history=bool(excluded))
        np.testing.assert_array_equal(found, expected[:, target])


def test_recommendations_are_the_items_in_the_order_of_their_ranks():
    asked = batch([[3, 4], [9]], [0, 0], [[0, 3], [5, -1]])
    made = evaluator(popularity=0.5, exclude_history=True)
    best = made.recommend(MODEL, asked, 4)
    targets = [{**asked, "target": torch.tensor([item, item])} for item in range(6)]
    ranks = np.array([made.rank(MODEL, target, exclude_history=True) for target in targets]).T
    for user, excluded in enumerate(({0, 3}, {5})):
        order = sorted(set(range(6)) - excluded, key=lambda item: (ranks[user, item], item))
        assert [item for item, _ in best[user]] == order[:4]
        scores = [score for _, score in best[user]]
        assert scores == sorted(scores, reverse=True)


@torch.no_grad()
def score_per_token(prompt, tokens):
    """Mean log-probability of a continuation with its end, unless it is cut: what beams are compared by."""
    ended = [*tokens, MODEL.tokenizer.eos_token_id][: ITEMS.tokens.shape[1]]
    log_p = MODEL.causal_network(torch.tensor([[*prompt, *ended]])).logits[0].log_softmax(-1)
    return sum(float(log_p[len(prompt) - 1 + i, token]) for i, token in enumerate(ended)) / len(ended)


def test_beams_find_likelier_titles_than_greedy_search():
    prompts = [[7 * n + 1, 5 * n + 2] for n in range(12)]
    ids = batch(prompts, [0] * 12)
    found = evaluator(num_beams=4)._generate(MODEL, ids["input_ids"], ids["attention_mask"])
    gains = [
        score_per_token(prompt, row[row >= 0].tolist()) - score_per_token(prompt, greedy(prompt))
        for prompt, row in zip(prompts, found, strict=True)
    ]
    assert min(gains) > -1e-4
    assert max(gains) > 0.01


def test_settings_of_the_model_that_sample_are_not_followed(monkeypatch):
    ids = batch([[5, 6, 7]], [0])
    own = MODEL.causal_network.generation_config
    for name, value in {"do_sample": True, "temperature": 9.0, "num_beams": 3}.items():
        monkeypatch.setattr(own, name, value)
    for _ in range(3):
        row = evaluator()._generate(MODEL, ids["input_ids"], ids["attention_mask"])[0]
        assert row[row >= 0].tolist() == greedy([5, 6, 7])


def test_titles_are_embedded_once_an_evaluation():
    made, other = evaluator(), sharp_model()
    UNWRITTEN.written_for(other)
    with torch.no_grad():
        other.decoder.norm.weight.mul_(2)
    before = made._titles(MODEL)
    assert torch.equal(made._titles(other), before)
    made.start(interactions())
    torch.testing.assert_close(
        made._titles(other), 2 * before, rtol=1e-4, atol=1e-4
    )  # the final norm scales every state


def test_a_text_is_embedded_at_its_last_token_whatever_stands_beside_it():
    texts = [MODEL.tokenizer(text).input_ids for text in (" A", " Aliens", "")]
    rows = torch.tensor([[*text, *[-1] * (9 - len(text))] for text in texts])
    torch.testing.assert_close(
        embed(MODEL, rows), torch.stack([state_of(text) for text in texts]), rtol=1e-3, atol=1e-3
    )


def test_one_title_for_all_items_leaves_the_expected_rank():
    model = sharp_model()
    items = UnwrittenTitles(["Big"] * 3, max_tokens=12).written_for(model)
    made = GroundedEvaluator(items, num_beams=1, popularity=0.0, exclude_history=False, cutoffs=[1])
    assert made.rank(model, batch([[4]], [1]), exclude_history=False).tolist() == [2]  # the mean of 1, 2 and 3


def test_semantic_ids_are_refused():
    items = ItemTokens.from_codes(np.array([[0], [1]]), [range(2)], {})
    with pytest.raises(InputError, match=r"compares titles, but these items are semantic IDs.\nType:  tokenizer=title"):
        GroundedEvaluator(items, num_beams=1, popularity=0.0, exclude_history=False, cutoffs=[5])


def test_settings_out_of_range_are_named():
    with pytest.raises(InputError, match=r"evaluator.num_beams=0: I need a whole number of at least 1"):
        evaluator(num_beams=0)
    with pytest.raises(InputError, match=r"evaluator.popularity=-1: I need a number of at least 0"):
        evaluator(popularity=-1)


def test_what_the_models_folder_sets_for_generation_changes_nothing(monkeypatch):
    asked, expected = batch([[5, 6, 7, 8]], [1]), evaluator(num_beams=3)
    ranks = expected.rank(MODEL, asked, exclude_history=False)
    own = MODEL.causal_network.generation_config
    changes = {"repetition_penalty": 50.0, "no_repeat_ngram_size": 1, "length_penalty": -9.0, "min_new_tokens": 12}
    for name, value in changes.items():
        monkeypatch.setattr(own, name, value)
    assert evaluator(num_beams=3).rank(MODEL, asked, exclude_history=False).tolist() == ranks.tolist()
    assert MODEL.causal_network.generation_config is own


@pytest.mark.parametrize("way", ["alone", "reread"])
def test_prompts_that_may_not_be_padded_are_continued_one_by_one(monkeypatch, way):
    asked = batch([[5, 6, 7, 8], [9, 10]], [1, 3])
    together = evaluator().rank(MODEL, asked, exclude_history=False)
    monkeypatch.setattr(MODEL.architecture, "generation", way)
    assert evaluator().rank(MODEL, asked, exclude_history=False).tolist() == together.tolist()
