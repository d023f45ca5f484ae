"""The tables of the GISA paper (arXiv 2602.08543), and more, for runs on a suite; the published rows beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from src.gisa.agent.trajectory import Outcome
from src.gisa.dataset.gisa import AnswerType, QuestionType, Trace
from src.gisa.evaluator.answers import ScoredQuestion, error_of
from src.gisa.metrics.answers import F1
from src.gisa.metrics.behaviour import adjacent_query_jaccard, browsing_similarity, high_and_low, search_similarity
from src.gisa.report.attempts import AnsweredRun, AttemptRecord, read_cell
from src.gisa.report.published import QUESTIONS, SLIPS, SOURCE, published
from src.gisa.report.questions import TABLE_3
from src.metrics.stats import bootstrap_interval
from src.report.comparison import Summary
from src.report.layout import Column, Estimate, Table

_COUNTS = (Column("questions", "questions"), Column("errors", "errors"))
_INTERVAL = "95% intervals by bootstrap over questions"


@dataclass(frozen=True)
class AnsweredCell:
    """A cell of runs on a suite, with all that they left behind."""

    summary: Summary
    runs: list[AnsweredRun]

    @property
    def label(self) -> str:
        """Of the cell."""
        return self.summary.cell.label

    @property
    def counts(self) -> dict[str, int]:
        """How many questions there are, and how often one scores 0 for another reason than a wrong answer."""
        questions = [question for run in self.runs for question in run.questions.values()]
        errors = sum(error_of(question) is not None for question in questions)
        return {"questions": len({question.id for question in questions}), "errors": errors}

    def over_questions(
        self, value: Callable[[AnsweredRun, ScoredQuestion], float | None], scale: float = 1.0
    ) -> Estimate | None:
        """Average what each question has in the mean over the runs; None, of all runs, leaves a question out."""
        return estimate(self.by_question(value), scale)

    def by_question(self, value: Callable[[AnsweredRun, ScoredQuestion], float | None]) -> dict[str, float]:
        """Return what each question has in the mean over the runs, by its id."""
        found: dict[str, list[float]] = {}
        for run in self.runs:
            for question in run.questions.values():
                if (one := value(run, question)) is not None:
                    found.setdefault(question.id, []).append(one)
        return {key: sum(values) / len(values) for key, values in found.items()}

    def over_attempts(self, value: Callable[[AttemptRecord], float | None], scale: float = 1.0) -> Estimate | None:
        """Average over the scored attempts, as ``over_questions`` does."""
        return self.over_questions(
            lambda run, question: value(run.scored[question.id]) if question.id in run.scored else None, scale
        )


def estimate(values: Mapping[str, float], scale: float = 1.0) -> Estimate | None:
    """Average the questions' values, with a bootstrap interval; None where there are none."""
    if not values:
        return None
    interval = bootstrap_interval(list(values.values()))
    return Estimate(scale * interval.mean, scale * interval.low, scale * interval.high, len(values))


def answered_cells(summaries: Sequence[Summary]) -> list[AnsweredCell]:
    """Read what the runs of the cells left behind; cells without scores of their questions are left out.

    Raises:
        InputError: a record is damaged.
    """
    return [AnsweredCell(summary, read_cell(summary.cell)) for summary in summaries if summary.over_units]


def benchmark_tables(cells: Sequence[AnsweredCell]) -> list[Table]:
    """Return all tables of this module."""
    makers = (scores_table, parts_table, outcomes_table, cost_table, behaviour_table, groups_table)
    return [make(cells) for make in makers]


def scores_table(cells: Sequence[AnsweredCell]) -> Table:
    """Return Table 3: scores by type of answer, searches and visits."""
    columns = [Column(key, key.replace("_", " ").replace(" em", " EM").replace("f1", "F1")) for key in TABLE_3]
    columns[0] = Column("overall", "EM")
    rows = []
    for cell in cells:
        intervals = {key: cell.summary.over_units.get(metric) for key, metric in TABLE_3.items()}
        scores = {
            key: Estimate(100 * one.mean, 100 * one.low, 100 * one.high, cell.counts["questions"])
            for key, one in intervals.items()
            if one
        }
        calls = {
            "search_calls": cell.over_attempts(lambda attempt: attempt.counts["searches"]),
            "browse_calls": cell.over_attempts(lambda attempt: attempt.counts["visits"]),
        }
        rows.append((cell.label, {**cell.counts, **scores, **calls}))
    note = (
        f"Official scores in percent, of the first attempt, with {_INTERVAL}. Errors, which count as 0: questions "
        "without an answer, or with one that cannot be scored, or lost to the infrastructure. Browse calls are visits "
        f"carried out, of one or more pages. {_beside(3)}"
    )
    columns += [Column("search_calls", "search calls"), Column("browse_calls", "browse calls")]
    return Table("table_3", "Scores (Table 3 of the paper)", note, [*_COUNTS, *columns], [*rows, *_published(columns)])


