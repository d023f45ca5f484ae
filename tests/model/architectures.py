"""Tiny networks of any architecture that transformers has, with a byte tokenizer, and what plain passes say of them."""

import copy

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from src.ilrec.model.decoding import decode_items
from src.ilrec.model.responses import response_log_probabilities
from src.ilrec.model.trie import TokenTrie
from src.model.causal_lm import _byte_tokenizer, from_pretrained

VOCABULARY = [f"<{letter}_{code}>" for letter in "ab" for code in range(4)]
ITEMS = torch.tensor([[0, 4], [0, 5], [1, 4], [2, 7], [3, 6]])
LORA = {"rank": 2, "alpha": 4.0, "dropout": 0.0}
TEXT = _byte_tokenizer()
_SIZES = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "vocab_size": 300, "max_position_embeddings": 1024, "head_dim": 8, "rotary_dim": 4,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "pad_token_id": 258, "bos_token_id": 256, "eos_token_id": 257,
}  # fmt: skip
_OTHER_NAMES = {"n_embd": 32, "n_layer": 4, "n_head": 4, "d_model": 32, "num_layers": 4}
_MIXTURE = ("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size")
# Some configs refuse names that they do not know, or sizes that others need.
_LEFT_OUT = (
    (), ("head_dim",), (*_OTHER_NAMES,), ("head_dim", *_OTHER_NAMES), _MIXTURE,
    ("num_key_value_heads",), ("head_dim", "num_key_value_heads"),
)  # fmt: skip


def tiny(kind, **sizes):
    """Make a network of random weights, large enough that what a token sees shows; None where the sizes do not fit."""
    for left_out in _LEFT_OUT:
        chosen = {name: size for name, size in (_SIZES | _OTHER_NAMES).items() if name not in left_out}
        try:
            config = AutoConfig.for_model(kind, **{**chosen, **sizes})
            with torch.device("meta"):
                if sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters()) > 2e7:
                    return None
            torch.manual_seed(0)
            network = AutoModelForCausalLM.from_config(config).eval()
            network(input_ids=torch.arange(4)[None], use_cache=False)
        except Exception:  # configs refuse sizes in many ways
            continue
        with torch.no_grad():
            for weight in network.parameters():
                if weight.ndim == 2:
                    weight.mul_(4)
                elif weight.ndim == 1 and weight.is_floating_point():
                    weight.add_(0.1 * torch.randn_like(weight))
        return network
    return None


def load(network, folder, lora=None, longest=600, vocabulary=VOCABULARY):
    """Save and load it; with adapters that have learnt something."""
    network.save_pretrained(folder)
    TEXT.save_pretrained(folder)
    model = from_pretrained(
        vocabulary, name=str(folder), dtype="float32", gradient_checkpointing=False, lora=lora, seed=1
    )
    model.prepare_for(longest, "")
    if lora:  # some matrices, as of Jamba, are read past their adapters, which then learn nothing
        sample = torch.arange(40)[None]
        for _ in range(2):  # the second factor of an adapter starts at 0; the first one learns once it has moved
            model.zero_grad()
            model.network(input_ids=sample, use_cache=False).logits.square().mean().backward()
            with torch.no_grad():
                for weight in model.parameters():
                    if weight.grad is not None:
                        weight.add_((weight.grad != 0) * 0.05 * torch.randn_like(weight))
    return model.eval()


@torch.no_grad()
def differences(model, lengths=((9, 7, 5), (150, 70), (300, 210)), prompts=(12, 230)):
    """Return the largest difference of logits from those of ``model(...)``, by what they are asked for."""
    network, draw = model.causal_network, torch.Generator().manual_seed(3)
    found = {}

    def tokens(count):
        return torch.randint(0, 250, (count,), generator=draw)

    def logits(one, of=network):
        return of(input_ids=one[None], use_cache=False).logits[0].float()

    def compare(name, got, expected):
        worst = ((got - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
        found[name] = max(found.get(name, 0.0), worst)

    for row in lengths:
        examples = [tokens(length) for length in row]
        numbers = [torch.full_like(example, number) for number, example in enumerate(examples, 1)]
        ids, number = (torch.nn.functional.pad(torch.cat(parts)[None], (0, 3)) for parts in (examples, numbers))
        blocks = [1, 2] if model.architecture.norm is not None else []
        states, expected = model.row_states(ids, number, number > 0, blocks), torch.cat(list(map(logits, examples)))
        compare("rows", model.head(states.final), expected)
        compare("head", model.read_head()(states.final), expected)
        subset = model.read_head().of(model.item_token_ids)
        compare("head", subset(states.final), expected[:, model.item_token_ids])
        for block, intermediate in zip(blocks, states.intermediate, strict=True):
            short = cut_off(network, block)
            compare("layers", model.head(intermediate), torch.cat([logits(one, short) for one in examples]))
    trie = TokenTrie.build(ITEMS, vocabulary_size=8)
    for length in prompts:
        ids, mask = torch.stack([tokens(length), tokens(length)]), torch.ones(2, length, dtype=torch.int64)
        mask[1, : length // 2] = 0
        decoded = decode_items(model, trie, ids, mask, num_beams=5)
        responses = model.item_token_ids[ITEMS].expand(2, -1, -1)
        anchor = torch.tensor([length - 1, 2 * length - 1])
        scored = response_log_probabilities(model, ids, mask, anchor, responses).sum(2)
        for row in range(2):
            prompt = ids[row][mask[row] == 1]
            items = trie.items[trie.first_item[decoded.leaf[row]]]
            expected = torch.zeros(len(ITEMS))
            for item, response in enumerate(model.item_token_ids[ITEMS]):
                log_p = logits(torch.cat([prompt, response])).log_softmax(-1)[len(prompt) - 1 : -1]
                expected[item] = log_p.gather(1, response[:, None]).sum()
            compare("decoding", decoded.score[row][items.argsort()], expected)
            compare("responses", scored[row], expected)
    return found


def cut_off(network, blocks):
    """Return a copy that ends behind so many blocks, whose own code makes logits of them."""
    short, depth = copy.deepcopy(network), network.config.get_text_config().num_hidden_layers
    for holder in short.modules():
        for name, part in holder.named_children():
            if isinstance(part, torch.nn.ModuleList) and len(part) == depth:
                setattr(holder, name, part[:blocks])
    short.config.get_text_config().num_hidden_layers = blocks
    return short
