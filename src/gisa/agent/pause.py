"""Ctrl-C in two steps: once, nothing new is begun and what is under way ends; twice, all stops at once."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class Pause:
    """Watches for Ctrl-C (SIGINT) while a rollout is at work; to be used as a context manager in its event loop.

    Outside the main thread, and where the signal is ignored, as for commands in the background of a script, it does
    nothing.

    Attributes:
        is_asked: Whether nothing new is to be begun.
    """

    def __init__(self, under_way: Callable[[], int]) -> None:
        """Take what tells how many episodes are under way."""
        self.is_asked = False
        self._under_way = under_way
        self._before: Any = None

    def __enter__(self) -> Pause:
        self._loop = asyncio.get_running_loop()
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(before):
            self._before = before
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None and signal.getsignal(signal.SIGINT) == self._on_signal:
            signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked:
            print("\nStopping at once.", file=sys.stderr, flush=True)
            signal.signal(signal.SIGINT, self._before)
            self._before(number, frame)  # that of asyncio cancels all that is under way
            return
        self.is_asked = True
        print(
            f"\nPausing: {self._under_way()} episodes under way end first, none is begun. Ctrl-C again stops at once.",
            file=sys.stderr,
            flush=True,
        )
        self._loop.call_soon_threadsafe(lambda: None)  # wakes the loop
