"""What is typed and Hydra's grammar: text that has to be quoted for it, and its errors in words."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from src.launch.errors import InputError

_NEEDS_NO_QUOTES = re.compile(r"[\w./+:@%?*-]*", re.ASCII)
_LIST, _NESTED = re.compile(r"\[.*\]"), re.compile(r"[()\[\]{}'\"]")


def readable(argument: str, *, multirun: bool = False) -> str:
    """Return ``KEY=VALUE`` with quotes around the value where Hydra could not read it, or would read a path as a list.

    Its grammar stumbles over ``=``, quotes, brackets, ``~``, ``<`` and everything that is not ASCII, and takes a comma
    for the next value of a sweep. In a list, typed or swept over, it is the parts that get them.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    def reads(value: str) -> Any:
        return OverridesParser.create().parse_override(f"key={value}")

    def readable_part(value: str) -> str:
        with suppress(HydraException):
            reads(value)
            return value
        return quoted(value.strip())

    key, equals, value = argument.partition("=")
    if not equals or _NEEDS_NO_QUOTES.fullmatch(value):
        return argument
    sweep = multirun and "," in value
    with suppress(HydraException):
        parsed = reads(value)
        several = not sweep and (parsed.is_sweep_override() or isinstance(parsed.value(), list | dict))
        is_text = several and (Path(value).exists() or key in ("hydra.run.dir", "hydra.sweep.dir"))
        return f"{key}={quoted(value)}" if is_text else argument
    if (sweep or _LIST.fullmatch(value)) and not _NESTED.search(value[1:-1]):
        first, last = ("[", "]") if _LIST.fullmatch(value) else ("", "")
        parts = value.removeprefix(first).removesuffix(last).split(",")
        return f"{key}={first}{','.join(map(readable_part, parts))}{last}"
    return argument if sweep else f"{key}={quoted(value)}"


def quoted(text: str) -> str:
    """Return text in the quotes of Hydra's grammar, in which a backslash counts before a quote only."""
    escaped = re.sub(r'(\\*)("|$)', lambda end: end[1] * 2 + end[2].replace('"', '\\"'), text)
    return f'"{escaped}"'


def unquoted(text: str) -> str:
    """Return the text of ``quoted``, or text that has no quotes as it is."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return str(OverridesParser.create().parse_override(f"key={text}").value()) if text.startswith('"') else text


def value_of(argument: str) -> Any:
    """Return the value of ``KEY=VALUE`` as Hydra reads it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(readable(argument)).value()


@contextmanager
def errors_of_hydra() -> Iterator[None]:
    """Let Hydra raise its errors instead of printing them and leaving, and turn those that can be mended into advice.

    Raises:
        InputError: the command line or the config files cannot be composed, or a file is in the way of the run folder.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(in_words(error)) from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"A file of configs is no YAML: {error}\nMend it, or choose another one.") from error
    except (OSError, ValueError) as error:  # the second from logging, which cannot open its file
        reason: BaseException | None = error
        while reason and not isinstance(reason, OSError):
            reason = reason.__cause__
        if reason is None:
            raise
        advice = "Type  hydra.run.dir=<a folder that I may write to>   (hydra.sweep.dir for a sweep)"
        raise InputError(f"Cannot write the run's files: {reason}.\n{advice}") from error
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def in_words(error: Exception) -> str:
    """Return what Hydra or OmegaConf found wrong with the command line, without its search path."""
    from hydra.errors import MissingConfigException, OverrideParseException

    cause = error.__cause__
    message = str(error).partition("\nConfig search path:")[0].strip().replace("'++", "'").replace("\\'", "'")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        close = difflib.get_close_matches(Path(error.missing_cfg_file).name, error.options, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        return f"{message.partition(chr(10))[0]}{meant}\nThere are: {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read: {message.partition(chr(10))[0]}\nI need KEY=VALUE or GROUP=CHOICE."
    return message if cause is None else f"{message}\n{cause}"
