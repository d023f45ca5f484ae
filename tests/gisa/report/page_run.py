"""A scored run as the rollout leaves it, without one. ``python -m tests.gisa.report.page_run FOLDER``."""

import json
import random
import sys
from pathlib import Path

from src.gisa.agent.trajectory import Verdict
from src.gisa.dataset.gisa import Gisa
from src.gisa.evaluator.answers import AnswerEvaluator, read_predictions
from src.gisa.task.score import write_scores
from tests.gisa.gisa_files import answer_of, made_up, write_suite


def line(key, value, tokens=(0, 0), seconds=0.5, **changes):
    charge = {"part": "chain", "prompt_tokens": tokens[0], "completion_tokens": tokens[1], "usd": 0.001}
    charges = [charge] if key.startswith("reply") else []
    return {"key": key, "value": value, "charges": charges, "failures": [], "seconds": seconds, **changes}


def reply(turn, content="", *calls, **fields):
    function = [{"type": "function", "function": {"name": name, "arguments": arguments}} for name, arguments in calls]
    message = {"role": "assistant", "content": content, "tool_calls": function, **fields}
    return line(f"reply/{turn}", {"message": message, "finish_reason": "stop"}, (1000, 50))


def search(turn, query, content, urls=()):
    found = {"tool": "search", "query": query, "content": content, "urls": list(urls), "failed": 0, "cached": 0}
    return line(f"call/{turn}/0", found)


def visit(turn, url, content):
    found = {"tool": "visit", "urls": [url], "goal": "facts", "content": content, "failed": 0, "cached": 0}
    return line(f"call/{turn}/0", found)


def episode(name, steps, prediction, outcome="answered", **changes):
    counts = ("turns", "searches", "urls", "failed_urls", "invalid_calls", "skipped_calls", "cached")
    tools = [(one["value"] or {}).get("tool") for one in steps]
    calls = {"calls": len(tools) - tools.count(None), "searches": tools.count("search"), "visits": tools.count("visit")}
    spent = {"chain": {"calls": 2, "prompt_tokens": 2000, "completion_tokens": 100, "usd": 0.002}}
    return {
        "question_id": str(name), "sample": 0, **vars(Verdict(outcome, "", prediction)), "contaminated": [],
        "counts": {**dict.fromkeys(counts, 0), **calls}, "spent": spent, "seconds": 12.5, "opened": ["then"],
        "steps": steps, **changes,
    }  # fmt: skip


def write_run(folder, suite, episodes):
    """Write records and scores; return the content of ``result.json``."""
    (folder / "episodes").mkdir(parents=True)
    for one in episodes:
        (folder / "episodes" / f"{one['question_id']}.{one['sample']}.json").write_text(json.dumps(one))
    predictions = read_predictions(folder)
    scores = AnswerEvaluator(resamples=20, seed=1).score(suite, predictions)
    write_scores(scores, suite, predictions, [], folder)
    dataset = {
        "_target_": "src.gisa.dataset.gisa.Gisa",
        "root": str(suite.root),
        "show_questions": suite.show_questions,
    }
    result = {
        "status": "finished", "name": "gisa_rollout", "seed": 1, "started_at": "2026-01-01T00:00:00+00:00",
        "overrides": ["+experiment=gisa_rollout"], "commit": "0123456789abcdef", "dirty": False,
        "metrics": {"test/global_em": scores.means[0].mean}, "evaluated_questions": len(suite.questions),
        "protocol": {"dataset": suite.fingerprint, "sample": 0}, "timings_s": {"total": 9.0},
        "config": {"task": {}, "dataset": dataset, "agent": {"policy": {"_target_": "a.ChatEndpoint", "model": "m"}}},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    return result


def write_long_run(folder, *, calls, page_chars, seed=0):
    """Write a run over a suite of the published size; its pages hold random words, as unequally frequent as English."""
    source, questions = random.Random(seed), made_up()
    words = ["".join(source.choices("etaoinshrdlucmfwypvbgkjqxz", k=source.randrange(2, 10))) for _ in range(20_000)]
    text = " ".join(source.choices(words, [1 / (rank + 1) for rank in range(20_000)], k=1_000_000))

    def passage(length):
        start = source.randrange(len(text) - length)
        return text[start : start + length]

    def steps():
        for turn in range(calls):
            yield reply(turn, passage(400), ("visit", json.dumps({"url": [passage(40)], "goal": passage(80)})))
            tool = search if turn % 3 == 0 else visit
            yield tool(turn, passage(40), passage(page_chars // 10 if tool is search else page_chars))
        yield reply(calls, passage(800))

    suite = Gisa(str(write_suite(folder / "suite", questions)), show_questions=True)
    episodes = (episode(one["id"], list(steps()), answer_of(one, source) or "") for one in questions)
    return suite, write_run(folder / "run", suite, episodes)


if __name__ == "__main__":
    write_long_run(Path(sys.argv[1]), calls=int(sys.argv[2]), page_chars=int(sys.argv[3]))
