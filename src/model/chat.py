"""A chat model in this process: conversations in its own template, and replies to many of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from src.errors import InputError
from src.model.chat_format import ChatFormat


class Written(NamedTuple):
    """What a model wrote.

    Attributes:
        tokens: Without the one that ends a reply.
        end: That one; None where the limit of tokens came first.
    """

    tokens: list[int]
    end: int | None

    @property
    def ended(self) -> bool:
        """Whether the reply came to its end."""
        return self.end is not None


class ChatModel(ChatFormat):
    """A transformers causal LM with a chat template.

    Attributes:
        network: The model.
        context_tokens: Most tokens it can read and write in one conversation; None where its config does not say.
    """

    def __init__(self, network: Any, tokenizer: Any) -> None:
        """Take a network and its tokenizer; neither is changed but for the mode of evaluation.

        Raises:
            InputError: see ``ChatFormat``.
        """
        ends = network.generation_config.eos_token_id if network.generation_config else None
        super().__init__(tokenizer, ends if isinstance(ends, list) else [] if ends is None else [ends])
        self.network = network.eval()
        self.context_tokens: int | None = getattr(network.config.get_text_config(), "max_position_embeddings", None)

    @torch.inference_mode()
    def reply(
        self, prompts: Sequence[list[int]], *, seeds: Sequence[int], max_tokens: int, temperature: float
    ) -> list[Written]:
        """Continue several conversations at once; one that has ended leaves the batch.

        Each row draws from a generator of its own, so that a reply depends on its neighbours by the rounding of sums
        only. Source of the draw: the largest of ``p / e`` with ``e`` exponential is a sample of ``p`` (Gumbel-max).

        Args:
            prompts: Tokens of the conversations, of any lengths.
            seeds: One a conversation.
            max_tokens: Most tokens of one reply.
            temperature: 0 takes the likeliest token.
        """
        device = self.network.device
        draws = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        written: list[list[int]] = [[] for _ in prompts]
        going, ends = list(range(len(prompts))), dict[int, int]()
        cache, shared = self._read_what_all_share(prompts)
        ids, mask = _left_padded([prompt[shared:] for prompt in prompts], device)
        mask = torch.cat([mask.new_ones(len(mask), shared), mask], dim=1)
        position = (mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
        for count in range(1, max_tokens + 1):
            output = self.network(
                input_ids=ids,
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            tokens = _chosen(output.logits[:, -1].float(), [draws[row] for row in going], temperature)
            kept = []
            for place, (row, token) in enumerate(zip(going, tokens.tolist(), strict=True)):
                if token in self.ends:
                    ends[row] = token
                else:
                    written[row].append(token)
                    kept.append(place)
            if not kept or count == max_tokens:
                break
            if len(kept) < len(going):
                going = [going[place] for place in kept]
                places = torch.tensor(kept, device=device)
                cache.batch_select_indices(places)
                tokens, mask, position = tokens[places], mask[places], position[places]
            ids, position = tokens[:, None], position[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        return [Written(tokens, ends.get(row)) for row, tokens in enumerate(written)]

    def _read_what_all_share(self, prompts: Sequence[list[int]]) -> tuple[Any, int]:
        """Read the beginning that all conversations have in common, instructions and examples, once for all of them.

        Returns:
            The model's cache with a row a conversation, None if it is to begin empty; and how many tokens are in it.
        """
        shared = min(len(commonprefix(prompts)), min(map(len, prompts)) - 1)  # of each, a token is left to be read
        if len(prompts) == 1 or shared < 1:
            return None, 0
        ids = torch.tensor([prompts[0][:shared]], device=self.network.device)
        cache = self.network(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
        if any(cache.is_sliding):  # whose windows would count the padding that follows
            return None, 0
        cache.batch_repeat_interleave(len(prompts))
        return cache, shared


def load_chat_model(name: str, *, dtype: Literal["float32", "bfloat16"], device: str) -> ChatModel:
    """Load a chat model of the hub or of a local folder.

    Args:
        name: Hub name such as ``Qwen/Qwen3-4B``, or a folder written by ``save_pretrained``.
        dtype: Type of the weights in memory.
        device: Where to compute, such as ``cpu`` or ``cuda:1``.

    Raises:
        InputError: no chat model could be loaded by that name, or onto that device.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        network = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype)).to(device)
    except Exception as error:  # unknown names, torn files and absent devices end in errors of a dozen types
        known = "is a folder, but not one that save_pretrained wrote" if Path(name).is_dir() else "is no local folder"
        raise InputError(
            f"agent.policy.name={name!r} {known}, and no model of that name could be loaded onto {device}:\n{error}\n"
            "Type a hub name or a folder with config.json, weights and tokenizer:  agent.policy.name=path/to/folder"
        ) from error
    return ChatModel(network, tokenizer)


def _left_padded(prompts: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask, shape ``(B, T)``; padding is token 0, which no row sees."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask


def _chosen(logits: Tensor, draws: Sequence[torch.Generator], temperature: float) -> Tensor:
    """Choose a token a row: logits ``(B, V)`` to ids ``(B,)``."""
    if temperature == 0:
        return logits.argmax(1)
    noise = torch.stack(
        [torch.empty_like(row).exponential_(generator=draw) for row, draw in zip(logits, draws, strict=True)]
    )
    return (logits / temperature - noise.log()).argmax(1)
