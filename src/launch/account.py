"""Where runs of Weights & Biases go, as its own client finds it: mode, host and key; importing that takes a second."""

from __future__ import annotations

import configparser
import netrc
import os
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

Mode = Literal["offline", "online", "disabled"]
_OLD_NAMES: dict[str, Mode] = {"dryrun": "offline", "run": "online", "shared": "online"}


def mode_of(setting: Mode | None) -> Mode:
    """Return where a run goes: as set, else as ``WANDB_MODE`` or ``wandb offline|online`` say, else offline.

    A run that ``wandb agent`` starts is online, as its sweep is.
    """
    said = setting or os.environ.get("WANDB_MODE") or _stored("mode")
    if not said:
        return "online" if os.environ.get("WANDB_SWEEP_ID") else "offline"
    known = _OLD_NAMES.get(said, said)
    return known if known in ("offline", "online", "disabled") else "offline"  # type: ignore[return-value]


def host() -> str:
    """Return the address of the server: of ``WANDB_BASE_URL``, or where ``wandb login --host`` puts it."""
    return (os.environ.get("WANDB_BASE_URL") or _stored("base_url") or "https://api.wandb.ai").rstrip("/")


def has_key() -> bool:
    """Whether the client will find a key: in the environment, in netrc or in its files of settings."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or _stored("api_key"):
        return True
    paths = [os.environ.get("NETRC") or "~/.netrc", "~/_netrc"]
    for path in (Path(path).expanduser() for path in paths):
        try:
            if netrc.netrc(path).authenticators(urlsplit(host()).netloc):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def unreachable(seconds: float = 10.0) -> str | None:
    """Return why no server answers at ``host()``; None if one does, whatever it says."""
    try:
        urlopen(host(), timeout=seconds).close()  # noqa: S310
    except HTTPError:
        return None
    except (URLError, OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return None


def _stored(key: str) -> str | None:
    """Return a setting of the client's files; the one of this folder goes before the user's."""
    folder = os.environ.get("WANDB_DIR") or "."
    own = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    for path in (Path(folder, ".wandb", "settings"), Path(folder, "wandb", "settings"), Path(own, "settings")):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(path.expanduser(), encoding="utf-8")
            if value := parser.get("default", key, fallback=None):
                return value
        except (configparser.Error, UnicodeDecodeError):
            continue
    return None
