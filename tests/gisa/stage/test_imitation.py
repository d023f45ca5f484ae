"""The imitation stage on a small real model: what is learnt and what is not, packing, checkpoints."""

import lightning
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from src.gisa.batches.demonstrations import Demonstration, Demonstrations
from src.gisa.chat.format import Marked
from src.gisa.stage.imitation import ImitationStage
from src.launch.errors import InputError
from src.model.causal_lm import from_pretrained
from tests.gisa.batches.test_data import SUITE, data
from tests.gisa.chat_models import PLAIN, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_folder(tmp_path_factory.mktemp("model"), PLAIN))


def model(folder, lora=None):
    return from_pretrained((), name=folder, dtype="float32", gradient_checkpointing=False, lora=lora, seed=1)


def made(network, kind=ImitationStage, **changes):
    settings = {"learning_rate": 1e-2, "weight_decay": 0.0, "warmup_ratio": 0.1, "frozen_blocks": 0, "init_from": None}
    module = kind(model=network, seed=1, **{**settings, **changes})
    module.initialise()
    return module


def stage(network, **changes):
    module = made(network, **changes)
    module._log_training = lambda values: None  # outside a trainer
    module._share_of_positions = lambda count: 1.0
    return module


def small_demonstrations(count=6):
    """Six to 26 tokens; three in a row are trained, and the last."""
    made = []
    for at in range(count):
        tokens = [(7 * at + 3 * place) % 250 for place in range(6 + 4 * at)]
        trained = [place in (2, 3, 4, len(tokens) - 1) for place in range(len(tokens))]
        made.append(Demonstration(f"q{at}", 1.0, Marked("", tokens, trained, [])))
    return Demonstrations(made, SUITE)


def gradients(module, batch):
    module.zero_grad()
    loss = module.training_step(batch, 0)
    loss.backward()
    return loss.detach(), {name: one.grad.clone() for name, one in module.named_parameters() if one.grad is not None}


def batch_of(packed=True, change=None):
    made = small_demonstrations()
    if change is not None:
        change(made.demonstrations)
    return data(made, packed=packed, validation_questions=1).batch(made.demonstrations)


def test_loss_and_gradients_are_those_of_plain_cross_entropy_with_all_other_targets_left_out(folder):
    """The slow way: each demonstration by itself, logits everywhere, labels of -100 where nothing is learnt."""
    module = stage(model(folder).eval())
    loss, found = gradients(module, batch_of())
    module.zero_grad()
    logits, labels = [], []
    for demonstration in small_demonstrations().demonstrations:
        tokens = torch.tensor([demonstration.marked.tokens])
        logits.append(module.model.network(tokens).logits[0, :-1])
        labels.append(tokens[0, 1:].masked_fill(~torch.tensor(demonstration.marked.trained[1:]), -100))
    reference = F.cross_entropy(torch.cat(logits), torch.cat(labels), ignore_index=-100)
    reference.backward()
    torch.testing.assert_close(loss, reference.detach())
    trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
    for name, parameter in trained.items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
    assert {name for name, _ in module.named_parameters()} - {*trained} == {"model.network.model.embed_tokens.weight"}


def test_few_logits_at_a_time_give_the_loss_and_gradients_of_all_at_once(folder, monkeypatch):
    loss, whole = gradients(stage(model(folder).eval()), batch_of())
    read = []
    monkeypatch.setattr("src.gisa.stage.imitation._LOGITS", 3 * 259)  # of a vocabulary of 259: three tokens at a time
    module = stage(model(folder).eval())
    plainly = module.model.head
    module.model.head = lambda states: read.append(len(states)) or plainly(states)
    part, found = gradients(module, batch_of())
    assert read[: len(read) // 2] == [3] * 8  # 6 demonstrations of 4 trained tokens; and once more in the backward pass
    torch.testing.assert_close(part, loss)
    for name, gradient in whole.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_no_gradient_is_left_when_the_next_step_begins(folder, tmp_path):
    class Watch(lightning.Callback):
        left = []

        def on_train_batch_start(self, trainer, module, *_):
            self.left.append([one.grad for one in module.parameters() if one.grad is not None])

    fit(folder, made(model(folder)), tmp_path, callbacks=[Watch()])
    assert Watch.left == [[]] * 4


def test_frozen_blocks_learn_nothing_and_the_others_as_without(folder):
    free, frozen = (stage(model(folder).eval(), frozen_blocks=count) for count in (0, 1))
    (loss, all_of_them), (same, found) = gradients(free, batch_of()), gradients(frozen, batch_of())
    assert torch.equal(loss, same)
    assert {name for name in all_of_them if ".layers.0." not in name} == found.keys() != all_of_them.keys()
    for name, gradient in found.items():
        assert torch.equal(gradient, all_of_them[name])


@pytest.mark.parametrize("count", [-1, 2])
def test_a_number_of_blocks_that_leaves_none_to_learn_is_refused(folder, count):
    with pytest.raises(InputError, match=f"stage.frozen_blocks={count}: the model has 2 blocks; .* from 0 to 1"):
        stage(model(folder), frozen_blocks=count)


def test_states_that_predict_untrained_tokens_get_no_gradient_and_all_others_do(folder):
    module = stage(model(folder).eval())
    states = []

    def keep(_, __, output):
        output.last_hidden_state.retain_grad()
        states.append(output.last_hidden_state)

    handle = module.model.decoder.register_forward_hook(keep)
    batch = batch_of()
    gradients(module, batch)
    handle.remove()
    reached = states[0].grad.abs().sum(2) > 0
    assert torch.equal(reached, batch["rows"])
    assert 0 < int(batch["rows"].sum()) == 6 * 4 < batch["rows"].numel() / 3


def test_what_comes_behind_the_last_trained_token_changes_nothing(folder):
    def change(demonstrations):
        for demonstration in demonstrations:
            demonstration.marked.trained[-1] = False

    def change_more(demonstrations):
        change(demonstrations)
        for demonstration in demonstrations:
            demonstration.marked.tokens[-1] = 1

    module = stage(model(folder).eval())
    loss, first = gradients(module, batch_of(change=change))
    other, second = gradients(module, batch_of(change=change_more))
    assert torch.equal(loss, other)
    assert all(torch.allclose(first[name], second[name], atol=1e-7) for name in first)


def test_demonstrations_that_share_a_row_give_the_loss_of_rows_of_their_own(folder):
    module = stage(model(folder).eval())
    loss, first = gradients(module, batch_of(packed=True))
    other, second = gradients(module, batch_of(packed=False))
    assert len(batch_of(packed=True)["input_ids"]) < len(batch_of(packed=False)["input_ids"])
    torch.testing.assert_close(loss, other)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-6)


