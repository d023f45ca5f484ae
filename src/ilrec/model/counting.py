"""Collaborative models that are counted and not trained: which item follows which, how popular each is, or neither."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import MinLen
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from src.ilrec.dataset.interactions import Interactions, count_pairs
from src.launch.errors import InputError
from src.launch.values import Count, Share, Weight
from src.metrics.ranking import per_user_metric

TIE_BREAK = 1e-6  # score of the most popular item, so that popularity orders what nothing else does
_BLOCK = 1 << 24  # products of sparse matrices at once: about 400 MiB
_NOTHING = 1e-9  # below any count, above what rounding leaves where a user's own pairs are taken away
log = logging.getLogger("run")


def latest_items(interactions: Interactions, count: int) -> NDArray[np.int64]:
    """Return each user's latest training items, latest first, shape ``(users, count)``, padded with -1."""
    place = interactions.offsets[1:, None] - 3 - np.arange(count)
    inside = place >= interactions.offsets[:-1, None]
    return np.where(inside, interactions.items[np.where(inside, place, 0)], -1)


def ranks_of(
    histories: NDArray[np.int64],
    targets: NDArray[np.int64],
    pairs: csr_matrix,
    popularity: NDArray[np.float64],
    *,
    decay: float,
    norm: float,
) -> NDArray[np.float64]:
    """Rank targets by the scores of ``Counting``, without ever holding the scores of all items.

    Args:
        histories: Items, latest first, shape ``(n, K)``, padded with -1.
        targets: Shape ``(n,)``.
        pairs: See :func:`count_pairs`.
        popularity: What is added to the score of each item, shape ``(I,)``, at most 1e-6.
        decay: See ``CountingSettings``.
        norm: Likewise.

    Returns:
        Expected ranks under a random order of equal scores, shape ``(n,)``; NaN where it can be seen at once that more
        than ten items are ahead.
    """
    row_sums, number = np.asarray(pairs.sum(axis=1)).ravel(), np.arange(len(targets))
    factor = np.divide(1.0, row_sums**norm, out=np.zeros_like(row_sums), where=row_sums > 0)
    user, slot = np.nonzero(histories >= 0)
    items = histories[user, slot]
    weights, lengths = decay**slot * factor[items], np.diff(pairs.indptr)
    own = np.bincount(user, weights * np.asarray(pairs[items, targets[user]]).ravel(), minlength=len(targets))
    follows = pairs.data * np.repeat(factor, lengths) > TIE_BREAK
    surely_ahead = np.bincount(np.repeat(np.arange(len(lengths)), lengths), follows, minlength=len(lengths))
    open_ones = number[(own > 0) | (surely_ahead[histories[:, 0]] < 10)]
    first = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(targets)))])
    matrix = csr_matrix((weights, items, first), shape=(len(targets), len(row_sums)))[open_ones]
    work = np.cumsum(np.bincount(user, lengths[items], minlength=len(targets))[open_ones])
    ranks, order = np.full(len(targets), np.nan), np.sort(popularity)
    for block in np.split(np.arange(len(open_ones)), np.searchsorted(work, np.arange(_BLOCK, work[-1:].sum(), _BLOCK))):
        ranks[open_ones[block]] = _ranks_among(matrix[block] @ pairs, targets[open_ones[block]], popularity, order)
    return ranks


