"""Item embeddings by sentence-transformers: a language model or a sentence encoder reads each item's text."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from src.ilrec.tokenizer.embeddings import Content, documents, unit_rows
from src.launch.errors import InputError, install_command
from src.launch.precision import Dtype, torch_dtype
from src.launch.progress import Line
from src.launch.storage import cache_folder, locked, sha256_of, write_atomic, writing_to_cache
from src.launch.values import Count
from src.model.smollm2 import local_folder

if TYPE_CHECKING:
    from src.ilrec.dataset.interactions import Interactions

# Part of the cache key: raise it whenever the same texts, model and settings give other vectors.
_FORMAT = 1


class SentenceEmbedding:
    """The last hidden states of a transformers model over an item's text, pooled into one vector.

    Pooled, and more, as the folder says where sentence-transformers wrote it, and otherwise by the mean over the
    tokens. The vectors stay in the cache folder under the hash of texts, model and settings.

    Source: text embeddings as in LC-Rec (arXiv 2311.09049), which takes the mean over a LLaMA's last hidden states.
    """

    def __init__(
        self,
        *,
        name: str,
        content: Content,
        prefix: str,
        max_tokens: Count,
        batch_size: Count,
        dtype: Dtype,
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
            dtype: Type of the weights in memory; ``auto`` is bfloat16 where the device multiplies it.
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
        self.dtype = str(torch_dtype(dtype, accelerator)).removeprefix("torch.")
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

    def _read(self, name: str, texts: list[str]) -> np.ndarray:
        """Run the model over all texts, those of about the same length together."""
        try:
            from sentence_transformers import SentenceTransformer
            from sentence_transformers.util import is_sentence_transformer_model
        except ImportError as error:
            raise InputError(
                "tokenizer/embedding=language_model and sentence_encoder need the package sentence-transformers.\n"
                f"Type:  {install_command('embeddings')}\n"
                "or embed the items without it:  tokenizer/embedding=text"
            ) from error
        # Of a model of another kind it says that it pools it, and how, which is decided here.
        logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
        with _told(name):
            encoder: Any = SentenceTransformer(
                name, device=self.accelerator, model_kwargs={"dtype": getattr(torch, self.dtype)}
            )
            if not is_sentence_transformer_model(name):  # it would ask a language model by its chat template,
                encoder[0].modality_config.pop("message", None)  # and take the state of the last token
                encoder[1].pooling_mode = "mean"
        tokenizer = encoder.tokenizer
        tokenizer.padding_side = "right"  # so that positions are those of the text alone
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        limits = (encoder.max_seq_length, getattr(encoder[0].auto_model.config, "max_position_embeddings", None))
        encoder.max_seq_length = min(self.max_tokens, *(limit for limit in limits if limit))
        with Line("Encoding the items", len(texts), counted=True) as line:
            done = count(self.batch_size, self.batch_size)
            encoder[0].register_forward_hook(lambda *_: line.at(next(done)))
            vectors = encoder.encode(
                texts, prompt="", batch_size=self.batch_size, show_progress_bar=False, convert_to_numpy=True
            )
        return unit_rows(np.asarray(vectors, dtype=np.float32))


def _identity(name: str) -> Any:
    """Return what tells a model from others: the content of its folder, or the hub's name and commit."""
    folder = Path(name)
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    from transformers import AutoConfig

    return [name, AutoConfig.from_pretrained(name)._commit_hash]


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
