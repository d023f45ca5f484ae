"""DPO, S-DPO and RosePO on a small real model: references, draws, oracle, resume, refusals."""

import math
from contextlib import nullcontext

import lightning
import numpy as np
import pytest
import torch

from src.ilrec.batches.pairs import PreferenceData
from src.ilrec.evaluator.ranking import RankingEvaluator
from src.ilrec.model.sequence_models import SASRec
from src.ilrec.prompt.ids import IdsPrompt
from src.ilrec.stage.post_training import other_weights
from src.ilrec.stage.preference import PreferenceStage
from src.launch.errors import InputError
from src.model.causal_lm import _byte_tokenizer, from_pretrained
from src.training.checkpoint import AtomicCheckpointIO, Checkpoints
from tests.ilrec.stage.test_fine_tuning import ITEMS, interactions, model, trainer
from tests.ilrec.stage.test_fine_tuning import data as windows
from tests.ilrec.stage.test_fine_tuning import stage as supervised_stage


def evaluator():
    return RankingEvaluator(ITEMS, num_beams=10, exclude_history=False, cutoffs=[5, 10])


def pairs(network, **changes):
    settings = {
        "negatives": "random",
        "num_negatives": 2,
        "similarity": None,
        "neighbours": 3,
        "prompts_per_epoch": None,
        "epochs_per_draw": None,
        "batch_size": 8,
    }
    prompt = IdsPrompt(network.tokenizer, ITEMS, max_history=4, stride=5)
    return PreferenceData(
        interactions=interactions(),
        prompt=prompt,
        seed=1,
        evaluation_batch_size=8,
        max_users=None,
        **{**settings, **changes},
    )


def stage(start, network=None, **changes):
    settings = {
        "seed": 1,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "warmup_ratio": 0.0,
        "objective": "dpo",
        "beta": 0.5,
        "reward_from": None,
        "temperature": 1.0,
        "init_from": str(start),
    }
    module = PreferenceStage(model=network or model(), evaluator=evaluator(), **{**settings, **changes})
    module.initialise()
    return module


def fit(folder, module, data=None, **settings):
    run = trainer(folder, **{"max_epochs": 1, **settings})
    run.fit(module, datamodule=data or pairs(module.model))
    return run


SOME = range(0, 140, 9)  # of 20 users' 7 training items, every window place among them


@torch.no_grad()
def one_by_one(module, data, epoch=0):
    """Sequence log-probability of every response to some pairs' prompts, one plain forward pass each."""
    network, draw = module.model.eval(), data.pairs(epoch)
    starts = np.repeat(draw.examples.start, np.diff(draw.offsets))
    scores = torch.zeros(len(draw.chosen), 1 + draw.rejected.shape[1])
    for n in SOME:
        history = data.interactions.training_sequence(int(draw.user[n]))[starts[n] : draw.label[n]]
        prompt = torch.from_numpy(data.prompt.prompt(history))
        for r, item in enumerate([draw.chosen[n], *draw.rejected[n]]):
            tokens = network.item_token_ids[torch.from_numpy(ITEMS.tokens[item])]
            log_p = network.causal_network(torch.cat([prompt, tokens])[None]).logits[0].log_softmax(-1)
            scores[n, r] = sum(log_p[len(prompt) - 1 + t, token] for t, token in enumerate(tokens))
    return scores[SOME]


@pytest.mark.parametrize(("objective", "value"), [("dpo", math.log(2)), ("sdpo", math.log(3))])
def test_before_the_first_step_policy_and_reference_agree_in_spite_of_dropout(tmp_path, supervised, objective, value):
    # Margins are 0: -log sigmoid(0) = log 2; S-DPO with two rejected items: softplus(log 2) = log 3.
    run = fit(tmp_path, stage(supervised, model(dropout=0.3), objective=objective, learning_rate=0.0))
    assert run.callback_metrics["train/loss"] == pytest.approx(value, abs=1e-5)
    assert run.callback_metrics["train/margin"] == pytest.approx(0, abs=1e-5)


