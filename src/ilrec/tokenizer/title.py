"""Items as titles: ordinary text that the language model already has the tokens for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from src.ilrec.tokenizer.item_tokens import ItemTokens, group_statistics
from src.launch.errors import InputError
from src.launch.values import Count

if TYPE_CHECKING:
    from src.ilrec.dataset.interactions import Interactions
    from src.model.causal_lm import CausalLM


class Titles:
    """Write each item as its title; items whose titles agree cannot be told apart, and are counted.

    Source: BIGRec (arXiv 2308.08434); that long titles are cut is our choice.
    """

    def __init__(self, *, max_tokens: Count) -> None:
        """Keep the setting.

        Args:
            max_tokens: Longest title in tokens of the language model; the rest of a longer one is cut off.

        Raises:
            InputError: there would be nothing left.
        """
        if max_tokens < 1:
            raise InputError(f"tokenizer.max_tokens={max_tokens}: I need a whole number of at least 1.")
        self.max_tokens = max_tokens

    def fit(self, interactions: Interactions) -> UnwrittenTitles:
        """Collect the titles.

        Returns:
            The titles, which need no new token, to be written once there is a language model.

        Raises:
            InputError: items have no title.
        """
        untitled = [
            item for item, title in zip(interactions.item_ids, interactions.titles, strict=True) if not title.strip()
        ]
        if untitled:
            raise InputError(
                f"{len(untitled)} of {interactions.num_items} items of '{interactions.name}' have no title (first: "
                f"{', '.join(untitled[:3])}). I need one for every item that is left after the k-core filter.\n"
                "Complete the data, or write the items as semantic IDs:  tokenizer=residual_kmeans"
            )
        return UnwrittenTitles([" ".join(title.split()) for title in interactions.titles], self.max_tokens)


@dataclass(frozen=True)
class UnwrittenTitles:
    """Titles that wait for a language model's tokenizer.

    Attributes:
        titles: Title of each item, words apart by one space.
        max_tokens: Longest title in tokens.
    """

    titles: list[str]
    max_tokens: int

    @property
    def start(self) -> None:
        """What new tokens start from: there are none."""
        return None

    @property
    def vocabulary(self) -> list[str]:
        """New tokens of the language model: none."""
        return []

    def written_for(self, model: CausalLM) -> ItemTokens:
        """Write every title as a space, its text and the end-of-text token, and tell the model of the tokens in use.

        The space lets a title stand after any word of a prompt, and the end keeps one title from being the beginning of
        another.

        Returns:
            The items. The report also has ``titles_cut`` and ``mean_tokens``, the end included.
        """
        tokenizer = model.tokenizer
        # A title that spells a special token, such as "<s>", is text all the same.
        spaced = [f" {title}" for title in self.titles]
        texts = tokenizer(spaced, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        rows = [[*text[: self.max_tokens], tokenizer.eos_token_id] for text in texts]
        lengths = np.array([len(row) for row in rows])
        ids, places = np.unique(np.concatenate(rows), return_inverse=True)
        tokens = np.full((len(rows), lengths.max()), -1)
        tokens[np.arange(lengths.max()) < lengths[:, None]] = places
        vocabulary = tokenizer.convert_ids_to_tokens(ids.tolist())
        model.name_item_tokens(vocabulary)
        report = {
            **group_statistics(tokens),
            "titles_cut": sum(len(text) > self.max_tokens for text in texts),
            "mean_tokens": float(lengths.mean()),
        }
        return ItemTokens(vocabulary, tokens, report, as_text=True)
