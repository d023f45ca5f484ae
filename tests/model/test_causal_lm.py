"""Language models loaded from folders that save_pretrained wrote: item tokens, LoRA, states, types and refusals."""

import copy
import sys

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from src.ilrec.model.decoding import decode_items
from src.ilrec.model.trie import TokenTrie
from src.launch.errors import InputError
from src.model import architecture
from src.model.architecture import Head
from src.model.causal_lm import _byte_tokenizer, from_pretrained, from_scratch

VOCABULARY = [f"<{letter}_{code}>" for letter in "ab" for code in range(4)]
LORA = {"rank": 2, "alpha": 4.0, "dropout": 0.0}
TEXT = _byte_tokenizer()
TEXT.add_tokens("<|endoftext|>")  # transformers adds it to every tokenizer of a Qwen2
KNOWN = len(TEXT)
SIZES = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip
GPT2_SIZES = {"n_embd": 16, "n_layer": 3, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
KINDS = {
    "llama tied": (LlamaConfig, LlamaForCausalLM, {**SIZES, "tie_word_embeddings": True}),
    "llama untied": (LlamaConfig, LlamaForCausalLM, {**SIZES, "tie_word_embeddings": False}),
    "qwen2 tied": (Qwen2Config, Qwen2ForCausalLM, {**SIZES, "tie_word_embeddings": True}),
    "qwen2 untied": (Qwen2Config, Qwen2ForCausalLM, {**SIZES, "tie_word_embeddings": False}),
    "gpt2 tied": (GPT2Config, GPT2LMHeadModel, GPT2_SIZES),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
full_and_lora = pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])


