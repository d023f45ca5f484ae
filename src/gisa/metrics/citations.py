"""What an answer rests on: addresses it cites, and how much of the right answer stands on the pages opened or cited."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from src.gisa.metrics.answer_json import json_records
from src.gisa.metrics.answer_table import TableError
from src.gisa.metrics.answer_text import robust_content, robust_gold
from src.gisa.metrics.behaviour import canonical_url, holds, searchable

_ADDRESS = re.compile(r"https?://[^\s<>\"'`|\\^{}\[\]]+", re.IGNORECASE)
_LINK = re.compile(
    r"!?\[(?P<text>[^\[\]\n]*)\]\((?:https?://|www\.)[^()\s]*(?:\([^()\s]*\)[^()\s]*)*(?:\s+\"[^\"\n]*\")?\)"
)
# Marks of OpenAI's file and web search (【4†source】, citeturn0search1), of Perplexity and Gemini ([1], [2, 3]), of
# footnotes ([^1]).
_MARKS = re.compile(
    r"[ \t]?(?:【[^【】\n]*】|\ue200[^\ue201\n]*\ue201|\[\^?\d{1,3}(?:[,;–-]\s?\d{1,3})*\](?!\()|\[\[\d{1,3}\]\])"
)
_LINKS_IN_BRACKETS = re.compile(r"[ \t]?\((?:[;, ]*\[[^\[\]\n]*\]\(https?://[^()\s]+\))+ ?\)")
_ADDRESS_IN_BRACKETS = re.compile(r"[ \t]?\( ?https?://[^\s()]+ ?\)")
_MOST_CHARS = 300_000  # of an answer; longer ones are none


def citations_of(text: str) -> list[str]:
    """Return the addresses that a text names, in its order, each once: links of Markdown, bare ones, lists of sources.

    Two are the same if their :func:`canonical_url` is; punctuation at their end belongs to the text.
    """
    found: dict[str, str] = {}
    for match in _ADDRESS.finditer(text):
        address = match[0].rstrip(".,;:!?*_~")
        while address.endswith(")") and address.count(")") > address.count("("):
            address = address[:-1].rstrip(".,;:!?*_~")
        found.setdefault(canonical_url(address), address)
    return list(found.values())


def without_citations(text: str) -> str:
    """Return a text without marks of citations and addresses in brackets; of a link, its words stay."""
    text = _LINK.sub(lambda link: link["text"], _LINKS_IN_BRACKETS.sub("", text))
    return _MARKS.sub("", _ADDRESS_IN_BRACKETS.sub("", text))


def plain_answer(prediction: object, gold: bytes) -> object:
    """Return an answer without its citations, unless the right answer itself has what looks like one.

    One in JSON, of which lists of numbers look like citations, stays as it is.
    """
    if (
        not isinstance(prediction, str)
        or len(prediction) > _MOST_CHARS
        or json_records(robust_content(prediction).text)
    ):
        return prediction
    text = gold.decode("utf-8", "replace")
    return without_citations(prediction) if without_citations(text) == text else prediction


def gold_cells(gold: bytes, answer_type: str) -> list[str]:
    """Return the cells of a gold file that an answer must have, each once; none of a file that cannot be read."""
    try:
        records = robust_gold(gold)
    except TableError:
        return []
    rows = records[1:] if answer_type.lower() == "table" else records
    return [*dict.fromkeys(form for row in rows for cell in row if (form := searchable(cell)))]


@dataclass(frozen=True)
class Evidence:
    """What an answer rests on.

    Attributes:
        citations: Addresses that it cites.
        opened_cells: Share of the right answer's cells that stand in what was read on the pages it opened; None without
            a record of the way.
        cited_cells: Share of these cells that stand on the pages it cites, of which the text must be known; None where
            it cites none, or none of a known text.
        opened_human: Share of the pages a human visited that it opened; None without either record.
        cited_human: Share of them that it cites; None where the human's are not known.
    """

    citations: int
    opened_cells: float | None
    cited_cells: float | None
    opened_human: float | None
    cited_human: float | None


def evidence_of(
    cited: Collection[str],
    cells: Collection[str],
    opened: Mapping[str, str] | None,
    known: Mapping[str, str],
    human_urls: Iterable[str],
) -> Evidence:
    """Measure what an answer rests on.

    Args:
        cited: Addresses that the answer, or the service beside it, names.
        cells: Of the right answer, see :func:`gold_cells`.
        opened: What was read, by the address of the page; None without a record of the way. Texts are in the form that
            ``searchable`` gives.
        known: Further texts of pages by their address, such as what a search engine shows of them, in the same form.
        human_urls: Pages that a human visited for the answer.
    """
    texts: dict[str, str] = {}
    for url, text in (*known.items(), *(opened or {}).items()):
        texts[canonical_url(url)] = f"{texts.get(canonical_url(url), '')}\n{text}"
    mine = None if opened is None else {canonical_url(url) for url in opened}
    named, human = ({canonical_url(url) for url in urls} for urls in (cited, human_urls))
    cited_texts = [texts[url] for url in named if url in texts]
    return Evidence(
        citations=len(named),
        opened_cells=None if opened is None else _share_held(cells, opened.values()),
        cited_cells=_share_held(cells, cited_texts) if cited_texts else None,
        opened_human=len(human & mine) / len(human) if human and mine is not None else None,
        cited_human=len(human & named) / len(human) if human else None,
    )


def _share_held(cells: Collection[str], texts: Iterable[str]) -> float | None:
    if not cells:
        return None
    distinct = set(texts)
    return sum(any(holds(text, cell) for text in distinct) for cell in cells) / len(cells)
