"""Compact prompts: the items one after the other, so that one causal pass trains every item of a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.ilrec.prompt.examples import UNOWNED, PromptForm, Windows, plain
from src.ilrec.tokenizer.item_tokens import ItemTokens
from src.ilrec.tokenizer.title import written_titles
from src.launch.errors import InputError
from src.launch.values import Count


class CompactPrompt(Windows):
    """``<begin> item1 item2 ...``: every item is a response to the items before it.

    Args:
        tokenizer: The language model's tokenizer, item tokens added.
        items: All items.
        max_history: Most recent items shown to the model.
        stride: Items labelled in each training window, see ``Windows``.
        remarks: Tokens that stand behind each item without belonging to it.
        learn_remarks: Whether those behind a response are labels, too.
    """

    packed = True  # short examples share a row of a training batch
    advice = "prompt.max_history=<fewer items>, which have to fit into {} tokens"

    def __init__(
        self,
        tokenizer: Any,
        items: ItemTokens,
        *,
        max_history: Count,
        stride: Count,
        remarks: Sequence[NDArray[np.int64]] | None = None,
        learn_remarks: bool = False,
    ) -> None:
        super().__init__(max_history=max_history, stride=stride)
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self.pad_token_id = tokenizer.pad_token_id
        self._begin = np.array([begin])
        ids = np.array(tokenizer.convert_tokens_to_ids(items.vocabulary))
        self._items = [ids[row[row >= 0]] for row in items.tokens]
        self._remarks = remarks
        self._remark_owner = UNOWNED if learn_remarks else -1
        item, remark = (max(map(len, written), default=0) for written in (self._items, remarks or []))
        self.longest = 1 + (max_history + 1) * (item + remark)  # tokens of history and response

    def encode(self, items: NDArray[np.int64], first_label: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Write a window of items.

        Args:
            items: Item indices, oldest first, shape ``(n,)``.
            first_label: Position of the first item that is a response.

        Returns:
            Tokens, shape ``(T,)``, and of the same shape the position of the item that each response token belongs to;
            ``UNOWNED`` for a label that belongs to no response, -1 for a token that is only read.
        """
        tokens, owner = [self._begin], [-1]
        for position, item in enumerate(items):
            is_response = position >= first_label
            tokens.append(self._items[item])
            owner.append(position if is_response else -1)
            if self._remarks is not None:
                tokens.append(self._remarks[item])
                owner.append(self._remark_owner if is_response else -1)
        if first_label < len(items) and owner[-1] == -1:  # what nothing comes after need not be read
            tokens, owner = tokens[:-1], owner[:-1]
        return np.concatenate(tokens), np.repeat(owner, list(map(len, tokens)))

    def prompt(self, history: NDArray[np.int64]) -> NDArray[np.int64]:
        """Write the latest ``max_history`` items as the prompt whose continuation is the next item."""
        latest = history[-self.max_history :]
        return self.encode(latest, len(latest))[0]

    def form(self) -> PromptForm:
        """Return how :meth:`prompt` writes a history."""
        remarks = self._remarks or [np.empty(0, dtype=np.int64)] * len(self._items)
        shown = [plain([*item, *remark]) for item, remark in zip(self._items, remarks, strict=True)]
        return PromptForm(plain(self._begin), [], [], shown, self.max_history)


class IdsPrompt(CompactPrompt):
    """``<begin> a1 b1 c1 a2 b2 c2 ...``: semantic IDs and nothing else.

    Args:
        tokenizer: The language model's tokenizer, item tokens added.
        items: Semantic IDs of all items.
        max_history: Most recent items shown to the model.
        stride: Items labelled in each training window, see ``Windows``.

    Raises:
        InputError: the items are titles.
    """

    def __init__(self, tokenizer: Any, items: ItemTokens, *, max_history: Count, stride: Count) -> None:
        if items.as_text:
            raise InputError(
                "prompt=ids writes semantic IDs one after the other, but tokenizer=title writes items as titles.\n"
                "Type:  prompt=instruction   or, their compact form,   prompt=titles"
            )
        super().__init__(tokenizer, items, max_history=max_history, stride=stride)


class TitlesPrompt(CompactPrompt):
    """``<begin> title1 <end> title2 <end> ...``: titles, each with the end-of-text token that decoding needs, too.

    The form of ``IdsPrompt`` for pre-trained models; ours.

    Args:
        tokenizer: The language model's tokenizer.
        items: Titles of all items.
        max_history: Most recent items shown to the model.
        stride: Items labelled in each training window, see ``Windows``.

    Raises:
        InputError: the items are semantic IDs.
    """

    def __init__(self, tokenizer: Any, items: ItemTokens, *, max_history: Count, stride: Count) -> None:
        if not items.as_text:
            raise InputError(
                "prompt=titles writes titles one after the other, but these items are semantic IDs.\n"
                "Type:  prompt=ids   or   prompt=ids_with_titles   or write items as titles:   tokenizer=title"
            )
        super().__init__(tokenizer, items, max_history=max_history, stride=stride)


class IdsWithTitlesPrompt(CompactPrompt):
    """``<begin> a1 b1 c1 title1 a2 b2 c2 title2 ...``: the response is the semantic ID, its title stands behind it.

    So the history says in words what an ID is, and a beam search has an ID's few tokens to find; ours.

    Args:
        tokenizer: The language model's tokenizer, item tokens added.
        items: Semantic IDs of all items, with their titles.
        max_history: Most recent items shown to the model.
        stride: Items labelled in each training window, see ``Windows``.
        title_tokens: Longest title in tokens; the rest is cut off.
        learn_titles: Whether the title of a response is learned, too: what an ID stands for.

    Raises:
        InputError: the items are titles, or have none.
    """

    def __init__(
        self,
        tokenizer: Any,
        items: ItemTokens,
        *,
        max_history: Count,
        stride: Count,
        title_tokens: Count,
        learn_titles: bool,
    ) -> None:
        if items.as_text:
            raise InputError(
                "prompt=ids_with_titles writes titles beside semantic IDs, but tokenizer=title makes none.\n"
                "Type:  prompt=titles   or   tokenizer=residual_kmeans"
            )
        titles = written_titles(tokenizer, items, title_tokens, "prompt=ids_with_titles")
        super().__init__(
            tokenizer, items, max_history=max_history, stride=stride, remarks=titles, learn_remarks=learn_titles
        )


class ItemsPrompt(Windows):
    """``i1 i2 i3 ...``: every item but a user's first is a response to the items before it.

    One causal pass over a window does what RecBole does with one sample for each prefix.

    Args:
        tokenizer: Not used: there is no text.
        items: One token for each item.
        max_history: Most recent items shown to the model.
        stride: Items labelled in each training window, see ``Windows``; at most ``max_history``.
    """

    packed = False  # recurrent and convolutional models read a row as one history
    pad_token_id = 0  # an item like any other: only the attention mask tells padding

    def __init__(self, tokenizer: Any, items: ItemTokens, *, max_history: Count, stride: Count) -> None:
        super().__init__(max_history=max_history, stride=stride, unlabelled=1)

    def encode(self, items: NDArray[np.int64], first_label: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Write a window of items.

        Args:
            items: Item indices, oldest first, shape ``(n,)``.
            first_label: Position of the first item that is a response, >= 1.

        Returns:
            The items, and of the same shape each response's own position, -1 for all others.
        """
        position = np.arange(len(items))
        return items, np.where(position >= first_label, position, -1)

    def prompt(self, history: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the latest ``max_history`` items."""
        return history[-self.max_history :]