def write_model(folder, config_class, model_class, sizes, rows=KNOWN):
    """Write a model of random weights; its norms are random too, so that a norm applied twice shows."""
    torch.manual_seed(0)
    ends = {f"{name}_token_id": getattr(TEXT, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    network = model_class(config_class(**sizes, **ends, vocab_size=rows))
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.rand_like(weight) + 0.5 if weight.ndim == 1 else 8 * weight)
    network.save_pretrained(folder)
    TEXT.save_pretrained(folder)
    return network.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the folder and the network of a kind."""
    made = {}

    def saved(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp("model")
            made[kind] = folder, write_model(folder, *KINDS[kind])
        return made[kind]

    return saved


def load(folder, *, vocabulary=VOCABULARY, dtype="float32", checkpointing=False, lora=None, seed=1):
    return from_pretrained(
        vocabulary, name=str(folder), dtype=dtype, gradient_checkpointing=checkpointing, lora=lora, seed=seed
    )


def batch(model, length=12):
    """Two rows of text with all item tokens among it, and a mask that leaves the second row two tokens shorter."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 250, (2, length), generator=generator)
    ids[:, 1:9] = model.item_token_ids
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    return ids, mask


def loss_of(model, blocks=()):
    ids, mask = batch(model)
    rows = mask.bool()
    rows[:, -1] = False
    states = model.row_states(ids, mask, rows, blocks)
    logits = model.head(torch.cat([states.final[None], states.intermediate]))
    return sum(F.cross_entropy(layer, ids.roll(-1, 1)[rows]) for layer in logits)


def embedding_rows(model):
    return model.causal_network.get_input_embeddings()(torch.arange(KNOWN + len(VOCABULARY))).detach().clone()


def head_rows(model):
    return model.head(torch.eye(16)).detach().T.clone()


@every_kind
def test_examples_that_share_a_row_have_the_states_they_have_alone(saved, kind):
    model = load(saved(kind)[0]).eval()
    one, other = torch.randint(0, 250, (1, 5)), torch.randint(0, 250, (1, 3))
    alone = [
        model.row_states(ids, torch.ones_like(ids), torch.ones_like(ids).bool(), [1]).intermediate
        for ids in (one, other)
    ]
    packed = torch.cat([one, other, torch.zeros(1, 2, dtype=torch.int64)], dim=1)
    number = torch.tensor([[1] * 5 + [2] * 3 + [0] * 2])
    states = model.row_states(packed, number, number > 0, [1])
    torch.testing.assert_close(states.intermediate, torch.cat(alone, dim=1))


@every_kind
@full_and_lora
def test_known_tokens_keep_their_logits_and_item_tokens_get_logits_of_their_own(saved, kind, lora):
    folder, network = saved(kind)
    model = load(folder, lora=lora).eval()
    ids = torch.randint(0, 250, (2, 5))
    logits = model.causal_network(ids).logits
    assert logits.shape == (2, 5, KNOWN + 8)
    torch.testing.assert_close(logits[..., :KNOWN], network(ids).logits)
    assert model.item_token_ids.tolist() == list(range(KNOWN, KNOWN + 8))


def test_item_tokens_are_one_token_each_and_text_is_split_as_before(saved):
    tokenizer = load(saved("llama tied")[0]).tokenizer
    assert tokenizer("Next: <a_3><b_0>").input_ids == [*TEXT("Next: ").input_ids, KNOWN + 3, KNOWN + 4]
    assert tokenizer.decode([KNOWN + 3, KNOWN + 4]) == "<a_3><b_0>"


def test_a_tokenizer_without_padding_pads_with_its_end_of_text(tmp_path):
    write_model(tmp_path, *KINDS["llama tied"])
    bare = _byte_tokenizer()
    bare.pad_token = None
    bare.save_pretrained(tmp_path)
    model = load(tmp_path)
    assert model.tokenizer.pad_token_id == model.tokenizer.eos_token_id is not None


@every_kind
def test_new_rows_scatter_around_the_mean_of_the_known_ones(saved, kind):
    # A new row is mean + 0.1 * deviation * z with z of the standard normal: 400 x 16 draws of z have a mean of 0 and a
    # deviation of 1 within 4 standard errors, 4 / 80 = 0.05 and 4 / sqrt(2 * 6400) = 0.035.
    folder, _ = saved(kind)
    model = load(folder, vocabulary=[f"<a_{code}>" for code in range(400)])
    matrices = {model.causal_network.get_input_embeddings().weight, model.causal_network.get_output_embeddings().weight}
    assert len(matrices) == (1 if kind.endswith(" tied") else 2)
    for weight in matrices:
        known, new = weight[:KNOWN].detach(), weight[KNOWN:].detach()
        z = (new - known.mean(0)) / (0.1 * known.std(0))
        assert z.shape == (400, 16)
        assert abs(z.mean()) < 0.05
        assert abs(z.std() - 1) < 0.035


def test_spare_rows_of_a_padded_vocabulary_are_used_before_new_ones_are_made(tmp_path):
    # 8 item tokens: 5 go into spare rows, 3 need new ones; or all into 20 spare rows, 12 of which stay.
    for spare, rows in ((5, KNOWN + 8), (20, KNOWN + 20)):
        network = write_model(tmp_path, *KINDS["llama untied"], rows=KNOWN + spare)
        model = load(tmp_path)
        for own, old in (
            (model.network.get_input_embeddings(), network.get_input_embeddings()),
            (model.network.get_output_embeddings(), network.get_output_embeddings()),
        ):
            assert own.weight.shape == (rows, 16)
            assert torch.equal(own.weight[:KNOWN], old.weight[:KNOWN])
            assert not torch.equal(own.weight[KNOWN : KNOWN + 5], old.weight[KNOWN : KNOWN + 5])
        assert model.item_token_ids.tolist() == list(range(KNOWN, KNOWN + 8))


def test_spare_rows_of_a_padded_vocabulary_are_no_item_tokens(tmp_path):
    write_model(tmp_path, *KINDS["llama untied"], rows=KNOWN + 20)
    places = load(tmp_path).item_token_places
    # 8 item tokens in the first spare rows; the other 12 may be marked as negatives, and are looked up then.
    assert places.tolist() == [-1] * KNOWN + list(range(8)) + [-1] * 12


@every_kind
def test_without_new_tokens_lora_trains_the_adapters_alone_and_no_row_is_added(saved, kind):
    folder, network = saved(kind)
    model = load(folder, vocabulary=[], lora=LORA).eval()
    assert all(".lora_" in name for name, weight in model.named_parameters() if weight.requires_grad)
    ids = torch.randint(0, 250, (2, 5))
    torch.testing.assert_close(model.causal_network(ids).logits, network(ids).logits)
    model.name_item_tokens(["b", "a"])
    assert model.tokenizer.decode(model.item_token_ids) == "ba"
    assert model.item_token_places[model.item_token_ids].tolist() == [0, 1]
    assert not {"item_token_ids", "item_token_places"} & model.state_dict().keys()


@full_and_lora
def test_the_seed_alone_decides_the_new_weights(saved, lora):
    folder, _ = saved("llama untied")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = load(folder, lora=lora).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    again, other = load(folder, lora=lora).state_dict(), load(folder, lora=lora, seed=2).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@every_kind
def test_lora_trains_the_adapters_and_the_rows_of_item_tokens_and_nothing_else(saved, kind):
    model = load(saved(kind)[0], lora=LORA)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(".lora_" in name or "trainable_tokens" in name for name in trained)
    # Three blocks with two matrices an adapter: seven linear layers a block, or GPT-2's four.
    assert sum(".lora_" in name for name in trained) == 3 * 2 * (4 if kind == "gpt2 tied" else 7)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    embedding, head = embedding_rows(model), head_rows(model)
    for _ in range(2):  # the second factor of an adapter starts at 0, so the first one moves in the second step only
        optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=0.1, weight_decay=0.1)
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    tied_copies = {name for name in before if "trainable_tokens" in name}
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]) == (name not in trained | tied_copies), name
    for rows, old in ((embedding_rows(model), embedding), (head_rows(model), head)):
        assert torch.equal(rows[:KNOWN], old[:KNOWN])
        assert (rows[KNOWN:] != old[KNOWN:]).any(1).all()
    if kind.endswith(" tied"):
        torch.testing.assert_close(embedding_rows(model), head_rows(model))


