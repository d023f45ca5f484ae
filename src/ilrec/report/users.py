"""A recommender's test, user by user, on the dashboard: what they had, what they took, what they were recommended."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from src.ilrec.batches.next_item import prompt_batch

if TYPE_CHECKING:
    from src.ilrec.dataset.interactions import Interactions
    from src.training.dashboard import Dashboard

COLUMNS = ("user", "history, oldest first", "target", "best ten", "rank")
_BATCH, _BEST, _LATEST = 20, 10, 20  # users at once, items recommended, items of a history shown


def show_users(dashboard: Dashboard, parts: Any, ranks: dict[str, Any]) -> None:
    """Log a table of some users, spread evenly over those tested, and a histogram of all ranks.

    Args:
        dashboard: Says how many users.
        parts: Of the run, with the tested weights; the model is in eval mode.
        ranks: ``user`` and ``target`` by id and ``rank``, NaN where the target was not found.
    """
    data, model, tested = parts.interactions, parts.model.eval(), len(ranks["user"])
    count = min(dashboard.users, tested) if hasattr(parts.evaluator, "recommend") else 0  # one's own may only rank
    chosen = [at * tested // count for at in range(count)]
    numbers = {user: number for number, user in enumerate(data.user_ids)}
    device, rows = next(chain(model.parameters(), model.buffers())).device, []  # counted models have buffers alone
    for start in range(0, count, _BATCH):
        part = chosen[start : start + _BATCH]
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
    dashboard.show(**found, **({"test/recommendations": dashboard.table(COLUMNS, rows)} if rows else {}))


def show_data(dashboard: Dashboard, data: Interactions, index: Path) -> None:
    """Log what the run learns from: the data by its fingerprint, and the items as it writes them."""
    about = {"fingerprint": data.fingerprint, "name": data.name, "users": data.num_users, "items": data.num_items}
    dashboard.summarise(data_fingerprint=data.fingerprint)
    dashboard.artifact(f"data-{data.name}", "dataset", {"dataset.json": about}, used=True, **about)
    length = len(next(iter(json.loads(index.read_bytes()).values()), []))
    dashboard.artifact(f"items-{data.name}", "tokenizer", {"items.index.json": index}, tokens_of_an_item=length)


def _title(data: Interactions, item: int) -> str:
    return data.titles[item] or data.item_ids[item]
