"""The fine-tuning stage on a small real model: losses, checkpoints, refusals."""

import sys
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.nn import functional as F  # noqa: N812

from src.ilrec.batches.next_item import RecommendationData
from src.ilrec.dataset.interactions import Interactions
from src.ilrec.evaluator.ranking import RankingEvaluator
from src.ilrec.model.collaborative import load_collaborative_model
from src.ilrec.model.reward_model import RewardModel
from src.ilrec.model.sequence_models import SASRec
from src.ilrec.prompt.ids import IdsPrompt
from src.ilrec.prompt.instruction import InstructionPrompt
from src.ilrec.stage.fine_tuning import FineTuningStage, _layers_report, _penalty_report
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.launch.errors import InputError
from src.losses.cross_layer import distillation_loss, negative_weights, preference_loss, self_hard_negatives
from src.model.causal_lm import from_scratch, intermediate_blocks
from tests.model.architectures import LORA, cut_off, load, tiny

CODES = np.stack(np.unravel_index(np.arange(20), (5, 4)), axis=1)
ITEMS = ItemTokens.from_codes(CODES, [range(5), range(4)], {})


def interactions(users=20):
    """Users who walk through the items in steps of one: the next item can be learned."""
    lengths = np.full(users, 9)
    return Interactions(
        name="walks",
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        items=np.concatenate([(start + np.arange(9)) % 20 for start in range(users)]),
        user_ids=[f"u{n}" for n in range(users)],
        item_ids=[f"i{n}" for n in range(20)],
        titles=[""] * 20,
        texts=[""] * 20,
        fingerprint="f" * 64,
        statistics={},
    )


def model(hidden_size=16, num_layers=3, dropout=0.1):
    return from_scratch(
        ITEMS.vocabulary,
        hidden_size=hidden_size,
        intermediate_size=32,
        num_layers=num_layers,
        num_heads=2,
        dropout=dropout,
        max_length=64,
        seed=0,
    )


def stage(network=None, exclude_history=False, **changes):
    settings = {
        "seed": 1,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "warmup_ratio": 0.1,
        "strength": 0.5,
        "form": "scaled",
        "ratio": 1.0,
        "space": "probability",
        "max_negatives": None,
        "layers": 2,
        "ensemble": "logits",
        "distillation": 0.0,
        "reward": 0.0,
        "reward_from": None,
        "reward_temperature": None,
        "reward_excludes_history": None,
        "observe_layers": False,
        "init_from": None,
    }
    evaluator = RankingEvaluator(ITEMS, num_beams=10, exclude_history=exclude_history, cutoffs=[5, 10])
    module = FineTuningStage(model=network or model(), evaluator=evaluator, **{**settings, **changes})
    module.initialise()
    return module


def data(network):
    prompt = IdsPrompt(network.tokenizer, ITEMS, max_history=4, stride=5)
    return RecommendationData(
        interactions=interactions(), prompt=prompt, seed=1, batch_size=8, evaluation_batch_size=8, max_users=None
    )


def trainer(folder, **settings):
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **{"devices": 1, "max_epochs": 60, "log_every_n_steps": 1, **settings},
    )


@pytest.mark.parametrize(("strength", "distillation"), [(0.0, 0.0), (0.5, 0.0), (0.5, 1.0)])
def test_training_learns_to_rank_the_next_item_first(tmp_path, strength, distillation):
    module = stage(strength=strength, distillation=distillation)
    run = trainer(tmp_path, max_epochs=40, check_val_every_n_epoch=40, log_every_n_steps=10)
    run.fit(module, datamodule=data(module.model))
    logged = {name for name in run.callback_metrics if name.startswith("train/")}
    (metrics,) = run.test(module, datamodule=data(module.model), verbose=False)
    assert metrics["test/users"] == 20
    assert metrics["test/hit@5"] > 0.8
    assert module.test_ranks["user"][:2] == ["u0", "u1"]
    assert module.test_ranks["target"][:2] == ["i8", "i9"]
    parts = {"train/loss_cross_entropy", "train/negatives_per_position", "train/positions_without_negatives"}
    parts |= {"train/negative_mass", "train/negative_mass_intermediate"}
    parts |= {"train/negatives", "train/negative_margin", "train/layer_divergence"}
    parts |= {"train/layer_agreement_1", "train/layer_agreement_2"}
    parts |= {"train/cpo_gradient_cosine", "train/cpo_gradient_change"}
    expected = {"train/loss", "train/learning_rate", "train/gradient_norm"} | (parts if strength else set())
    assert logged == expected | ({"train/loss_distillation"} if distillation else set())


