"""Each paper's view of a project on Weights & Biases, and a report of the same panels, as code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from src.launch.errors import InputError, install_command

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
