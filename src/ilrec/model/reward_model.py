"""Collaborative models as the reward model of tokens: what they think of each continuation of each history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from src.ilrec.dataset.interactions import Interactions
from src.ilrec.model.collaborative import CollaborativeModel, load_collaborative_model
from src.ilrec.model.counting import CountedModel, LeaveOneOut
from src.ilrec.model.sequence_models import SequenceModel
from src.ilrec.model.trie import TokenTrie
from src.ilrec.prompt.examples import Windows
from src.losses.collaborative import interval_rewards

_LARGEST_CHUNK = 1 << 22  # probabilities at once: about 100 MiB with their cumulative sums


@torch.no_grad()
def history_states(network: SequenceModel, interactions: Interactions, *, stride: int, batch_size: int = 64) -> Tensor:
    """Return the model's state just before every interaction.

    Args:
        network: The model, in eval mode.
        interactions: The data set.
        stride: Interactions asked of each window of ``network.max_history`` items: each sees at least
            ``max_history + 1 - stride`` items of its history, or all there are. 1 is exact and slow.
        batch_size: Windows in one pass.

    Returns:
        States of shape ``(interactions, D)``, float32, in the order of ``Interactions.items``; NaN for each user's
        first item, before which there is no history.
    """
    windows = Windows(max_history=network.max_history, stride=stride, unlabelled=1)
    chosen = windows.examples(np.diff(interactions.offsets), np.random.default_rng(0))
    begin = interactions.offsets[chosen.user]
    # The state that sees the items up to `last` is the one before the interaction `last + 1`.
    start, last, asked = begin + chosen.start, begin + chosen.stop - 2, begin + chosen.first_label - 1
    length = last - start + 1
    shape = len(interactions.items), network.item_embedding.embedding_dim
    states = torch.full(shape, torch.nan, dtype=torch.float32)
    for rows in np.array_split(np.argsort(length, kind="stable"), -(-len(length) // batch_size)):
        place = np.minimum(start[rows, None] + np.arange(length[rows].max()), last[rows, None])
        output = network(torch.from_numpy(interactions.items[place]))
        for row, seen in zip(rows, output, strict=True):
            states[asked[row] + 1 : last[row] + 2] = seen[asked[row] - start[row] : length[row]]
    return states


class _Trained(nn.Module):
    """Log-probabilities (but for a constant) of a trained network, whose states before all interactions are kept."""

    states: Tensor
    embeddings: Tensor

    def __init__(self, network: SequenceModel, interactions: Interactions, order: Tensor, stride: int) -> None:
        super().__init__()
        self._network = (network,)  # no part of what asks it, whose checkpoints are not to hold it
        states = history_states(network, interactions, stride=stride)
        self.register_buffer("states", states, persistent=False)
        self.register_buffer("embeddings", network.item_embedding.weight.detach()[order], persistent=False)

    def before(self, interaction: Tensor) -> Tensor:
        """Return them given the history before each interaction, shape ``(H, I)``, in the order of the trie."""
        return self.states[interaction] @ self.embeddings.T

    def after(self, history: Tensor) -> Tensor:
        """Return them given histories ``(B, H)``, oldest item first, padded on the right with -1."""
        network = self._network[0].to(history.device)
        return network.last_states(*_latest(history, network.max_history)) @ self.embeddings.T


class _Counted(nn.Module):
    """The same of a counted model; of training items, each user's own pairs left out."""

    order: Tensor

    def __init__(self, network: CountedModel, interactions: Interactions, order: Tensor) -> None:
        super().__init__()
        self.others = LeaveOneOut(network, interactions)
        self.register_buffer("order", order, persistent=False)

    def before(self, interaction: Tensor) -> Tensor:
        """See ``_Trained``."""
        return self.others.probabilities(interaction).log().float()[:, self.order]

    def after(self, history: Tensor) -> Tensor:
        """See ``_Trained``."""
        network = self.others.network_on(history.device)
        states = network.last_states(*_latest(history, network.max_history))
        return network.probabilities(states).log().float()[:, self.order]