def test_the_test_ranks_with_and_without_the_history_where_both_are_wanted(tmp_path):
    """Without the items of their history, targets move up or stay; validation keeps the history."""
    module = stage(exclude_history="both", strength=0.0)
    run = trainer(tmp_path, max_epochs=2)
    run.fit(module, datamodule=data(module.model))
    (metrics,) = run.test(module, datamodule=data(module.model), verbose=False)
    kept, excluded = (np.nan_to_num(module.test_ranks[name], nan=99) for name in ("rank", "rank_excluded"))
    assert (excluded <= kept).all()
    assert (excluded < kept).any()
    alone = stage(module.model, exclude_history=True, strength=0.0)
    (expected,) = trainer(tmp_path).test(alone, datamodule=data(module.model), verbose=False)
    assert metrics["test_excluded/ndcg@10"] == expected["test/ndcg@10"] > metrics["test/ndcg@10"]
    assert "rank_excluded" not in alone.test_ranks


def test_layers_can_be_observed_without_a_trace_in_the_weights(tmp_path):
    weights, logged = [], []
    for observe in (False, True):
        module = stage(model(), strength=0.0, observe_layers=observe)
        run = trainer(tmp_path, max_epochs=2, log_every_n_steps=2)
        run.fit(module, datamodule=data(module.model))
        weights.append(module.state_dict())
        logged.append({name for name in run.callback_metrics if "layer" in name or "negatives" in name})
    assert all(torch.equal(weights[1][name], weight) for name, weight in weights[0].items())
    assert logged[0] == set()
    assert "train/layer_agreement_2" in logged[1]


def test_layers_are_compared_with_the_final_one_among_item_tokens():
    # Three positions, two item tokens, the last position is an end. Layer 1 chooses 0, 1; the final one 0, 0.
    final = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 5.0]])
    layer = torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]])
    keep = torch.tensor([True, True, False])
    report = _layers_report([(1, layer), (2, final)], torch.nn.Identity(), final, keep)
    assert (report["layer_agreement_1"], report["layer_agreement_2"]) == (0.5, 1)
    # Layer 2 is the final one: distance 0. Layer 1 differs at the second position: logits 1, 0 against 0, 1, whose
    # log-probabilities differ by +1 and -1, so p - (1 - p) = 2p - 1 with p = sigmoid(1). Mean over
    # 2 positions and 2 layers.
    p = torch.sigmoid(torch.tensor(1.0))
    torch.testing.assert_close(report["layer_divergence"], (2 * p - 1) / 4)


def test_the_penalty_is_measured_by_what_it_does_to_the_gradient():
    # z = 0, y = 0, token 1 the only negative, a = 1, additive: z' = (0, 1, 0). Plain cross-entropy's gradient is
    # (-2, 1, 1) / 3; CPO's (1, e, 1) / (2 + e) - (1, 0, 0) = (-.78806, .57612, .21194), but with token 2's as it falls.
    z, negatives = torch.zeros(1, 3), torch.tensor([[False, True, False]])
    arguments = z, torch.tensor([0]), negatives, negatives.float()
    report = _penalty_report(*arguments, {"strength": 1.0, "form": "additive"})
    plain, cpo = torch.tensor([-2, 1, 1]) / 3, torch.tensor([-0.78806, 0.57612, 0.21194])
    expected = {"cosine": plain @ cpo / plain.norm() / cpo.norm(), "change": (cpo - plain).norm() / plain.norm()}
    for name, value in expected.items():
        torch.testing.assert_close(report[f"cpo_gradient_{name}"], value, rtol=1e-4, atol=1e-4)
    nothing = _penalty_report(*arguments, {"strength": 0.0, "form": "additive"})
    assert (nothing["cpo_gradient_cosine"].item(), nothing["cpo_gradient_change"].item()) == (pytest.approx(1), 0)


