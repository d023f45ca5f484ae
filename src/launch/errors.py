"""The one exception for faults that the user can mend, and the command that goes on after one."""

import shlex
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path


class InputError(Exception):
    """Something the user gave is wrong; the message says what was got, what is needed and what to type.

    ``src.run`` prints the message without a traceback; every other exception is a defect of this project and keeps its
    traceback.
    """


class JobError(Exception):
    """A job of a sweep has failed and said why; Hydra carries this out of whatever process it ran in.

    Attributes:
        status: Exit status: 1 for a defect, 2 for a fault to mend.
    """

    def __init__(self, status: int) -> None:
        """Store the status."""
        super().__init__(status)  # what pickle calls it with again
        self.status = status


class PrunedError(Exception):
    """A search has ended this trial early, as it falls behind the others."""


def resume_command(folder: Path) -> str:
    """Return the command that goes on with the run in a folder, as a shell reads it."""
    return f"python -m src.run {shlex.quote(f'resume={folder}')}"


def install_command(extra: str) -> str:
    """Return the command that installs the packages of an extra: by its name in a checkout, by theirs elsewhere."""
    if (Path(__file__).parents[2] / "pyproject.toml").is_file():
        return f"pip install -e '.[{extra}]'"
    try:
        wanted = [text.replace('"', "'").split(";") for text in requires("ilrec-gisa") or ()]
    except PackageNotFoundError:  # the source without the package
        wanted = []
    named = [f"'{name.strip()}'" for name, *marks in wanted if f"extra == '{extra}'" in " ".join(marks)]
    return f"pip install {' '.join(named) or extra}"