def parts_table(cells: Sequence[AnsweredCell]) -> Table:
    """Return the exact match on every part of the suite: by type, by change over time, by pages needed, by topic."""
    rows = []
    order = ("all", *get_args(AnswerType), *get_args(QuestionType))
    parts = dict.fromkeys(part for cell in cells for run in cell.runs for one in run.questions.values()
                          for part in _parts(run, one))  # fmt: skip
    for part in sorted(parts, key=lambda part: (order.index(part) if part in order else len(order), part)):
        for cell in cells:
            chosen = [one for run in cell.runs for one in run.questions.values() if part in _parts(run, one)]
            values: dict[str, object] = {
                "questions": len({question.id for question in chosen}),
                "errors": sum(error_of(question) is not None for question in chosen),
                "official": cell.over_questions(_exact("official", part), 100),
                "robust": cell.over_questions(_exact("robust", part), 100),
            }
            if chosen:
                rows.append((part if len(cells) == 1 else f"{part}, {cell.label}", values))
    columns = [*_COUNTS, Column("official", "official EM"), Column("robust", "robust EM")]
    return Table("parts", "Kinds of questions", f"Exact match in percent, {_INTERVAL}.", columns, rows)


def outcomes_table(cells: Sequence[AnsweredCell]) -> Table:
    """Return how the episodes ended, and the exact match without questions whose episodes met the benchmark itself."""
    names: list[str] = [*get_args(Outcome)]
    if any(one.outcome is None for cell in cells for run in cell.runs for one in run.questions.values()):
        names.append("not recorded")
    rows = []
    for cell in cells:
        ended = Counter(one.outcome or "not recorded" for run in cell.runs for one in run.questions.values())
        shares = {name: f"{ended[name]} ({ended[name] / ended.total():.1%})" for name in names}
        flagged = {one.id for run in cell.runs for one in run.questions.values() if one.contaminated}
        clean = {key: value for key, value in cell.by_question(_exact("official")).items() if key not in flagged}
        values = {
            "flagged": len(flagged),
            "all": cell.over_questions(_exact("official"), 100),
            "clean": estimate(clean, 100),
        }
        rows.append((cell.label, {**cell.counts, **shares, **values}))
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
            f"{prefix}{kind}_tokens": cell.over_attempts(_tokens(part, field))
            for prefix, part in (("", "chain"), ("tool_", "extractor"))
            for kind, field in (("input", "prompt_tokens"), ("output", "completion_tokens"))
        }
        prices = _prices(cell)
        rows.append((cell.label, {**cell.counts, **tokens, **prices, "cost_usd": cell.over_attempts(_usd)}))
    note = (
        f"Tokens a question of the scored attempt, of the agent's own model and of the model that reads pages for it; "
        f"{_INTERVAL}. Prices in USD per million tokens of the agent's own model. The cost is what was charged, by "
        "the price list of the run, searches and pages included; a question with a charge of unknown price is left out."
        f" {_beside(4)} Its cost is that of all tokens at the prices beside them."
    )
    title = "Tokens and cost (Table 4 of the paper)"
    return Table("table_4", title, note, [*_COUNTS, *columns], [*rows, *_published(columns)])


def behaviour_table(cells: Sequence[AnsweredCell]) -> Table:
    """Return Table 5: searches and visits beside those of the humans who answered the questions."""
    columns = [
        Column("search_similarity", "search similarity"),
        Column("search_diversity", "search diversity (adjacent_query_jaccard; higher is less diverse)"),
        Column("browsing_similarity", "browsing similarity"),
    ]
    rows = []
    for cell in cells:
        search, browsing = _similarities(cell)
        values = {
            "search_similarity": estimate(search, 100),
            "search_diversity": cell.over_attempts(lambda attempt: adjacent_query_jaccard(attempt.queries), 100),
            "browsing_similarity": estimate(browsing, 100),
        }
        rows.append((cell.label, {**cell.counts, **values}))
    note = (
        f"Percent, of the scored attempt, {_INTERVAL}. A question is left out of a mean that it does not define: "
        f"fewer than two queries, no human trace. {_beside(5)}"
    )
    title = "Behaviour beside humans (Table 5 of the paper)"
    return Table("table_5", title, note, [*_COUNTS, *columns], [*rows, *_published(columns)])