def test_intermediate_states_are_normed_once_and_the_final_ones_not_again():
    network = model(dropout=0.0).eval()
    ids = torch.randint(0, 200, (2, 6))
    rows = torch.ones_like(ids, dtype=torch.bool)
    states = network.row_states(ids, torch.ones_like(ids), rows, [1, 2])
    # By hand: the blocks one after the other, as transformers runs them.
    whole = network.causal_network(ids, output_hidden_states=True)
    torch.testing.assert_close(network.head(states.final), whole.logits.flatten(0, 1))
    for index, block in enumerate((1, 2)):
        by_hand = network.decoder.norm(whole.hidden_states[block]).flatten(0, 1)
        torch.testing.assert_close(states.intermediate[index], by_hand)


def test_mean_of_states_through_the_head_is_the_mean_of_the_layers_logits():
    module = stage()
    states = torch.randn(2, 7, 16)
    by_layer = module.model.head(states).mean(0)
    torch.testing.assert_close(module._ensemble_logits(states, module.model.read_head()), by_layer)


def test_ensemble_of_probabilities_averages_probabilities():
    module = stage(ensemble="probabilities")
    states = torch.randn(2, 7, 16)
    by_layer = module.model.head(states).softmax(-1).mean(0)
    torch.testing.assert_close(module._ensemble_logits(states, module.model.read_head()).softmax(-1), by_layer)


def test_negatives_can_come_from_the_final_layer():
    network = model(dropout=0.0)
    module = stage(network, ensemble="final")
    batch = next(iter(data(network).train_dataloader()))
    loss, _ = gradient_of(module, batch)
    logits = network.causal_network(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[batch["rows"]]
    negatives = self_hard_negatives(logits, logits, batch["target"], ratio=1.0)
    weights = negative_weights(logits, negatives)
    torch.testing.assert_close(loss, preference_loss(logits, batch["target"], negatives, weights, strength=0.5))


def gradient_of(module, batch):
    torch.manual_seed(0)
    module.zero_grad()
    module._share_of_positions = lambda count: 1.0
    module._log_training = lambda values: None
    module._is_log_step = lambda: False
    loss = module.training_step(batch, 0)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in module.parameters() if p.grad is not None]


def test_strength_zero_equals_cross_entropy_over_the_responses():
    module = stage(model(dropout=0.0), strength=0.0)
    batch = next(iter(data(module.model).train_dataloader()))
    loss, _ = gradient_of(module, batch)
    logits = module.model.causal_network(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(loss, F.cross_entropy(logits[batch["rows"]], batch["target"]))


def test_with_weight_zero_every_term_leaves_supervised_fine_tuning_to_the_bit(tmp_path):
    path = tmp_path / "sasrec.ckpt"
    collaborative_checkpoint(path)
    plain = stage(model(dropout=0.0), strength=0.0)
    batch = next(iter(data(plain.model).train_dataloader()))
    loss, gradients = gradient_of(plain, batch)
    module = stage(model(dropout=0.0), strength=0.0)
    module.blocks = [1, 2]  # the layers are read and the negatives looked for all the same
    network = load_collaborative_model(path, interactions())
    module.rewards = RewardModel(network, interactions(), module.evaluator.trie, stride=1)
    zero, same = gradient_of(module, batch)
    assert torch.equal(zero, loss)
    assert all(torch.equal(one, other) for one, other in zip(same, gradients, strict=True))


def test_distillation_is_added_with_its_weight_and_leaves_the_end_of_the_response_out():
    network = model(dropout=0.0)
    module = stage(network, strength=0.0, distillation=0.7)
    prompt = InstructionPrompt(network.tokenizer, ITEMS, template="{history} -> ", separator=" ", max_history=2)
    tokens, owner = prompt.encode(np.array([3, 4, 5]), first_label=2)
    ids, response = torch.from_numpy(tokens)[None], torch.from_numpy(owner >= 0)[None]
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "rows": response.roll(-1, 1),
        "target": ids[response],
    }
    loss, _ = gradient_of(module, batch)
    whole = network.causal_network(ids, output_hidden_states=True)
    rows = batch["rows"][0]
    final = whole.logits[0, rows]
    # Two item tokens and the end: the end's row (the last) is in the cross-entropy, but not in the distillation.
    assert batch["target"][-1] == network.tokenizer.eos_token_id
    teacher = final[:-1, network.item_token_ids].log_softmax(1)
    distances = []
    for block in (1, 2):
        states = network.decoder.norm(whole.hidden_states[block])[0, rows][:-1]
        student = network.head(states)[:, network.item_token_ids].log_softmax(1)
        distances.append((teacher.exp() * (teacher - student)).sum(1).mean())
    expected = F.cross_entropy(final, batch["target"]) + 0.7 * (distances[0] + distances[1]) / 2
    torch.testing.assert_close(loss, expected)


