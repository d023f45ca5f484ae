"""A report as a run on Weights & Biases, one at the end of a sweep, and the workspace and report of each paper."""

from __future__ import annotations

import csv
import html
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from src.launch.errors import InputError, install_command
from src.launch.progress import Line

if TYPE_CHECKING:
    from src.report.comparison import Report


log = logging.getLogger("run")


def publish(report: Report, out: Path, title: str, *, views: bool = False) -> str:
    """Send what is in the folder of a report; publishing it again changes the same run.

    Args:
        report: Of the runs, whose settings say where to.
        out: Its folder, with ``report.md``, CSV files and plots.
        title: Heading of it.
        views: Whether to save each paper's workspace and report, too.

    Returns:
        Where it is, in words.

    Raises:
        InputError: W&B is switched off, a key or a package is missing, or no server answers where one is needed.
    """
    from src.training.dashboard import open_summary

    runs = report.collection.runs
    settings: dict[str, Any] = next((run.config["logger"] for run in runs if _on_wandb(run.config)), {})
    papers = [{"users": "ILRec", "questions": "GISA"}[section.wing.unit] for section in report.sections]
    about = {
        "name": f"report {runs[0].source.resolve().name}",
        "group": runs[0].source.resolve().name,
        "tags": [*papers, "report"],
        "config": {"runs": [str(run.folder) for run in runs], "title": title},
    }
    summary = open_summary(out, settings, **about)
    text = (out / "report.md").read_text()
    exit_code = 1
    try:
        content: dict[str, Any] = {"report/text": summary.page(f"<pre>{html.escape(text)}</pre>")}
        for path in sorted(out.glob("*.csv")):
            columns, rows = _read(path)
            content[f"report/{path.stem}"] = summary.table(columns, rows)
        content |= {f"report/{path.stem}": summary.picture(path) for path in sorted(out.glob("*.png"))}
        summary.show(**content)
        exit_code = 0
    finally:
        summary.end(exit_code)
    lines = [f"Published: {summary.address}"]
    if views and summary.entity:
        lines += save_views(papers, summary.entity, summary.project, text)
    elif views:
        lines.append("No workspace: that run is offline. Type:  export WANDB_MODE=online")
    return "\n".join(lines)


class SweepSummary(Callback):
    """Print the joint table of a sweep at its end, and publish its report where its jobs were on W&B."""

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Say how the jobs compare and what to type next; what is wrong with it does not fail the sweep."""
        from src.launch.process import first_process

        if not first_process():
            return
        from src.report.comparison import build_report
        from src.report.tables import joint_table

        folder = Path(config.hydra.sweep.dir)
        try:
            with Line("Comparing the jobs"):
                report = build_report([folder])
        except InputError as error:
            log.warning("No table of the sweep: %s", error)
            return
        print(f"\n{joint_table(report)}")
        self._publish(report, config.get("logger") or {}, folder)
        print(f"Tables, plots, intervals:  python -m src.report {shlex.quote(str(folder))}")

    @staticmethod
    def _publish(report: Report, node: Any, folder: Path) -> None:
        """Write the report into the sweep's folder and send it, where its jobs were on W&B."""
        from src.launch.account import mode_of

        if not _on_wandb({"logger": node}) or mode_of(node.get("mode")) == "disabled":
            return
        from src.report.tables import write_report

        try:
            with Line("Writing the report"):
                write_report(report, folder / "report", "Report")
            log.info("%s", publish(report, folder / "report", "Report"))
        except InputError as error:
            log.warning("No summary of the sweep on W&B: %s", error)


def _on_wandb(config: Any) -> bool:
    return str((config.get("logger") or {}).get("_target_")).endswith(".wandb_logger")


def _read(path: Path) -> tuple[Sequence[str], list[list[Any]]]:
    """Return columns and rows of a CSV file, numbers as numbers and nothing as None."""
    with path.open(newline="") as stream:
        columns, *rows = csv.reader(stream)
    return columns, [[_value(text) for text in row] for row in rows]


def _value(text: str) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text


STEP = "trainer/global_step"


@dataclass(frozen=True)
class Panel:
    """What a panel shows.

    Attributes:
        kind: ``bars`` of summaries, averaged over the runs of a group; ``lines`` over steps; ``table`` or ``media``.
        keys: Metrics, or what was logged.
        by: Setting that groups the bars; ``x`` axis of the lines.
    """

    kind: str
    keys: Sequence[str]
    by: str = ""