def groups_table(cells: Sequence[AnsweredCell]) -> Table:
    """Return the mean F1 of the questions on which the agent acted more, and less, like the human."""
    rows = []
    for cell in cells:
        f1 = cell.by_question(lambda _, question: float(question.official[F1[question.answer_type]]))
        for name, similarity in zip(("search", "browsing"), _similarities(cell), strict=True):
            if similarity:
                keys = np.array(list(similarity))
                halves = zip(("high", "low"), high_and_low(list(similarity.values())), strict=True)
                values = {half: estimate({key: f1[key] for key in keys[mask]}, 100) for half, mask in halves}
                rows.append((f"{cell.label}, by {name} similarity", values))
    note = (
        "Mean F1 in percent of the questions above the median similarity, and of the others. F1 is that of a set's or "
        f"list's elements or a table's cells, and the exact match of an item. {_INTERVAL}.".replace(". 95", "; 95")
    )
    columns = [Column("high", "more like the human"), Column("low", "less like the human")]
    return Table("human_similarity", "Scores by similarity to humans", note, columns, rows)


def exact_by_kind(cell: AnsweredCell) -> dict[str, Estimate]:
    """Return the official exact match in percent, of all questions, by type and by number of pages that are needed."""
    pages = sorted({part for run in cell.runs for part in run.pages.values()})
    kinds = ("all", *get_args(AnswerType), *pages)
    found = {kind: cell.over_questions(_exact("official", kind), 100) for kind in kinds}
    return {part: one for part, one in found.items() if one}


def _parts(run: AnsweredRun, question: ScoredQuestion) -> tuple[str, ...]:
    pages = [run.pages[question.id]] if question.id in run.pages else []
    return "all", question.answer_type, question.question_type, *pages, f"topic: {question.topic}"


def _exact(scorer: str, part: str = "all") -> Callable[[AnsweredRun, ScoredQuestion], float | None]:
    return lambda run, question: (
        float(getattr(question, scorer)["global_em"]) if part in _parts(run, question) else None
    )


def _tokens(part: str, field: str) -> Callable[[AttemptRecord], float | None]:
    return lambda attempt: attempt.spent.get(part, {}).get(field, 0)


def _usd(attempt: AttemptRecord) -> float | None:
    charges = [part["usd"] for part in attempt.spent.values()]
    return None if None in charges else sum(charge or 0.0 for charge in charges)


def _prices(cell: AnsweredCell) -> dict[str, float | None]:
    """Return the prices of the agent's own model, where the config knows model and price."""
    agent = cell.summary.cell.runs[0].config.get("agent") or {}
    model = (agent.get("policy") or {}).get("model")
    price = ((agent.get("prices") or {}).get("models") or {}).get(model) or {}
    return {"input_price": price.get("prompt"), "output_price": price.get("completion")}


def _similarities(cell: AnsweredCell) -> tuple[dict[str, float], dict[str, float]]:
    """Return the search and the browsing similarity of every question that defines it, by id."""

    def of(measure: Callable[[Trace, AttemptRecord], float | None]) -> dict[str, float]:
        return cell.by_question(
            lambda run, question: (
                measure(run.traces[question.id], run.scored[question.id])
                if question.id in run.traces and question.id in run.scored
                else None
            )
        )

    return (
        of(lambda trace, attempt: search_similarity(trace.searches, attempt.queries)),
        of(lambda trace, attempt: browsing_similarity([click.target for click in trace.clicks], attempt.visited)),
    )


def _published(columns: Sequence[Column]) -> list[tuple[str, Mapping[str, object]]]:
    """Return the paper's rows that have one of the columns."""
    keys = [column.key for column in columns]
    rows = [row for row in published() if any(row[key] is not None for key in keys)]
    return [(f"published: {row['model']}", {**row, "questions": QUESTIONS}) for row in rows]


def _beside(number: int) -> str:
    slips = f" (to know: {'; '.join(SLIPS)})" if number == 3 else ""
    return f"Published: {SOURCE}, Table {number}, on GISA's own questions{slips}."
