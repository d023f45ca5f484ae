"""Train SASRec, GRU4Rec and Caser on ML-100K beside stock RecBole on the same sequences, each on one thread.

After each of our first epochs RecBole trains a few batches, from which its epoch is extrapolated. CPU seconds, so that
what else the machine does counts little. `nox -s recbole -- --only sasrec`; with `--epochs 20` RecBole itself is
trained (for hours) and its curve printed. All other arguments are overrides of our recipe.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra import compose, initialize_config_dir

from src.ilrec.dataset.interactions import Interactions
from src.launch.config import build, resolve
from tests.benchmarks.comparison import HEADER, ROOT, Row, show_seconds, silence

NAME = "sequences"
RECBOLES_NAME = {"sasrec": "SASRec", "gru4rec": "GRU4Rec", "caser": "Caser"}
# Epoch and value of RecBole's best validation NDCG@10 where it was measured: ML-100K, length 50, seed 2020.
RECBOLES_BEST = {"sasrec": (22, 0.0635)}


def write_atomic_file(interactions: Interactions, folder: Path) -> None:
    """Write all sequences as RecBole reads them; a place in the sequence is the timestamp, so that none are equal."""
    (folder / NAME).mkdir()
    with open(folder / NAME / f"{NAME}.inter", "w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user in range(interactions.num_users):
            for place, item in enumerate(interactions.sequence(user)):
                file.write(f"{user}\t{item}\t{place}\n")


class StockRecBole:
    """RecBole in a process and an environment of its own, see `stock_recbole.py`."""

    def __init__(self, python: str, folder: str, model: str, length: int) -> None:
        script = str(Path(__file__).with_name("stock_recbole.py"))
        self.process = subprocess.Popen(
            # -P: beside the script lie modules that are not for RecBole to import.
            [python, "-P", script, folder, NAME, model, str(length)],
            cwd=folder,  # for what RecBole writes
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
        )
        self.batches = self.answer()["batches"]

    def answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"RecBole ended with exit code {self.process.wait()}; what it said stands above.")
        return json.loads(line)

    def ask(self, question: object) -> dict[str, Any]:
        print(question, file=self.process.stdin, flush=True)
        return self.answer()

    def epoch_seconds(self, batches: int) -> float:
        return self.ask(batches)["seconds"] / batches * self.batches


class Beside(lightning.Callback):
    """Time our epochs, and let RecBole train after the first of them, which this process's clock does not see.

    Attributes:
        pairs: Seconds of a training epoch, RecBole's and ours.
        curve: After each epoch the seconds so far, validation included, and the validation NDCG@10.
    """

    def __init__(self, recbole: StockRecBole, batches: int, pairs: int) -> None:
        self.recbole, self.batches, self.wanted = recbole, batches, pairs
        self.pairs: list[tuple[float, float]] = []
        self.curve: list[tuple[float, float]] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.start = time.process_time()

    def on_validation_start(self, *_: Any) -> None:
        self.trained = time.process_time() - self.start

    def on_validation_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        before = self.curve[-1][0] if self.curve else 0.0
        seconds = before + time.process_time() - self.start
        self.curve.append((seconds, trainer.callback_metrics["val/ndcg@10"].item()))
        if len(self.pairs) < self.wanted:
            self.pairs.append((self.recbole.epoch_seconds(self.batches), self.trained))


def train(config: dict[str, Any], interactions: Interactions, beside: Beside) -> None:
    """Train the recipe as `src.run` does."""
    items = build(config["tokenizer"]).fit(interactions)
    model = build(config["model"])(items.vocabulary)
    prompt = build(config["prompt"])(None, items)
    data = build(config["batches"])(interactions=interactions, prompt=prompt, seed=config["seed"])
    stage = build(config["stage"])(model=model, evaluator=build(config["evaluator"])(items))
    trainer = build(config["trainer"])(logger=False, enable_checkpointing=False, callbacks=[beside])
    trainer.fit(stage, datamodule=data)


def rows(recipe: str, beside: Beside) -> list[Row]:
    """Compare an epoch and, where RecBole's curve is known and reached, the way to its best."""
    sides = (f"RecBole's {RECBOLES_NAME[recipe]}", recipe)
    best = max(ndcg for _, ndcg in beside.curve)
    check = f"best validation NDCG@10 {best:.4f} in {len(beside.curve)} epochs"
    found = [Row("Training epoch", sides, beside.pairs, show_seconds, "<= 0.1", check)]
    epochs, goal = RECBOLES_BEST.get(recipe, (0, float("inf")))
    if best >= goal:
        number = next(n for n, (_, ndcg) in enumerate(beside.curve) if ndcg >= goal)
        pairs = [(epochs * theirs, beside.curve[number][0]) for theirs, _ in beside.pairs]
        check = f"RecBole's epoch {epochs}, our epoch {number + 1}"
        found.append(Row(f"To validation NDCG@10 {goal}, RecBole's best", sides, pairs, show_seconds, "<= 0.1", check))
    return found


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.beside_recbole", description=__doc__)
    parser.add_argument("python", help="Python of the environment with RecBole")
    parser.add_argument("--only", choices=RECBOLES_NAME, action="append", help="may be repeated")
    parser.add_argument("--length", type=int, default=50, help="latest items that RecBole sees")
    parser.add_argument("--batches", type=int, default=2, help="of RecBole in each pair")
    parser.add_argument("--pairs", type=int, default=3, help="epochs of ours that are followed by batches of RecBole")
    parser.add_argument("--epochs", type=int, default=0, help="train RecBole instead of ours")
    options, overrides = parser.parse_known_args(words)
    silence()
    torch.set_num_threads(1)
    if not options.epochs:
        print(HEADER)
    for recipe in options.only or RECBOLES_NAME:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = resolve(compose("config", [f"+experiment={recipe}", "name=beside", *overrides]))
        interactions = build(config["dataset"])
        with tempfile.TemporaryDirectory() as folder:
            write_atomic_file(interactions, Path(folder))
            recbole = StockRecBole(options.python, folder, RECBOLES_NAME[recipe], options.length)
            if options.epochs:
                answer = recbole.ask(f"epochs={options.epochs}")
                while "epoch" in answer:
                    print(recipe, answer, flush=True)
                    answer = recbole.answer()
                print(recipe, answer, flush=True)
            else:
                recbole.ask(1)  # the first batch warms up
                beside = Beside(recbole, options.batches, options.pairs)
                train(config, interactions, beside)
                print(*rows(recipe, beside), sep="\n", flush=True)
            recbole.process.communicate()


if __name__ == "__main__":
    main(sys.argv[1:])