def test_references_are_the_starting_models_scores_of_every_pair(tmp_path, supervised):
    module, data = stage(supervised), pairs(model())
    fit(tmp_path, module, data)
    start = stage(supervised)
    torch.testing.assert_close(module.draw["reference"][SOME], one_by_one(start, data), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(one_by_one(module, data), one_by_one(start, data), atol=1e-2)


def test_a_second_draw_is_scored_by_the_starting_weights_too(tmp_path, supervised):
    module, data = stage(supervised, learning_rate=1e-2), pairs(model(), epochs_per_draw=1)
    fit(tmp_path, module, data, max_epochs=3)
    weights = [parameter.clone() for parameter in module.model.parameters()]
    torch.testing.assert_close(
        module.draw["reference"][SOME], one_by_one(stage(supervised), data, epoch=2), rtol=1e-4, atol=1e-4
    )
    assert all(torch.equal(one, other) for one, other in zip(weights, module.model.parameters(), strict=True))


def test_references_of_one_draw_are_computed_once(tmp_path, supervised, monkeypatch):
    passes = []
    original = PreferenceStage._scores
    monkeypatch.setattr(PreferenceStage, "_scores", lambda self, epoch: passes.append(epoch) or original(self, epoch))
    fit(tmp_path, stage(supervised), max_epochs=3)
    assert passes == [0]


@pytest.mark.parametrize("objective", ["dpo", "sdpo"])
def test_training_prefers_the_chosen_items(tmp_path, supervised, objective):
    module = stage(supervised, objective=objective, learning_rate=1e-2)
    run = fit(tmp_path, module, max_epochs=6)
    logged = run.callback_metrics
    names = {"train/loss", "train/margin", "train/accuracy", "train/negatives"}
    names |= {"train/learning_rate", "train/gradient_norm"}
    assert {name for name in logged if name.startswith("train/")} == names
    assert logged["train/accuracy"] > 0.8  # one pair in seven has no history to tell by
    assert logged["train/margin"] > 1
    (metrics,) = run.test(module, datamodule=pairs(module.model), verbose=False)
    assert metrics["test/users"] == 20


def test_other_weights_trade_places_and_come_back_even_after_an_error(supervised):
    module = stage(supervised)
    own = {name: parameter.data_ptr() for name, parameter in module.named_parameters()}
    others = {name: torch.zeros_like(weight) for name, weight in module.starting_weights().items()}

    def within():
        with other_weights(module, others):
            assert all(not parameter.any() for parameter in module.parameters())
            raise KeyError

    with pytest.raises(KeyError):
        within()
    assert {name: parameter.data_ptr() for name, parameter in module.named_parameters()} == own


def test_own_answers_are_wrong_and_the_best_of_the_wrong_ones(tmp_path, supervised):
    module, data = stage(supervised), pairs(model(), negatives="own", num_negatives=1)
    fit(tmp_path, module, data)
    answers, draw = module.draw["answers"], data.pairs(0)
    assert (answers.numpy() != draw.chosen).all()
    # Greedy by hand for the first pairs: the best first code that has a wrong item, then the best wrong second code.
    start = stage(supervised).eval()
    starts = np.repeat(draw.examples.start, np.diff(draw.offsets))
    for n in range(12):
        history = data.interactions.training_sequence(int(draw.user[n]))[starts[n] : draw.label[n]]
        ids, allowed = torch.from_numpy(data.prompt.prompt(history)), set(range(20)) - {int(draw.chosen[n])}
        for level in range(2):
            logits = start.model.causal_network(ids[None]).logits[0, -1][start.model.item_token_ids]
            token = max({ITEMS.tokens[item, level] for item in allowed}, key=lambda one, z=logits: float(z[one]))
            allowed = {item for item in allowed if ITEMS.tokens[item, level] == token}
            ids = torch.cat([ids, start.model.item_token_ids[token, None]])
        assert allowed == {int(answers[n])}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """A collaborative model's checkpoint, and the model."""
    sizes = {"hidden_size": 8, "inner_size": 16, "num_layers": 1, "num_heads": 2}
    network = SASRec([""] * 20, **sizes, dropout=0.0, max_history=6, seed=0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(5)
    path = tmp_path_factory.mktemp("oracle") / "best.ckpt"
    weights = {f"model.{name}": weight for name, weight in network.state_dict().items()}
    torch.save({"model": network.spec, "dataset": "f" * 64, "state_dict": weights}, path)
    return path, network.eval()


def test_smoothing_is_the_oracles_doubt_of_every_pair(tmp_path, supervised, oracle):
    path, network = oracle
    module, data = stage(supervised, objective="rosepo", reward_from=str(path), temperature=2.0), pairs(model())
    run = fit(tmp_path, module, data)
    draw = data.pairs(0)
    assert run.callback_metrics["train/loss"] > 0
    for n in range(len(draw.chosen)):
        # A history of at most three items fits into whichever window it is read with.
        history = torch.from_numpy(data.interactions.training_sequence(int(draw.user[n]))[: draw.label[n]])
        if len(history) == 0:
            assert (module.draw["smoothing"][n] == 0).all()
        elif len(history) <= 3:
            score = network.scores(network(history[None])[0, -1])
            doubt = torch.sigmoid((score[draw.rejected[n]] - score[draw.chosen[n]]) / 2.0)
            torch.testing.assert_close(module.draw["smoothing"][n], doubt, rtol=1e-4, atol=1e-4)


class Killed(BaseException):
    """Stands for a kill: nothing is written or tidied up after it."""


def resumable(folder, module, data, kill_at=None, resume=False, **settings):
    """Train with the run's own checkpoints, perhaps killed before a step, and return the module."""
    step = type(module).training_step

    def killing(batch, batch_idx):
        if module.global_step == kill_at:
            raise Killed
        return step(module, batch, batch_idx)

    module.training_step = killing
    checkpoints = Checkpoints(folder / "checkpoints", monitor="val/ndcg@10", every_steps=2)
    run = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        callbacks=[checkpoints],
        plugins=[AtomicCheckpointIO()],
        **settings,
    )
    start = checkpoints.last if resume and checkpoints.last.is_file() else None
    with nullcontext() if kill_at is None else pytest.raises(Killed):
        run.fit(module, datamodule=data, ckpt_path=start)
    return module


def assert_same_weights(one, other):
    for (name, weight), expected in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, expected), name


