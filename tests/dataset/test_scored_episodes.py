"""Episodes of records: their scores, BM25 as its formula says, and nothing of the gold answer in what a model sees."""

from math import log

import numpy as np
import pytest
from gisa_files import question, write_suite

from src.dataset.gisa import Gisa
from src.dataset.scored_episodes import score_episodes

GOLD = {
    "1": ("item", [["amber"]]),
    "2": ("set", [["a"], ["b"]]),
    "3": ("table", [["A", "B"], ["1", "2"], ["3", "4"]]),
}


def suite(folder, gold=GOLD):
    made = [
        question(int(name), kind, answer=rows, text=f"Number {name}, please") for name, (kind, rows) in gold.items()
    ]
    return Gisa(str(write_suite(folder, made)))


def record(name, sample, rows, *results):
    calls = [{"tool": "search", "query": "number", "content": text, "urls": []} for text in results]
    steps = [{"key": f"call/{at}/0", "value": call} for at, call in enumerate(calls)]
    text = "\n".join(rows)
    return {"question_id": name, "sample": sample, "prediction": f"```tsv\n{text}\n```", "steps": steps}


def records():
    return {
        "1": [record("1", 0, ["x", "amber"], "number one"), record("1", 1, ["x", "opal"])],
        "2": [record("2", 0, ["x", "a"], "one two", "number number"), record("2", 1, ["x", "b", "a"])],
        "3": [record("3", 0, ["A\tB", "1\t2", "3\t5"]), record("3", 1, ["none"])],
    }


def test_each_attempt_has_its_official_f1_exact_match_and_vote(tmp_path):
    made = score_episodes(suite(tmp_path), records())
    assert [one.question_id for one in made] == ["1", "1", "2", "2", "3", "3"]
    # {a} of {a, b}: 2 * 1 * 0.5 / 1.5; three of four cells of the table, of four given.
    assert [one.f1 for one in made] == pytest.approx([1, 0, 2 / 3, 1, 0.75, 0], abs=1e-4)
    assert [one.exact for one in made] == [1, 0, 0, 1, 0, 0]
    assert [one.vote is None for one in made] == [False] * 5 + [True]
    assert [len(one.states) for one in made] == [len(one.relevance) for one in made] == [3, 2, 4, 2, 2, 2]


def test_relevance_is_bm25_of_the_best_text_so_far(tmp_path):
    made = score_episodes(suite(tmp_path), records())
    texts = {call["value"]["content"] for them in records().values() for one in them for call in one["steps"]}
    answers = {one["prediction"] for them in records().values() for one in them}
    documents = [["\0", *text.replace("```", " ").split()] for text in texts | answers]
    documents = [[word for word in words if len(word) > 1 or word == "\0"] for words in documents]
    length = sum(map(len, documents)) / len(documents)
    among = sum("number" in words for words in documents)
    idf = log(1 + (len(documents) - among + 0.5) / (among + 0.5))

    def bm25(*words):  # k1 = 1.5 and b = 0.75; of the question's words only `number` occurs
        times = words.count("number")
        return idf * times / (times + 1.5 * (0.25 + 0.75 * (1 + len(words)) / length))

    assert made[0].relevance == pytest.approx([0, *[bm25("number", "one")] * 2])
    assert made[2].relevance == pytest.approx([0, 0, *[bm25("number", "number")] * 2])


def test_other_gold_answers_change_scores_and_not_a_bit_of_what_a_model_or_a_baseline_sees(tmp_path):
    other = {"1": ("item", [["opal"]]), "2": ("set", [["c"]]), "3": ("table", [["A", "B"], ["3", "5"], ["7", "7"]])}
    first, second = (
        score_episodes(suite(tmp_path / "a"), records()),
        score_episodes(suite(tmp_path / "b", other), records()),
    )
    assert [one.f1 for one in first] != [one.f1 for one in second]
    for one, two in zip(first, second, strict=True):
        assert one.states.tobytes() == two.states.tobytes()
        assert one.relevance.tobytes() == two.relevance.tobytes()
        assert np.isfinite(one.states).all()