def fit(folder, module, path, *, count=6, ckpt_path=None, **settings):
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=path, log_every_n_steps=1, max_epochs=2,
        **settings,
    )  # fmt: skip
    loader = data(small_demonstrations(count), batch_size=2, validation_questions=2)
    trainer.fit(module, datamodule=loader, ckpt_path=ckpt_path)
    return trainer, loader


def test_validation_counts_by_token_and_by_demonstration(folder, tmp_path):
    """Against the means over all held-out demonstrations, worked out one by one."""
    module = made(model(folder))
    trainer, loader = fit(folder, module, tmp_path)
    losses, right, whole = [], [], []
    for demonstration in loader.validation:
        batch = loader.batch([demonstration])
        with torch.no_grad():
            logits = module.model.eval().network(batch["input_ids"]).logits[0, :-1][batch["rows"][0, :-1]]
        losses += F.cross_entropy(logits, batch["target"], reduction="none").tolist()
        hits = (logits.argmax(1) == batch["target"]).tolist()
        right += hits
        whole.append(all(hits))
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert metrics["val/loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert metrics["val/token_accuracy"] == pytest.approx(sum(right) / len(right))
    assert metrics["val/demonstration_accuracy"] == pytest.approx(sum(whole) / len(whole))
    assert {"train/loss", "train/token_accuracy"} <= metrics.keys()


def test_a_checkpoint_goes_on_in_a_second_training_that_remembers_the_first(folder, tmp_path):
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0}
    module = made(model(folder, lora))
    trainer, _ = fit(folder, module, tmp_path)
    path = tmp_path / "first.ckpt"
    trainer.save_checkpoint(path)
    kept = torch.load(path, weights_only=True)
    assert all("lora" in name for name in kept["state_dict"])
    assert kept["manifest"]["questions"].keys() == {f"q{at}" for at in range(6)}
    kept["manifest"]["questions"] = {"q77": "digest"}
    torch.save(kept, path)
    second = stage(model(folder, lora), init_from=str(path))
    for name, weight in kept["state_dict"].items():
        assert torch.equal(second.state_dict()[name], weight)
    second = made(model(folder, lora), init_from=str(path))
    trainer, _ = fit(folder, second, tmp_path)
    assert second.manifest["questions"].keys() == {"q77", *(f"q{at}" for at in range(6))}
    with pytest.raises(InputError, match="holds another model"):
        stage(model(folder), init_from=str(path))


@pytest.mark.parametrize(
    "lora", [{"rank": 2, "alpha": 4, "dropout": 0.0}, None], ids=["adapters", "all but embeddings"]
)
def test_weights_that_were_trained_beside_another_model_of_the_same_shape_are_refused(folder, tmp_path, lora):
    """What is frozen is in no checkpoint; bfloat16 is the same model."""
    trainer, _ = fit(folder, made(model(folder, lora)), tmp_path)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    made(model(folder, lora).to(torch.bfloat16), init_from=str(tmp_path / "first.ckpt"))
    other = model(folder, lora)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.1)
    with pytest.raises(InputError, match=r"trained beside other frozen weights, .*\nCompose the same model.name"):
        made(other, init_from=str(tmp_path / "first.ckpt"))


def test_a_start_may_freeze_blocks_that_were_trained_before(folder, tmp_path):
    trainer, _ = fit(folder, made(model(folder)), tmp_path)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    made(model(folder), frozen_blocks=1, init_from=str(tmp_path / "first.ckpt"))


def test_a_training_is_not_gone_on_with_on_other_questions(folder, tmp_path):
    trainer, _ = fit(folder, made(model(folder)), tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    fit(folder, made(model(folder)), tmp_path, ckpt_path=tmp_path / "last.ckpt")
    with pytest.raises(InputError, match="others than those that this run has begun with"):
        fit(folder, made(model(folder)), tmp_path, count=5, ckpt_path=tmp_path / "last.ckpt")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("algorithm", [None, "value"])
def test_gradients_are_clipped_before_a_fused_step(folder, tmp_path, precision, algorithm):
    class Watched(ImitationStage):
        def configure_gradient_clipping(self, *settings, **more):
            super().configure_gradient_clipping(*settings, **more)
            gradient = torch.cat([one.grad.flatten() for one in self.parameters() if one.grad is not None])
            clipped.append(float(gradient.abs().max() if algorithm else gradient.norm()))

    clipped = []
    module = made(model(folder), Watched)
    settings = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": algorithm}
    trainer, _ = fit(folder, module, tmp_path, precision=precision, **settings)
    assert all(group["fused"] for group in trainer.optimizers[0].param_groups)
    assert clipped == pytest.approx([1e-3] * 4, rel=1e-2)
