"""The line that says what is done: never longer than the terminal is wide, with the time left, and out of the way."""

import logging
import os
import pty
import re
import sys
import threading
import time
from contextlib import contextmanager, suppress

from hypothesis import given
from hypothesis import strategies as st

from src.launch import progress
from src.launch.progress import Line, tracked


def line(what="Epoch 2/6", total=1.0, done=0.25, elapsed=75, start=0.0, notes=(), **more):
    made = Line(what, total, **more)
    made._began = time.monotonic() - elapsed
    made.start_at(start)
    made.at(done)
    made.notes = notes
    return made


def test_a_line_says_what_how_far_and_the_time_left_of_the_whole():
    # A quarter in 75 s: three quarters in 225 s.
    assert line(notes=["loss 4.31"]).text(80) == "Epoch 2/6 [==>       ] 25%  1:15, 3:45 left  loss 4.31"


def test_what_was_done_before_a_resume_does_not_make_the_rest_look_quick():
    # From a half to three quarters in 60 s: the last quarter takes 60 s.
    assert "1:00, 1:00 left" in line(start=0.5, done=0.75, elapsed=60).text(80)


def test_things_are_counted_where_a_reader_may_count_them_and_long_times_have_hours():
    assert line(total=3_000, done=1_000, elapsed=1_800, counted=True).text(80) == (
        "Epoch 2/6 [===>      ] 1,000/3,000  30:00, 1:00:00 left"
    )


def test_at_the_start_at_the_end_and_without_a_total_there_is_no_time_left():
    assert line(done=0).text(80) == "Epoch 2/6 [          ] 0%  1:15"
    assert line(done=1.0).text(80) == "Epoch 2/6 [==========] 100%  1:15"
    assert line(total=None).text(80) == "Epoch 2/6  1:15"


def test_notes_that_do_not_fit_are_left_out_and_shorter_ones_behind_them_are_not():
    shown = line(notes=["loss 4.31", "n" * 40, "ndcg@10 .05"]).text(80)
    assert shown.endswith("left  loss 4.31  ndcg@10 .05")


@given(
    st.text(min_size=1, max_size=200), st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 10**6), st.integers(20, 120)
)
def test_no_line_is_longer_than_it_may_be(what, total, done, elapsed, width):
    made = line(what, total, done=done, elapsed=elapsed, notes=["loss 4.31", "x" * 30], counted=True)
    assert len(made.text(width)) <= width


@contextmanager
def terminal(monkeypatch):
    """A terminal of 80 columns as error and output stream; what was written is in the list once it is over."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    ours, theirs = pty.openpty()
    read, written = [], []
    reader = threading.Thread(target=_read_all, args=(ours, read))
    reader.start()
    with os.fdopen(theirs, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.setattr(sys, "stdout", stream)
        yield written
    reader.join(timeout=5)
    os.close(ours)
    written += re.split("[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(read).decode()))


def _read_all(file, read):
    with suppress(OSError):  # how the end of a terminal is told
        while chunk := os.read(file, 10_000):
            read.append(chunk)


def test_in_a_terminal_it_is_one_line_that_others_write_above_and_that_goes_away(monkeypatch):
    with terminal(monkeypatch) as rows:
        handler = logging.StreamHandler(sys.stdout)
        monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
        with Line("Preparing " + "x" * 100, 4, counted=True) as outer:
            outer.at(1)
            print("printed")
            logging.getLogger("run").warning("logged")
            with Line("Encoding"):
                time.sleep(0.3)
        assert handler.stream is sys.stdout
    assert {"printed", "logged"} <= set(rows)  # each a row of its own
    assert any(row.startswith("Preparing xxx") for row in rows)
    assert any(row.startswith("Encoding  0:00") for row in rows)
    assert max(map(len, rows)) < 80
    assert rows[-1] == ""  # nothing stays of what took no time


def test_what_takes_long_leaves_a_line(monkeypatch):
    monkeypatch.setattr(progress, "_LONG_S", 0.0)
    with terminal(monkeypatch) as rows, Line("Encoding", 3, counted=True):
        pass
    assert "Encoding [==========] 3/3  0:00" in rows


def test_a_log_file_is_told_after_a_while_and_at_the_end(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LONG_S", 0.05)
    monkeypatch.setattr(progress, "_AGAIN_S", 0.05)
    for _ in tracked("abc", "Encoding", 3):
        time.sleep(0.1)
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("Encoding [          ] 0/3")
    assert told[-1].startswith("Encoding [==========] 3/3")
    with Line("Quick"):
        pass
    assert capsys.readouterr().err == ""


def test_other_processes_than_the_first_say_nothing(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LONG_S", 0.0)
    monkeypatch.setenv("RANK", "1")
    with Line("Encoding"):
        time.sleep(0.01)
    assert capsys.readouterr().err == ""