# 20 users with two windows each, 8 a batch: 5 steps an epoch; a checkpoint every 2 steps and at the end of an epoch.
@pytest.fixture(scope="module", params=[None, 1], ids=["one draw", "a draw each epoch"])
def fresh_and_whole(request, supervised, tmp_path_factory):
    """What makes a stage and its data anew, and the stage after a run that nothing interrupted."""

    def fresh():
        return stage(supervised, objective="sdpo"), pairs(
            model(), negatives="own", num_negatives=1, epochs_per_draw=request.param
        )

    return fresh, resumable(tmp_path_factory.mktemp("whole"), *fresh(), max_epochs=2)


@pytest.mark.parametrize("kill_at", [3, 5, 8])
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, fresh_and_whole, kill_at):
    fresh, whole = fresh_and_whole
    resumable(tmp_path / "broken", *fresh(), kill_at=kill_at, max_epochs=2)
    resumed = resumable(tmp_path / "broken", *fresh(), resume=True, max_epochs=2)
    assert_same_weights(resumed, whole)
    assert resumed.draw["key"] == whole.draw["key"]
    assert torch.equal(resumed.draw["reference"], whole.draw["reference"])


def test_a_start_is_needed_and_it_must_be_supervised(tmp_path, supervised):
    with pytest.raises(InputError, match=r"stage.init_from is not given(.|\n)*\+experiment=sft\nand name it:"):
        stage(supervised, init_from=None)
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}, "stage": "PreferenceStage", "model": {}}, other)
    with pytest.raises(InputError, match=r"holds the stage 'PreferenceStage', but I need 'FineTuningStage'"):
        stage(other)
    with pytest.raises(InputError, match=r"holds another model"):
        stage(supervised, model(hidden_size=32))


