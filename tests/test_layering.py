"""The floor plan: every import goes down, in one order without exception."""

import ast
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up: a room may import those before it and itself. The wings stand on the floor, not on each other.
FLOOR = ["launch", "metrics", "losses", "model", "training", "report"]
WINGS = {
    "ilrec": ["dataset", "tokenizer", "prompt", "batches", "model", "evaluator", "stage", "task"],
    "gisa": [
        "metrics", "chat", "dataset", "dataset/factbook", "agent", "batches", "evaluator", "stage", "report", "task",
    ],
}  # fmt: skip
ORDERS = [[*FLOOR, *(f"{wing}/{room}" for room in rooms), "run"] for wing, rooms in WINGS.items()]
ROOMS = sorted({room for order in ORDERS for room in order})
FILES = sorted((ROOT / "src").rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]


def room_of(name):
    """The room of a module or file, given with slashes and without suffix: the deepest that its path begins with."""
    return max((room for room in ROOMS if f"{name}/".startswith(f"{room}/")), key=len, default=None)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        yield from imports_of(node)


def imports_of(node):
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node.module
        # `from src.launch import config` names the module second.
        yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module.startswith("src"))


def climbs(path):
    """The project's rooms that a file imports and that are not below its own, in some order that holds both."""
    room = room_of(str(path.relative_to(ROOT / "src").with_suffix("")))
    for name in {name for name in imports(path) if name.startswith("src.")}:
        other = room_of(name.removeprefix("src.").replace(".", "/"))
        if not any(room in order and other in order[: order.index(room) + 1] for order in ORDERS):
            yield name


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_import_climbs(path):
    assert path.parent == ROOT / "src" or not list(climbs(path))


def test_every_file_is_in_a_room_of_the_order():
    homeless = [name for name in NAMES if room_of(name.removeprefix("src/").removesuffix(".py")) is None]
    assert homeless == ["src/__init__.py"]


def test_an_import_that_climbs_is_found(tmp_path):
    for room, other in [*pairwise(ORDERS[0]), *pairwise(ORDERS[1]), ("ilrec/stage", "gisa/metrics")]:
        path = ROOT / "src" / room / "made_up.py"
        text = f"from src.{other.replace('/', '.')} import anything"
        assert [name for node in ast.parse(text).body for name in imports_of(node)], path
        assert room_of(f"{room}/made_up") == room
        assert not any(room in order and other in order[: order.index(room) + 1] for order in ORDERS)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_losses_import_torch_only_and_metrics_no_torch_and_wandb_has_one_home(path):
    room = room_of(str(path.relative_to(ROOT / "src").with_suffix("")))
    outer = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"src"}
    if room == "losses":
        assert outer <= {"torch"}
    if room in ("metrics", "gisa/metrics"):
        assert "torch" not in outer
    if room == "gisa/agent":
        assert "lightning" not in outer
    assert "wandb" not in outer or path == ROOT / "src" / "training" / "tracking.py"


def test_the_agent_imports_torch_only_where_it_is_used():
    for path in (ROOT / "src" / "gisa" / "agent").glob("*.py"):
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {name.split(".")[0] for node in top for name in imports_of(node)}
        assert not names & {"torch", "transformers"}, path


def test_instantiate_is_called_in_one_place():
    assert [path.name for path in FILES if "instantiate(" in path.read_text()] == ["config.py"]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_module_is_longer_than_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400
