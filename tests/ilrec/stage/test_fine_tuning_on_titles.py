"""The fine-tuning stage where items are titles: ranking, grounding, and the losses at tokens of ragged items."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from src.ilrec.batches.next_item import RecommendationData
from src.ilrec.evaluator.grounding import GroundedEvaluator
from src.ilrec.evaluator.ranking import RankingEvaluator
from src.ilrec.prompt.instruction import InstructionPrompt
from src.ilrec.stage.fine_tuning import FineTuningStage
from src.ilrec.tokenizer.title import UnwrittenTitles
from src.losses.cross_layer import self_hard_negatives
from src.model.causal_lm import from_scratch
from tests.ilrec.stage.test_fine_tuning import collaborative_checkpoint, gradient_of, interactions, trainer

# 20 titles of 2 to 6 bytes; many are the beginning of another.
TITLES = [f"{name}{number}" for name in ("a", "ab", "b", "bc", "c") for number in ("", " 2", " 3", " 23")]
SETTINGS = {
    "seed": 1, "learning_rate": 1e-2, "weight_decay": 0.1, "warmup_ratio": 0.1, "strength": 0.5, "form": "scaled",
    "ratio": 1.0, "space": "probability", "max_negatives": None, "layers": 2, "ensemble": "logits",
    "distillation": 0.0, "reward": 0.0, "reward_from": None, "reward_temperature": None,
    "reward_excludes_history": None, "observe_layers": False, "init_from": None,
}  # fmt: skip


def stage(**changes):
    """A stage with its ranking evaluator, its data, and the items."""
    model = from_scratch(
        [], hidden_size=16, intermediate_size=32, num_layers=3, num_heads=2, dropout=0.0, max_length=64, seed=0
    )
    items = UnwrittenTitles(TITLES, max_tokens=20).written_for(model)
    evaluator = RankingEvaluator(items, num_beams=20, exclude_history=False, cutoffs=[5, 10])
    prompt = InstructionPrompt(model.tokenizer, items, template="{history} ->", separator=",", max_history=2)
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
    batch = next(iter(data.train_dataloader()))
    whole = module.model.causal_network(
        batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True
    )
    return batch, whole.logits[batch["rows"]], whole.hidden_states


def test_every_response_is_a_title_and_one_end():
    module, data, _ = stage()
    batch, _, _ = first_batch(module, data)
    for interaction in batch["interaction"].unique():
        tokens = batch["target"][batch["interaction"] == interaction]
        item = interactions().items[interaction]
        assert module.model.tokenizer.decode(tokens) == f" {TITLES[item]}</s>"


def test_distillation_compares_the_layers_over_the_tokens_of_titles_but_not_at_the_end():
    module, data, _ = stage(strength=0.0, distillation=0.7)
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


def test_rewards_are_the_judges_mass_of_the_titles_that_go_on_with_each_token(tmp_path):
    path = tmp_path / "sasrec.ckpt"
    reward_model = collaborative_checkpoint(path)
    module, data, _ = stage(strength=0.0, reward=0.3, reward_from=str(path), layers=1)
    trainer(tmp_path, max_steps=1).fit(module, datamodule=data)
    batch, logits, states = first_batch(module, data)
    loss, _ = gradient_of(module, batch)
    ensemble = module.model.head(module.model.decoder.norm(states[2])[batch["rows"]])
    negatives = self_hard_negatives(ensemble, logits, batch["target"], ratio=1.0)
    walks, tokenizer, total, written = interactions(), module.model.tokenizer, 0.0, {}
    for row, (interaction, target) in enumerate(
        zip(batch["interaction"].tolist(), batch["target"].tolist(), strict=True)
    ):
        user = int(np.searchsorted(walks.offsets, interaction, side="right")) - 1
        history = torch.from_numpy(walks.items[walks.offsets[user] : interaction])
        scores = reward_model.scores(reward_model(history[None])[0, -1])
        scores[history] = -torch.inf  # nobody takes an item twice here
        opinion = scores.softmax(0).tolist()
        prefix = written.get(interaction, "")
        shares = {}
        for token in {target, *negatives[row].nonzero().flatten().tolist()}:
            start = prefix + tokenizer.decode([token])
            shares[token] = sum(
                share for share, title in zip(opinion, TITLES, strict=True) if f" {title}</s>".startswith(start)
            )
        written[interaction] = prefix + tokenizer.decode([target])
        log_p = logits[row].log_softmax(0)
        total -= sum(share / sum(shares.values()) * log_p[token] for token, share in shares.items())
    assert all(title.endswith("</s>") for title in written.values())
    expected = F.cross_entropy(logits, batch["target"]) + 0.3 * total / len(batch["target"])
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
