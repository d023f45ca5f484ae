"""Rank the true item of every user by the distance of its title from a title that the model generates freely."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig

from src.ilrec.dataset.interactions import Interactions
from src.ilrec.model.trie import TokenTrie
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.launch.errors import InputError
from src.launch.values import Count, Cutoffs, Weight
from src.model.causal_lm import CausalLM

_TITLES_AT_ONCE = 64


class GroundedEvaluator:
    """Full ranking over all items by L2 distance, without a constraint on what is generated.

    The generated title and all items' titles are embedded by the model that is evaluated, as its last layer's state at
    the last token. Distances are scaled to 0 (the user's nearest item) to 1 (the farthest) and divided by
    ``(1 + share) ** popularity``, where ``share`` is 0 for the least and 1 for the most frequent training item. Items
    at the same distance, such as those with the same title, get the expected rank under a random order.

    Source: BIGRec (arXiv 2308.08434), grounding and popularity factor as in its released code. That code embeds with
    the model before fine-tuning; the model itself is our choice, and so is the length of the longest title as a limit.

    Symbols: B users, I items, T distinct titles, D width of a state.

    Args:
        items: All items as titles.
        num_beams: Beams of the generation, under transformers' default length penalty; 1 is greedy.
        popularity: Exponent of the popularity factor, >= 0; 0 leaves popularity out.
        exclude_history: Never recommend an item of the user's history; ``both`` tests with and without them, and
            validates with them.
        cutoffs: The k of Hit@k and NDCG@k.

    Raises:
        InputError: the items are no titles, or a setting is out of range.
    """

    def __init__(
        self,
        items: ItemTokens,
        *,
        num_beams: Count,
        popularity: Weight,
        exclude_history: bool | Literal["both"],
        cutoffs: Cutoffs,
    ) -> None:
        if not items.as_text:
            raise InputError(
                "evaluator=grounded compares titles, but these items are semantic IDs.\n"
                "Type:  tokenizer=title, or evaluator=ranking"
            )
        if num_beams < 1:
            raise InputError(f"evaluator.num_beams={num_beams}: I need a whole number of at least 1.")
        if not popularity >= 0:
            raise InputError(f"evaluator.popularity={popularity}: I need a number of at least 0.")
        self.trie = TokenTrie.build(torch.from_numpy(items.tokens), vocabulary_size=len(items.vocabulary))
        _, an_item, title = np.unique(self.trie.leaf.numpy(), return_index=True, return_inverse=True)
        self._tokens = torch.from_numpy(items.tokens[an_item])  # of each distinct title
        self._title = torch.from_numpy(title)  # of each item
        self.num_beams = num_beams
        self.popularity = popularity
        self.exclude_history = exclude_history
        self.cutoffs = list(cutoffs)
        self._factor = torch.ones(len(items.tokens))
        self._embedded: Tensor | None = None

    def start(self, interactions: Interactions) -> None:
        """Begin an evaluation: the model has changed, so its titles' embeddings are made anew."""
        count = torch.from_numpy(np.asarray(interactions.training_matrix().sum(axis=0)).ravel())
        share = (count - count.min()) / (count.max() - count.min()).clamp(min=1)
        self._factor = (1 + share) ** -self.popularity
        self._embedded = None

    @torch.no_grad()
    def rank(self, model: CausalLM, batch: Mapping[str, Tensor], *, exclude_history: bool) -> NDArray[np.float64]:
        """Return each user's rank of the target, shape ``(B,)``; 1 is best, NaN where the history excludes it.

        Args:
            model: The language model, in eval mode.
            batch: ``input_ids`` and ``attention_mask`` ``(B, P)`` padded on the left, ``history`` ``(B, H)`` padded
                with -1, ``target`` ``(B,)``.
            exclude_history: Leave out the items of the history.
        """
        target = batch["target"][:, None]
        distance = self._distances(model, batch, exclude_history)
        own = distance.gather(1, target)
        rank = (distance < own).sum(1) + ((distance == own).sum(1) + 1).double() / 2
        result: NDArray[np.float64] = rank.masked_fill(own[:, 0].isinf(), torch.nan).cpu().numpy()
        return result

    @torch.no_grad()
    def recommend(self, model: CausalLM, batch: Mapping[str, Tensor], count: int) -> list[list[tuple[int, float]]]:
        """Return each user's nearest items, best first, at most ``count``, each with its negative scaled distance.

        Args:
            model: The language model, in eval mode.
            batch: ``input_ids`` and ``attention_mask`` ``(B, P)`` padded on the left, ``history`` ``(B, H)`` padded
                with -1.
            count: Number of items.
        """
        best = self._distances(model, batch, bool(self.exclude_history)).sort(dim=1, stable=True)
        rows = zip(best.indices[:, :count].tolist(), best.values[:, :count].tolist(), strict=True)
        return [[(i, -d) for i, d in zip(*row, strict=True) if d < torch.inf] for row in rows]

    def _distances(self, model: CausalLM, batch: Mapping[str, Tensor], exclude_history: bool) -> Tensor:
        """Return each user's distance from all items as they are ranked, ``(B, I)``; inf where it is excluded."""
        generated = embed(model, self._generate(model, batch["input_ids"], batch["attention_mask"]))
        distance = torch.cdist(generated, self._titles(model), compute_mode="donot_use_mm_for_euclid_dist")
        nearest, farthest = distance.aminmax(dim=1, keepdim=True)
        scaled = ((distance - nearest) / (farthest - nearest).clamp(min=1e-12)).double()
        distance = scaled[:, self._title.to(scaled.device)] * self._factor.to(scaled.device)
        if not exclude_history:
            return distance
        history = batch["history"]
        seen = torch.where(history < 0, history[:, :1], history)  # padding repeats the first item
        return distance.scatter(1, seen, torch.inf)

    def _generate(self, model: CausalLM, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return each prompt's continuation up to the end-of-text token, ``(B, longest)``, -1 from there on."""
        end, network, batch = model.tokenizer.eos_token_id, model.causal_network, len(input_ids)
        settings = GenerationConfig(
            num_beams=self.num_beams,
            max_new_tokens=self.trie.depth,
            eos_token_id=end,
            pad_token_id=model.tokenizer.pad_token_id,
        )
        own, network.generation_config = network.generation_config, settings  # which it would add to the given ones
        try:
            if model.architecture.generation == "together":
                whole = network.generate(input_ids=input_ids, attention_mask=attention_mask)
            else:
                whole = torch.full((batch, input_ids.shape[1] + self.trie.depth), end, device=input_ids.device)
                cached = model.architecture.generation == "alone"
                for row, (tokens, present) in enumerate(zip(input_ids, attention_mask.bool(), strict=True)):
                    prompt = tokens[present][None]
                    mask = torch.ones_like(prompt)
                    written = network.generate(input_ids=prompt, attention_mask=mask, use_cache=cached)
                    written = written[0, prompt.shape[1] :]
                    whole[row, input_ids.shape[1] :][: len(written)] = written
        finally:
            network.generation_config = own
        tokens = whole[:, input_ids.shape[1] :]
        ended: Tensor = tokens.masked_fill((tokens == end).cumsum(1) > 0, -1)
        return ended

    def _titles(self, model: CausalLM) -> Tensor:
        """Return the embeddings of the distinct titles ``(T, D)``; the first call of an evaluation makes them."""
        if self._embedded is None:
            tokens = self._tokens.to(model.item_token_ids.device)
            ids = model.item_token_ids[tokens].masked_fill(tokens < 0, -1)
            ids = ids.masked_fill(ids == model.tokenizer.eos_token_id, -1)
            by_length = (ids >= 0).sum(1).argsort()  # titles of similar length need little padding
            embedded = torch.cat([embed(model, ids[rows]) for rows in torch.split(by_length, _TITLES_AT_ONCE)])
            self._embedded = embedded[by_length.argsort()]
        return self._embedded


def embed(model: CausalLM, texts: Tensor) -> Tensor:
    """Embed texts as the last layer's state at their last token.

    Args:
        model: The language model, in eval mode.
        texts: Token ids, shape ``(N, longest)``, int64; -1 pads on the right. They are read after the begin token.

    Returns:
        Embeddings of shape ``(N, D)``, float32.
    """
    tokenizer, present = model.tokenizer, texts >= 0
    length = present.sum(1)
    width = int(length.max())
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    start = torch.full_like(texts[:, :1], begin)
    states = model.decoder(
        input_ids=torch.cat([start, texts[:, :width].clamp(min=0)], dim=1),
        attention_mask=torch.cat([torch.ones_like(start), present[:, :width].long()], dim=1),
        use_cache=False,
    ).last_hidden_state
    last: Tensor = states[torch.arange(len(texts), device=texts.device), length].float()
    return last