def test_rosepo_needs_an_oracle_of_the_same_data(tmp_path, supervised, oracle):
    with pytest.raises(InputError, match=r"stage.reward_from is not given(.|\n)*\+experiment=sasrec"):
        stage(supervised, objective="rosepo")
    stored = torch.load(oracle[0], weights_only=True)
    torch.save({**stored, "dataset": "0" * 64}, tmp_path / "other.ckpt")
    module = stage(supervised, objective="rosepo", reward_from=str(tmp_path / "other.ckpt"))
    with pytest.raises(InputError, match=r"was trained on the data set 000000000000"):
        fit(tmp_path, module)


@pytest.mark.parametrize("name", ["beta", "temperature"])
def test_settings_out_of_range_are_named(supervised, name):
    with pytest.raises(InputError, match=f"stage.{name}=0: I need a number above 0"):
        stage(supervised, **{name: 0})


def test_batches_without_pairs_are_refused(tmp_path, supervised):
    module = stage(supervised)
    with pytest.raises(InputError, match=r"PreferenceStage learns from pairs of items.\nType:  batches=pairs"):
        fit(tmp_path, module, windows(module.model))


def test_a_split_over_processes_is_refused(supervised):
    module = stage(supervised)
    module._device_mesh = object()  # as under trainer.strategy=sharded
    with pytest.raises(InputError, match=r"sharded: PreferenceStage cannot be split .*\nType:  trainer.strategy=ddp"):
        module.configure_model()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """Load a model with adapters, dropout and checkpointing, and the checkpoint of its supervised training."""
    folder = tmp_path_factory.mktemp("adapted")
    plain = model()
    plain.causal_network.resize_token_embeddings(len(plain.tokenizer) - len(ITEMS.vocabulary))
    plain.causal_network.save_pretrained(folder)
    _byte_tokenizer().save_pretrained(folder)

    def load():
        lora = {"rank": 2, "alpha": 4.0, "dropout": 0.3}
        return from_pretrained(
            ITEMS.vocabulary, name=str(folder), dtype="float32", gradient_checkpointing=True, lora=lora, seed=1
        )

    module = supervised_stage(load(), strength=0.0)
    run = trainer(folder, max_epochs=4)
    run.fit(module, datamodule=windows(module.model))
    run.save_checkpoint(folder / "best.ckpt")
    return load, folder / "best.ckpt"


def test_with_adapters_the_supervised_model_is_the_reference_and_not_the_bare_one(tmp_path, adapted):
    load, path = adapted
    module, data = stage(path, load(), learning_rate=1e-2), pairs(model(), epochs_per_draw=1)
    frozen = {name: weight.clone() for name, weight in module.named_parameters() if not weight.requires_grad}
    fit(tmp_path, module, data, max_epochs=2)
    start = stage(path, load())
    expected = one_by_one(start, data, epoch=1)
    torch.testing.assert_close(module.draw["reference"][SOME], expected, rtol=1e-4, atol=1e-4)
    with start.model.network.disable_adapter():
        assert not torch.allclose(one_by_one(start, data, epoch=1), expected, atol=1e-2)
    assert not torch.allclose(one_by_one(module, data, epoch=1), expected, atol=1e-2)
    for name, weight in module.named_parameters():
        assert name not in frozen or torch.equal(weight, frozen[name])
    # What takes the model's place to score the second draw: adapters and item rows, no second copy of the model.
    assert module.starting_weights().keys() == dict(module.named_parameters()).keys() - frozen.keys()


def test_checkpointing_stays_on_though_dropout_is_off(tmp_path, adapted):
    load, path = adapted
    module, calls = stage(path, load(), learning_rate=0.0), []
    module.model.decoder.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    run = fit(tmp_path, module, max_steps=1, limit_val_batches=0)
    assert sum(calls) == 2  # forward, and once more in the backward pass
    assert run.callback_metrics["train/margin"] == pytest.approx(0, abs=1e-5)
