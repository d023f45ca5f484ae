"""The only way in: ``python -m src.run +experiment=ilrec_stage1`` composes, checks, builds, trains, tests, records."""

from __future__ import annotations

import gc
import logging
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig

from src.command_line import as_typed, help_text, prepare_arguments
from src.errors import InputError
from src.record import Record, first_process
from src.schema import check, resolve
from src.storage import write_atomic

CONF = Path(__file__).resolve().parents[1] / "conf"
log = logging.getLogger("run")


def main() -> int:
    """Run the job or jobs of the command line and return the exit status: 1 for a defect, 2 for a fault to mend."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text(CONF))
        return 0
    statuses: list[int] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def job(cfg: DictConfig) -> None:
        statuses.append(run_job(cfg))

    try:
        sys.argv[1:] = prepare_arguments(sys.argv[1:], CONF)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    job()
    return statuses[0] if len(statuses) == 1 else int(any(statuses))


def run_job(cfg: DictConfig) -> int:
    """Run one job, record how it ended, and return its exit status."""
    record = None
    try:
        job = HydraConfig.get()
        folder = Path(cfg.get("resume") or job.runtime.output_dir)
        if cfg.get("resume"):
            record = Record.resume(folder)
        else:
            record = Record.start(folder, resolve(cfg), as_typed(list(job.overrides.task)))
        if record.content["status"] == "finished":
            print(f"{folder} is finished; there is nothing to resume.")
        else:
            check(record.content["config"], multirun=job.mode == RunMode.MULTIRUN)
            sweep = Path(job.sweep.dir).name if job.mode == RunMode.MULTIRUN else None
            run(record.content["config"], folder, record, sweep)
        show_results(record)
        return 0
    except BaseException as error:
        if record:
            record.fail(error)
        if isinstance(error, InputError):
            log.error("%s", error)
            return 2
        if not isinstance(error, Exception):
            raise
        log.exception("The run failed.")
        return 1
    finally:
        gc.collect()  # the next job of a sweep needs the memory


def run(config: dict[str, Any], folder: Path, record: Record, sweep: str | None) -> None:
    """Build everything, train, test the selected weights and record the results.

    Args:
        config: The checked config.
        folder: The run folder; where it holds ``checkpoints/last.ckpt``, training goes on from there.
        record: The run's record.
        sweep: Name of the sweep it is a job of, if any.
    """
    import lightning  # seconds of imports that --help must not wait for
    import torch

    from src.checkpoint import AtomicCheckpointIO
    from src.tracking import open_logs

    # Notes on devices and restored files at every start; warnings still show.
    logging.getLogger("lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(config["threads"])
    lightning.seed_everything(config["seed"], verbose=False)
    record.trace_origins(config["stage"])

    interactions = build(config["dataset"])
    items = build(config["tokenizer"]).fit(interactions)
    model = build(config["model"])(items.vocabulary)
    prompt = build(config["prompt"])(model.tokenizer, items)
    data = build(config["data"])(interactions=interactions, prompt=prompt, seed=config["seed"])
    evaluator = build(config["evaluator"])(items)
    stage = build(config["stage"])(model=model, evaluator=evaluator)
    checkpoints = build(config["checkpoint"])(folder / "checkpoints")
    checkpoint_io = AtomicCheckpointIO()
    show_inputs(interactions, items)

    start = checkpoints.last if checkpoints.last.is_file() else None
    done_steps = checkpoint_io.load_checkpoint(start)["global_step"] if start else 0
    group = f"{config['name']}/{sweep}" if sweep else config["name"]
    dashboard = build(config["logger"])
    with open_logs(folder, dashboard, done_steps=done_steps, config=config, group=group) as logs:
        trainer = build(config["trainer"])(
            default_root_dir=folder, callbacks=[checkpoints], logger=logs, plugins=[checkpoint_io]
        )
        record.lap("prepare")
        trainer.fit(stage, datamodule=data, ckpt_path=start)
        record.lap("fit", total=checkpoints.fit_seconds)
        trainer.test(stage, datamodule=data, ckpt_path=checkpoints.selected, verbose=False)
        record.lap("test")
    if trainer.is_global_zero:
        save_ranks(stage.test_ranks, folder / "ranks.parquet")
    record.finish(
        # The number of users is no measure of quality; it has a key of its own.
        metrics={
            name: value.item()
            for name, value in trainer.callback_metrics.items()
            if name.startswith("test/") and name != "test/users"
        },
        evaluated_users=len(stage.test_ranks["user"]),
        protocol=protocol(config, interactions),
    )


def build(node: dict[str, Any]) -> Any:
    """Call the target of a config node, with plain containers as arguments; None for an empty one."""
    return instantiate(node, _convert_="all") if node else None


def protocol(config: dict[str, Any], interactions: Any) -> dict[str, Any]:
    """Return the settings that two runs must share for their metrics to be comparable."""
    evaluator = {key: value for key, value in config["evaluator"].items() if not key.startswith("_")}
    dataset = f"{interactions.name} ({interactions.fingerprint[:12]})"
    return {**evaluator, "dataset": dataset, "max_users": config["data"]["max_users"]}


def save_ranks(ranks: dict[str, Any], path: Path) -> None:
    """Write the rank of every user's target, so that runs can be compared user by user."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_atomic(path, lambda stream: pq.write_table(pa.table(ranks), stream))


def show_inputs(interactions: Any, items: Any) -> None:
    """Print what is learned from."""
    if first_process():
        print(f"\n{interactions.statistics_table()}\n\n{items.report_table()}\n", flush=True)


def show_results(record: Record) -> None:
    """Print the test metrics: one row a measure, one column a cutoff."""
    from rich.console import Console
    from rich.table import Table

    if not first_process():
        return
    metrics = {name.removeprefix("test/"): value for name, value in record.content["metrics"].items()}
    table = Table(title=f"{record.content['name']}, seed {record.content['seed']}: test")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    console = Console()
    console.print(table)
    settings = ", ".join(f"{key}={value}" for key, value in record.content["protocol"].items())
    console.print(f"{record.content['evaluated_users']:,} users; {settings}", highlight=False)
    console.print(f"{record.path.parent}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