def _latest(history: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the latest items of histories padded on the right with -1, and their mask, both ``(B, K)``, K <= count."""
    length = (history >= 0).sum(1, keepdim=True)
    nth = torch.arange(min(history.shape[1], count), device=history.device)
    place = (length - len(nth)).clamp(min=0) + nth
    return history.gather(1, place).clamp(min=0), (place < length).long()


class RewardModel(nn.Module):
    """Rewards of tokens after the prefix they follow and the history before it, streamed.

    What collaborative models say of the histories is asked anew for each batch: all items are scored once a history,
    whose label positions share that pass; nothing larger than a few histories x items is ever held. Only states of
    trained networks are computed once, at the start: they are frozen.

    Source: ILRec (arXiv 2602.17410), CRR; how it is computed, ``exclude_history``, and several or counted models are
    our choice.

    Symbols: N label positions, E entries asked for, H or B histories, I items.

    Args:
        network: The collaborative model, frozen and in eval mode; of several, the mean of their probabilities counts.
        interactions: The data set.
        trie: The items' tokens.
        stride: See :func:`history_states`; ``None``: half of each network's longest history.
        exclude_history: Give no probability to items the user has had before, except to one that comes again;
            ``None``: if no item comes again in anybody's training sequence. A collaborative model spends much of its
            probability on them (its own ranking of Instruments has NDCG@10 .061 with and .082 without them), although
            what is not chosen twice is no false negative.
    """

    def __init__(
        self,
        network: CollaborativeModel | Sequence[CollaborativeModel],
        interactions: Interactions,
        trie: TokenTrie,
        *,
        stride: int | None = None,
        exclude_history: bool | None = None,
    ) -> None:
        super().__init__()
        if exclude_history is None:
            exclude_history = bool(interactions.training_matrix().max() <= 1)
        self.exclude_history = exclude_history
        networks = network if isinstance(network, Sequence) else [network]
        self.readers: Iterable[_Trained | _Counted] = nn.ModuleList(  # type: ignore[assignment]
            _Counted(one, interactions, trie.items)
            if isinstance(one, CountedModel)
            else _Trained(one, interactions, trie.items, stride or max(one.max_history // 2, 1))
            for one in networks
        )
        self.place: Tensor
        self.trie = trie
        self.bounds: Tensor
        self.items: Tensor
        self.begin: Tensor
        for name, value in (
            ("place", trie.items.argsort()),
            ("bounds", torch.stack([trie.first_item, trie.last_item], dim=1)),
            ("items", torch.from_numpy(interactions.items)),
            ("begin", torch.from_numpy(np.repeat(interactions.offsets[:-1], np.diff(interactions.offsets)))),
        ):
            self.register_buffer(name, value, persistent=False)

    def probabilities(self, interaction: Tensor) -> Tensor:
        """Return P(i | history before each interaction), shape ``(H, I)``, float32, in the order of the trie.

        NaN for a user's first item, before which there is no history.
        """
        with torch.autocast(interaction.device.type, enabled=False):
            logits = [reader.before(interaction) for reader in self.readers]
        seen = interaction - self.begin[interaction]
        if self.exclude_history:
            row = torch.repeat_interleave(seen)
            nth = torch.arange(len(row), device=row.device) - (seen.cumsum(0) - seen)[row]
            had = self.items[self.begin[interaction][row] + nth]
            new = had != self.items[interaction][row]
            self._exclude(logits, row[new], had[new])
        return _mean_probabilities(logits).masked_fill_((seen == 0)[:, None], torch.nan)

    @torch.no_grad()
    def probabilities_after(self, history: Tensor) -> Tensor:
        """Return P(i | history), shape ``(B, I)``, float32, in the order of the trie; all 0 where all are excluded.

        For items that nothing was learnt from: here no pairs of counted models are left out.

        Args:
            history: Item indices of each user, oldest first, shape ``(B, H)``, int64, padded on the right with -1; at
                least one item each.
        """
        with torch.autocast(history.device.type, enabled=False):
            logits = [reader.after(history) for reader in self.readers]
        if self.exclude_history:
            row, column = (history >= 0).nonzero(as_tuple=True)
            self._exclude(logits, row, history[row, column])
        return _mean_probabilities(logits).nan_to_num_(0.0)

    @torch.no_grad()
    def log_probabilities(self, interaction: Tensor, items: Tensor) -> Tensor:
        """Return log P(i | history before each interaction) of a few items each, float32, NaN as in ``probabilities``.

        Args:
            interaction: Shape ``(H,)``, int64.
            items: Item indices, shape ``(H, K)``, int64.
        """
        smallest, size = torch.finfo(torch.float32).tiny, max(_LARGEST_CHUNK // len(self.place), 1)
        chunks = zip(torch.split(interaction, size), torch.split(self.place[items], size), strict=True)
        return torch.cat([self.probabilities(some).gather(1, of).clamp(min=smallest).log() for some, of in chunks])

    def _exclude(self, logits: list[Tensor], row: Tensor, items: Tensor) -> None:
        for one in logits:
            one[row, self.place[items]] = -torch.inf

    @torch.no_grad()
    def forward(
        self, interaction: Tensor, target: Tensor, row: Tensor, token: Tensor, child: Tensor | None = None
    ) -> Tensor:
        """Return the rewards of chosen tokens.

        Args:
            interaction: Index into ``Interactions.items`` of the item each label position belongs to, shape ``(N,)``,
                int64; the positions of one item stand side by side.
            target: True tokens as the trie counts them, shape ``(N,)``, int64; -1 for one that is in no item, such as
                the end of the response.
            row: Label position of each entry, ascending, shape ``(E,)``, int64.
            token: Token of each entry, shape ``(E,)``, int64, -1 as above.
            child: The trie's node that the token leads to, where it is known, as of :meth:`continuations`.

        Returns:
            Rewards of shape ``(E,)``, float64. They are 0 where there is no history to judge by, where no item goes on
            with the token, and after an item's last token.
        """
        self._follow(interaction.device)
        node = self._prefixes(interaction, target)
        rewards = torch.zeros(len(row), dtype=torch.float64, device=row.device)
        asked: Tensor | slice = slice(None)
        if (
            child is None
        ):  # what goes on with no item has the reward 0; among a whole vocabulary that is nearly everything
            asked = (token >= 0).nonzero()[:, 0]
            child = self.trie.child(node[row[asked]], token[asked])
            asked, child = asked[child >= 0], child[child >= 0]
            row = row[asked]
        histories, owner = torch.unique_consecutive(interaction, return_inverse=True)
        size = max(_LARGEST_CHUNK // len(self.place), 1)
        positions = torch.searchsorted(owner, torch.arange(0, len(histories) + size, size, device=row.device))
        entries = torch.searchsorted(row, positions).tolist()
        found = [rewards[:0]]
        for number, (first, last) in enumerate(pairwise(positions.tolist())):
            probabilities = self.probabilities(histories[number * size : (number + 1) * size]).nan_to_num_(0.0)
            some = slice(entries[number], entries[number + 1])
            own, prefix = owner[first:last] - number * size, self.bounds[node[first:last]]
            found.append(interval_rewards(probabilities, own, prefix, row[some] - first, self.bounds[child[some]]))
        rewards[asked] = torch.cat(found)
        return rewards

    @property
    def of_single_tokens(self) -> bool:
        """Whether each item is one token, its own: all rewards can then be asked at once, see :meth:`all_tokens`."""
        return self.trie.depth == 1 and len(self.trie.token) - 1 == len(self.place)

    @torch.no_grad()
    def all_tokens(self, interaction: Tensor, target: Tensor) -> Tensor:
        """Return the rewards of all tokens, as :meth:`forward` would, where ``of_single_tokens``; without its lists.

        Args:
            interaction: As in :meth:`forward`, shape ``(N,)``.
            target: As in :meth:`forward`, shape ``(N,)``.

        Returns:
            Rewards in the order of ``trie.token[1:]``, shape ``(N, I)``, float32.
        """
        self._follow(interaction.device)
        histories, owner = torch.unique_consecutive(interaction, return_inverse=True)
        size = max(_LARGEST_CHUNK // len(self.place), 1)
        positions = torch.searchsorted(
            owner, torch.arange(0, len(histories) + size, size, device=owner.device)
        ).tolist()
        shape = len(interaction), len(self.place)
        rewards = torch.empty(shape, dtype=torch.float32, device=interaction.device)
        for number, (first, last) in enumerate(pairwise(positions)):
            of = self.probabilities(histories[number * size : (number + 1) * size]).nan_to_num_(0.0)
            torch.index_select(of, 0, owner[first:last] - number * size, out=rewards[first:last])
        rewards[self._prefixes(interaction, target) != 0] = 0
        return rewards

    @torch.no_grad()
    def continuations(self, interaction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """List the only tokens whose reward is not 0: those that some item goes on with.

        Args:
            interaction: As in :meth:`forward`, shape ``(N,)``.
            target: As in :meth:`forward`, shape ``(N,)``.

        Returns:
            Label position, ascending, token and the trie's node behind it of each, shape ``(E,)``, int64.
        """
        self._follow(interaction.device)
        node = self._prefixes(interaction, target)
        first = self.trie.first_child[node]
        count = (self.trie.first_child[node + 1] - first).masked_fill(node < 0, 0)
        row = torch.repeat_interleave(count)
        child = torch.arange(len(row), device=row.device) + (first - count.cumsum(0) + count)[row]
        return row, self.trie.token[child], child

    def _follow(self, device: torch.device) -> None:
        if self.trie.items.device != device:
            self.trie = self.trie.to(device)

    def _prefixes(self, interaction: Tensor, target: Tensor) -> Tensor:
        """Return the trie node that each position's earlier tokens of the same item lead to, shape ``(N,)``."""
        node = torch.zeros_like(interaction)
        same = interaction[1:] == interaction[:-1]
        for _ in range(self.trie.depth):  # each round settles one more token
            followed = self.trie.child(node[:-1], target[:-1].clamp(min=0))
            node[1:] = torch.where(same, followed, 0)
        return node


def _mean_probabilities(logits: list[Tensor]) -> Tensor:
    return sum((one.softmax(1) for one in logits[1:]), start=logits[0].softmax(1)) / len(logits)


def load_reward_model(
    named: str | Sequence[str], interactions: Interactions, trie: TokenTrie, exclude_history: bool | None = None
) -> RewardModel:
    """Load collaborative models as one reward model, see :class:`RewardModel`.

    Args:
        named: Checkpoint, or several, of ``stage=collaborative_filtering`` or ``stage=counting``.
        interactions: The data set that they must have been trained on.
        trie: The items' tokens, on the CPU.
        exclude_history: See :class:`RewardModel`.

    Raises:
        InputError: one cannot be read, is of something else, or was trained on other data.
    """
    paths = [named] if isinstance(named, str) else named
    networks = [load_collaborative_model(Path(path), interactions) for path in paths]
    return RewardModel(networks, interactions, trie, exclude_history=exclude_history)
