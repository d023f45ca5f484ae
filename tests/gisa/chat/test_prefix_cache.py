import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, MistralConfig, Qwen2Config
from transformers.cache_utils import Cache

from src.gisa.chat import generation as chat
from src.gisa.chat.generation import ChatModel
from src.gisa.chat.prefix_cache import BLOCK, GrowingLayer, PrefixCache
from tests.gisa.chat_models import PLAIN, network, tokenizer

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
KINDS = {
    "llama": None,
    "qwen2": lambda size: Qwen2Config(vocab_size=size, **SIZES),
    "gpt2": lambda size: GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3),
    "sliding": lambda size: MistralConfig(vocab_size=size, sliding_window=24, **SIZES),
}


def chat_model(kind="llama"):
    vocabulary = tokenizer(PLAIN)
    if KINDS[kind] is None:
        return ChatModel(network(vocabulary), vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return ChatModel(AutoModelForCausalLM.from_config(KINDS[kind](len(vocabulary))), vocabulary)


@pytest.fixture(params=KINDS)
def model(request):
    return chat_model(request.param)


def count_read(model, monkeypatch):
    """Count the tokens that are read; the returned list grows by what each forward pass computes."""
    counts, plainly = [], model.network.forward

    def forward(*_, **settings):
        counts.append(settings["input_ids"].numel())
        return plainly(**settings)

    monkeypatch.setattr(model.network, "forward", forward)
    return counts


def spoken(model, turns, memory, temperature, lengths=(5, 60, 31, 5)):
    """Hold conversations of ragged lengths, each reply followed by a new question, and return all replies."""
    said = []
    talks = [list(range(40, 75)) + [50 + row] * length for row, length in enumerate(lengths)]
    for turn in range(turns):
        seeds = [10 * turn + row for row in range(len(talks))]
        said.append(model.reply(talks, seeds=seeds, max_tokens=25, temperature=temperature, memory=memory))
        talks = [
            talk + one.tokens + [60 + turn] * (3 + 20 * (row % 3))
            for row, (talk, one) in enumerate(zip(talks, said[-1], strict=True))
        ]
    return said


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("most_bytes", [float("inf"), 40_000, 10])
@pytest.mark.parametrize("at_once", [1, 3, 16])
def test_replies_are_the_same_with_and_without_memory(model, temperature, most_bytes, at_once, monkeypatch):
    monkeypatch.setattr(chat, "_READ_AT_ONCE", at_once)
    memory = PrefixCache(most_bytes)
    with_memory, without = (spoken(model, 4, one, temperature) for one in (memory, None))
    assert with_memory == without
    assert spoken(model, 4, memory, temperature) == without  # all over again, what is left of it remembered
    assert 0 <= memory.bytes <= most_bytes
    assert len({len(one.tokens) for turn in without for one in turn}) > 1 or temperature == 0  # rows left on the way


def test_a_turn_reads_only_what_is_new(monkeypatch):
    model, memory = chat_model(), PrefixCache()
    counts = count_read(model, monkeypatch)
    talk = [50 + place % 20 for place in range(400)]
    model.reply([talk], seeds=[1], max_tokens=1, temperature=0, memory=memory)
    model.reply([[*talk, *[60] * 20]], seeds=[1], max_tokens=1, temperature=0, memory=memory)
    assert counts == [400, 20]
    # Edited in the middle: read again from the block of the edit on.
    model.reply([[*talk[:200], 99, *talk[201:]]], seeds=[1], max_tokens=1, temperature=0, memory=memory)
    assert counts[2:] == [400 - 200 // BLOCK * BLOCK]


def test_of_what_is_known_as_a_whole_the_last_tokens_are_read_again(monkeypatch):
    model, memory = chat_model(), PrefixCache()
    counts = count_read(model, monkeypatch)
    talk = [50] * (4 * BLOCK)
    replies = [model.reply([talk], seeds=[1], max_tokens=9, temperature=0, memory=memory)[0] for _ in range(2)]
    assert replies[0] == replies[1]
    assert counts.count(4 * BLOCK) == counts.count(BLOCK) == 1


@pytest.mark.parametrize("memory", [None, PrefixCache()])
def test_what_several_conversations_begin_with_is_read_once(memory, monkeypatch):
    model = chat_model()
    counts = count_read(model, monkeypatch)
    first, second = [50] * (10 * BLOCK), [51] * (10 * BLOCK)
    talks = [[*begin, last] for begin in (first, second) for last in (60, 61, 62)]
    model.reply(talks, seeds=range(6), max_tokens=1, temperature=0, memory=memory)
    assert counts == [2 * 10 * BLOCK, 6]


def test_an_edited_conversation_gets_the_reply_that_it_would_get_from_scratch():
    model, memory = chat_model(), PrefixCache()
    talk = [50 + place % 20 for place in range(100)]
    edited = [*talk[:50], 99, *talk[51:]]
    settings = {"seeds": [1], "max_tokens": 20, "temperature": 0.0}
    model.reply([talk], memory=memory, **settings)
    assert model.reply([edited], memory=memory, **settings) == model.reply([edited], **settings)


def filled(*lengths):
    cache = Cache(layers=[GrowingLayer(), GrowingLayer()])
    for number in range(2):
        cache.update(*torch.randn(2, len(lengths), 1, max(lengths), 4), number)
    return cache


def test_what_was_used_least_recently_is_forgotten_first_and_ends_before_beginnings():
    tokens = [[row] * (3 * BLOCK) for row in range(3)]
    cache, columns = filled(*[3 * BLOCK] * 3), torch.arange(3 * BLOCK)
    block = 2 * 2 * BLOCK * 4 * 4  # keys and values of 2 layers, 4 float32 a token
    memory = PrefixCache(7 * block)
    memory.add(tokens[0], cache, 0, columns)
    memory.add(tokens[1], cache, 1, columns)
    memory.find(tokens[0])
    memory.add(tokens[2], cache, 2, columns)
    assert [len(memory.find(one)) for one in tokens] == [3, 1, 3]
    assert memory.bytes == 7 * block
    assert memory.find(tokens[2])[1].equal(
        torch.stack([one[2, :, BLOCK : 2 * BLOCK] for layer in cache.layers for one in (layer.keys, layer.values)])
    )


def test_layers_of_other_shapes_are_not_remembered():
    cache = filled(BLOCK)
    cache.layers[1].values = cache.layers[1].values[..., :2]
    memory = PrefixCache()
    memory.add([1] * BLOCK, cache, 0, torch.arange(BLOCK))
    assert memory.bytes == 0


def test_a_layer_grows_without_copying_all_for_every_token():
    layer = GrowingLayer()
    parts = torch.randn(50, 2, 1, 3, 1, 4)
    places = set()
    for keys, values in parts:
        seen = layer.update(keys, values)
        places.add(layer.keys.data_ptr())
    assert len(places) == 1
    for number, one in enumerate(seen):
        assert one.equal(torch.cat(list(parts[:, number]), 2))
