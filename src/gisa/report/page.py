"""One run on GISA as one HTML file: scores, plots, and every question with its trajectory, answer and human trace."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from src.gisa.dataset.gisa import Gisa
from src.gisa.report.page_data import MOST_CHARS, limit_for, page_data, shortened
from src.launch.config import build
from src.launch.errors import InputError
from src.launch.storage import write_atomic
from src.report.runs import Run

MOST_BYTES = 5_000_000
_FEWEST_CHARS = 100
# Nothing is loaded, sent or run but the two parts whose hashes stand here, whatever a text of the run holds.
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; script-src '{js}'; style-src '{css}'"
_DATA = '<script id="data" type="text/plain">'


def write_page(folder: Path, result: Mapping[str, Any], suite: Gisa) -> Path:
    """Write ``page.html`` into a run folder that holds its scores.

    Where ``suite.show_questions`` is false, the questions are left out, and where a text quotes one word for word, the
    quotation; a paraphrase stays, as it does in the run's records.

    Args:
        folder: Of a scored run, of ``gisa_rollout`` or ``gisa_score``.
        result: Content of its ``result.json``.
        suite: The questions.

    Raises:
        InputError: the folder holds no scores.
    """
    path = folder / "page.html"
    write_atomic(path, page_of(page_data(folder, result, suite)))
    return path


def write_pages(runs: Iterable[Run], *, show_questions: bool) -> Iterator[str]:
    """Write the pages of finished runs that answered a suite; tell for each where it is, or why there is none.

    Args:
        runs: Of any kind.
        show_questions: Whether the pages hold the questions also of a suite that is not to be published.
    """
    for run in runs:
        if run.status == "finished" and (run.folder / "questions.jsonl").is_file():
            try:
                suite = build(run.config["dataset"])
                suite.show_questions |= show_questions
                yield f"Page of {run.label}: {write_page(run.folder, run.model_dump(mode='json'), suite)}"
            except InputError as error:
                yield f"No page of {run.label}: {error}"


def page_of(data: dict[str, Any]) -> bytes:
    """Put the page together; texts are cut shorter and shorter until it is no larger than ``MOST_BYTES``.

    Args:
        data: See :func:`page_data`.
    """
    names = ("page.html", "page.css", "page_scores.js", "page_questions.js")
    html, css, *scripts = (Path(__file__).with_name(name).read_text() for name in names)
    js = "".join(scripts)
    page = html.replace("{{policy}}", _POLICY.format(js=_source(js), css=_source(css)))
    page = page.replace("{{style}}", css).replace("{{script}}", js)
    limit = MOST_CHARS
    while True:
        content = page.replace("{{data}}", _packed({**data, "most_chars": limit})).encode()
        if len(content) <= MOST_BYTES or limit <= _FEWEST_CHARS:
            return content
        limit = max(_FEWEST_CHARS, limit_for(data["questions"], 0.97 * MOST_BYTES / len(content)))
        data = {**data, "questions": [shortened(entry, limit) for entry in data["questions"]]}


def read_page(content: bytes) -> dict[str, Any]:
    """Return the data of a page."""
    packed = content.rpartition(_DATA.encode())[2].partition(b"</script>")[0]
    data: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return data


def _packed(data: dict[str, Any]) -> str:
    """Write data as base64 of deflated ASCII JSON, in which no text can end the element or break the encoding."""
    return base64.b64encode(zlib.compress(json.dumps(data, separators=(",", ":")).encode())).decode()


def _source(text: str) -> str:
    """Name an inline script or style for the policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
