"""What every stage that trains shares: random numbers, logging, optimiser and checkpoints of the trained weights."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from transformers import get_scheduler

from src.launch.config import build
from src.launch.errors import InputError
from src.launch.values import Seed, Share, Weight
from src.training.sharded import load_weights

BRING_BACK = "Bring the data of then back and resume the run, or type its command again for a run on the data of now."
_WHAT_TO_TYPE = "Type:  {}=outputs/<recipe>/<run>/checkpoints/best.ckpt"


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """What every stage that trains is told; those of a stage add their own, and configs name them all flatly.

    Attributes:
        seed: Seed of dropout; with the step number it fixes every random number of a step.
        learning_rate: Peak learning rate, dimensionless.
        weight_decay: Of matrices; vectors are not decayed.
        warmup_ratio: Share of the steps in which the learning rate rises, 0 to 1; then it goes as the schedule says.
    """

    seed: Seed
    learning_rate: Weight
    weight_decay: Weight
    warmup_ratio: Share


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Optimisation):
    """What a stage is told that may start from stored weights.

    Attributes:
        init_from: Checkpoint to take the weights from.
    """

    init_from: str | None


class TrainingStage(lightning.LightningModule):
    """A stage whose subclass brings ``training_step``.

    Args:
        model: The network; its ``spec`` says in plain values what it is.
        settings: Plain values; checkpoints hold them, flatly, as hyperparameters.

    Attributes:
        continues: Kind of stage whose checkpoints it starts from; None for its own.
        optimizer: Makes an optimiser of parameter groups and ``lr``.
        scheduler: Makes a schedule of an optimiser, ``num_warmup_steps`` and ``num_training_steps``.
    """

    optimizer: Callable[..., torch.optim.Optimizer] = partial(torch.optim.AdamW, fused=True)
    scheduler: Callable[..., Any] = partial(get_scheduler, "cosine")
    settings: Optimisation
    continues: str | None = None

    def __init__(self, model: Any, settings: Optimisation) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.save_hyperparameters(asdict(settings))
        self.kind = type(self).__name__  # splitting it over processes makes a subclass of another name
        self.strict_loading = False  # frozen weights are not in the checkpoint; `on_load_checkpoint` checks the rest

    def configure_model(self) -> None:
        """Refuse to be split over processes.

        Raises:
            InputError: the trainer asks for it.
        """
        if self.device_mesh is not None:
            raise InputError(
                f"trainer.strategy=sharded: {self.kind} cannot be split over processes.\nType:  trainer.strategy=ddp"
            )

    def setup(self, stage: str) -> None:
        """Look at the frozen weights while they are whole: splitting them over processes comes next."""
        _ = self._frozen

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Fix dropout by (seed, step), so that a resumed run draws what the uninterrupted one draws."""
        torch.manual_seed(self.settings.seed * 1_000_003 + self.global_step * 1_009 + self.global_rank)

    def _share_of_positions(self, count: int | Tensor) -> Tensor | float:
        """Weigh a process by its label positions, so that the averaged gradient is that of the whole batch.

        Args:
            count: How many this process has, or, for terms with means over positions of their own, of each, any shape.

        Returns:
            The weight of each term, the shape of ``count``; 1 where there is one process.
        """
        if self.trainer.world_size == 1:
            return 1.0
        mine = torch.as_tensor(count, dtype=torch.float32, device=self.device)
        everyones: Tensor = self.all_gather(mine)  # type: ignore[assignment]
        return mine * len(everyones) / everyones.sum(0).clamp(min=1)  # a term may have no position anywhere

    def _is_log_step(self) -> bool:
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and (self.global_step + 1) % every == 0

    def _log_training(self, values: Mapping[str, Tensor]) -> None:
        if self._is_log_step():
            shown = {f"train/{name}": value.detach() for name, value in values.items()}
            self.log_dict(shown, prog_bar=True, batch_size=1)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Log the learning rate and the norm of the gradients before they are clipped."""
        if not self._is_log_step():
            return
        values = {"learning_rate": torch.tensor(optimizer.param_groups[0]["lr"])}
        if self.device_mesh is None:  # of split weights each process has a part
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            values["gradient_norm"] = torch.nn.utils.get_total_norm(gradients)
        self._log_training(values)

    def learn_by(self, config: Mapping[str, Any]) -> None:
        """Take optimiser and schedule from a config that has them."""
        self.optimizer = build(config.get("optimizer") or {}) or self.optimizer
        self.scheduler = build(config.get("scheduler") or {}) or self.scheduler

    def configure_optimizers(self) -> Any:
        """Make optimiser and schedule over all steps of the run.

        Raises:
            InputError: they do not take their settings.
        """
        settings = self.settings
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trainable if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
        ]
        options: dict[str, Any] = {"lr": settings.learning_rate}
        if self.trainer.precision == "16-mixed" and getattr(self.optimizer, "keywords", {}).get("fused"):
            options["fused"] = False  # there Lightning clips no gradients that a fused one unscales
        steps = int(self.trainer.estimated_stepping_batches)
        try:
            optimizer = self.optimizer([group for group in groups if group["params"]], **options)
            warmup = int(settings.warmup_ratio * steps)
            schedule = self.scheduler(optimizer=optimizer, num_warmup_steps=warmup, num_training_steps=steps)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"optimizer or scheduler: {error}.\nType:  optimizer=adamw scheduler=cosine   or mend their settings"
            ) from error
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Let go of the gradients after the step, and not, as Lightning does, after the next forward pass.

        So nothing of a step is left in memory when the next one begins, whose tensors have other sizes: what they leave
        between them is what an allocator has to search for each new one.
        """
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does, but in mixed bfloat16 with a fused optimiser, too: there is nothing to unscale."""
        if gradient_clip_val and self.trainer.precision == "bf16-mixed":
            by_value = gradient_clip_algorithm == "value"
            clip = torch.nn.utils.clip_grad_value_ if by_value else torch.nn.utils.clip_grad_norm_
            clip(self.parameters(), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _trained_names(self) -> Iterator[str]:
        return (name for name, parameter in self.named_parameters() if parameter.requires_grad)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained weights only, and say what they belong to."""
        trained = set(self._trained_names())
        checkpoint["state_dict"] = {n: w for n, w in checkpoint["state_dict"].items() if n in trained}
        checkpoint["stage"] = self.kind
        checkpoint["model"] = self.model.spec
        checkpoint["frozen"] = self._frozen

    @cached_property
    def _frozen(self) -> dict[str, str]:
        """Say by a few of their numbers what the weights are that are not trained, and so are in no checkpoint.

        Rounded, so that the same weights in another type are the same.
        """
        few = {
            n: w.detach().flatten()[:64].bfloat16().float() for n, w in self.named_parameters() if not w.requires_grad
        }
        return {name: hashlib.sha256(values.cpu().numpy().tobytes()).hexdigest()[:16] for name, values in few.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another stage or model.

        Raises:
            InputError: the checkpoint belongs to another stage or model, or misses weights that are trained here.
        """
        self._check(checkpoint, "the checkpoint", _WHAT_TO_TYPE.format("stage.init_from"))
        if "averaging_state" in checkpoint:  # of Lightning's WeightAveraging, which wants frozen and tied weights, too
            own, kept = self.state_dict(), checkpoint["state_dict"]
            tied = {weight.data_ptr(): kept[name] for name, weight in own.items() if name in kept}
            kept |= {name: tied.get(weight.data_ptr(), weight) for name, weight in own.items() if name not in kept}

    def _check(self, checkpoint: Mapping[str, Any], source: str, advice: str, needed: str | None = None) -> None:
        _require_kind(checkpoint, source, advice, self.kind, needed)
        model = checkpoint.get("model")
        if model != self.model.spec:
            raise InputError(
                f"{source} holds another model:\n  there {model}\n  here  {self.model.spec}\n"
                "Compose the same model and tokenizer as that run's config.yaml, or train anew."
            )
        missing = [name for name in self._trained_names() if name not in checkpoint["state_dict"]]
        if missing:
            raise InputError(f"{source} misses {len(missing)} trained weights, the first is {missing[0]}.\n{advice}")
        there = {name: known for name, known in checkpoint.get("frozen", {}).items() if name in self._frozen}
        if other := [name for name, known in there.items() if known != self._frozen[name]]:
            raise InputError(
                f"{source} was trained beside other frozen weights, though of the same shapes: {len(other)} differ, "
                f"the first is {other[0]}.\nCompose the same model.name as that run's config.yaml, or train anew."
            )

    def initialise(self) -> dict[str, Any] | None:
        """Take the weights that the settings say to start from, if any, before training; return their checkpoint.

        Raises:
            InputError: it cannot be read, or belongs to another stage or model.
        """
        settings = self.settings
        if not isinstance(settings, TrainingSettings) or settings.init_from is None:
            return None
        return self.take_weights(Path(settings.init_from), "stage.init_from", needed=self.continues)

    def take_weights(self, path: Path, setting: str, needed: str | None = None) -> dict[str, Any]:
        """Take the weights of a checkpoint of this model, and return all of it.

        Args:
            path: The checkpoint.
            setting: Which one names it.
            needed: Kind of stage that it must be of; None for this one's.

        Raises:
            InputError: it cannot be read, or belongs to another stage or model.
        """
        checkpoint = _read(path, setting, load_weights)
        source, advice, weights = f"{setting}={str(path)!r}", _WHAT_TO_TYPE.format(setting), checkpoint["state_dict"]
        self._check(checkpoint, source, advice, needed)
        if name := next((name for name in self._trained_names() if not weights[name].isfinite().all()), None):
            raise InputError(f"{source} holds weights that are no numbers, such as in {name}.\n{advice}")
        try:
            self.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            raise InputError(f"{source} holds weights of other shapes: {error}\n{advice}") from error
        return checkpoint


def foresee_start(stage: type, settings: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that a stage cannot start from before data and model are made, which may take long.

    Args:
        stage: The class.
        settings: Its node in the config.

    Raises:
        InputError: it cannot be read, or is of another stage.
    """
    if issubclass(stage, TrainingStage) and (start := settings.get("init_from")):
        setting = "stage.init_from"
        source, advice = f"{setting}={start!r}", _WHAT_TO_TYPE.format(setting)
        _require_kind(read_checkpoint(Path(start), setting), source, advice, stage.__name__, stage.continues)


def read_checkpoint(path: Path, setting: str) -> dict[str, Any]:
    """Return a checkpoint whose tensors stay on the disk.

    Raises:
        InputError: it cannot be read, or is none of this project.
    """
    return _read(path, setting, lambda file: torch.load(file, map_location="cpu", weights_only=True, mmap=True))


def why_unreadable(path: Path, error: Exception) -> str:
    """Return why ``torch.load`` could not read a file; of other files than its own it says the oddest things."""
    if not zipfile.is_zipfile(path):
        return "it is no whole file that torch.save has written"
    return str(error).partition("\n")[0]  # torch goes on with advice to trust the file


def _require_kind(checkpoint: Mapping[str, Any], source: str, advice: str, kind: str, needed: str | None) -> None:
    stage = checkpoint.get("stage")
    if stage != (needed or kind):
        wanted = f"I need {needed!r}" if needed else f"this is {kind!r}"
        raise InputError(f"{source} holds the stage {stage!r}, but {wanted}.\n{advice}")


def _read(path: Path, setting: str, load: Callable[[Path], Any]) -> dict[str, Any]:
    source, advice = f"{setting}={str(path)!r}", _WHAT_TO_TYPE.format(setting)
    try:
        checkpoint = load(path)
    except Exception as error:
        reason = why_unreadable(path, error)
        raise InputError(f"{source} is not a checkpoint that can be read: {reason}\n{advice}") from error
    known = checkpoint if isinstance(checkpoint, dict) else {}
    if not isinstance(known.get("state_dict"), dict) and "shards" not in known:
        raise InputError(f"{source} is not a checkpoint of this project.\n{advice}")
    return known
