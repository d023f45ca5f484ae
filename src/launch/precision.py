"""``auto`` in a config: bfloat16 where the device multiplies it, float32 where it gains nothing or is emulated."""

from __future__ import annotations

import copy
import platform
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Dtype = Literal["auto", "float32", "bfloat16"]
_AUTO = "auto"
_VALUES = {"dtype": ("float32", "bfloat16"), "precision": ("32-true", "bf16-mixed")}  # of a setting, for auto
_WORDS = {"cpu": "processor", "cuda": "GPU", "mps": "Apple GPU"}
_DOES = {True: "multiplies bfloat16", False: "emulates bfloat16", "mps": "is no faster in bfloat16"}


def multiplies_bfloat16(device: str) -> bool:
    """Whether a device multiplies bfloat16 faster than float32; never so for an Apple GPU, where it saves memory only.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``.
    """
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu" or not torch._C._has_mkldnn:  # as in wheels for macOS
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):  # where oneDNN says yes to AVX-512 without products, too
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def torch_dtype(dtype: Dtype, device: str = _AUTO) -> torch.dtype:
    """Return PyTorch's type of that name; of ``auto``, the one for the device."""
    import torch

    chosen = _VALUES["dtype"][multiplies_bfloat16(_kind(device))] if dtype == _AUTO else dtype
    found: torch.dtype = getattr(torch, chosen)
    return found


def settled(config: Mapping[str, Any], *beside: Any) -> tuple[dict[str, Any], str]:
    """Put a value in place of every ``auto`` of ``trainer.precision``, and of the ``dtype`` of a part of ours.

    Args:
        config: Plain and resolved, perhaps not yet checked.
        beside: Settled configs of runs to be compared with this one, or of itself as it began: what they have is taken.

    Returns:
        The config, and a line that says what was chosen and why; empty where there was nothing to choose.
    """
    settled_config = copy.deepcopy(dict(config))
    said: dict[str, list[str]] = {}
    for node, path, key, named in _settings(settled_config):
        if node[key] == _AUTO:
            device = _kind(named)
            native = multiplies_bfloat16(device)
            here = _VALUES[key][native]
            there = (_at(one, [*path.split("."), key]) for one in beside)
            node[key] = next((value for value in there if value in _VALUES[key]), here)
            why = f"this {_WORDS[device]} {_DOES[device if device == 'mps' else native]}"
            why = why if node[key] == here else "in the runs before it, on another machine"
            said.setdefault(why, []).append(f"{path}.{key}=auto: {node[key]}")
    return settled_config, "; ".join(f"{', '.join(chosen)}, as {why}" for why, chosen in said.items())


def emulated(config: Mapping[str, Any], *, resumed: bool) -> str:
    """Say which settings of a settled config make it slow for nothing, and what to type; empty for none."""
    slow: dict[str, list[str]] = {}
    for node, path, key, named in _settings(config):
        if not str(node[key]).startswith(("bf16", "bfloat16")):
            continue
        device = _kind(named)
        if device != "mps" and not multiplies_bfloat16(device):
            slow.setdefault(f"this {_WORDS[device]} {_DOES[False]}", []).append(f"{path}.{key}={node[key]}")
    typed = [f"{one.partition('=')[0]}=auto" for settings in slow.values() for one in settings]
    advice = "as it began so, it goes on so" if resumed else f"type {' '.join(typed)}"
    found = "; ".join(f"{', '.join(settings)}: {why}" for why, settings in slow.items())
    return found and f"{found}, up to ten times slower than float32; {advice}"


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str, str, Any]]:
    """Yield the settings in question: the node, its path, the key in it, and the device that computes."""
    trainer = config.get("trainer")
    accelerator = trainer.get("accelerator") if isinstance(trainer, dict) else None
    if isinstance(trainer, dict) and "precision" in trainer:
        yield trainer, "trainer", "precision", accelerator
    inner = [(value, key) for key, value in config.items()]
    for node, path in inner:  # which grows by what is in it
        if isinstance(node, dict):
            if str(node.get("_target_")).startswith("src.") and "dtype" in node:
                yield node, path, "dtype", node.get("device") or node.get("accelerator") or accelerator
            inner += [(value, f"{path}.{key}") for key, value in node.items()]


def _kind(device: Any) -> str:
    """Return the kind of a device, named as PyTorch or Lightning do; what is there, as Lightning takes it, for auto."""
    import torch

    kind = str(device).partition(":")[0]
    if kind in ("cpu", "cuda", "mps"):
        return kind
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def _at(config: Any, path: list[str]) -> Any:
    """Return the value at a path of a config, or None."""
    for key in path:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config
