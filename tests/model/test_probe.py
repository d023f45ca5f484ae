"""Networks of many kinds: what a shortcut gives, and what is done without one, is what ``model(...)`` gives."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from src.launch.errors import InputError
from src.model import probe
from src.model.adapters import save_model
from src.model.causal_lm import _byte_tokenizer, intermediate_blocks
from src.model.probe import agree, examine
from tests.model import architectures
from tests.model.architectures import LORA, differences, load, tiny

# A kind for each way in which a network may be read wrongly. What is expected: examples share rows, beams share a
# cache, and the longest sequence of 600 for which that holds.
CASES = {
    "plain": ("llama", {}, True, True, 600),
    "bias in the head": ("phi", {}, True, True, 600),
    "parallel blocks with a bias in the head": ("gptj", {}, True, True, 600),
    "capped logits, scores and a window": ("gemma2", {"sliding_window": 100}, True, True, 100),
    "window in some layers": ("gemma3_text", {"sliding_window": 100}, True, True, 100),
    "window in all layers": ("mistral", {"sliding_window": 100}, True, True, 100),
    "window and sinks": ("gpt_oss", {"sliding_window": 100}, True, True, 100),
    "scaled logits": ("granite", {"logits_scaling": 8.0}, True, True, 600),
    "logits scaled by a small factor": ("cohere", {}, True, True, 600),
    "linear attention": ("minimax", {}, False, False, 0),
    "a recurrent state": ("rwkv", {}, False, False, 0),
    "blocks that drop arguments": ("nemotron", {}, True, True, 600),
    "no positions but distances": ("bloom", {}, False, False, 0),
    "mixture of experts": ("mixtral", {}, True, True, 600),
}


@pytest.fixture(params=[None, LORA], ids=["full", "lora"])
def lora(request):
    return request.param


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def model(case, lora, tmp_path):
    kind, sizes, *_ = CASES[case]
    return load(tiny(kind, **sizes), tmp_path, lora)


def test_states_layers_beams_and_export_are_those_of_the_model_itself(case, lora, model, tmp_path):
    _, _, rows, beams, reach = CASES[case]
    found = model.architecture
    assert (found.masked or found.by_example, found.shared, found.reach) == (rows, beams, reach)
    assert max(differences(model, lengths=((9, 7, 5), (150, 70)), prompts=(12, 120)).values()) < 1e-5
    tokens = torch.randint(0, 250, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.causal_network(tokens).logits
        save_model(model, tmp_path / "export")
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
        assert (exported(tokens).logits - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("case", ["plain", "window in some layers", "window and sinks", "linear attention"])
def test_few_blocks_of_a_large_network_tell_the_same(case, monkeypatch):
    kind, sizes, *expected = CASES[case]
    monkeypatch.setattr(probe, "_LARGE", 0)
    network = tiny(kind, num_hidden_layers=12, **sizes)
    blocks = list(network.model.layers)
    few = count_blocks(network)
    found = examine(network)
    probe.extend(found, 600)
    assert [found.masked or found.by_example, found.shared, found.reach] == expected
    assert list(network.model.layers) == blocks
    assert min(few) == {"plain": 2, "window in some layers": 6}.get(case, 2)  # Gemma 3 has five of a kind, then another


def count_blocks(network):
    """Return a list that grows by the number of blocks of each pass."""
    counts = []
    network.model.register_forward_pre_hook(lambda model, _: counts.append(len(model.layers)))
    return counts


def test_a_leak_is_found_that_a_copy_of_what_leaks_would_hide():
    """DeepSeek V4 compresses several tokens into one that all later ones see, those of other examples, too."""
    found = examine(tiny("deepseek_v4"))
    assert not any((found.masked, found.by_example, found.shared))


@pytest.mark.slow
def test_no_architecture_of_transformers_is_read_wrongly(tmp_path, capsys):
    """Print a table: `nox -s slow -- -k no_architecture`."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    wrong, made = [], 0
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        network = tiny(kind)
        if network is None:
            continue
        try:
            network.save_pretrained(tmp_path)
        except Exception:  # sizes that transformers itself cannot save
            continue
        made += 1
        for lora in (None, LORA):
            verdict, detail = _verdict(network, tmp_path / kind, lora)
            with capsys.disabled():
                print(f"| {kind} | {'adapters' if lora else 'all weights'} | {verdict} | {detail} |", flush=True)
            wrong += [kind] * (verdict == "WRONG")
    assert made >= 45
    assert not wrong