def test_without_lora_every_weight_is_trained(saved):
    model = load(saved("llama untied")[0])
    loss_of(model).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())


@full_and_lora
def test_bfloat16_weights_give_float32_logits_close_to_those_of_float32_and_train(saved, lora):
    folder, _ = saved("llama tied")
    exact, rounded = load(folder, lora=lora), load(folder, lora=lora, dtype="bfloat16")
    frozen = [w for n, w in rounded.named_parameters() if lora is None or not w.requires_grad]
    assert {weight.dtype for weight in frozen} == {torch.bfloat16}
    states = rounded.row_states(*batch(rounded), batch(rounded)[1].bool(), [1, 2])
    assert rounded.head(states.final).dtype == torch.float32
    # bfloat16 has 8 bits of mantissa: 3 blocks of sums over 16 to 32 terms lose two or three digits.
    assert loss_of(rounded).item() == pytest.approx(loss_of(exact).item(), rel=0.05)
    start = loss_of(rounded).item()
    optimizer = torch.optim.AdamW([w for w in rounded.parameters() if w.requires_grad], lr=0.02)
    for _ in range(20):
        optimizer.zero_grad()
        loss_of(rounded, [1, 2]).backward()
        optimizer.step()
    assert loss_of(rounded).item() < 0.8 * start


@every_kind
@full_and_lora
@pytest.mark.parametrize("checkpointing", [False, True])
def test_long_rows_attend_example_by_example_with_the_same_states_and_gradients(
    saved, monkeypatch, kind, lora, checkpointing
):
    """Two rows, one of two examples and padding, the other a single example, with the mask and without it."""
    ids = torch.randint(0, 250, (2, 9), generator=torch.Generator().manual_seed(0))
    number = torch.tensor([[1] * 5 + [2] * 3 + [0], [1] * 9])
    rows = torch.rand(2, 9, generator=torch.Generator().manual_seed(1)).less(0.6) & (number > 0)
    states, gradients = [], []
    for long in (1, 10):
        monkeypatch.setattr(architecture, "LONG", long)
        model = load(saved(kind)[0], lora=lora, checkpointing=checkpointing)
        assert model.architecture.by_example
        read = model.row_states(ids, number, rows, [1])
        (read.final.square().sum() + read.intermediate.square().sum()).backward()
        states.append(torch.cat([read.final[None], read.intermediate]))
        gradients.append([weight.grad for weight in model.parameters() if weight.grad is not None])
    assert states[0].shape == (2, rows.sum(), 16)
    torch.testing.assert_close(states[0], states[1])
    for by_example, masked in zip(*gradients, strict=True):
        torch.testing.assert_close(by_example, masked, rtol=1e-3, atol=1e-3 * masked.abs().max().item())


@pytest.mark.parametrize("kind", ["llama untied", "gpt2 tied"])
@full_and_lora
def test_gradient_checkpointing_computes_every_block_twice_and_the_same_gradients(saved, kind, lora):
    folder, _ = saved(kind)
    gradients, calls = [], []
    for checkpointing in (False, True):
        model = load(folder, lora=lora, checkpointing=checkpointing)
        count = []
        blocks = model.decoder.h if kind == "gpt2 tied" else model.decoder.layers
        norm = blocks[1].ln_1 if kind == "gpt2 tied" else blocks[1].input_layernorm
        norm.register_forward_hook(lambda *_, count=count: count.append(1))
        loss_of(model, [1, 2]).backward()
        calls.append(len(count))
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
    assert calls == [1, 2]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@every_kind
