"""Where episodes are kept: one file a question and sample, whole or absent, resumable and shareable; or in memory."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from src.gisa.agent.trajectory import Attempt, Episode, Journal
from src.launch.errors import InputError
from src.launch.storage import write_atomic


class RunStore:
    """The episodes of one run.

    ``episodes/<id>.<sample>.json`` is the record of an ended episode; ``episodes/<id>.<sample>.events.jsonl`` is the
    journal of one under way, or of one that an infrastructure failure ended. Several processes may work in one folder:
    who holds a journal's lock works on that episode, and a killed process holds none.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open the store of a run folder, or begin it.

        Args:
            folder: The run folder.
            settings: Everything that changes an answer: questions, policy, tools, prompts, budget. What does not
                (concurrency, ceilings) stays out, and may differ between resumes.

        Raises:
            InputError: the folder holds a run with other settings.
        """
        self.folder = folder / "episodes"
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = folder / "agent.json"
        wanted = json.loads(json.dumps(settings, sort_keys=True, default=str))
        if not manifest.is_file():
            write_atomic(manifest, json.dumps(wanted, indent=1))
        kept = json.loads(manifest.read_bytes())
        if kept != wanted:
            changed = sorted(key for key in kept.keys() | wanted.keys() if kept.get(key) != wanted.get(key))
            raise InputError(
                f"{folder} holds a run with other settings; these differ: {', '.join(changed)}.\n"
                "Answers of two settings may not be mixed. Give the same settings again, or start in a new folder."
            )

    def is_complete(self, attempt: Attempt) -> bool:
        """Tell whether an episode has ended other than by an infrastructure failure, and its record is whole."""
        try:
            return bool(json.loads(self._record(attempt).read_bytes())["outcome"] != "infra_error")
        except (FileNotFoundError, ValueError):
            return False

    def open_journal(self, attempt: Attempt) -> Journal | None:
        """Open the journal of an episode that is still to be done; None if it is complete or another process has it."""
        path = self._path(attempt, "events.jsonl")
        if self.is_complete(attempt):
            self._discard(path)  # a kill may have come between the record and this
            return None
        stream = path.open("a+b")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            return None
        if self.is_complete(attempt):  # ended by another process between the look and the lock
            stream.close()
            self._discard(path)
            return None
        stream.seek(0)
        return Journal(path, stream)

    def finish(self, episode: Episode) -> None:
        """Write the record of an ended episode; its journal is kept only if the episode is to be retried."""
        record = episode.record()
        write_atomic(self._record(episode.attempt), json.dumps(record))
        if record["outcome"] != "infra_error":
            self._discard(self._path(episode.attempt, "events.jsonl"))

    def records(self) -> Iterator[dict[str, Any]]:
        """Read the records one by one, by file name."""
        for path in sorted(self.folder.glob("*.json")):
            yield json.loads(path.read_bytes())

    def spent_usd(self) -> float:
        """Return what the whole run has cost so far, episodes under way included."""
        charges = 0.0
        for path in self.folder.glob("*.json"):
            with suppress(ValueError):  # a torn record; its episode is done again
                if not path.with_suffix(".events.jsonl").is_file():
                    spent = json.loads(path.read_bytes())["spent"]
                    charges += sum(part["usd"] or 0.0 for part in spent.values())
        for path in self.folder.glob("*.events.jsonl"):
            for line in path.read_bytes().split(b"\n")[:-1]:
                charges += sum(charge["usd"] or 0.0 for charge in json.loads(line).get("charges", []))
        return charges

    def _record(self, attempt: Attempt) -> Path:
        return self._path(attempt, "json")

    def _path(self, attempt: Attempt, ending: str) -> Path:
        name = quote(attempt.question_id, safe="")
        if len(name) > 150 or name.startswith("."):  # no file system takes more than 255 bytes
            name = hashlib.sha256(attempt.question_id.encode("utf-8", "replace")).hexdigest()
        return self.folder / f"{name}.{attempt.sample}.{ending}"

    @staticmethod
    def _discard(path: Path) -> None:
        with suppress(FileNotFoundError):
            path.unlink()


class MemoryStore:
    """Episodes that are kept nowhere else, for a policy that learns from them at once.

    Attributes:
        ended: What has ended, by attempt.
    """

    def __init__(self) -> None:
        self.ended: dict[Attempt, Episode] = {}

    def open_journal(self, attempt: Attempt) -> Journal:
        """Begin the journal of an episode."""
        return Journal.in_memory(attempt)

    def finish(self, episode: Episode) -> None:
        """Keep an ended episode, with the tokens of its replies."""
        self.ended[episode.attempt] = episode

    def spent_usd(self) -> float:
        """Return 0: nothing was spent before."""
        return 0.0