def _ranks_among(
    scores: csr_matrix, targets: NDArray[np.int64], popularity: NDArray[np.float64], order: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return expected ranks, shape ``(n,)``, by scores ``(n, I)`` to which popularity (sorted: ``order``) is added."""
    row = np.repeat(np.arange(len(targets)), np.diff(scores.indptr))
    bare = np.bincount(row, scores.data * (scores.indices == targets[row]), minlength=len(targets))
    own = bare + popularity[targets]
    near = scores.data >= (bare - TIE_BREAK)[row]  # all others are behind, whatever their popularity
    row, item, score = row[near], scores.indices[near], scores.data[near]
    first, last = (np.searchsorted(order, own, side) for side in ("left", "right"))
    ahead, level = len(order) - last, last - first  # as if popularity were all; then for the items with scores
    for sign, value in ((-1, popularity[item]), (1, score + popularity[item])):
        ahead = ahead + sign * np.bincount(row, value > own[row], minlength=len(targets))
        level = level + sign * np.bincount(row, value == own[row], minlength=len(targets))
    ranks: NDArray[np.float64] = ahead + (level + 1) / 2
    return ranks


@dataclass(frozen=True, kw_only=True)
class CountedSettings:
    """What every one of these models is made with.

    Attributes:
        max_history: Latest items that are looked at.
    """

    max_history: Count


class CountedModel(nn.Module, ABC):
    """A collaborative model of the next item without parameters; a state is the history itself, latest item first.

    Symbols: B histories, K items of one at most, I items.

    Args:
        item_vocabulary: One token for each item, see ``tokenizer=item_ids``.
        settings: Plain values.

    Attributes:
        counts: How often each item is in the training part, shape ``(I,)``, float64.

    Raises:
        InputError: there are no item tokens.
    """

    tokenizer = None  # of text: there is none
    counts: Tensor

    def __init__(self, item_vocabulary: Sequence[str], settings: CountedSettings) -> None:
        super().__init__()
        if not item_vocabulary:
            raise InputError(f"{type(self).__name__} reads whole items, not titles.\nType:  tokenizer=item_ids")
        self.spec = {"kind": type(self).__name__, "items": len(item_vocabulary), **asdict(settings)}
        self.max_history = settings.max_history
        self.register_buffer("counts", torch.zeros(len(item_vocabulary), dtype=torch.float64))

    def count(self, interactions: Interactions) -> None:
        """Take from the training part all that there is to know."""
        counts = np.asarray(interactions.training_matrix().sum(axis=0), dtype=np.float64).ravel()
        self.counts = torch.from_numpy(counts).to(self.counts.device)

    def chosen_settings(self) -> dict[str, float]:
        """Return the settings that :meth:`count` has chosen on validation users; none where there is no choice."""
        return {}

    def last_states(self, items: Tensor, mask: Tensor) -> Tensor:
        """Return the latest items of each sequence, latest first, shape ``(B, K)``, padded with -1.

        Args:
            items: Item indices, shape ``(B, T)``, int64, padded on the left or on the right.
            mask: 1 for items, 0 for padding, shape ``(B, T)``.
        """
        back = torch.arange(min(items.shape[1], self.max_history), device=items.device)
        place = mask.argmax(1, keepdim=True) + mask.sum(1, keepdim=True) - 1 - back
        return items.gather(1, place.clamp(min=0)).masked_fill(back >= mask.sum(1, keepdim=True), -1)

    @abstractmethod
    def scores(self, states: Tensor) -> Tensor:
        """Return what orders the items, shape ``(B, I)``, float64, of states ``(B, K)``."""

    def probabilities(self, states: Tensor) -> Tensor:
        """Return P(item next), all above 0, shape ``(B, I)``, float64, of states ``(B, K)``."""
        scores = self.scores(states) + 1
        return scores / scores.sum(1, keepdim=True)

    def _apply(self, change: Callable[[Tensor], Tensor], recurse: bool = True) -> CountedModel:
        for name, buffer in list(self.named_buffers()):  # half precision is for weights: counts move and stay exact
            setattr(self, name, buffer.to(change(buffer).device))
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in list(self.named_buffers()):  # what was counted has a size of its own
            if (stored := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(stored, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *args)


class Uniform(CountedModel):
    """All items alike: a reward model that knows nothing.

    Args:
        item_vocabulary: One token for each item.
        settings: Those of ``CountedSettings``.
    """

    settings: CountedSettings

    def __init__(self, item_vocabulary: Sequence[str], **settings: Any) -> None:
        super().__init__(item_vocabulary, CountedSettings(**settings))

    def scores(self, states: Tensor) -> Tensor:
        """See the base class."""
        return self.counts.new_zeros(len(states), len(self.counts))


class Popularity(CountedModel):
    """Items by how often they are in the training part, whatever the history; probabilities by these counts plus one.

    Args:
        item_vocabulary: One token for each item.
        settings: Those of ``CountedSettings``.
    """

    settings: CountedSettings

    def __init__(self, item_vocabulary: Sequence[str], **settings: Any) -> None:
        super().__init__(item_vocabulary, CountedSettings(**settings))

    def scores(self, states: Tensor) -> Tensor:
        """See the base class."""
        return self.counts.repeat(len(states), 1)


@dataclass(frozen=True, kw_only=True)
class CountingSettings(CountedSettings):
    """What ``Counting`` is made with: the values of its four numbers among which validation users choose, and one more.

    Attributes:
        decay: Weight of an item of the history relative to that of the next later one.
        skip: Farthest distance of two items of a sequence that count as a pair.
        back: Weight of a pair whose later item is in the history, and whose earlier one is scored.
        norm: Power of an item's sum of pairs that its pairs are divided by.
        smoothing: Share of popularity (counts plus one) in its probabilities.
    """

    decay: Annotated[list[Share], MinLen(1)]
    skip: Annotated[list[Count], MinLen(1)]
    back: Annotated[list[Weight], MinLen(1)]
    norm: Annotated[list[Weight], MinLen(1)]
    smoothing: Share


class Counting(CountedModel):
    """Which item follows which: ``score(i) = sum_k decay**k T[h_k, i] + 1e-6 count(i) / largest count``.

    ``h_0`` is the latest item of the history. ``T[a, b]`` sums ``0.5**(d - 1)`` over all pairs at a distance d of 1 to
    ``skip`` in a training sequence, plus ``back`` times the same for the reversed pair; each row is divided by
    ``(row sum)**norm``. The four numbers are those of the grid with the best validation NDCG@10, history kept.

    Source: our choice.

    Args:
        item_vocabulary: One token for each item.
        settings: Those of ``CountingSettings``.

    Attributes:
        chosen: decay, skip, back, norm; float64.
        first: Where the pairs of each item begin in ``following``, shape ``(I + 1,)``, int64.
        following: Items of the pairs, ascending for each item, shape ``(pairs,)``, int64.
        weight: Sum of each pair, shape ``(pairs,)``, float64, before rows are divided.
        row_sums: Sum of each item's pairs, shape ``(I,)``, float64.
    """

    settings: CountingSettings
    chosen: Tensor
    first: Tensor
    following: Tensor
    weight: Tensor
    row_sums: Tensor

    def __init__(self, item_vocabulary: Sequence[str], **settings: Any) -> None:
        self.told = CountingSettings(**settings)
        super().__init__(item_vocabulary, self.told)
        self._take(csr_matrix((len(item_vocabulary),) * 2), (0.0, 0, 0.0, 0.0))

    def _take(self, pairs: csr_matrix, chosen: Sequence[float]) -> None:
        row_sums = np.asarray(pairs.sum(axis=1), dtype=np.float64).ravel()
        for name, values, kind in (
            ("chosen", chosen, torch.float64),
            ("first", pairs.indptr, torch.int64),
            ("following", pairs.indices, torch.int64),
            ("weight", pairs.data, torch.float64),
            ("row_sums", row_sums, torch.float64),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=kind, device=self.counts.device))

    def count(self, interactions: Interactions) -> None:
        """Count all pairs, and choose the four numbers."""
        super().count(interactions)
        popularity = self._popularity().cpu().numpy()
        histories = latest_items(interactions, self.max_history)
        targets = interactions.items[interactions.offsets[1:] - 2]
        best, told = -1.0, self.told
        for skip, back in product(told.skip, told.back):
            pairs = count_pairs(interactions, skip=skip, back=back)
            for decay, norm in product(told.decay, told.norm):
                ranks = ranks_of(histories, targets, pairs, popularity, decay=decay, norm=norm)
                if (score := per_user_metric(ranks, "ndcg@10").mean()) > best:
                    best, chosen, kept = score, (decay, skip, back, norm), pairs
        self._take(kept, chosen)
        settings = ", ".join(f"{name} {value:g}" for name, value in self.chosen_settings().items())
        log.info("counting: %s chosen on validation users, NDCG@10 %.4f", settings, best)

    def chosen_settings(self) -> dict[str, float]:
        """See the base class."""
        return dict(zip(("decay", "skip", "back", "norm"), self.chosen.tolist(), strict=True))

    def _popularity(self) -> Tensor:
        return TIE_BREAK * self.counts / self.counts.max().clamp(min=1)

    def scores(self, states: Tensor) -> Tensor:
        """See the base class."""
        return self.followers(states, self.slot_weights(states)).add_(self._popularity())

    def slot_weights(self, states: Tensor, own_sums: Tensor | float = 0.0) -> Tensor:
        """Return the factor of the row of each item of the history, shape ``(B, K)``; 0 where nothing follows it.

        Args:
            states: Shape ``(B, K)``.
            own_sums: What to take away from the items' row sums, shape ``(B, K)``.
        """
        decay, _, _, norm = self.chosen
        sums = self.row_sums[states.clamp(min=0)] - own_sums
        weights: Tensor = (
            decay ** torch.arange(states.shape[1], device=states.device) / sums.clamp(min=_NOTHING) ** norm
        )
        return weights.masked_fill((states < 0) | (sums < _NOTHING), 0.0)

    def followers(self, states: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of the rows of each history's items, shape ``(B, I)``, of ``(B, K)`` twice."""
        items = len(self.counts)
        scores = self.weight.new_zeros(len(states) * items)
        # Item by item of the histories, so that no more is held than a row each, and all sums have one order.
        for latest, weight in zip(states.T, weights.T, strict=True):
            start = self.first[latest.clamp(min=0)]
            length = (self.first[latest.clamp(min=0) + 1] - start) * (weight > 0)
            row = torch.repeat_interleave(length)
            pair = torch.arange(len(row), device=row.device) + (start - length.cumsum(0) + length)[row]
            scores.index_add_(0, row * items + self.following[pair], weight[row] * self.weight[pair])
        return scores.view(-1, items)

    def probabilities(self, states: Tensor) -> Tensor:
        """See the base class."""
        return self.smoothed(self.followers(states, self.slot_weights(states)))

    def smoothed(self, scores: Tensor) -> Tensor:
        """Make probabilities of what :meth:`followers` gives, in place, ``(B, I)``; some are by popularity."""
        popular = (self.counts + 1) / (self.counts + 1).sum()
        total = scores.sum(1, keepdim=True)
        share = torch.where(total > _NOTHING, self.told.smoothing, 1.0)
        return scores.mul_((1 - share) / total.clamp(min=_NOTHING)).add_(share * popular)


class LeaveOneOut(nn.Module):
    """What a counted model says of every item of every user, the user's own pairs left out where it has counted them.

    Its pairs hold the very transition to the training item that is to be predicted. So what comes before a training
    item is judged by the pairs of the other users: they alone are in the rows and in the sums that rows are divided by.
    Popularity stays as it is, and so does all that is said of the two items held out.

    Args:
        network: The model.
        interactions: The data set.
    """

    items: Tensor
    begin: Tensor
    end: Tensor

    def __init__(self, network: CountedModel, interactions: Interactions) -> None:
        super().__init__()
        self._network = (network,)  # no part of what asks it, whose checkpoints are not to hold it
        lengths = np.diff(interactions.offsets)
        for name, value in (
            ("items", interactions.items),
            ("begin", np.repeat(interactions.offsets[:-1], lengths)),
            ("end", np.repeat(interactions.offsets[1:] - 2, lengths)),  # of the user's training items
        ):
            self.register_buffer(name, torch.from_numpy(value), persistent=False)

    def network_on(self, device: torch.device) -> CountedModel:
        """Return the model, moved to a device."""
        return self._network[0].to(device)

    def probabilities(self, interaction: Tensor) -> Tensor:
        """Return P(item | history before each interaction), shape ``(H, I)``, float64, of indices ``(H,)``."""
        network, begin, end = self.network_on(interaction.device), self.begin[interaction], self.end[interaction]
        place = interaction[:, None] - 1 - torch.arange(network.max_history, device=interaction.device)
        states = self.items[place.clamp(min=0)].masked_fill(place < begin[:, None], -1)
        if not isinstance(network, Counting):
            return network.probabilities(states)
        _, skip, back, _ = network.chosen.tolist()
        length = (end - begin) * (interaction < end)
        row = torch.repeat_interleave(length)
        place = torch.arange(len(row), device=row.device) + (begin - length.cumsum(0) + length)[row]
        match, slot = (self.items[place][:, None] == states[row]).nonzero(as_tuple=True)
        row, place = row[match], place[match]  # training items of the user that are in the history, too
        own_sums, own = torch.zeros_like(states, dtype=torch.float64), []
        for distance in range(1, int(skip) + 1):
            for other, weight in ((place + distance, 1.0), (place - distance, back)):
                inside = (other >= begin[row]) & (other < end[row])
                weights = inside.double() * (weight * 0.5 ** (distance - 1))
                own_sums.index_put_((row, slot), weights, accumulate=True)
                own.append((other[inside], weights[inside], inside))
        slot_weights = network.slot_weights(states, own_sums)
        scores = network.followers(states, slot_weights)
        for other, weights, inside in own:
            at = row[inside], self.items[other]
            scores.index_put_(at, -weights * slot_weights[row, slot][inside], accumulate=True)
        return network.smoothed(scores.clamp_(min=0))  # below 0 by rounding
