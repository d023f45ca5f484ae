"""Runs in processes of their own, to be killed or to be two: started as a user does, or as forks of this process.

A fork has imported everything already, which takes a fresh process 5 to 7 s of CPU time; else it is a process as any.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def start(module, *arguments):
    """Start a Python module as a user does; its messages go to a pipe."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def start_two(*arguments):
    """Start ``src.run`` in two processes of torchrun's."""
    return start("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "src.run", *arguments)


def fork(*arguments):
    """Start ``src.run`` in a fork; where there is CUDA, which no fork of a process that uses it can, as a user does."""
    return start("src.run", *arguments) if torch.cuda.is_available() else Fork(call, arguments, {})


def fork_two(*arguments):
    """Start ``src.run`` in two forks that find each other as processes of torchrun's do; return both."""
    if torch.cuda.is_available():
        return [start_two(*arguments)]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {
        "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2,
        "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0,
    }  # fmt: skip
    return [Fork(call, arguments, {**shared, "RANK": rank, "LOCAL_RANK": rank}) for rank in range(2)]


def torchrun_two(*arguments):
    """Start ``src.run`` by torchrun's own agent, which forks its two processes."""
    return start_two(*arguments) if torch.cuda.is_available() else Fork(_agent, arguments)


def _agent(arguments):
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    standalone = ("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0")  # what torchrun makes of --standalone
    config, *_ = config_from_args(parse_args([*standalone, "--nproc-per-node=2", "-m", "src.run"]))
    config.start_method = "fork"
    elastic_launch(config, _worker)(arguments)
    return 0


def _worker(arguments):
    if status := call(arguments, os.environ):
        sys.exit(status)


def call(arguments, environment):
    """Call ``src.run`` with a command line and an environment, in a fork."""
    os.chdir(ROOT)
    os.environ.update({name: str(value) for name, value in environment.items()})
    sys.argv = ["src.run", *map(str, arguments)]
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    from src.run import main

    rank_zero_only.rank = int(environment.get("RANK", 0))  # decided when it was imported
    return main()


def finish(*processes):
    """Wait until all have ended well and return what they said; one that fails takes the others with it."""
    while any([one.poll() is None for one in processes]):
        if any(one.returncode for one in processes):
            for one in processes:
                one.kill()
        time.sleep(0.02)
    output = "".join(one.communicate()[0] for one in processes)
    assert not any(one.returncode for one in processes), output
    return output


class Fork:
    """What the tests use of ``subprocess.Popen``, for a fork that calls a function, which returns its exit status."""

    def __init__(self, function, *arguments):
        self.returncode = None
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.pid = os.fork()
        if not self.pid:
            self._run(function, arguments)

    def _run(self, function, arguments):
        status = 1
        atexit._clear()  # what this process leaves to be done is its own
        try:
            for descriptor in (1, 2):
                os.dup2(self._output.fileno(), descriptor)
            sys.stdout, sys.stderr = (open(one, "w", buffering=1, closefd=False) for one in (1, 2))  # noqa: SIM115
            status = function(*arguments)
            atexit._run_exitfuncs()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def poll(self):
        return self._wait(os.WNOHANG)

    def _wait(self, options=0):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:  # else there is none of this number, or another's
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def communicate(self):
        """Wait for the end and return what was said, as Popen does."""
        self._wait()
        self._output.seek(0)
        return self._output.read(), None
