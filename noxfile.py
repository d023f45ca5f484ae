"""Sessions: `quickstart` runs the main job, `tests` passes the tests; `slow`, `bench` and others take longer."""

import subprocess
from pathlib import Path

import nox

nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True

PINNED = ("-c", ".ci/constraints.txt", "-e")  # the versions that the tests have passed with
# By files, as the tests of one share what takes long to make, and in the order of tests/conftest.py.
PARALLEL = ("-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder")

# Even where a machine forbids it: tests start dozens of processes, and each would compile PyTorch and others anew.
KEEP_COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}


def _install(session: nox.Session, *arguments: str) -> None:
    """Install what a session needs; pip says what it fetches and how far it is, which nox would keep to itself."""
    session.log("Installing 1.8 GB of packages, once: about two minutes")
    session.install(*arguments, silent=False)


@nox.session
def quickstart(session: nox.Session) -> None:
    """Train ILRec stage 1 on ML-100K from scratch and print its test table; arguments are passed on as overrides."""
    _install(session, *PINNED, ".")
    session.run("python", "-m", "src.run", "+experiment=ilrec_stage1", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Lint, types and tests."""
    # Compiling all of the packages takes as long as installing them, and most of it is never imported.
    _install(session, "--no-compile", *PINNED, ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    # Types beside the tests: it keeps one core busy, and they wait for disks and for each other.
    types = subprocess.Popen([Path(session.bin, "mypy")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        session.run("pytest", *PARALLEL, *session.posargs, env=KEEP_COMPILED)
    finally:
        session.log(f"mypy: {types.communicate()[0].strip()}")
    if types.returncode:
        session.error("mypy found faults")


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """Run the tests at the lowest versions that pyproject.toml allows, in 6 GB of their own; arguments are pytest's."""
    _tests_at("lowest-direct", session)


@nox.session
def newest(session: nox.Session) -> None:
    """Run them at the newest versions that there are, likewise."""
    _tests_at("highest", session)


def _tests_at(resolution: str, session: nox.Session) -> None:
    session.install("uv")  # which can resolve to the lowest
    python = str(Path(session.bin, "python"))
    session.run("uv", "pip", "install", "--python", python, "--resolution", resolution, "--upgrade", "-e", ".[dev]")
    session.run("pytest", *PARALLEL, *session.posargs, env=KEEP_COMPILED)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/site/, which needs nothing of what runs need."""
    session.install("-c", ".ci/constraints.txt", "mkdocs-material", "mkdocstrings-python")
    session.run("mkdocs", "build", "-f", "docs/mkdocs.yml", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def slow(session: nox.Session) -> None:
    """Tests that take minutes or need the 93 MB model wheel."""
    _install(session, *PINNED, ".[dev]")
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session
def inspect(session: nox.Session) -> None:
    """Read the logs of runs by inspect-ai's own reader, which brings thirty packages and an older fsspec with it."""
    _install(session, *PINNED, ".[dev,inspect]")
    session.run("pytest", "tests/gisa/report/test_inspect_log.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Print the measured ratios: decoding, step cost, losses at any density of negatives, start-up."""
    _install(session, *PINNED, ".[dev]")
    session.run("python", "-m", "tests.bench", *session.posargs)


@nox.session(python="3.11")
def recbole(session: nox.Session) -> None:
    """Train SASRec, GRU4Rec and Caser beside stock RecBole 1.2.1 on the same sequences and print the ratios."""
    _install(session, *PINNED, ".")
    # An environment of its own: it needs packages older than ours, and Python 3.11 at most.
    theirs = Path(session.create_tmp(), "recbole").resolve()  # it is run from another folder
    session.run("python", "-m", "venv", str(theirs))
    python = str(theirs / "bin" / "python")
    pins = ["torch==2.13.0", "recbole==1.2.1", "numpy<2", "pandas<3", "setuptools<81"]
    session.run(python, "-m", "pip", "install", *pins, external=True)
    session.run("python", "-m", "tests.benchmarks.beside_recbole", python, *session.posargs)
