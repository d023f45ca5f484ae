"""What every task that trains does: fix what is random, fit from the last checkpoint, log."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.launch.config import build
from src.launch.errors import InputError
from src.launch.nodes import apart
from src.launch.record import Record
from src.launch.search import optimized_metric, running_trial

if TYPE_CHECKING:
    import lightning

    from src.training.checkpoint import Checkpoints


def use_processor(config: dict[str, Any]) -> None:
    """Fix how PyTorch computes: its threads, and how exact products of float32 matrices are."""
    import torch

    torch.set_num_threads(config["threads"])
    torch.set_float32_matmul_precision(config["matmul_precision"])


def prepare_training(config: dict[str, Any]) -> None:
    """Fix random numbers and threads, and refuse a trainer that cannot be built."""
    import lightning  # seconds of imports that --help must not wait for
    import torch

    use_processor(config)
    lightning.seed_everything(config["seed"], verbose=False)
    trainer_of(config, logger=False, enable_checkpointing=False)  # refused now, not when all the rest is made
    # Else trainer.deterministic fills every new tensor before it is written to: some 2 to 5% of a small model's step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def trainer_of(config: dict[str, Any], folder: Path | None = None, **parts: Any) -> Any:
    """Build Lightning's trainer with its own parts and those of the config.

    Args:
        config: The checked config.
        folder: Of the run; None to see only whether everything can be built.
        parts: Arguments that are the run's own; callbacks, plugins and loggers of the config stand behind them.

    Raises:
        InputError: Lightning refuses its settings, or what they name is not installed.
    """
    node = dict(config["trainer"])
    given = {key: node.pop(key, None) for key in ("callbacks", "plugins", "logger", "profiler")}
    if node.get("strategy") == "sharded":
        from src.training.sharded import Sharded

        # What is put together for an evaluation is used in training again, which tensors of inference cannot be.
        parts |= {"strategy": Sharded(), "inference_mode": False}
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import callbacks

    try:
        added = {key: [_built(one, folder) for one in _listed(given[key])] for key in ("callbacks", "plugins")}
        added["callbacks"] += [build(one) for one in (config.get("callbacks") or {}).values()]
        _refuse_rivals(added)
        loggers = [_built(one, folder) for one in [*split_loggers(config)[1], *_listed(given["logger"])]]
        if any(isinstance(one, callbacks.ProgressBar) for one in added["callbacks"]):  # in place of ours
            ours_too = parts.get("callbacks", [])
            parts["callbacks"] = [one for one in ours_too if not isinstance(one, callbacks.ProgressBar)]
        for key, ours in added.items():
            parts[key] = [*parts.get(key, []), *ours]
        if parts.get("logger"):
            for logger in loggers:
                logger.log_hyperparams(config)
            parts["logger"] = [*parts["logger"], *loggers]
        return build(node)(**parts, profiler=_profiler(given["profiler"], folder))
    except ModuleNotFoundError as error:
        raise InputError(f"trainer, callbacks or logger: {error}\nInstall it, or choose another one.") from error
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise _refusal(error) from error


def _refusal(error: Exception) -> InputError:
    return InputError(
        f"trainer: Lightning refuses these settings: {error}\n"
        "Mend them; what each may be is in conf/trainer/default.yaml and the documentation of lightning.Trainer."
    )


@contextmanager
def known_late() -> Iterator[None]:
    """Tell of settings whose fault shows once the data and the metrics are there as of those that show before.

    Raises:
        InputError: Lightning refuses them.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        yield
    except MisconfigurationException as error:
        raise _refusal(error) from error
    except (RuntimeError, ValueError) as error:
        if not str(error).strip().startswith(("Early stopping conditioned on metric", "`val_check_interval`")):
            raise
        raise _refusal(error) from error


