"""What a model has learnt from and may be tested on: training manifests, and the refusals that they allow."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

from src.gisa.dataset.gisa import Gisa, Question
from src.launch.errors import InputError


def manifest_of(suite: Gisa, learnt: Collection[str]) -> dict[str, Any]:
    """Name the questions that a model has seen, and the entities that they are about as far as the suite says so.

    Questions are named by their ids, with a digest of the text, as other suites have the same ids.
    """
    questions = [question for question in suite.questions if question.id in learnt]
    entities = {name for asked in questions for name in suite.metadata.get(asked.id, {}).get("entities", ())}
    return {
        "suite": suite.fingerprint,
        "questions": {question.id: _digest(question) for question in questions},
        "entities": sorted(entities),
    }


def joined_manifest(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of weights that have learnt by one manifest, and then by a second one."""
    questions = dict(second["questions"])
    for name, digest in first["questions"].items():
        free = name if questions.get(name, digest) == digest else f"{name} of {first['suite'][:12]}"
        questions[free] = digest
    return {**second, "questions": questions, "entities": sorted({*first["entities"], *second["entities"]})}


def refuse_benchmark(suite: Gisa, allowed: bool) -> None:
    """Refuse to learn from questions that are there to test with; those of a split ``train`` are not.

    Raises:
        InputError: there are such questions, and it is not allowed.
    """
    tested = [asked.id for asked in suite.questions if suite.metadata.get(asked.id, {}).get("split") != "train"]
    if tested and not allowed:
        raise InputError(
            f"{len(tested)} of the {len(suite.questions)} questions below {suite.root} are there to test with "
            f"(ids such as {', '.join(tested[:3])}); a model that has learnt from them cannot be compared on them.\n"
            "Learn from others:  dataset=factbook_set dataset.split=train\n"
            "or, if that is what you want:  task.allow_train_on_benchmark=true"
        )


def refuse_contaminated(suite: Gisa, manifest: Mapping[str, Any]) -> None:
    """Refuse to test a model, given by its manifest, on questions that it has learnt from.

    Raises:
        InputError: the model has seen one of them.
    """
    seen = set(manifest["questions"].values())
    if contaminated := [question.id for question in suite.questions if _digest(question) in seen]:
        raise InputError(
            f"The checkpoint has learnt from {len(contaminated)} of the {len(suite.questions)} questions below "
            f"{suite.root} (ids such as {', '.join(contaminated[:3])}), so its score on them would say nothing.\n"
            "Test it on others:  dataset=factbook_set dataset.split=entities|families"
        )


def _digest(question: Question) -> str:
    return hashlib.sha256(question.text.encode()).hexdigest()[:16]
