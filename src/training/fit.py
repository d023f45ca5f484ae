"""What every task that trains does: fix what is random, fit from the last checkpoint, log."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.launch.config import build
from src.launch.errors import InputError
from src.launch.record import Record

if TYPE_CHECKING:
    import lightning

    from src.training.checkpoint import Checkpoints


def use_processor(config: dict[str, Any]) -> None:
    """Fix how PyTorch computes: its threads, and how exact products of float32 matrices are."""
    import torch

    torch.set_num_threads(config["threads"])
    torch.set_float32_matmul_precision(config["matmul_precision"])


def prepare_training(config: dict[str, Any]) -> None:
    """Fix random numbers and threads, and silence what every start would say again."""
    import lightning  # seconds of imports that --help must not wait for
    import torch

    # Notes on devices and restored files at every start, and a warning of Lightning about itself.
    logging.getLogger("lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    warnings.filterwarnings("ignore", message=".*past_key_values.* is deprecated")  # pyproject.toml knows
    use_processor(config)
    lightning.seed_everything(config["seed"], verbose=False)
    trainer_of(config, logger=False, enable_checkpointing=False)  # refused now, not when all the rest is made
    # Else trainer.deterministic fills every new tensor before it is written to: some 2 to 5% of a small model's step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def trainer_of(config: dict[str, Any], **parts: Any) -> Any:
    """Build Lightning's trainer.

    Raises:
        InputError: Lightning refuses its settings.
    """
    if config["trainer"].get("strategy") == "sharded":
        from src.training.sharded import Sharded

        # What is put together for an evaluation is used in training again, which tensors of inference cannot be.
        parts |= {"strategy": Sharded(), "inference_mode": False}
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        return build(config["trainer"])(**parts)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"trainer: Lightning refuses these settings: {error}\n"
            "Mend them; what each may be is in conf/trainer/default.yaml and the documentation of lightning.Trainer."
        ) from error


@contextmanager
def fitted(
    stage: Any, data: Any, config: dict[str, Any], folder: Path, record: Record, sweep: str | None
) -> Iterator[tuple[lightning.Trainer, Checkpoints]]:
    """Train a stage; where the run folder holds ``checkpoints/last.ckpt``, go on from there.

    Args:
        stage: The Lightning module, with the weights that it starts from.
        data: The data module.
        config: The checked config.
        folder: The run folder.
        record: The run's record.
        sweep: Name of the sweep that the run is a job of, if any.

    Yields:
        Trainer and checkpoints behind the training; the logs stay open within the block.
    """
    from src.training.checkpoint import AtomicCheckpointIO
    from src.training.tracking import ProgressBar, open_logs

    checkpoints = build(config["checkpointing"])(folder / "checkpoints")
    checkpoint_io = AtomicCheckpointIO()
    start = checkpoints.last if checkpoints.last.is_file() else None
    done_steps = checkpoint_io.load_checkpoint(start)["global_step"] if start else 0
    bars = [ProgressBar()] if config["trainer"].get("enable_progress_bar", True) else []
    context = {"config": config, "group": sweep or config["name"], "sweep": sweep, "record": record}
    with open_logs(folder, build(config["logger"]), done_steps=done_steps, **context) as logs:
        parts = {"callbacks": [checkpoints, *bars], "logger": logs, "plugins": [checkpoint_io]}
        trainer = trainer_of(config, default_root_dir=folder, **parts)
        record.lap("prepare")
        trainer.fit(stage, datamodule=data, ckpt_path=start)
        record.lap("fit", total=checkpoints.fit_seconds)
        record.update(steps=trainer.global_step)
        yield trainer, checkpoints
