"""What a config asks for that this machine does not have, or that a trainer of ours cannot do: refused with advice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from annotated_types import Ge, Gt, Le, MinLen

from src.launch.account import has_key, host, mode_of
from src.launch.record import older_version
from src.launch.values import MISSING, Count, Share, Weight, Whole

_NOT_IN_PROJECTS = "/\\#?%:"
_MOST_THREADS = 1024  # with many more the process dies without a word
_STRATEGIES = (
    *("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false", "sharded"),
    "single_device",
)
Precision = Literal[  # auto is ours, see ``precision``; of the others, Lightning's, bf16-mixed and 32-true are auto's
    "auto", "32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true", "transformer-engine",
    "transformer-engine-float16", "64", "32", "16", "bf16", 64, 32, 16,
]  # fmt: skip
_LAUNCHERS = ("WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "SLURM_JOB_ID", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE")
_ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")
_TOLD_BY_THE_RUN = {
    "optimizer": {
        "params": "the trained weights of the model",
        "lr": "type stage.learning_rate=...",
        "weight_decay": "type stage.weight_decay=...",
    },
    "scheduler": {
        "optimizer": "that of the optimizer group",
        "num_warmup_steps": "type stage.warmup_ratio=<share of all steps>",
        "num_training_steps": "type trainer.max_epochs=... or trainer.max_steps=...",
    },
}
"""What a stage tells optimiser and schedule, whatever their own groups say, and where that comes from."""


def absent(config: Mapping[str, Any], multirun: bool) -> Iterator[str]:
    """Name combinations that are known to break, and paths and devices that are absent."""
    trainer, logger, stage, evaluator = (config.get(key) or {} for key in ("trainer", "logger", "stage", "evaluator"))
    if multirun and (trainer.get("devices") not in (1, "1", None) or "ddp" in str(trainer.get("strategy"))):
        yield (
            f"trainer: several devices (devices={trainer.get('devices')}, strategy={trainer.get('strategy')}) in a "
            "multirun would start its jobs over in every process. Give each job one device (trainer.devices=1 "
            "trainer.strategy=auto), start one `torchrun --nproc-per-node=N -m src.run ...` a job, or use one of "
            "Hydra's launcher plugins"
        )
    if isinstance(config.get("threads"), int) and config["threads"] > _MOST_THREADS:
        yield f"threads={config['threads']}: more than PyTorch can start; I need one of at most {_MOST_THREADS}"
    yield from trainer_faults(trainer)
    yield from optimiser_faults(config)
    if "mode" in logger and mode_of(logger["mode"]) == "online" and not has_key():
        login = "wandb login" if host() == "https://api.wandb.ai" else f"wandb login --host {host()}"
        yield (
            f"logger.mode=online: no key of Weights & Biases for {host()}; run `{login}` once, or type "
            "logger.mode=offline"
        )
    if "mode" in logger:
        yield from _not_on_wandb(str(logger.get("project")), logger.get("tags"))
    starts = {f"stage.{key}": stage.get(key) for key in ("init_from", "reward_from")}
    for key, named in (starts | {"evaluator.reward_from": evaluator.get("reward_from")}).items():
        for start in named if isinstance(named, list) else [named]:
            if isinstance(start, str) and start != MISSING and not Path(start).is_file():
                yield f"{key}={start}: no such file; needed: checkpoints/best.ckpt of a run{_within(key, start)}"
    # Not of `reward_from`: collaborative models of before are read as ever.
    for key, path in (("checkpoint", config.get("checkpoint")), ("stage.init_from", stage.get("init_from"))):
        if isinstance(path, str) and (older := older_version(Path(path).parent.parent)):
            yield f"{key}={path}: {older}"


def _not_on_wandb(project: str, tags: Any) -> Iterator[str]:
    """Name what the client of W&B refuses."""
    if set(project) & set(_NOT_IN_PROJECTS):
        yield f"logger.project={project}: W&B takes no name with one of {' '.join(_NOT_IN_PROJECTS)}"
    if len(project) > 128:
        yield f"logger.project={project}: W&B takes no name of more than 128 letters"
    for tag in tags if isinstance(tags, list) else ():
        if isinstance(tag, str) and not 1 <= len(tag) <= 64:
            yield f"logger.tags: W&B takes tags of 1 to 64 letters, not {tag!r}"


def _within(setting: str, start: str) -> str:
    """Return what to type where a folder is named whose checkpoint is meant, or a run was never validated."""
    named = Path(start)
    best = next((path for path in (named / "checkpoints" / "best.ckpt", named / "best.ckpt") if path.is_file()), None)
    if best is None and named.name == "best.ckpt" and (last := named.with_name("last.ckpt")).is_file():
        never = "That run was never validated (trainer.check_val_every_n_epoch?)"
        return f". {never}; for its last weights type {setting}={last}"
    return f"; type {setting}={best}" if best else ""


class TrainerRanges(TypedDict, total=False):
    """Settings that Lightning takes out of range, and stumbles over later."""

    accumulate_grad_batches: Count
    check_val_every_n_epoch: Count | None
    devices: Count | Literal[-1] | Annotated[list[Whole], MinLen(1)] | str
    gradient_clip_val: Weight | None
    log_every_n_steps: Whole | None
    limit_train_batches: Count | Share | None
    limit_val_batches: Whole | Share | None
    limit_test_batches: Whole | Share | None
    val_check_interval: Count | Annotated[float, Gt(0), Le(1)] | None
    overfit_batches: Whole | Share
    max_epochs: Annotated[int, Ge(-1)] | None
    max_steps: Annotated[int, Ge(-1)]
    min_epochs: Whole | None
    min_steps: Whole | None
    num_nodes: Count
    num_sanity_val_steps: Annotated[int, Ge(-1)] | None
    precision: Precision | None


class EarlyStoppingRanges(TypedDict, total=False):
    """Likewise, of the callback that stops a training."""

    patience: Whole


def trainer_faults(trainer: Mapping[str, Any]) -> Iterator[str]:
    """Name what a trainer of ours cannot do, by the arguments that ask for it."""
    yield from _strategy_faults(trainer.get("strategy"))
    yield from _device_faults(trainer.get("accelerator"), trainer.get("precision"))
    for key in ("callbacks", "plugins", "logger", "profiler", "strategy"):
        given = trainer.get(key)
        for one in given if isinstance(given, list) else [given] if isinstance(given, dict) else []:
            if not isinstance(one, dict) or "_target_" not in one:
                yield f"trainer.{key}: {one!r} is no node; type 'trainer.{key}={{_target_: <class>, ...}}'"
    for key, is_refused, reason in _REFUSED:
        if is_refused(trainer.get(key)):
            yield f"trainer.{key}{reason.format(str(trainer[key]).lower())}"


def _strategy_faults(strategy: Any) -> Iterator[str]:
    named = strategy.get("_target_") if isinstance(strategy, dict) else "auto" if strategy is None else strategy
    name = str(named).rpartition(".")[2] if isinstance(strategy, dict) else str(named)
    if name.startswith(("fsdp", "deepspeed", "FSDP", "DeepSpeed", "ModelParallel")):
        yield (
            f"trainer.strategy={name}: weights that are split over devices are ours to put together again in a "
            "checkpoint, and this one would not let us; type trainer.strategy=sharded (FSDP2), which splits weights, "
            "gradients and optimiser state likewise"
        )
    elif not isinstance(strategy, dict) and name not in _STRATEGIES:
        yield f"trainer.strategy={strategy}: I know {', '.join(_STRATEGIES)}; for several devices type ddp or sharded"


def _device_faults(accelerator: Any, precision: Any) -> Iterator[str]:
    is_node = isinstance(accelerator, dict) and "_target_" in accelerator
    if accelerator is not None and not is_node and accelerator not in _ACCELERATORS:
        yield f"trainer.accelerator={accelerator}: I know {', '.join(_ACCELERATORS)}; type one of them"
    elif isinstance(accelerator, str) and accelerator in ("cuda", "gpu", "mps"):
        import torch

        here = torch.backends.mps.is_available() if accelerator == "mps" else torch.cuda.is_available()
        if not here and not (accelerator == "gpu" and torch.backends.mps.is_available()):
            device = "Apple GPU" if accelerator == "mps" else "CUDA"
            yield f"trainer.accelerator={accelerator}: there is no {device} here; type trainer.accelerator=cpu"
    if accelerator == "cpu" and str(precision).startswith("16"):
        yield (
            f"trainer.precision={precision}: a processor has no float16, and bf16-mixed would be taken without a word "
            "in the config; type trainer.precision=auto"
        )


_CHECKPOINTS = (
    "={}: best.ckpt is what is tested, and last.ckpt what a killed run goes on from; leave it out. For fewer writes "
    "type checkpointing.every_steps=null, which writes at the end of an epoch only"
)
# Arguments of a trainer, which values of them are refused, and what is said behind their names.
_REFUSED: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    (
        "fast_dev_run", bool,
        ": it would log nothing; for a short try type trainer.max_steps=1 trainer.limit_val_batches=1 "
        "trainer.limit_test_batches=1",
    ),
    (
        "limit_test_batches", lambda value: value == 0,
        "=0: nobody would be tested; type 1 for one batch, or leave it out",
    ),
    (
        "limit_train_batches", lambda value: value == 0,
        "=0: nothing would be trained; to test the weights as they start type trainer.max_epochs=0",
    ),
    ("enable_checkpointing", lambda value: value is False, _CHECKPOINTS),
    ("barebones", bool, _CHECKPOINTS),
    (
        "overfit_batches", bool,
        "={}: each epoch goes on with other examples, so that none would be learnt by heart; type "
        "trainer.limit_train_batches=... for short epochs",
    ),
    (
        "num_nodes", lambda value: isinstance(value, int) and value > 1 and not any(map(os.environ.get, _LAUNCHERS)),
        "={0}: nobody has started the processes of the other machines, and I would wait for them; type on each  "
        "torchrun --nnodes={0} --nproc-per-node=<devices> --node-rank=<its number> --master-addr=<the first> -m "
        "src.run ...  or start it by Slurm",
    ),
    (
        "use_distributed_sampler", bool,
        "=true: the batches share the users out over the devices already, each once; leave it out",
    ),
    (
        "reload_dataloaders_every_n_epochs", bool,
        ": new batches would begin with the first epoch's draws again; leave it out, as every epoch is drawn anew",
    ),
    (
        "default_root_dir", lambda value: value is not None,
        ": a run writes into its own folder; type hydra.run.dir=<folder> instead",
    ),
    (
        "logger", lambda value: isinstance(value, bool),
        "={}: metrics.csv is always written; type logger=none for nothing else, or 'logger=[wandb,tensorboard]' for "
        "more",
    ),
)  # fmt: skip


def optimiser_refusals(config: Mapping[str, Any], build: Callable[[Any], Any]) -> Iterator[str]:
    """Name what optimiser and schedule themselves refuse, tried on a single weight.

    Args:
        config: The config, whose nodes are found in order so far.
        build: Calls a target.
    """
    if not (config.get("optimizer") or config.get("scheduler")):
        return
    import torch

    weight = torch.nn.Parameter(torch.zeros(1, 1))
    told: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        "optimizer": (([weight],), {"lr": 0.1}),
        "scheduler": ((), {"optimizer": torch.optim.SGD([weight]), "num_warmup_steps": 1, "num_training_steps": 9}),
    }
    for group, (positional, named) in told.items():
        try:
            if config.get(group):
                build(config[group])(*positional, **named)
        except Exception as error:  # other people's code, which is given anything
            usual = "adamw" if group == "optimizer" else "cosine"
            yield f"{group}: {error}. Mend its settings, or type {group}={usual}"


def optimiser_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """Name settings of optimiser and schedule in whose place every stage puts its own."""
    for group, told in _TOLD_BY_THE_RUN.items():
        for key in (config.get(group) or {}).keys() & told.keys():
            yield f"{group}.{key}={config[group][key]}: a run tells it that itself; {told[key]}, and leave this one out"
