"""A trained collaborative model as the reward model of tokens: what it thinks of each continuation of each history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from src.ilrec.dataset.interactions import Interactions
from src.ilrec.model.sequence_models import SequenceModel, load_sequence_model
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
    states = torch.full((len(interactions.items), network.item_embedding.embedding_dim), torch.nan)
    for rows in np.array_split(np.argsort(length, kind="stable"), -(-len(length) // batch_size)):
        place = np.minimum(start[rows, None] + np.arange(length[rows].max()), last[rows, None])
        output = network(torch.from_numpy(interactions.items[place]))
        for row, seen in zip(rows, output, strict=True):
            states[asked[row] + 1 : last[row] + 2] = seen[asked[row] - start[row] : length[row]]
    return states


class RewardModel(nn.Module):
    """Rewards of tokens after the prefix they follow and the history before it, streamed.

    The histories' states are computed once, at the start: the model is frozen. For each batch all items are scored
    once a history, whose label positions share that pass; nothing larger than a few histories x items is ever held.

    Source: ILRec (arXiv 2602.17410), CRR; how it is computed, and ``exclude_history``, are our choice.

    Symbols: N label positions, E entries asked for, H histories, I items.

    Args:
        network: The collaborative model, frozen and in eval mode.
        interactions: The data set.
        trie: The items' tokens.
        stride: See :func:`history_states`.
        exclude_history: Give no probability to items the user has had before, except to one that comes again;
            ``None``: if no item comes again in anybody's training sequence. A collaborative model spends much of its
            probability on them (its own ranking of Instruments has NDCG@10 .061 with and .082 without them), although
            what is not chosen twice is no false negative.
    """

    def __init__(
        self,
        network: SequenceModel,
        interactions: Interactions,
        trie: TokenTrie,
        *,
        stride: int,
        exclude_history: bool | None = None,
    ) -> None:
        super().__init__()
        if exclude_history is None:
            exclude_history = bool(interactions.training_matrix().max() <= 1)
        self.exclude_history = exclude_history
        place = trie.items.argsort()
        self.trie = trie
        self._network = (network,)  # no part of what owns the rewards
        self.states: Tensor
        self.embeddings: Tensor
        self.bounds: Tensor
        self.places: Tensor
        self.begin: Tensor
        for name, value in (
            ("states", history_states(network, interactions, stride=stride)),
            ("embeddings", network.item_embedding.weight.detach()[trie.items]),
            ("bounds", torch.stack([trie.first_item, trie.last_item], dim=1)),
            ("places", place[torch.from_numpy(interactions.items)]),
            ("begin", torch.from_numpy(np.repeat(interactions.offsets[:-1], np.diff(interactions.offsets)))),
        ):
            self.register_buffer(name, value, persistent=False)

    def probabilities(self, interaction: Tensor) -> Tensor:
        """Return P(i | history before each interaction), shape ``(H, I)``, float32, in the order of the trie."""
        scores = self.states[interaction] @ self.embeddings.T
        if self.exclude_history:
            seen = interaction - self.begin[interaction]
            row = torch.repeat_interleave(seen)
            nth = torch.arange(len(row), device=row.device) - (seen.cumsum(0) - seen)[row]
            had, next_one = self.places[self.begin[interaction][row] + nth], self.places[interaction]
            again = had == next_one[row]
            scores[row[~again], had[~again]] = -torch.inf
        return scores.softmax(1)

    @torch.no_grad()
    def probabilities_after(self, history: Tensor) -> Tensor:
        """Return P(i | history), shape ``(B, I)``, float32, in the order of the trie.

        Args:
            history: Item indices of each user, oldest first, shape ``(B, H)``, int64, -1 pads; at least one item each.
        """
        self._follow(history.device)
        network = self._network[0].to(history.device)
        length = (history >= 0).sum(1, keepdim=True)
        seen = torch.arange(min(history.shape[1], network.max_history), device=history.device)
        place = (length - network.max_history).clamp(min=0) + seen
        items = history.gather(1, place.clamp(max=history.shape[1] - 1)).clamp(min=0)
        scores = network.last_states(items, (place < length).long()) @ self.embeddings.T
        if self.exclude_history:
            had = self.trie.items.argsort()[torch.where(history < 0, history[:, :1], history)]  # padding repeats one
            scores = scores.scatter(1, had, -torch.inf)
        return scores.softmax(1)

    @torch.no_grad()
    def forward(self, interaction: Tensor, target: Tensor, row: Tensor, token: Tensor) -> Tensor:
        """Return the rewards of chosen tokens.

        Args:
            interaction: Index into ``Interactions.items`` of the item each label position belongs to, shape ``(N,)``,
                int64; the positions of one item stand side by side.
            target: True tokens as the trie counts them, shape ``(N,)``, int64; -1 for one that is in no item, such as
                the end of the response.
            row: Label position of each entry, ascending, shape ``(E,)``, int64.
            token: Token of each entry, shape ``(E,)``, int64, -1 as above.

        Returns:
            Rewards of shape ``(E,)``, float64. They are 0 where there is no history to judge by, where no item goes on
            with the token, and after an item's last token.
        """
        self._follow(interaction.device)
        node = self._prefixes(interaction, target)
        # What goes on with no item has the reward 0; among a whole vocabulary that is nearly everything.
        asked = (token >= 0).nonzero()[:, 0]
        child = self.trie.child(node[row[asked]], token[asked])
        asked, child = asked[child >= 0], child[child >= 0]
        prefix, extended = self.bounds[node[row[asked]]], self.bounds[child]
        histories, owner = torch.unique_consecutive(interaction, return_inverse=True)
        owner = owner[row[asked]]
        rewards = torch.zeros(len(row), dtype=torch.float64, device=row.device)
        size = max(_LARGEST_CHUNK // len(self.embeddings), 1)
        edges = torch.arange(0, len(histories) + size, size, device=row.device)
        cuts = torch.searchsorted(owner, edges).tolist()
        for number, (start, stop) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
            probabilities = self.probabilities(histories[number * size : (number + 1) * size]).nan_to_num_(0.0)
            own = owner[start:stop] - number * size
            rewards[asked[start:stop]] = interval_rewards(probabilities, own, prefix[start:stop], extended[start:stop])
        return rewards

    @torch.no_grad()
    def continuations(self, interaction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """List the only tokens whose reward is not 0: those that some item goes on with.

        Args:
            interaction: As in :meth:`forward`, shape ``(N,)``.
            target: As in :meth:`forward`, shape ``(N,)``.

        Returns:
            Label position, ascending, and token of each, shape ``(E,)``, int64.
        """
        self._follow(interaction.device)
        node = self._prefixes(interaction, target)
        first = self.trie.first_child[node]
        count = (self.trie.first_child[node + 1] - first).masked_fill(node < 0, 0)
        row = torch.repeat_interleave(count)
        nth = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
        return row, self.trie.token[first[row] + nth]

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


def load_reward_model(
    named: str | Sequence[str], interactions: Interactions, trie: TokenTrie, exclude_history: bool | None = None
) -> RewardModel:
    """Load a collaborative model as a reward model.

    Args:
        named: Its checkpoint.
        interactions: The data set it must have been trained on.
        trie: The items' tokens, on the CPU.
        exclude_history: See ``RewardModel``.

    Raises:
        InputError: the file cannot be read, holds something else, or was trained on other data.
    """
    (path,) = [named] if isinstance(named, str) else named
    network = load_sequence_model(Path(path), interactions)
    return RewardModel(network, interactions, trie, stride=network.max_history // 2, exclude_history=exclude_history)
