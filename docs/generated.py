"""Pages that are made when the documentation is built: every group of conf/, and the dashboards' page of the lab book.

Nothing of ``src`` is imported, so that building needs no PyTorch: settings are read off the source with griffe.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
import yaml
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
COPY = ROOT / "docs" / "site_source"
BY_HAND = ("experiment", "sweep", "ablation")
BOUNDS = {"Ge": "≥ ", "Gt": "> ", "Le": "≤ ", "Lt": "< "}


def on_startup(**_: Any) -> None:
    """Let griffe read a copy: it takes folders for scripts unless each has an ``__init__.py``, as Python does not."""
    shutil.rmtree(COPY, ignore_errors=True)
    copy = shutil.copytree(ROOT / "src", COPY / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (copy, *(path for path in copy.rglob("*") if path.is_dir())):
        (folder / "__init__.py").touch()


def on_shutdown(**_: Any) -> None:
    """Take the copy away."""
    shutil.rmtree(COPY, ignore_errors=True)


def on_config(config: Any) -> Any:
    """List the pages of the groups in the navigation."""
    config.nav.append({"Settings": ["settings/index.md", *(f"settings/{name}.md" for name in groups())]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, and the pictures of the dashboards."""
    board = ROOT / "experiments" / "dashboards"
    pages = {"dashboards.md": (board / "README.md").read_text(encoding="utf-8"), **dict(settings_pages())}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for picture in board.glob("*.png"):
        files.append(File.generated(config, picture.name, abs_src_path=str(picture)))
    return files


def groups() -> list[str]:
    """Name the groups of conf/; those within a group are on its page."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir())


def settings_pages() -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each page of settings."""
    loader = griffe.GriffeLoader(search_paths=[str(COPY)])
    loader.load("src", try_relative_path=False)
    loader.resolve_aliases()
    source, means = loader.modules_collection, ranges()
    yield "settings/index.md", _index(source)
    for group in groups():
        shown: set[str] = set()
        parts = [f"# {group}"]
        if about := _comments(source["src.launch.config.Config"]).get(group):
            parts.append(f"{about[0].upper()}{about[1:]}.")
        for path in sorted((CONF / group).glob("**/*.yaml")):
            parts += _choice(path, source, means, shown)
        yield f"settings/{group}.md", "\n\n".join(parts) + "\n"


def _index(source: Any) -> str:
    rows = [f"| `{key}` | {about} |" for key, about in _comments(source["src.launch.config.Config"]).items()]
    text = (CONF / "config.yaml").read_text(encoding="utf-8")
    return "\n".join(
        [
            "# Settings",
            "",
            "Every group of `conf/` has a page: its choices, each with its file and what a value may be.",
            "`group=choice` takes one, `+group=choice` for experiment, sweep and ablation; `group.setting=value`",
            "changes a setting. Values out of range and wrong names are told all at once, before anything starts.",
            "",
            "| key of a run | what it is |",
            "|---|---|",
            *rows,
            "",
            "## conf/config.yaml",
            "",
            f"```yaml\n{text}```",
            "",
        ]
    )


def _choice(path: Path, source: Any, means: dict[str, str], shown: set[str]) -> Iterator[str]:
    """Yield the parts of a choice: what its file says of itself, the file, and the settings of its target."""
    text = path.read_text(encoding="utf-8")
    folder = path.relative_to(CONF).parent.as_posix()
    yield f"## {'+' * (folder in BY_HAND)}{folder}={path.stem}"
    yield f"```yaml\n{text.rstrip()}\n```"
    for target, keys in _targets(yaml.safe_load(text)):
        told = [] if target in shown else settings(source, target, means)
        shown.add(target)
        beside = dict(re.findall(r"^ *(\w+): [^#\n]*# (.*)$", text, re.MULTILINE))
        rows = [
            f"| `{name}` | {kind} | {about or beside.get(name, '')} |" for name, kind, about in told if name in keys
        ]
        if rows:
            yield "\n".join([f"`{target}`:", "", "| setting | value | what it is |", "|---|---|---|", *rows])


def settings(source: Any, target: str, means: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield name, type with range, and meaning of each setting of a target of ours; nothing for other people's."""
    try:
        found = source[target]
    except KeyError:  # somebody else's, or a name in a module that builds it
        return
    about = _documented(found)
    for parameter in found.parameters:
        if parameter.kind is griffe.ParameterKind.var_keyword and found.is_class:
            yield from _of_the_dataclass(source, found, means)
        elif parameter.annotation:
            yield parameter.name, in_words(str(parameter.annotation), means), about.get(parameter.name, "")


def _of_the_dataclass(source: Any, found: Any, means: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield the fields of the dataclass that a class annotates its ``settings`` with, the inherited ones first."""
    holders = (one for one in (found, *found.mro()) if "settings" in one.members)
    if holder := next(holders, None):
        kind = source[holder.members["settings"].annotation.canonical_path]
        for one in (*reversed(kind.mro()), kind):
            about = _documented(one)
            for name, member in one.members.items():
                if member.is_attribute and "property" not in member.labels and not name.startswith("_"):
                    yield name, in_words(str(member.annotation), means), about.get(name, "")


def _documented(found: Any) -> dict[str, str]:
    """Return what the docstring of a class or function says of its arguments and attributes, each in a line."""
    made = found.members.get("__init__") if found.is_class else None
    about = {}
    for text in filter(None, (found.docstring, made and made.docstring)):
        for section in text.parse("google", warnings=False):
            if section.kind.value in ("parameters", "attributes"):
                about |= {one.name: _one_line(one.description) for one in section.value}
    return about


def ranges() -> dict[str, str]:
    """Return what the named types of the source mean, such as ``int ≥ 1`` for Count, or the values of a choice."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
    named = re.findall(r"^(\w+) = Annotated\[(\w+(?:\[\w+\])?), (.*)\]$", text, re.MULTILINE)
    chosen = re.findall(r"^(\w+) = (Literal\[.*\])$", text, re.MULTILINE)
    return {name: _bounded(kind, bounds) for name, kind, bounds in named} | dict(chosen)


def _bounded(kind: str, bounds: str) -> str:
    found = re.findall(r"(Ge|Gt|Le|Lt)\(([^)]*)\)", bounds)
    return f"{kind} {', '.join(BOUNDS[name] + value.replace('2**32', '2³²') for name, value in found)}".strip()


def in_words(annotation: str, means: dict[str, str]) -> str:
    """Write an annotation with its ranges for a table of Markdown, which takes | for the end of a cell."""
    whole = re.sub(r"Annotated\[(\w+), (.*?\))\]", lambda match: _bounded(match[1], match[2]), annotation)
    text = re.sub(r"\b[A-Z]\w+\b", lambda match: means.get(match[0], match[0]), whole)
    text = re.sub(r"Literal\[([^\]]*)\]", lambda match: match[1].replace(", ", " or "), text)
    text = re.sub(r"Annotated\[(list\[.*?\]), MinLen\(1\)\]", r"\1, not empty", text)
    return "`" + re.sub(r"[\"']", "", text).replace(" | ", " or ") + "`"


def _comments(config: Any) -> dict[str, str]:
    """Return what stands behind each key of the schema of a run."""
    return dict(re.findall(r"^    (\w+): [^#\n]*# (.*)$", config.source, re.MULTILINE))


def _targets(value: Any) -> Iterator[tuple[str, set[str]]]:
    """Yield every target, and the settings that stand beside it."""
    if isinstance(value, dict):
        yield from [(value["_target_"], set(value))] if "_target_" in value else []
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _targets(inner)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")
