"""Export a trained run to a folder that plain transformers loads, and to the Hugging Face hub."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from src.ilrec.task.assemble import Parts, load_trained, trained_config
from src.ilrec.task.card import model_card, recommender
from src.launch.errors import InputError
from src.launch.progress import Line
from src.launch.record import Record
from src.launch.storage import write_atomic

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_WHOLE = "Type:  task.adapters_only=false"
_MEND_HUB = (
    "I need a repository that the token of HF_TOKEN, or of hf auth login, may write to. HF_ENDPOINT names another hub."
)


class ExportTask:
    """Write ``model/`` into the run folder: weights, text tokenizer, model card and what its example needs.

    Adapters are merged into the weights, so that ``AutoModelForCausalLM`` and ``AutoTokenizer`` need nothing else. The
    card's example recommends what the run does, with nothing but transformers.

    Args:
        adapters_only: Write the adapters and the trained rows of item tokens alone, for the model they belong to.
        push_to_hub: Repository on the hub to send the folder to, ``<owner>/<name>``; made where it is missing.
        private: Whether a repository that is made is private.
    """

    needs = ("checkpoint",)
    settings_at: ClassVar[dict[str, str]] = {}

    def __init__(self, *, adapters_only: bool = False, push_to_hub: str | None = None, private: bool = True) -> None:
        self.adapters_only, self.push_to_hub, self.private = adapters_only, push_to_hub, private

    def run(self, config: dict[str, Any], folder: Path, record: Record, sweep: str | None) -> None:
        """Load the checkpoint, save what it makes, and send it to the hub if that is asked for.

        Raises:
            InputError: the checkpoint cannot be used, or holds no language model or no adapters, or the hub refuses.
        """
        from src.model.causal_lm import CausalLM

        trained_config(config["checkpoint"], {})  # a wrong name is said before the hub is asked
        api = _hub(self.push_to_hub, self.private) if self.push_to_hub else None
        trained = load_trained(config["checkpoint"])
        if not isinstance(trained.model, CausalLM):
            raise InputError(f"checkpoint={config['checkpoint']} holds no language model; only these can be exported.")
        record.lap("prepare")
        with Line("Writing the model"):
            self._save(trained, Path(config["checkpoint"]), folder / "model")
        record.lap("export")
        address = _send(api, folder / "model", self.push_to_hub) if api and self.push_to_hub else None
        record.finish(metrics={}, protocol={"checkpoint": config["checkpoint"]}, address=address)

    def show(self, record: Record) -> None:
        """Say where the model is and how to use it."""
        folder = record.path.parent / "model"
        print(f"{folder}: README.md there shows how to recommend with nothing but transformers, and how to serve it.")
        if address := record.content.get("address"):
            print(address)

    def _save(self, trained: Parts, checkpoint: Path, target: Path) -> None:
        """Write the folder under another name first: it is whole or not there."""
        from src.model.adapters import save_adapters, save_model
        from src.model.causal_lm import CausalLM

        assert isinstance(trained.model, CausalLM)
        config = trained_config(str(checkpoint), {})
        base = _base(trained.model)
        unfinished = target.with_name("model.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        content = recommender(trained, base=base if self.adapters_only else None)
        if self.adapters_only:
            if self.push_to_hub and base and Path(base).exists():
                raise InputError(
                    f"task.adapters_only=true: the adapters belong to {base}, a folder that nobody else has.\n{_WHOLE}"
                )
            save_adapters(trained.model, unfinished)
        else:
            save_model(trained.model, unfinished, content["search"])
        trained.items.save_index(unfinished / "items.index.json", trained.interactions.item_ids)
        write_atomic(unfinished / "recommender.json", json.dumps(content, ensure_ascii=False))
        known = None if base is None or Path(base).exists() else base
        card = model_card(trained, config, checkpoint, base=known, alone=self.adapters_only)
        write_atomic(unfinished / "README.md", card)
        os.sync()
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)


def _base(model: Any) -> str | None:
    """Return the name or folder of the model that was fine-tuned; None for one that was trained from scratch."""
    return None if model.spec["kind"] == "from_scratch" else str(model.causal_network.config._name_or_path) or None


def _hub(name: str, private: bool) -> HfApi:
    """Find the hub and the repository, or make it, before anything long is done.

    Raises:
        InputError: there is no token, the name is none, or the hub does not answer or does not let the token write.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    asked = f"task.push_to_hub={name}"
    if get_token() is None:
        raise InputError(
            f"{asked}: {api.endpoint} lets nobody write without a token, and I find none.\n"
            "Make one that may write, at <hub>/settings/tokens, and type:  export HF_TOKEN=<token>   or   hf auth login"
        )
    try:
        api.create_repo(name, private=private, exist_ok=True)  # of one that is there it only sees that it can be read
        if "write" in inspect.signature(api.auth_check).parameters:  # not in the oldest versions that will do
            api.auth_check(name, write=True)
    except HFValidationError as error:
        raise InputError(f"{asked} is no name of a repository: {error}\nI need  <owner>/<name>.") from error
    except (HfHubHTTPError, OSError) as error:
        raise InputError(f"{asked}: {api.endpoint} refuses: {_reason(error)}\n{_MEND_HUB}") from error
    return api


def _send(api: HfApi, folder: Path, name: str) -> str:
    """Upload the folder in one commit, and return its address."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export").repo_url)
    except (HfHubHTTPError, OSError) as error:
        raise InputError(
            f"task.push_to_hub={name}: {api.endpoint} refuses: {_reason(error)}\n{_MEND_HUB}\n"
            f"The export itself is whole, in {folder}; to send it alone:  hf upload {name} {folder}"
        ) from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "server_message", None) or error).strip().partition("\n")[0]