def distilled(states, distilled, ensemble="logits"):
    """The distillation alone, and its gradient with respect to the states of the layers and of the final one."""
    module = stage(model(dropout=0.0), strength=0.0, distillation=1.0, distilled=distilled, ensemble=ensemble)
    module._is_log_step = lambda: False
    layers, final = states[1:].clone().requires_grad_(), states[0].clone().requires_grad_()
    head, target = module.model.read_head(), module.model.item_token_ids[torch.arange(len(final))]
    _, parts = module._ilrec_loss(layers, head, head(final), {"target": target})
    of_items = head.of(module.model.item_token_ids)
    student, teacher = torch.autograd.grad(parts["loss_distillation"], (layers, final), allow_unused=True)
    return parts["loss_distillation"], student, teacher, of_items


@pytest.mark.parametrize("ensemble", ["logits", "probabilities"])
def test_distillation_of_the_ensemble_teaches_every_layer_through_it(ensemble):
    states = 5 * torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(0))
    loss, student, teacher, of_items = distilled(states, "ensemble", ensemble)
    p = of_items(states[0]).softmax(1)
    layers = of_items(states[1:])
    pupil = layers.mean(0).log_softmax(1) if ensemble == "logits" else layers.softmax(2).mean(0).log()
    torch.testing.assert_close(loss, (p * (p.log() - pupil)).sum(1).mean())
    assert teacher is None
    assert (student.abs().sum((1, 2)) > 0).all()
    if ensemble == "logits":  # d KL / d mean logits = softmax - p; a half of it for either layer, a mean of 7 rows
        mean = (layers.mean(0).softmax(1) - p) @ of_items.weight / 14
        torch.testing.assert_close(student, mean.expand(2, -1, -1))


@pytest.mark.parametrize("ensemble", ["logits", "probabilities"])
def test_of_one_layer_the_ensemble_is_the_layer(ensemble):
    states = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(1))
    each, together = (distilled(states, pupil, ensemble) for pupil in ("layers", "ensemble"))
    torch.testing.assert_close(each[:2], together[:2])


def test_the_final_layer_as_its_own_pupil_is_refused():
    with pytest.raises(InputError, match=r"stage.distilled=ensemble has nothing to learn.\nType:  stage.distilled=lay"):
        stage(ensemble="final", distilled="ensemble", distillation=0.1)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize(("kind", "sizes"), [("gemma2", {}), ("granite", {"logits_scaling": 8.0}), ("cohere", {})])
@pytest.mark.parametrize("strength", [0.0, 0.5], ids=["sft", "ilrec"])
def test_a_step_of_a_model_that_caps_or_scales_its_logits_is_that_of_its_own_logits(
    tmp_path, kind, sizes, strength, lora
):
    """Both layers' logits come from copies of the network that end behind them."""
    network = load(tiny(kind, **sizes), tmp_path, lora, vocabulary=ITEMS.vocabulary)
    module = stage(network, strength=strength, distillation=2 * strength)
    prompt = IdsPrompt(network.tokenizer, ITEMS, max_history=8, stride=9)
    tokens, owner = prompt.encode(np.array([3, 4, 5, 9]), first_label=0)
    ids, response = torch.from_numpy(tokens)[None], torch.from_numpy(owner >= 0)[None]
    rows, target = response.roll(-1, 1), ids[response]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "rows": rows, "target": target}
    loss, _ = gradient_of(module, batch)
    final = network.causal_network(ids).logits[rows]
    layers = torch.stack([cut_off(network.causal_network, block)(ids).logits[rows] for block in (2, 3)])
    negatives = self_hard_negatives(layers.mean(0), final, target, ratio=1.0)
    weights = negative_weights(layers.mean(0), negatives)
    expected = preference_loss(final, target, negatives, weights, strength=strength)
    items = network.item_token_ids
    expected = expected + 2 * strength * distillation_loss(layers[..., items], final[..., items])
    assert abs(loss - expected) < 1e-5 * expected