def _verdict(network, folder, lora):
    try:
        model = load(network, folder, lora)
        worst = differences(model, prompts=(12, 120))
    except InputError as error:
        return "refused", str(error).partition("\n")[0][:160]
    found = model.architecture
    exact = found.shared and found.reach >= 600
    detail = ", ".join(f"{name} {value:.0e}" for name, value in worst.items())
    return "WRONG" if max(worst.values()) > 1e-4 else "exact" if exact else "slower, exact", detail


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("bert", "is a BertLMHeadModel, which is not causal: what a token is read as depends on later tokens"),
        ("xlm-roberta", "is a XLMRobertaForCausalLM, which is not causal"),
    ],
)
def test_a_network_that_sees_what_comes_later_is_refused(kind, reason, tmp_path):
    with pytest.raises(InputError, match=reason) as caught:
        load(tiny(kind), tmp_path)
    assert str(caught.value).endswith("Type:  model.name=<another model>")


def test_a_network_that_fails_on_padding_is_refused(monkeypatch):
    """As GLM-4-MoE-Lite does with fewer heads of keys than of queries, which no config that is handed out has."""
    network = tiny("llama")
    plain = network.model.forward

    def forward(*arguments, attention_mask=None, **options):
        if attention_mask is not None and not attention_mask.all():
            raise RuntimeError("The size of tensor a (4) must match\nthat of tensor b (8)")
        return plain(*arguments, attention_mask=attention_mask, **options)

    monkeypatch.setattr(network.model, "forward", forward)
    monkeypatch.setattr("src.model.probe.use_packed_attention", lambda network: False)
    reason = (
        r"which fails where padding stands behind a sequence \(RuntimeError: The size of tensor a \(4\) must match\)"
    )
    with pytest.raises(InputError, match=reason):
        examine(network)


def test_an_encoder_and_decoder_is_refused_in_a_few_lines(tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    network = T5ForConditionalGeneration(T5Config(d_model=16, d_ff=16, d_kv=8, num_heads=2, num_layers=1))
    with pytest.raises(InputError, match=r"holds a T5Config, which is no causal language model") as caught:
        load(network, tmp_path)
    assert len(str(caught.value)) < 500


def test_a_network_with_a_context_shorter_than_the_prompts_says_what_to_type(tmp_path):
    model = load(tiny("gpt2", n_positions=64, max_position_embeddings=64), tmp_path, longest=60)
    with pytest.raises(InputError) as caught:
        model.prepare_for(65, "prompt.max_length={}")
    assert str(caught.value) == (
        "Sequences have up to 65 tokens, but the model, a GPT2LMHeadModel, reads 64.\nType:  prompt.max_length=64"
    )


def test_a_tokenizer_without_an_end_of_text_says_so(tmp_path, monkeypatch):
    bare = _byte_tokenizer()
    bare.eos_token = None
    monkeypatch.setattr(architectures, "TEXT", bare)
    with pytest.raises(InputError, match="its tokenizer has no end-of-text token"):
        load(tiny("llama"), tmp_path)


def test_layers_that_cannot_be_read_are_refused_before_training(tmp_path):
    model = load(tiny("rwkv"), tmp_path)
    with pytest.raises(InputError, match="is a RwkvForCausalLM, whose intermediate layers cannot be read: its hidden"):
        intermediate_blocks(model, 2)


def test_adapters_that_do_not_fit_are_refused_with_advice(tmp_path):
    with pytest.raises(InputError, match=r"is a MambaForCausalLM, which adapters do not fit(.|\n)*model\.lora=null"):
        load(tiny("mamba"), tmp_path, LORA)


def test_a_network_whose_tokens_hardly_see_each_other_takes_no_shortcut():
    """All weights but the embeddings are next to nothing: whatever leaked would not show."""
    network = tiny("llama")
    with torch.no_grad():
        for block in network.model.layers:
            for weight in block.parameters():
                weight.mul_(1e-4)
    found = examine(network)
    assert not any((found.masked, found.by_example, found.shared))
    assert "nothing can be compared" in found.notes["rows"]


def test_what_is_asked_for_changes_neither_mode_nor_random_numbers():
    network = tiny("llama").train()
    network.model.layers[0].eval()
    state = torch.get_rng_state()
    examine(network)
    assert network.training
    assert not network.model.layers[0].training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "adapters"])
def test_rounded_products_of_matrices_hide_no_shortcut(lora, tmp_path):
    torch.set_float32_matmul_precision("medium")
    try:
        found = load(tiny("llama"), tmp_path, lora).architecture
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert not found.notes
    assert found.by_example


def test_agreement_is_measured_by_the_norm_of_each_state():
    states = torch.eye(3)
    assert agree(states, states + 1e-6)
    assert not agree(states, states + 1e-3)
    assert not agree(states[:2], states)
    rounded = states.bfloat16()
    assert agree(rounded * 1.01, rounded)
    assert not agree(rounded * 1.1, rounded)


def test_the_settings_of_the_models_folder_for_generation_are_left_alone_and_not_used(tmp_path):
    network = tiny("llama")
    network.generation_config.update(repetition_penalty=50.0, do_sample=True, temperature=0.1, num_beams=3)
    model = load(network, tmp_path)
    assert model.causal_network.generation_config.repetition_penalty == 50.0
