"""Alignment tasks: what semantic IDs stand for is asked in both directions, beside the next item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.ilrec.prompt.examples import UNOWNED, Examples, PromptForm, labels_with_history
from src.ilrec.prompt.ids import CompactPrompt
from src.ilrec.prompt.instruction import text_ids
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.ilrec.tokenizer.title import written_titles
from src.launch.errors import InputError
from src.launch.values import Count, Share

_TASKS = {  # in the order of their numbers, from 1; {} is one item or the history
    "title_to_id": "An item is called{}. Its code is",
    "id_to_title": "The item with the code{} is called",
    "ids_to_title": "A user chose the items with the codes{}. The item chosen next is called",
    "titles_to_id": "A user chose the items called{}. The code of the item chosen next is",
}
_ABOUT_ITEMS, _FROM_TITLES, _TO_TITLES = (1, 2), (1, 4), (2, 3)
_SEPARATOR = ","


@dataclass(frozen=True, kw_only=True)
class AlignmentSettings:
    """How much of each task an epoch draws, and how it is written.

    Attributes:
        title_to_id: Share of the items whose title is given and whose ID is asked in an epoch, 0 to 1.
        id_to_title: Likewise the other way round.
        ids_to_title: Share of the next items whose title is asked, given the history as IDs.
        titles_to_id: Share of the next items whose ID is asked, given the history as titles.
        max_history: Most recent items shown in the last two.
        title_tokens: Longest title in tokens; the rest is cut off.
    """

    title_to_id: Share
    id_to_title: Share
    ids_to_title: Share
    titles_to_id: Share
    max_history: Count
    title_tokens: Count


class AlignmentPrompt:
    """The examples of another prompt of semantic IDs, mixed with tasks between IDs and titles.

    Every epoch draws its tasks anew. Their labels belong to no response but those of ``titles_to_id``, which are those
    of an interaction's ID. Evaluation is that of the other prompt.

    Source: the tasks are those of LC-Rec (arXiv 2311.09049); wording and shares are ours.

    Args:
        tokenizer: The language model's tokenizer, item tokens added.
        items: Semantic IDs of all items, with their titles.
        next: Makes the prompt whose response is the next item's ID, from tokenizer and items.
        settings: Those of ``AlignmentSettings``.

    Raises:
        InputError: the items are titles, or have none.
    """

    settings: AlignmentSettings

    def __init__(self, tokenizer: Any, items: ItemTokens, *, next: Callable[..., Any], **settings: Any) -> None:
        told = self.settings = AlignmentSettings(**settings)
        if items.as_text:
            raise InputError(
                "prompt=alignment tells what semantic IDs stand for, but tokenizer=title makes none.\n"
                "Type:  prompt=titles   or   tokenizer=residual_kmeans"
            )
        try:
            self.next = next(tokenizer, items)
        except InputError as error:  # whose settings are those of another node here
            raise InputError(str(error).replace("prompt.", "prompt.next.")) from error
        self.packed, self.pad_token_id = self.next.packed, self.next.pad_token_id
        self.unlabelled = self.next.unlabelled
        self._shares = told.title_to_id, told.id_to_title, told.ids_to_title, told.titles_to_id
        self._titles = written_titles(tokenizer, items, told.title_tokens, "prompt=alignment")
        self._ids = list(np.array(tokenizer.convert_tokens_to_ids(items.vocabulary))[items.tokens])
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        texts = [template.split("{}") for template in _TASKS.values()]
        self._around = [
            (np.array([begin, *text_ids(tokenizer, before)]), np.array(text_ids(tokenizer, after)))
            for before, after in texts
        ]
        self._separator, self._end = np.array(text_ids(tokenizer, _SEPARATOR)), np.array([tokenizer.eos_token_id])
        around = max(len(before) + len(after) for before, after in self._around)
        item = max(len(written) for written in (*self._titles, *self._ids)) + 1
        own = around + told.max_history * (item + len(self._separator)) + item
        self.longest = max(self.next.longest, own)
        self.advice = self.next.advice.replace("prompt.", "prompt.next.")
        if own > self.next.longest:
            self.advice = CompactPrompt.advice

    def most_examples(self, lengths: NDArray[np.int64]) -> int:
        """Return an upper bound of the number of examples of one epoch."""
        return int(self.next.most_examples(lengths)) + self._of_tasks(lengths)

    def fewest_examples(self, lengths: NDArray[np.int64]) -> int:
        """Return a lower bound of it."""
        return int(self.next.fewest_examples(lengths)) + self._of_tasks(lengths)

    def examples(self, lengths: NDArray[np.int64], rng: np.random.Generator) -> Examples:
        """Make the other prompt's examples, and draw those of the tasks.

        Args:
            lengths: Number of training items of each user, shape ``(users,)``.
            rng: Source of all draws.

        Returns:
            The examples; those about one item have no user, and the item as their only position.
        """
        parts = [self.next.examples(lengths, rng)]
        users, labels = labels_with_history(lengths)
        for task in range(1, 5):
            if task in _ABOUT_ITEMS:
                item = rng.permutation(len(self._ids))[: self._count(task, lengths)]
                columns = np.full(len(item), -1), item, item + 1, item
            else:
                drawn = rng.permutation(len(users))[: self._count(task, lengths)]
                user, label = users[drawn], labels[drawn]
                columns = user, np.maximum(label - self.settings.max_history, 0), label + 1, label
            parts.append(Examples(*columns))
        numbers = np.repeat(np.arange(len(parts)), list(map(len, parts)))
        names = ("user", "start", "stop", "first_label")
        user, start, stop, first_label = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
        return Examples(user, start, stop, first_label, numbers)

    def encode(
        self, items: NDArray[np.int64], first_label: int, task: int = 0
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Write an example: that of the other prompt, or a task's question about the items and its answer.

        Args:
            items: Item indices, oldest first, shape ``(n,)``.
            first_label: Position of the first item that is a response.
            task: Its number, as in ``Examples.task``.

        Returns:
            Tokens, shape ``(T,)``, and of the same shape what each is a label of, as ``CompactPrompt.encode`` says it.
        """
        if task == 0:
            tokens, owner = self.next.encode(items, first_label)
            return tokens, owner
        before, after = self._around[task - 1]
        asked = items if task in _ABOUT_ITEMS else items[:first_label]
        shown = self._titles if task in _FROM_TITLES else self._ids
        pieces = [before]
        for number, item in enumerate(asked):
            pieces += [self._separator, shown[item]] if number else [shown[item]]
        answer = self._ids[items[-1]]
        if task in _TO_TITLES:
            answer = np.concatenate([self._titles[items[-1]], self._end])
        question = np.concatenate([*pieces, after])
        owned = first_label if task not in (*_ABOUT_ITEMS, *_TO_TITLES) else UNOWNED
        return np.concatenate([question, answer]), np.repeat([-1, owned], [len(question), len(answer)])

    def prompt(self, history: NDArray[np.int64]) -> NDArray[np.int64]:
        """Write a history as the other prompt does."""
        written: NDArray[np.int64] = self.next.prompt(history)
        return written

    def form(self) -> PromptForm:
        """Return how a history is written, as the other prompt does."""
        form: PromptForm = self.next.form()
        return form

    def _of_tasks(self, lengths: NDArray[np.int64]) -> int:
        return sum(map(self._count, range(1, 5), [lengths] * 4))

    def _count(self, task: int, lengths: NDArray[np.int64]) -> int:
        of = len(self._ids) if task in _ABOUT_ITEMS else int((lengths - 1).clip(min=0).sum())
        return round(self._shares[task - 1] * of)
