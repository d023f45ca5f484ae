"""The lab book: an index that lists every page, short pages, plots that are there, commits that can be opened."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "experiments"
PAGES = sorted(BOOK.glob("*/README.md"))
TEXTS = [BOOK / "README.md", *PAGES, *sorted(BOOK.glob("*/LOG.md"))]
MOST_LINES = 60

page_of_each_test = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)


def links(path: Path) -> list[Path]:
    """Targets of the Markdown links and pictures of a file that lie in this repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    return [(path.parent / target.split("#")[0]).resolve() for target in targets if "://" not in target]


def cited_commits(text: str) -> set[str]:
    """Abbreviated hashes in a text: seven to forty hexadecimal digits, of digits only after the word commit."""
    words = set(re.findall(r"(?<![\w.,/-])[0-9a-f]{7,40}(?![\w.-]*\w)", text))
    mixed = {word for word in words if re.search("[0-9]", word) and re.search("[a-f]", word)}
    return mixed | set(re.findall(r"[Cc]ommits? ([0-9a-f]{7,40})\b", text))


def history() -> list[str]:
    """Every commit of the history, or a skip where it is not there to be looked into."""
    git = ["git", "-C", str(ROOT)]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    shallow = subprocess.run([*git, "rev-parse", "--is-shallow-repository"], capture_output=True, text=True, check=True)
    if shallow.stdout.strip() == "true":
        pytest.skip("a shallow clone")
    log = subprocess.run([*git, "rev-list", "HEAD"], capture_output=True, text=True, check=True)
    return log.stdout.split()


def test_the_index_is_short_and_links_every_folder_of_the_lab_book() -> None:
    assert len((BOOK / "README.md").read_text().splitlines()) <= MOST_LINES
    folders = {folder / "README.md" for folder in BOOK.iterdir() if folder.is_dir()}
    assert folders <= set(links(BOOK / "README.md")), "add a row to experiments/README.md"


def test_every_recipe_and_every_sweep_has_a_page() -> None:
    names = {path.stem for group in ("experiment", "sweep") for path in (ROOT / "conf" / group).glob("*.yaml")}
    assert names
    assert names <= {page.parent.name for page in PAGES}


@page_of_each_test
def test_a_page_is_short_and_says_question_command_and_verdict(page: Path) -> None:
    text = page.read_text()
    assert len(text.splitlines()) <= MOST_LINES, f"move what is superseded to {page.parent / 'LOG.md'}"
    assert [part for part in ("**Question.**", "**Command", "**Verdict.**") if part not in text] == []


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(BOOK)))
def test_every_link_and_plot_exists(text: Path) -> None:
    assert [target for target in links(text) if not target.exists()] == []


def test_every_plot_is_shown() -> None:
    shown = {target for text in TEXTS for target in links(text)}
    assert set(BOOK.glob("*/*.png")) <= shown


def test_every_log_is_linked_from_its_page() -> None:
    assert [log for log in BOOK.glob("*/LOG.md") if log not in links(log.with_name("README.md"))] == []


def test_every_cited_commit_can_be_opened() -> None:
    commits = history()
    cited = {(text.relative_to(ROOT), commit) for text in TEXTS for commit in cited_commits(text.read_text())}
    assert len(cited) > 100
    assert [where for where in sorted(cited) if not any(commit.startswith(where[1]) for commit in commits)] == []
