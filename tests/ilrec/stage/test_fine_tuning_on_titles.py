"""The fine-tuning stage where items are titles: ranking, grounding, and the losses at tokens of ragged items."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from src.ilrec.batches.next_item import RecommendationData
from src.ilrec.evaluator.grounding import GroundedEvaluator
from src.ilrec.evaluator.ranking import RankingEvaluator
from src.ilrec.prompt.examples import UNOWNED
from src.ilrec.prompt.ids import IdsWithTitlesPrompt, TitlesPrompt
from src.ilrec.prompt.instruction import InstructionPrompt
from src.ilrec.stage.fine_tuning import FineTuningStage
from src.ilrec.tokenizer.title import UnwrittenTitles
from src.losses.collaborative import marked_entries, reward_loss
from src.losses.cross_layer import self_hard_negatives
from src.model.causal_lm import from_scratch
from src.model.packing import lay_out
from tests.ilrec.stage.test_fine_tuning import ITEMS, collaborative_checkpoint, gradient_of, interactions, trainer
from tests.ilrec.stage.test_fine_tuning import model as id_model
from tests.ilrec.stage.test_fine_tuning import stage as id_stage

# 20 titles of 2 to 6 bytes; many are the beginning of another.
TITLES = [f"{name}{number}" for name in ("a", "ab", "b", "bc", "c") for number in ("", " 2", " 3", " 23")]
SETTINGS = {
    "seed": 1, "learning_rate": 1e-2, "weight_decay": 0.1, "warmup_ratio": 0.1, "strength": 0.5, "form": "scaled",
    "ratio": 1.0, "space": "probability", "max_negatives": None, "layers": 2, "ensemble": "logits",
    "distillation": 0.0, "reward": 0.0, "reward_from": None, "reward_temperature": None,
    "reward_excludes_history": None, "observe_layers": False, "init_from": None,
}  # fmt: skip


def stage(*, compact=False, **changes):
    """A stage with its ranking evaluator, its data, and the items."""
    model = from_scratch(
        [], hidden_size=16, intermediate_size=32, num_layers=3, num_heads=2, dropout=0.0, max_length=64, seed=0
    )
    items = UnwrittenTitles(TITLES, max_tokens=20).written_for(model)
    evaluator = RankingEvaluator(items, num_beams=20, exclude_history=False, cutoffs=[5, 10])
    prompt = InstructionPrompt(model.tokenizer, items, template="{history} ->", separator=",", max_history=2)
    if compact:
        prompt = TitlesPrompt(model.tokenizer, items, max_history=8, stride=9)
    data = RecommendationData(
        interactions=interactions(), prompt=prompt, seed=1, batch_size=16, evaluation_batch_size=8, max_users=None
    )
    return FineTuningStage(model=model, evaluator=evaluator, **{**SETTINGS, **changes}), data, items


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    module, data, items = stage(distillation=1.0)
    run = trainer(tmp_path_factory.mktemp("titles"), max_epochs=20, check_val_every_n_epoch=20)
    run.fit(module, datamodule=data)
    assert {"train/loss_distillation", "train/negatives_per_position"} <= run.callback_metrics.keys()
    return module, data, items, run


def test_the_trie_ranks_the_title_that_was_learned_first(trained):
    module, data, _, run = trained
    (metrics,) = run.test(module, datamodule=data, verbose=False)
    assert metrics["test/users"] == 20
    assert metrics["test/hit@5"] > 0.8  # by chance 5 of 20 titles


def test_free_generation_writes_the_title_that_was_learned(trained):
    module, data, items, run = trained
    grounded = GroundedEvaluator(items, num_beams=1, popularity=0.0, exclude_history=False, cutoffs=[1, 5])
    (metrics,) = run.test(
        FineTuningStage(model=module.model, evaluator=grounded, **SETTINGS), datamodule=data, verbose=False
    )
    assert metrics["test/users"] == 20
    assert metrics["test/hit@1"] > 0.5  # by chance 1 of 20


def first_batch(module, data):
    data.prompt.packed = False  # the plain network reads one example a row
    batch = next(iter(data.train_dataloader()))
    whole = module.model.causal_network(
        batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True
    )
    return batch, whole.logits[batch["rows"]], whole.hidden_states


@pytest.mark.parametrize("compact", [False, True], ids=["instruction", "compact"])
def test_every_response_is_a_title_and_one_end(compact):
    module, data, _ = stage(compact=compact)
    batch, _, _ = first_batch(module, data)
    for interaction in batch["interaction"].unique():
        tokens = batch["target"][batch["interaction"] == interaction]
        item = interactions().items[interaction]
        assert module.model.tokenizer.decode(tokens) == f" {TITLES[item]}</s>"


@pytest.mark.parametrize("kind", ["titles", "ids with titles"])
def test_a_compact_window_trains_each_label_once_as_one_example_a_row_with_its_history_does(kind):
    module, data, items = stage(compact=True, strength=0.0)
    prompt = data.prompt
    if kind == "ids with titles":
        model = from_scratch(
            ITEMS.vocabulary, hidden_size=16, intermediate_size=32, num_layers=3, num_heads=2, dropout=0.0,
            max_length=128, seed=0,
        )  # fmt: skip
        module.model, named = model, replace(ITEMS, titles=TITLES)
        prompt = IdsWithTitlesPrompt(model.tokenizer, named, max_history=8, stride=9, title_tokens=4, learn_titles=True)

    def losses(examples, packed):
        encoded = [prompt.encode(window, first) for window, first in examples]
        batch = lay_out(encoded, pad_token_id=prompt.pad_token_id, packed=packed)
        states = module.model.row_states(batch["input_ids"], batch["attention_mask"], batch["rows"], [])
        each = F.cross_entropy(module.model.head(states.final), batch["target"], reduction="none")
        return sorted(each.tolist())

    windows = [np.array([3, 1, 4, 1, 5, 9, 2, 6]), np.array([5, 3]), np.array([8])]
    apart = [(window[: place + 1], place) for window in windows for place in range(len(window))]
    together = losses([(window, 0) for window in windows], packed=True)
    assert together == pytest.approx(losses(apart, packed=False), abs=1e-5)
    assert together == pytest.approx(losses(apart, packed=True), abs=1e-5)
    labels = sum(len(prompt.encode(window[-1:], 0)[0]) - 1 for window, _ in apart)
    assert len(together) == labels


@pytest.mark.parametrize("compact", [False, True], ids=["instruction", "compact"])
def test_distillation_compares_the_layers_over_the_tokens_of_titles_but_not_at_the_end(compact):
    module, data, _ = stage(compact=compact, strength=0.0, distillation=0.7)
    batch, logits, states = first_batch(module, data)
    loss, _ = gradient_of(module, batch)
    tokenizer, decoder = module.model.tokenizer, module.model.decoder
    used = sorted({token for title in TITLES for token in tokenizer(f" {title}").input_ids} | {tokenizer.eos_token_id})
    distances = []
    for block in (1, 2):
        student_logits = module.model.head(decoder.norm(states[block])[batch["rows"]])
        for row, target in enumerate(batch["target"].tolist()):
            if target != tokenizer.eos_token_id:
                teacher, student = logits[row, used].log_softmax(0), student_logits[row, used].log_softmax(0)
                distances.append((teacher.exp() * (teacher - student)).sum())
    expected = F.cross_entropy(logits, batch["target"]) + 0.7 * sum(distances) / len(distances)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("compact", [False, True], ids=["instruction", "compact"])
def test_rewards_are_the_judges_mass_of_the_titles_that_go_on_with_each_token(tmp_path, compact):
    path = tmp_path / "sasrec.ckpt"
    reward_model = collaborative_checkpoint(path)
    module, data, _ = stage(compact=compact, strength=0.0, reward=0.3, reward_from=str(path), layers=1)
    trainer(tmp_path, max_steps=1).fit(module, datamodule=data)
    batch, logits, states = first_batch(module, data)
    loss, _ = gradient_of(module, batch)
    ensemble = module.model.head(module.model.decoder.norm(states[2])[batch["rows"]])
    negatives = self_hard_negatives(ensemble, logits, batch["target"], ratio=1.0)
    walks, tokenizer, total, judged, written = interactions(), module.model.tokenizer, 0.0, 0, {}
    titles = [[*tokenizer(f" {title}").input_ids, tokenizer.eos_token_id] for title in TITLES]
    for row, (interaction, target) in enumerate(
        zip(batch["interaction"].tolist(), batch["target"].tolist(), strict=True)
    ):
        user = int(np.searchsorted(walks.offsets, interaction, side="right")) - 1
        history = torch.from_numpy(walks.items[walks.offsets[user] : interaction])
        if not len(history):
            continue  # a user's first item, a response of the compact prompt: there is nothing to judge by
        judged += 1
        scores = reward_model.scores(reward_model(history[None])[0, -1])
        scores[history] = -torch.inf  # nobody takes an item twice here
        opinion = scores.softmax(0).tolist()
        prefix = written.get(interaction, [])
        shares = {}
        for token in {target, *negatives[row].nonzero().flatten().tolist()}:
            start = [*prefix, token]
            shares[token] = sum(share for share, ids in zip(opinion, titles, strict=True) if ids[: len(start)] == start)
        written[interaction] = [*prefix, target]
        log_p = logits[row].log_softmax(0)
        total -= sum(share / sum(shares.values()) * log_p[token] for token, share in shares.items())
    assert all(ids in titles for ids in written.values())
    expected = F.cross_entropy(logits, batch["target"]) + 0.3 * total / judged
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_rewards_and_distillation_leave_out_labels_that_belong_to_no_response(tmp_path):
    """Titles behind semantic IDs are learned; only the IDs have rewards, and only they are compared over ID tokens."""
    path = tmp_path / "sasrec.ckpt"
    collaborative_checkpoint(path)
    network, reward = id_model(dropout=0.0), {"reward": 0.3, "reward_from": str(path)}
    with_ids = id_stage(network, strength=0.0, distillation=0.7, layers=1, **reward)
    prompt = IdsWithTitlesPrompt(
        with_ids.model.tokenizer, replace(ITEMS, titles=TITLES), max_history=4, stride=5, title_tokens=3,
        learn_titles=True,
    )  # fmt: skip
    data = RecommendationData(
        interactions=interactions(), prompt=prompt, seed=1, batch_size=8, evaluation_batch_size=8, max_users=None
    )
    trainer(tmp_path, max_steps=1).fit(with_ids, datamodule=data)
    batch, logits, states = first_batch(with_ids, data)
    owned = batch["interaction"] >= 0
    assert 0 < owned.sum() < len(owned)
    assert set(batch["interaction"][~owned].tolist()) == {UNOWNED}
    states_1 = with_ids.model.decoder.norm(states[with_ids.blocks[0]])[batch["rows"]]
    negatives = self_hard_negatives(with_ids.model.head(states_1), logits, batch["target"], ratio=1.0)
    of_ids, places = batch["target"][owned], with_ids.model.item_token_places
    row, token = marked_entries(of_ids, negatives[owned])
    rewards = with_ids.rewards(batch["interaction"][owned], places[of_ids], row, places[token])
    of_rewards = reward_loss(logits[owned], of_ids, negatives[owned], rewards)
    with_rewards, _ = gradient_of(with_ids, batch)
    with_ids.settings = replace(with_ids.settings, reward=0.0)
    with_ids.rewards = None
    loss, _ = gradient_of(with_ids, batch)
    torch.testing.assert_close(with_rewards - loss, 0.3 * of_rewards)
    item_tokens = with_ids.model.item_token_ids
    student = with_ids.model.head(states_1)[owned][:, item_tokens]
    teacher = logits[owned][:, item_tokens].log_softmax(1)
    distance = (teacher.exp() * (teacher - student.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(loss, F.cross_entropy(logits, batch["target"]) + 0.7 * distance)
