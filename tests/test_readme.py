"""The README's map of the code: what it names is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_file_named_in_the_readme_exists_and_every_function_of_its_equations():
    text = (ROOT / "README.md").read_text()
    links = {link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if not link.startswith("http")}
    assert not [link for link in links if not (ROOT / link).exists()]
    rows = text.partition("| equation | function |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(rows) >= 10
    file = None
    for row in rows:
        file = next(iter(re.findall(r"\((src/[\w/]+\.py)\)", row)), file)
        names = re.findall(r"`(\w+)`", row.rsplit(" | ", 1)[-1])
        assert names, row
        assert [name for name in names if f"def {name}(" not in (ROOT / file).read_text()] == [], row


def test_the_three_questions_of_a_newcomer_have_an_answer_in_the_map():
    """Where is CPO, where is the score of a table, where is a new data set added."""
    rows = dict(re.findall(r"^\| (CPO, CPD|the score of a table|where a data set is added) \| (.*) \|$",
                           (ROOT / "README.md").read_text(), re.MULTILINE))  # fmt: skip
    assert "src/losses/cross_layer.py" in rows["CPO, CPD"]
    assert "def preference_loss(" in (ROOT / "src/losses/cross_layer.py").read_text()
    assert "src/gisa/metrics/answers.py" in rows["the score of a table"]
    assert "src/ilrec/dataset/sources.py" in rows["where a data set is added"]
