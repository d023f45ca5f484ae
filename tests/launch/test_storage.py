import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from src.launch.errors import InputError
from src.launch.storage import cache_folder, fetch_from_wheel, locked, sha256_of, write_atomic, writing_to_cache

REPOSITORY = Path(__file__).parents[2]
CONTENT = b"the member\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ILREC_GISA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder that is pip's only index, holding the wheel demo 1.0 with one member."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    write_wheel(folder / "demo-1.0-py3-none-any.whl")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("demo/data.bin", CONTENT)
        archive.writestr("demo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        archive.writestr("demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("demo-1.0.dist-info/RECORD", "")


def files_below(folder):
    return [path for path in folder.rglob("*") if not path.is_dir()]


def test_the_cache_folder_follows_the_environment_variable(cache):
    assert cache_folder() == cache


def test_an_empty_environment_variable_means_the_home_folder(monkeypatch):
    monkeypatch.setenv("ILREC_GISA_CACHE", "")
    assert cache_folder() == Path.home() / ".cache" / "ilrec-gisa"


def test_write_atomic_makes_folders_and_replaces_the_file(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, "old")
    write_atomic(path, lambda stream: stream.write(b"new"))
    assert path.read_text() == "new"
    assert sha256_of(path) == hashlib.sha256(b"new").hexdigest()


def test_an_interrupted_write_leaves_the_old_file_and_no_temporary_file(tmp_path):
    path = tmp_path / "b.txt"
    write_atomic(path, "old")

    def half(stream):
        stream.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, half)
    assert path.read_text() == "old"
    assert files_below(tmp_path) == [path]


def test_a_member_is_fetched_once_and_then_read_from_the_cache(cache, shelf):
    path = fetch_from_wheel("demo==1.0", "demo/data.bin", SHA256)
    assert path == cache / "wheels" / "demo-1.0" / "demo" / "data.bin"
    assert path.read_bytes() == CONTENT
    (shelf / "demo-1.0-py3-none-any.whl").unlink()
    assert fetch_from_wheel("demo==1.0", "demo/data.bin", SHA256) == path
    assert files_below(cache) == [path]


def test_a_wheel_is_fetched_as_a_whole(cache, shelf):
    wheel = shelf / "demo-1.0-py3-none-any.whl"
    path = fetch_from_wheel("demo==1.0", None, sha256_of(wheel))
    assert path == cache / "wheels" / "demo-1.0" / "package.whl"
    assert path.read_bytes() == wheel.read_bytes()
    with pytest.raises(InputError, match="is not the wheel I know: as a whole: wrong checksum"):
        fetch_from_wheel("demo==1.0", None, "0" * 64)


def test_a_damaged_cached_member_is_fetched_again(cache, shelf):
    path = fetch_from_wheel("demo==1.0", "demo/data.bin", SHA256)
    path.write_bytes(b"the membeR\n")
    assert fetch_from_wheel("demo==1.0", "demo/data.bin", SHA256).read_bytes() == CONTENT


def test_a_wrong_checksum_names_both_hashes_and_leaves_no_file(cache, shelf):
    with pytest.raises(
        InputError, match=rf"demo/data.bin: wrong checksum, got sha256 {SHA256}, expected 0000"
    ) as error:
        fetch_from_wheel("demo==1.0", "demo/data.bin", "0" * 64)
    assert "I need the release demo==1.0 from PyPI" in str(error.value)
    assert files_below(cache) == []


def test_a_wheel_without_the_member_is_refused_by_name(cache, shelf):
    with pytest.raises(InputError, match="demo-1.0-py3-none-any.whl, as pip found it, is not the wheel I know"):
        fetch_from_wheel("demo==1.0", "demo/other.bin", SHA256)
    assert files_below(cache) == []


def test_no_network_on_first_use_says_how_to_bring_the_wheel(cache, shelf, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(InputError) as error:
        fetch_from_wheel("demo==1.0", "demo/data.bin", SHA256)
    message = str(error.value)
    assert message.startswith("pip could not download demo==1.0:\n")
    assert "I need a network or a package index once" in message
    assert "pip download demo==1.0 --no-deps -d <folder>" in message
    assert "PIP_FIND_LINKS=<folder>" in message
    assert files_below(cache) == []


def test_a_python_without_pip_is_told_how_to_get_it(cache, tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    call = "from src.launch.storage import fetch_from_wheel as f; f('demo==1.0', 'demo/data.bin', '0')"
    python = tmp_path / "bare" / "bin" / "python"
    done = subprocess.run([python, "-c", call], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert "has no pip, and I need it once to download demo==1.0" in done.stderr
    assert "uv pip install pip" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, the device that is always full")
def test_a_full_disk_names_the_folder_and_the_variable_and_leaves_no_file(cache, shelf):
    folder = cache / "wheels" / "demo-1.0" / "demo"
    folder.mkdir(parents=True)
    (folder / f".data.bin.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(InputError, match="No space left on device") as error:
        fetch_from_wheel("demo==1.0", "demo/data.bin", SHA256)
    assert str(cache) in str(error.value)
    assert "export ILREC_GISA_CACHE=<folder>" in str(error.value)
    assert files_below(cache) == []


def test_a_disk_that_fills_while_pip_downloads_gives_the_same_message(tmp_path, shelf):
    with zipfile.ZipFile(shelf / "demo-1.0-py3-none-any.whl", "a") as archive:
        archive.writestr("demo/noise.bin", os.urandom(200_000))
    small = tmp_path / "small"
    small.mkdir()
    call = "from src.launch.storage import fetch_from_wheel as f; f('demo==1.0', 'demo/data.bin', '0')"
    # A private mount of a 64 kB disk, visible to this one process only.
    script = 'mount -t tmpfs -o size=64k small "$ILREC_GISA_CACHE" || exit 77; exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, sys.executable, call],
        cwd=REPOSITORY,
        env={**os.environ, "ILREC_GISA_CACHE": str(small)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this system does not let a test mount a small disk")
    assert f"Cannot write into the cache folder {small}: No space left on device" in done.stderr


def test_a_cache_folder_that_is_a_file_is_named(tmp_path, monkeypatch, shelf):
    (tmp_path / "cache").write_text("in the way")
    monkeypatch.setenv("ILREC_GISA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="Cannot write into the cache folder .*cache: "):
        fetch_from_wheel("demo==1.0", "demo/data.bin", SHA256)


def test_other_errors_pass_through_writing_to_cache():
    with pytest.raises(ZeroDivisionError), writing_to_cache():
        raise ZeroDivisionError


def test_a_locked_folder_is_held_until_its_process_leaves_or_is_killed(cache):
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        with locked(cache / "a"):
            os.write(writing, b"mine")
            signal.pause()
    assert os.read(reading, 4) == b"mine"
    with (cache / "a" / ".lock").open() as stream:
        with pytest.raises(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with locked(cache / "b"):  # another folder is free
            pass
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with locked(cache / "a"), locked(cache / "b"):
        pass


def test_a_folder_that_cannot_be_made_to_lock_is_told(cache):
    cache.write_text("a file")
    with pytest.raises(InputError, match="Cannot write into the cache folder .*cache: "), locked(cache / "a"):
        pass
