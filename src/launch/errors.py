"""The one exception for faults that the user can mend, and the command that goes on after one."""

import shlex
from pathlib import Path


class InputError(Exception):
    """Something the user gave is wrong; the message says what was got, what is needed and what to type.

    ``src.run`` prints the message without a traceback; every other exception is a defect of this project and keeps its
    traceback.
    """


def resume_command(folder: Path) -> str:
    """Return the command that goes on with the run in a folder, as a shell reads it."""
    return f"python -m src.run {shlex.quote(f'resume={folder}')}"
