"""SASRec, GRU4Rec and Caser against slow readings of their definitions, and what they share."""

import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from src.ilrec.model.sequence_models import Caser, GRU4Rec, SASRec
from src.launch.errors import InputError

ITEMS = [f"<a_{n}>" for n in range(12)]


def sasrec(**changes):
    settings = {"hidden_size": 8, "inner_size": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.5, "max_history": 6}
    return SASRec(ITEMS, **{**settings, "seed": 0, **changes})


def gru4rec(**changes):
    settings = {"hidden_size": 8, "recurrent_size": 10, "num_layers": 1, "dropout": 0.3, "max_history": 6}
    return GRU4Rec(ITEMS, **{**settings, "seed": 0, **changes})


def caser(**changes):
    settings = {"hidden_size": 8, "window": 3, "horizontal_filters": 2, "vertical_filters": 2, "dropout": 0.4}
    return Caser(ITEMS, **{**settings, "max_history": 6, "seed": 0, **changes})


MODELS = pytest.mark.parametrize("make", [sasrec, gru4rec, caser], ids=lambda make: make.__name__)


def loud(model):
    """The model in eval mode with weights large enough for differences to show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    return model.eval()


@MODELS
def test_a_state_depends_on_the_items_so_far_and_not_on_later_ones(make):
    model = loud(make())
    items = torch.tensor([[1, 2, 3, 4, 5]])
    changed = torch.tensor([[1, 2, 3, 9, 5]])
    before, after = model(items), model(changed)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.isclose(before[:, 3], after[:, 3]).all()


@MODELS
def test_padding_on_either_side_gives_the_state_of_the_sequence_alone(make):
    model = loud(make())
    alone = [model(torch.tensor([items]))[0, -1] for items in ([7, 3], [1, 2, 3, 4])]
    right = torch.tensor([[7, 3, 0, 0], [1, 2, 3, 4]]), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    left = torch.tensor([[0, 0, 7, 3], [1, 2, 3, 4]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    for items, mask in (right, left):
        torch.testing.assert_close(model.last_states(items, mask), torch.stack(alone))


@MODELS
def test_scores_are_products_with_the_embeddings_the_items_are_read_by(make):
    model = make()
    states = torch.randn(3, 8)
    embeddings = model.item_embedding.weight.tolist()
    by_hand = [[sum(s * e for s, e in zip(state, row, strict=True)) for row in embeddings]
               for state in states.tolist()]  # fmt: skip
    torch.testing.assert_close(model.scores(states), torch.tensor(by_hand))


@MODELS
def test_the_seed_fixes_the_weights_and_the_spec_rebuilds_the_model(make):
    model = make()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), make().parameters(), strict=True))
    assert not torch.equal(model.item_embedding.weight, make(seed=1).item_embedding.weight)
    spec = dict(model.spec)
    assert spec.pop("kind") == type(model).__name__
    assert spec.pop("items") == 12
    type(model)(ITEMS, **spec, seed=0).load_state_dict(model.state_dict())


@MODELS
def test_dropout_works_in_training_only(make):
    model, items = make(), torch.tensor([[1, 2, 3]])
    assert not torch.equal(model(items), model(items))
    model.eval()
    assert torch.equal(model(items), model(items))


def test_sasrec_is_masked_attention_and_a_feed_forward_layer_each_followed_by_a_norm():
    model, items = loud(sasrec(num_layers=1)), torch.tensor([3, 1, 4])
    block = model.blocks[0]
    x = model.norm(torch.stack([model.item_embedding.weight[i] + model.position_embedding.weight[t]
                                for t, i in enumerate(items)]))  # fmt: skip
    query, key, value = (x @ block.query_key_value.weight.T + block.query_key_value.bias).chunk(3, dim=1)
    attended = torch.zeros(3, 8)
    for head in (slice(0, 4), slice(4, 8)):
        for t in range(3):
            share = torch.stack([query[t, head] @ key[s, head] / math.sqrt(4) for s in range(t + 1)]).softmax(0)
            attended[t, head] = sum(share[s] * value[s, head] for s in range(t + 1))
    x = block.attention_norm(x + block.output(attended))
    x = block.feed_forward_norm(x + block.feed_forward[2](F.gelu(block.feed_forward[0](x))))
    torch.testing.assert_close(model(items[None])[0], x)


def test_gru4rec_is_gates_over_time():
    model, items = loud(gru4rec()), torch.tensor([3, 1])
    hidden, states = torch.zeros(10), []
    for item in items:
        read = (model.recurrence.weight_ih_l0 @ model.item_embedding.weight[item]).chunk(3)
        kept = (model.recurrence.weight_hh_l0 @ hidden).chunk(3)
        reset, update = (read[0] + kept[0]).sigmoid(), (read[1] + kept[1]).sigmoid()
        hidden = (1 - update) * (read[2] + reset * kept[2]).tanh() + update * hidden
        states.append(model.output(hidden))
    torch.testing.assert_close(model(items[None])[0], torch.stack(states))


def test_caser_slides_a_window_with_zeros_before_the_first_item():
    model, items = loud(caser()), torch.tensor([3, 1, 4, 2])
    padded = torch.cat([torch.zeros(2, 8), model.item_embedding.weight[items]])
    states = []
    for t in range(4):
        window = padded[t : t + 3]
        features = []
        for height, convolution in enumerate(model.horizontal, start=1):
            for weight, bias in zip(convolution.weight, convolution.bias, strict=True):
                answers = [(weight.T * window[s : s + height]).sum() + bias for s in range(3 - height + 1)]
                features.append(max(max(answers), torch.tensor(0.0)))
        for weight, bias in zip(model.vertical.weight, model.vertical.bias, strict=True):
            features += list((weight[0, :, None] * window).sum(0) + bias)
        # The model lists the sums column by column; its linear layer must see them in that order.
        sums = torch.stack(features[6:]).view(2, 8).T.flatten()
        states.append(model.output(torch.cat([torch.stack(features[:6]), sums])))
    torch.testing.assert_close(model(items[None])[0], torch.stack(states))


def test_items_without_tokens_of_their_own_are_refused():
    with pytest.raises(InputError, match=r"GRU4Rec reads whole items, not titles.\nType:  tokenizer=item_ids"):
        GRU4Rec([], hidden_size=8, recurrent_size=10, num_layers=1, dropout=0.3, max_history=6, seed=0)
