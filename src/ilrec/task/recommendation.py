"""Train a recommender, test the selected weights by full ranking, record the results and show some users."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.ilrec.task.assemble import Parts, assemble, differing, foresee, read_index, require_same_items
from src.ilrec.task.misfits import misfits
from src.launch.errors import InputError
from src.launch.process import first_process
from src.launch.record import Record
from src.launch.storage import write_atomic
from src.training.fit import fitted, prepare_training

if TYPE_CHECKING:
    import lightning

    from src.ilrec.dataset.interactions import Interactions
    from src.training.dashboard import Dashboard

_COLUMNS = ("user", "history, oldest first", "target", "best ten", "rank")
_AT_ONCE, _BEST, _LATEST = 20, 10, 20  # users at once, items recommended, items of a history shown


class RecommendationTask:
    """A run on interactions: any model, stage and evaluator of the recommendation suite."""

    needs: tuple[str, ...] = (
        "dataset",
        "tokenizer",
        "prompt",
        "batches",
        "model",
        "stage",
        "evaluator",
        "trainer",
        "checkpointing",
    )

    @staticmethod
    def misfits(config: Mapping[str, Any]) -> Iterator[str]:
        """Name the parts that do not go together, for the check of the config."""
        return misfits(config)

    def run(self, config: dict[str, Any], folder: Path, record: Record, sweep: str | None) -> None:
        """Build everything, train, test the selected weights and record the results.

        Args:
            config: The checked config.
            folder: The run folder; where it holds ``checkpoints/last.ckpt``, training goes on from there.
            record: The run's record.
            sweep: Name of the sweep it is a job of, if any.
        """
        prepare_training(config)
        foresee(config)
        record.trace_origins(config["stage"] | {"guidance_from": config["evaluator"].get("reward_from")})

        parts = assemble(config)
        stage, interactions = parts.stage, parts.interactions
        _require_data_of_before(folder, parts)
        _require_tested_users(parts, config)
        checkpoint = stage.initialise()
        if checkpoint is not None:
            require_same_items(checkpoint, Path(config["stage"]["init_from"]), parts)
        if first_process():
            print(f"\n{interactions.statistics_table()}\n\n{parts.items.report_table()}\n", flush=True)
            parts.items.save_index(folder / "items.index.json", interactions.item_ids)

        with fitted(stage, parts.data, config, folder, record, sweep) as (trainer, checkpoints):
            selected = {} if checkpoints.best_score is None else {checkpoints.monitor: checkpoints.best_score}
            results = tested(trainer, parts, config, folder, record, checkpoints.selected)
        record.finish(**results | getattr(stage, "decisions", {}) | {"metrics": results["metrics"] | selected})

    def show(self, record: Record) -> None:
        """Print the test metrics."""
        from rich.console import Console
        from rich.table import Table

        metrics = {name.removeprefix("test/"): value for name, value in record.content["metrics"].items()}
        table = Table()
        table.add_column("metric")
        table.add_column("value", justify="right")
        for name, value in metrics.items():
            table.add_row(name, f"{value:.4f}")
        settings = ", ".join(f"{key}={value}" for key, value in record.content["protocol"].items())
        print(f"\n{record.content['name']}, seed {record.content['seed']}: test metrics")
        Console().print(table)
        print(f"{record.content['evaluated_users']:,} users; {settings}\n{record.path.parent}")

    def next_commands(self, record: Record) -> Iterator[str]:
        """Say what can be done with the run."""
        folder = record.path.parent
        best = folder / "checkpoints" / "best.ckpt"
        if best.is_file():
            yield f"src.run +experiment=recommend {shlex.quote(f'checkpoint={best}')}"
        yield f"src.report {shlex.quote(str(folder))}"


def tested(
    trainer: lightning.Trainer,
    parts: Parts,
    config: dict[str, Any],
    folder: Path,
    record: Record,
    checkpoint: Path | None,
) -> dict[str, Any]:
    """Test a stage, with guidance or a penalty, too, where its evaluator is told some, and write ``ranks.parquet``.

    Args:
        trainer: What tests.
        parts: Of the run.
        config: Its config.
        folder: Of the run.
        record: Of the run; it takes the time.
        checkpoint: With the weights to test; None for those that the stage has.

    Returns:
        What there is to record at the end.
    """
    from src.ilrec.stage.next_item import CHOSEN
    from src.training.dashboard import dashboards

    stage = parts.stage
    results: dict[str, Any] = {}
    if any(getattr(parts.evaluator, name, None) for name in CHOSEN):
        metric = str(config["checkpointing"]["monitor"]).removeprefix("val/")
        results |= stage.choose(trainer, parts.data, metric, checkpoint)
        record.lap("choice")
    trainer.test(stage, datamodule=parts.data, ckpt_path=checkpoint, verbose=False)
    record.lap("test")
    if rewards := getattr(parts.evaluator, "rewards", None):
        results["guidance"]["reward_excludes_history"] = rewards.exclude_history  # null in the config: decided
    if trainer.is_global_zero:
        save_ranks(stage.test_ranks, folder / "ranks.parquet")
    # The number of users is no measure of quality; it has a key of its own.
    names = [name for name in trainer.callback_metrics if name.startswith("test") and name != "test/users"]
    results |= {
        "metrics": {name: trainer.callback_metrics[name].item() for name in names},
        "evaluated_users": len(stage.test_ranks["user"]),
        "protocol": protocol(config, parts.interactions),
    }
    record.update(protocol=results["protocol"])
    for dashboard in dashboards(trainer.loggers):
        show_data(dashboard, parts.interactions, folder / "items.index.json")
        if trainer.world_size == 1:  # weights may be split over processes, and the others have gone on
            show_users(dashboard, parts, stage.test_ranks)
    return results


def _require_data_of_before(folder: Path, parts: Parts) -> None:
    """Refuse to go on with a training whose items are written differently now; the stage compares the interactions."""
    from src.training.stage import BRING_BACK

    last = folder / "checkpoints" / "last.ckpt"
    if last.is_file() and (folder / "items.index.json").is_file():
        here = parts.items.index(parts.interactions.item_ids)
        if difference := differing(read_index(last, "resume"), here):
            raise InputError(f"The data or the tokenizer of this run have changed: {difference}.\n{BRING_BACK}")


def _require_tested_users(parts: Parts, config: dict[str, Any]) -> None:
    """Refuse a share of the test batches that is less than one: Lightning would, when the training is over."""
    share, batches = config["trainer"].get("limit_test_batches"), len(parts.data.test_dataloader())
    if isinstance(share, float) and int(share * batches) < 1:
        raise InputError(
            f"trainer.limit_test_batches={share}: nobody would be tested, of {batches} batch(es).\n"
            "Type:  trainer.limit_test_batches=1"
        )


def protocol(config: dict[str, Any], interactions: Any) -> dict[str, Any]:
    """Return the settings that two runs must share for their metrics to be comparable, however they rank."""
    evaluator = {key: config["evaluator"][key] for key in ("exclude_history", "cutoffs") if key in config["evaluator"]}
    if evaluator.get("exclude_history") == "both":
        evaluator["exclude_history"] = False  # the metrics of the other setting have a name of their own
    dataset = f"{interactions.name} ({interactions.fingerprint[:12]})"
    return {**evaluator, "dataset": dataset, "max_users": config["batches"]["max_users"]}


def save_ranks(ranks: dict[str, Any], path: Path) -> None:
    """Write the rank of every user's target, so that runs can be compared user by user."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_atomic(path, lambda stream: pq.write_table(pa.table(ranks), stream))


