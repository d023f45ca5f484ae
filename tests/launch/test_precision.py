"""What auto becomes: by the device, said once, written into the record, and kept by whatever goes on with the run."""

import json
import platform
from types import SimpleNamespace

import pytest
import torch
import yaml

from src.launch import chain, precision
from src.launch.precision import emulated, multiplies_bfloat16, settled, torch_dtype

POLICY = {"_target_": "src.gisa.agent.local.LocalPolicy", "device": "cpu"}
FIRST = {"trainer": {"accelerator": "cpu", "precision": "auto"}, "agent": {"policy": {**POLICY, "dtype": "auto"}}}


def read(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture
def native(monkeypatch):
    """Choose which kinds of devices multiply bfloat16."""
    return lambda *kinds: monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: device in kinds)


@pytest.mark.parametrize(
    ("kinds", "chosen", "dtype", "said"),
    [((), "32-true", "float32", "this processor emulates bfloat16"),
     (("cpu",), "bf16-mixed", "bfloat16", "this processor multiplies bfloat16")],
)  # fmt: skip
def test_auto_is_what_the_device_multiplies(native, kinds, chosen, dtype, said):
    native(*kinds)
    config, line = settled(FIRST)
    assert (config["trainer"]["precision"], config["agent"]["policy"]["dtype"]) == (chosen, dtype)
    assert line == f"trainer.precision=auto: {chosen}, agent.policy.dtype=auto: {dtype}, as {said}"
    assert FIRST["trainer"]["precision"] == "auto"  # as it was
    assert settled(config) == (config, "")
    assert torch_dtype("auto", "cpu") == getattr(torch, dtype)
    assert torch_dtype("bfloat16", "cpu") == torch.bfloat16


def test_each_part_goes_by_its_own_device_and_the_model_by_the_trainers(native, monkeypatch):
    native("cuda")
    model = {"_target_": "src.model.causal_lm.from_pretrained", "dtype": "auto"}
    embedding = {"_target_": "src.ilrec.tokenizer.sentence_embedding.SentenceEmbedding", "accelerator": "cuda"}
    config = {
        "trainer": {"accelerator": "mps", "precision": "auto"}, "model": model,
        "tokenizer": {"embedding": {**embedding, "dtype": "auto"}},
        "agent": {"policy": {**POLICY, "device": "cuda:1", "dtype": "auto"}, "other": {**POLICY, "dtype": "auto"}},
        "mine": {"_target_": "mine.Model", "dtype": "auto"}, "task": {"train": {"trainer": {"precision": "auto"}}},
    }  # fmt: skip
    found, line = settled(config)
    assert found["trainer"]["precision"] == "32-true"
    assert found["model"]["dtype"] == found["agent"]["other"]["dtype"] == "float32"
    assert found["agent"]["policy"]["dtype"] == found["tokenizer"]["embedding"]["dtype"] == "bfloat16"
    assert found["mine"]["dtype"] == found["task"]["train"]["trainer"]["precision"] == "auto"  # not ours, and not yet
    assert "as this Apple GPU is no faster in bfloat16; " in line
    assert "as this GPU multiplies bfloat16" in line
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert settled({"model": model, "trainer": None})[0]["model"]["dtype"] == "bfloat16"


def test_runs_that_are_compared_have_one_precision(native):
    native("cpu")
    before = settled(FIRST)[0]
    native()
    config, line = settled(FIRST, {}, None, {"trainer": {"precision": 7}}, before)
    assert config == before
    assert line.endswith("as in the runs before it, on another machine")


def test_bfloat16_that_is_emulated_is_told_with_what_to_type(native):
    native()
    config = {"trainer": {"accelerator": "cpu", "precision": "bf16-true"}, "agent": {**POLICY, "dtype": "bfloat16"}}
    slow = "trainer.precision=bf16-true, agent.dtype=bfloat16: this processor emulates bfloat16, up to ten times slower"
    assert emulated(config, resumed=False) == f"{slow} than float32; type trainer.precision=auto agent.dtype=auto"
    assert emulated(config, resumed=True) == f"{slow} than float32; as it began so, it goes on so"
    assert not emulated({"trainer": {"accelerator": "mps", "precision": "bf16-mixed"}}, resumed=False)  # saves memory
    native("cpu")
    assert not emulated(config, resumed=False)
    assert not emulated({"trainer": {"precision": "32-true"}}, resumed=False)


