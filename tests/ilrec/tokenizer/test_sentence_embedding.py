"""Embeddings by small transformers saved on the spot: pooling, batches, cache, folders of sentence-transformers."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5Model,
)

from src.ilrec.tokenizer.sentence_embedding import SentenceEmbedding
from src.launch.errors import InputError
from src.model.smollm2 import local_folder

WORDS = ["</s>", "[UNK]", "red", "blue", "guitar", "strings", "piano", "stool", "wooden", "passage:"]
TITLES = ["red guitar strings", "blue guitar", "stool", "wooden piano stool red blue", "piano"]
WIDTH = 8
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ILREC_GISA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shop(make_interactions):
    return make_interactions([[0, 1, 2]], items=5, titles=TITLES)


def save(folder, kind="llama", seed=0):
    """Write a model of random weights and a tokenizer of whole words without a padding token."""
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="[UNK]").save_pretrained(folder)
    sizes = {"vocab_size": len(WORDS), "hidden_size": WIDTH, "intermediate_size": 16, "max_position_embeddings": 6}
    torch.manual_seed(seed)
    if kind == "llama":
        network = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=2, num_attention_heads=2))
    elif kind == "bert":
        network = BertModel(BertConfig(**sizes, num_hidden_layers=2, num_attention_heads=2))
    else:
        network = T5Model(T5Config(vocab_size=len(WORDS), d_model=WIDTH, d_ff=16, d_kv=4, num_layers=1, num_heads=2))
    network.save_pretrained(folder)
    return str(folder)


def record(folder, pooling, *more, subfolder=""):
    """Write what sentence-transformers writes beside a model."""
    steps = {"Transformer": subfolder, "Pooling": "1_Pooling", **{name: f"2_{name}" for name in more}}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
        for number, (name, path) in enumerate(steps.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    modes = ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    flags = {f"pooling_mode_{mode}": mode == pooling for mode in modes}
    config = {"word_embedding_dimension": WIDTH, **flags, "include_prompt": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))


def embedding(name, **settings):
    defaults = {
        "content": "title",
        "prefix": "",
        "max_tokens": 128,
        "batch_size": 2,
        "dtype": "float32",
        "accelerator": "cpu",
    }
    return SentenceEmbedding(name=str(name), **{**defaults, **settings})


def one_by_one(folder, texts, pool=lambda states: states.mean(0)):
    """Read one text at a time, without padding, and scale to length 1."""
    network = AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        tokens = torch.tensor([[WORDS.index(word) for word in text.split()]])
        with torch.no_grad():
            vector = pool(network(input_ids=tokens).last_hidden_state[0])
        rows.append(vector / vector.norm())
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_batches_of_any_size_equal_one_text_at_a_time(tmp_path, shop, kind, batch_size):
    folder = save(tmp_path / kind, kind)
    vectors = embedding(folder, batch_size=batch_size).embed(shop)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, one_by_one(folder, TITLES), atol=1e-5)


def test_a_chat_model_reads_the_text_and_not_its_template(tmp_path, shop):
    folder = save(tmp_path / "llama")
    template = "{% for message in messages %}red {{ message['content'] }} blue{% endfor %}"
    (tmp_path / "llama" / "chat_template.jinja").write_text(template)
    np.testing.assert_allclose(embedding(folder).embed(shop), one_by_one(folder, TITLES), atol=1e-5)


def test_of_a_model_with_a_decoder_the_encoder_reads(tmp_path, shop):
    vectors = embedding(save(tmp_path / "t5", "t5")).embed(shop)
    assert vectors.shape == (5, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_prefix_and_text_are_read_too(tmp_path, shop):
    folder = save(tmp_path / "llama")
    shop.texts[1] = "wooden"
    vectors = embedding(folder, prefix="passage: ", content="title_and_text").embed(shop)
    expected = one_by_one(folder, ["passage: red guitar strings", "passage: blue guitar wooden"])
    np.testing.assert_allclose(vectors[:2], expected, atol=1e-5)


def test_long_texts_are_cut_at_the_setting_and_at_the_model_s_own_limit(tmp_path, shop):
    folder = save(tmp_path / "bert", "bert")
    np.testing.assert_allclose(
        embedding(folder, max_tokens=2).embed(shop)[0], one_by_one(folder, ["red guitar"])[0], atol=1e-5
    )
    shop.titles[0] = "red guitar strings red guitar strings blue blue"  # the model has 6 positions
    expected = one_by_one(folder, ["red guitar strings red guitar strings"])[0]
    np.testing.assert_allclose(embedding(folder).embed(shop)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ("cls_token", lambda states: states[0]),
        ("lasttoken", lambda states: states[-1]),
        ("mean_tokens", lambda states: states.mean(0)),
        ("max_tokens", lambda states: states.max(0).values),
    ],
)
@pytest.mark.parametrize("subfolder", ["", "0_Transformer"])
def test_a_folder_of_sentence_transformers_is_pooled_as_it_says(tmp_path, shop, pooling, pool, subfolder):
    save(tmp_path / "encoder" / subfolder, "bert")
    record(tmp_path / "encoder", pooling, "Normalize", subfolder=subfolder)
    vectors = embedding(tmp_path / "encoder").embed(shop)
    np.testing.assert_allclose(vectors, one_by_one(tmp_path / "encoder" / subfolder, TITLES, pool), atol=1e-5)


def test_a_layer_behind_the_pooling_is_applied(tmp_path, shop):
    save(tmp_path / "encoder", "bert")
    from sentence_transformers.base.modules import Dense  # seconds of imports that other tests need not wait for

    record(tmp_path / "encoder", "mean_tokens", "Dense")
    dense = Dense(WIDTH, 3, activation_function=torch.nn.Tanh())
    (tmp_path / "encoder" / "2_Dense").mkdir()
    dense.save(str(tmp_path / "encoder" / "2_Dense"))
    vectors = embedding(tmp_path / "encoder").embed(shop)
    with torch.no_grad():
        expected = one_by_one(
            tmp_path / "encoder",
            TITLES,
            lambda states: dense({"sentence_embedding": states.mean(0)})["sentence_embedding"],
        )
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_without_the_package_only_the_cache_is_read(tmp_path, shop, monkeypatch):
    folder = save(tmp_path / "llama")
    first = embedding(folder).embed(shop)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    np.testing.assert_array_equal(embedding(folder).embed(shop), first)
    with pytest.raises(
        InputError, match=r"need the package sentence-transformers.\nType:  pip install -e '.\[embeddings\]'"
    ):
        embedding(folder, max_tokens=2).embed(shop)


def test_the_second_call_reads_the_cache_until_texts_model_or_settings_change(tmp_path, shop, cache, monkeypatch):
    folder = save(tmp_path / "llama")
    first = embedding(folder).embed(shop)
    calls = []
    read = SentenceEmbedding._read
    monkeypatch.setattr(SentenceEmbedding, "_read", lambda *given: (calls.append(given), read(*given))[1])
    np.testing.assert_array_equal(embedding(folder).embed(shop), first)
    assert not calls
    (path,) = cache.rglob("vectors.npy")
    path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(embedding(folder).embed(shop), first)
    assert len(calls) == 1  # damaged
    embedding(folder, max_tokens=2).embed(shop)
    assert len(calls) == 2
    shop.titles[0] = "blue guitar strings"
    assert (embedding(folder).embed(shop)[0] != first[0]).any()
    assert len(calls) == 3
    save(tmp_path / "llama", seed=1)
    assert (embedding(folder).embed(shop)[1] != first[1]).any()
    assert len(calls) == 4


def test_a_folder_without_a_model_and_a_name_without_a_folder_are_refused(tmp_path, shop):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is a folder, but not one that save_pretrained wrote"):
        embedding(tmp_path / "empty").embed(shop)
    with pytest.raises(InputError, match=r"name='nobody/nothing' is no local folder.*could be loaded:") as error:
        embedding("nobody/nothing").embed(shop)
    assert "tokenizer.embedding.name=<folder>" in str(error.value)


def test_items_without_words_are_refused(tmp_path, shop):
    shop.titles[3] = ""
    with pytest.raises(InputError, match=r"1 of 5 items of 'shop' have no word of title \(first: 3\)"):
        embedding(save(tmp_path / "llama")).embed(shop)


@pytest.mark.parametrize("setting", ["max_tokens", "batch_size"])
def test_numbers_below_one_are_refused(setting):
    with pytest.raises(InputError, match=rf"tokenizer\.embedding\.{setting}=0: give a whole number above 0"):
        embedding("x", **{setting: 0})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_an_absent_device_is_refused():
    with pytest.raises(InputError, match="no CUDA here.\nType:  tokenizer.embedding.accelerator=cpu"):
        embedding("x", accelerator="cuda")


@pytest.mark.slow
def test_smollm2_puts_a_film_and_its_sequel_side_by_side(shop, cache, monkeypatch):
    with monkeypatch.context() as outside:
        outside.delenv("ILREC_GISA_CACHE")
        model = Path(local_folder())
    (cache / "models").mkdir(parents=True)
    (cache / "models" / model.name).symlink_to(model)
    shop.titles[:] = ["Toy Story", "Toy Story 2", "The Godfather", "The Godfather: Part II", "Fargo"]
    vectors = embedding("smollm2").embed(shop)
    assert vectors.shape == (5, 576)
    vectors -= vectors.mean(axis=0)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    assert similarity.argmax(axis=1)[:4].tolist() == [1, 0, 3, 2]
