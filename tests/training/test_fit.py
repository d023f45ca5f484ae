import json

import pytest

from src.launch.errors import InputError
from src.launch.machine import absent
from src.training.fit import trainer_of

# Lightning warns of short epochs, of batches without workers and the like.
pytestmark = pytest.mark.filterwarnings("ignore")
TRAINER = {"_target_": "lightning.Trainer", "_partial_": True, "accelerator": "cpu", "max_epochs": 1}


def trainer(callbacks_group=(), logger_group=(), **settings):
    config = {"trainer": {**TRAINER, **settings}, "callbacks": dict(callbacks_group), "logger": dict(logger_group)}
    return trainer_of(config, logger=False)


def test_callbacks_loggers_plugins_and_profiler_of_the_config_take_part_in_the_run(run, toy_arguments, tmp_path):
    pytest.importorskip("tensorboard")
    import stand_in_parts

    folder = tmp_path / "a"
    assert run(
        *toy_arguments, "callbacks=[learning_rate,early_stopping]", "callbacks.early_stopping.patience=1",
        "+callbacks.mine._target_=stand_in_parts.Told", f"+callbacks.mine.path={tmp_path / 'told'}",
        f"trainer.callbacks=[{{_target_:stand_in_parts.Told,path:{tmp_path / 'told_too'}}}]",
        "logger=[csv,tensorboard]", "trainer.logger={_target_:stand_in_parts.Log}", "trainer.profiler=simple",
        "trainer.plugins=[{_target_:stand_in_parts.CountedPrecision}]", "trainer.precision=null",
        "checkpointing.patience=null", "stage.lr=0.00001",
        f"hydra.run.dir={folder}", "trainer.max_epochs=30",
    ) == 0  # fmt: skip
    epochs = (tmp_path / "told").read_text().split()
    assert epochs == (tmp_path / "told_too").read_text().split()
    assert 2 <= len(epochs) < 30  # stopped early, as the learning rate falls and nothing gets better any more
    rows = (folder / "metrics.csv").read_text()
    assert ",lr-AdamW," in rows
    assert "train/loss" in (folder / "csv" / "metrics.csv").read_text()
    assert list((folder / "tensorboard").glob("events*"))
    assert "train/loss" in json.loads((folder / "log.json").read_text())
    assert "Profiler Report" in (folder / "fit-profile.txt").read_text()
    assert stand_in_parts.CountedPrecision.passes == 6 * len(epochs)


