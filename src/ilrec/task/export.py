"""Export a trained run to a folder that plain transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from src.ilrec.task.assemble import load_trained
from src.launch.errors import InputError
from src.launch.record import Record


class ExportTask:
    """Write ``model/`` into the run folder: weights, text tokenizer, ``items.index.json``.

    Adapters are merged into the weights, so that ``AutoModelForCausalLM`` and ``AutoTokenizer`` need nothing else.
    """

    needs = ("checkpoint",)

    def run(self, config: dict[str, Any], folder: Path, record: Record, sweep: str | None) -> None:
        """Load the checkpoint and save what it makes.

        Raises:
            InputError: the checkpoint cannot be used, or holds no language model.
        """
        from src.model.causal_lm import CausalLM, save_model

        trained = load_trained(config["checkpoint"])
        if not isinstance(trained.model, CausalLM):
            raise InputError(f"checkpoint={config['checkpoint']} holds no language model; only these can be exported.")
        save_model(trained.model, folder / "model")
        trained.items.save_index(folder / "model" / "items.index.json", trained.interactions.item_ids)
        record.finish(metrics={}, protocol={"checkpoint": config["checkpoint"]})

    def show(self, record: Record) -> None:
        """Say where the model is and how to load it."""
        folder = record.path.parent / "model"
        print(f"AutoModelForCausalLM.from_pretrained({str(folder)!r}), AutoTokenizer.from_pretrained({str(folder)!r})")
