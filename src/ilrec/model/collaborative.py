"""Every kind of collaborative model, and how one is read from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from src.ilrec.dataset.interactions import Interactions
from src.ilrec.model.counting import CountedModel, Counting, Popularity, Uniform
from src.ilrec.model.sequence_models import Caser, GRU4Rec, SASRec, SequenceModel
from src.launch.errors import InputError
from src.training.stage import why_unreadable

CollaborativeModel = SequenceModel | CountedModel

KINDS: dict[str, Any] = {  # classes, made of a vocabulary and their settings
    kind.__name__: kind for kind in (SASRec, GRU4Rec, Caser, Counting, Popularity, Uniform)
}
_ADVICE = "Train one:  python -m src.run +experiment=sasrec dataset=..."


def load_collaborative_model(path: Path, interactions: Interactions) -> CollaborativeModel:
    """Load a collaborative model, frozen, in eval mode and in float32; counts in float64.

    Args:
        path: Checkpoint of ``stage=collaborative_filtering`` or ``stage=counting``.
        interactions: The data set it must have been trained on.

    Returns:
        The model.

    Raises:
        InputError: the file cannot be read, holds something else, or was trained on other data.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        spec, trained_on, weights = dict(checkpoint["model"]), str(checkpoint["dataset"]), checkpoint["state_dict"]
    except Exception as error:  # torch.load answers damage with errors of a dozen types
        reason = why_unreadable(path, error)
        raise InputError(f"{path} is not a checkpoint of this project that can be read: {reason}\n{_ADVICE}") from error
    if spec.get("kind") not in KINDS:
        raise InputError(f"{path} holds {spec.get('kind')!r}; I need one of {', '.join(KINDS)}.\n{_ADVICE}")
    if trained_on != interactions.fingerprint:
        raise InputError(
            f"{path} was trained on the data set {trained_on[:12]}, but this one is {interactions.name} "
            f"({interactions.fingerprint[:12]}).\n{_ADVICE}"
        )
    kind, items = KINDS[spec.pop("kind")], spec.pop("items")
    drawn = {"seed": 0} if issubclass(kind, SequenceModel) else {}  # weights that the stored ones replace
    network: CollaborativeModel = kind([""] * items, **spec, **drawn)
    try:
        own = {name.removeprefix("model."): weight for name, weight in weights.items()}
        network.load_state_dict(own, assign=True)  # as they are, whatever the precision of this run
    except RuntimeError as error:
        raise InputError(f"{path} was written by a version with other weights: {error}\n{_ADVICE}") from error
    return network.float().eval().requires_grad_(False)
