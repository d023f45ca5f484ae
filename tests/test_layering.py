"""The floor plan: every import goes down, in one order without exception."""

import ast
import sys
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
# From the ground up: a room may import those before it and itself. The wings stand on the floor, not on each other.
FLOOR = ["launch", "metrics", "losses", "model", "training", "report"]
WINGS = {
    "ilrec": ["dataset", "tokenizer", "prompt", "batches", "model", "evaluator", "stage", "report", "task"],
    "gisa": [
        "metrics", "chat", "dataset", "dataset/factbook", "agent", "batches", "evaluator", "stage", "report", "task",
    ],
}  # fmt: skip
ORDERS = [[*FLOOR, *(f"{wing}/{room}" for room in rooms), "run"] for wing, rooms in WINGS.items()]
ROOMS = sorted({room for order in ORDERS for room in order})
FILES = sorted((ROOT / "src").rglob("*.py"))


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


def climbs(path, names):
    """The modules among ``names`` whose room is not below that of a file, in any order that holds both."""
    room = room_of(str(path.relative_to(ROOT / "src").with_suffix("")))
    for name in sorted(name for name in names if name.startswith("src.")):
        other = room_of(name.removeprefix("src.").replace(".", "/"))
        if not any(room in order and other in order[: order.index(room) + 1] for order in ORDERS):
            yield f"{path.relative_to(ROOT)} imports {name}"


def outer_packages(path):
    return {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"src"}


def test_no_import_climbs():
    assert not [fault for path in FILES if path.parent != ROOT / "src" for fault in climbs(path, imports(path))]


def test_every_file_is_in_a_room_of_the_order():
    homeless = [path for path in FILES if room_of(str(path.relative_to(ROOT / "src").with_suffix(""))) is None]
    assert homeless == [ROOT / "src" / "__init__.py"]


def test_an_import_that_climbs_is_found():
    steps = [step for order in ORDERS for step in pairwise(order)]
    for room, above in [*steps, ("ilrec/stage", "gisa/metrics"), ("gisa/task", "ilrec/dataset")]:
        for path in (ROOT / "src" / room / "made_up.py", ROOT / "src" / room / "deeper" / "made_up.py"):
            assert list(climbs(path, {f"src.{above.replace('/', '.')}.anything"})), (room, above)
            assert not list(climbs(path, {f"src.{room.replace('/', '.')}.anything", "src.launch.errors"}))


def test_losses_import_torch_only_metrics_no_torch_and_the_agent_no_lightning():
    for path in FILES:
        room = room_of(str(path.relative_to(ROOT / "src").with_suffix("")))
        assert room != "losses" or outer_packages(path) <= {"torch"}, path
        assert room not in ("metrics", "gisa/metrics") or "torch" not in outer_packages(path), path
        assert room != "gisa/agent" or "lightning" not in outer_packages(path), path


def test_wandb_and_instantiate_have_one_home_each():
    assert [path.name for path in FILES if "wandb" in outer_packages(path)] == ["dashboard.py"]
    assert [path.name for path in FILES if "instantiate(" in path.read_text()] == ["config.py"]


def test_the_agent_imports_torch_only_where_it_is_used():
    for path in (ROOT / "src" / "gisa" / "agent").glob("*.py"):
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {name.split(".")[0] for node in top for name in imports_of(node)}
        assert not names & {"torch", "transformers"}, path


def test_no_module_is_longer_than_400_lines():
    assert not [path for path in FILES if len(path.read_text().splitlines()) > 400]