def show_users(dashboard: Dashboard, parts: Any, ranks: dict[str, Any]) -> None:
    """Log a table of some users, spread evenly over those tested, and a histogram of all ranks.

    Args:
        dashboard: Says how many users.
        parts: Of the run, with the tested weights; the model is in eval mode.
        ranks: ``user`` and ``target`` by id and ``rank``, NaN where the target was not found.
    """
    import torch

    from src.ilrec.batches.next_item import prompt_batch

    data, model, tested = parts.interactions, parts.model.eval(), len(ranks["user"])
    count = min(dashboard.users, tested) if hasattr(parts.evaluator, "recommend") else 0  # one's own may only rank
    chosen = [at * tested // count for at in range(count)]
    numbers = {user: number for number, user in enumerate(data.user_ids)}
    device, rows = next(chain(model.parameters(), model.buffers())).device, []  # counted models have buffers alone
    for start in range(0, count, _AT_ONCE):
        part = chosen[start : start + _AT_ONCE]
        histories = [data.history(numbers[ranks["user"][at]], "test") for at in part]
        batch = {name: value.to(device) for name, value in prompt_batch(parts.prompt, histories).items()}
        with torch.no_grad():
            recommended = parts.evaluator.recommend(model, batch, _BEST)
        for at, history, best in zip(part, histories, recommended, strict=True):
            target = data.target(numbers[ranks["user"][at]], "test")
            items = [[*history[-_LATEST:].tolist()], [target], [item for item, _ in best]]
            rank = float(ranks["rank"][at])
            shown = ["; ".join(_title(data, item) for item in some) for some in items]
            rows.append([ranks["user"][at], *shown, None if rank != rank else rank])
    found = {"test/ranks": dashboard.histogram([float(rank) for rank in ranks["rank"]])}
    dashboard.show(**found, **({"test/recommendations": dashboard.table(_COLUMNS, rows)} if rows else {}))


def show_data(dashboard: Dashboard, data: Interactions, index: Path) -> None:
    """Log what the run learns from: the data by its fingerprint, and the items as it writes them."""
    about = {"fingerprint": data.fingerprint, "name": data.name, "users": data.num_users, "items": data.num_items}
    dashboard.summarise(data_fingerprint=data.fingerprint)
    dashboard.artifact(f"data-{data.name}", "dataset", {"dataset.json": about}, used=True, **about)
    length = len(next(iter(json.loads(index.read_bytes()).values()), []))
    dashboard.artifact(f"items-{data.name}", "tokenizer", {"items.index.json": index}, tokens_of_an_item=length)


def _title(data: Interactions, item: int) -> str:
    return data.titles[item] or data.item_ids[item]
