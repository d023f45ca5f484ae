"""Sessions: `quickstart` runs the main job, `tests` passes the tests; `slow`, `bench` and `recbole` take longer."""

import subprocess
from pathlib import Path

import nox

nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True


def _install(session: nox.Session, *arguments: str) -> None:
    """Install what a session needs; pip says what it fetches and how far it is, which nox would keep to itself."""
    session.log("Installing 1.8 GB of packages, once: about two minutes")
    session.install(*arguments, silent=False)


@nox.session
def quickstart(session: nox.Session) -> None:
    """Train ILRec stage 1 on ML-100K from scratch and print its test table; arguments are passed on as overrides."""
    _install(session, "-e", ".")
    session.run("python", "-m", "src.run", "+experiment=ilrec_stage1", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Lint, types and tests."""
    # Compiling all of the packages takes as long as installing them, and most of it is never imported.
    _install(session, "--no-compile", "-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    # Types beside the tests: it keeps one core busy, and they wait for disks and for each other.
    types = subprocess.Popen([Path(session.bin, "mypy")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    # By files, as the tests of one share what takes long to make, and in the order of tests/conftest.py.
    # They may keep what they compile, as tests start dozens of processes.
    options = ["-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder"]
    try:
        session.run("pytest", *options, *session.posargs, env={"PYTHONDONTWRITEBYTECODE": ""})
    finally:
        session.log(f"mypy: {types.communicate()[0].strip()}")
    if types.returncode:
        session.error("mypy found faults")


@nox.session
def slow(session: nox.Session) -> None:
    """Tests that take minutes or need the 93 MB model wheel."""
    session.install("-e", ".[dev]")
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Print the measured ratios: decoding, step cost, losses at any density of negatives, start-up."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "tests.bench", *session.posargs)


@nox.session(python="3.11")
def recbole(session: nox.Session) -> None:
    """Train SASRec, GRU4Rec and Caser beside stock RecBole 1.2.1 on the same sequences and print the ratios."""
    session.install("-e", ".")
    # An environment of its own: it needs packages older than ours, and Python 3.11 at most.
    theirs = Path(session.create_tmp(), "recbole").resolve()  # it is run from another folder
    session.run("python", "-m", "venv", str(theirs))
    python = str(theirs / "bin" / "python")
    pins = ["torch==2.13.0", "recbole==1.2.1", "numpy<2", "pandas<3", "setuptools<81"]
    session.run(python, "-m", "pip", "install", *pins, external=True)
    session.run("python", "-m", "tests.benchmarks.beside_recbole", python, *session.posargs)
