"""What is being done and how far it is, as one line at the foot of the terminal; in a log file a line now and then."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from src.launch.process import first_process

if TYPE_CHECKING:
    from rich.live import Live

T = TypeVar("T")
_LONG_S = 5.0  # what takes less says nothing in a log file, and leaves no line in a terminal
_AGAIN_S = 60.0  # between two lines in a log file
_PER_S = 4  # times a terminal's line is drawn anew
_BAR = 10
_NEVER_S = 1e7  # 2,777 hours


class Line:
    """Something under way: ``Epoch 2/6 [===>      ] 35%  1:12, 2:14 left  loss 4.31``.

    In a terminal the line is redrawn four times a second, so that the time goes on also where nothing else is heard;
    what is said inside another line takes its place meanwhile. Elsewhere a line is written after five seconds, then
    every minute.

    Args:
        what: Is being done.
        total: How much there is to do; None where nobody knows.
        counted: Whether ``done`` and ``total`` are things that a reader may count, and not a share or bytes.

    Attributes:
        notes: Short texts behind it, the most important first; those that do not fit are left out.
    """

    def __init__(self, what: str, total: float | None = None, *, counted: bool = False) -> None:
        self.what, self.total, self.counted = what, total, counted
        self.notes: Sequence[str] = ()
        self._done, self._start, self._began = 0.0, 0.0, time.monotonic()

    def __enter__(self) -> Line:
        self._began = time.monotonic()
        _screen.show(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.total:
            self._done = self.total
        _screen.hide(self)

    def start_at(self, done: float) -> None:
        """Say how much was done before; the time left is reckoned from what is done here."""
        self._start = self._done = done

    def at(self, done: float) -> None:
        """Say how much is done."""
        self._done = done

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def text(self, width: int) -> str:
        """Return the line, no longer than ``width`` characters."""
        elapsed = self.elapsed_s
        clock = _clock(elapsed)
        pieces = []
        if self.total:
            share = min(self._done / self.total, 1.0)
            full = int(share * _BAR)
            bar = "=" * full + ">" * (0 < share < 1)
            many = f"{self._done:,.0f}/{self.total:,.0f}" if self.counted else f"{share:.0%}"
            pieces = [f"[{bar:<{_BAR}}]" if full < _BAR else f"[{'=' * _BAR}]", many]
            if self._start < self._done < self.total:
                clock += f", {_clock(elapsed * (self.total - self._done) / (self._done - self._start))} left"
        line = " ".join([self.what, *pieces]) + f"  {clock}"
        if len(line) > width:
            line = f"{self.what[: max(1, width - len(clock) - 3)]}…  {clock}"
        for note in self.notes:
            if len(line) + 2 + len(note) <= width:
                line += f"  {note}"
        return line[:width]


def tracked(things: Iterable[T], what: str, total: int, *, first: int = 0, each: int = 1) -> Iterator[T]:
    """Yield the things and show how many of them have been dealt with.

    Args:
        things: To yield.
        what: Is done with them.
        total: How many there are.
        first: How many were dealt with before.
        each: How many one of ``things`` stands for.
    """
    with Line(what, total, counted=True) as line:
        line.start_at(first)
        for number, thing in enumerate(things):
            line.at(first + number * each)
            yield thing


def loading(name: Any) -> AbstractContextManager[object]:
    """Show that a model is being loaded; where it has to be downloaded first, the hub's own bars do.

    Args:
        name: Of the hub, or a folder; anything else is no model that could be downloaded.
    """
    if isinstance(name, str) and not Path(name).is_dir():
        from huggingface_hub import try_to_load_from_cache

        with suppress(ValueError):  # a name that is none is refused by whoever loads it
            if not isinstance(try_to_load_from_cache(name, "config.json"), str):
                return nullcontext()
    return Line("Loading the model" if name else "Making the model")


class _Screen:
    """The lines that are shown: the last one that began, in a terminal or a log file."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._lock = threading.RLock()
        self._live: Live | None = None
        self._writer: _Writer | None = None

    def show(self, line: Line) -> None:
        if not first_process():
            return
        with self._lock:
            self._lines.append(line)
            if len(self._lines) == 1:
                self._begin()

    def hide(self, line: Line) -> None:
        with self._lock:
            if line not in self._lines:
                return
            self._lines.remove(line)
            is_long = line.elapsed_s >= _LONG_S
            if self._live:
                if is_long:
                    self._live.console.print(line.text(self._live.console.width - 1), highlight=False, markup=False)
                if not self._lines:
                    self._end()
            elif self._writer:
                if is_long:
                    self._writer.write(line)
                if not self._lines:
                    self._writer.over.set()
                    self._writer = None

    def text(self, width: int) -> str:
        """Return the line to show."""
        lines = self._lines[-1:]
        return lines[0].text(width) if lines else ""

    def current(self) -> Line | None:
        """Return the line that is shown."""
        return self._lines[-1] if self._lines else None

    def _begin(self) -> None:
        if not sys.stderr.isatty() or parent_process() is not None:  # jobs side by side would draw over each other
            self._writer = _Writer(self)
            self._writer.start()
            return
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        console = Console(stderr=True)
        self._live = Live(
            console=console,
            get_renderable=lambda: Text(self.text(console.width - 1), no_wrap=True),
            refresh_per_second=_PER_S,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        before = sys.stdout, sys.stderr
        self._live.start()
        _redirect_logs(dict(zip(before, (sys.stdout, sys.stderr), strict=True)))

    def _end(self) -> None:
        assert self._live is not None
        shown = sys.stdout, sys.stderr
        self._live.stop()
        _redirect_logs(dict(zip(shown, (sys.stdout, sys.stderr), strict=True)))
        self._live = None


class _Writer(threading.Thread):
    """Writes the line of a screen that is no terminal: after five seconds, then every minute."""

    def __init__(self, screen: _Screen) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self._screen = screen

    def run(self) -> None:
        pause = _LONG_S
        while not self.over.wait(pause):
            line = self._screen.current()
            pause = _AGAIN_S if line else _LONG_S
            if line:
                self.write(line)

    @staticmethod
    def write(line: Line) -> None:
        print(line.text(200), file=sys.stderr, flush=True)


def _redirect_logs(streams: dict[Any, Any]) -> None:
    """Let log handlers write above the line, as everything does that looks ``sys.stdout`` up."""
    for handler in logging.getLogger().handlers:
        stream = getattr(handler, "stream", None)
        if isinstance(handler, logging.StreamHandler) and stream in streams:
            handler.setStream(streams[stream])


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(min(seconds, _NEVER_S)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


_screen = _Screen()
