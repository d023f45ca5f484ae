"""Small chat models with random weights: a Llama over bytes, with a chat template that knows tools or none."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PLAIN = (
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
# In the manner of the Hermes and Qwen models: tools in a block of their own, arguments of calls as objects.
WITH_TOOLS = (
    "{% if tools %}<|start|>tools\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|end|>\n{% endif %}"
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>"
    "{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}</tool_call>{% endfor %}"
    "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def tokenizer(template, texts=()):
    """Make a tokenizer of bytes, of the words of some texts, if any, and of three control tokens."""
    alphabet = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    of_bytes = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    of_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=bool(texts))
    of_bytes.decoder = decoders.ByteLevel()
    if texts:
        trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=sorted(alphabet), show_progress=False)
        of_bytes.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=of_bytes, bos_token="<|start|>", eos_token="<|end|>", pad_token="<|pad|>"
    )
    made.chat_template = template
    return made


def network(vocabulary, context=4096, width=16, spread=0.4):
    """Make a model; by default its weights are large enough for replies that vary and end."""
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        initializer_range=spread,
        bos_token_id=vocabulary.bos_token_id,
        eos_token_id=vocabulary.eos_token_id,
        pad_token_id=vocabulary.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return LlamaForCausalLM(config)


def write_folder(folder, template=WITH_TOOLS, context=4096, texts=(), **sizes):
    """Save a model as ``save_pretrained`` does, and return its folder."""
    made = tokenizer(template, texts)
    made.save_pretrained(folder)
    network(made, context, **sizes).save_pretrained(folder)
    return folder
