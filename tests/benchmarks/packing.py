"""What a step of a pre-trained model costs by how its examples are laid out: rows that are shared, compact prompts.

Users have as many items as those of Amazon's 5-core sets, and titles as many tokens as make examples of about 100.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from torch.nn import functional as F  # noqa: N812

from src.ilrec.batches.next_item import RecommendationData
from src.ilrec.dataset.interactions import Interactions
from src.ilrec.prompt.ids import TitlesPrompt
from src.ilrec.prompt.instruction import InstructionPrompt
from src.ilrec.tokenizer.title import UnwrittenTitles
from src.model.causal_lm import CausalLM
from src.model.packing import Batch
from tests.benchmarks.comparison import Row, show_seconds
from tests.benchmarks.models import SMOLLM2, TOY, random_llama, semantic_ids


def interactions(users: int, items: int) -> Interactions:
    """Users of 7 items on average, a tenth of 11 and more, with titles of 10 to 30 letters."""
    rng = np.random.default_rng(0)
    lengths = 3 + rng.lognormal(1.1, 0.7, users).round().astype(np.int64)
    return Interactions(
        name="random",
        offsets=np.cumsum([0, *lengths]),
        items=rng.integers(items, size=lengths.sum()),
        user_ids=[str(user) for user in range(users)],
        item_ids=[str(item) for item in range(items)],
        titles=["".join(rng.choice(list("abcdef"), rng.integers(10, 30))) for _ in range(items)],
        texts=[""] * items,
        fingerprint="0" * 64,
        statistics={},
    )


def seconds_of(model: CausalLM, batch: Batch, *, padded: bool = False) -> float:
    """CPU seconds of forward and backward pass: on one thread the time that they take on an idle machine."""
    start = time.process_time()
    if padded:  # as a model reads rows that know nothing of sharing
        present = batch["attention_mask"] > 0
        states = model.architecture.plain(batch["input_ids"], present).last_hidden_state[batch["rows"]]
    else:
        states = model.row_states(batch["input_ids"], batch["attention_mask"], batch["rows"], []).final
    F.cross_entropy(model.head(states), batch["target"]).backward()
    model.zero_grad()
    return time.process_time() - start


def places_a_token(batch: Batch) -> float:
    """How many places of the rows there are for each token that is there."""
    return batch["input_ids"].numel() / int((batch["attention_mask"] > 0).sum())


def rows(*, quick: bool) -> Iterator[Row]:
    shape, vocabulary, users, pairs = (TOY, 512, 20, 1) if quick else (SMOLLM2, 49_152, 400, 2)
    shop = interactions(users, 300)
    no_ids = replace(semantic_ids(1, 1), vocabulary=[])
    model = random_llama(no_ids, vocabulary, shape, {"rank": 4, "alpha": 8, "dropout": 0.0})
    items = UnwrittenTitles(shop.titles, max_tokens=32).written_for(model)
    template = {"template": "Chosen: {history}. Next: ", "separator": ",", "max_history": 20}
    instruction = InstructionPrompt(model.tokenizer, items, **template)
    compact = TitlesPrompt(model.tokenizer, items, max_history=20, stride=21)
    model.prepare_for(max(instruction.longest, compact.longest), "")

    def batches(prompt: Any, *, packed: bool) -> list[Batch]:
        sizes = {"batch_size": 16, "evaluation_batch_size": 1, "max_users": None}
        prompt.packed = packed
        return list(RecommendationData(interactions=shop, prompt=prompt, seed=1, **sizes).train_dataloader())

    of_rows = batches(instruction, packed=False)
    usual = sorted(range(len(of_rows)), key=lambda one: places_a_token(of_rows[one]))[len(of_rows) // 2]
    packed, padded = batches(instruction, packed=True)[usual], of_rows[usual]
    windows = batches(compact, packed=True)[0]
    tokens, of_windows = (int((each["attention_mask"] > 0).sum()) for each in (packed, windows))
    items_of, items_of_windows = (len(each["interaction"].unique()) for each in (packed, windows))
    seconds_of(model, windows)  # to warm up
    yield Row(
        f"CPU time of the same examples of prompt=instruction, {tokens / items_of:.0f} tokens on average",
        ("packed", "padded rows"),
        [(seconds_of(model, packed), seconds_of(model, padded, padded=True)) for _ in range(pairs)],
        show_seconds, ">= 2", f"{places_a_token(padded):.2f} places a token in padded rows, as in the median batch",
    )  # fmt: skip
    yield Row(
        "CPU time to train a next item on the same titles", ("prompt=titles", "prompt=instruction"),
        [(seconds_of(model, windows) / items_of_windows, seconds_of(model, packed) / items_of) for _ in range(pairs)],
        show_seconds, ">= 3",
        f"{of_windows / items_of_windows:.0f} against {tokens / items_of:.0f} tokens a next item",
    )  # fmt: skip
