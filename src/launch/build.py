"""From config nodes to objects: the only call of Hydra's instantiate."""

from __future__ import annotations

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate


def build(node: dict[str, Any]) -> Any:
    """Call the target of a config node, with plain containers as arguments; None for an empty one."""
    try:
        return instantiate(node, _convert_="all") if node else None
    except InstantiationException as wrapped:
        error: BaseException = wrapped
        while isinstance(error, InstantiationException) and error.__cause__:
            error = error.__cause__
        raise error from error.__cause__  # what the target raised; users know nothing of Hydra's wrapping