@full_and_lora
def test_the_states_of_a_block_are_those_of_the_model_cut_off_behind_it(saved, kind, lora):
    """The reference runs a copy of the model with fewer blocks, whose own code applies the final norm once."""
    model = load(saved(kind)[0], lora=lora).eval()
    ids, mask = batch(model)
    rows = mask.bool()
    states = model.row_states(ids, mask, rows, [1, 2])

    def cut_off(blocks):
        short = copy.deepcopy(model.causal_network)
        layers = "h" if kind == "gpt2 tied" else "layers"
        setattr(short.get_decoder(), layers, getattr(short.get_decoder(), layers)[:blocks])
        return short(ids, attention_mask=mask).logits[rows]

    torch.testing.assert_close(model.head(states.final), cut_off(3))
    for index, block in enumerate((1, 2)):
        torch.testing.assert_close(model.head(states.intermediate[index]), cut_off(block))
    # The norms are random, so a second norm would show.
    twice = model.architecture.final(states.final)
    assert not torch.allclose(twice, states.final, rtol=0.01)


@every_kind
@full_and_lora
def test_decoding_scores_every_item_as_one_plain_pass_over_its_tokens(saved, kind, lora):
    model = load(saved(kind)[0], lora=lora).eval()
    sequences = torch.tensor([[0, 4], [0, 5], [1, 4], [2, 7], [3, 6]])
    trie = TokenTrie.build(sequences, vocabulary_size=8)
    ids, mask = torch.randint(0, 250, (2, 6)), torch.ones(2, 6, dtype=torch.int64)
    mask[1, :3] = 0
    found = decode_items(model, trie, ids, mask, num_beams=5)
    for row in range(2):
        prompt = ids[row][mask[row] == 1]
        scores = dict(
            zip(trie.items[trie.first_item[found.leaf[row]]].tolist(), found.score[row].tolist(), strict=True)
        )
        for item, tokens in enumerate(sequences):
            whole = torch.cat([prompt, model.item_token_ids[tokens]])
            log_p = model.causal_network(whole[None]).logits[0].log_softmax(-1)
            expected = sum(log_p[place, whole[place + 1]] for place in (len(prompt) - 1, len(prompt)))
            assert scores[item] == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("change", [{"num_heads": 4}, {"num_layers": 3}, {"intermediate_size": 48}])
def test_checkpoints_tell_models_of_other_sizes_apart_even_where_all_weights_fit(change):
    # Four heads of width 4 have the same weights as two of width 8.
    assert scratch().spec == scratch(seed=2).spec != scratch(**change).spec


def test_checkpoints_tell_pretrained_models_apart(saved):
    llama, qwen2 = (load(saved(f"{kind} tied")[0]).spec for kind in ("llama", "qwen2"))
    lora = load(saved("llama tied")[0], lora=LORA).spec
    assert llama == {
        "kind": "LlamaForCausalLM", "hidden_size": 16, "num_layers": 3, "lora": {}, "item_tokens": 8,
    }  # fmt: skip
    assert llama != qwen2
    assert lora == {**llama, "lora": LORA}


@pytest.mark.parametrize("name", ["nobody/nothing", "./nowhere/at/all"])
def test_a_name_that_is_no_folder_and_cannot_be_fetched_says_what_to_type(name):
    with pytest.raises(InputError) as caught:
        load(name)
    message = str(caught.value)
    assert message.startswith(
        f"model.name={name!r} is no local folder, and no causal language model of that name could"
    )
    assert message.endswith(
        "Type a hub name or a folder with config.json, weights and tokenizer:  model.name=path/to/folder"
    )


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(InputError, match="is a folder, but not one that save_pretrained wrote"):
        load(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_torn_file_of_the_model_is_told_as_such(tmp_path, file):
    write_model(tmp_path, *KINDS["llama tied"])
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"is a folder, but not one that save_pretrained wrote(.|\n)*Type a hub name"):
        load(tmp_path)


