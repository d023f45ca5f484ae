"""What libraries tell at every start and no user of this project can do anything about."""

from __future__ import annotations

import logging
import sys
import warnings

_WARNINGS = (
    ".*LeafSpec.* is deprecated",  # of Lightning, about itself
    ".*past_key_values.* is deprecated",  # of transformers; pyproject.toml knows
)
_LOGS = ("lightning", "lightning.pytorch")  # devices and restored files at every start


def quieten() -> None:
    """Filter them; what is left is worth reading. To be called again when libraries have been imported."""
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in _LOGS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in logging.getLogger("transformers").handlers:
        handler.addFilter(_is_news)
    if "transformers.utils.logging" in sys.modules:
        from huggingface_hub.utils import enable_progress_bars  # type: ignore[attr-defined]
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # of weights that are read from a folder, and written
        enable_progress_bars()  # of downloads, which it has switched off, too


def _is_news(record: logging.LogRecord) -> bool:
    """Whether transformers tells what warnings have not told already."""
    return "are deprecated. Use `cache` instead" not in record.getMessage()
