"""Recommend with a trained run: users in, their best items out, one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.ilrec.task.assemble import Parts, load_trained
from src.launch.errors import InputError
from src.launch.record import Record
from src.launch.values import Count
from src.training.fit import use_processor


class RecommendTask:
    """Write ``recommendations.jsonl`` into the run folder.

    A line reads ``{"user": "1", "items": [{"item": "50", "title": "Star Wars (1977)", "score": -3.2}, ...]}``; scores
    are log-probabilities of a language model, logits of a collaborative one. A killed run goes on where it was.

    Args:
        users: JSON lines, each ``{"user": "<id>"}`` of the data set, or ``{"history": ["<item id>", ...]}``, oldest
            first, of anyone (with ``user`` beside it as a name); ``None`` takes every user of the data set.
        count: Items a user.
        exclude_history: Never recommend an item of the history.
        batch_size: Users at once.
    """

    needs = ("checkpoint",)

    def __init__(self, *, users: str | None, count: Count, exclude_history: bool, batch_size: Count) -> None:
        if count < 1 or batch_size < 1:
            raise InputError(f"task.count={count} and task.batch_size={batch_size} must be whole numbers from 1.")
        self.users, self.count, self.exclude_history, self.batch_size = users, count, exclude_history, batch_size

    def run(self, config: dict[str, Any], folder: Path, record: Record, sweep: str | None) -> None:
        """Recommend to all users, in the order given.

        Raises:
            InputError: the checkpoint cannot be used, or a line names a user or item that there is not.
        """
        from rich.progress import track

        from src.ilrec.batches.next_item import prompt_batch

        use_processor(config)
        trained = load_trained(config["checkpoint"], exclude_history=self.exclude_history)
        asked = list(self._asked(trained))
        record.lap("prepare")
        path = folder / "recommendations.jsonl"
        with path.open("ab+") as out:
            done = _whole_lines(out)
            for start in track(range(done, len(asked), self.batch_size), "Recommending", disable=not asked[done:]):
                chunk = asked[start : start + self.batch_size]
                batch = prompt_batch(trained.prompt, [history for _, history in chunk])
                best = trained.evaluator.recommend(trained.model, batch, self.count)
                for (user, _), items in zip(chunk, best, strict=True):
                    out.write(_line(user, items, trained.interactions).encode())
                out.flush()
                os.fsync(out.fileno())
        record.lap("recommend")
        record.finish(metrics={}, evaluated_users=len(asked), protocol={"checkpoint": config["checkpoint"]})

    def show(self, record: Record) -> None:
        """Say where the recommendations are."""
        users = record.content["evaluated_users"]
        print(f"{users:,} users, {self.count} items each: {record.path.parent / 'recommendations.jsonl'}")

    def _asked(self, trained: Parts) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield each user's name and history."""
        data = trained.interactions
        rows = {user: row for row, user in enumerate(data.user_ids)}
        if self.users is None:
            yield from ((user, data.sequence(row)) for user, row in rows.items())
            return
        numbers = {item: number for number, item in enumerate(data.item_ids)}
        with Path(self.users).open() as lines:
            for number, line in enumerate(lines, 1):
                where = f"{self.users}, line {number}"
                try:
                    entry = json.loads(line)
                    user, history = entry.get("user"), entry.get("history")
                except (ValueError, AttributeError) as error:
                    raise InputError(f"{where}: not a JSON object: {error}") from error
                if history is None:
                    if user not in rows:
                        raise InputError(f"{where}: there is no user {user!r} in {data.name}; give a history instead.")
                    yield user, data.sequence(rows[user])
                    continue
                unknown = [item for item in history if item not in numbers]
                if unknown or not history:
                    raise InputError(f"{where}: I need items of {data.name} as history, not {unknown or history}.")
                yield user, np.array([numbers[item] for item in history])


def _whole_lines(file: Any) -> int:
    """Cut off a line that a kill left unfinished and return the number of whole ones."""
    file.seek(0)
    content = file.read()
    file.truncate(content.rfind(b"\n") + 1)
    return int(content.count(b"\n"))


def _line(user: str | None, items: list[tuple[int, float]], data: Any) -> str:
    shown = [{"item": data.item_ids[item], "title": data.titles[item], "score": score} for item, score in items]
    return json.dumps({"user": user, "items": shown}, ensure_ascii=False) + "\n"
