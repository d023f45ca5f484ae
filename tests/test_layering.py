import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What a package may import of this project; errors, storage, shards and memory are open to all.
OPEN = {"errors", "storage", "shards", "memory"}
PARTS = {"dataset", "tokenizer", "model", "prompt", "losses", "metrics", "agent"}
ALLOWED = {
    "errors": set(),
    "memory": set(),
    "storage": {"errors"},
    "shards": set(),
    "losses": {"losses"},
    "metrics": {"metrics"},
    "dataset": PARTS,
    "tokenizer": PARTS,
    "model": PARTS,
    "prompt": PARTS,
    "agent": PARTS,
    "stage": PARTS | {"stage", "evaluator"},
    "evaluator": PARTS | {"evaluator"},
    "checkpoint": set(),
    "tracking": set(),
    "record": set(),
    "schema": {"tracking"},
    "command_line": {"record"},
    "report": PARTS | {"report", "evaluator", "build"},
    "build": set(),
    "task": PARTS | {"stage", "evaluator", "task", "build", "record", "schema", "tracking", "checkpoint", "report"},
    "run": {"build", "schema", "command_line", "record"},
}
FILES = sorted((ROOT / "src").rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        yield from imports_of(node)


def imports_of(node):
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node.module
        # `from src import schema` names the module second.
        yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "src")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downward_only(path):
    package = path.relative_to(ROOT / "src").parts[0].removesuffix(".py")
    inner = {name.split(".")[1] for name in imports(path) if name.startswith("src.")}
    assert package == "__init__" or inner - OPEN <= ALLOWED[package]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_losses_import_torch_only_and_metrics_no_torch_and_wandb_has_one_home(path):
    package = path.relative_to(ROOT / "src").parts[0].removesuffix(".py")
    outer = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"src"}
    if package == "losses":
        assert outer <= {"torch"}
    if package == "metrics":
        assert "torch" not in outer
    if package == "agent":
        assert "lightning" not in outer
    assert "wandb" not in outer or package == "tracking"


def test_the_agent_imports_torch_only_where_it_is_used():
    for path in (ROOT / "src" / "agent").glob("*.py"):
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {name.split(".")[0] for node in top for name in imports_of(node)}
        assert not names & {"torch", "transformers"}, path


def test_instantiate_is_called_in_one_place():
    assert [path.name for path in FILES if "instantiate(" in path.read_text()] == ["build.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_longer_than_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400