def collaborative_checkpoint(path, fingerprint="f" * 64):
    """Save an untrained SASRec as its stage saves a trained one, and return it."""
    vocabulary = [""] * 20
    settings = {"hidden_size": 8, "inner_size": 8, "num_layers": 1, "num_heads": 1, "dropout": 0.0, "max_history": 16}
    network = SASRec(vocabulary, **settings, seed=0)
    torch.nn.init.normal_(network.item_embedding.weight)  # opinions strong enough to tell apart
    weights = {f"model.{name}": weight for name, weight in network.state_dict().items()}
    torch.save({"model": network.spec, "dataset": fingerprint, "state_dict": weights}, path)
    return network.eval()


def test_rewards_are_added_with_their_weight(tmp_path):
    path = tmp_path / "sasrec.ckpt"
    reward_model = collaborative_checkpoint(path)
    module = stage(model(dropout=0.0), strength=0.0, reward=0.3, reward_from=str(path), layers=1)
    run = trainer(tmp_path, max_steps=1)
    run.fit(module, datamodule=data(module.model))
    assert "train/loss_reward" in run.callback_metrics
    assert not any(name.startswith("rewards") for name in module.state_dict())
    batch = next(iter(data(module.model).train_dataloader()))
    loss, _ = gradient_of(module, batch)
    assert not any(one.requires_grad for one in (*module.rewards.parameters(), *module.rewards.buffers()))
    # By hand: the reward model's probabilities after each label's history, summed over all items, kept on Neg + {y}.
    walks = interactions()
    logits = module.model.causal_network(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logits, target = logits[batch["rows"]], batch["target"]
    states = module.model.row_states(batch["input_ids"], batch["attention_mask"], batch["rows"], [2]).intermediate
    negatives = self_hard_negatives(module.model.head(states[0]), logits, target, ratio=1.0)
    owner = batch["interaction"].tolist()
    total, count = 0.0, 0
    for row, interaction in enumerate(owner):
        user = int(np.searchsorted(walks.offsets, interaction, side="right")) - 1
        history = walks.items[walks.offsets[user] : interaction]
        if len(history) == 0:
            continue
        scores = reward_model.scores(reward_model(torch.from_numpy(history)[None])[0, -1])
        scores[history] = -torch.inf  # nobody takes an item twice here
        opinion = scores.softmax(0).tolist()
        level = row - owner.index(interaction)
        true = int(target[row])
        shares = {}
        for token in {true, *negatives[row].nonzero().flatten().tolist()}:
            code = int(module.model.item_token_places[token]) - 5 * level  # level a has the places 0..4, level b 5..8
            for item, codes in enumerate(CODES.tolist()):
                if codes[:level] == CODES[walks.items[interaction]].tolist()[:level] and codes[level] == code:
                    shares[token] = shares.get(token, 0.0) + opinion[item]
        log_p = logits[row].detach().log_softmax(0)
        total -= sum(share / sum(shares.values()) * float(log_p[token]) for token, share in shares.items())
        count += 1
    assert count < len(owner)  # some labels are a user's first item: nothing to reward_model by
    torch.testing.assert_close(loss, F.cross_entropy(logits, target) + 0.3 * total / count, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [None, 0.1])
@pytest.mark.parametrize("ratio", [1.0, 1e-30])  # few negatives, and all items
def test_rewards_of_items_of_one_token_are_those_of_the_lists(tmp_path, monkeypatch, ratio, temperature):
    own = np.arange(20)[:, None]
    monkeypatch.setattr(sys.modules[__name__], "ITEMS", ItemTokens.from_codes(own, [range(20)], {}))
    path = tmp_path / "sasrec.ckpt"
    collaborative_checkpoint(path)
    rewards = {"reward": 0.3, "reward_from": str(path), "reward_temperature": temperature}
    module = stage(model(dropout=0.0), ratio=ratio, **rewards)
    trainer(tmp_path, max_steps=1).fit(module, datamodule=data(module.model))
    batch = next(iter(data(module.model).train_dataloader()))
    found, counts = module._reward_loss, []
    monkeypatch.setattr(module, "_reward_loss", lambda *given: counts.append(found(*given)[1].item()) or found(*given))
    assert module.rewards.of_single_tokens
    loss, gradients = gradient_of(module, batch)
    monkeypatch.setattr(RewardModel, "of_single_tokens", False)
    listed, same = gradient_of(module, batch)
    torch.testing.assert_close(loss, listed)
    torch.testing.assert_close(gradients, same)
    assert counts[0] == counts[1]
    assert 0 < counts[0] < len(batch["target"])  # first items have no history


@pytest.mark.filterwarnings("ignore")
def test_two_processes_give_the_gradient_of_one_though_their_rewarded_positions_differ_in_number(tmp_path, monkeypatch):
    path = tmp_path / "sasrec.ckpt"
    collaborative_checkpoint(path)
    monkeypatch.setattr(
        FineTuningStage, "configure_optimizers", lambda self: torch.optim.SGD(self.parameters(), lr=1.0)
    )
    found, start = {}, None
    for processes in (1, 2):
        module = stage(model(dropout=0.0), strength=0.5, distillation=0.5, reward=2.0, reward_from=str(path), layers=1)
        start = {name: weight.clone() for name, weight in module.state_dict().items()}
        strategy = {"devices": 2, "strategy": "ddp_fork"} if processes == 2 else {}
        batches = data(module.model)  # 26 of the 28 label positions of one process have a reward, all 20 of the other
        trainer(tmp_path, max_steps=1, limit_val_batches=0, log_every_n_steps=9, **strategy).fit(module, batches)
        found[processes] = {name: weight - start[name] for name, weight in module.state_dict().items()}
    assert max(float(step.abs().max()) for step in found[1].values()) > 0.1
    for name, step in found[1].items():
        torch.testing.assert_close(found[2][name], step, rtol=1e-4, atol=1e-6)


def test_a_process_weighs_by_the_positions_of_each_term(monkeypatch):
    # 3 label positions here and 1 there, no rewarded one here and 4 there, and of the third term none at all.
    module = stage(strength=0.0)
    counts = torch.tensor([[3.0, 0.0, 0.0], [1.0, 4.0, 0.0]])
    monkeypatch.setattr(module, "_trainer", SimpleNamespace(world_size=2))
    monkeypatch.setattr(module, "all_gather", lambda mine: counts)
    assert module._share_of_positions(counts[0]).tolist() == [1.5, 0, 0]
    assert module._share_of_positions(counts[1]).tolist() == [0.5, 2, 0]
    monkeypatch.setattr(module, "all_gather", lambda mine: counts[:, 0])
    assert module._share_of_positions(3).item() == 1.5


def test_rewards_from_a_model_of_other_data_are_refused_before_the_first_step(tmp_path):
    path = tmp_path / "sasrec.ckpt"
    collaborative_checkpoint(path, fingerprint="e" * 64)
    module = stage(reward=0.3, reward_from=str(path))
    with pytest.raises(InputError, match="was trained on the data set eeeeeeeeeeee, but this one is walks"):
        trainer(tmp_path).fit(module, datamodule=data(module.model))


def test_rewards_without_a_model_say_how_to_train_one():
    with pytest.raises(InputError, match=r"(?s)stage.reward=0.3 needs a collaborative model.*experiment=sasrec"):
        stage(reward=0.3)


def test_intermediate_blocks_are_the_last_ones_before_the_final_or_those_listed():
    assert intermediate_blocks(model(num_layers=6), 4) == [2, 3, 4, 5]
    assert intermediate_blocks(model(num_layers=6), [3, 1]) == [1, 3]
    for layers in (3, 0, [3], [0, 1], []):
        with pytest.raises(InputError, match=r"a model of 3 blocks has 2 intermediate ones.*\nType:  stage.layers=2"):
            intermediate_blocks(model(num_layers=3), layers)


def saved(folder, module):
    run = trainer(folder, max_epochs=1)
    run.fit(module, datamodule=data(module.model))
    path = folder / "some.ckpt"
    run.save_checkpoint(path)
    return path


def test_a_saved_checkpoint_gives_the_same_logits_when_loaded(tmp_path):
    module = stage()
    path = saved(tmp_path, module)
    other = stage(model(), init_from=str(path))
    ids = torch.randint(0, 200, (2, 6))
    for one in (module, other):
        one.eval()
    torch.testing.assert_close(
        other.model.causal_network(ids).logits, module.model.causal_network(ids).logits, rtol=0, atol=0
    )


@pytest.mark.filterwarnings("ignore")
def test_training_goes_on_with_the_mean_of_the_weights_though_tied_ones_are_kept_once(tmp_path):
    mean = {"callbacks": [EMAWeightAveraging(decay=0.5)], "limit_val_batches": 0}
    first, again = stage(), stage()
    fits = trainer(tmp_path, max_steps=2, **mean)
    fits.fit(first, data(first.model))
    fits.save_checkpoint(tmp_path / "mean.ckpt")
    kept = torch.load(tmp_path / "mean.ckpt", weights_only=True)["state_dict"]
    fits = trainer(tmp_path, max_steps=2, **mean | {"callbacks": [EMAWeightAveraging(decay=0.5)]})
    fits.fit(again, data(again.model), ckpt_path=tmp_path / "mean.ckpt")
    last = again.state_dict()
    assert all(torch.equal(last[name], weight) for name, weight in first.state_dict().items())
    own = fits.callbacks[0]._average_model.module.state_dict()
    assert len(own) > len(kept)
    assert all(torch.equal(own[name], weight) for name, weight in kept.items())
    assert torch.equal(own["model.network.lm_head.weight"], kept["model.network.model.embed_tokens.weight"])


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = saved(tmp_path, stage())
    with pytest.raises(InputError, match=r"holds another model:\n  there .*'hidden_size': 16.*\n  here  .*32"):
        stage(model(hidden_size=32), init_from=str(path))


def test_a_checkpoint_of_another_stage_is_refused(tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}, "stage": "SequenceModel", "model": {}}, path)
    with pytest.raises(InputError, match=r"holds the stage 'SequenceModel', but this is 'FineTuningStage'"):
        stage(init_from=str(path))


