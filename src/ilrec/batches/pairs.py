"""Batches of preference pairs: a prompt, the item that was chosen and the items to reject, which are drawn here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.ilrec.batches.next_item import RecommendationData, TrainingBatches
from src.ilrec.dataset.interactions import Interactions
from src.ilrec.prompt.examples import Examples, labels_with_history
from src.ilrec.tokenizer.embeddings import Embedding
from src.launch.errors import InputError
from src.launch.values import Count, Seed, Share
from src.model.packing import Batch

Kind = Literal["random", "popular", "similar"]


class Negatives:
    """Draws rejected items that their user has not chosen in training.

    Source: ``random`` as in S-DPO (arXiv 2406.09215); ``popular`` and ``similar`` as RosePO (arXiv 2410.12519) names
    them. Popular items are drawn by their training counts plus one, similar ones evenly among the nearest by cosine.

    Args:
        interactions: The prepared interactions; only their training part is used.
        kind: ``random``, ``popular`` or ``similar``.
        count: Rejected items of each chosen one, all different.
        embedding: Vectors that say what is similar; needed for ``similar`` only.
        neighbours: Nearest items among which ``similar`` draws, at least ``count``.

    Raises:
        InputError: a user has chosen so many items that too few are left, or fewer neighbours than ``count``.
    """

    def __init__(
        self, interactions: Interactions, kind: Kind, *, count: int, embedding: Embedding, neighbours: int
    ) -> None:
        self.count = count
        self._items = interactions.num_items
        matrix = interactions.training_matrix()
        users = np.repeat(np.arange(interactions.num_users), np.diff(matrix.indptr))
        self._chosen = np.sort(users * self._items + matrix.indices)
        self._nearest: NDArray[np.int64] | None = None
        if kind == "similar":
            if not count <= neighbours < self._items:
                raise InputError(
                    f"batches.neighbours={neighbours} must lie between batches.num_negatives={count} and the "
                    f"{self._items - 1} other items."
                )
            self._nearest = _nearest(embedding.embed(interactions), neighbours)
            return
        left = self._items - int(np.diff(matrix.indptr).max())
        if left < count:
            raise InputError(
                f"batches.num_negatives={count}: one user has chosen all items but {left}.\n"
                f"Type:  batches.num_negatives={max(left, 1)}"
            )
        weight = np.ones(self._items) if kind == "random" else np.asarray(matrix.sum(axis=0)).ravel() + 1.0
        self._cumulated = np.cumsum(weight / weight.sum())

    def draw(self, users: NDArray[np.int64], chosen: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw rejected items.

        Args:
            users: User of each pair, shape ``(n,)``.
            chosen: The chosen item, shape ``(n,)``, one of the user's training items.
            rng: Source of the draws.

        Returns:
            Items, shape ``(n, count)``, int64. None is in the user's training items, except where ``similar`` finds too
            few others nearby.
        """
        if self._nearest is not None:
            near = self._nearest[chosen]
            # Unseen ones first, either part in random order.
            order = (rng.random(near.shape) + self._is_chosen(users[:, None], near)).argsort(axis=1)
            return np.take_along_axis(near, order[:, : self.count], axis=1)
        drawn = np.full((len(users), self.count), -1)
        settled = np.zeros(drawn.shape, dtype=bool)
        while not settled.all():
            row, column = (~settled).nonzero()
            item = np.searchsorted(self._cumulated[:-1], rng.random(len(row)), side="right")
            drawn[row, column] = item
            goes_first = settled[row] | (np.arange(self.count) < column[:, None])
            repeated = ((drawn[row] == item[:, None]) & goes_first).any(axis=1)
            settled[row, column] = ~repeated & ~self._is_chosen(users[row], item)
        return drawn

    def _is_chosen(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
        key = users * self._items + items
        place = np.searchsorted(self._chosen, key).clip(max=len(self._chosen) - 1)
        found: NDArray[np.bool_] = self._chosen[place] == key
        return found


def _nearest(vectors: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the ``count`` nearest other items of each by cosine, in blocks so that memory stays linear in items."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found = np.empty((len(unit), count), dtype=np.int64)
    for start in range(0, len(unit), 1024):
        similarity = unit[start : start + 1024] @ unit.T
        similarity[np.arange(len(similarity)), start + np.arange(len(similarity))] = -np.inf
        found[start : start + 1024] = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    return found


@dataclass(frozen=True)
class Pairs:
    """One draw of pairs, in the order of the examples that hold them: n pairs, K rejected items each.

    Attributes:
        examples: The token sequences; every label of an example is the chosen item of a pair.
        offsets: First pair of each example, shape ``(examples + 1,)``, int64.
        user: User of each pair, shape ``(n,)``, int64.
        label: Position of the chosen item among the user's items, shape ``(n,)``, int64.
        chosen: The chosen item, shape ``(n,)``, int64.
        rejected: The rejected items, shape ``(n, K)``, int64.
    """

    examples: Examples
    offsets: NDArray[np.int64]
    user: NDArray[np.int64]
    label: NDArray[np.int64]
    chosen: NDArray[np.int64]
    rejected: NDArray[np.int64]

    def fingerprint(self) -> str:
        """Return the hex SHA-256 of everything in it."""
        columns = [getattr(self.examples, field.name) for field in fields(self.examples) if field.name != "task"]
        digest = hashlib.sha256(repr(self.rejected.shape).encode())
        for column in (*columns, self.chosen, self.rejected):
            digest.update(np.ascontiguousarray(column, dtype=np.int64).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """How pairs are drawn.

    Attributes:
        negatives: ``random``, ``popular`` or ``similar`` items, see ``Negatives``; ``own`` leaves them to the stage,
            which puts the model's answers into ``answers``.
        num_negatives: Rejected items of each pair; 1 for ``own``.
        similarity: Vectors that say what is similar.
        neighbours: Nearest items among which ``similar`` draws.
        prompts_per_epoch: Pairs drawn from all training items that have one before them, each with a prompt of its own;
            ``None`` takes every item in the prompt's own examples.
        epochs_per_draw: Epochs that share one draw; ``None`` draws once.

    Raises:
        InputError: a setting is out of range.
    """

    negatives: Literal["random", "popular", "similar", "own"]
    num_negatives: Count
    similarity: Embedding
    neighbours: Count
    prompts_per_epoch: Count | None
    epochs_per_draw: Count | None

    def __post_init__(self) -> None:
        for name in ("num_negatives", "prompts_per_epoch", "epochs_per_draw"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"batches.{name}={value}: I need a whole number of at least 1.")
        if self.negatives == "own" and self.num_negatives != 1:
            raise InputError(
                f"batches.num_negatives={self.num_negatives}: with batches.negatives=own the model gives one answer.\n"
                "Type:  batches.num_negatives=1"
            )


class PreferenceData(RecommendationData):
    """Training pairs beside the evaluation batches of ``RecommendationData``.

    What is drawn follows from the seed and the epoch, so that it can be drawn again at any time.

    Args:
        interactions: The prepared interactions.
        prompt: How histories and responses are written, see ``src.ilrec.prompt``.
        seed: Seed of draws and order.
        batch_size: Examples of one optimiser step, over all devices together.
        evaluation_batch_size: Users decoded at once on one device.
        max_users: Evaluate only the first users; ``None`` evaluates all.
        crop: See ``RecommendationData``; for pairs in the prompt's own examples.
        settings: Those of ``PairSettings``.

    Attributes:
        answers: Rejected item of each pair of the current draw for ``own``, shape ``(n,)``; ``None`` for no answers.
    """

    settings: PairSettings

    def __init__(
        self,
        *,
        interactions: Interactions,
        prompt: Any,
        seed: Seed,
        batch_size: Count,
        evaluation_batch_size: Count,
        max_users: Count | None,
        crop: Share = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(
            interactions=interactions,
            prompt=prompt,
            seed=seed,
            batch_size=batch_size,
            evaluation_batch_size=evaluation_batch_size,
            max_users=max_users,
            crop=crop,
        )
        self.settings = PairSettings(**settings)
        self.answers: NDArray[np.int64] | None = None
        self._responses = _write_responses(prompt, interactions.num_items)
        self._draw_negatives = None
        if (kind := self.settings.negatives) != "own":
            count, embedding = self.settings.num_negatives, self.settings.similarity
            nearest = self.settings.neighbours
            self._draw_negatives = Negatives(
                interactions, kind, count=count, embedding=embedding, neighbours=nearest
            ).draw
        self._current: tuple[int, Pairs] | None = None

    def train_dataloader(self) -> PreferenceBatches:
        """Return the training batches; iterating once is one epoch."""
        return PreferenceBatches(self, *self._shard())

    def epoch_batches(self, epoch: int) -> PreferenceBatches:
        """Return the batches of one epoch from its start, to be read beside training."""
        batches = self.train_dataloader()
        batches.load_state_dict({"epoch": epoch, "batch": 0})
        return batches

    def pairs(self, epoch: int) -> Pairs:
        """Return the pairs of an epoch; for ``own`` without rejected items."""
        draw = 0 if self.settings.epochs_per_draw is None else epoch // self.settings.epochs_per_draw
        if self._current is None or self._current[0] != draw:
            self._current = draw, self._draw(np.random.default_rng([self.seed, draw, 1]))
        return self._current[1]

    def respond(self, items: Tensor) -> Tensor:
        """Write items as responses: tokens, shape ``(*items.shape, longest of them)``, int64; -1 pads on the right."""
        tokens = self._responses[items.cpu()]
        return tokens[..., : int((tokens >= 0).sum(-1).max())].to(items.device)

    def _draw(self, rng: np.random.Generator) -> Pairs:
        lengths = np.diff(self.interactions.offsets) - 2
        if self.settings.prompts_per_epoch is None:
            examples = self.prompt.examples(lengths, rng)
            examples = examples.cropped(self.crop, self.prompt.unlabelled, rng) if self.crop else examples
        else:
            users, labels = labels_with_history(lengths)
            kept = np.sort(rng.permutation(len(users))[: self.settings.prompts_per_epoch])
            user, label = users[kept], labels[kept]
            examples = Examples(user, np.maximum(label - self.prompt.max_history, 0), label + 1, label)
        count = examples.stop - examples.first_label
        offsets = np.concatenate([[0], np.cumsum(count)])
        user = np.repeat(examples.user, count)
        label = np.repeat(examples.first_label - offsets[:-1], count) + np.arange(offsets[-1])
        chosen = self.interactions.items[self.interactions.offsets[user] + label]
        none = np.empty((len(user), 0), dtype=np.int64)
        rejected = none if self._draw_negatives is None else self._draw_negatives(user, chosen, rng)
        return Pairs(examples, offsets, user, label, chosen, rejected)


class PreferenceBatches(TrainingBatches):
    """All training batches of one process.

    A batch holds B sequences of at most S tokens, with P prompts that end in them and 1 + K responses to each:
    ``input_ids`` and ``attention_mask`` ``(B, S)`` padded on the left; ``anchor`` ``(P,)``, the place of each prompt's
    last token as ``row * S + column``, ascending; ``pair`` ``(P,)``, its number in the draw; ``item`` ``(P, 1 + K)``,
    the chosen item first; ``response`` ``(P, 1 + K, M)``, their tokens, -1 pads on the right.

    Args:
        data: The data module.
        rank: This process, from 0.
        world_size: Number of processes; each takes every ``world_size``-th example of a batch.
    """

    data: PreferenceData

    def __init__(self, data: PreferenceData, rank: int, world_size: int) -> None:
        super().__init__(data, rank, world_size)
        if data.settings.prompts_per_epoch is not None:
            prompts = min(data.settings.prompts_per_epoch, len(labels_with_history(self.lengths)[0]))
            self.num_batches = max(prompts // data.batch_size, 1)

    @property
    def next_epoch(self) -> int:
        """The epoch of the next batch."""
        return self.epoch + (self.batch == self.num_batches)

    def _examples(self, rng: np.random.Generator) -> Examples:
        return self.data.pairs(self.epoch).examples

    def _collate(self, examples: Examples, chosen: np.ndarray) -> Batch:
        pairs, sequences, ends, numbers = self.data.pairs(self.epoch), [], [], []
        for row in chosen:
            start, stop = examples.start[row], examples.stop[row]
            items = self.data.interactions.training_sequence(int(examples.user[row]))[start:stop]
            tokens, owner = self.data.prompt.encode(items, int(examples.first_label[row] - start))
            first = np.flatnonzero((owner >= 0) & (np.diff(owner, prepend=-1) != 0))
            sequences.append(tokens[: first[-1]])  # the last response is scored beside its prompt, as all are
            ends.append(first - 1)
            numbers.append(np.arange(pairs.offsets[row], pairs.offsets[row + 1]))
        length = max(map(len, sequences))
        input_ids = torch.full((len(sequences), length), self.data.prompt.pad_token_id)
        attention_mask = torch.zeros(len(sequences), length, dtype=torch.int64)
        for row, tokens in enumerate(sequences):
            input_ids[row, length - len(tokens) :] = torch.from_numpy(tokens)
            attention_mask[row, length - len(tokens) :] = 1
        anchor = [
            (row + 1) * length - len(tokens) + end
            for row, (tokens, end) in enumerate(zip(sequences, ends, strict=True))
        ]
        pair = np.concatenate(numbers)
        answers = self.data.answers
        rejected = pairs.rejected[pair] if answers is None else answers[pair][:, None]
        item = torch.from_numpy(np.concatenate([pairs.chosen[pair][:, None], rejected], axis=1))
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "anchor": torch.from_numpy(np.concatenate(anchor)),
            "pair": torch.from_numpy(pair),
            "item": item,
            "response": self.data.respond(item),
        }


def _write_responses(prompt: Any, num_items: int) -> Tensor:
    """Write every item as the prompt writes a response, shape ``(items, longest)``; -1 pads on the right."""
    written = []
    for item in range(num_items):
        tokens, owner = prompt.encode(np.array([item, item]), 1)
        written.append(torch.from_numpy(tokens[owner == 1]))
    return torch.nn.utils.rnn.pad_sequence(written, batch_first=True, padding_value=-1)
