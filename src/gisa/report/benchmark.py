"""The tables of the GISA paper (arXiv 2602.08543), and more, for runs on a suite; the published rows beside them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, get_args

from src.gisa.agent.cost import PriceList, Usage
from src.gisa.agent.trajectory import Outcome
from src.gisa.dataset.gisa import AnswerType
from src.gisa.evaluator.answers import order_of_part
from src.gisa.metrics.answers import F1
from src.gisa.metrics.behaviour import adjacent_query_jaccard, high_and_low
from src.gisa.report.answered import AnsweredCell, EpisodeSummary, estimate, scaled
from src.launch.errors import InputError
from src.report.tables import Column, Estimate, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What Table 3 of the paper shows, by its name in gisa_published.csv.
TABLE_3 = {
    "overall": "test/global_em",
    "item_em": "test/item_em",
    "set_em": "test/global_em/set",
    "set_f1": "test/set_f1",
    "list_em": "test/global_em/list",
    "list_f1": "test/list_content_f1",
    "list_order": "test/list_order_score",
    "table_em": "test/global_em/table",
    "table_row_f1": "test/table_row_f1",
    "table_item_f1": "test/table_item_f1",
}
PUBLISHED_QUESTIONS = 373
# What a reader of the paper may stumble over.
_CAVEATS = (
    "its conclusion gives 18.23 for the best exact match, its Table 3 gives 19.30",
    "the values in its Figure 5 are multiples of 1/45, and not of 1/40",
)
_COUNTS = (Column("questions", "questions"), Column("errors", "errors"))
_INTERVAL = "95% intervals by bootstrap over questions"


def benchmark_tables(cells: Sequence[AnsweredCell]) -> list[Table]:
    """Return all tables of this module."""
    makers = (scores_table, parts_table, outcomes_table, cost_table, behaviour_table, groups_table)
    return [make(cells) for make in makers]


def scores_table(cells: Sequence[AnsweredCell]) -> Table:
    """Return Table 3: scores by type of answer, searches and visits."""
    headings = {key: key.replace("_", " ").replace(" em", " EM").replace("f1", "F1") for key in TABLE_3}
    columns = [Column(key, heading) for key, heading in (headings | {"overall": "EM"}).items()]
    columns += [Column("search_calls", "search calls"), Column("browse_calls", "browse calls")]
    rows = []
    for cell in cells:
        counts, intervals = cell.counts(), cell.summary.over_units
        known = {key: intervals[metric] for key, metric in TABLE_3.items() if metric in intervals}
        scores = {key: scaled(interval, counts["questions"]) for key, interval in known.items()}
        calls = {
            "search_calls": cell.over_episodes(lambda episode: episode.counts["searches"]),
            "browse_calls": cell.over_episodes(lambda episode: episode.counts["visits"]),
        }
        rows.append((cell.label, {**counts, **scores, **calls}))
    note = (
        f"Official scores in percent, of the first attempt, with {_INTERVAL}. Errors, which count as 0: questions "
        "without an answer, or with one that cannot be scored, or lost to the infrastructure. Browse calls are visits "
        f"carried out, of one or more pages. The calls of GPT-4o Search Preview and o4 Mini Deep Research, here as "
        f"searches, are one count marked * in the paper. {_beside(3)[:-1]} (to know: {'; '.join(_CAVEATS)})."
    )
    return _with_published("table_3", "Scores (Table 3 of the paper)", note, columns, rows)


def parts_table(cells: Sequence[AnsweredCell]) -> Table:
    """Return the exact match on every part of the suite: by type, by change over time, by pages needed, by topic."""
    rows = []
    for part in sorted({part for cell in cells for answer in cell.answers for part in answer.parts}, key=order_of_part):
        for cell in cells:
            scores = {scorer: estimate(cell.exact(scorer, part)) for scorer in ("official", "robust")}
            if scores["official"]:
                rows.append((part if len(cells) == 1 else f"{part}, {cell.label}", {**cell.counts(part), **scores}))
    columns = [*_COUNTS, Column("official", "official EM"), Column("robust", "robust EM")]
    return Table("parts", "Kinds of questions", f"Exact match in percent, {_INTERVAL}.", columns, rows)


def outcomes_table(cells: Sequence[AnsweredCell]) -> Table:
    """Return how the episodes ended, and the exact match without questions whose episodes met the benchmark itself."""
    names: list[str] = [*get_args(Outcome)]
    if any(answer.question.outcome is None for cell in cells for answer in cell.answers):
        names.append("not recorded")
    rows = []
    for cell in cells:
        ended = Counter(answer.question.outcome or "not recorded" for answer in cell.answers)
        shares = {name: f"{ended[name]} ({ended[name] / ended.total():.1%})" for name in names}
        flagged = {answer.question.id for answer in cell.answers if answer.question.contaminated}
        exact = cell.exact("official")
        clean = {key: value for key, value in exact.items() if key not in flagged}
        values = {"flagged": len(flagged), "all": estimate(exact), "clean": estimate(clean)}
        rows.append((cell.label, {**cell.counts(), **shares, **values}))
    columns = [*_COUNTS, *(Column(name, name.replace("_", " ")) for name in names)]
    columns += [Column("flagged", "flagged"), Column("all", "EM"), Column("clean", "EM without flagged")]
    note = (
        "How the scored episodes ended. Flagged: questions whose searches or visits came upon the benchmark's own "
        f"pages, which are kept from the agent. Exact match in percent, {_INTERVAL}."
    )
    return Table("outcomes", "Outcomes and contamination", note, columns, rows)


def cost_table(cells: Sequence[AnsweredCell]) -> Table:
    """Return Table 4: tokens of the agent's own model and of the one that reads pages, prices, cost."""
    columns = [
        Column("input_tokens", "input tokens", 0),
        Column("output_tokens", "output tokens", 0),
        Column("tool_input_tokens", "input tokens, pages", 0),
        Column("tool_output_tokens", "output tokens, pages", 0),
        Column("input_price", "input price"),
        Column("output_price", "output price"),
        Column("cost_usd", "USD a question", 4),
    ]
    rows = []
    for cell in cells:
        tokens = {
            f"{prefix}{kind}_tokens": cell.over_episodes(_tokens(part, field))
            for prefix, part in (("", "chain"), ("tool_", "extractor"))
            for kind, field in (("input", "prompt_tokens"), ("output", "completion_tokens"))
        }
        values = {**tokens, **_prices(cell), "cost_usd": cell.over_episodes(_usd)}
        rows.append((cell.label, {**cell.counts(), **values}))
    note = (
        f"Tokens a question of the scored attempt, of the agent's own model and of the model that reads pages for it; "
        f"{_INTERVAL}. Prices in USD per million tokens of the agent's own model. The cost is what was charged, by "
        "the price list of the run, searches and pages included; a question with a charge of unknown price is left out."
        f" {_beside(4)} Its cost is that of all tokens at the prices beside them."
    )
    return _with_published("table_4", "Tokens and cost (Table 4 of the paper)", note, columns, rows)