@pytest.mark.parametrize(
    ("machine", "library", "has", "answer"),
    [("x86_64", True, (), False), ("AMD64", True, ("_is_avx512_bf16_supported",), True),
     ("x86_64", True, ("_is_amx_tile_supported",), True), ("x86_64", True, ("onednn",), False),
     ("aarch64", True, ("onednn",), True), ("arm64", False, ("onednn",), False)],
)  # fmt: skip
def test_a_processor_is_asked_by_what_its_library_uses(monkeypatch, machine, library, has, answer):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch._C, "_has_mkldnn", library)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in has)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: "onednn" in has, raising=False)
    assert multiplies_bfloat16("cpu") is answer
    assert not multiplies_bfloat16("mps")


def test_a_gpu_that_emulates_is_no_gpu_that_multiplies(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not multiplies_bfloat16("cuda")


def test_a_run_says_and_records_its_precision_and_keeps_it_on_another_machine(run, toy_arguments, tmp_path, native):
    native("cpu")
    folder, cpu = tmp_path / "a", ["trainer.accelerator=cpu", "trainer.max_epochs=2"]
    assert run(*toy_arguments, *cpu, "trainer.precision=auto", "stage.fail_in_epoch=1", f"hydra.run.dir={folder}") == 1
    said = (folder / "run.log").read_text()
    assert "INFO run: trainer.precision=auto: bf16-mixed, as this processor multiplies bfloat16\n" in said
    native()
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("fail_in_epoch: 1", "fail_in_epoch: null"))
    assert run(f"resume={folder}") == 0
    (line,) = (folder / "run.log").read_text().removeprefix(said).splitlines()
    assert line.endswith("than float32; as it began so, it goes on so")
    stored = yaml.safe_load(config.read_text())
    assert read(folder)["config"]["trainer"]["precision"] == stored["trainer"]["precision"] == "bf16-mixed"


def test_a_sweep_typed_again_on_another_machine_goes_on(run, toy_arguments, tmp_path, native):
    sweep = ["-m", "trainer.max_epochs=1", "trainer.precision=auto", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    for kinds in (), ("cpu", "cuda", "mps"):
        native(*kinds)
        assert run(*toy_arguments, *sweep) == 0
    (folder,) = (path.parent for path in tmp_path.glob("sweep/*/result.json"))
    assert read(folder)["config"]["trainer"]["precision"] == "32-true"


def test_a_wrong_value_is_told_with_auto_among_the_right_ones(run, toy_arguments, tmp_path):
    assert run(*toy_arguments, "trainer.precision=fast", f"hydra.run.dir={tmp_path / 'a'}") == 2
    assert (
        "trainer.precision='fast': needed: auto | 32-true | bf16-mixed | bf16-true"
        in read(tmp_path / "a")["error"]["message"]
    )


def test_runs_of_a_chain_are_told_of_those_before_them(monkeypatch, tmp_path):
    beside = []

    def run_job(config, folder, *_, **settings):
        beside.append([one["n"] for one in settings["beside"]])
        return SimpleNamespace(content={"config": config})

    monkeypatch.setattr(chain, "run_job", run_job)
    monkeypatch.setattr(chain, "_composed", lambda child, _: {"n": child.settings["n"]})
    monkeypatch.setattr(chain, "_faulty", lambda _: None)
    record = SimpleNamespace(lap=lambda _: None)
    children = {name: chain.Child([], {"n": name}) for name in "abc"}
    chain.run_children(children, {"seed": 1, "threads": 1}, tmp_path, record, None)
    assert beside == [[], ["a"], ["a", "b"]]
