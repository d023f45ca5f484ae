"""Draw what a server of W&B is told by a training and a rollout: ``python -m tests.benchmarks.dashboards FOLDER``."""

import os
import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure

from tests.training.wandb_server import KEY, serve

LINES = {
    "ilrec_stage1": [
        "train/loss", "val/ndcg@10", "train/learning_rate", "train/gradient_norm", "train/examples_per_second",
        "train/layer_divergence",
    ],
    "gisa_rollout": ["progress/global_em", "progress/outcome/answered", "progress/usd"],
}  # fmt: skip
TABLES = {
    "ilrec_stage1": ("test/recommendations", [(0, 5), (1, 60), (2, 26), (3, 60), (4, 5)]),
    "gisa_rollout": ("test/questions", [(0, 12), (1, 46), (2, 6), (4, 26), (5, 20), (6, 9), (8, 9), (9, 40)]),
}
JOBS = {
    "ilrec_stage1": ["trainer.max_steps=80", "trainer.val_check_interval=20", "batches.max_users=100"],
    "gisa_rollout": ["task.max_questions=40", "agent.concurrency=2"],
}


def main(folder: Path) -> None:
    """Run both jobs online, and draw what the server has of them."""
    with serve() as server:
        environment = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}
        for recipe, settings in JOBS.items():
            run = [f"hydra.run.dir={folder / 'runs' / recipe}", "trainer.enable_progress_bar=false", *settings]
            subprocess.run(
                [sys.executable, "-m", "src.run", f"+experiment={recipe}", *run], env=environment, check=True
            )
            draw(server.run(jobType=recipe), recipe).savefig(folder / f"{recipe}.png", dpi=110)


def draw(run, recipe: str) -> Figure:
    """Draw lines, the histogram of ranks if there is one, and the first rows of the table."""
    histogram = run.summary.get("test/ranks")
    panels = [*LINES[recipe], *(["test/ranks"] if histogram else [])]
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(13, 2.4 * rows + 3.4), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[*rows * [2.4], 3.2])
    for at, name in enumerate(panels):
        axes = figure.add_subplot(grid[at // columns, at % columns])
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        if name == "test/ranks":
            bins = histogram["bins"]
            axes.bar(
                bins[:-1],
                histogram["values"],
                width=[b - a for a, b in zip(bins, bins[1:], strict=False)],
                align="edge",
            )
            continue
        x = "progress/questions" if name.startswith("progress/") else "trainer/global_step"
        points = [(row[x], row[name]) for row in run.rows if name in row]
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else None)
        axes.set_xlabel(x, fontsize=7)
    key, widths = TABLES[recipe]
    header, data = run.table(key)
    axes = figure.add_subplot(grid[rows, :])
    axes.set_axis_off()
    axes.set_title(f"{key}: {min(8, len(data))} of {len(data)} rows", fontsize=9, loc="left")
    data.sort(key=lambda row: row[widths[-1][0]] is None)  # users whose target was found first
    cells = [[_short(row[column], int(1.6 * width)) for column, width in widths] for row in data[:8]]
    total = sum(width for _, width in widths)
    table = axes.table(
        cells, colLabels=[header[column] for column, _ in widths], colWidths=[width / total for _, width in widths],
        loc="upper center", cellLoc="left",
    )  # fmt: skip
    table.auto_set_font_size(False)
    table.set_fontsize(6.5)
    tags = ", ".join(run.fields["tags"])
    figure.suptitle(f"{run.fields['displayName']}   ({tags}; group {run.fields['groupName']})", fontsize=10)
    return figure


def _short(value, width: int) -> str:
    text = "" if value is None else f"{value:g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
