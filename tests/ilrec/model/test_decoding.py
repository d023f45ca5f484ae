"""Constrained beam search against scoring every item one by one, and against transformers' own generate."""

import math

import numpy as np
import pytest
import torch

from src.ilrec.model.decoding import Guidance, HistoryPenalty, decode_items, greedy_leaves
from src.ilrec.model.trie import TokenTrie
from src.ilrec.tokenizer.title import UnwrittenTitles
from src.model.architecture import SharedCache
from src.model.causal_lm import from_scratch

VOCABULARY = [f"<{letter}_{code}>" for letter in "abc" for code in range(4)]


def sharp_model(vocabulary):
    built = from_scratch(
        vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_layers=2,
        num_heads=2,
        dropout=0.0,
        max_length=64,
        seed=3,
    )
    with torch.no_grad():  # sharpen the random model, so that items differ clearly
        for parameter in built.parameters():
            parameter.mul_(3)
    return built.eval()


@pytest.fixture(scope="module")
def model():
    return sharp_model(VOCABULARY)


def catalogue(count, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.stack(np.unravel_index(rng.permutation(64)[:count], (4, 4, 4)), axis=1)
    return torch.from_numpy(codes + np.array([0, 4, 8]))


def prompts(model, lengths, seed=0):
    """Prompts of different lengths, padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.full((len(lengths), width), model.tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, width - length :] = torch.randint(0, 250, (length,), generator=generator)
        mask[row, width - length :] = 1
    return ids, mask


@torch.no_grad()
def score_of(model, prompt, tokens):
    """Log-probability of an item's tokens after an unpadded prompt: one plain forward pass, no cache."""
    ids = torch.cat([prompt, model.item_token_ids[tokens]])[None]
    log_p = model.causal_network(ids).logits[0].float().log_softmax(-1)
    return sum(float(log_p[len(prompt) - 1 + i, ids[0, len(prompt) + i]]) for i in range(len(tokens)))


def exhaustive(model, prompt, sequences, excluded=()):
    scores = {item: score_of(model, prompt, row) for item, row in enumerate(sequences) if item not in excluded}
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


@pytest.mark.parametrize("excluded", [False, True])
def test_with_as_many_beams_as_items_the_order_is_that_of_scoring_every_item(model, excluded):
    sequences = catalogue(30)
    trie = TokenTrie.build(sequences, vocabulary_size=12)
    ids, mask = prompts(model, [7, 3, 5])
    history = torch.tensor([[0, 5, 5, 9], [1, -1, -1, -1], [-1, -1, -1, -1]]) if excluded else None
    found = decode_items(model, trie, ids, mask, num_beams=30, excluded=history)
    for row in range(3):
        gone = set(history[row].tolist()) - {-1} if excluded else set()
        expected = exhaustive(model, ids[row][mask[row] == 1], sequences, gone)
        finite = found.score[row].isfinite()
        assert trie.items[trie.first_item[found.leaf[row][finite]]].tolist() == [item for item, _ in expected]
        np.testing.assert_allclose(found.score[row][finite], [score for _, score in expected], rtol=1e-4, atol=1e-4)


def guided(scores, probabilities, weight):
    """Every item's score with guidance, from the definition: the probabilities are those of its whole group."""
    best = {item: score + weight * np.log(max(probabilities[item], 1e-12)) for item, score in scores}
    return sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))


def opinions(count, users, seed=0):
    """What a collaborative model thinks of each item: P(item | history), far from even."""
    return (4 * torch.randn(users, count, generator=torch.Generator().manual_seed(seed))).softmax(1)