TABLE = Panel("table", ["report/report"])
VIEWS: Mapping[str, Mapping[str, Sequence[Panel]]] = {
    "ILRec": {
        "Main table": [
            TABLE,
            Panel("bars", ["test/ndcg@10"], "config.name"),
            Panel("bars", ["test/hit@10"], "config.name"),
        ],
        "Ablation": [
            Panel("bars", ["test/ndcg@10"], "config.job.ablation"),
            Panel("bars", ["test/hit@10"], "config.job.ablation"),
        ],
        "Layers over training": [
            Panel("lines", ["train/layer_divergence"], STEP),
            Panel("lines", [f"train/layer_agreement_{layer}" for layer in range(1, 33)], STEP),
            Panel("lines", ["train/negatives_per_position"], STEP),
            Panel("lines", ["train/negative_margin"], STEP),
        ],
        "Training": [
            Panel("lines", ["train/loss"], STEP),
            Panel("lines", ["val/ndcg@10"], STEP),
            Panel("lines", ["train/learning_rate"], STEP),
            Panel("lines", ["train/gradient_norm"], STEP),
            Panel("lines", ["train/examples_per_second"], STEP),
        ],
        "Users": [Panel("table", ["test/recommendations"]), Panel("media", ["test/ranks"])],
        "Plots": [Panel("media", ["report/metrics", "report/training_curves", "report/layers"])],
    },
    "GISA": {
        "Scores": [
            TABLE,
            Panel("bars", ["test/global_em"], "config.name"),
            Panel("bars", [f"test/global_em/{kind}" for kind in ("item", "set", "list", "table")], "config.name"),
        ],
        "Under way": [Panel("lines", ["progress/global_em"], "progress/questions")],
        "Outcomes": [
            Panel("lines", [f"progress/outcome/{name}"], "progress/questions")
            for name in ("answered", "format_error", "budget", "truncated", "refused", "infra_error")
        ],
        "Cost": [
            Panel("lines", ["progress/usd"], "progress/questions"),
            Panel("bars", ["test/chain_prompt_tokens_per_question"], "config.name"),
            Panel("bars", ["test/chain_completion_tokens_per_question"], "config.name"),
        ],
        "Learning curves": [
            Panel("lines", [name], STEP)
            for name in ("train/loss", "val/token_accuracy", "train/reward", "train/em", "val/em")
        ],
        "Questions": [Panel("table", ["test/questions"]), Panel("media", ["test/page"])],
        "Plots": [Panel("media", ["report/exact_match", "report/figure_5", "report/exact_match_by_kind"])],
    },
}


def installed() -> bool:
    """Whether views can be made here."""
    return find_spec("wandb_workspaces") is not None


def workspace(paper: str, entity: str, project: str) -> Any:
    """Return the view of a paper's runs, to be saved."""
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(name=name, panels=list(map(_panel, panels)), is_open=True) for name, panels in VIEWS[paper].items()
    ]
    runs = ws.RunsetSettings(filters=[ws.Tags().isin([paper])])
    return ws.Workspace(entity=entity, project=project, name=paper, sections=sections, runset_settings=runs)


def written_report(paper: str, entity: str, project: str, text: str) -> Any:
    """Return a report with the text of ``src.report`` and the panels of the view, to be saved."""
    import wandb_workspaces.reports.v2 as wr

    runs = wr.Runset(entity=entity, project=project, name=paper, filters=f"Tags in ['{paper}']")
    blocks: list[Any] = [wr.MarkdownBlock(text=text)]
    for name, panels in VIEWS[paper].items():
        blocks += [wr.H2(text=name), wr.PanelGrid(runsets=[runs], panels=list(map(_panel, panels)))]
    return wr.Report(entity=entity, project=project, title=f"{paper}: report", blocks=blocks)


def save_views(papers: Sequence[str], entity: str, project: str, text: str) -> list[str]:
    """Save view and report of each paper; return their addresses.

    Raises:
        InputError: the package that makes them is absent.
    """
    if not installed():
        raise InputError(
            f"A workspace needs the package wandb-workspaces.\nType:  {install_command('dashboards')}\n"
            "or leave out --workspace; the summary run is there without it."
        )
    saved = [
        item.save()
        for paper in papers
        for item in (workspace(paper, entity, project), written_report(paper, entity, project, text))
    ]
    return [item.url for item in saved]


def _panel(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2 as wr

    title = panel.keys[0]
    match panel.kind:
        case "bars":
            group = wr.Config(panel.by.removeprefix("config."))
            return wr.BarPlot(title=title, metrics=list(panel.keys), groupby=group, groupby_rangefunc="stderr")
        case "lines":
            return wr.LinePlot(title=title, x=panel.by, y=list(panel.keys))
        case "table":
            return wr.WeavePanelSummaryTable(table_name=title)
    return wr.MediaBrowser(title=title, media_keys=list(panel.keys))
