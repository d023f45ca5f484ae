"""A training step of ILRec against one of supervised fine-tuning, through the real stage and trainer.

Stage 1 is the self-hard negatives alone (CPO); ``ilrec`` adds distillation (CPD) and the rewards of a SASRec (CRR).
Random weights are the worst case: about half of the vocabulary is negative, where a trained model has a few tokens.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import lightning
import numpy as np
import torch

from src.ilrec.batches.next_item import RecommendationData
from src.ilrec.dataset.interactions import Interactions
from src.ilrec.evaluator.ranking import RankingEvaluator
from src.ilrec.model.sequence_models import SASRec
from src.ilrec.prompt.instruction import InstructionPrompt
from src.ilrec.stage.fine_tuning import FineTuningStage
from src.model.causal_lm import CausalLM
from tests.benchmarks.comparison import Row, config, show_seconds, silence
from tests.benchmarks.models import SMOLLM2, TOY, random_llama, semantic_ids

GOALS = {"ilrec_stage1": "<= 1.15", "ilrec": "<= 1.25"}


@dataclass(frozen=True)
class Sizes:
    """How much is trained."""

    shape: dict[str, int]
    items: int = 10_000  # as in Amazon Instruments, with LC-Rec's number of codes a level
    codes: int = 256
    vocabularies: tuple[int, ...] = (49_152, 128_256)  # SmolLM2's and Llama 3's
    batch_size: int = 4
    steps: int = 2  # timed on each side of a pair, after one to warm up
    step_pairs: int = 3
    memory_pairs: int = 2


FULL, QUICK = Sizes(SMOLLM2), Sizes(TOY, 100, 8, (512,), batch_size=2, steps=1, step_pairs=1, memory_pairs=1)


@dataclass(frozen=True)
class Parts:
    """What all recipes train, and on what."""

    model: CausalLM
    evaluator: RankingEvaluator
    data: RecommendationData


def parts(sizes: Sizes, vocabulary: int) -> Parts:
    items = semantic_ids(sizes.items, sizes.codes)
    model = random_llama(items, vocabulary, sizes.shape, config("model=smollm2")["model"]["lora"])
    users, length = 4 * sizes.batch_size, 40
    interactions = Interactions(
        name="random",
        offsets=np.arange(users + 1) * length,
        items=np.random.default_rng(0).integers(sizes.items, size=users * length),
        user_ids=[str(user) for user in range(users)],
        item_ids=[str(item) for item in range(sizes.items)],
        titles=[""] * sizes.items,
        texts=[""] * sizes.items,
        fingerprint="0" * 64,
        statistics={},
    )
    # As many tokens as conf/prompt/instruction.yaml has in a real tokenizer; here every byte is one.
    prompt = InstructionPrompt(
        model.tokenizer, items, template="Chosen: {history}. Next: ", separator=",", max_history=20
    )
    batches = {"batch_size": sizes.batch_size, "evaluation_batch_size": 1, "max_users": None}
    data = RecommendationData(interactions=interactions, prompt=prompt, seed=1, **batches)
    return Parts(model, RankingEvaluator(items, **config()["evaluator"]), data)


def fit(parts: Parts, recipe: str, steps: int, *callbacks: lightning.Callback, **changes: Any) -> lightning.Trainer:
    """Train with the recipe's settings; every call begins with the same batches."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    with tempfile.TemporaryDirectory() as folder:
        reward_model = Path(folder) / "sasrec.ckpt"
        save_reward_model(reward_model, parts.data.interactions)
        settings = config(
            f"stage={recipe}", "model=smollm2", "trainer.accelerator=cpu", f"trainer.max_steps={steps}",
            f"upstream.sasrec={reward_model}",
        )  # fmt: skip
        stage = FineTuningStage(model=parts.model, evaluator=parts.evaluator, **settings["stage"])
        options = {**settings["trainer"], **quiet, **changes, "default_root_dir": folder}
        trainer = lightning.Trainer(**options, callbacks=list(callbacks))
        trainer.fit(stage, datamodule=parts.data)
    return trainer