def _tokens(part: str, field: str) -> Callable[[EpisodeSummary], float | None]:
    return lambda episode: episode.spent.get(part, {}).get(field, 0)


def _usd(episode: EpisodeSummary) -> float | None:
    charges = [part["usd"] for part in episode.spent.values()]
    return None if None in charges else sum(charge or 0.0 for charge in charges)


def _prices(cell: AnsweredCell) -> dict[str, float | None]:
    """Return the prices of the agent's own model, where the config knows model and price."""
    agent = cell.summary.cell.runs[0].config.get("agent") or {}
    policy, node = agent.get("policy") or {}, {**(agent.get("prices") or {})}
    node.pop("_target_", None)
    if "date" not in node or "model" not in policy:
        return {"input_price": None, "output_price": None}
    try:
        prices = PriceList(**node)
    except InputError:  # the library that knew them is not installed here
        return {"input_price": None, "output_price": None}
    model, server = policy["model"], policy.get("base_url") or ""
    usd = [prices.usd_of(model, usage, server) for usage in (Usage(1000, 0), Usage(0, 1000))]
    read, written = (None if one is None else round(one * 1000, 9) for one in usd)
    return {"input_price": read, "output_price": written}


def behaviour_table(cells: Sequence[AnsweredCell]) -> Table:
    """Return Table 5: searches and visits beside those of the humans who answered the questions."""
    columns = [
        Column("search_similarity", "search similarity"),
        Column("search_diversity", "search diversity (adjacent_query_jaccard; higher is less diverse)"),
        Column("browsing_similarity", "browsing similarity"),
    ]
    rows = []
    for cell in cells:
        similarities = {f"{name}_similarity": estimate(values) for name, values in cell.similarities.items()}
        diversity = cell.over_episodes(lambda episode: adjacent_query_jaccard(episode.queries), 100)
        rows.append((cell.label, {**cell.counts(), **similarities, "search_diversity": diversity}))
    note = (
        f"Percent, of the scored attempt, {_INTERVAL}. A question is left out of a mean that it does not define: "
        f"fewer than two queries, no human trace. {_beside(5)}"
    )
    return _with_published("table_5", "Behaviour beside humans (Table 5 of the paper)", note, columns, rows)


