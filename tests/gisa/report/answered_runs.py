"""Runs on a made-up suite, in the exact shape that src.run leaves behind."""

import json

from src.gisa.dataset.gisa import Gisa
from src.gisa.evaluator.answers import AnswerEvaluator, read_predictions
from src.gisa.task.score import name_of, write_scores
from tests.gisa.gisa_files import question, write_suite

# The human of `gisa_files` searches for "number <id>" and clicks https://example.org/<id>.
QUESTIONS = [
    question(1, "item", topic="rivers", answer=[["amber"]]),
    question(2, "set", topic="comets", stable=False, answer=[["a"], ["b"]]),
    question(3, "list", topic="comets", answer=[["x"], ["y"], ["z"]]),
    question(4, "table", topic="rivers", stable=False, answer=[["A", "B"], ["1", "2"], ["3", "4"]]),
]


def episode(name, prediction, *, sample=0, queries=(), visits=(), tokens=(0, 0, 0, 0), usd=0.0, **changes):
    """A record as ``Episode.record`` makes it; ``tokens`` are those of the chain and of the extractor, in and out."""
    steps = [{"key": "reply/0", "value": {"message": {"role": "assistant"}, "finish_reason": "stop"}}]
    steps += [
        {"key": f"call/{at}/0", "value": {"tool": "search", "query": query, "content": ""}}
        for at, query in enumerate(queries)
    ]
    steps += [
        {"key": f"call/9/{at}", "value": {"tool": "visit", "urls": urls, "content": ""}}
        for at, urls in enumerate(visits)
    ]
    steps += [
        {"key": "call/8/0", "value": {"error": "invalid", "content": "There is no tool."}},
        {"key": "call/8/1", "error": "RequestError: reset"},
    ]
    parts = {"chain": tokens[:2], "extractor": tokens[2:]}
    return {
        "question_id": str(name),
        "sample": sample,
        "outcome": "answered",
        "reason": "",
        "prediction": prediction,
        "counts": {"calls": len(queries) + len(visits), "searches": len(queries), "visits": len(visits)},
        "contaminated": [],
        "spent": {
            part: {"calls": 1, "prompt_tokens": read, "completion_tokens": written, "usd": usd}
            for part, (read, written) in parts.items()
        },
        "seconds": 1.0,
        "opened": ["2026-01-01T00:00:00+00:00"],
        "steps": [{"charges": [], "failures": [], "seconds": 0.1, **step} for step in steps],
        **changes,
    }


# What each is worth is worked out in test_benchmark.py.
EPISODES = [
    episode(
        1, "```tsv\nx\namber\n```", tokens=(1000, 100, 500, 50), usd=0.01,
        queries=["Number 1", "amber number"], visits=[["https://EXAMPLE.org/1/"]],
    ),
    episode(
        2, "```tsv\nx\na\n```", tokens=(3000, 300, 0, 0), usd=0.02,
        queries=["letters"], visits=[["https://example.org/2"], ["https://example.org/9"]],
    ),
    episode(3, "```tsv\nx\nx\nz\ny\n```", tokens=(0, 0, 0, 0)),
    episode(
        4, "", outcome="budget", contaminated=["https://github.com/RUC-NLPIR/GISA"], usd=None,
        queries=["number 4", "number 4 population", "population"], visits=[["https://example.org/4#x"]],
    ),
]  # fmt: skip


def write_answered_run(folder, episodes=EPISODES, questions=QUESTIONS, name="gisa_rollout", seed=1, **config):
    """Write suite, records, scores and result of one finished run."""
    root = folder.parent / "suite"
    if not root.is_dir():
        write_suite(root, questions)
    (folder / "episodes").mkdir(parents=True)
    for record in episodes:
        path = folder / "episodes" / f"{record['question_id']}.{record['sample']}.json"
        path.write_text(json.dumps(record))
    suite, predictions = Gisa(str(root)), read_predictions(folder)
    scores = AnswerEvaluator(resamples=50, seed=1).score(suite, predictions)
    write_scores(scores, suite, predictions, [], folder)
    write_result(folder, suite, scores, name, seed, **config)


def write_result(folder, suite, scores, name="gisa_rollout", seed=1, **config):
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "status": "finished",
        "name": name,
        "seed": seed,
        "metrics": {f"test/{name_of(one)}": one.mean for one in scores.means if not one.part.startswith("topic")},
        "config": {
            "seed": seed,
            "task": {},
            "dataset": {"_target_": "src.gisa.dataset.gisa.Gisa", "root": str(suite.root)},
            **config,
        },
        "overrides": [f"+experiment={name}", f"seed={seed}"],
        "started_at": f"2026-01-01T00:00:{len(list(folder.parent.iterdir())):02d}+00:00",
        "timings_s": {"total": 9.0},
        "evaluated_questions": len(scores.questions),
        "errors": scores.errors(),
        "protocol": {"dataset": f"gisa ({suite.fingerprint[:12]})", "snapshot": None, "sample": 0},
    }
    (folder / "result.json").write_text(json.dumps(result))
