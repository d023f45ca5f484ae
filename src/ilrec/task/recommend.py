"""Recommend with a trained run: users in, their best items out, one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from src.ilrec.task.assemble import load_trained
from src.launch.errors import InputError
from src.launch.lines import distinct, read_lines
from src.launch.progress import tracked
from src.launch.record import Record
from src.launch.values import Count, Weight
from src.training.fit import use_processor

if TYPE_CHECKING:
    from src.ilrec.dataset.interactions import Interactions

_FORM = 'I need a line of UTF-8 text for each: {"user": "<id>"}, or {"history": ["<item id>", ...]}, oldest first.'


@dataclass(frozen=True)
class Asked:
    """A line of the file of users.

    Attributes:
        where: File and line, for messages.
        user: Id, or a name where there is a history.
        history: Ids of items, oldest first; None to take that of the data set.
    """

    where: str
    user: str | None
    history: list[str] | None


class RecommendTask:
    """Write ``recommendations.jsonl`` into the run folder.

    A line reads ``{"user": "1", "items": [{"item": "50", "title": "Star Wars (1977)", "score": -3.2}, ...]}``; scores
    are log-probabilities of a language model, logits or counts of another. A killed run goes on where it was.

    Args:
        users: JSON lines, each ``{"user": "<id>"}`` of the data set, or ``{"history": ["<item id>", ...]}``, oldest
            first, of anyone (with ``user`` beside it as a name); whole numbers are ids, too. ``None`` takes every user
            of the data set.
        count: Items a user.
        exclude_history: Never recommend an item of the history.
        batch_size: Users at once.
        guidance: Weight of a collaborative model's rewards, see ``Guidance``; a score is then
            ``log p(item) + guidance * log P(item)``, up to a number for each user.
        reward_from: That model's checkpoint; None for the run's own ``evaluator.reward_from``.
        history_penalty: Nats taken from the scores of items of the history, see ``HistoryPenalty``.
    """

    needs = ("checkpoint",)
    settings_at: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        *,
        users: str | None,
        count: Count,
        exclude_history: bool,
        batch_size: Count,
        guidance: Weight = 0.0,
        reward_from: str | list[str] | None = None,
        history_penalty: Weight = 0.0,
    ) -> None:
        if count < 1 or batch_size < 1:
            raise InputError(f"task.count={count} and task.batch_size={batch_size} must be whole numbers from 1.")
        self.users, self.count, self.exclude_history, self.batch_size = users, count, exclude_history, batch_size
        if history_penalty > 0 and exclude_history:
            raise InputError(
                f"task.history_penalty={history_penalty}: items of the history are left out anyway.\n"
                "Type:  task.exclude_history=false"
            )
        if reward_from and not guidance > 0:
            raise InputError(
                f"task.reward_from={reward_from}: with task.guidance={guidance} nothing asks it.\n"
                "Type:  task.guidance=<the weight that +experiment=evaluate has chosen>"
            )
        told = {"guidance": guidance, "history_penalty": history_penalty}
        self.search = {name: value for name, value in told.items() if value > 0}
        rewards = {"reward_from": reward_from} if reward_from else {}
        self.evaluator = {"exclude_history": exclude_history, **self.search, **rewards}

    def run(self, config: dict[str, Any], folder: Path, record: Record, sweep: str | None) -> None:
        """Recommend to all users, in the order given.

        Raises:
            InputError: the checkpoint cannot be used, or a line names a user or item that there is not.
        """
        from src.ilrec.batches.next_item import prompt_batch

        use_processor(config)
        lines = None if self.users is None else read_users(Path(self.users))  # at once: the model takes longer
        trained = load_trained(config["checkpoint"], {"evaluator": self.evaluator})
        data = trained.interactions
        every = [Asked(data.name, user, None) for user in data.user_ids]
        asked = list(_histories(every if lines is None else lines, data))
        record.lap("prepare")
        path = folder / "recommendations.jsonl"
        with path.open("ab+") as out:
            done = _whole_lines(out)
            starts = range(done, len(asked), self.batch_size)
            for start in tracked(starts, "Recommending to users", len(asked), first=done, each=self.batch_size):
                chunk = asked[start : start + self.batch_size]
                batch = prompt_batch(trained.prompt, [history for _, history in chunk])
                best = trained.evaluator.recommend(trained.model, batch, self.count, **self.search)
                for (user, _), items in zip(chunk, best, strict=True):
                    out.write(_line(user, items, trained.interactions).encode(errors="replace"))
                out.flush()
                os.fsync(out.fileno())
        record.lap("recommend")
        record.finish(metrics={}, evaluated_users=len(asked), protocol={"checkpoint": config["checkpoint"]})

    def show(self, record: Record) -> None:
        """Say where the recommendations are."""
        users = record.content["evaluated_users"]
        print(f"{users:,} users, up to {self.count} items each: {record.path.parent / 'recommendations.jsonl'}")


def read_users(path: Path) -> list[Asked]:
    """Read who is asked about, one JSON object a line.

    Raises:
        InputError: there is no such file, or none of text; or a line is not of the form, which the message shows.
    """
    if path.is_dir():
        raise InputError(f"task.users={path} is a folder. {_FORM}")
    if not path.is_file():
        raise InputError(f"task.users={path}: there is no such file. {_FORM}")
    lines = read_lines(path)
    asked = [_line_asked(f"{path}, line {number}", line) for number, line in lines if line.strip()]
    if not asked:
        raise InputError(f"task.users={path} is empty. {_FORM}\nType  task.users=null  for every user of the data set.")
    return asked


def _line_asked(where: str, line: str) -> Asked:
    try:
        entry = json.loads(line, object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not a JSON object: {error}\n{_FORM}") from error
    if not isinstance(entry, dict):
        raise InputError(f"{where}: not a JSON object: {line[:60]}\n{_FORM}")
    if not entry.keys() & {"user", "history"}:
        raise InputError(f"{where}: neither user nor history, but {', '.join(entry) or 'nothing'}.\n{_FORM}")
    user, history = entry.get("user"), entry.get("history")
    if not (_is_id(user) or (user is None and history is not None)):
        raise InputError(f"{where}: user is {json.dumps(user)[:60]}; I need one id, as text.\n{_FORM}")
    if history is not None and not (isinstance(history, list) and all(map(_is_id, history))):
        raise InputError(f"{where}: history is {json.dumps(history)[:60]}; I need a list of items' ids.\n{_FORM}")
    return Asked(where, None if user is None else str(user), None if history is None else [*map(str, history)])


def _is_id(value: Any) -> bool:
    """Whether it is an id: text, or a whole number, as data sets with numbers for ids suggest."""
    return isinstance(value, str | int) and not isinstance(value, bool)


def _histories(lines: list[Asked], data: Interactions) -> Iterator[tuple[str | None, NDArray[np.int64]]]:
    """Yield each user's name and history."""
    rows = {user: row for row, user in enumerate(data.user_ids)}
    numbers = {item: number for number, item in enumerate(data.item_ids)}
    for asked in lines:
        if asked.history is None:
            if asked.user not in rows:
                raise InputError(
                    f"{asked.where}: there is no user {asked.user!r} in {data.name}; give a history instead."
                )
            yield asked.user, data.sequence(rows[asked.user])
            continue
        unknown = [item for item in asked.history if item not in numbers]
        if unknown or not asked.history:
            shown = unknown[:5] or asked.history
            raise InputError(f"{asked.where}: I need items of {data.name} as history, not {shown}.")
        yield asked.user, np.array([numbers[item] for item in asked.history])


def _whole_lines(file: Any) -> int:
    """Cut off a line that a kill left unfinished and return the number of whole ones."""
    file.seek(0)
    content = file.read()
    file.truncate(content.rfind(b"\n") + 1)
    return int(content.count(b"\n"))


def _line(user: str | None, items: list[tuple[int, float]], data: Any) -> str:
    shown = [{"item": data.item_ids[item], "title": data.titles[item], "score": score} for item, score in items]
    return json.dumps({"user": user, "items": shown}, ensure_ascii=False) + "\n"