def groups_table(cells: Sequence[AnsweredCell]) -> Table:
    """Return the mean F1 of the questions on which the agent acted more, and less, like the human."""
    rows: list[tuple[str, Mapping[str, object]]] = []
    for cell in cells:
        f1 = cell.by_question(lambda answer: float(answer.question.official[F1[answer.question.answer_type]]))
        for name, similarity in cell.similarities.items():
            if similarity:
                halves = zip(("high", "low"), high_and_low(list(similarity.values())), strict=True)
                values = {
                    half: estimate({key: f1[key] for key, chosen in zip(similarity, mask, strict=True) if chosen})
                    for half, mask in halves
                }
                rows.append((f"{cell.label}, by {name} similarity", values))
    note = (
        "Mean F1 in percent of the questions above the median similarity, and of the others. F1 is that of a set's or "
        f"list's elements or a table's cells, and the exact match of an item; {_INTERVAL}. Published: GISA."
    )
    rows.append(("published: GISA", {"high": 76.0, "low": 56.0}))
    columns = [Column("high", "more like the human"), Column("low", "less like the human")]
    return Table("human_similarity", "Scores by similarity to humans", note, columns, rows)


def exact_by_kind(cell: AnsweredCell) -> dict[str, Estimate]:
    """Return the official exact match in percent, of all questions, by type and by number of pages that are needed."""
    pages = sorted({answer.pages for answer in cell.answers if answer.pages}, key=order_of_part)
    exact = {kind: estimate(cell.exact("official", kind)) for kind in ("all", *get_args(AnswerType), *pages)}
    return {kind: figure for kind, figure in exact.items() if figure}


def kinds_figure(cells: Sequence[AnsweredCell]) -> Figure:
    """Draw the exact match of each cell by kind of question; at least one cell."""
    from src.report.plots import interval_lines  # Matplotlib takes a second to import

    exact = {cell.label: exact_by_kind(cell) for cell in cells}
    kinds = sorted({kind for by_kind in exact.values() for kind in by_kind}, key=order_of_part)
    shifts = [(index - (len(cells) - 1) / 2) * 0.7 / len(cells) for index in range(len(cells))]
    lines = [
        (label, [(kinds.index(kind) + shift, interval) for kind, interval in by_kind.items()])
        for shift, (label, by_kind) in zip(shifts, exact.items(), strict=True)
    ]
    figure = interval_lines(lines, ("",), dict(enumerate(kinds)))
    figure.axes[0].set_ylim(-4, 104)
    return figure


def published() -> list[dict[str, str | float | None]]:
    """Return the paper's rows of Tables 3, 4 and 5, a model or service each, from ``published.csv`` beside this module.

    Returns:
        By row: ``model``, ``org``, ``framework`` and ``date`` as text; the other columns as numbers, None where the
        paper has none. Scores and similarities are percent, calls and tokens are means a question, prices USD per
        million tokens, ``cost_usd`` USD a question: both sorts of tokens at these prices, of the agent and of the model
        that reads pages, without searches and pages. Columns up to ``browse_calls`` are of Table 3, up to ``cost_usd``
        of Table 4, the last three of Table 5.
    """
    text = (files("src.gisa.report") / "published.csv").read_text(encoding="utf-8")
    words = ("model", "org", "framework", "date")
    return [
        {key: value if key in words else float(value) if value else None for key, value in row.items()}
        for row in csv.DictReader(text.splitlines())
    ]


def _with_published(
    stem: str, title: str, note: str, columns: Sequence[Column], rows: Sequence[tuple[str, Mapping[str, object]]]
) -> Table:
    """Put the counts before a table's columns, and the paper's rows that have one of them below its own."""
    theirs = [row for row in published() if any(row[column.key] is not None for column in columns)]
    labelled = [(f"published: {row['model']}", {**row, "questions": PUBLISHED_QUESTIONS}) for row in theirs]
    return Table(stem, title, note, [*_COUNTS, *columns], [*rows, *labelled])


def _beside(number: int) -> str:
    return f"Published: GISA (arXiv 2602.08543, v2), Table {number}, on GISA's own questions."
