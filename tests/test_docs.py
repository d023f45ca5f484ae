"""Documentation: every command on its pages composes or runs, the how-tos' code works, the site has no dead link."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import open_dict

from src.launch.config import check, prepare_arguments, resolve
from src.launch.errors import InputError
from src.run import CONF
from tests.test_packaging import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "pages").rglob("*.md"))
HOW_TOS = [page for page in PAGES if page.parent.name == "howto"]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]


def commands(text):
    """Words of each command in blocks of bash, without comments and variables before them, `<...>` filled in."""
    for block in re.findall(r"^```bash\n(.*?)^```", text.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            for command in re.sub(r"<[^>]*>", "given", line).split("&&"):
                words = shlex.split(command, comments=True)
                yield [word for at, word in enumerate(words) if at or not re.match(r"[A-Z_]+=", word)]


COMMANDS = [(text.relative_to(ROOT).as_posix(), words) for text in TEXTS for words in commands(text) if words]


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A folder with every file that the how-tos show, and one for each that their commands name."""
    folder = tmp_path_factory.mktemp("shown")
    for page in HOW_TOS:
        for title, text in re.findall(r'^```\w+ title="(.*?)"\n(.*?)^```', page.read_text(), re.MULTILINE | re.DOTALL):
            path = folder / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return folder


@pytest.fixture
def there(shown, monkeypatch):
    """Be in that folder, as a reader who follows the pages."""
    monkeypatch.chdir(shown)
    monkeypatch.syspath_prepend(str(shown))
    monkeypatch.setenv("ILREC_GISA_TRUST", "mine")
    yield shown
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def composes(arguments, folder):
    """Compose the first job of a command line as ``src.run`` does, and pass the check, but for files that it needs."""
    if arguments[-1].startswith("resume="):
        with pytest.raises(InputError, match="I find no run there"):
            prepare_arguments(arguments, CONF)
        return
    arguments = [word for word in prepare_arguments(arguments, CONF) if word not in ("--help", "--cfg", "job")]
    own = [
        f"file://{folder / arguments.pop(arguments.index(word) + 1)}" for word in arguments if word == "--config-dir"
    ]
    overrides = [word for word in arguments if not word.startswith("-")]
    jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [*jobs[0][0], f"hydra.searchpath=[{','.join(own)}]"], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg.copy())
    with open_dict(cfg):
        del cfg["hydra"]
    try:
        check(resolve(cfg))
    except InputError as error:
        faults = str(error).splitlines()[1:]
        assert [fault for fault in faults if fault[0] == "-" and "no such file" not in fault] == []
    finally:
        HydraConfig.instance().cfg = None


def reports(arguments):
    """Parse the arguments and look into the folder, which holds nothing yet."""
    from src.report.__main__ import main

    assert main(arguments) == 1


def installs(arguments):
    """Name files that there are and extras that there are."""
    for word in arguments:
        if extras := re.fullmatch(r"\.\[(.*)\]", word):
            assert set(extras[1].split(",")) <= EXTRAS.keys()
        elif word.startswith("."):
            assert (ROOT / word).exists()


def names_a_session(arguments):
    assert re.search(rf"^def {arguments[-1]}\(", (ROOT / "noxfile.py").read_text(), re.MULTILINE)


KINDS = {
    ("python", "-m", "src.run"): composes,
    ("ilrec-gisa",): composes,
    ("python", "-m", "src.report"): reports,
    ("pip", "install"): installs,
    ("pip", "wheel"): installs,
    ("docker", "build", "-f"): lambda arguments: installs(arguments[:1]),
    ("nox", "-s"): names_a_session,
}


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value[-1])
def test_every_command_is_one_that_there_is(page, words, there, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    if words[:2] == ["docker", "run"]:
        words = words[words.index("ilrec-gisa") :]
    if words[-1] in ("mine/test_loss.py", "make_playlists.py"):
        return  # run below
    begins = next(begin for begin in KINDS if (*words[: len(begin)],) == begin)
    kind, arguments = KINDS[begins], words[len(begins) :]
    kind(arguments, there) if kind is composes else kind(arguments)


def test_what_the_how_tos_show_works(there, run, monkeypatch):
    """Every file of them, together: the loss's tests, a run of the stage on the data, a run of the model on them."""
    monkeypatch.setenv("ILREC_GISA_CACHE", str(there / "cache"))
    for name, check_it in runpy.run_path("mine/test_loss.py").items():
        if name.startswith("test_"):
            check_it()
    runpy.run_path("make_playlists.py")
    small = ["--config-dir", "conf", "dataset=playlists", "dataset.source.path=playlists.jsonl", "logger=none",
             "trainer.enable_progress_bar=false", "trainer.max_epochs=1", "trainer.accelerator=cpu"]  # fmt: skip
    tiny = ["tokenizer.codebook_size=4", "model.hidden_size=16", "model.intermediate_size=32", "model.num_layers=2",
            "model.num_heads=2", "prompt.max_history=4", "prompt.stride=5"]  # fmt: skip
    assert run(*small, *tiny, "+experiment=focal", "hydra.run.dir=outputs/focal/1") == 0
    assert (
        run(*small, "+experiment=sasrec", "model=decayed_mean", "name=decayed_mean", "hydra.run.dir=outputs/d/1") == 0
    )
    for folder in ("focal", "d"):
        assert json.loads((there / "outputs" / folder / "1" / "result.json").read_text())["status"] == "finished"
    from src.report.__main__ import main

    assert main(["outputs/focal"]) == 0


def test_the_site_builds_without_a_warning_and_no_link_is_dead(tmp_path):
    told = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", "docs/mkdocs.yml", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True)
    assert (built.returncode, built.stdout, built.stderr) == (0, "", "")
    assert (tmp_path / "dashboards.html").read_text().count("<img") == 2
    stage = (tmp_path / "settings" / "stage.html").read_text()
    assert "<td><code>int ≥ 1 or list[int ≥ 1], not empty</code></td>" in stage  # stage.layers, from its annotation
    assert "How many blocks before the final one vote" in stage  # from its docstring
    groups = {path.stem for path in (tmp_path / "settings").glob("*.html")} - {"index"}
    assert groups == {path.name for path in CONF.iterdir() if path.is_dir()}
    assert "def self_hard_negatives" not in (tmp_path / "api" / "losses.html").read_text().partition("<details")[0]
