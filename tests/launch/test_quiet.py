"""What libraries tell at every start is filtered, and nothing else."""

import logging
import warnings

import huggingface_hub.utils
import transformers.utils.logging
from transformers.utils.logging import get_logger

from src.launch.quiet import quieten


def test_known_noise_of_libraries_is_left_out_and_other_warnings_are_not(capsys, monkeypatch):
    get_logger()  # with whose first call transformers' handler is made
    handler = logging.getLogger("transformers").handlers[0]
    said = []
    monkeypatch.setattr(handler, "emit", lambda record: said.append(record.getMessage()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quieten()
        quieten()
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated", FutureWarning, stacklevel=1)
        warnings.warn("a loss is NaN", UserWarning, stacklevel=1)
    assert [str(one.message) for one in caught] == ["a loss is NaN"]
    get_logger("transformers.models").warning("`past_key_values`/`cache_params` are deprecated. Use `cache` instead.")
    get_logger("transformers.models").warning("The weights do not fit.")
    assert said == ["The weights do not fit."]
    assert logging.getLogger("lightning.pytorch").level == logging.WARNING


def test_bars_of_weights_that_are_read_in_a_moment_are_left_out_and_those_of_downloads_are_not():
    quieten()
    assert not transformers.utils.logging.is_progress_bar_enabled()
    assert not huggingface_hub.utils.are_progress_bars_disabled()
