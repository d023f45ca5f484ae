"""Item embeddings by a pre-trained transformer: a language model or a sentence encoder reads each item's text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from src.ilrec.tokenizer.embeddings import Content, documents, unit_rows
from src.launch.errors import InputError
from src.launch.storage import cache_folder, locked, sha256_of, write_atomic, writing_to_cache
from src.model.smollm2 import local_folder

if TYPE_CHECKING:
    from src.ilrec.dataset.interactions import Interactions

# Part of the cache key: raise it whenever the same texts, model and settings give other vectors.
_FORMAT = 1
_POOLINGS = ("mean_tokens", "cls_token", "lasttoken")


class TransformerEmbedding:
    """The last hidden states of a transformers model over an item's text, pooled into one vector.

    Pooled as the folder says where sentence-transformers wrote it, and otherwise by the mean over the tokens. The
    vectors stay in the cache folder under the hash of texts, model and settings.

    Source: text embeddings as in LC-Rec (arXiv 2311.09049), which takes the mean over a LLaMA's last hidden states.
    """

    def __init__(
        self,
        *,
        name: str,
        content: Content,
        prefix: str,
        max_tokens: int,
        batch_size: int,
        dtype: Literal["float32", "bfloat16"],
        accelerator: Literal["cpu", "cuda"],
    ) -> None:
        """Keep the settings.

        Args:
            name: ``smollm2`` for SmolLM2-135M-Instruct from the package registry, a hub name, or a folder written by
                ``save_pretrained`` or sentence-transformers.
            content: What is read of an item.
            prefix: Written before every text; some sentence encoders want ``"passage: "`` or the like.
            max_tokens: Longer texts are cut; so are those beyond the model's own limit.
            batch_size: Items read at once.
            dtype: Type of the weights in memory.
            accelerator: Where the model runs.

        Raises:
            InputError: a number is not positive, or there is no such device.
        """
        for setting, value in (("max_tokens", max_tokens), ("batch_size", batch_size)):
            if value < 1:
                raise InputError(f"tokenizer.embedding.{setting}={value}: give a whole number above 0.")
        if accelerator == "cuda" and not torch.cuda.is_available():
            raise InputError(
                "tokenizer.embedding.accelerator=cuda: there is no CUDA here.\n"
                "Type:  tokenizer.embedding.accelerator=cpu"
            )
        self.name = name
        self.content: Content = content
        self.prefix = prefix
        self.max_tokens = max_tokens
        self.batch_size = batch_size
        self.dtype = dtype
        self.accelerator = accelerator

    def embed(self, interactions: Interactions) -> np.ndarray:
        """Return unit vectors, shape ``(items, hidden size)``, float32.

        Raises:
            InputError: an item has no word in its text, or there is no such model, or none that can be used.
        """
        texts = [self.prefix + text for text in documents(interactions, self.content)]
        name = local_folder() if self.name == "smollm2" else self.name
        settings = [_FORMAT, self.max_tokens, self.batch_size, self.dtype, self.accelerator]
        with _told(name):
            key = json.dumps([settings, _identity(name), texts])
        folder = cache_folder() / "embeddings" / hashlib.sha256(key.encode()).hexdigest()
        path = folder / "vectors.npy"
        with locked(folder):
            try:
                vectors: np.ndarray = np.load(path, allow_pickle=False)
            except (OSError, EOFError, ValueError):  # absent or damaged
                vectors = self._read(name, texts)
                with writing_to_cache():
                    write_atomic(path, lambda stream: np.save(stream, vectors))
        return vectors

    @torch.inference_mode()
    def _read(self, name: str, texts: list[str]) -> np.ndarray:
        """Run the model over all texts, those of about the same length together."""
        from rich.progress import track

        with _told(name):
            pooling, subfolder = _recipe(name)
            tokenizer, network = _load(name, subfolder, getattr(torch, self.dtype))
        network.to(self.accelerator)
        limits = (tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", None))
        cut = {"truncation": True, "max_length": min(self.max_tokens, *(limit for limit in limits if limit))}
        lengths = [len(tokens) for tokens in tokenizer(texts, **cut)["input_ids"]]
        order = sorted(range(len(texts)), key=lambda row: -lengths[row])  # what is too long for the memory comes first
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        parts = []
        for rows in track(batches, description=f"Embedding {len(texts):,} texts"):
            batch = tokenizer([texts[row] for row in rows], **cut, padding=True, return_tensors="pt")
            batch = batch.to(self.accelerator)
            states = network(**batch).last_hidden_state.float()
            parts.append(pooled(states, batch["attention_mask"], pooling).cpu().numpy())
        return unit_rows(np.concatenate(parts)[np.argsort(order)])


def pooled(states: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """Make one vector of the states of each text.

    Args:
        states: Shape ``(B, T, D)``, float; padded on the right.
        attention_mask: 1 for tokens, 0 for padding, shape ``(B, T)``.
        pooling: ``mean_tokens``, ``cls_token`` (the first one) or ``lasttoken``.

    Returns:
        Shape ``(B, D)``, float.
    """
    if pooling == "cls_token":
        return states[:, 0]
    count = attention_mask.sum(1)
    if pooling == "lasttoken":
        return states[torch.arange(len(states)), count - 1]
    return (states * attention_mask[:, :, None]).sum(1) / count[:, None]


def _identity(name: str) -> Any:
    """Return what tells a model from others: the content of its folder, or the hub's name and commit."""
    folder = Path(name)
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    from transformers import AutoConfig

    return [name, AutoConfig.from_pretrained(name)._commit_hash]