def test_averaged_weights_are_kept_and_tested(run, toy_arguments, tmp_path):
    import torch

    average = "+callbacks.mean={_target_: lightning.pytorch.callbacks.EMAWeightAveraging, decay: 0.5}"
    told = [*toy_arguments, average, f"hydra.run.dir={tmp_path / 'a'}"]
    assert run(*told, "trainer.max_epochs=1") == 0
    kept = torch.load(tmp_path / "a" / "checkpoints" / "last.ckpt", weights_only=True)
    name, mean = next(iter(kept["state_dict"].items()))
    assert not torch.equal(mean, kept["current_model_state"][name])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"plugins": [{"_target_": "lightning.pytorch.plugins.TorchCheckpointIO"}]},
      "TorchCheckpointIO would write checkpoints that a kill can leave half written"),
     ({"callbacks_group": {"mean": {"_target_": "lightning.pytorch.callbacks.StochasticWeightAveraging",
                                    "swa_lrs": 0.1}}}, "would never be tested.\nType:  '+callbacks.mean={"),
     ({"profiler": "slow"}, "trainer.profiler=slow: I know simple, advanced, pytorch"),
     ({"logger_group": {"mine": {"_target_": "stand_in_parts.NeedsWhatIsNotHere"}}}, "Install it, or choose another"),
     ({"callbacks_group": {"early": {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "x",
                                     "mode": "up"}}}, "`mode` can be min, max, got up")],
    ids=["checkpoint plugin", "no mean", "profiler", "not installed", "callback"],
)  # fmt: skip
def test_what_the_trainer_cannot_take_up_is_refused_before_anything_is_made(toy_arguments, settings, message):
    with pytest.raises(InputError) as caught:
        trainer(**settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "advice"),
    [({"strategy": "fsdp"}, "type trainer.strategy=sharded (FSDP2)"),
     ({"strategy": "deepspeed_stage_3"}, "type trainer.strategy=sharded (FSDP2)"),
     ({"strategy": {"_target_": "lightning.pytorch.strategies.FSDPStrategy"}}, "trainer.strategy=FSDPStrategy: "),
     ({"strategy": "ddp_spawn"}, "for several devices type ddp or sharded"),
     ({"strategy": "shardedd"}, "I know auto, ddp,"),
     ({"accelerator": "mps"}, "there is no Apple GPU here; type trainer.accelerator=cpu"),
     ({"accelerator": "tpu"}, "I know auto, cpu, cuda, gpu, mps"),
     ({"strategy": {"find_unused_parameters": True}}, "is no node; type 'trainer.strategy={_target_: "),
     ({"callbacks": [3]}, "trainer.callbacks: 3 is no node; type 'trainer.callbacks={_target_: <class>, ...}'"),
     ({"callbacks": {"patience": 3}}, "trainer.callbacks: {'patience': 3} is no node"),
     ({"fast_dev_run": True}, "type trainer.max_steps=1 trainer.limit_val_batches=1 trainer.limit_test_batches=1"),
     ({"limit_test_batches": 0}, "nobody would be tested"),
     ({"limit_train_batches": 0}, "to test the weights as they start type trainer.max_epochs=0"),
     ({"enable_checkpointing": False}, "type checkpointing.every_steps=null"),
     ({"barebones": True}, "trainer.barebones=true: best.ckpt is what is tested"),
     ({"default_root_dir": "x"}, "type hydra.run.dir=<folder> instead"),
     ({"overfit_batches": 2}, "trainer.overfit_batches=2: each epoch goes on with other examples"),
     ({"reload_dataloaders_every_n_epochs": 1}, "new batches would begin with the first epoch's draws again"),
     ({"use_distributed_sampler": True}, "the batches share the users out over the devices already"),
     ({"accelerator": "cpu", "precision": "16-mixed"}, "a processor has no float16"),
     ({"num_nodes": 2}, "type on each  torchrun --nnodes=2 --nproc-per-node=<devices>"),
     ({"accelerator": []}, "trainer.accelerator=[]: I know auto"),
     ({"strategy": []}, "trainer.strategy=[]: I know auto"),
     ({"logger": False}, "type logger=none for nothing else"), ({"logger": True}, "'logger=[wandb,tensorboard]'")],
    ids=str,
)  # fmt: skip
def test_what_a_run_of_ours_cannot_do_is_refused_with_advice(settings, advice, monkeypatch):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    (fault,) = absent({"trainer": settings}, multirun=False)
    assert advice in fault


@pytest.mark.parametrize(
    ("typed", "message"),
    [(["callbacks=[early_stopping]", "callbacks.early_stopping.monitor=val/nothing"], "metric `val/nothing` which is"),
     (["trainer.limit_val_batches=0.1"], "Try at least `limit_val_batches=0.5`"),
     (["trainer.limit_test_batches=0.4"], "trainer.limit_test_batches=0.4: nobody would be tested, of 2 batch(es)."),
     (["trainer.val_check_interval=100"], "must be less than or equal to the number of the training batches (6)")],
    ids=["metric", "share", "tested", "interval"],
)  # fmt: skip
def test_what_shows_once_there_are_data_and_metrics_is_told_without_a_traceback(
    run, toy_arguments, tmp_path, typed, message
):
    assert run(*toy_arguments, *typed, f"hydra.run.dir={tmp_path / 'a'}") == 2
    log = (tmp_path / "a" / "run.log").read_text()
    assert message in log
    assert "Traceback" not in log


@pytest.mark.parametrize("strategy", ["auto", "ddp", "ddp_find_unused_parameters_true", "sharded", None])
def test_what_a_run_of_ours_can_do_is_let_pass(strategy):
    assert not list(absent({"trainer": {"strategy": strategy, "accelerator": "cpu"}}, multirun=False))