def split_loggers(config: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the node of the dashboard that ``open_logs`` opens, if any, and those of other loggers."""
    flat, named = apart(config.get("logger") or {})
    ours = str(flat.get("_target_")).startswith("src.")
    return (flat if ours else {}), [*([] if ours or not flat else [flat]), *named.values()]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _built(node: Any, folder: Path | None) -> Any:
    """Build a node; where it writes follows from the run folder, unless it says so itself."""
    from hydra.utils import get_object

    if not isinstance(node, dict):
        return node
    accepted = inspect.signature(get_object(node["_target_"])).parameters
    places = dict.fromkeys(("save_dir", "dirpath"), str(folder or "."))  # None is written to yet
    settings = {key: value for key, value in node.items() if key != "_partial_"}  # of one that lacks its place
    return build({**{key: place for key, place in places.items() if key in accepted}, **settings})


def _profiler(given: Any, folder: Path | None) -> Any:
    """Build a profiler that writes ``fit-profile.txt`` and ``test-profile.txt`` into the run folder."""
    kinds = {"simple": "SimpleProfiler", "advanced": "AdvancedProfiler", "pytorch": "PyTorchProfiler"}
    if isinstance(given, str):
        if given not in kinds:
            raise InputError(f"trainer.profiler={given}: I know {', '.join(kinds)}, or a node with a _target_.")
        given = {"_target_": f"lightning.pytorch.profilers.{kinds[given]}", "filename": "profile"}
    return _built(given, folder)


def _refuse_rivals(added: dict[str, list[Any]]) -> None:
    """Refuse what would write checkpoints in another way than resuming, evaluating and exporting read them, or none."""
    from lightning.fabric.plugins import CheckpointIO
    from lightning.pytorch.callbacks import StochasticWeightAveraging

    if any(isinstance(one, StochasticWeightAveraging) for one in added["callbacks"]):
        raise InputError(
            "callbacks: StochasticWeightAveraging has its mean behind the last step only, in no checkpoint: it would "
            "never be tested.\nType:  '+callbacks.mean={_target_: lightning.pytorch.callbacks.WeightAveraging}'   "
            "or EMAWeightAveraging"
        )
    if rival := next((one for one in added["plugins"] if isinstance(one, CheckpointIO)), None):
        raise InputError(
            f"trainer.plugins: {type(rival).__name__} would write checkpoints that a kill can leave half written, in "
            "place of src.training.checkpoint.AtomicCheckpointIO. Leave it out."
        )


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
    from lightning.pytorch.callbacks import WeightAveraging

    from src.training.checkpoint import AtomicCheckpointIO, Pruning
    from src.training.tracking import ProgressBar, open_logs

    checkpoints = build(config["checkpointing"])(folder / "checkpoints")
    checkpoint_io = AtomicCheckpointIO()
    start = checkpoints.last if checkpoints.last.is_file() else None
    done_steps = checkpoint_io.load_checkpoint(start)["global_step"] if start else 0
    bars = [ProgressBar()] if config["trainer"].get("enable_progress_bar", True) else []
    dashboard = build(split_loggers(config)[0])
    context = {"config": config, "group": sweep or config["name"], "sweep": sweep, "record": record}
    with known_late(), open_logs(folder, dashboard, done_steps=done_steps, **context) as logs:
        trial = running_trial(folder)
        pruning = [Pruning(trial, optimized_metric(config) or checkpoints.monitor)] if trial else []
        parts = {"callbacks": [checkpoints, *bars, *pruning], "logger": logs, "plugins": [checkpoint_io]}
        trainer = trainer_of(config, folder, default_root_dir=folder, **parts)
        record.lap("prepare")
        trainer.fit(stage, datamodule=data, ckpt_path=start)
        record.lap("fit", total=checkpoints.fit_seconds)
        record.update(steps=trainer.global_step)
        # They would put the weights of the last step back in place of the averaged ones that a checkpoint has.
        trainer.callbacks = [one for one in trainer.callbacks if not isinstance(one, WeightAveraging)]
        yield trainer, checkpoints