def test_a_model_saved_with_the_item_tokens_is_refused(tmp_path, saved):
    model = load(saved("llama tied")[0])
    model.network.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"already has 8 of the 8 item tokens \(first: <a_0>, <a_1>, <a_2>\)"
    ) as caught:
        load(tmp_path)
    assert str(caught.value).endswith("Type:  model.name=<the model that it was made from>")


def test_lora_without_peft_says_how_to_install_it_or_do_without(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # importing it fails as if it were not installed
    with pytest.raises(InputError) as caught:
        load(saved("llama tied")[0], lora=LORA)
    assert str(caught.value) == (
        "model.lora needs the package peft.\nType:  pip install -e '.[lora]'\nor train all weights:  model.lora=null"
    )
    load(saved("llama tied")[0])


def scratch(**changes):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_layers": 2, "num_heads": 2, "dropout": 0.5}
    return from_scratch(VOCABULARY, **{**sizes, "max_length": 64, "seed": 1, **changes})


def test_a_model_from_scratch_drops_out_in_training_only():
    model = scratch()
    with torch.no_grad():
        assert loss_of(model) != loss_of(model)
        model.eval()
        assert loss_of(model) == loss_of(model)


def test_weights_from_scratch_follow_from_the_seed_alone():
    state = torch.get_rng_state()
    one, again, other = (scratch(seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("hidden_size", "needed"), [(18, 24), (12, 16)])
def test_a_width_that_the_heads_do_not_divide_is_refused_with_one_that_they_do(hidden_size, needed):
    # 4 heads need a multiple of 8, as rotary positions turn pairs of numbers: 12 / 4 = 3 is odd.
    with pytest.raises(InputError, match=rf"model.hidden_size={hidden_size} .*\nType:  model.hidden_size={needed}$"):
        scratch(hidden_size=hidden_size, num_heads=4)


@every_kind
@full_and_lora
def test_the_head_read_once_gives_the_same_logits_and_gradients(saved, kind, lora):
    model = load(saved(kind)[0], lora=lora)
    states = torch.randn(5, 16)

    def gradients(logits):
        model.zero_grad()
        logits.square().sum().backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    plain, read = model.head(states), model.read_head()
    torch.testing.assert_close(read(states), plain)
    torch.testing.assert_close(read.of(model.item_token_ids)(states), plain[:, model.item_token_ids])
    expected = gradients(plain)
    assert expected
    torch.testing.assert_close(gradients(read(states)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_of_some_tokens_adds_to_the_gradient_of_the_whole(dtype):
    weight, tokens, states = torch.randn(9, 4, dtype=dtype), torch.tensor([5, 7]), torch.randn(3, 4, dtype=dtype)
    gradients = []
    for choose in (Head.of, lambda head, chosen: Head(head.weight[chosen], None)):
        leaf = weight.clone().requires_grad_()
        head = Head(leaf, None)
        (head(states).logsumexp(1).sum() + choose(head, tokens)(states).square().sum()).backward()
        assert not leaf.grad.is_sparse
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_blocks_are_compiled_after_the_probe_and_give_the_same_states(saved, monkeypatch):
    folder, _ = saved("llama tied")
    settings = {"name": str(folder), "dtype": "float32", "gradient_checkpointing": False, "lora": None, "seed": 1}
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **how: compiled.append((type(module).__name__, how)))
    model = from_pretrained([], **settings, compile=True)
    assert not compiled
    model.prepare_for(20, "")
    assert compiled == [("LlamaDecoderLayer", {"dynamic": True})] * 3
    assert not model.architecture.by_example
    monkeypatch.setattr("src.model.architecture.shutil.which", lambda name: None)
    with pytest.raises(InputError, match=r"model.compile=true: torch.compile needs a C\+\+ compiler.*\nInstall"):
        from_pretrained([], **settings, compile=True)


def test_another_way_to_attend_is_read_as_exactly_and_one_that_is_absent_is_refused(saved):
    folder, _ = saved("llama tied")
    settings = {"name": str(folder), "dtype": "float32", "gradient_checkpointing": False, "lora": None, "seed": 1}
    eager, ours = (
        from_pretrained(VOCABULARY, **settings, attn_implementation="eager"),
        from_pretrained(VOCABULARY, **settings),
    )
    assert eager.causal_network.config._attn_implementation == "eager"
    one, other = (model.row_states(*batch(model), batch(model)[1].bool(), []).final for model in (eager, ours))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"than flash_attention_2:  model.attn_implementation=null"):
        from_pretrained(VOCABULARY, **settings, attn_implementation="flash_attention_2")
