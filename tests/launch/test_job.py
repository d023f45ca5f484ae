import errno
import gc
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import huggingface_hub.utils
import pytest
import transformers.utils.logging
from transformers.utils.logging import get_logger

from src.launch.errors import InputError
from src.launch.job import cannot_write, free_memory, quieten, run_job


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_let_go_of_goes_back_to_the_system_even_from_below_what_is_kept():
    many = [bytearray(100_000) for _ in range(3000)]
    kept = many[::100]  # at the end, too: the heap cannot shrink from there
    before = resident_mb()
    del many
    free_memory()
    assert resident_mb() < before - 200
    assert len(kept) == 30


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_blocks_of_less_than_32_mb_are_there_for_the_next_ones(keep):
    """Ten times twelve blocks of 20 MB: the pages are touched once where they are kept, each time where not."""
    script = """
import resource, sys
from src.launch.job import keep_memory
if sys.argv[1] == "True":
    keep_memory()
for _ in range(10):
    blocks = [b"x" * 20_000_000 for _ in range(12)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt * 4096 / 1e6)
"""
    ran = subprocess.run([sys.executable, "-c", script, str(keep)], capture_output=True, text=True, check=True)
    faults_mb = float(ran.stdout)
    assert 240 < faults_mb < 500 if keep else 1000 < faults_mb < 3000


@pytest.mark.parametrize(
    ("number", "path", "advice"),
    [(errno.ENOSPC, None, "Free some room there"), (errno.EACCES, "run/config.yaml", "in the way is run/config.yaml"),
     (errno.ENOTDIR, "run", "in the way is run"), (errno.EROFS, "run/x/y", "type hydra.run.dir=<another>")],
)  # fmt: skip
def test_a_folder_that_cannot_be_written_is_told_with_what_is_in_the_way(number, path, advice):
    text = cannot_write(Path("run"), OSError(number, os.strerror(number), path))
    assert text.startswith(f"Cannot write into run: {os.strerror(number)}.\n")
    assert advice in text


@pytest.mark.parametrize(("number", "path"), [(errno.EACCES, "/data/x"), (errno.ENOENT, "tests/x"), (errno.EIO, "run")])
def test_errors_about_something_else_are_no_matter_of_the_folder(number, path):
    assert cannot_write(Path("tests"), OSError(number, "", path)) is None


def test_the_collector_of_garbage_rests_while_a_check_imports_and_works_again_when_it_has_failed(tmp_path, monkeypatch):
    found = []

    def check(*_, **__):
        found.append(gc.isenabled())
        raise InputError("a fault")

    monkeypatch.setattr("src.launch.job.check", check)
    config = {"name": "x", "seed": 1, "task": {"_target_": "x"}}
    with pytest.raises(InputError, match="a fault"):
        run_job(config, tmp_path / "run", [], resume=False)
    assert (found, gc.isenabled()) == ([False], True)


@pytest.mark.parametrize("imported", [[], ["triton"]])
def test_what_has_been_imported_is_not_looked_through_at_the_end_unless_it_would_complain(imported):
    script = (
        "import atexit, gc, sys\nfrom src.launch.job import end_at_once\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 0))\nend_at_once()\nend_at_once()\n"
        f"sys.modules.update(dict.fromkeys({imported}, sys))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == f"{not imported}\n"


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
