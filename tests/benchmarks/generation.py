"""Replies of a local model in an agent's episodes: many at once, against one by one with and without a memory."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from src.gisa.agent.heuristic import HeuristicPolicy
from src.gisa.agent.rollout import rollout_with
from src.gisa.batches.demonstrations import Demonstration, make_demonstrations
from src.gisa.chat.generation import CachedGenerator, load_chat_model
from src.launch.config import build
from src.model.smollm2 import local_folder
from tests.benchmarks.comparison import Row, show_seconds
from tests.benchmarks.imitation import composed
from tests.gisa.chat_models import write_folder

Episode = list[tuple[list[int], list[int]]]
"""Of each turn, the tokens to read and those to write, its end included."""


def rows(*, quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        yield from _rows(str(write_folder(Path(folder) / "toy")) if quick else local_folder(), quick)


def _rows(name: str, quick: bool) -> Iterator[Row]:
    count = 3 if quick else 16
    model = load_chat_model(name, dtype="float32" if quick else "bfloat16", device="cpu")
    config = composed("+experiment=gisa_imitation", "name=bench", f"dataset.per_type={2 if quick else 8}")
    agent = rollout_with(HeuristicPolicy(), config["agent"])
    demonstrations = make_demonstrations(build(config["dataset"]), agent, model, max_tokens=4096).demonstrations
    episodes = [_episode(demonstration) for demonstration in demonstrations[:: len(demonstrations) // count][:count]]
    written = sum(len(turn[1]) for episode in episodes for turn in episode)
    CachedGenerator(model).generate([[0]], seeds=[0], max_tokens=1, temperature=0)  # the first call prepares
    together, of_groups = _seconds(CachedGenerator(model, 2e9), [episodes])
    for most_bytes, which in ((2e9, "with"), (0.0, "without")):
        alone, of_each = _seconds(CachedGenerator(model, most_bytes), [[episode] for episode in episodes])
        yield Row(
            f"CPU time to write {written} tokens in {count} episodes, by turns",
            (f"{count} at once, with memory", f"one by one, {which}"),
            [(together / count, alone / count)],
            lambda value: f"{show_seconds(value)} an episode",
            ">= 3",
            f"known turns were replayed, {'all' if of_groups == of_each == written else 'NOT all'} of them",
        )


def _episode(demonstration: Demonstration) -> Episode:
    """Take a demonstration apart: its trained tokens are what the assistant wrote."""
    episode, before = [], 0
    for trained, run in itertools.groupby(demonstration.marked.trained):
        after = before + len(list(run))
        if trained:
            episode.append((demonstration.marked.tokens[:before], demonstration.marked.tokens[before:after]))
        before = after
    return episode


def _seconds(generator: CachedGenerator, groups: Sequence[list[Episode]]) -> tuple[float, int]:
    """Replay groups of episodes turn by turn; return CPU seconds and the number of tokens written."""
    written, start = 0, time.process_time()
    for group in groups:
        for number in range(max(map(len, group))):
            turns = [episode[number] for episode in group if number < len(episode)]
            left = [iter(tokens) for _, tokens in turns]

            def known(logits: torch.Tensor, draws: Sequence[torch.Generator], _: float, left: Any = left) -> Any:
                return torch.tensor([next(left[draw.initial_seed()]) for draw in draws])

            with mock.patch("src.gisa.chat.generation._chosen", known):
                prompts = [read for read, _ in turns]
                replies = generator.generate(prompts, seeds=range(len(turns)), max_tokens=4096, temperature=0)
            written += sum(len(one.tokens) + one.ended for one in replies)
    return time.process_time() - start, written
