"""The package: bounds that the pins keep, imports that are declared, a wheel that runs from anywhere."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = {
    canonicalize_name(one.name): one.specifier
    for one in map(Requirement, [*PROJECT["dependencies"], *(text for texts in EXTRAS.values() for text in texts)])
}
PINS = [Requirement(line) for line in (ROOT / ".ci/constraints.txt").read_text().splitlines() if line[0] != "#"]


def test_the_pinned_versions_lie_within_the_bounds():
    assert len(PINS) > 40
    for pin in PINS:
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert exact.version in DECLARED.get(canonicalize_name(pin.name), pin.specifier), pin
    assert {"torch": "2.13.0"}.items() <= {pin.name: next(iter(pin.specifier)).version for pin in PINS}.items()


@pytest.mark.parametrize("name", ["torch", "transformers", "peft", "wandb"])
def test_what_changes_often_has_a_lowest_version_and_no_highest(name):
    assert [bound.operator for bound in DECLARED[name]] == [">="]
    assert "2.6.0" not in DECLARED["torch"]  # with which peft fails


def test_every_import_of_the_source_is_declared():
    """Those of other people's packages, wherever in a file; what is installed says which package they come from."""
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.partition(".")[0])
    packages = packages_distributions()
    foreign = imported - sys.stdlib_module_names - {"src"}
    assert {"torch", "yarl", "tokenizers", "safetensors"} <= foreign
    homes = {name: {canonicalize_name(home) for home in packages.get(name, [name])} for name in foreign}
    assert {name: home for name, home in homes.items() if not home & DECLARED.keys()} == {}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, unpacked as pip does into a folder far from the checkout."""
    from hatchling.builders.wheel import WheelBuilder

    built, folder = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site-packages")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(built), versions=["standard"])
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_the_wheel_holds_every_file_of_the_source_and_of_conf_and_nothing_else(installed):
    def files(folder):
        return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}

    assert files(installed / "src" / "conf") == files(ROOT / "conf")
    assert {path for path in files(installed / "src") if path.parts[0] != "conf"} == files(ROOT / "src")
    assert (installed / "src" / "py.typed").exists()
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"src", "ilrec_gisa"}
    entry_points = next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    assert "ilrec-gisa = src.run:main" in entry_points


def test_what_is_installed_composes_a_job_from_any_folder(installed, tmp_path):
    told = {**os.environ, "PYTHONPATH": str(installed)}
    main = "import sys; from src.run import main; sys.exit(main())"  # as the console script does
    command = [sys.executable, "-c", main, "+experiment=ilrec_stage1", "seed=7", "--cfg", "job"]
    ran = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True, check=True)
    assert "name: ilrec_stage1\nseed: 7\n" in ran.stdout
    named = "from src.launch.errors import install_command as of; print(of('lora'), of('search'), sep='\\n')"
    ran = subprocess.run(
        [sys.executable, "-c", named], cwd=tmp_path, env=told, capture_output=True, text=True, check=True
    )
    searching = " ".join(f"'{text}'" for text in sorted(EXTRAS["search"]))
    assert ran.stdout.splitlines() == [f"pip install '{EXTRAS['lora'][0]}'", f"pip install {searching}"]


def test_the_image_is_linted_and_copies_what_the_package_is_made_of():
    if linter := shutil.which("hadolint", path=Path(sys.executable).parent):
        linted = subprocess.run([linter, ROOT / ".ci/Dockerfile"], capture_output=True, text=True)
        assert (linted.returncode, linted.stdout) == (0, "")
    assert re.findall(r"^ARG BASE=.*\nFROM \$\{BASE\}$", (ROOT / ".ci/Dockerfile").read_text(), re.MULTILINE)
    copied = [line[1:] for line in (ROOT / ".ci/Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert {"src", "conf", "pyproject.toml", PROJECT["readme"], ".ci/constraints.txt"} <= set(copied)


def test_the_workflow_passes_the_tests_that_the_readme_names():
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]
    commands = [step["run"] for step in jobs["nox"]["steps"] if "run" in step]
    assert commands[-1].startswith("nox -s tests")
    sessions = re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    assert set(commands[-1].split()[2:]) <= set(sessions)
    assert {"lowest", "newest"} <= set(sessions)


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda form: form.stem
)
def test_an_issue_form_asks_for_something_and_names_each_field_once(form):
    content = yaml.safe_load(form.read_text())
    assert content["name"]
    assert content["description"]
    names = [field["id"] for field in content["body"]]
    assert len(names) == len(set(names)) > 0
    assert all(field["attributes"]["label"] for field in content["body"])


def test_the_citation_is_of_this_version_and_of_both_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    papers = [paper["identifiers"][0]["value"] for paper in citation["references"]]
    assert papers == ["arXiv:2602.17410", "arXiv:2602.08543"]
