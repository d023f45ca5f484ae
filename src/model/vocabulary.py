"""New tokens of a language model: names in its tokenizer, rows in its matrices, and where these start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken
from torch import Tensor

from src.launch.errors import InputError


def add_item_tokens(tokenizer: Any, item_vocabulary: Sequence[str]) -> None:
    """Add tokens that are never split and never cut off as special ones.

    Raises:
        InputError: the tokenizer has some of them already.
    """
    known = tokenizer.get_vocab()  # once: it is made anew at every call
    clash = [token for token in item_vocabulary if token in known]
    if clash:
        raise InputError(
            f"The model's tokenizer already has {len(clash)} of the {len(item_vocabulary)} item tokens (first: "
            f"{', '.join(clash[:3])}): it was saved with them in. I need one without, to add them myself.\n"
            "Type:  model.name=<the model that it was made from>"
        )
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in item_vocabulary])


def text_tokens(tokenizer: Any, texts: Sequence[str], item_vocabulary: Sequence[str] = ()) -> list[list[int]]:
    """Write texts; what spells a special token or an item's, such as "<s>" or "<a_1>", is text all the same."""

    def write(texts: Sequence[str]) -> list[list[int]]:
        rows: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return rows

    spelled = dict(zip(tokenizer.convert_tokens_to_ids(list(item_vocabulary)), item_vocabulary, strict=True))

    def apart(token: int) -> list[int]:
        name = spelled.get(token)
        return [token] if name is None else [part for half in write([name[:1], name[1:]]) for part in half]

    return [[part for token in row for part in apart(token)] for row in write(texts)]


def grow_vocabulary(network: Any, size: int, added: int) -> None:
    """Append rows around the mean of the known ones, so that a new token starts out neither likely nor unlikely.

    Raises:
        InputError: the network takes no new tokens.
    """
    known = size - added
    try:
        network.resize_token_embeddings(max(size, network.get_input_embeddings().num_embeddings), mean_resizing=False)
        matrices = _matrices(network)
        with torch.device("meta"):
            anew = type(network)(network.config).state_dict()
        same = all(weight.shape == anew[name].shape for name, weight in network.state_dict().items() if name in anew)
        problem = "" if same else ": a model of its new config has weights of other shapes"
    except Exception as error:  # each architecture that cannot has a way of its own
        problem = f": {error}"
    if problem:
        raise InputError(
            f"The model is a {type(network).__name__}, whose vocabulary does not grow{problem}\n"
            "I need one that takes new tokens.\nType:  model.name=<another model>"
        )
    with torch.no_grad():
        for weight in matrices:
            rows = weight[:known].float()
            noise = torch.randn(added, weight.shape[1]) * rows.std(0)
            weight[known:size] = (rows.mean(0) + 0.1 * noise).to(weight.dtype)


@torch.no_grad()
def start_from_texts(network: Any, tokenizer: Any, texts: Sequence[Sequence[str]]) -> None:
    """Start the rows of new tokens near the mean of what they stand for, each text the mean of its tokens' rows.

    Args:
        network: A transformers model whose last rows are those of the new tokens.
        tokenizer: Its tokenizer, with them.
        texts: Of each of them; one without any keeps its row.
    """
    known = len(tokenizer) - len(texts)
    kept = [[text for text in of_token if text.strip()] for of_token in texts]
    distinct = list(dict.fromkeys(text for of_token in kept for text in of_token))
    number = {text: place for place, text in enumerate(distinct)}
    added = tokenizer.convert_ids_to_tokens(range(known, len(tokenizer)))
    ids = text_tokens(tokenizer, [f" {text}" for text in distinct], added)
    written = [place for place, of_token in enumerate(kept) if of_token]
    for weight in _matrices(network):
        rows = weight[:known].float()
        of_text, spread = torch.stack([rows[torch.tensor(tokens)].mean(0) for tokens in ids]), rows.std(0)
        for place in written:
            start = of_text[torch.tensor([number[text] for text in kept[place]])].mean(0)
            weight[known + place] = (start + 0.02 * torch.randn(rows.shape[1]) * spread).to(weight.dtype)


def _matrices(network: Any) -> list[Tensor]:
    """Return the rows that tokens are read by, and, unless they are the same, those that they are predicted by."""
    rows, head = network.get_input_embeddings().weight, network.get_output_embeddings().weight
    return [rows] if head is rows else [rows, head]


@torch.no_grad()
def start_rows(weight: Tensor, rows: Tensor, vectors: np.ndarray, seed: int) -> None:
    """Start embedding rows from vectors, centred and turned at random, around the rows' mean as far as the rows lie.

    Models from scratch have their mean near 0. Rows of a pre-trained model share one, and lie close around it: there
    vectors of the length of a row would tell items apart by thousands to one before anything is learnt.

    Turning spreads the vectors' dimensions over the embedding's, which otherwise would mean something from the start in
    the order of their variance. A row whose vector is 0 stays as it is.

    Args:
        weight: Embedding matrix, shape ``(V, D)``, changed in place.
        rows: Those that start from vectors, shape ``(n,)``, int64.
        vectors: Shape ``(n, d)``, d <= D.
        seed: Seed of the rotation.

    Raises:
        InputError: the vectors are wider than the rows.
    """
    wide, width = vectors.shape[1], weight.shape[1]
    if wide > width:
        raise InputError(
            f"tokenizer.start gives vectors of {wide} dimensions, and the model is {width} wide.\n"
            f"Type:  tokenizer.start.dimensions={width}"
        )
    known = torch.from_numpy(vectors).float()
    present = known.norm(dim=1) > 0
    centred = torch.nn.functional.normalize(known[present] - known[present].mean(0))
    generator = torch.Generator().manual_seed(seed)
    turned = torch.linalg.qr(torch.randn(width, wide, generator=generator)).Q
    before = weight[rows].float()
    mean = before.mean(0)
    distance = (before - mean).norm(dim=1).mean()
    chosen = rows[present.to(rows.device)]
    weight[chosen] = (mean + distance * (centred @ turned.T).to(weight.device)).to(weight.dtype)
