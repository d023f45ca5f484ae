"""The instruction prompt: a text template around the history, one response per sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.ilrec.prompt.examples import Examples, PromptForm, labels_with_history, plain
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.launch.errors import InputError
from src.launch.values import Count


class InstructionPrompt:
    """A text template with ``{history}``; the response is the next item's tokens and the end-of-text token.

    Source: our own wording; the form (instruction, history, one response) follows LC-Rec as ILRec uses it.

    Args:
        tokenizer: The language model's tokenizer, item tokens added.
        items: All items; titles bring the space before them and the end-of-text token with them.
        template: Text with ``{history}`` exactly once.
        separator: Text between two items of the history.
        max_history: Most recent items shown to the model.
        max_length: Most tokens of prompt and response together; the oldest items are left out until the longest
            response fits, too. ``None`` sets no limit.

    Raises:
        InputError: the template does not hold ``{history}`` exactly once, or ``max_length`` is too short for one item.
    """

    packed = True  # short examples share a row of a training batch
    unlabelled = 1
    advice = "prompt.max_length={}"

    def __init__(
        self,
        tokenizer: Any,
        items: ItemTokens,
        *,
        template: str,
        separator: str,
        max_history: Count,
        max_length: Count | None = None,
    ) -> None:
        if template.count("{history}") != 1:
            raise InputError(f"prompt.template must hold {{history}} exactly once, got: {template!r}")
        before, after = template.split("{history}")
        self.max_history = max_history
        begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self.pad_token_id = tokenizer.pad_token_id
        self._before = np.array(begin + text_ids(tokenizer, before), dtype=np.int64)
        self._after = np.array(text_ids(tokenizer, after), dtype=np.int64)
        self._separator = np.array(text_ids(tokenizer, separator), dtype=np.int64)
        self._end = np.array([tokenizer.eos_token_id], dtype=np.int64)
        self._item_ids = np.array(tokenizer.convert_tokens_to_ids(items.vocabulary))[items.tokens]
        self._item_lengths = ((items.tokens >= 0) & (self._item_ids != self._end)).sum(1)
        longest = int(self._item_lengths.max(initial=0))
        around = len(self._before) + len(self._after) + longest + len(self._end)
        least = around + longest
        if max_length is not None and max_length < least:
            raise InputError(
                f"prompt.max_length={max_length}: template, one item and a response take up to {least} tokens.\n"
                f"Type:  prompt.max_length={least}   or more, or null"
            )
        self._room = np.inf if max_length is None else max_length - around
        shown = max_history * (longest + len(self._separator)) - len(self._separator)
        self.longest = around + int(min(self._room, shown))  # tokens of prompt and response

    def most_examples(self, lengths: NDArray[np.int64]) -> int:
        """Return the number of examples of one epoch."""
        return int((lengths - 1).clip(min=0).sum())

    fewest_examples = most_examples

    def examples(self, lengths: NDArray[np.int64], rng: np.random.Generator) -> Examples:
        """Make one example of every training item that has an item before it.

        Args:
            lengths: Number of training items of each user, shape ``(users,)``.
            rng: Not used: there is nothing to draw.

        Returns:
            The examples.
        """
        user, label = labels_with_history(lengths)
        return Examples(user, np.maximum(label - self.max_history, 0), label + 1, label)

    def encode(self, items: NDArray[np.int64], first_label: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Write the prompt of ``items[:first_label]`` and the response ``items[first_label]``.

        Args:
            items: Item indices, oldest first, shape ``(first_label + 1,)``.
            first_label: Position of the response.

        Returns:
            Tokens, shape ``(T,)``, and of the same shape ``first_label`` for the response's tokens, -1 for all others.
        """
        prompt = self.prompt(items[:first_label])
        response = np.concatenate([self._item(items[first_label]), self._end])
        tokens = np.concatenate([prompt, response])
        return tokens, np.where(np.arange(len(tokens)) >= len(prompt), first_label, -1)

    def prompt(self, history: NDArray[np.int64]) -> NDArray[np.int64]:
        """Write the latest items into the template: ``max_history``, or as many as ``max_length`` has room for."""
        latest = history[-self.max_history :]
        taken = np.cumsum(self._item_lengths[latest[::-1]] + len(self._separator)) - len(self._separator)
        latest = latest[len(latest) - (taken <= self._room).sum() :]
        pieces = [self._before]
        for number, item in enumerate(latest):
            pieces += [self._separator, self._item(item)] if number else [self._item(item)]
        return np.concatenate([*pieces, self._after])

    def form(self) -> PromptForm:
        """Return how :meth:`prompt` writes a history."""
        shown = [plain(self._item(item)) for item in range(len(self._item_ids))]
        around = plain(self._before), plain(self._separator), plain(self._after)
        return PromptForm(*around, shown, self.max_history, None if self._room == np.inf else int(self._room))

    def _item(self, item: int) -> NDArray[np.int64]:
        """Return an item's tokens without the end."""
        tokens: NDArray[np.int64] = self._item_ids[item, : self._item_lengths[item]]
        return tokens


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a piece of a prompt, without any that the tokenizer would add around it."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