@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize("weight", [0.3, 2.0])
def test_guided_with_as_many_beams_as_items_the_order_is_that_of_scoring_every_item(model, weight, excluded):
    sequences = catalogue(30)
    trie = TokenTrie.build(sequences, vocabulary_size=12)
    ids, mask = prompts(model, [7, 3, 5])
    history = torch.tensor([[0, 5, 5, 9], [1, -1, -1, -1], [-1, -1, -1, -1]]) if excluded else None
    gone = [set(history[row].tolist()) - {-1} if excluded else set() for row in range(3)]
    p = opinions(30, 3)
    p[0, [3, 4]] = 0  # two that it rules out
    for row in range(3):
        p[row, list(gone[row])] = 0  # what may not be found is no reason to look there
    guidance = Guidance(p[:, trie.items], weight)
    found = decode_items(model, trie, ids, mask, num_beams=30, excluded=history, opinions=[guidance])
    for row in range(3):
        scores = exhaustive(model, ids[row][mask[row] == 1], sequences, gone[row])
        expected = guided(scores, p[row].tolist(), weight)
        constant = weight * float(p[row].sum().log())  # of each history
        finite = found.score[row].isfinite()
        assert trie.items[trie.first_item[found.leaf[row][finite]]].tolist() == [item for item, _ in expected]
        theirs = [score - constant for _, score in expected]
        np.testing.assert_allclose(found.score[row][finite], theirs, rtol=1e-4, atol=1e-4)


def test_guidance_worked_by_hand():
    # Items (0, 0) .5, (0, 1) .1, (1, 2) .4: after token 0 rewards 5/6 and 1/6, after 1 only 1. A model that finds all
    # 16 tokens alike gives each item the same, so with weight 1 items score ln .5, ln .1 and ln .4 behind that. One
    # beam keeps prefix 0 (.6) and ends in item 0; the second item there is behind prefix 1's (.4).
    flat = from_scratch(
        VOCABULARY, hidden_size=8, intermediate_size=8, num_layers=2, num_heads=1, dropout=0.0, max_length=32, seed=0
    ).eval()
    with torch.no_grad():
        for parameter in flat.parameters():
            parameter.zero_()
    trie = TokenTrie.build(torch.tensor([[0, 4], [0, 5], [1, 6]]), vocabulary_size=12)
    guidance = Guidance(torch.tensor([[0.5, 0.1, 0.4]], dtype=torch.float64), 1.0)
    steps = guidance(trie, torch.tensor([[1, 2, 3, 4, 5, 0]]))  # the prefixes, the items, the root
    torch.testing.assert_close(steps, torch.tensor([[0.6, 0.4, 0.5, 0.1, 0.4, 1.0]]).log())
    ids, mask = prompts(flat, [3])
    plain = decode_items(flat, trie, ids, mask, num_beams=3).score
    found = decode_items(flat, trie, ids, mask, num_beams=3, opinions=[guidance])
    assert trie.items[trie.first_item[found.leaf[0]]].tolist() == [0, 2, 1]
    torch.testing.assert_close(found.score - plain, torch.tensor([[0.5, 0.4, 0.1]]).log())


