"""``scale=paper`` on a Llama of the paper's kind, a few numbers wide, split over two processes without a GPU."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from src.model.causal_lm import _byte_tokenizer
from src.training.sharded import load_weights
from tests.processes import finish, fork_two, start_two
from tests.test_small_job import ranks, result

pytestmark = pytest.mark.filterwarnings("ignore")
SIZES = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def arguments(run, small_arguments, tmp_path_factory):
    """The paper's command with a small model, small data, no dropout and no GPU."""
    folder = tmp_path_factory.mktemp("paper")
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).save_pretrained(folder / "llama")
    _byte_tokenizer().save_pretrained(folder / "llama")
    own = ("model.", "stage.", "prompt.", "batches.", "trainer.max")
    data = [text for text in small_arguments[1:] if not text.startswith(own)]
    sizes = ["model.hidden_size=8", "model.inner_size=8", "prompt.max_history=4", "prompt.stride=3"]
    collaborative = [text for text in data if not text.startswith("tokenizer.")]
    assert run("+experiment=sasrec", *collaborative, *sizes, "trainer.max_epochs=1", f"hydra.run.dir={folder}") == 0
    return [
        "+experiment=ilrec", "scale=paper", *data, f"model.name={folder / 'llama'}", "model.lora.dropout=0.0",
        "model.lora.rank=4", "stage.layers=2", "stage.learning_rate=1e-2",
        f"upstream.sasrec={folder / 'checkpoints' / 'best.ckpt'}",
        "prompt.max_history=4", "batches.batch_size=8", "trainer.accumulate_grad_batches=2", "trainer.max_epochs=2",
        "checkpointing.every_steps=2",
    ]  # fmt: skip


SPLIT = ["trainer.strategy=sharded", "trainer.devices=2"]


def kill_in_training(folder, *processes):
    """Kill both processes, and torchrun where it has started them, some way behind the first checkpoint."""
    log = folder / "metrics.csv"
    while not (folder / "checkpoints" / "last.ckpt").is_file() or log.read_bytes().count(b"\n") < 70:
        assert all(one.poll() is None for one in processes), [one.communicate()[0] for one in processes]
        time.sleep(0.01)
    for process in processes:
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in (process.pid, *map(int, workers)):
            os.kill(pid, signal.SIGKILL)
    for process in processes:
        process.communicate()
    assert result(folder)["status"] == "running"


def shards(folder):
    return sorted(path.name for path in folder.glob("checkpoints/last-*.shards/*.distcp"))


def test_two_processes_killed_and_resumed_train_and_export_what_one_does(run, arguments, tmp_path):
    exact = ["model.dtype=float32", "trainer.precision=32-true"]
    one, two, exported = tmp_path / "one", tmp_path / "two", tmp_path / "exported"
    assert run(*arguments, *exact, "trainer.strategy=auto", "trainer.devices=1", f"hydra.run.dir={one}") == 0
    kill_in_training(two, *fork_two(*arguments, *exact, *SPLIT, f"hydra.run.dir={two}"))
    finish(*fork_two(f"resume={two}"))
    assert shards(two) == ["__0_0.distcp", "__1_0.distcp"]  # each process wrote its part, and older ones are gone
    assert (result(two)["status"], result(two)["resumed"], result(two)["evaluated_users"]) == ("finished", 1, 24)
    for name in ("last.ckpt", "best.ckpt"):
        alone, together = (load_weights(folder / "checkpoints" / name) for folder in (one, two))
        assert alone["global_step"] == together["global_step"]
        assert alone["state_dict"].keys() == together["state_dict"].keys()
        assert any("lora" in weight for weight in together["state_dict"])
        assert not any(weight.endswith("base_layer.weight") for weight in together["state_dict"])  # frozen
        for weight, value in together["state_dict"].items():
            torch.testing.assert_close(value, alone["state_dict"][weight], rtol=1e-3, atol=1e-4)
    for folder in (one, two):
        best = f"checkpoint={folder / 'checkpoints' / 'best.ckpt'}"
        assert run("+experiment=export", best, f"hydra.run.dir={exported / folder.name}") == 0
    alone, together = (load_file(exported / name / "model" / "model.safetensors") for name in ("one", "two"))
    for weight, value in together.items():
        torch.testing.assert_close(value, alone[weight], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_in_the_papers_precision_a_killed_job_ends_to_the_bit_as_one_that_was_not(arguments, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start_two(*arguments, *SPLIT, f"hydra.run.dir={whole}"))
    kill_in_training(killed, start_two(*arguments, *SPLIT, f"hydra.run.dir={killed}"))
    finish(start_two(f"resume={killed}"))
    assert result(killed)["metrics"] == result(whole)["metrics"]
    assert ranks(killed) == ranks(whole)
    ended, expected = (load_weights(folder / "checkpoints" / "last.ckpt")["state_dict"] for folder in (killed, whole))
    assert {weight.dtype for weight in ended.values()} == {torch.bfloat16}
    assert all(torch.equal(value, expected[weight]) for weight, value in ended.items())