def save_reward_model(path: Path, interactions: Interactions) -> None:
    """Save a SASRec of the usual size with random weights as its stage saves a trained one."""
    network = SASRec([""] * interactions.num_items, **config("model=sasrec", "prompt=items")["model"])
    weights = {f"model.{name}": weight for name, weight in network.state_dict().items()}
    torch.save({"model": network.spec, "dataset": interactions.fingerprint, "state_dict": weights}, path)


class Clock(lightning.Callback):
    """CPU seconds of every training step, from the batch to the end of the optimiser's step.

    On one thread they are the time that a step takes on an idle machine; waiting for a busy one is not in them.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.start = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(time.process_time() - self.start)


def step_seconds(parts: Parts, recipe: str, steps: int) -> float:
    clock = Clock()
    fit(parts, recipe, steps + 1, clock)
    return median(clock.seconds[1:])


def time_rows(*, quick: bool) -> Iterator[Row]:
    sizes = QUICK if quick else FULL
    for vocabulary in sizes.vocabularies:
        trained = parts(sizes, vocabulary)
        batch = next(iter(trained.data.train_dataloader()))
        logged = fit(trained, "ilrec_stage1", 1, log_every_n_steps=1).callback_metrics
        shape = f"batch {tuple(batch['input_ids'].shape)}, {len(batch['target'])} labels"
        for recipe, goal in GOALS.items():
            yield Row(
                f"CPU time of a step, V = {vocabulary:,}, {shape}",
                ("sft", recipe),
                [
                    (step_seconds(trained, "sft", sizes.steps), step_seconds(trained, recipe, sizes.steps))
                    for _ in range(sizes.step_pairs)
                ],
                show_seconds,
                goal,
                f"{logged['train/negatives_per_position']:,.0f} negatives a label",
            )


class Memory(lightning.Callback):
    """Resident memory before the first training step and its peak from there on, in MB (Linux with glibc).

    The peak is the kernel's mark of this process, set back before the steps. ``ru_maxrss`` would start from the peak
    of building the model, and from that of the process that started this one.
    """

    def on_train_start(self, *_: Any) -> None:
        self.before = resident_from_here()

    def on_train_end(self, *_: Any) -> None:
        self.peak = resident("VmHWM")


def resident_from_here() -> float:
    """Return the resident memory in MB and set the mark of its peak back to it."""
    gc.collect()
    # Freed memory that the allocator kept would be used again unseen, more or less of it in each run.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(name: str) -> float:
    return int(re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024


def step_memory(quick: bool, vocabulary: int, recipe: str, threads: int) -> tuple[float, float]:
    """Return what two steps, one of them logged, add to the resident memory, and its peak, in MB."""
    silence()
    torch.set_num_threads(threads)
    memory = Memory()
    fit(parts(QUICK if quick else FULL, vocabulary), recipe, 2, memory, log_every_n_steps=2)
    return memory.peak - memory.before, memory.peak


def in_fresh_process(*task: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(*task).result()


def memory_rows(*, quick: bool) -> Iterator[Row]:
    sizes, threads = QUICK if quick else FULL, torch.get_num_threads()
    for vocabulary in sizes.vocabularies:
        for recipe, goal in GOALS.items():
            pairs = [
                [in_fresh_process(step_memory, quick, vocabulary, side, threads) for side in ("sft", recipe)]
                for _ in range(sizes.memory_pairs)
            ]
            for index, what in enumerate(("added by the steps", "of the whole process")):
                yield Row(
                    f"Peak memory {what}, V = {vocabulary:,}",
                    ("sft", recipe),
                    [(sft[index], ilrec[index]) for sft, ilrec in pairs],
                    lambda value: f"{value:,.0f} MB",
                    goal,
                    "each in a fresh process",
                )
