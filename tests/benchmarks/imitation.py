"""Imitation by its stage against a plain transformers Trainer: same model, data, batch size, precision, threads."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch

from src.gisa.agent.heuristic import HeuristicPolicy
from src.gisa.agent.rollout import rollout_with
from src.gisa.batches.data import DemonstrationData
from src.gisa.batches.demonstrations import Demonstration, make_demonstrations
from src.gisa.chat.format import ChatFormat
from src.gisa.stage.imitation import ImitationStage
from src.launch.config import build, resolve
from src.model.causal_lm import CausalLM, from_pretrained
from src.model.smollm2 import local_folder
from tests.benchmarks.comparison import Row, show_seconds
from tests.gisa.chat_models import write_folder

# Four demonstrations a step, so that there is something to pack and to sort by length; the recipe takes one.
_OVERRIDES = (
    *("+experiment=gisa_imitation", "name=bench", "batches.batch_size=4"),
    *("trainer.accelerator=cpu", "trainer.precision=bf16-mixed", "batches.validation_questions=1"),
)


def rows(*, quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        yield _row(Path(folder), quick)


def _row(folder: Path, quick: bool) -> Row:
    pairs, count = (1, 4) if quick else (2, 8)
    config = composed(*_OVERRIDES, f"dataset.per_type={2 if quick else 8}")
    name = str(write_folder(folder / "toy")) if quick else local_folder()
    model, demonstrations = demonstrations_of(name, config)
    settings = {key: value for key, value in config["batches"].items() if not key.startswith("_")}
    data = DemonstrationData(
        demonstrations=demonstrations, pad_token_id=model.tokenizer.pad_token_id, seed=1,
        **{**settings, "training_questions": count, "drills": 0},
    )  # fmt: skip
    trained = sum(sum(demonstration.marked.trained) for demonstration in data.training)
    took, losses = [], []
    for _ in range(pairs):
        ours = stage_seconds(fresh(name, config), data, config)
        theirs = trainer_seconds(fresh(name, config), data.training, data, config, folder)
        took.append((ours[0], theirs[0]))
        losses.append((ours[1], theirs[1]))
    read = sum(len(demonstration.marked.tokens) for demonstration in data.training)
    return Row(
        f"CPU time to learn {trained:,} of {read:,} tokens of {count} demonstrations, {settings['batch_size']} a step",
        ("stage=gisa_imitation", "transformers Trainer"),
        took,
        lambda value: f"{show_seconds(value)}, {trained / value:,.0f} tokens a second",
        ">= 1.5",
        f"loss before the first step {losses[0][0]:.3f} and {losses[0][1]:.3f}",
    )


def composed(*overrides: str) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir

    from tests.benchmarks.comparison import ROOT

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return resolve(compose("config", list(overrides)))


def fresh(name: str, config: dict[str, Any]) -> CausalLM:
    settings = {key: value for key, value in config["model"].items() if not key.startswith("_")}
    return from_pretrained((), **{**settings, "name": name, "seed": 1})


def demonstrations_of(name: str, config: dict[str, Any]) -> tuple[CausalLM, Any]:
    model = fresh(name, config)
    rollout = rollout_with(HeuristicPolicy(), config["agent"])
    return model, make_demonstrations(build(config["dataset"]), rollout, ChatFormat(model.tokenizer), max_tokens=4096)


def stage_seconds(model: CausalLM, data: DemonstrationData, config: dict[str, Any]) -> tuple[float, float]:
    """Train an epoch with the stage; return CPU seconds without the start, and the loss of all data before it."""
    settings = {key: value for key, value in config["stage"].items() if not key.startswith("_")}
    options = {key: value for key, value in config["trainer"].items() if not key.startswith("_")}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    model.prepare_for(int(max(data.lengths)), "")  # as the task does: longer rows than probed are read a slower way
    assert model.architecture.reach >= max(data.lengths)
    stage = ImitationStage(model=model, **settings)
    loss = mean_loss(lambda batch: stage.model.head(stage._states(batch)), data)
    clock = _Clock()
    trainer = lightning.Trainer(**{**options, **quiet, "max_epochs": 1}, callbacks=[clock])
    trainer.fit(stage, datamodule=data)
    return clock.seconds, loss


def trainer_seconds(
    model: CausalLM, demonstrations: list[Demonstration], data: DemonstrationData, config: dict[str, Any], folder: Path
) -> tuple[float, float]:
    """The same with transformers' own loop: padded rows in random order, logits and labels at every position."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    network, pad = model.network, model.tokenizer.pad_token_id
    network.config._attn_implementation = "sdpa"
    network.get_input_embeddings().requires_grad_(False)  # as the stage does
    from transformers import Trainer, TrainingArguments  # seconds of imports

    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=data.settings.batch_size, num_train_epochs=1, bf16=True,
        use_cpu=True, learning_rate=config["stage"]["learning_rate"], weight_decay=config["stage"]["weight_decay"],
        seed=1, warmup_steps=0, max_grad_norm=config["trainer"]["gradient_clip_val"], report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False, optim="adamw_torch",
        lr_scheduler_type="cosine",
    )  # fmt: skip
    examples = [
        {
            "input_ids": demonstration.marked.tokens,
            "labels": [
                token if known else -100
                for token, known in zip(demonstration.marked.tokens, demonstration.marked.trained, strict=True)
            ],
        }
        for demonstration in demonstrations
    ]

    def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        longest = max(len(one["input_ids"]) for one in batch)

        def padded(name: str, filler: int) -> torch.Tensor:
            return torch.tensor([one[name] + [filler] * (longest - len(one[name])) for one in batch])

        ids, labels = padded("input_ids", pad), padded("labels", -100)
        lengths = torch.tensor([len(one["input_ids"]) for one in batch])
        return {
            "input_ids": ids,
            "labels": labels,
            "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
        }

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        parts = []
        for example in examples:
            batch = collate([example])
            parts.append((network(**batch).loss.item(), int((batch["labels"] != -100).sum())))
    trainer = Trainer(network, arguments, data_collator=collate, train_dataset=examples)
    start = time.process_time()
    trainer.train()
    return time.process_time() - start, sum(one * count for one, count in parts) / sum(count for _, count in parts)


@torch.no_grad()
def mean_loss(logits: Any, data: DemonstrationData) -> float:
    total, count = 0.0, 0
    for demonstration in data.training:
        batch = data.batch([demonstration])
        with torch.autocast("cpu", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(logits(batch), batch["target"], reduction="sum")
        total, count = total + loss.item(), count + len(batch["target"])
    return total / count


class _Clock(lightning.Callback):
    seconds = 0.0

    def on_train_start(self, *_: Any) -> None:
        self.start = time.process_time()

    def on_train_end(self, *_: Any) -> None:
        self.seconds = time.process_time() - self.start