def test_an_unreadable_checkpoint_is_named(tmp_path):
    path = tmp_path / "torn.ckpt"
    path.write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(InputError, match=r"torn.ckpt' is not a checkpoint that can be read"):
        stage(init_from=str(path))


def test_an_unknown_ensemble_is_refused():
    with pytest.raises(InputError, match=r"stage.ensemble='median': type stage.ensemble=logits, .*final"):
        stage(ensemble="median")


def test_lightning_loads_a_checkpoint_with_the_settings_in_it(tmp_path):
    module = stage(strength=0.0, learning_rate=3e-3)
    run = trainer(tmp_path, max_steps=1)
    run.fit(module, datamodule=data(module.model))
    run.save_checkpoint(tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["hyper_parameters"]["learning_rate"] == 3e-3
    loaded = FineTuningStage.load_from_checkpoint(
        tmp_path / "last.ckpt", model=model(), evaluator=module.evaluator, weights_only=True
    )
    assert loaded.settings == module.settings
    assert all(torch.equal(weight, module.state_dict()[name]) for name, weight in loaded.state_dict().items())


def test_learning_rate_and_gradient_norm_are_those_of_the_step_before_clipping(tmp_path):
    """One step: the norm is that of the whole gradient, though the trainer clips it to a thousandth."""
    module = stage(strength=0.0)
    norms = []

    def keep(trainer, pl_module, optimizer):
        squares = [(parameter.grad**2).sum() for parameter in pl_module.parameters() if parameter.grad is not None]
        norms.append((sum(squares).sqrt().item(), optimizer.param_groups[0]["lr"]))

    callback = lightning.Callback()
    callback.on_before_optimizer_step = keep
    run = trainer(tmp_path, max_steps=1, gradient_clip_val=1e-3, callbacks=[callback])
    run.fit(module, datamodule=data(module.model))
    shown = (run.callback_metrics["train/gradient_norm"].item(), run.callback_metrics["train/learning_rate"].item())
    assert shown == pytest.approx(norms[0])
    assert shown[0] > 1e-3
