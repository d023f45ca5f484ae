"""What a config asks of this machine and does not find: devices, keys, files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from src.launch.account import has_key, host, mode_of
from src.launch.record import older_version
from src.launch.trainer import optimiser_faults, trainer_faults
from src.launch.values import MISSING

_NOT_IN_PROJECTS = "/\\#?%:"
_MOST_THREADS = 1024  # with many more the process dies without a word


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
    if "mode" in logger and set(str(logger.get("project"))) & set(_NOT_IN_PROJECTS):
        yield f"logger.project={logger['project']}: W&B takes no name with one of {' '.join(_NOT_IN_PROJECTS)}"
    starts = {f"stage.{key}": stage.get(key) for key in ("init_from", "reward_from")}
    for key, named in (starts | {"evaluator.reward_from": evaluator.get("reward_from")}).items():
        for start in named if isinstance(named, list) else [named]:
            if isinstance(start, str) and start != MISSING and not Path(start).is_file():
                yield f"{key}={start}: no such file; needed: checkpoints/best.ckpt of a run{_within(key, start)}"
    # Not of `reward_from`: collaborative models of before are read as ever.
    for key, path in (("checkpoint", config.get("checkpoint")), ("stage.init_from", stage.get("init_from"))):
        if isinstance(path, str) and (older := older_version(Path(path).parent.parent)):
            yield f"{key}={path}: {older}"


def _within(setting: str, start: str) -> str:
    """Return what to type where a folder is named whose checkpoint is meant, or a run was never validated."""
    named = Path(start)
    best = next((path for path in (named / "checkpoints" / "best.ckpt", named / "best.ckpt") if path.is_file()), None)
    if best is None and named.name == "best.ckpt" and (last := named.with_name("last.ckpt")).is_file():
        never = "That run was never validated (trainer.check_val_every_n_epoch?)"
        return f". {never}; for its last weights type {setting}={last}"
    return f"; type {setting}={best}" if best else ""