def test_guidance_that_finds_all_items_alike_or_weighs_nothing_changes_no_order(model):
    sequences = catalogue(30)
    trie = TokenTrie.build(sequences, vocabulary_size=12)
    ids, mask = prompts(model, [7, 3])
    plain = decode_items(model, trie, ids, mask, num_beams=30)
    for guidance in (Guidance(torch.full((2, 30), 1 / 30), 1.0), Guidance(opinions(30, 2), 0.0)):
        found = decode_items(model, trie, ids, mask, num_beams=30, opinions=[guidance])
        assert torch.equal(found.leaf, plain.leaf)
        expected = plain.score - guidance.weight * np.log(30)
        torch.testing.assert_close(found.score, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("nats", [0.0, 0.7, 40.0])
def test_with_a_penalty_the_order_is_that_of_scoring_every_item_and_taking_it_from_the_history(model, nats):
    sequences = torch.cat([catalogue(30), catalogue(30)[8:9]])  # item 30 has the tokens of item 8
    trie = TokenTrie.build(sequences, vocabulary_size=12)
    ids, mask = prompts(model, [7, 3, 5])
    history = torch.tensor([[0, 5, 5, 8], [30, 8, 1, -1], [-1, -1, -1, -1]])
    penalty = HistoryPenalty(trie, history, nats)
    found = decode_items(model, trie, ids, mask, num_beams=30, opinions=[penalty])
    paying = [{0, 5}, {1, 8}, set()]  # the first user has had one twin of item 8 and item 30, the second both
    for row in range(3):
        scores = dict(exhaustive(model, ids[row][mask[row] == 1], sequences[:30]))
        after = {item: score - nats * (item in paying[row]) for item, score in scores.items()}
        expected = sorted(after.items(), key=lambda pair: (-pair[1], pair[0]))
        assert trie.items[trie.first_item[found.leaf[row]]].tolist() == [item for item, _ in expected]
        np.testing.assert_allclose(found.score[row], [score for _, score in expected], rtol=1e-4, atol=1e-4)


def test_a_penalty_and_guidance_add_up(model):
    trie = TokenTrie.build(catalogue(30), vocabulary_size=12)
    ids, mask = prompts(model, [7, 3])
    history, p = torch.tensor([[0, 5], [1, -1]]), opinions(30, 2)
    guidance, penalty = Guidance(p[:, trie.items], 1.0), HistoryPenalty(trie, history, 2.0)
    found = decode_items(model, trie, ids, mask, num_beams=30, opinions=[guidance, penalty])
    for row in range(2):
        scores = guided(exhaustive(model, ids[row][mask[row] == 1], catalogue(30)), p[row].tolist(), 1.0)
        after = {item: score - 2 * (item in history[row].tolist()) for item, score in scores}
        expected = sorted(after, key=lambda item: (-after[item], item))
        assert trie.items[trie.first_item[found.leaf[row]]].tolist() == expected


def test_every_decoded_item_is_real_and_none_appears_twice(model):
    sequences = catalogue(40, seed=1)
    trie = TokenTrie.build(sequences, vocabulary_size=12)
    ids, mask = prompts(model, [4, 9, 2, 6])
    found = decode_items(model, trie, ids, mask, num_beams=10)
    for row in found.leaf.tolist():
        assert len(set(row)) == 10
        assert set(row) <= set(trie.leaf.tolist())


def test_sequences_of_different_length_are_ranked_together(model):
    # Token 11 ends every sequence, so that none is the beginning of another, as titles do with the end-of-text token.
    sequences = torch.tensor([[0, 11, -1, -1], [0, 1, 11, -1], [2, 1, 3, 11], [3, 11, -1, -1]])
    trie = TokenTrie.build(sequences, vocabulary_size=12)
    ids, mask = prompts(model, [5, 2])
    found = decode_items(model, trie, ids, mask, num_beams=4)
    for row in range(2):
        expected = exhaustive(model, ids[row][mask[row] == 1], [s[s >= 0] for s in sequences])
        assert trie.items[trie.first_item[found.leaf[row]]].tolist() == [item for item, _ in expected]
        np.testing.assert_allclose(found.score[row], [score for _, score in expected], rtol=1e-4, atol=1e-4)


def test_only_beams_that_go_on_are_read(model, monkeypatch):
    # Of the beginnings 0, 2 and 3 all go on; then [0, 11] and [3, 11] have ended, and at last [0, 1, 11].
    sequences = torch.tensor([[0, 11, -1, -1], [0, 1, 11, -1], [2, 1, 3, 11], [3, 11, -1, -1]])
    trie, read = TokenTrie.build(sequences, vocabulary_size=12), []
    extend = SharedCache.extend
    monkeypatch.setattr(
        SharedCache,
        "extend",
        lambda cache, tokens, parent: (read.append(tokens.shape[1]), extend(cache, tokens, parent))[1],
    )
    decode_items(model, trie, *prompts(model, [5]), num_beams=4)
    assert read == [3, 2, 1]


def titles():
    """Long common beginnings, one title within another, different lengths, and one title twice."""
    numbers = ["", " 2", " 3", " II", " III"]
    series = [f"{name}{number}" for name in ("The Godfather", "The Godson", "Alien", "Aliens") for number in numbers]
    return [*series, "A", "Alien"]


@pytest.mark.parametrize("excluded", [(), (0, 10, 20)])
def test_titles_are_ranked_as_scoring_every_title_ranks_them(excluded):
    model = sharp_model([])
    rows = torch.from_numpy(UnwrittenTitles(titles(), max_tokens=30).written_for(model).tokens)
    trie = TokenTrie.build(rows, vocabulary_size=len(model.item_token_ids))
    ids, mask = prompts(model, [6, 3])
    history = torch.tensor([excluded, excluded]) if excluded else None
    found = decode_items(model, trie, ids, mask, num_beams=30, excluded=history)
    for row in range(2):
        scores = exhaustive(model, ids[row][mask[row] == 1], [tokens[tokens >= 0] for tokens in rows], excluded)
        # Item 21 is item 10's twin: one leaf, whose lowest item is listed, and which stays when that is excluded.
        expected = [(10 if item == 21 else item, score) for item, score in scores if item != 21 or 10 in excluded]
        kept = found.score[row].isfinite()
        assert trie.items[trie.first_item[found.leaf[row][kept]]].tolist() == [item for item, _ in expected]
        np.testing.assert_allclose(found.score[row][kept], [score for _, score in expected], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("excluded", [(), (0, 10, 20)])
def test_guided_titles_are_ranked_as_scoring_every_title_ranks_them(excluded):
    model = sharp_model([])
    rows = torch.from_numpy(UnwrittenTitles(titles(), max_tokens=30).written_for(model).tokens)
    trie = TokenTrie.build(rows, vocabulary_size=len(model.item_token_ids))
    ids, mask = prompts(model, [6, 3])
    history = torch.tensor([excluded, excluded]) if excluded else None
    p = opinions(len(rows), 2)
    p[:, list(excluded)] = 0
    found = decode_items(
        model, trie, ids, mask, num_beams=30, excluded=history, opinions=[Guidance(p[:, trie.items], 0.7)]
    )
    for row in range(2):
        scores = exhaustive(model, ids[row][mask[row] == 1], [tokens[tokens >= 0] for tokens in rows], excluded)
        groups = [10 if item == 21 else item for item in range(len(rows))]  # item 21 is item 10's twin
        mass = [sum(float(p[row, i]) for i, other in enumerate(groups) if other == group) for group in groups]
        expected = guided([one for one in scores if one[0] != 21 or 10 in excluded], mass, 0.7)
        kept = found.score[row].isfinite()
        assert trie.items[trie.first_item[found.leaf[row][kept]]].tolist() == [groups[item] for item, _ in expected]
        constant = 0.7 * float(p[row].sum().log())
        np.testing.assert_allclose(
            found.score[row][kept], [score - constant for _, score in expected], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("excluded", [(), (0, 10)])
def test_over_items_a_title_scores_the_product_of_its_tokens_shares_among_those_that_may_follow(excluded, monkeypatch):
    model = sharp_model([])
    rows = torch.from_numpy(UnwrittenTitles(titles()[:-1], max_tokens=30).written_for(model).tokens)
    trie, read = TokenTrie.build(rows, vocabulary_size=len(model.item_token_ids)), []
    ids, mask = prompts(model, [6, 3])
    extend = SharedCache.extend
    monkeypatch.setattr(SharedCache, "extend", lambda *given: (read.append(given[1].shape[1]), extend(*given))[1])
    history = torch.tensor([excluded, excluded]) if excluded else None
    found = decode_items(model, trie, ids, mask, num_beams=30, excluded=history, over="items")
    # "The Godfather" and "The Godson" part at their 8th letter, "Alien" and "Aliens" at their 6th; then come the
    # numbers. Behind the last parting nothing is read: of 14 tokens in " The Godfather" and 4 in " III" at most 17.
    assert len(read) <= 17
    for row in range(2):
        scores = {}
        for item, tokens in enumerate(rows):
            written, node, score = ids[row][mask[row] == 1], 0, 0.0
            for token in tokens[tokens >= 0].tolist():
                children = torch.arange(int(trie.first_child[node]), int(trie.first_child[node + 1]))
                with torch.no_grad():
                    logits = model.causal_network(written[None]).logits[0, -1, model.item_token_ids]
                shares = logits[trie.token[children]].log_softmax(0)
                place = trie.token[children].tolist().index(token)
                node, score = int(children[place]), score + float(shares[place])
                written = torch.cat([written, model.item_token_ids[token][None]])
            scores[item] = score
        assert sum(map(math.exp, scores.values())) == pytest.approx(1, abs=1e-4)
        expected = sorted((-score, item) for item, score in scores.items() if item not in excluded)
        kept = found.score[row].isfinite()
        assert trie.items[trie.first_item[found.leaf[row][kept]]].tolist() == [item for _, item in expected]
        np.testing.assert_allclose(found.score[row][kept], [-score for score, _ in expected], rtol=1e-4, atol=1e-4)


def test_greedy_answers_are_titles_that_follow_the_likeliest_legal_token():
    model = sharp_model([])
    rows = torch.from_numpy(UnwrittenTitles(titles(), max_tokens=30).written_for(model).tokens)
    trie = TokenTrie.build(rows, vocabulary_size=len(model.item_token_ids))
    ids, mask = prompts(model, [6, 6])
    leaves = greedy_leaves(model, trie, ids, mask, torch.tensor([5, 11]))
    for row in range(2):
        node, written = 0, ids[row]
        while trie.first_child[node] < trie.first_child[node + 1]:
            children = torch.arange(int(trie.first_child[node]), int(trie.first_child[node + 1]))
            with torch.no_grad():
                logits = model.causal_network(written[None]).logits[0, -1]
            node = int(children[logits[model.item_token_ids[trie.token[children]]].argmax()])
            written = torch.cat([written, model.item_token_ids[trie.token[node]][None]])
        assert leaves[row] == node


def test_a_prompts_result_does_not_depend_on_its_neighbours(model):
    trie = TokenTrie.build(catalogue(30), vocabulary_size=12)
    ids, mask = prompts(model, [8, 3])
    together = decode_items(model, trie, ids, mask, num_beams=5)
    alone = decode_items(model, trie, ids[1:, 5:], mask[1:, 5:], num_beams=5)
    assert together.leaf[1].tolist() == alone.leaf[0].tolist()
    torch.testing.assert_close(together.score[1], alone.score[0], rtol=1e-4, atol=1e-4)


def test_beams_equal_those_of_transformers_generate_with_a_prefix_constraint(model):
    sequences = catalogue(50, seed=2)
    trie = TokenTrie.build(sequences, vocabulary_size=12)
    ids, mask = prompts(model, [6, 6])
    found = decode_items(model, trie, ids, mask, num_beams=8)
    local_of = {int(token): local for local, token in enumerate(model.item_token_ids)}

    def allowed(_, tokens):
        node = torch.zeros(1, dtype=torch.int64)
        for token in tokens[ids.shape[1] :].tolist():
            node = trie.child(node, torch.tensor([local_of[token]]))
        child, legal = trie.children(node)
        return model.item_token_ids[trie.token[child[legal]]].tolist()

    generated = model.causal_network.generate(
        input_ids=ids,
        attention_mask=mask,
        num_beams=8,
        num_return_sequences=8,
        max_new_tokens=3,
        do_sample=False,
        length_penalty=0.0,
        prefix_allowed_tokens_fn=allowed,
        pad_token_id=model.tokenizer.pad_token_id,
        eos_token_id=None,
    )[:, ids.shape[1] :].view(2, 8, 3)
    tokens = torch.tensor([[[local_of[int(t)] for t in beam] for beam in row] for row in generated])
    assert trie.find(tokens.flatten(0, 1)).view(2, 8).tolist() == found.leaf.tolist()


def test_equal_scores_are_ordered_by_item_index(model):
    # A model without preferences: all weights 0, so that every token has the same probability.
    flat = from_scratch(
        VOCABULARY, hidden_size=8, intermediate_size=8, num_layers=2, num_heads=1, dropout=0.0, max_length=32, seed=0
    ).eval()
    with torch.no_grad():
        for parameter in flat.parameters():
            parameter.zero_()
    sequences = catalogue(16, seed=4)
    trie = TokenTrie.build(sequences, vocabulary_size=12)
    ids, mask = prompts(flat, [3])
    found = decode_items(flat, trie, ids, mask, num_beams=16)
    assert trie.items[trie.first_item[found.leaf[0]]].tolist() == list(range(16))


def test_fewer_items_than_beams_are_all_found_and_nothing_else(model):
    trie = TokenTrie.build(catalogue(3), vocabulary_size=12)
    ids, mask = prompts(model, [3])
    found = decode_items(model, trie, ids, mask, num_beams=20, excluded=torch.tensor([[1, -1]]))
    assert sorted(trie.items[trie.first_item[found.leaf[0][found.score[0].isfinite()]]].tolist()) == [0, 2]
