"""Test a finished run again, with other settings of its evaluator: guidance, both histories, more beams."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from src.ilrec.task.assemble import foresee_rewards, load_trained, trained_config
from src.ilrec.task.misfits import unpenalised
from src.ilrec.task.recommendation import RecommendationTask, tested
from src.launch.errors import InputError
from src.launch.record import Record
from src.launch.values import Node
from src.training.fit import known_late, prepare_training, trainer_of

_OF_A_TEST = ("evaluation_batch_size", "max_users")
_OF_A_TRAINING = (
    "accumulate_grad_batches", "check_val_every_n_epoch", "gradient_clip_algorithm", "gradient_clip_val",
    "limit_train_batches", "log_every_n_steps", "max_epochs", "max_steps", "max_time", "min_epochs", "min_steps",
    "num_sanity_val_steps", "overfit_batches", "val_check_interval",
)  # fmt: skip


class EvaluateTask(RecommendationTask):
    """Write ``result.json`` and ``ranks.parquet`` as the run itself has, with its name and seed, so that both compare.

    Args:
        changes: Settings of the run that are to differ, nested as in its config: those of its evaluator, of
            ``batches.evaluation_batch_size`` and ``batches.max_users``, of its trainer.
    """

    needs = ("checkpoint",)
    settings_at: ClassVar = {key: f"task.changes.{key}" for key in ("evaluator", "batches", "trainer")}

    def __init__(self, *, changes: Node) -> None:
        if other := changes.keys() - self.settings_at.keys():
            raise InputError(
                f"task.changes.{min(other)}: a finished run can be tested with other settings of its evaluator, "
                "batches and trainer only.\nType:  task.changes.evaluator.num_beams=50, or train another run."
            )
        given = {key: (changes.get(key) or {}).keys() for key in ("batches", "trainer")}
        unread = sorted(given["batches"] - set(_OF_A_TEST)), sorted(given["trainer"] & set(_OF_A_TRAINING))
        for key, names in zip(given, unread, strict=True):
            if names:
                raise InputError(
                    f"task.changes.{key}.{names[0]}: a test does not read it, only a training does.\n"
                    "Type:  task.changes.batches.max_users=<fewer>, task.changes.trainer.precision=32-true, or train "
                    "another run."
                )
        self.changes = changes

    def run(self, config: dict[str, Any], folder: Path, record: Record, sweep: str | None) -> None:
        """Load the checkpoint, test its weights and record the results.

        Raises:
            InputError: the checkpoint cannot be used, or a change is no setting of its run.
        """
        checkpoint, threads = config["checkpoint"], {key: config[key] for key in ("threads", "matmul_precision")}
        trained = trained_config(checkpoint, self.changes) | threads
        if self.changes.get("evaluator") and (fault := next(unpenalised(trained["evaluator"]), None)):
            raise InputError(fault.replace("evaluator.", "task.changes.evaluator."))
        prepare_training(trained)
        foresee_rewards(trained)
        record.update(name=trained["name"], seed=trained["seed"])
        record.trace_origins({"checkpoint_from": checkpoint, "guidance_from": trained["evaluator"].get("reward_from")})
        from src.training.tracking import ProgressBar

        parts = load_trained(checkpoint, self.changes)
        bars = [ProgressBar()] if trained["trainer"].get("enable_progress_bar", True) else []
        plain: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "callbacks": bars}
        trainer = trainer_of(trained, default_root_dir=folder, **plain)
        record.lap("prepare")
        with known_late():
            results = tested(trainer, parts, trained, folder, record, None)
        record.finish(**results)