def _recipe(name: str) -> tuple[str, str]:
    """Return the pooling and the model's subfolder that sentence-transformers recorded; the mean where it did not.

    Raises:
        InputError: it recorded a step that is not done here, such as a dense layer.
    """
    modules = _stored(name, "modules.json")
    if modules is None:
        return "mean_tokens", ""
    steps = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
    config = _stored(name, f"{steps['Pooling']}/config.json") if "Pooling" in steps else None
    marked = "pooling_mode_"
    poolings = [key.removeprefix(marked) for key, value in (config or {}).items() if key.startswith(marked) and value]
    known = {"Transformer", "Pooling"} <= steps.keys() <= {"Transformer", "Pooling", "Normalize"}
    if not known or len(poolings) != 1 or poolings[0] not in _POOLINGS:
        raise InputError(
            f"tokenizer.embedding.name={name!r} is a sentence encoder of the steps {', '.join(steps)}, pooled by "
            f"{' and '.join(poolings) or 'nothing'}; I know Transformer, Pooling by one of {', '.join(_POOLINGS)}, and "
            "Normalize.\nEmbed the items with sentence-transformers, save the array, and type:  "
            "tokenizer/embedding=file tokenizer.embedding.path=<X.npy>"
        )
    return poolings[0], steps["Transformer"]


def _stored(name: str, file: str) -> Any:
    """Return the content of a JSON file of a folder or hub repository; None where there is no such file."""
    from transformers.utils import cached_file

    path = cached_file(
        name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else None


def _load(name: str, subfolder: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return tokenizer and network, ready to read batches padded on the right."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name, subfolder=subfolder, padding_side="right")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    network = AutoModel.from_pretrained(name, subfolder=subfolder, dtype=dtype).eval()
    return tokenizer, network.get_encoder() if network.config.is_encoder_decoder else network


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn a failure to load a model into advice.

    Raises:
        InputError: the model could not be loaded.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # unknown names and torn files end in errors of a dozen types
        known = "is a folder, but not one that save_pretrained wrote" if Path(name).is_dir() else "is no local folder"
        raise InputError(
            f"tokenizer.embedding.name={name!r} {known}, and no model of that name could be loaded:\n{error}\n"
            "Type a hub name or a folder with config.json, weights and tokenizer:  tokenizer.embedding.name=<folder>"
        ) from error
